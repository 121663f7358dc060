//! What an agent follows while it runs: its configuration by difference, its certificates without a
//! restart. A bad file changes nothing and is told.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

use aggregator::pki::Pki;
use aggregator::tls::Role;
use tests::agent::{Agent, AgentUnderTest, Options};
use tests::cluster::{self, Cluster, ClusterUnderTest};
use tests::loopback;
use tests::wait;

const LIMIT: Duration = Duration::from_secs(30);

/// One connection of a device.
struct Device {
    stream: TcpStream,
    answers: BufReader<TcpStream>,
}

impl Device {
    fn connect(intake: SocketAddr) -> std::io::Result<Device> {
        let stream = TcpStream::connect(intake)?;
        stream.set_read_timeout(Some(LIMIT))?;
        let answers = BufReader::new(stream.try_clone()?);
        Ok(Device { stream, answers })
    }

    /// Hands over one reading and gives the answer.
    fn ask(&mut self, seq: i64) -> String {
        let line = format!("reload,device=d seq={seq}i {seq}\n");
        self.stream.write_all(line.as_bytes()).unwrap();
        let mut answer = String::new();
        self.answers.read_line(&mut answer).unwrap();
        answer.trim_end().to_owned()
    }
}

fn alarms(agent: &Agent) -> String {
    agent
        .status()
        .map_or_else(|why| panic!("{why}"), |status| status["alarms"].to_string())
}

fn wait_alarm(agent: &Agent, part: &str) {
    wait::until(&format!("an alarm with {part}"), LIMIT, || {
        alarms(agent).contains(part).then_some(())
    })
    .unwrap_or_else(|late| panic!("{late}; {:?}\n{}", agent.status(), agent.tail()));
}

fn wait_number(agent: &Agent, name: &str, least: f64) {
    wait::until(&format!("{name} is {least}"), LIMIT, || {
        (agent.number(name).ok()? >= least).then_some(())
    })
    .unwrap_or_else(|late| panic!("{late}; {:?}", agent.status()));
}

fn stored(cluster: &Cluster) -> Vec<Option<String>> {
    let rows = cluster
        .client(0)
        .sql("SELECT seq FROM reload ORDER BY seq")
        .unwrap();
    rows.rows.into_iter().flatten().collect()
}

#[test]
fn a_bad_configuration_changes_nothing_and_a_good_one_only_what_differs() {
    let cluster = ClusterUnderTest::start(1);
    let agent = AgentUnderTest::start(&cluster, "gw1");
    let good = fs::read_to_string(&agent.config).unwrap();
    let mut device = Device::connect(agent.line).unwrap();
    assert_eq!(device.ask(1), "ok 1");

    let refused = "config_reloads_refused_total";
    let told = agent.number(refused).unwrap();
    for (bad, part) in [
        (format!("{good}\n[speling]\nkey = 1\n"), "speling"),
        (
            good.replace("linger_ms = 20", "linger_ms = 600001"),
            "batch.linger_ms",
        ),
        (good.replace("id = \"gw1\"", "id = \"gw2\""), "restart"),
    ] {
        assert_ne!(bad, good);
        fs::write(&agent.config, bad).unwrap();
        agent.reload().unwrap();
        wait_alarm(&agent, part);
    }
    assert!(agent.number(refused).unwrap() >= told + 3.0);
    assert_eq!(device.ask(2), "ok 2");
    let log = fs::read_to_string(agent.log()).unwrap();
    assert!(log.contains("batch.linger_ms"), "{log}");

    // Found without a signal.
    let address = loopback::free_port(cluster.address()).unwrap();
    let off = "[intake.health]\nenabled = false\n";
    assert!(good.contains(off));
    let changed = good.replace(off, "[intake.health]\ninterval_ms = 100\n");
    let line = format!("\n[[intake.line]]\nlisten = \"tcp://{address}\"\nack = true\n");
    fs::write(&agent.config, changed + &line).unwrap();
    let mut other = wait::until("the new intake serves", LIMIT, || {
        Device::connect(address).ok()
    })
    .unwrap();
    assert_eq!(other.ask(3), "ok 1");
    assert_eq!(device.ask(4), "ok 3", "an unchanged intake is not touched");
    assert_eq!(alarms(&agent), "[]");
    let own = "SELECT count(*) AS n FROM agent_health WHERE device = 'gw1' AND connected";
    wait::until("the agent tells of itself", LIMIT, || {
        let count = cluster.client(0).value(own).ok()??;
        (count != "0").then_some(())
    })
    .unwrap();

    fs::write(&agent.config, good).unwrap();
    agent.reload().unwrap();
    wait_number(&agent, "config_reloads_total", 2.0);
    agent.wait_drained(LIMIT).unwrap();
    assert_eq!(device.ask(5), "ok 4");
    agent.wait_drained(LIMIT).unwrap();
    let seqs = ["1", "2", "3", "4", "5"].map(|seq| Some(seq.to_owned()));
    assert_eq!(stored(&cluster), seqs);
}

/// The files of an agent's certificate, out of the way so that others can be issued.
fn set_aside(cluster: &Cluster, name: &str, aside: &str) {
    let file = |stem: &str, ending: &str| -> PathBuf {
        cluster.pki_folder().join(format!("{stem}.{ending}"))
    };
    for ending in ["pem", "key"] {
        let from = file(&format!("agent-{name}"), ending);
        fs::rename(from, file(aside, ending)).unwrap();
    }
}

#[test]
fn a_new_certificate_is_used_without_a_restart() {
    let cluster = ClusterUnderTest::start(1);
    let agent = AgentUnderTest::start(&cluster, "gw1");
    let mut device = Device::connect(agent.line).unwrap();
    assert_eq!(device.ask(1), "ok 1");
    agent.wait_drained(LIMIT).unwrap();

    // A key without its certificate is not used.
    let key = cluster.pki_folder().join("agent-gw1.key");
    let own_key = fs::read(&key).unwrap();
    cluster.issue_agent("other").unwrap();
    fs::copy(cluster.pki_folder().join("agent-other.key"), &key).unwrap();
    agent.reload().unwrap();
    wait_number(&agent, "certificate_reloads_refused_total", 1.0);
    wait_alarm(&agent, "the new certificate is not used");
    assert_eq!(device.ask(2), "ok 2");
    agent.wait_drained(LIMIT).unwrap();
    fs::write(&key, own_key).unwrap();

    set_aside(&cluster, "gw1", "agent-old");
    cluster.issue_agent("gw1").unwrap();
    wait_number(&agent, "certificate_reloads_total", 1.0);
    assert_eq!(alarms(&agent), "[]");
    wait_number(&agent, "reconnects_total", 1.0);

    // Who still used the old one would be out for good.
    cluster
        .pki(&["revoke", "agent-old", "--reason", "replaced"])
        .unwrap();
    assert_eq!(device.ask(3), "ok 3");
    agent.wait_drained(LIMIT).unwrap();
    let seqs = ["1", "2", "3"].map(|seq| Some(seq.to_owned()));
    assert_eq!(stored(&cluster), seqs);
    assert_eq!(agent.status().unwrap()["connected"], true);
}

#[test]
fn an_expired_certificate_is_an_alarm_and_readings_are_kept() {
    let mut cluster = ClusterUnderTest::prepare(cluster::Options {
        nodes: 1,
        ..Default::default()
    });
    let options = Options::for_cluster("gw1", &cluster);
    let mut agent = Agent::prepare(&cluster, &options).unwrap();
    set_aside(&cluster, "gw1", "agent-never-used");
    let pki = Pki::open(&cluster.pki_folder()).unwrap();
    pki.issue(Role::Agent, "gw1", &[], 0).unwrap();
    let issued = wait::now();
    cluster.start(&mut |_step| {}).unwrap();
    wait::until("its last second is over", LIMIT, || {
        (issued.elapsed() > Duration::from_secs(2)).then_some(())
    })
    .unwrap();

    agent.run().unwrap();
    wait_alarm(&agent, "certificate expired on 20");
    let mut device = Device::connect(agent.line).unwrap();
    assert_eq!(device.ask(1), "ok 1", "it is kept all the same");
    wait_number(&agent, "pending_readings", 1.0);
    assert!(agent.number("certificate_expires_seconds").unwrap() < 0.0);
    assert_eq!(agent.status().unwrap()["connected"], false);

    set_aside(&cluster, "gw1", "agent-expired");
    cluster.issue_agent("gw1").unwrap();
    wait_number(&agent, "certificate_reloads_total", 1.0);
    agent.wait_drained(LIMIT).unwrap();
    assert_eq!(alarms(&agent), "[]");
    assert_eq!(stored(&cluster), [Some("1".to_owned())]);
}
