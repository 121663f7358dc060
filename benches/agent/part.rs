//! The parts of the measurement, each with agents of its own.

use std::error::Error;
use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tests::agent::{Agent, Options};
use tests::cluster::Cluster;
use tests::{loopback, wait};

use crate::device::Device;
use crate::feed::{self, Shape, Steady, Urgent};
use crate::process::{cpu_seconds, mib, resident};

const LIMIT: Duration = Duration::from_secs(600);
/// Connected, all series known, caches warm.
const WARM: Duration = Duration::from_secs(5);
/// What waited for the session is acknowledged.
const SETTLED_SECONDS: f64 = 0.1;
const DAY: Duration = Duration::from_secs(86_400);
/// ext4 as it comes, and with its own journal written seldom: each write changes a file's time, which
/// that journal takes 12 KiB for within `commit` seconds, 5 by default (ext4(5)).
const MOUNTS: [(&str, &str); 2] = [("disk", "noatime"), ("disk-commit", "noatime,commit=300")];

/// An agent with the defaults of its program, and an intake that answers nothing beside the one of
/// the harness.
struct Measured {
    agent: Agent,
    quiet: SocketAddr,
    /// The same for urgent readings.
    urgent: SocketAddr,
}

impl Measured {
    fn prepare(
        cluster: &Cluster,
        name: &str,
        data_dir: Option<&Path>,
        buffer: &str,
    ) -> Result<Measured, Box<dyn Error>> {
        Measured::prepare_with(cluster, name, "warn", data_dir, buffer)
    }

    fn prepare_with(
        cluster: &Cluster,
        name: &str,
        log: &str,
        data_dir: Option<&Path>,
        buffer: &str,
    ) -> Result<Measured, Box<dyn Error>> {
        let mut options = Options::for_cluster(name, cluster);
        options.linger = Duration::from_secs(1);
        log.clone_into(&mut options.log);
        buffer.clone_into(&mut options.buffer);
        options.batch_bytes_max = 16 << 10;
        let agent = Agent::prepare(cluster, &options)?;
        let quiet = loopback::free_port(cluster.address())?;
        let urgent = loopback::free_port(cluster.address())?;
        let mut text = fs::read_to_string(&agent.config)?;
        if let Some(folder) = data_dir {
            let own = format!("data_dir = \"data-agent-{name}\"");
            text = text.replace(&own, &format!("data_dir = \"{}\"", folder.display()));
        }
        write!(
            text,
            "\n[[class]]\nname = \"default\"\n[[class]]\nname = \"urgent\"\nlinger_ms = 0\n\
             [[intake.line]]\nlisten = \"tcp://{quiet}\"\n\
             [[intake.line]]\nlisten = \"tcp://{urgent}\"\nclass = \"urgent\"\n"
        )?;
        fs::write(&agent.config, text)?;
        Ok(Measured {
            agent,
            quiet,
            urgent,
        })
    }

    fn process(&self) -> Result<u32, Box<dyn Error>> {
        Ok(self.agent.process_id().ok_or("the agent is not running")?)
    }

    /// From sending to acknowledgement of each live batch that the agent told of after its first
    /// `skip` bytes of log, with the time of day of the latter, in seconds.
    fn acks(&self, skip: usize) -> Result<Vec<(f64, Duration)>, Box<dyn Error>> {
        let log = fs::read_to_string(self.agent.log())?;
        Ok(log[skip..].lines().filter_map(ack).collect())
    }

    fn log_bytes(&self) -> Result<usize, Box<dyn Error>> {
        Ok(usize::try_from(fs::metadata(self.agent.log())?.len())?)
    }

    fn wait(&self, what: &str, fact: impl Fn(&Agent) -> Option<bool>) -> Result<(), String> {
        wait::until(what, LIMIT, || fact(&self.agent)?.then_some(()))
    }
}

/// What a line of the agent's log says of a live batch.
fn ack(line: &str) -> Option<(f64, Duration)> {
    let (head, took_us) = line.split_once("took_us=")?;
    let took = Duration::from_micros(took_us.split_whitespace().next()?.parse().ok()?);
    let mut clock = head.get(11..26)?.split(':');
    let mut seconds = 0.0;
    for _ in 0..3 {
        seconds = seconds * 60.0 + clock.next()?.parse::<f64>().ok()?;
    }
    Some((seconds, took))
}

/// Median and 99th percentile of acknowledgements.
fn percentiles(acks: &[(f64, Duration)]) -> String {
    let mut took: Vec<Duration> = acks.iter().map(|(_, took)| *took).collect();
    took.sort_unstable();
    let at = |percent: usize| {
        let one = took.get((took.len() * percent / 100).min(took.len().saturating_sub(1)));
        one.copied().unwrap_or_default().as_secs_f64() * 1e3
    };
    format!("p50 {:.1} p99 {:.1} ms of {}", at(50), at(99), took.len())
}

/// Memory and CPU of an agent that is connected and has nothing to catch up.
pub(crate) fn steady(cluster: &Cluster, length: Duration) -> Result<(), Box<dyn Error>> {
    for rate in [100, 1_000] {
        let mut measured = Measured::prepare(cluster, &format!("steady{rate}"), None, "")?;
        measured.agent.run()?;
        let devices = Steady::start(measured.quiet, rate)?;
        thread::sleep(WARM);
        let process = measured.process()?;
        let (cpu, start) = (cpu_seconds(process)?, Instant::now());
        thread::sleep(length);
        let share = (cpu_seconds(process)? - cpu) / start.elapsed().as_secs_f64() * 100.0;
        let (now, highest) = resident(process)?;
        println!(
            "{rate:>6} readings/s: RSS {:.1} MiB, at most {:.1} MiB; {share:.2} % of a core; \
             {:.2} payload bytes a reading",
            mib(now),
            mib(highest),
            measured.agent.number("wire_bytes_total")?
                / measured.agent.number("readings_acked_total")?,
        );
        drop(devices);
    }
    Ok(())
}

/// Bytes that reach the device, and syncs, on one of [`MOUNTS`].
pub(crate) fn disk(
    cluster: &mut Cluster,
    name: &str,
    length: Duration,
) -> Result<(), Box<dyn Error>> {
    let mount = MOUNTS.into_iter().find(|(known, _)| *known == name);
    let (_, options) = mount.ok_or("no such mount")?;
    match Device::mount(cluster.folder(), name, 512 << 20, options) {
        Ok(device) => {
            println!("ext4 mounted with {options}:");
            on_device(cluster, name, &device, length)
        }
        Err(error) => {
            println!("skipped, a loop device needs root: {error}");
            Ok(())
        }
    }
}

fn on_device(
    cluster: &mut Cluster,
    name: &str,
    device: &Device,
    length: Duration,
) -> Result<(), Box<dyn Error>> {
    let data = device.path().join("agent");
    let mut measured = Measured::prepare(cluster, name, Some(&data), "")?;
    measured.agent.run()?;
    let devices = Steady::start(measured.quiet, 100)?;
    for (name, online) in [("online", true), ("offline", false)] {
        if !online {
            cluster.kill_all();
        }
        thread::sleep(WARM);
        let readings = measured.agent.number("readings_total")?;
        let written = device.written()?;
        let mut strace = Command::new("strace")
            .args([
                "-f",
                "-qq",
                "-c",
                "-e",
                "trace=fsync,fdatasync,sync_file_range,msync",
                "-o",
            ])
            .arg(cluster.folder().join("syncs"))
            .args(["-p", &measured.process()?.to_string()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        thread::sleep(length);
        let readings = measured.agent.number("readings_total")? - readings;
        let written = device.written()? - written;
        if let Ok(strace) = &mut strace {
            let pid = strace.id().to_string();
            Command::new("kill").args(["-INT", &pid]).status()?;
            strace.wait()?;
        }
        let syncs = syncs(&cluster.folder().join("syncs"));
        println!(
            "{name:>8}: {:.3} bytes a reading on the device, {} syncs in {} s",
            written as f64 / readings,
            syncs.map_or("no strace: unknown".to_owned(), |count| count.to_string()),
            length.as_secs(),
        );
    }
    drop(devices);
    measured.agent.kill();
    for at in 0..cluster.nodes().len() {
        cluster.run(at)?;
    }
    Ok(cluster.wait_ready()?)
}

/// The sum of the calls in `strace -c`'s table; 0 if there were none.
fn syncs(table: &Path) -> Option<u64> {
    let text = fs::read_to_string(table).ok()?;
    let calls = text.lines().filter(|line| line.contains("sync"));
    Some(
        calls
            .filter_map(|line| line.split_whitespace().nth(3)?.parse::<u64>().ok())
            .sum(),
    )
}

/// From the start of the process to the first reading that it keeps, after SIGKILL with a backlog.
pub(crate) fn start(cluster: &mut Cluster) -> Result<(), Box<dyn Error>> {
    cluster.kill_all();
    for mib_held in [0_u64, 64, 1_024] {
        // What is held is told only now and then, and much may come meanwhile.
        let bound = (mib_held * 4).max(64) << 20;
        let buffer = format!("bytes_max = {bound}\nmax_unsafe_ms = 100");
        let name = format!("start{mib_held}");
        let mut measured = Measured::prepare(cluster, &name, None, &buffer)?;
        measured.agent.run()?;
        let held = |agent: &Agent| agent.number("buffer_bytes").unwrap_or(0.0);
        feed::ballast(measured.quiet, || {
            held(&measured.agent) >= (mib_held << 20) as f64
        })?;
        measured.wait("all of it is on disk", |agent| {
            Some(agent.number("unsafe_readings").ok()? == 0.0)
        })?;
        let bytes = held(&measured.agent);
        measured.agent.kill();
        measured.agent.spawn()?;
        let took = feed::first_answer(measured.agent.line, LIMIT)?;
        measured.agent.wait_up()?;
        let (now, highest) = resident(measured.process()?)?;
        println!(
            "{:>7.0} MiB held: first reading kept {:.0} ms after the start; RSS {:.1} MiB, at most {:.1} MiB",
            bytes / f64::from(1 << 20),
            took.as_secs_f64() * 1e3,
            mib(now),
            mib(highest),
        );
    }
    for at in 0..cluster.nodes().len() {
        cluster.run(at)?;
    }
    Ok(cluster.wait_ready()?)
}

/// A day at 100 values a second, kept while the cluster was away: of one device with twenty fields,
/// and of a hundred with one.
pub(crate) fn drain(cluster: &mut Cluster) -> Result<(), Box<dyn Error>> {
    for (fields, devices) in [(20, 1), (1, 100)] {
        drain_of(cluster, Shape { fields, devices })?;
    }
    Ok(())
}

fn drain_of(cluster: &mut Cluster, shape: Shape) -> Result<(), Box<dyn Error>> {
    let name = format!("drain{}", shape.fields);
    let log = "warn,edge_agent::keeper::account=debug";
    let mut measured = Measured::prepare_with(cluster, &name, log, None, "")?;
    measured.agent.run()?;
    let devices = (
        Steady::start(measured.quiet, 100)?,
        Urgent::start(measured.urgent)?,
    );
    thread::sleep(WARM * 4);
    let idle = measured.acks(0)?;
    // The cluster stays as warm as it is: only this agent looks elsewhere.
    let here = fs::read_to_string(&measured.agent.config)?;
    fs::write(&measured.agent.config, elsewhere(&here, cluster)?)?;
    let connected = |agent: &Agent| agent.status().ok()?["connected"].as_bool();
    measured.wait("the agent is away", |agent| Some(!connected(agent)?))?;
    let lines = feed::history(measured.quiet, DAY, shape)?;
    measured.wait("the day is taken", |agent| {
        Some(agent.number("pending_readings").ok()? >= lines as f64)
    })?;
    measured.wait("the day is on disk", |agent| {
        Some(agent.number("unsafe_readings").ok()? < 2_000.0)
    })?;
    // Nothing of what was measured before counts any more.
    drop(devices);
    measured.agent.kill();
    let skip = measured.log_bytes()?;
    measured.agent.run()?;
    let devices = (
        Steady::start(measured.quiet, 100)?,
        Urgent::start(measured.urgent)?,
    );
    let process = measured.process()?;
    let (before, _) = resident(process)?;
    let held = measured.agent.number("buffer_bytes")?;
    fs::write(&measured.agent.config, here)?;
    measured.wait("the agent is back", connected)?;
    let (cpu, start) = (cpu_seconds(process)?, Instant::now());
    measured.wait("the day is drained", |agent| {
        Some(agent.number("pending_readings").ok()? < 1_000.0)
    })?;
    let took = start.elapsed().as_secs_f64();
    let busy = measured.acks(skip)?;
    let first = busy.first().map_or(0.0, |(at, _)| *at);
    let later: Vec<_> = busy
        .iter()
        .copied()
        .filter(|(at, _)| at - first > SETTLED_SECONDS)
        .collect();
    let (now, highest) = resident(process)?;
    println!(
        "{lines} lines of {} values in {:.1} MiB: {took:.1} s, {:.1} CPU-s of the agent; RSS {:.1} MiB before, \
         {:.1} MiB behind, at most {:.1} MiB; acks of live batches, 100 a second of one reading: \
         {} idle, {} while draining, those that waited for the session with it; {} without",
        shape.fields,
        held / f64::from(1 << 20),
        cpu_seconds(process)? - cpu,
        mib(before),
        mib(now),
        mib(highest),
        percentiles(&idle),
        percentiles(&busy),
        percentiles(&later),
    );
    drop(devices);
    measured.agent.kill();
    Ok(())
}

/// The same configuration with nodes that nobody is.
fn elsewhere(config: &str, cluster: &Cluster) -> Result<String, Box<dyn Error>> {
    let servers = config.lines().find(|line| line.starts_with("servers = "));
    let servers = servers.ok_or("the configuration names no servers")?;
    let nobody = loopback::free_port(cluster.address())?;
    Ok(config.replace(servers, &format!("servers = [\"{nobody}\"]")))
}
