//! A cancel that comes when the answer is whole, but the client has not taken it yet.

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::*;
use crate::serve::pg::session::Session;
use crate::serve::pg::start::Login;
use crate::serve::pg::wire::Wire;

/// Less than any answer has: the session waits for the client to take the rest.
const PIPE_BYTES: usize = 4;

/// A session without TLS and login, past its greeting; how to cancel it.
async fn session(fake: &Fake, site: &Site) -> (DuplexStream, JoinSet<()>, impl Fn() + use<>) {
    let options = PostgresOptions {
        tls: site.server(ALPN),
        service: service(fake),
        admission: Arc::clone(&site.admission),
        metrics: ServeMetrics::register(&mut crate::metrics::registry()),
        connections_max: 1,
    };
    let shared = Arc::new(Shared {
        acceptor: TlsAcceptor::from(Arc::clone(&options.tls)),
        options,
        cancels: Cancels::default(),
    });
    let ticket = shared.cancels.register().unwrap();
    let asked = Arc::clone(&ticket.asked);
    let (mut near, far) = duplex(PIPE_BYTES);
    let login = Login {
        user: "ada".into(),
        identity: None,
        parameters: Vec::new(),
    };
    let session = Session::new(&shared, Wire::new(far), login, ticket);
    let mut running = JoinSet::new();
    running.spawn(async move {
        // Kept: without its sender the session would take it for a stop.
        let (_going_on, stop) = watch::channel(false);
        session.run(stop).await;
    });
    while message(&mut near).await != b'Z' {}
    (near, running, move || asked.notify_waiters())
}

/// The tag of the next message.
async fn message<S: AsyncRead + Unpin>(stream: &mut S) -> u8 {
    let tag = stream.read_u8().await.unwrap();
    rest(stream).await;
    tag
}

async fn rest<S: AsyncRead + Unpin>(stream: &mut S) {
    let length = stream.read_u32().await.unwrap();
    let mut body = vec![0; usize::try_from(length).unwrap() - 4];
    stream.read_exact(&mut body).await.unwrap();
}

#[tokio::test]
async fn what_comes_after_the_answer_cancels_nothing() {
    for (first, answer) in [
        (&b"Q\0\0\0\x0dSELECT 1\0"[..], "TDCZ"),
        (b"S\0\0\0\x04", "Z"),
    ] {
        let (site, fake) = (Site::new(), Fake::with_rows());
        let (mut client, _running, cancel) = session(&fake, &site).await;
        client.write_all(first).await.unwrap();
        // That a byte is there says that the answer is being sent, whole.
        let begun = client.read_u8().await.unwrap();
        cancel();
        rest(&mut client).await;
        let (mut read, mut write) = tokio::io::split(client);
        let mut tags = vec![begun];
        let asked = write.write_all(b"Q\0\0\0\x0dSELECT 2\0");
        let heard = async {
            let both = answer.len() + 4;
            while tags.len() < both {
                tags.push(message(&mut read).await);
            }
        };
        let both = async { tokio::join!(asked, heard) };
        let ended = timeout(Duration::from_secs(60), both).await;
        let tags = String::from_utf8_lossy(&tags).into_owned();
        assert_eq!(tags, format!("{answer}TDCZ"), "{ended:?}");
    }
}
