//! Caps, hours, quotas, and what is too large to be sent.

use super::*;

fn with(agent: &mut Agent, options: WindowOptions) {
    agent.window = Window::new(options);
}

/// Everything that can be sent and answered now is.
fn exchange(agent: &mut Agent, cluster: &mut Cluster) -> usize {
    let mut bytes = 0;
    while agent.send() {
        bytes += agent
            .wire
            .iter()
            .map(|(_, batch)| batch.len())
            .sum::<usize>();
        agent.arrive(cluster);
        agent.hear();
    }
    bytes
}

#[test]
fn a_cap_spreads_what_is_sent_over_time() {
    let disk = SimStorage::new(41);
    let mut cluster = Cluster::default();
    let mut agent = Agent::start(&disk, 1);
    let options = WindowOptions {
        bytes_per_second_max: 1_000,
        ..WINDOW
    };
    with(&mut agent, options);
    for value in 0..30 {
        agent.seal_wide(value * 100..(value + 1) * 100);
        agent.sync();
    }
    agent.connect(&cluster);
    let mut bytes = 0;
    while agent.buffer.readings_pending() > 0 {
        bytes += exchange(&mut agent, &mut cluster);
        let wake_at = agent.window.wake_at(agent.now);
        agent.now = wake_at.unwrap_or(agent.now + Duration::from_millis(10));
    }
    assert_eq!(cluster.rows.len(), 3_000);
    let seconds = usize::try_from(agent.now.as_secs()).unwrap();
    assert!(bytes > 20_000, "{bytes}");
    assert!(seconds + 2 >= bytes / 1_000, "{bytes} in {seconds} s");
    assert!(seconds <= bytes / 1_000 + 1, "{bytes} in {seconds} s");
}

#[test]
fn outside_its_hours_the_backlog_waits_and_live_readings_do_not() {
    let disk = SimStorage::new(42);
    let mut cluster = Cluster::default();
    let mut agent = Agent::start(&disk, 1);
    agent.seal(0..1, true);
    agent.sync();
    drop(agent);
    disk.power_cut();
    let mut agent = Agent::start(&disk, 2);
    let options = WindowOptions {
        backlog_hours: Hours::parse(&["12:00-13:00".to_owned()]).unwrap(),
        ..WINDOW
    };
    with(&mut agent, options);
    for value in 1..41 {
        agent.seal(value..value + 1, true);
        agent.sync();
    }
    agent.connect(&cluster);
    exchange(&mut agent, &mut cluster);
    assert_eq!(cluster.rows, [1, 2, 3, 4], "what went into the live lane");
    agent.now = Duration::from_secs(11 * 3_600);
    agent.seal(41..42, true);
    exchange(&mut agent, &mut cluster);
    assert_eq!(cluster.rows.last(), Some(&41));
    assert_eq!(cluster.rows.len(), 5);
    agent.now = Duration::from_secs(12 * 3_600);
    agent.talk(&mut cluster);
    check(&cluster, &(0..42).collect(), 0);
}

#[test]
fn a_quota_lets_its_stream_rest_and_costs_no_session() {
    let disk = SimStorage::new(43);
    let mut cluster = Cluster::default();
    let mut agent = Agent::start(&disk, 1);
    agent.connect(&cluster);
    agent.seal(0..1, false);
    agent.talk(&mut cluster);
    for value in 1..4 {
        agent.seal(value..value + 1, false);
    }
    for retry_ms in [1_500, u32::MAX] {
        let from = agent.now;
        while agent.send() {}
        assert_eq!(agent.wire.len(), 3, "from the refused one on");
        let (id, _) = agent.wire.pop_front().unwrap();
        agent.answers.push_back((id, Verdict::Quota { retry_ms }));
        for (id, _) in agent.wire.drain(..) {
            let busy = Verdict::Busy { retry_ms: 200 };
            agent.answers.push_back((id, busy));
        }
        for _ in 0..3 {
            agent.hear();
        }
        assert!(!agent.send());
        let rest = Duration::from_millis(u64::from(retry_ms)).min(REST_MAX);
        assert_eq!(agent.window.wake_at(agent.now), Some(from + rest));
        agent.now = from + rest.saturating_sub(Duration::from_millis(1));
        assert!(!agent.send());
        agent.now = from + rest;
    }
    agent.talk(&mut cluster);
    assert_eq!(cluster.rows, [0, 1, 2, 3]);
    assert_eq!(agent.alarms, []);
}

#[test]
fn what_no_packet_of_the_server_holds_is_given_up_unsent() {
    let disk = SimStorage::new(44);
    let mut cluster = Cluster::default();
    let mut agent = Agent::start(&disk, 1);
    let outcome = agent
        .window
        .connected(agent.now, &[], Some(2_000), &mut agent.buffer);
    assert_eq!(outcome, Outcome::default());
    agent.seal(0..1, false);
    agent.seal_wide(100..600);
    agent.seal(1..2, false);
    let sent = exchange(&mut agent, &mut cluster);
    assert!(sent < 2_000, "{sent}");
    assert_eq!(cluster.rows, [0, 1]);
    assert_eq!(cluster.gaps, [(GapReason::Refused, 2, 2)]);
    assert_eq!((agent.lost, agent.resent), (500, 0));
    assert_eq!(agent.buffer.readings_pending(), 0);
}

#[test]
fn a_session_that_ended_over_a_packet_gives_up_that_batch_alone() {
    let disk = SimStorage::new(45);
    let mut cluster = Cluster::default();
    let mut agent = Agent::start(&disk, 1);
    agent.connect(&cluster);
    agent.seal(0..1, false);
    exchange(&mut agent, &mut cluster);
    agent.seal_wide(100..600);
    agent.seal(1..2, false);
    while agent.send() {}
    agent.window.packet_refused();
    assert!(!agent.send());
    agent.connect(&cluster);
    agent.talk(&mut cluster);
    assert_eq!(cluster.rows, [0, 1]);
    assert_eq!(cluster.gaps, [(GapReason::Refused, 2, 2)]);
    assert_eq!(agent.lost, 500);
}
