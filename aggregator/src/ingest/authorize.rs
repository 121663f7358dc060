//! Who may publish where: an agent under its own topics, and nobody anywhere else.

use shared::id::AgentId;
use shared::topic::Topic;

use super::validate::Kind;

/// Why a topic is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Denied {
    /// It is another agent's.
    Foreign,
    /// There is no such topic.
    NoTopic,
}

/// What a publish to `topic` by `agent` is. The agent comes from the certificate.
pub(super) fn authorize(agent: &AgentId, topic: &str) -> Result<Kind, Denied> {
    let topic = Topic::parse(topic).ok_or(Denied::NoTopic)?;
    if topic.agent() != agent {
        return Err(Denied::Foreign);
    }
    Ok(match topic {
        Topic::Batch { lane, .. } => Kind::Batch(lane),
        Topic::Lines { .. } => Kind::Lines,
    })
}

#[cfg(test)]
mod tests {
    use shared::id::Lane;

    use super::*;

    #[test]
    fn own_topics_and_no_others() {
        let agent = AgentId::parse("gw1").unwrap();
        let ask = |topic| authorize(&agent, topic);
        assert_eq!(ask("tributary/v1/gw1/live"), Ok(Kind::Batch(Lane::Live)));
        assert_eq!(ask("tributary/v1/gw1/line"), Ok(Kind::Lines));
        assert_eq!(ask("tributary/v1/gw2/live"), Err(Denied::Foreign));
        assert_eq!(ask("tributary/v1/GW1/live"), Err(Denied::Foreign));
        for none in [
            "tributary/v1/+/live",
            "tributary/v1/gw1/#",
            "$SYS/x",
            "",
            "a/b",
        ] {
            assert_eq!(ask(none), Err(Denied::NoTopic), "{none}");
        }
    }
}
