//! A client on a real TLS socket.

use axum::http::StatusCode;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::client::TlsStream;

use super::*;
use crate::serve::fixture::{Fake, Reads, Site, service_with};

/// `ada:correct horse`
const ADA: &str = "Authorization: Basic YWRhOmNvcnJlY3QgaG9yc2U=\r\n";

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
        let mut registry = metrics::registry();
        let (service, metrics) = service_with(&fake, &mut registry);
        let options = HttpOptions {
            tls: site.server(ALPN),
            service,
            admission: Arc::clone(&site.admission),
            registry: Arc::new(registry),
            metrics,
            connections_max: 2,
        };
        let http = Http::bind("127.0.0.1:0", options).await.unwrap();
        let address = http.local_addr().unwrap();
        let (stop, stopped) = watch::channel(false);
        let mut running = JoinSet::new();
        running.spawn(http.run(stopped));
        Bench {
            site,
            fake,
            address,
            stop,
            running,
        }
    }

    async fn connect(&self, certificate: bool) -> TlsStream<TcpStream> {
        let socket = TcpStream::connect(self.address).await.unwrap();
        self.site.connect(socket, certificate).await
    }

    async fn ask(&self, request: &str, headers: &str, body: &str) -> (u16, String) {
        let mut stream = self.connect(false).await;
        exchange(&mut stream, request, headers, body).await
    }

    async fn sql(&self, sql: &str) -> (u16, String) {
        self.ask("POST /v1/sql", ADA, sql).await
    }
}

/// One request on a connection that ends with it; status and body.
async fn exchange(
    stream: &mut TlsStream<TcpStream>,
    request: &str,
    headers: &str,
    body: &str,
) -> (u16, String) {
    let head = format!(
        "{request} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}Content-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(body.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // A missing close_notify is no matter here: the body says where it ends.
    let _ = stream.read_to_end(&mut answer).await;
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let chunked = head.to_lowercase().contains("transfer-encoding: chunked");
    let body = if chunked {
        unchunked(body)
    } else {
        body.to_owned()
    };
    (status, body)
}

fn unchunked(mut body: &str) -> String {
    let mut text = String::new();
    while let Some((length, rest)) = body.split_once("\r\n") {
        let length = usize::from_str_radix(length, 16).unwrap();
        text.push_str(&rest[..length]);
        body = &rest[length + 2..];
    }
    text
}

fn code(body: &str) -> String {
    let body: Value = serde_json::from_str(body).unwrap();
    body["error"]["code"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

#[tokio::test]
async fn rows_are_json_lines() {
    let bench = Bench::new().await;
    let (status, body) = bench.sql("SELECT 1 AS b, 'x' AS a").await;
    assert_eq!((status, body.as_str()), (200, "{\"b\":1,\"a\":\"x\"}\n"));
    let (_, body) = bench.sql("SELECT * FROM fire ORDER BY time").await;
    assert_eq!(
        body,
        "{\"time\":\"1972-09-27T00:00:01.500Z\",\"device\":\"d1\",\"site\":\"north\",\
         \"value\":21.5,\"ok\":true,\"note\":\"it's\"}\n\
         {\"time\":\"1972-09-27T00:00:02Z\",\"device\":\"d2\",\"site\":null,\
         \"value\":-1.0,\"ok\":null,\"note\":null}\n"
    );
    assert_eq!(
        bench.sql("SELECT 1 WHERE false").await,
        (200, String::new())
    );
    let (_, body) = bench
        .sql("SELECT value FROM generate_series(1, 100000)")
        .await;
    assert_eq!(body.lines().count(), 100_000);
}

#[tokio::test]
async fn errors_have_status_code_and_hint() {
    let bench = Bench::new().await;
    for (sql, status, state) in [
        ("SELECT * FROM nowhere", 400, "42P01"),
        ("DROP TABLE fire", 400, "25006"),
        ("SELEC", 400, "42601"),
    ] {
        let (found, body) = bench.sql(sql).await;
        assert_eq!(
            (found, code(&body).as_str()),
            (status, state),
            "{sql}: {body}"
        );
        assert!(body.contains("hint"), "{body}");
    }
    let (_, body) = bench
        .sql("SELECT 1 / (value - 99999) FROM generate_series(1, 100000)")
        .await;
    let last = body.lines().last().unwrap();
    assert_eq!(code(last), "22023", "{last}");
    bench.fake.set(Reads::NoLeader);
    let (status, body) = bench.sql("SELECT 1").await;
    assert_eq!((status, code(&body).as_str()), (503, "57P03"));
    bench.fake.set(Reads::Never);
    assert_eq!(bench.sql("SELECT 1").await.0, 504);
    let stale = format!("{ADA}Tributary-Consistency: stale\r\n");
    assert_eq!(
        bench.ask("POST /v1/sql", &stale, "SELECT 1 AS x").await.0,
        200
    );
    let odd = format!("{ADA}Tributary-Consistency: newest\r\n");
    assert_eq!(bench.ask("POST /v1/sql", &odd, "SELECT 1").await.0, 400);
    let long = " ".repeat(2 << 20);
    assert_eq!(
        bench.sql(&long).await.0,
        StatusCode::PAYLOAD_TOO_LARGE.as_u16()
    );
}

#[tokio::test]
async fn only_health_is_told_to_strangers() {
    let bench = Bench::new().await;
    let wrong = "Authorization: Basic YWRhOndyb25n\r\n";
    for path in ["POST /v1/sql", "GET /v1/status", "GET /metrics"] {
        for headers in ["", wrong] {
            let (status, body) = bench.ask(path, headers, "SELECT 1").await;
            assert_eq!((status, code(&body).as_str()), (401, "28P01"), "{path}");
        }
    }
    assert_eq!(
        bench.ask("GET /healthz", "", "").await,
        (200, "ok\n".into())
    );
    assert_eq!(bench.ask("GET /readyz", "", "").await.0, 200);
    bench.fake.set(Reads::NoLeader);
    let unready = bench.ask("GET /readyz", "", "").await;
    assert_eq!(unready, (503, "no leader is known\n".into()));
    assert_eq!(bench.ask("GET /nowhere", "", "").await.0, 404);
}

#[tokio::test]
async fn a_certificate_is_a_login_until_it_is_revoked() {
    let mut bench = Bench::new().await;
    let ask = async |bench: &Bench| {
        let mut stream = bench.connect(true).await;
        exchange(&mut stream, "POST /v1/sql", "", "SELECT current_user AS me").await
    };
    assert_eq!(ask(&bench).await, (200, "{\"me\":\"ada\"}\n".into()));
    let mut open = bench.connect(true).await;
    let health = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n";
    open.write_all(health).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"ok\n") {
        open.read_buf(&mut answer).await.unwrap();
    }
    bench.site.revoke();
    let (status, body) = exchange(&mut open, "POST /v1/sql", "", "SELECT 1").await;
    assert_eq!(status, 401, "the connection was there before: {body}");
}

#[tokio::test]
async fn status_and_metrics_are_told() {
    let bench = Bench::new().await;
    let (status, body) = bench.ask("GET /v1/status", ADA, "").await;
    let told: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(
        (status, &told["leader"], &told["nodes"][0]["name"]),
        (200, &1.into(), &"a".into())
    );
    assert!(told["agents"].is_array());
    bench.sql("SELECT * FROM nowhere").await;
    let (_, text) = bench.ask("GET /metrics", ADA, "").await;
    for line in [
        "tributary_serve_queries_total{protocol=\"http\"} 1",
        "tributary_serve_failures_total{sqlstate=\"42P01\"} 1",
        "tributary_serve_connections{protocol=\"http\"} 1",
    ] {
        assert!(text.contains(line), "{line} in {text}");
    }
}

#[tokio::test]
async fn connections_are_bounded_and_a_stop_ends_them() {
    let mut bench = Bench::new().await;
    let _held = (bench.connect(false).await, bench.connect(false).await);
    let mut third = TcpStream::connect(bench.address).await.unwrap();
    assert_eq!(
        third.read(&mut [0; 1]).await.unwrap_or(0),
        0,
        "closed at once"
    );
    bench.stop.send(true).unwrap();
    bench.running.join_next().await.unwrap().unwrap();
    assert!(TcpStream::connect(bench.address).await.is_err());
}

#[tokio::test]
async fn a_taken_port_is_named() {
    let bench = Bench::new().await;
    let mut registry = metrics::registry();
    let (service, metrics) = service_with(&bench.fake, &mut registry);
    let options = HttpOptions {
        tls: bench.site.server(ALPN),
        service,
        admission: Arc::clone(&bench.site.admission),
        registry: Arc::new(registry),
        metrics,
        connections_max: 1,
    };
    let taken = bench.address.to_string();
    let Err(error) = Http::bind(&taken, options).await else {
        panic!("two listeners on {taken}");
    };
    assert!(error.to_string().contains(&taken), "{error}");
    assert!(error.to_string().contains("listen.http"), "{error}");
}
