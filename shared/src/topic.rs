//! The topics that publishers use: `tributary/v1/<agent>/<lane>` for numbered batches and
//! `tributary/v1/<agent>/line` for Influx line protocol.

use std::fmt;

use crate::id::{AgentId, Lane};

const PREFIX: &str = "tributary/v1/";
const LINES: &str = "line";

/// Where a PUBLISH goes. `Display` writes the topic's text.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Topic {
    /// One encoded batch of a stream of this agent.
    Batch { agent: AgentId, lane: Lane },
    /// Line protocol without numbers: at least once.
    Lines { agent: AgentId },
}

impl Topic {
    /// The topic of that text; `None` if there is no such topic.
    pub fn parse(text: &str) -> Option<Self> {
        let (agent, way) = text.strip_prefix(PREFIX)?.split_once('/')?;
        let agent = AgentId::parse(agent).ok()?;
        if way == LINES {
            return Some(Self::Lines { agent });
        }
        Some(Self::Batch {
            agent,
            lane: Lane::parse(way)?,
        })
    }

    /// Whose topic it is; to be compared with the identity in the certificate.
    pub fn agent(&self) -> &AgentId {
        match self {
            Self::Batch { agent, .. } | Self::Lines { agent } => agent,
        }
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Batch { agent, lane } => write!(f, "{PREFIX}{agent}/{}", lane.as_str()),
            Self::Lines { agent } => write!(f, "{PREFIX}{agent}/{LINES}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_topic_is_read_back() {
        let agent = AgentId::parse("gateway-7").unwrap();
        let lines = Topic::Lines {
            agent: agent.clone(),
        };
        assert_eq!(lines.to_string(), "tributary/v1/gateway-7/line");
        assert_eq!(Topic::parse(&lines.to_string()), Some(lines));
        for lane in Lane::ALL {
            let topic = Topic::Batch {
                agent: agent.clone(),
                lane,
            };
            assert_eq!(Topic::parse(&topic.to_string()).as_ref(), Some(&topic));
            assert_eq!(topic.agent(), &agent);
        }
    }

    #[test]
    fn other_topics_are_none() {
        for bad in [
            "",
            "tributary/v1/",
            "tributary/v1/a",
            "tributary/v1/a/",
            "tributary/v1//live",
            "tributary/v1/a/live/",
            "tributary/v1/a/Live",
            "tributary/v1/a/b/live",
            "tributary/v1/+/live",
            "tributary/v1/a/#",
            "tributary/v2/a/live",
            "/tributary/v1/a/live",
            "tributary/v1/.a/live",
            "tributary/v1/a/lines",
        ] {
            assert_eq!(Topic::parse(bad), None, "{bad:?}");
        }
    }
}
