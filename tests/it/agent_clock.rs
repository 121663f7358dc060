//! T5: gateways whose clock is wrong. They connect whatever they think the time is, and the times of
//! their readings are right within a second, or are so once the time is known.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use tests::agent::{AgentUnderTest, Options};
use tests::clock::{self, Clock};
use tests::cluster::ClusterUnderTest;
use tests::skip::skip;
use tests::source::wall_clock_ns;

use crate::agent_link::await_connected;

const LIMIT: Duration = Duration::from_secs(60);
const ERROR_NS_MAX: i64 = 1_000_000_000;
const NS_PER_SECOND: i64 = 1_000_000_000;
const TEN_YEARS_SECONDS: i64 = 10 * 365 * 86_400;
/// Lines of one clock's setting.
const LINES: i64 = 10;

#[test]
fn gateways_with_a_wrong_clock_connect_and_their_readings_have_the_right_time() {
    let library = match clock::library() {
        Ok(library) => library,
        Err(reason) => return skip(&reason),
    };
    let cluster = ClusterUnderTest::start(1);
    let to_1970 = 10 - wall_clock_ns() / NS_PER_SECOND;
    for (name, offset) in [("boots-in-1970", to_1970), ("ahead", TEN_YEARS_SECONDS)] {
        let clock = clock(&cluster, name, offset);
        let agent = start(&cluster, name, &library, &clock);
        // Before the time can be known, and after.
        let before_ns = read(&agent, 1);
        await_connected(&agent);
        let slowest_ns = before_ns.max(read(&agent, 1 + LINES));
        agent.wait_drained(LIMIT).unwrap();
        check(&cluster, name, 2 * LINES, slowest_ns);
    }
}

#[test]
fn a_clock_that_steps_neither_loses_nor_moves_readings() {
    let library = match clock::library() {
        Ok(library) => library,
        Err(reason) => return skip(&reason),
    };
    let cluster = ClusterUnderTest::start(1);
    let clock = clock(&cluster, "steps", 0);
    let agent = start(&cluster, "steps", &library, &clock);
    await_connected(&agent);
    let mut slowest_ns = 0;
    for (nth, offset) in (0..).zip([0, -3_600, 0, 3_600, 0]) {
        clock.step(offset);
        slowest_ns = slowest_ns.max(read(&agent, 1 + nth * LINES));
    }
    agent.wait_drained(LIMIT).unwrap();
    check(&cluster, "steps", 5 * LINES, slowest_ns);
}

fn clock(cluster: &ClusterUnderTest, name: &str, ahead_seconds: i64) -> Clock {
    let file = cluster.folder().join(format!("clock-{name}"));
    Clock::set(file, ahead_seconds)
}

fn start(cluster: &ClusterUnderTest, name: &str, library: &Path, clock: &Clock) -> AgentUnderTest {
    let options = Options {
        environment: clock.environment(library),
        ..Options::for_cluster(name, cluster)
    };
    AgentUnderTest::start_with(cluster, &options)
}

/// Hands lines over that have no time, and say when they really were: the agent stamps them.
/// Returns how long it took at most until one was answered, in ns.
fn read(agent: &AgentUnderTest, first: i64) -> i64 {
    let mut device = TcpStream::connect(agent.line).unwrap();
    device.set_read_timeout(Some(LIMIT)).unwrap();
    let mut answers = BufReader::new(device.try_clone().unwrap()).lines();
    let mut slowest_ns = 0;
    for seq in first..first + LINES {
        let name = &agent.name;
        let truth = wall_clock_ns();
        let line = format!("clock,device={name} seq={seq}i,truth={truth}i\n");
        device.write_all(line.as_bytes()).unwrap();
        let answer = answers.next().unwrap().unwrap();
        assert!(answer.starts_with("ok "), "{answer}");
        slowest_ns = slowest_ns.max(wall_clock_ns() - truth);
    }
    slowest_ns
}

/// The agent stamps between `truth` and its answer, for which it took `slowest_ns` at most.
fn check(cluster: &ClusterUnderTest, device: &str, readings: i64, slowest_ns: i64) {
    let statement = format!(
        "SELECT count(*) AS n, count(DISTINCT seq) AS d, \
         max(abs(CAST(time AS BIGINT) - truth)) AS error FROM clock WHERE device = '{device}'"
    );
    let table = cluster.client(0).sql(&statement).unwrap();
    let number = |name: &str| -> i64 { table.column(name)[0].unwrap().parse().unwrap() };
    assert_eq!((number("n"), number("d")), (readings, readings));
    let error_ns = number("error");
    eprintln!("{device}: times are wrong by {error_ns} ns at most");
    assert!(
        error_ns <= ERROR_NS_MAX + slowest_ns,
        "{device}: {error_ns} ns"
    );
}
