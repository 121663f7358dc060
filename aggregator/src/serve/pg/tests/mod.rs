//! A small client on a real TLS socket; psql's own way is tested end to end in tests/it.

mod after;
mod client;

use std::net::SocketAddr;

use bytes::{BufMut, Bytes};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;
use tokio_rustls::client::TlsStream;

use super::message::Backend;
use super::*;
use crate::serve::fixture::{Fake, PASSWORD, Reads, Site, service};
use client::{Client, Said, errors, rows};

struct Bench {
    site: Site,
    fake: Fake,
    address: SocketAddr,
    stop: watch::Sender<bool>,
    running: JoinSet<()>,
}

impl Bench {
    async fn new() -> Bench {
        let (site, fake) = (Site::new(), Fake::with_rows());
        let mut registry = crate::metrics::registry();
        let metrics = ServeMetrics::register(&mut registry);
        let options = PostgresOptions {
            tls: site.server(ALPN),
            service: service(&fake),
            admission: Arc::clone(&site.admission),
            metrics,
            connections_max: 4,
        };
        let postgres = Postgres::bind("127.0.0.1:0", options).await.unwrap();
        let address = postgres.local_addr().unwrap();
        let (stop, stopped) = watch::channel(false);
        let mut running = JoinSet::new();
        running.spawn(postgres.run(stopped));
        Bench {
            site,
            fake,
            address,
            stop,
            running,
        }
    }

    /// A connection behind TLS, before the login.
    async fn tls(&self, certificate: bool) -> TlsStream<TcpStream> {
        let mut socket = TcpStream::connect(self.address).await.unwrap();
        socket
            .write_all(b"\0\0\0\x08\x04\xd2\x16\x2f")
            .await
            .unwrap();
        assert_eq!(socket.read_u8().await.unwrap(), b'S');
        self.site.connect(socket, certificate).await
    }

    async fn login(&self, user: &str, password: &str) -> Result<Client, String> {
        let mut client = Client::new(self.tls(false).await);
        client.startup(user).await;
        client.scram(password).await?;
        client.ready().await?;
        Ok(client)
    }

    async fn ada(&self) -> Client {
        self.login("ada", PASSWORD).await.unwrap()
    }
}

/// More rows than a queue and buffers hold: it only ends if somebody reads, or cancels.
const ENDLESS: &str =
    "SELECT a.value FROM generate_series(1, 100000) a, generate_series(1, 100000) b";

#[tokio::test]
async fn rows_look_as_psql_shows_them() {
    let bench = Bench::new().await;
    let mut client = bench.ada().await;
    let said = client
        .ask("SELECT CAST(time AS BIGINT) AS ns, time, device, value, ok, note FROM fire ORDER BY time")
        .await;
    let time = "1972-09-27 00:00:01.5+00";
    assert_eq!(
        rows(&said),
        [
            ["86400001500000000", time, "d1", "21.5", "t", "it's"],
            [
                "86400002000000000",
                "1972-09-27 00:00:02+00",
                "d2",
                "-1",
                "",
                ""
            ],
        ]
    );
    assert_eq!(
        said[3..],
        [Said::Complete("SELECT 2".into()), Said::Ready('I')]
    );
    let Said::Columns(columns) = &said[0] else {
        panic!("{said:?}")
    };
    assert_eq!(columns[1], ("time".to_owned(), 1184));
    let said = client
        .ask("SELECT interval '90 minutes', now() > time FROM fire LIMIT 1")
        .await;
    assert_eq!(rows(&said), [["01:30:00", "t"]]);
    let said = client
        .ask("SELECT 1; ; SELECT 'a;b' AS x; SHOW timezone")
        .await;
    assert_eq!(rows(&said), [["1"], ["a;b"], ["UTC"]]);
    assert_eq!(
        client.ask(" ; -- nothing").await,
        [Said::Other('I'), Said::Ready('I')]
    );
    let said = client
        .ask("SELECT current_user, current_setting('application_name')")
        .await;
    assert_eq!(rows(&said), [["ada", "test"]]);
    let said = client
        .ask("SELECT value FROM generate_series(1, 100000)")
        .await;
    assert_eq!(rows(&said).len(), 100_000);
}

#[tokio::test]
async fn nobody_is_let_in_without_tls_and_password() {
    let bench = Bench::new().await;
    for (user, password) in [("ada", "wrong horse"), ("eve", PASSWORD), ("ada", "")] {
        let refused = bench.login(user, password).await.err().expect("refused");
        assert!(refused.contains("28P01"), "{user}: {refused}");
    }
    let mut plain = TcpStream::connect(bench.address).await.unwrap();
    plain
        .write_all(b"\0\0\0\x12\0\x03\0\0user\0ada\0\0")
        .await
        .unwrap();
    let mut answer = Vec::new();
    plain.read_to_end(&mut answer).await.unwrap();
    let answer = String::from_utf8_lossy(&answer).into_owned();
    assert!(
        answer.contains("28000") && answer.contains("sslmode"),
        "{answer}"
    );
    // A query that is put in between the request for TLS and TLS itself.
    let mut injected = TcpStream::connect(bench.address).await.unwrap();
    injected
        .write_all(b"\0\0\0\x08\x04\xd2\x16\x2fQ\0\0\0\x0dSELECT 1\0")
        .await
        .unwrap();
    let mut answer = Vec::new();
    let _ = injected.read_to_end(&mut answer).await;
    assert_eq!(answer, b"S");
    // Nor is a question answered before the login.
    let mut early = Client::new(bench.tls(false).await);
    early.startup("ada").await;
    assert_eq!(early.hear().await, Said::Other('R'));
    let said = early.ask("SELECT 1").await;
    assert_eq!(errors(&said), ["08P01"], "{said:?}");
}

#[tokio::test]
async fn a_certificate_is_a_login_until_it_is_revoked() {
    let mut bench = Bench::new().await;
    let mut client = Client::new(bench.tls(true).await);
    client.startup("ada").await;
    client.ready().await.unwrap();
    assert_eq!(rows(&client.ask("SELECT current_user").await), [["ada"]]);
    let mut other = Client::new(bench.tls(true).await);
    other.startup("eve").await;
    assert!(other.ready().await.unwrap_err().contains("28000"));
    bench.site.revoke();
    let said = client.until_ready().await;
    assert_eq!(errors(&said), ["28000"]);
    assert_eq!(said.last(), Some(&Said::Closed));
}

#[tokio::test]
async fn errors_have_their_codes_and_leave_the_session_usable() {
    let bench = Bench::new().await;
    let mut client = bench.ada().await;
    for (sql, code) in [
        ("SELECT * FROM nowhere", "42P01"),
        ("SELECT colour FROM fire", "42703"),
        ("DROP TABLE fire", "25006"),
        ("INSERT INTO fire VALUES (1)", "25006"),
        ("COPY fire TO '/tmp/x'", "25006"),
        ("SET datafusion.execution.batch_size = 7", "42704"),
        ("SET TIME ZONE 'Europe/Berlin'", "22023"),
        ("SHOW nothing_of_that_name", "42704"),
        (
            "SELECT 1 / (value - 99999) FROM generate_series(1, 100000)",
            "22023",
        ),
    ] {
        let said = client.ask(sql).await;
        assert_eq!(errors(&said), [code], "{sql}: {:?}", said.last());
        assert_eq!(said.last(), Some(&Said::Ready('I')));
    }
    bench.fake.set(Reads::NoLeader);
    assert_eq!(errors(&client.ask("SELECT 1").await), ["57P03"]);
    client.ask("SET tributary.consistency = 'stale'").await;
    assert_eq!(rows(&client.ask("SELECT 1").await), [["1"]]);
}

#[tokio::test]
async fn what_one_client_sets_no_other_sees() {
    let bench = Bench::new().await;
    let (mut one, mut other) = (bench.ada().await, bench.ada().await);
    let said = one.ask("SET application_name = 'mine'").await;
    assert_eq!(
        said,
        [
            Said::Other('S'),
            Said::Complete("SET".into()),
            Said::Ready('I')
        ]
    );
    for (client, name) in [(&mut one, "mine"), (&mut other, "test")] {
        assert_eq!(rows(&client.ask("SHOW application_name").await), [[name]]);
    }
}

#[tokio::test]
async fn transactions_are_kept_as_drivers_expect() {
    let bench = Bench::new().await;
    let mut client = bench.ada().await;
    let ready = |said: &[Said]| said.last().cloned();
    assert_eq!(ready(&client.ask("BEGIN").await), Some(Said::Ready('T')));
    assert_eq!(
        ready(&client.ask("SELECT * FROM nowhere").await),
        Some(Said::Ready('E'))
    );
    assert_eq!(errors(&client.ask("SELECT 1").await), ["25P02"]);
    let said = client.ask("COMMIT").await;
    assert_eq!(said, [Said::Complete("ROLLBACK".into()), Said::Ready('I')]);
    client
        .ask("BEGIN; SET LOCAL statement_timeout = '5s'")
        .await;
    let shown = "SHOW statement_timeout";
    assert_eq!(rows(&client.ask(shown).await), [["5000ms"]]);
    client.ask("COMMIT").await;
    assert_eq!(rows(&client.ask(shown).await), [["0"]]);
}

#[tokio::test]
async fn prepared_statements_take_values_and_give_both_formats() {
    let bench = Bench::new().await;
    let mut client = bench.ada().await;
    let sql = "SELECT device, value FROM fire WHERE device = $1 AND value > $2";
    let said = client.run(sql, &["d1", "3"], false).await;
    assert_eq!(rows(&said), [["d1", "21.5"]]);
    let said = client.run(sql, &["d1", "3"], true).await;
    let value = Bytes::copy_from_slice(&21.5_f64.to_be_bytes());
    assert!(
        said.contains(&Said::Row(vec![
            Some(Bytes::from_static(b"d1")),
            Some(value)
        ])),
        "{said:?}"
    );
    client.parse("s", sql).await;
    client.say(b'D', |body| body.put_slice(b"Ss\0")).await;
    let said = client.sync().await;
    assert_eq!(said[1], Said::Parameters(vec![25, 701]));
    // What is wrong is told once, and the rest is passed over up to Sync.
    let said = client.run("SELECT * FROM nowhere", &[], false).await;
    assert_eq!(errors(&said), ["42P01"]);
    assert_eq!(said.len(), 2, "{said:?}");
    for (values, binary) in [(&["d1"][..], false), (&["d1", "1", "2"], true)] {
        client.bind("s", values, binary).await;
        assert_eq!(errors(&client.sync().await), ["08P01"]);
    }
    client.bind("t", &[], false).await;
    assert_eq!(errors(&client.sync().await), ["26000"]);
    let said = client.run("SHOW timezone", &[], false).await;
    assert_eq!(rows(&said), [["UTC"]]);
    assert!(client.run("", &[], false).await.contains(&Said::Other('I')));
}

#[tokio::test]
async fn an_answer_can_be_taken_in_parts() {
    let bench = Bench::new().await;
    let mut client = bench.ada().await;
    client.ask("BEGIN").await;
    client.parse("", ENDLESS).await;
    client.bind("", &[], false).await;
    client.execute("", 2).await;
    let said = client.sync().await;
    assert_eq!(
        (rows(&said).len(), said.contains(&Said::Other('s'))),
        (2, true)
    );
    client.execute("", 3).await;
    assert_eq!(rows(&client.sync().await).len(), 3);
    client.ask("COMMIT").await;
    client.execute("", 1).await;
    assert_eq!(errors(&client.sync().await), ["34000"]);
}

#[tokio::test]
async fn a_query_is_cancelled_while_its_rows_are_sent() {
    let bench = Bench::new().await;
    let mut client = bench.ada().await;
    client.say(b'Q', |body| body.text(ENDLESS)).await;
    assert!(matches!(client.hear().await, Said::Columns(_)));
    assert!(matches!(client.hear().await, Said::Row(_)));
    let wrong = Bytes::from([&client.key[..4], b"----"].concat());
    for key in [wrong, client.key.clone()] {
        let mut second = TcpStream::connect(bench.address).await.unwrap();
        let request = [&b"\0\0\0\x10\x04\xd2\x16\x2e"[..], &key].concat();
        second.write_all(&request).await.unwrap();
        assert_eq!(second.read(&mut [0]).await.unwrap(), 0);
    }
    let said = client.until_ready().await;
    assert_eq!(errors(&said), ["57014"]);
    assert_eq!(rows(&client.ask("SELECT 1").await), [["1"]]);
}

#[tokio::test]
async fn a_statement_timeout_reaches_the_rows() {
    let bench = Bench::new().await;
    let mut client = bench.ada().await;
    // A busy machine may not come as far as the rows, which says nothing: it gets more time.
    let mut was_sending = false;
    for ms in [200, 1_000, 5_000, 20_000] {
        client
            .ask(&format!("SET statement_timeout = '{ms}ms'"))
            .await;
        let said = client.ask(ENDLESS).await;
        assert_eq!(errors(&said), ["57014"]);
        was_sending = !rows(&said).is_empty();
        if was_sending {
            break;
        }
    }
    assert!(was_sending);
    client.ask("RESET statement_timeout").await;
    assert_eq!(rows(&client.ask("SELECT 1").await), [["1"]]);
}

#[tokio::test]
async fn broken_messages_end_the_session_and_nothing_else() {
    let bench = Bench::new().await;
    for message in [
        &b"B\0\0\0\x05x"[..],
        b"P\0\0\0\x06a\0",
        b"Q\x7f\xff\xff\xff",
        b"S\0\0\0\0",
        b"?\0\0\0\x04",
    ] {
        let mut client = bench.ada().await;
        client.stream.write_all(message).await.unwrap();
        let said = client.until_ready().await;
        assert_eq!(errors(&said), ["08P01"], "{message:?}");
        assert_eq!(said.last(), Some(&Said::Closed));
    }
    assert_eq!(rows(&bench.ada().await.ask("SELECT 1").await), [["1"]]);
}

#[tokio::test]
async fn a_stop_is_told_to_who_waits() {
    let mut bench = Bench::new().await;
    let mut client = bench.ada().await;
    bench.stop.send(true).unwrap();
    assert_eq!(errors(&client.until_ready().await), ["57P01"]);
    bench.running.join_next().await.unwrap().unwrap();
}
