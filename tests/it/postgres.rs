//! `psql` with TLS and a password: what a person at a terminal does.

use std::process::{Command, Stdio};
use std::time::Duration;

use tests::agent::AgentUnderTest;
use tests::cluster::{Cluster, ClusterUnderTest};
use tests::process;
use tests::source::Source;
use tests::wait;

/// Runs one statement at one node; panics with psql's words if it is refused.
pub(crate) fn psql(cluster: &Cluster, node: usize, statement: &str) -> Vec<Vec<String>> {
    let mut command = command(cluster, node, cluster.password());
    command.args(["--field-separator=\t", "--command", statement]);
    let text = process::run(&mut command).unwrap_or_else(|why| panic!("{statement}: {why}"));
    text.lines()
        .map(|line| line.split('\t').map(str::to_owned).collect())
        .collect()
}

/// psql without its user's settings, rows only, columns divided as told.
fn command(cluster: &Cluster, node: usize, password: &str) -> Command {
    let mut command = Command::new("psql");
    command
        .stdin(Stdio::null())
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("PGPASSWORD", password)
        .env("PGCONNECT_TIMEOUT", "20")
        .args([
            "--no-psqlrc",
            "--no-align",
            "--tuples-only",
            "--set",
            "ON_ERROR_STOP=1",
        ])
        .arg(cluster.psql(node));
    command
}

#[test]
fn psql_connects_with_tls_and_password_and_asks() {
    let cluster = ClusterUnderTest::start(1);
    let agent = AgentUnderTest::start(&cluster, "gw1");
    let source = Source::start(agent.line, "d1", 100);
    wait::until("readings", Duration::from_secs(30), || {
        (source.kept() >= 50).then_some(())
    })
    .unwrap();
    let ledger = source.stop();
    agent.wait_drained(Duration::from_secs(30)).unwrap();

    let sent = ledger.entries.len().to_string();
    assert_eq!(
        psql(&cluster, 0, "SELECT count(*) FROM fire"),
        [[sent.as_str()]]
    );
    let grouped = psql(
        &cluster,
        0,
        "SELECT device, count(*), min(value) FROM fire \
         WHERE time > now() - interval '10 minutes' GROUP BY device",
    );
    assert_eq!(grouped, [["d1", sent.as_str(), "-999.75"]]);
    let tables = psql(&cluster, 0, "\\d");
    assert!(
        tables
            .iter()
            .any(|row| row.iter().any(|cell| cell == "fire")),
        "{tables:?}"
    );
    let columns = format!("{:?}", psql(&cluster, 0, "\\d fire"));
    for name in ["time", "device", "seq", "value"] {
        assert!(columns.contains(name), "{name} in {columns}");
    }

    refusals(&cluster);
}

fn refusals(cluster: &Cluster) {
    let refused = |mut command: Command, statement: &str| {
        command.args(["--command", statement]);
        process::run(&mut command).expect_err("refused")
    };
    let wrong = refused(command(cluster, 0, "wrong password"), "SELECT 1");
    assert!(
        wrong.contains("password") || wrong.contains("authentication"),
        "{wrong}"
    );

    let mut plain = command(cluster, 0, cluster.password());
    plain.env("PGSSLMODE", "disable");
    let last = plain.get_args().count() - 1;
    let without_tls: Vec<_> = plain
        .get_args()
        .enumerate()
        .map(|(at, argument)| {
            let text = argument.to_string_lossy().into_owned();
            if at == last {
                text.replace("sslmode=verify-full", "sslmode=disable")
            } else {
                text
            }
        })
        .collect();
    let mut plain = Command::new("psql");
    plain
        .env("PGPASSWORD", cluster.password())
        .args(without_tls);
    let plain = refused(plain, "SELECT 1");
    assert!(!plain.is_empty(), "a session without TLS was let in");

    for forbidden in [
        "DROP TABLE fire",
        "INSERT INTO fire VALUES (1)",
        "COPY fire TO '/tmp/x'",
    ] {
        refused(command(cluster, 0, cluster.password()), forbidden);
    }
    let unknown = refused(
        command(cluster, 0, cluster.password()),
        "SELECT * FROM nowhere",
    );
    assert!(unknown.contains("nowhere"), "{unknown}");
}
