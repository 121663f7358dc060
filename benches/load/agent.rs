//! One connection that sends as one agent: hello, names, then data batches or plain lines, with a
//! fixed number in flight, each timed from its write to its PUBACK.

use std::collections::VecDeque;
use std::error::Error;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _};
use shared::batch::{
    self, Body, Column, Data, Group, Header, Hello, SeriesColumns, SeriesDefinition, Values,
};
use shared::id::{BatchNumber, Digest, Epoch, Lane, LocalSeriesId, TimeNs};
use shared::reading::FieldType;
use tokio::io::{AsyncWrite, split};
use tokio::net::TcpStream;

use crate::mqtt::{self, Incoming, Reader};

type Failed = Box<dyn Error + Send + Sync>;

#[derive(Clone, Copy)]
pub(crate) enum Load {
    /// Batches of so many rows of a truck of seven fields.
    Batches { rows: usize },
    /// One line of one value a message, unnumbered.
    Lines,
}

#[derive(Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) load: Load,
    pub(crate) in_flight: usize,
    pub(crate) length: Duration,
}

/// What was acknowledged, and how fast.
#[derive(Default)]
pub(crate) struct Account {
    pub(crate) values: usize,
    pub(crate) latencies: Vec<Duration>,
}

impl Account {
    pub(crate) fn add(&mut self, other: Account) {
        self.values += other.values;
        self.latencies.extend(other.latencies);
        self.latencies.sort_unstable();
    }

    pub(crate) fn quantile_ms(&self, quantile: f64) -> f64 {
        let below = |nth: usize| nth as f64 >= self.latencies.len() as f64 * quantile;
        let at = (0..self.latencies.len()).find(|nth| below(*nth));
        at.and_then(|at| self.latencies.get(at))
            .map_or(f64::NAN, |latency| latency.as_secs_f64() * 1e3)
    }
}

/// A client that verifies nodes and shows the agent's certificate.
pub(crate) fn tls(pki: &Path, name: &str) -> Result<rustls::ClientConfig, Box<dyn Error>> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(pki.join("nodes-ca.pem"))?)?;
    let chain = CertificateDer::pem_file_iter(pki.join(format!("agent-{name}.pem")))?
        .collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_file(pki.join(format!("agent-{name}.key")))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    Ok(rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)?)
}

/// Makes the next message of a stream; payloads are encoded before they are timed.
struct Source {
    load: Load,
    epoch: Epoch,
    number: BatchNumber,
    digest: Digest,
    rows_sent: usize,
}

impl Source {
    fn header(&self, lane: Lane) -> Header {
        Header {
            epoch: self.epoch,
            lane,
            number: self.number.next(),
            previous: self.digest,
            names_needed: BatchNumber(if lane == Lane::Names { 0 } else { 2 }),
            sealed_at: TimeNs(START_NS),
            complete_below: TimeNs(START_NS),
            boot_relative: false,
        }
    }

    fn seal(&mut self, lane: Lane, body: &Body) -> Result<Vec<u8>, Failed> {
        let bytes = batch::encode(&self.header(lane), body)?;
        self.number = self.number.next();
        self.digest = batch::digest(self.digest, &bytes);
        Ok(bytes)
    }

    /// The payload and the values in it.
    fn next(&mut self) -> Result<(Vec<u8>, usize), Failed> {
        match self.load {
            Load::Batches { rows } => {
                let body = truck(self.rows_sent, rows);
                self.rows_sent += rows;
                Ok((self.seal(Lane::Live, &body)?, rows * FIELDS))
            }
            Load::Lines => {
                self.rows_sent += 1;
                let time = START_NS + signed(self.rows_sent);
                Ok((
                    format!("plain,device=p1 value={}i {time}", self.rows_sent).into_bytes(),
                    1,
                ))
            }
        }
    }
}

const START_NS: i64 = 1_700_000_000_000_000_000;
const STEP_NS: i64 = 10_000_000_000;
const FIELDS: usize = 7;

fn signed(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn truck(from: usize, rows: usize) -> Body {
    let times = (from..from + rows)
        .map(|row| START_NS + signed(row) * STEP_NS)
        .collect();
    let columns = (0..FIELDS)
        .map(|field| {
            let walk = |row: usize| (row as f64 * 0.37 + field as f64).sin() * 50.0;
            let values = (from..from + rows)
                .map(|row| walk(row).round() / 10.0)
                .collect();
            Column {
                field: u16::try_from(field).unwrap_or(u16::MAX),
                present: None,
                values: Values::Float(values),
            }
        })
        .collect();
    let series = vec![SeriesColumns {
        id: LocalSeriesId(1),
        columns,
    }];
    Body::Data(Data {
        groups: vec![Group { times, series }],
    })
}

fn names(device: &str) -> Body {
    let fields = (0..FIELDS)
        .map(|nth| (format!("f{nth}"), FieldType::Float))
        .collect();
    Body::Names(vec![SeriesDefinition {
        id: LocalSeriesId(1),
        table: "truck".into(),
        device: device.into(),
        tags: Vec::new(),
        fields,
    }])
}

/// Sends for the plan's length, then waits for what is in flight.
pub(crate) async fn run(
    name: String,
    address: SocketAddr,
    tls: Arc<rustls::ClientConfig>,
    plan: Plan,
) -> Result<Account, Failed> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let server = ServerName::from(address.ip());
    let stream = tokio_rustls::TlsConnector::from(tls)
        .connect(server, stream)
        .await?;
    let (reader, mut writer) = split(stream);
    let mut reader = Reader::new(reader);
    mqtt::send(&mut writer, &mqtt::connect(&name)).await?;
    let Incoming::Connected {
        reason: 0,
        receive_max,
    } = reader.next().await?
    else {
        return Err("the node refused the connection".into());
    };
    let epoch = Epoch(std::hash::BuildHasher::hash_one(
        &std::hash::RandomState::new(),
        &name,
    ));
    let mut source = Source {
        load: plan.load,
        epoch,
        number: BatchNumber::NONE,
        digest: Digest::ZERO,
        rows_sent: 0,
    };
    if let Load::Batches { .. } = plan.load {
        open(&name, &mut source, &mut writer, &mut reader).await?;
    }
    let topic = match plan.load {
        Load::Batches { .. } => format!("tributary/v1/{name}/live"),
        Load::Lines => format!("tributary/v1/{name}/line"),
    };
    let in_flight_max = plan.in_flight.min(usize::from(receive_max));
    let end = Instant::now() + plan.length;
    let mut account = Account::default();
    let mut in_flight: VecDeque<(u16, Instant, usize)> = VecDeque::new();
    let mut packet_id = 0u16;
    loop {
        let mut out = Vec::new();
        while in_flight.len() < in_flight_max && Instant::now() < end {
            let (payload, values) = source.next()?;
            packet_id = packet_id.checked_add(1).unwrap_or(1);
            mqtt::publish(&mut out, &topic, packet_id, &payload);
            in_flight.push_back((packet_id, Instant::now(), values));
        }
        if !out.is_empty() {
            mqtt::send(&mut writer, &out).await?;
        }
        let Some(&(oldest, sent, values)) = in_flight.front() else {
            return Ok(account);
        };
        match reader.next().await? {
            Incoming::Acked {
                packet_id,
                reason: 0,
            } if packet_id == oldest => {
                account.latencies.push(sent.elapsed());
                account.values += values;
                in_flight.pop_front();
            }
            other => return Err(format!("expected a PUBACK of {oldest}, got {other:?}").into()),
        }
    }
}

/// Hello and names of a new epoch.
async fn open<W, R>(
    name: &str,
    source: &mut Source,
    writer: &mut W,
    reader: &mut Reader<R>,
) -> Result<(), Failed>
where
    W: AsyncWrite + Unpin,
    R: tokio::io::AsyncRead + Unpin,
{
    let hello = Body::Hello(Hello {
        older_epochs: Vec::new(),
        last: None,
        max_unsafe_ms: 0,
    });
    let mut out = Vec::new();
    for (packet_id, body) in [(1, hello), (2, names(name))] {
        let bytes = source.seal(Lane::Names, &body)?;
        mqtt::publish(
            &mut out,
            &format!("tributary/v1/{name}/names"),
            packet_id,
            &bytes,
        );
    }
    mqtt::send(writer, &out).await?;
    for _ in 0..2 {
        match reader.next().await? {
            Incoming::Acked { reason: 0, .. } => {}
            other => return Err(format!("the hello was answered {other:?}").into()),
        }
    }
    source.number = BatchNumber::NONE;
    source.digest = Digest::ZERO;
    Ok(())
}
