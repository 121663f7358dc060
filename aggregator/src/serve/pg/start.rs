//! A connection up to its login: TLS first, then who it is.

use bytes::{Buf, Bytes, BytesMut};
use pgwire::api::auth::Password;
use pgwire::api::auth::sasl::SCRAM_SHA_256_METHOD;
use pgwire::api::auth::sasl::scram::ScramServerAuth;
use rustls_pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use super::Shared;
use super::error::PgError;
use super::message::{self, Backend, First, Frontend};
use super::wire::{Wire, WireError};
use crate::serve::auth::Refusal;
use crate::tls::Identity;
use crate::users::ITERATIONS;

/// The first byte of a TLS handshake: the client begins with it at once.
const TLS_HANDSHAKE: u8 = 0x16;
/// Requests for encryption before the login: one for GSS, one for TLS.
const REQUESTS_MAX: usize = 2;

const SASL: i32 = 10;
const SASL_CONTINUE: i32 = 11;
const SASL_FINAL: i32 = 12;

pub(super) enum Started {
    Login(Box<Wire<TlsStream<TcpStream>>>, Login),
    /// Nothing more to do: it cancelled another, or went away.
    Done,
    Refused(Refused),
}

/// For the log.
pub(super) struct Refused {
    pub(super) label: &'static str,
    pub(super) detail: String,
    pub(super) meaning: &'static str,
}

/// Who was let in.
pub(super) struct Login {
    pub(super) user: String,
    /// If by certificate: it may be revoked while the session is open.
    pub(super) identity: Option<Identity>,
    /// What the client wishes besides, by name.
    pub(super) parameters: Vec<(String, String)>,
}

pub(super) async fn begin(shared: &Shared, socket: TcpStream) -> Started {
    let socket = match before_tls(shared, socket).await {
        Ok(Some(socket)) => socket,
        Ok(None) => return Started::Done,
        Err(refused) => return Started::Refused(refused),
    };
    let stream = match shared.acceptor.accept(socket).await {
        Ok(stream) => stream,
        Err(error) => {
            return Started::Refused(Refused {
                label: "handshake",
                detail: error.to_string(),
                meaning: "the TLS handshake failed; does the client trust nodes-ca?",
            });
        }
    };
    let presented = stream.get_ref().1.peer_certificates().map(<[_]>::to_vec);
    let mut wire = Box::new(Wire::new(stream));
    match login(shared, &mut wire, presented.as_deref()).await {
        Ok(Some(login)) => Started::Login(wire, login),
        Ok(None) | Err(WireError::Gone(_)) => Started::Done,
        Err(WireError::Broken(error)) => {
            wire.out.error(&error);
            wire.close().await;
            Started::Refused(Refused {
                label: "login",
                detail: error.message,
                meaning: "no login; check user and password, or add the user with `user add`",
            })
        }
    }
}

/// Up to where TLS begins; `None` if the connection is done with.
async fn before_tls(shared: &Shared, socket: TcpStream) -> Result<Option<TcpStream>, Refused> {
    let mut byte = [0];
    match socket.peek(&mut byte).await {
        Ok(1) if byte[0] == TLS_HANDSHAKE => return Ok(Some(socket)),
        Ok(1) => {}
        _ => return Ok(None),
    }
    let mut wire = Wire::new(socket);
    for _ in 0..REQUESTS_MAX {
        match in_the_clear(shared, &mut wire).await {
            Ok(Some(b'S')) => {
                return match wire.into_stream() {
                    Ok(socket) => Ok(Some(socket)),
                    Err(error) => Err(Refused {
                        label: "before_tls",
                        detail: error.message,
                        meaning: "closed; check who is between client and node",
                    }),
                };
            }
            Ok(Some(_)) => {}
            Ok(None) | Err(WireError::Gone(_)) => return Ok(None),
            Err(WireError::Broken(error)) => {
                wire.out.error(&error);
                wire.close().await;
                return Err(Refused {
                    label: "without_tls",
                    detail: error.message,
                    meaning: "sessions need TLS; the client needs sslmode=verify-full and nodes-ca",
                });
            }
        }
    }
    Ok(None)
}

/// One message before TLS. Answers a request for encryption and says how; `None`: no more comes.
async fn in_the_clear(
    shared: &Shared,
    wire: &mut Wire<TcpStream>,
) -> Result<Option<u8>, WireError> {
    let answer = match message::first(wire.first().await?)? {
        First::Ssl => b'S',
        First::Gss => b'N',
        First::Cancel { process, secret } => {
            if shared.cancels.cancel(process, &secret) {
                shared.options.metrics.cancelled();
            }
            return Ok(None);
        }
        First::Startup { .. } | First::OtherVersion(..) => {
            let message = "this cluster answers over TLS only";
            let hint = "connect with sslmode=verify-full and sslrootcert=nodes-ca.pem";
            return Err(PgError::fatal("28000", message).hint(hint).into());
        }
    };
    wire.out.extend_from_slice(&[answer]);
    wire.flush().await?;
    Ok(Some(answer))
}

async fn login<S: AsyncRead + AsyncWrite + Unpin>(
    shared: &Shared,
    wire: &mut Wire<S>,
    presented: Option<&[CertificateDer<'_>]>,
) -> Result<Option<Login>, WireError> {
    let (minor, parameters) = match message::first(wire.first().await?)? {
        First::Startup { minor, parameters } => (minor, parameters),
        First::Cancel { process, secret } => {
            if shared.cancels.cancel(process, &secret) {
                shared.options.metrics.cancelled();
            }
            return Ok(None);
        }
        First::OtherVersion(major, minor) => {
            let message = format!("version {major}.{minor} of the protocol is not supported");
            return Err(PgError::fatal("0A000", message)
                .hint("use version 3.0")
                .into());
        }
        First::Ssl | First::Gss => {
            let message = "TLS is there already".to_owned();
            return Err(PgError::protocol(message).into());
        }
    };
    let names = parameters.iter().map(|(name, _)| name.as_str());
    let unknown: Vec<&str> = names.filter(|name| name.starts_with("_pq_.")).collect();
    if minor > 0 || !unknown.is_empty() {
        wire.out.negotiate_version(&unknown);
    }
    let user = parameters.iter().find(|(name, _)| name == "user");
    let Some((_, user)) = user.filter(|(_, user)| !user.is_empty()) else {
        return Err(PgError::fatal("28000", "no user name was given").into());
    };
    let user = user.clone();
    let identity = shared
        .options
        .admission
        .certificate(presented)
        .map_err(|refusal| refused(&refusal))?;
    match &identity {
        Some(identity) if identity.id.as_str() != user => {
            let message = format!("the certificate is of {identity}, not of {user:?}");
            return Err(PgError::fatal("28000", message)
                .hint("set user to its name")
                .into());
        }
        Some(_) => {}
        None => scram(shared, wire, &user).await?,
    }
    Ok(Some(Login {
        user,
        identity,
        parameters,
    }))
}

fn refused(refusal: &Refusal) -> PgError {
    let code = match refusal {
        Refusal::Password | Refusal::Missing => "28P01",
        Refusal::Certificate(_) | Refusal::Revoked(_) => "28000",
    };
    PgError::fatal(code, refusal.to_string())
}

/// SCRAM-SHA-256: the password stays with the client.
async fn scram<S: AsyncRead + AsyncWrite + Unpin>(
    shared: &Shared,
    wire: &mut Wire<S>,
    user: &str,
) -> Result<(), WireError> {
    let mut methods = BytesMut::new();
    methods.text(SCRAM_SHA_256_METHOD);
    methods.extend_from_slice(&[0]);
    wire.out.authentication(SASL, &methods);
    let mut initial = answer(wire).await?;
    let end = initial.iter().position(|byte| *byte == 0);
    let method = end.map(|end| initial.split_to(end + 1));
    if method.is_none_or(|method| method != "SCRAM-SHA-256\0") || initial.len() < 4 {
        let message = "the login method is not SCRAM-SHA-256".to_owned();
        return Err(PgError::protocol(message).into());
    }
    initial.advance(4);
    let verifier = shared.options.admission.verifier(user).map_err(|error| {
        PgError::fatal(
            "XX000",
            format!("the system has no random numbers: {error}"),
        )
    })?;
    let mut handshake = ScramServerAuth::new();
    handshake.set_iterations(ITERATIONS);
    let expected = Password::new(Some(verifier.salt), verifier.salted_password);
    // A wrong proof and a broken message get one answer: which it was is nobody's business.
    let wrong = |_| refused(&Refusal::Password);
    let (challenge, handshake) = handshake
        .on_client_first_message(&initial, expected)
        .map_err(wrong)?;
    wire.out.authentication(SASL_CONTINUE, challenge.as_bytes());
    let proof = answer(wire).await?;
    let last = handshake.on_client_final_message(&proof).map_err(wrong)?;
    wire.out.authentication(SASL_FINAL, last.as_bytes());
    Ok(())
}

/// Sends what is there, and waits for the client's step of the login.
async fn answer<S: AsyncRead + AsyncWrite + Unpin>(wire: &mut Wire<S>) -> Result<Bytes, WireError> {
    wire.flush().await?;
    match wire.next().await? {
        Some(Frontend::Login(data)) => Ok(data),
        Some(Frontend::Terminate) | None => {
            Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into())
        }
        Some(_) => Err(PgError::protocol("the login comes first".to_owned()).into()),
    }
}
