//! Says which agents make more than they may: one line for an agent and quota an hour, not one a row.

use std::collections::BTreeMap;
use std::time::Duration;

use shared::id::AgentId;

use crate::state::{Catalog, Quota};

const LOOK_EVERY: Duration = Duration::from_secs(10);
const SAY_EVERY: Duration = Duration::from_secs(3_600);
/// Lines of one look; the others follow with the next.
const LINES_MAX: usize = 20;

/// What was said.
#[derive(Debug, Default)]
pub(super) struct QuotasTold {
    looked: Option<Duration>,
    /// When last, if this node did, and how many refusals there were then. As many as there are agents
    /// that make something.
    said: BTreeMap<(AgentId, Quota), (Option<Duration>, u64)>,
}

/// An agent that was refused something since it was last said.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Over {
    agent: AgentId,
    quota: Quota,
    made: u32,
    refused: u64,
}

impl QuotasTold {
    /// `now`: since any start.
    pub(super) fn look(&mut self, catalog: &Catalog, now: Duration) {
        for Over {
            agent,
            quota,
            made,
            refused,
        } in self.due(catalog, now)
        {
            tracing::warn!(
                %agent,
                made,
                refused,
                "an agent has made as many {} as it may: more goes to quarantine. Let it name fewer, \
                 or raise quotas.{} on every node and restart the agent",
                quota.as_str(),
                quota.key()
            );
        }
    }

    fn due(&mut self, catalog: &Catalog, now: Duration) -> Vec<Over> {
        let rests = |since: Duration, time| now.saturating_sub(since) < time;
        if self.looked.is_some_and(|looked| rests(looked, LOOK_EVERY)) {
            return Vec::new();
        }
        // What was refused before this node began was said before.
        let is_first = self.looked.replace(now).is_none();
        let mut due = Vec::new();
        for (agent, known) in catalog.made() {
            for quota in Quota::ALL {
                let (made, refused) = (known.of(quota), known.refused(quota));
                if refused == 0 {
                    continue;
                }
                let said = self.said.get(&(agent.clone(), quota));
                let is_old = said.is_some_and(|(at, before)| {
                    *before == refused || at.is_some_and(|at| rests(at, SAY_EVERY))
                });
                if is_old || due.len() >= LINES_MAX {
                    continue;
                }
                let at = (!is_first).then_some(now);
                self.said.insert((agent.clone(), quota), (at, refused));
                if !is_first {
                    due.push(Over {
                        agent: agent.clone(),
                        quota,
                        made,
                        refused,
                    });
                }
            }
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use shared::id::TimeNs;

    use super::*;
    use crate::state::{Command, Origin, Payload, Quotas, State, Submission, Wish};

    #[test]
    fn an_agent_is_named_once_an_hour_while_it_goes_on() {
        let mut state = State::new();
        let quotas = Quotas::default().with(Quota::Tables, Some(1));
        let lines = |line: &'static str| {
            Command::Submissions(vec![Submission {
                origin: Origin { boot: 1, ticket: 1 },
                agent: AgentId::parse("gw").unwrap(),
                received: TimeNs(1),
                payload: Payload::Lines(Bytes::from_static(line.as_bytes())),
            }])
        };
        let mut index = 0;
        let mut apply = |state: &mut State, command: Command| {
            index += 1;
            state.apply(index, &command);
        };
        apply(
            &mut state,
            Command::Admit {
                name: "a".to_owned(),
                address: "h:1".to_owned(),
                joining: 1,
            },
        );
        let wish = Wish::default().with_quotas(quotas);
        apply(&mut state, Command::Settings { node: 1, wish });
        apply(&mut state, lines("a f=1"));
        let mut told = QuotasTold::default();
        let mut at = |state: &State, s: u64| {
            let due = told.due(state.catalog(), Duration::from_secs(s));
            due.iter().map(|over| over.refused).collect::<Vec<_>>()
        };
        assert!(at(&state, 0).is_empty());
        apply(&mut state, lines("b f=1"));
        assert!(at(&state, 1).is_empty(), "it was just looked");
        assert_eq!(at(&state, 11), [1]);
        apply(&mut state, lines("c f=1"));
        assert!(at(&state, 60).is_empty());
        assert_eq!(at(&state, 3_700), [2]);
        assert!(at(&state, 9_000).is_empty(), "nothing more was refused");
    }
}
