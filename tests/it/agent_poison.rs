//! T7: a node refuses. Whatever it says, the agent stays connected or comes back once, sets aside what
//! will never be taken and says so in a gap record, waits where it is told to wait, and what stands
//! behind the refused batch is delivered soon.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use shared::batch::{Kind, decode};
use shared::id::Lane;
use shared::verdict::Verdict;

use tests::agent::{AgentUnderTest, Options};
use tests::bulk::Bulk;
use tests::cluster::{self, ClusterUnderTest};
use tests::ledger::Fate;
use tests::source::Source;
use tests::wait;

use crate::fake_node::{Answered, Arrived, FakeNode, Story};

const LIMIT: Duration = Duration::from_secs(60);
/// What stands behind a refused batch has to be there within.
const DELIVERED_WITHIN: Duration = Duration::from_secs(9);
/// The batch that is refused.
const POISON: u64 = 5;
const QUOTA_RETRY_MS: u32 = 700;
/// How often the quota says no.
const QUOTA_REFUSALS: usize = 3;

#[test]
fn a_batch_that_is_refused_for_ever_is_set_aside_and_the_rest_goes_on() {
    let cluster = cluster_that_does_not_run();
    let story = Story {
        answer: |batch| (is_poison(batch) && batch.kind == Kind::Data).then_some(Verdict::Invalid),
        ..Story::default()
    };
    let node = FakeNode::start(&cluster, story);
    let agent = agent_of(&cluster, &node);
    let source = Source::start(agent.line, "d1", 50);
    let gap = await_answered(&node, &agent, "the gap record", |answered| {
        is_poison(&answered.batch) && answered.batch.kind == Kind::Gap
    });
    assert_eq!(gap.verdict, Verdict::Ok);
    assert!(gap.batch.readings_lost > 0, "{gap:?}");
    let refused = first(&node, |answered| is_poison(&answered.batch)).unwrap();
    await_behind(&node, &agent, refused.at);
    source.stop();
    assert!(node.sessions() <= 2, "{} sessions", node.sessions());

    let dead = dead_letters(&agent);
    assert_eq!(dead.len(), 1, "one batch was refused: {dead:?}");
    let kept = decode(&fs::read(&dead[0]).unwrap()).unwrap();
    assert_eq!(kept.header.number.0, POISON);
    await_number(&agent, "dead_letters_total", 1.0);
    let lost = gap.batch.readings_lost;
    await_number(&agent, "readings_lost_total", lost as f64);
}

#[test]
fn a_quota_is_waited_for_without_a_disconnect() {
    let cluster = cluster_that_does_not_run();
    let story = Story {
        answer: |batch| {
            (is_poison(batch) && batch.before < QUOTA_REFUSALS).then_some(Verdict::Quota {
                retry_ms: QUOTA_RETRY_MS,
            })
        },
        ..Story::default()
    };
    let node = FakeNode::start(&cluster, story);
    let agent = agent_of(&cluster, &node);
    let source = Source::start(agent.line, "d1", 50);
    let taken = await_answered(&node, &agent, "the batch over the quota", |answered| {
        is_poison(&answered.batch) && answered.verdict == Verdict::Ok
    });
    await_behind(&node, &agent, taken.at);
    source.stop();
    assert_eq!(taken.batch.before, QUOTA_REFUSALS);
    assert_eq!(node.sessions(), 1, "a quota is no reason to come again");
    let answered = node.answered();
    let times: Vec<Instant> = answered
        .iter()
        .filter(|answered| is_poison(&answered.batch))
        .map(|answered| answered.at)
        .collect();
    for pair in times.windows(2) {
        let pause = pair[1] - pair[0];
        assert!(
            pause >= Duration::from_millis(u64::from(QUOTA_RETRY_MS)),
            "sent again after {pause:?}"
        );
    }
    assert!(dead_letters(&agent).is_empty());
}

#[test]
fn a_topic_that_is_refused_is_an_alarm_and_not_a_loop() {
    let cluster = cluster_that_does_not_run();
    let story = Story {
        answer: |batch| (is_poison(batch) && batch.before == 0).then_some(Verdict::ForeignTopic),
        ..Story::default()
    };
    let node = FakeNode::start(&cluster, story);
    let agent = agent_of(&cluster, &node);
    let source = Source::start(agent.line, "d1", 50);
    let refused = await_answered(&node, &agent, "the refusal", |answered| {
        answered.verdict == Verdict::ForeignTopic
    });
    wait::until("an alarm that names the topic", LIMIT, || {
        let status = agent.status().ok()?;
        let said = status["last_error"].as_str()?.contains("topic");
        said.then_some(())
    })
    .unwrap();
    let taken = await_answered(&node, &agent, "the batch, once it is allowed", |answered| {
        is_poison(&answered.batch) && answered.verdict == Verdict::Ok
    });
    // Only an operator can help, so it is not asked at once.
    assert!(taken.at - refused.at >= Duration::from_secs(1));
    await_behind(&node, &agent, taken.at);
    source.stop();
    assert!(node.sessions() <= 2, "{} sessions", node.sessions());
    assert!(dead_letters(&agent).is_empty());
}

#[test]
fn a_batch_over_the_servers_packet_size_is_set_aside_and_the_rest_goes_on() {
    let cluster = cluster_that_does_not_run();
    let story = Story {
        packet_bytes_max: Some(20_000),
        ..Story::default()
    };
    let node = FakeNode::start(&cluster, story);
    let agent = agent_of(&cluster, &node);
    // Lines that come together share a batch: more than the server takes.
    let large = Bulk {
        device: "large".to_owned(),
        count: 8,
        start_ns: 1_767_225_600_000_000_000,
        step_ns: 1_000_000_000,
        pad_bytes: 16_000,
    };
    let ledger = large.hand_over(agent.line).unwrap();
    // Who is refused before the batch was on disk is told so.
    let told = [Fate::Kept, Fate::Refused].map(|fate| ledger.count(fate));
    assert_eq!(told.iter().sum::<usize>(), 8, "{told:?}");
    let start = wait::now();
    let source = Source::start(agent.line, "d1", 50);
    await_answered(&node, &agent, "the gap record", |answered| {
        answered.batch.kind == Kind::Gap && answered.verdict == Verdict::Ok
    });
    await_behind(&node, &agent, start);
    source.stop();
    assert!(node.sessions() <= 2, "{} sessions", node.sessions());
    assert!(!dead_letters(&agent).is_empty());
}

#[test]
fn a_server_that_closes_after_connack_is_not_called_in_a_tight_loop() {
    let cluster = cluster_that_does_not_run();
    let story = Story {
        closes_after_connack: true,
        ..Story::default()
    };
    let node = FakeNode::start(&cluster, story);
    let agent = agent_of(&cluster, &node);
    wait::until("three sessions", LIMIT, || {
        (node.sessions() >= 3).then_some(())
    })
    .unwrap();
    // The rest doubles from 0.1 s to 5 s; on average half of it is waited.
    let before = node.sessions();
    let time = Duration::from_secs(10);
    let _ = wait::never(time, || (node.sessions() > before + 30).then_some(()));
    let came = node.sessions() - before;
    eprintln!("{came} sessions in {time:?}");
    assert!((1..=20).contains(&came), "{came} sessions in {time:?}");
    assert!(agent.status().is_ok(), "{}", agent.tail());
}

fn is_poison(batch: &Arrived) -> bool {
    batch.lane == Lane::Live && batch.to == POISON
}

/// Certificates and addresses; the node is a fake one.
fn cluster_that_does_not_run() -> ClusterUnderTest {
    ClusterUnderTest::prepare(cluster::Options {
        nodes: 1,
        ..cluster::Options::default()
    })
}

fn agent_of(cluster: &ClusterUnderTest, node: &FakeNode) -> AgentUnderTest {
    let options = Options {
        servers: vec![node.address()],
        ..Options::for_cluster("gw1", cluster)
    };
    AgentUnderTest::start_with(cluster, &options)
}

fn first(node: &FakeNode, is_it: impl Fn(&Answered) -> bool) -> Option<Answered> {
    node.answered().into_iter().find(is_it)
}

fn await_answered(
    node: &FakeNode,
    agent: &AgentUnderTest,
    what: &str,
    is_it: impl Fn(&Answered) -> bool,
) -> Answered {
    wait::until(what, LIMIT, || first(node, &is_it))
        .unwrap_or_else(|late| panic!("{late}; {:?}\n{}", agent.status(), agent.tail()))
}

/// Waits for ten batches of data behind the refused one, the first of them soon after `since`.
fn await_behind(node: &FakeNode, agent: &AgentUnderTest, since: Instant) {
    let behind = |answered: &Answered| {
        answered.batch.lane != Lane::Names
            && answered.batch.kind == Kind::Data
            && answered.verdict == Verdict::Ok
            && answered.at > since
    };
    wait::until("ten batches behind the refused one", LIMIT, || {
        let answered = node.answered();
        (answered.iter().filter(|one| behind(one)).count() >= 10).then_some(())
    })
    .unwrap_or_else(|late| panic!("{late}; {:?}\n{}", agent.status(), agent.tail()));
    let delivered = first(node, behind).unwrap();
    let took = delivered.at - since;
    assert!(took <= DELIVERED_WITHIN, "{took:?}");
}

fn await_number(agent: &AgentUnderTest, name: &str, value: f64) {
    wait::until(&format!("{name} is {value}"), LIMIT, || {
        (agent.number(name) == Ok(value)).then_some(())
    })
    .unwrap_or_else(|late| panic!("{late}; {:?}", agent.status()));
}

fn dead_letters(agent: &AgentUnderTest) -> Vec<PathBuf> {
    let entries = fs::read_dir(agent.data_dir.join("dead-letters")).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}
