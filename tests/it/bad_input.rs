//! Each kind of bad input gets a clear refusal that says what to do; what was acknowledged stays.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use tests::agent::{Agent, AgentUnderTest, Options};
use tests::cluster::{self, Cluster, ClusterUnderTest};
use tests::process::{self, Process};
use tests::wait;

use crate::mqtt::{self, Client, Identity};

const LIMIT: Duration = Duration::from_secs(30);
const NOT_AUTHORIZED: u8 = 0x87;
const TOPIC_INVALID: u8 = 0x90;
const TOO_LARGE: u8 = 0x95;
const PAYLOAD_INVALID: u8 = 0x99;

#[test]
fn hostile_clients_are_refused_and_the_rest_goes_on() {
    let cluster = ClusterUnderTest::start(1);
    for agent in ["gw1", "gw2"] {
        cluster.issue_agent(agent).unwrap();
    }
    let pki = cluster.pki_folder();
    let server = cluster.nodes()[0].mqtt;
    let known = |name| Identity {
        trust: &pki,
        folder: &pki,
        name,
    };
    let mut good = Client::connect(server, &known("agent-gw1")).unwrap();
    let line = |seq: i64| format!("probe,device=p seq={seq}i {seq}\n");
    assert_eq!(
        good.ask("tributary/v1/gw1/line", 1, line(1).as_bytes())
            .unwrap(),
        0
    );

    strangers(&cluster);

    let mut bad = Client::connect(server, &known("agent-gw2")).unwrap();
    let mut code = |topic: &str, payload: &[u8]| bad.ask(topic, 9, payload).unwrap();
    assert_eq!(
        code("tributary/v1/gw1/line", line(2).as_bytes()),
        NOT_AUTHORIZED,
        "foreign"
    );
    assert_eq!(code("tributary/v1/gw2/nonsense", b""), TOPIC_INVALID);
    assert_eq!(
        code("tributary/v1/gw2/live", b"no batch at all"),
        PAYLOAD_INVALID,
        "corrupt"
    );
    let mut batch = b"TB\x01\x00".to_vec();
    batch.resize(100, 0);
    assert_eq!(
        code("tributary/v1/gw2/live", &batch),
        PAYLOAD_INVALID,
        "checksum"
    );
    batch[2] = 99;
    assert_eq!(
        code("tributary/v1/gw2/live", &batch),
        PAYLOAD_INVALID,
        "unknown version"
    );
    assert_eq!(
        code("tributary/v1/gw2/line", b"no line protocol\n"),
        PAYLOAD_INVALID
    );

    // Announces more than a packet may hold: no need to send it.
    let mut large = Client::connect(server, &known("agent-gw2")).unwrap();
    large.send(&mqtt::publish_header(2 << 20)).unwrap();
    let answer = large.receive(LIMIT).unwrap().expect("a DISCONNECT");
    assert_eq!(answer.disconnect(), Some(TOO_LARGE), "{answer:?}");

    // The well-behaved session has seen nothing of all that.
    assert_eq!(
        good.ask("tributary/v1/gw1/line", 2, line(3).as_bytes())
            .unwrap(),
        0
    );
    let rows = cluster
        .client(0)
        .sql("SELECT seq FROM probe ORDER BY seq")
        .unwrap();
    assert_eq!(rows.column("seq"), [Some("1"), Some("3")]);
    let log = fs::read_to_string(cluster.log(0)).unwrap();
    assert!(
        log.contains("gw2"),
        "no log line names the client that was refused:\n{log}"
    );
}

/// Certificates of another cluster, and of another role.
fn strangers(cluster: &Cluster) {
    let foreign = tempfile::tempdir().unwrap();
    let aggregator = &cluster.binaries().aggregator;
    for arguments in [
        &["init", "--cluster", cluster::CLUSTER][..],
        &["agent", "gw1"],
    ] {
        let mut command = Command::new(aggregator);
        process::run(
            command
                .arg("pki")
                .args(arguments)
                .arg("--dir")
                .arg(foreign.path()),
        )
        .unwrap();
    }
    let pki = cluster.pki_folder();
    let user = format!("user-{}", cluster::USER);
    for (folder, name) in [
        (foreign.path(), "agent-gw1"),
        (pki.as_path(), user.as_str()),
    ] {
        let identity = Identity {
            trust: &pki,
            folder,
            name,
        };
        let refused = Client::connect(cluster.nodes()[0].mqtt, &identity);
        assert!(
            refused.is_err(),
            "{name} of {} was let in",
            folder.display()
        );
    }
}

#[test]
fn a_revoked_agent_is_out_while_it_is_connected() {
    let cluster = ClusterUnderTest::start(1);
    cluster.issue_agent("gw1").unwrap();
    let pki = cluster.pki_folder();
    let identity = Identity {
        trust: &pki,
        folder: &pki,
        name: "agent-gw1",
    };
    let mut client = Client::connect(cluster.nodes()[0].mqtt, &identity).unwrap();
    assert_eq!(
        client
            .ask("tributary/v1/gw1/line", 1, b"probe seq=1i 1\n")
            .unwrap(),
        0
    );

    cluster
        .pki(&["revoke", "agent-gw1", "--reason", "stolen"])
        .unwrap();
    wait::until("the session is closed", LIMIT, || {
        client
            .receive(Duration::from_millis(200))
            .is_err()
            .then_some(())
    })
    .unwrap();
    assert!(Client::connect(cluster.nodes()[0].mqtt, &identity).is_err());
}

#[test]
fn devices_that_change_their_mind_lose_nothing_else() {
    let cluster = ClusterUnderTest::start(1);
    let agent = AgentUnderTest::start(&cluster, "gw1");
    let mut device = TcpStream::connect(agent.line).unwrap();
    device
        .write_all(
            b"odd,device=d1 value=1i 1\n\
              odd,device=d1 value=NaN 2\n\
              odd,device=d1 value=\"text now\" 3\n\
              no line protocol\n\
              odd,device=d1 value=2.5 5\n",
        )
        .unwrap();
    let answers: Vec<_> = BufReader::new(device)
        .lines()
        .take(5)
        .map(Result::unwrap)
        .collect();
    let words: Vec<_> = answers
        .iter()
        .map(|answer| answer.split(' ').next().unwrap())
        .collect();
    assert_eq!(words, ["ok", "error", "ok", "error", "ok"], "{answers:?}");
    assert!(
        answers[3].contains("column"),
        "an error says where: {answers:?}"
    );
    agent.wait_drained(LIMIT).unwrap();

    let client = cluster.client(0);
    let stored = client
        .sql("SELECT CAST(time AS BIGINT) AS ns FROM odd WHERE value IS NOT NULL ORDER BY time")
        .unwrap();
    // 1 widened to a float, as every stored integer fits one.
    assert_eq!(stored.column("ns"), [Some("1"), Some("5")]);
    let aside = client.sql("SELECT * FROM quarantine").unwrap();
    let shown = format!("{:?}", aside.rows);
    assert!(
        aside.rows.len() == 1 && shown.contains("text now"),
        "{shown}"
    );
}

#[test]
fn configurations_are_refused_with_file_line_and_key() {
    let cluster = ClusterUnderTest::prepare(cluster::Options {
        nodes: 1,
        ..Default::default()
    });
    let agent = Agent::prepare(&cluster, &Options::for_cluster("gw1", &cluster)).unwrap();
    let node_file = &cluster.nodes()[0].config;
    let aggregator = cluster.binaries().aggregator.display();
    let tributary_agent = cluster.binaries().agent.display();
    for (file, command) in [
        (
            node_file,
            format!("{aggregator} check --config {}", node_file.display()),
        ),
        (
            &agent.config,
            format!("{tributary_agent} check {}", agent.config.display()),
        ),
    ] {
        let check = || process::run(Command::new("sh").args(["-c", &command]));
        check().unwrap();
        let good = fs::read_to_string(file).unwrap();
        fs::write(file, format!("{good}\n[speling]\nkey = 1\n")).unwrap();
        let refused = check().expect_err("an unknown table");
        let line = good.lines().count() + 2;
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        for part in ["speling", name.as_str(), &format!("line {line}")] {
            assert!(refused.contains(part), "{part} in {refused}");
        }
    }
}

#[test]
fn a_port_in_use_is_named() {
    let mut cluster = ClusterUnderTest::prepare(cluster::Options {
        nodes: 1,
        ..Default::default()
    });
    let taken = cluster.nodes()[0].http;
    let _holder = TcpListener::bind(taken).unwrap();
    let failed = cluster
        .start(&mut |_step| {})
        .expect_err("the port is in use");
    assert!(failed.contains(&taken.to_string()), "{failed}");

    let mut agent = Agent::prepare(&cluster, &Options::for_cluster("gw1", &cluster)).unwrap();
    let _holder = TcpListener::bind(agent.line).unwrap();
    let failed = agent.run().expect_err("the port is in use");
    assert!(failed.contains(&agent.line.to_string()), "{failed}");
}

#[test]
fn a_node_that_advertises_the_address_of_another_is_refused() {
    let mut cluster = ClusterUnderTest::prepare(cluster::Options::default());
    let taken = cluster.nodes()[0].cluster.to_string();
    let file = cluster.nodes()[2].config.clone();
    let good = fs::read_to_string(&file).unwrap();
    let told = format!("[listen]\ncluster_advertised = \"{taken}\"");
    fs::write(&file, good.replace("[listen]", &told)).unwrap();
    let refused = cluster
        .start(&mut |_step| {})
        .expect_err("the address is that of the first node");
    for part in ["node c", taken.as_str(), "is that of node \"a\""] {
        assert!(refused.contains(part), "{part} in {refused}");
    }
    // The two that the cluster has go on.
    for node in [0, 1] {
        cluster.client(node).sql("SELECT 1").unwrap();
    }
}

#[test]
fn a_node_without_the_others_says_so_and_acknowledges_nothing() {
    let mut cluster = ClusterUnderTest::start(3);
    for node in [1, 2] {
        cluster.kill(node);
    }
    let client = tests::sql::Client {
        timeout_seconds: 15,
        ..cluster.client(0)
    };
    let refused = client
        .sql("SELECT 1")
        .expect_err("no quorum, no linearizable answer");
    assert!(matches!(refused.exit_code, 1 | 3 | 5), "{refused}");
    wait::until("a log line that names an unreachable peer", LIMIT, || {
        let log = fs::read_to_string(cluster.log(0)).unwrap_or_default();
        let named = |node: usize| log.contains(&cluster.nodes()[node].cluster.to_string());
        (named(1) && named(2)).then_some(())
    })
    .unwrap();

    cluster.run(1).unwrap();
    cluster.wait_node_ready(0).unwrap();
}

/// It was the leader, and nobody has told it that it is so no more.
#[test]
fn a_leader_without_followers_answers_no_query() {
    let mut cluster = ClusterUnderTest::start(3);
    let leader = cluster.wait_leader().unwrap();
    for follower in (0..3).filter(|node| *node != leader) {
        cluster.kill(follower);
    }
    let client = tests::sql::Client {
        timeout_seconds: 15,
        ..cluster.client(leader)
    };
    let refused = client
        .sql("SELECT 1")
        .expect_err("others may have chosen another leader");
    assert!(matches!(refused.exit_code, 1 | 3 | 5), "{refused}");
}

#[test]
fn a_second_process_on_the_same_folder_is_refused() {
    let cluster = ClusterUnderTest::start(1);
    let log: &Path = &cluster.folder().join("second.log");
    let mut command = Command::new(&cluster.binaries().aggregator);
    command
        .arg("run")
        .arg("--config")
        .arg(&cluster.nodes()[0].config);
    let mut second = Process::spawn("second process", &mut command, log).unwrap();
    let status = second.wait(LIMIT).unwrap();
    assert!(!status.success(), "{}", second.tail());
    cluster.client(0).sql("SELECT 1").unwrap();
}
