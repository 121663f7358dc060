//! One HTTPS connection to the first node that answers; its answers as they stream in.

use std::error::Error as StdError;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use crate::failure::Failure;
use crate::rows::{self, Rows};
use crate::settings::{Certificate, Password, Server, Settings};

/// A node that has not answered by then is passed over for the next.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of an answer that is no stream of rows: a status or an error.
const SMALL_ANSWER_BYTES_MAX: usize = 8 << 20;

pub(crate) struct Connection {
    sender: SendRequest<Full<Bytes>>,
    server: Server,
    authorization: Option<HeaderValue>,
    /// Drives the connection; ends with it.
    driver: JoinSet<()>,
}

/// The rows of one statement, one after another.
pub(crate) struct Answer {
    body: Incoming,
    rows: Rows,
}

impl Connection {
    /// Connects to the first of the servers that completes a TLS handshake.
    pub(crate) async fn open(settings: &Settings) -> Result<Self, Failure> {
        let tls = TlsConnector::from(Arc::new(tls_config(settings)?));
        let authorization = settings.password.as_ref().map(basic).transpose()?;
        let mut failures = Vec::new();
        for server in &settings.servers {
            let attempt = tokio::time::timeout(CONNECT_TIMEOUT, connect(server, &tls)).await;
            match attempt {
                Ok(Ok((sender, driver))) => {
                    let server = server.clone();
                    return Ok(Self {
                        sender,
                        server,
                        authorization,
                        driver,
                    });
                }
                Ok(Err(failure)) => failures.push(failure),
                Err(_elapsed) => failures.push(Failure::Connection(format!(
                    "{server} did not answer within {} s",
                    CONNECT_TIMEOUT.as_secs()
                ))),
            }
        }
        // The last is the least told: with several, all reasons matter.
        match failures.len() {
            1 => Err(failures.remove(0)),
            _ => Err(Failure::Connection(
                failures
                    .iter()
                    .map(ToString::to_string)
                    .collect::<Vec<_>>()
                    .join("; "),
            )),
        }
    }

    /// Sends one statement; rows come from the answer.
    pub(crate) async fn sql(&mut self, statement: &str) -> Result<Answer, Failure> {
        let request = self
            .request(Method::POST, "/v1/sql")
            .header(CONTENT_TYPE, "application/sql")
            .body(Full::new(Bytes::copy_from_slice(statement.as_bytes())));
        let body = self.send(request).await?;
        Ok(Answer {
            body,
            rows: Rows::new(),
        })
    }

    /// The node's view of its cluster.
    pub(crate) async fn status(&mut self) -> Result<serde_json::Value, Failure> {
        let request = self
            .request(Method::GET, "/v1/status")
            .body(Full::default());
        let body = self.send(request).await?;
        let bytes = collect(body).await?;
        serde_json::from_slice(&bytes).map_err(|e| {
            Failure::Query(format!(
                "{} answered a status that is no JSON: {e}",
                self.server
            ))
        })
    }

    fn request(&self, method: Method, path: &str) -> hyper::http::request::Builder {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, self.server.to_string());
        match &self.authorization {
            Some(basic) => request.header(AUTHORIZATION, basic.clone()),
            None => request,
        }
    }

    async fn send(
        &mut self,
        request: Result<Request<Full<Bytes>>, hyper::http::Error>,
    ) -> Result<Incoming, Failure> {
        let request = request.map_err(|e| Failure::Usage(format!("bad server name: {e}")))?;
        debug_assert!(
            !self.driver.is_empty(),
            "a connection without its driver answers nothing"
        );
        let response = self
            .sender
            .send_request(request)
            .await
            .map_err(|e| broken(&self.server, &e))?;
        if response.status() == StatusCode::OK {
            return Ok(response.into_body());
        }
        Err(refused(&self.server, response).await)
    }
}

impl Answer {
    /// The next row, or `None` after the last.
    pub(crate) async fn next(&mut self) -> Result<Option<rows::Row>, Failure> {
        loop {
            if let Some(row) = self.rows.next()? {
                return Ok(Some(row));
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.rows.push(&data)?;
                    }
                }
                Some(Err(e)) => {
                    return Err(Failure::Connection(format!(
                        "the answer broke off ({e}): the rows above are not all. Ask again"
                    )));
                }
                None => return self.rows.finish(),
            }
        }
    }
}

async fn connect(
    server: &Server,
    tls: &TlsConnector,
) -> Result<(SendRequest<Full<Bytes>>, JoinSet<()>), Failure> {
    let name = ServerName::try_from(server.host.clone())
        .map_err(|_| Failure::Usage(format!("{:?} is no host name", server.host)))?;
    let socket = TcpStream::connect((server.host.as_str(), server.port))
        .await
        .map_err(|e| {
            Failure::Connection(format!(
                "cannot reach {server}: {e}. Does a node listen there? Name another with --server"
            ))
        })?;
    // Without this a statement may wait for the acknowledgement of the handshake's last packet.
    socket.set_nodelay(true).map_err(|e| broken(server, &e))?;
    let stream = tls
        .connect(name, socket)
        .await
        .map_err(|e| broken(server, &e))?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|e| broken(server, &e))?;
    let mut driver = JoinSet::new();
    driver.spawn(async move {
        // Its error reaches whoever waits for an answer.
        let _ = connection.await;
    });
    Ok((sender, driver))
}

fn tls_config(settings: &Settings) -> Result<rustls::ClientConfig, Failure> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in certificates(&settings.ca)? {
        roots
            .add(certificate)
            .map_err(|e| Failure::Usage(format!("{}: {e}", settings.ca.display())))?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring supports the default versions")
        .with_root_certificates(roots);
    match &settings.certificate {
        None => Ok(builder.with_no_client_auth()),
        Some(Certificate { chain, key }) => {
            let private = PrivateKeyDer::from_pem_file(key)
                .map_err(|e| Failure::Usage(format!("{}: no private key: {e}", key.display())))?;
            builder
                .with_client_auth_cert(certificates(chain)?, private)
                .map_err(|e| {
                    Failure::Usage(format!("{} with {}: {e}", chain.display(), key.display()))
                })
        }
    }
}

fn certificates(file: &std::path::Path) -> Result<Vec<CertificateDer<'static>>, Failure> {
    let wrong = |e: &dyn std::fmt::Display| Failure::Usage(format!("{}: {e}", file.display()));
    let found: Vec<_> = CertificateDer::pem_file_iter(file)
        .and_then(Iterator::collect)
        .map_err(|e| wrong(&e))?;
    if found.is_empty() {
        return Err(wrong(&"holds no certificate (PEM)"));
    }
    Ok(found)
}

/// Says whose fault a broken connection is: TLS alerts about our certificate are ours.
fn broken(server: &Server, error: &(dyn StdError + 'static)) -> Failure {
    use rustls::{AlertDescription as Alert, CertificateError, Error as Tls};
    match tls_cause(error) {
        Some(Tls::AlertReceived(
            alert @ (Alert::CertificateRequired
            | Alert::BadCertificate
            | Alert::CertificateUnknown
            | Alert::CertificateRevoked
            | Alert::CertificateExpired
            | Alert::UnsupportedCertificate
            | Alert::UnknownCA
            | Alert::AccessDenied),
        )) => Failure::Auth(format!(
            "{server} refuses our certificate ({alert:?}): pass a user certificate of this \
             cluster with --cert and --key"
        )),
        Some(Tls::InvalidCertificate(CertificateError::UnknownIssuer)) => {
            Failure::Connection(format!(
                "{server} shows a certificate of another authority: pass this cluster's \
                 nodes-ca.pem with --ca, or check the address"
            ))
        }
        Some(Tls::InvalidCertificate(e)) => Failure::Connection(format!(
            "{server} shows a certificate that does not fit: {e}. Use a name or address that \
             stands in it"
        )),
        Some(e) => Failure::Connection(format!("TLS with {server} failed: {e}")),
        None => Failure::Connection(format!("the connection to {server} broke: {error}")),
    }
}

/// The TLS error at the bottom of an error chain.
fn tls_cause<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a rustls::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(tls) = error.downcast_ref::<rustls::Error>() {
            return Some(tls);
        }
        // An io::Error hides its inner error from `source`, which starts one below.
        next = match error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref)
        {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    None
}

/// Turns an HTTP refusal into words: the server's own where it sent some.
async fn refused(server: &Server, response: Response<Incoming>) -> Failure {
    let status = response.status();
    let text = match collect(response.into_body()).await {
        Ok(bytes) => rows::error_text(&bytes),
        Err(failure) => return failure,
    };
    let text = if text.is_empty() {
        status.to_string()
    } else {
        text
    };
    match status {
        StatusCode::UNAUTHORIZED => Failure::Auth(format!(
            "{server} does not know us: {text}. Check --user and the password"
        )),
        StatusCode::FORBIDDEN => Failure::Auth(format!("{server} forbids it: {text}")),
        StatusCode::REQUEST_TIMEOUT | StatusCode::GATEWAY_TIMEOUT => Failure::Timeout(text),
        StatusCode::SERVICE_UNAVAILABLE => Failure::Connection(format!(
            "{server} cannot answer now: {text}. Ask another node with --server, or again soon"
        )),
        _ => Failure::Query(text),
    }
}

async fn collect(body: Incoming) -> Result<Bytes, Failure> {
    let limited = http_body_util::Limited::new(body, SMALL_ANSWER_BYTES_MAX);
    let collected = limited
        .collect()
        .await
        .map_err(|e| Failure::Connection(format!("the answer broke off: {e}")))?;
    Ok(collected.to_bytes())
}

fn basic(password: &Password) -> Result<HeaderValue, Failure> {
    if password.user.contains(':') {
        return Err(Failure::Usage("a user name holds no colon".to_owned()));
    }
    let pair = format!("{}:{}", password.user, password.secret);
    let mut value = HeaderValue::try_from(format!("Basic {}", base64(pair.as_bytes())))
        .expect("base64 is ASCII");
    value.set_sensitive(true);
    Ok(value)
}

/// RFC 4648 with padding; the one place that needs it, so no crate for it.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let word = group
            .iter()
            .fold(0u32, |word, byte| (word << 8) | u32::from(*byte))
            << (8 * (3 - group.len()));
        for place in 0..4 {
            if place <= group.len() {
                let index = (word >> (18 - 6 * place)) & 63;
                text.push(char::from(ALPHABET[index as usize]));
            } else {
                text.push('=');
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_as_in_the_rfc() {
        for (plain, coded) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
    }

    #[test]
    fn a_tls_cause_is_found_below_wrappers() {
        let server = Server {
            host: "node-a".into(),
            port: 1,
        };
        let alert = rustls::Error::AlertReceived(rustls::AlertDescription::CertificateRequired);
        let wrapped = io::Error::other(io::Error::new(io::ErrorKind::InvalidData, alert));
        assert_eq!(broken(&server, &wrapped).exit_code(), 4);

        let unknown = rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer);
        let failure = broken(
            &server,
            &io::Error::new(io::ErrorKind::InvalidData, unknown),
        );
        assert_eq!(failure.exit_code(), 3);
        assert!(failure.to_string().contains("--ca"), "{failure}");
    }
}
