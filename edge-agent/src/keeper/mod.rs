//! The owner of batcher, buffer and window: one loop, one enum of events. It does the I/O that they
//! ask for, tells sources what is kept, and gives an account of itself.

mod account;
mod dead_letters;
pub(crate) mod folder;
mod loading;
mod outage;
pub(crate) mod quarantine;
mod renewal;
mod room;
mod sending;
mod time_of_day;
mod waiters;

use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use journal::{JournalError, Position as DiskPosition, WriterHandle};
use shared::batch::LastEpoch;
use shared::id::AgentId;
use shared::verdict::Verdict;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::batcher::{BatchOptions, Batcher, Fit};
use crate::buffer::{Buffer, BufferOptions, DiskWork, Settled, Unreadable};
use crate::clock::Teller;
use crate::handed::{Handed, Handovers, Kind, NotKept};
use crate::status::Status;
use crate::uplink::{Uplink, UplinkEvent, UplinkOptions};
use crate::window::{Alarm, Outcome, Window, WindowOptions};
use account::Account;
use folder::{Folder, mint_epoch};
use outage::Outage;
use renewal::Renewal;
pub use renewal::Settings;
use time_of_day::TimeOfDay;
use waiters::Waiters;

/// At a stop: how long what is held may still be sent.
const STOP_DRAIN: Duration = Duration::from_secs(5);
/// How often the account is given and files are let go.
const TICK: Duration = Duration::from_millis(500);
/// At the end: how often, and after which pause, is looked whether files that go make room.
const LAST_LOOKS: u32 = 20;
const LAST_PAUSE: Duration = Duration::from_millis(50);
/// Hand-overs taken before anything else is looked at.
const TAKEN_AT_ONCE: usize = 64;
const GOOD_BYE_LIMIT: Duration = Duration::from_millis(500);

/// Everything the keeper needs to know.
#[derive(Debug, Clone)]
pub struct KeeperOptions {
    pub agent: AgentId,
    pub batch: BatchOptions,
    pub buffer: BufferOptions,
    pub window: WindowOptions,
    /// `host:port`, tried in rotation.
    pub servers: Vec<String>,
    pub keep_alive: Duration,
    /// Certificates; new ones are used from the next session on, which begins soon.
    pub tls: watch::Receiver<Arc<rustls::ClientConfig>>,
    /// What replaces the settings above; `None` until they change.
    pub changes: watch::Receiver<Option<Settings>>,
}

/// Why the agent cannot keep anything: whoever runs it must look.
#[derive(Debug, thiserror::Error)]
pub enum KeeperError {
    #[error("{}: {source}; the agent needs a folder of its own that it may write to", path.display())]
    Folder {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{}: another agent uses this folder; stop it or give this one another data_dir", path.display())]
    Locked { path: PathBuf },
    #[error("{error}; the buffer in {} cannot be used: repair the disk, or move the folder away to start without what it holds", path.display())]
    Buffer { path: PathBuf, error: JournalError },
    #[error("{error}; up to {readings} readings that were not acknowledged are lost")]
    NotSaved { error: String, readings: u64 },
}

/// See the module.
pub struct Keeper {
    options: KeeperOptions,
    batcher: Batcher,
    buffer: Buffer,
    window: Window,
    uplink: Uplink,
    handovers: Handovers,
    waiters: Waiters,
    account: Account,
    outage: Outage,
    renewal: Renewal,
    folder: Folder,
    disk: Disk,
    clock: Clock,
    time_of_day: TimeOfDay,
    next_tick: Duration,
}

/// The journal's thread, and the way back from it.
struct Disk {
    handle: WriterHandle,
    thread: JoinHandle<()>,
    done: mpsc::Sender<Synced>,
    synced: mpsc::Receiver<Synced>,
}

type Synced = Result<Vec<DiskPosition>, JournalError>;

/// Time since the start.
struct Clock {
    start: Instant,
}

impl Clock {
    fn start() -> Self {
        Clock {
            start: Instant::now(),
        }
    }

    fn now(&self) -> Duration {
        self.start.elapsed()
    }
}

enum Event {
    Stop,
    Handed(Option<Handed>),
    Synced(Synced),
    Uplink(UplinkEvent),
    Changed,
    Time,
}

impl Keeper {
    /// Locks the folder, recovers what it holds and begins a new epoch, durably. `teller` is what
    /// the intakes' stamps and TLS hear of the time of day.
    ///
    /// # Errors
    /// The folder cannot be used.
    pub fn open(
        options: KeeperOptions,
        handovers: Handovers,
        teller: Teller,
    ) -> Result<Keeper, KeeperError> {
        let clock = Clock::start();
        let epoch = mint_epoch();
        let time_of_day = TimeOfDay::new(teller, options.buffer.dir.clone());
        let opened = Folder::open(&options.buffer, epoch, time_of_day.now())?;
        let mut account = Account::default();
        if let Some(trouble) = opened.trouble {
            account.trouble(trouble);
        }
        let (done, synced) = mpsc::channel(4);
        let window = Window::new(options.window);
        let renewal = Renewal::new(&options);
        let uplink = Uplink::new(UplinkOptions {
            agent: options.agent.clone(),
            servers: options.servers.clone(),
            tls: renewal.tls(),
            in_flight_max: renewal::in_flight_max(options.window),
        });
        tracing::info!(%epoch, held_readings = opened.buffer.readings_pending(), "a new epoch begins");
        Ok(Keeper {
            batcher: Batcher::new(options.batch).with_buffer(options.buffer.bytes_max),
            buffer: opened.buffer,
            window,
            uplink,
            handovers,
            waiters: Waiters::default(),
            account,
            outage: Outage::default(),
            renewal,
            folder: opened.folder,
            disk: Disk {
                handle: opened.handle,
                thread: opened.thread,
                done,
                synced,
            },
            clock,
            time_of_day,
            next_tick: Duration::ZERO,
            options,
        })
    }

    /// The account, given anew at least once a second.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.account.subscribe()
    }

    /// Runs until `stop` is true: then it takes what is handed over already, sends for a while, and
    /// puts the rest on disk.
    ///
    /// # Errors
    /// What is not acknowledged could not be put on disk.
    pub async fn run(mut self, mut stop: watch::Receiver<bool>) -> Result<(), KeeperError> {
        let mut stopping: Option<Duration> = None;
        let mut open = true;
        loop {
            self.work();
            self.renew().await;
            let now = self.clock.now();
            if let Some(limit) = stopping
                && (now >= limit || self.nothing_to_wait_for())
            {
                break;
            }
            let taking = open && !self.buffer.is_behind();
            match self.next_event(&mut stop, taking, stopping).await {
                Event::Stop => {
                    self.handovers.close();
                    while let Some(handed) = self.handovers.try_receive() {
                        self.take(handed);
                    }
                    self.seal_all();
                    open = false;
                    stopping = Some(self.clock.now() + STOP_DRAIN);
                }
                Event::Handed(None) => open = false,
                Event::Handed(Some(handed)) => {
                    self.take(handed);
                    for _ in 0..TAKEN_AT_ONCE {
                        let Some(handed) = self.handovers.try_receive() else {
                            break;
                        };
                        self.take(handed);
                    }
                }
                Event::Synced(result) => self.synced(result),
                Event::Uplink(event) => self.uplink_event(event),
                Event::Changed => self.change(),
                Event::Time => {}
            }
        }
        self.end().await
    }

    /// Nothing that more time would bring to the cluster.
    fn nothing_to_wait_for(&self) -> bool {
        let sent = self.window.in_flight() == 0 && self.buffer.readings_pending() == 0;
        sent || !self.account.is_connected()
    }

    async fn next_event(
        &mut self,
        stop: &mut watch::Receiver<bool>,
        open: bool,
        stopping: Option<Duration>,
    ) -> Event {
        let deadline = self.deadline(stopping);
        let start = self.clock.start;
        tokio::select! {
            // An owner that is gone wants no more either.
            _ = stop.wait_for(|stop| *stop), if stopping.is_none() => Event::Stop,
            Some(result) = self.disk.synced.recv() => Event::Synced(result),
            event = self.uplink.event() => Event::Uplink(event),
            handed = self.handovers.receive(), if open => Event::Handed(handed),
            () = self.renewal.changed() => Event::Changed,
            () = tokio::time::sleep_until(start + deadline) => Event::Time,
        }
    }

    fn deadline(&self, stopping: Option<Duration>) -> Duration {
        let now = self.clock.now();
        let times = [
            Some(self.next_tick),
            self.batcher.due(),
            self.buffer.next_sync_at(),
            self.window.wake_at(now),
            self.window.answer_due(),
            stopping,
        ];
        times.into_iter().flatten().min().unwrap_or(self.next_tick)
    }

    /// Everything that is due: seal, sync, send, tell.
    fn work(&mut self) {
        let now = self.clock.now();
        let due: Vec<Kind> = self.batcher.due_kinds(now).collect();
        for kind in due {
            self.seal(kind);
        }
        self.thin();
        if let Some(work) = self.buffer.next_sync(now, false) {
            self.submit(work);
        }
        self.give_up_silent_session(now);
        if !self.renewal.is_due() {
            self.send(now);
        }
        if now >= self.next_tick {
            self.next_tick = now + TICK;
            self.let_go();
            self.look_at_clock(now);
            self.give_account();
        }
    }

    /// Takes readings over; whoever waits is told at once if they cannot be kept.
    fn take(&mut self, handed: Handed) {
        let Handed {
            readings,
            kind,
            kept,
        } = handed;
        let count = readings.len() as u64;
        let fits = |reading| self.batcher.fit(reading, kind) != Fit::Never;
        let refusal = if self.buffer.refuses(kind.class, kept.is_some()) {
            self.buffer.count_refused(kind.class, count);
            Some(NotKept::BufferFull)
        } else if kept.is_some() && !readings.iter().all(fits) {
            Some(NotKept::TooLarge)
        } else {
            None
        };
        if let Some(why) = refusal {
            self.account.not_kept += count;
            if let Some(kept) = kept {
                // A source that no longer listens needs no answer.
                let _ = kept.send(Err(why));
            }
            return;
        }
        let waiter = kept.map(|kept| self.waiters.add(kept));
        // They came together.
        let now = self.clock.now();
        for reading in readings {
            loop {
                match self.batcher.fit(&reading, kind) {
                    Fit::Yes => {
                        self.account.readings += 1;
                        self.batcher.push(now, reading, kind, waiter);
                        break;
                    }
                    Fit::AfterSeal => self.seal(kind),
                    Fit::AfterEpoch => self.begin_epoch(),
                    Fit::Never => {
                        self.account.not_kept += 1;
                        break;
                    }
                }
            }
        }
        if let Some(waiter) = waiter {
            self.waiters.all_pushed(waiter);
        }
    }

    fn seal_all(&mut self) {
        let open: Vec<Kind> = self.batcher.open_kinds().collect();
        for kind in open {
            self.seal(kind);
        }
    }

    fn seal(&mut self, kind: Kind) {
        let bytes = self.batcher.sealed_bytes_most(kind);
        if !self.buffer.has_room_for(kind.class, bytes) {
            return self.give_up_open(kind);
        }
        let Some(collected) = self.batcher.take(kind) else {
            return;
        };
        let (now, since) = (self.clock.now(), collected.since);
        let waiting = collected.waiters.clone();
        let readings = collected.readings;
        self.waiters.sealed(&waiting);
        let live_max = self.options.window.batches_max;
        let wall = self.wall();
        match self.buffer.seal(collected, live_max, now, since, wall) {
            Ok(batches) => self.account.sealed += batches,
            Err(error) => {
                tracing::error!(%error, readings, "a batch cannot be encoded: its readings are dropped");
                self.account.not_kept += readings;
                self.waiters.lost(&waiting, NotKept::TooLarge);
            }
        }
        self.give_clock();
        self.make_room();
    }

    fn begin_epoch(&mut self) {
        self.seal_all();
        let last = LastEpoch {
            epoch: self.buffer.epoch(),
            ended_cleanly: true,
        };
        self.batcher.new_epoch();
        let epoch = mint_epoch();
        tracing::info!(%epoch, "a new epoch begins");
        let wall = self.wall();
        self.buffer
            .begin_epoch(epoch, Some(last), self.clock.now(), wall);
    }

    fn submit(&mut self, work: DiskWork) {
        let records = match work.into_records(self.disk.handle.reader()) {
            Ok(records) => records,
            Err(unreadable) => return self.not_carried(&unreadable),
        };
        let done = self.disk.done.clone();
        let tell = move |result| {
            // After the keeper nobody counts on it.
            let _ = done.blocking_send(result);
        };
        if let Err(error) = self.disk.handle.append(records, Box::new(tell)) {
            self.synced(Err(error));
        }
    }

    fn not_carried(&mut self, unreadable: &Unreadable) {
        let (error, batches) = (&unreadable.error, unreadable.places.len());
        let text = format!(
            "{batches} batches cannot be read back from the buffer: {error}. Their readings are \
             lost, and the cluster is told; check the disk"
        );
        tracing::error!("{text}");
        self.account.trouble(text);
        for place in &unreadable.places {
            self.set_aside(*place);
        }
        let wall = self.wall();
        let settled = self.buffer.not_carried(&unreadable.places, wall);
        self.settle(&settled);
    }

    fn synced(&mut self, result: Synced) {
        if let Err(error) = &result {
            self.account.trouble(format!("the buffer's disk: {error}"));
        }
        let is_synced = result.is_ok();
        let settled = self.buffer.synced(result);
        self.settle(&settled);
        if is_synced && self.buffer.is_short_of_room() {
            self.let_go();
        }
        if self.buffer.disk_failed() {
            let wall = self.wall();
            let settled = self.buffer.make_room(wall);
            self.settle(&settled);
        }
    }

    fn settle(&mut self, settled: &Settled) {
        let why = if self.buffer.disk_failed() {
            NotKept::Disk
        } else {
            NotKept::BufferFull
        };
        self.settle_as(settled, why);
    }

    /// The same; readings that are lost by it are not kept for this reason.
    fn settle_as(&mut self, settled: &Settled, why: NotKept) {
        self.waiters.kept(&settled.kept);
        self.waiters.lost(&settled.lost, why);
        self.account.settled(settled);
    }

    fn uplink_event(&mut self, event: UplinkEvent) {
        let now = self.clock.now();
        match event {
            UplinkEvent::Due => {
                let streams: Vec<_> = self.buffer.streams().collect();
                let keep_alive = self.window.keep_alive(self.options.keep_alive);
                self.uplink.connect(keep_alive, streams.into_iter());
            }
            UplinkEvent::Connected(welcome) => {
                tracing::info!(server = self.uplink.server(), "connected");
                self.outage.over();
                self.batcher.gather(None);
                self.account.connected(self.uplink.server());
                for (epoch, lane, position) in &welcome.positions {
                    self.load_at(*epoch, *lane, *position);
                }
                let outcome = self.window.connected(
                    now,
                    &welcome.positions,
                    welcome.batch_bytes_max,
                    &mut self.buffer,
                );
                self.outcome(outcome);
                self.cluster_told(welcome.time);
                self.give_account();
            }
            UplinkEvent::Answered(id, Some(verdict)) => {
                let wall = self.wall();
                if let Verdict::Have(position) | Verdict::Gap(position) = verdict
                    && let Some((epoch, lane)) = self.window.stream_of(id)
                {
                    self.load_at(epoch, lane, position);
                }
                let outcome = self
                    .window
                    .answered(now, wall, id, verdict, &mut self.buffer);
                self.outcome(outcome);
            }
            UplinkEvent::Answered(_, None) => {
                self.session_ended("an acknowledgement that is no verdict");
                self.uplink.fail();
            }
            UplinkEvent::Ended(why) => self.session_ended(&why),
            UplinkEvent::TooLarge(why) => {
                self.window.packet_refused();
                self.session_ended(&why);
            }
        }
    }

    fn session_ended(&mut self, why: &str) {
        if let Some(failures) = self.outage.failed(self.clock.now()) {
            tracing::warn!(
                why,
                failures,
                next_server = self.uplink.server(),
                "no session with the cluster: readings stay in the buffer until there is one"
            );
        }
        self.window.disconnected();
        self.gather_offline();
        self.account.disconnected(why);
        self.give_account();
    }

    fn outcome(&mut self, outcome: Outcome) {
        let Outcome {
            settled,
            alarm,
            refused,
            took,
        } = outcome;
        self.settle(&settled);
        if let Some(took) = took {
            self.account.took(took);
        }
        if let Some(place) = refused {
            self.refused(place);
        }
        if let Some(alarm) = alarm {
            self.alarm(alarm);
        }
    }

    fn alarm(&mut self, alarm: Alarm) {
        let text = match alarm {
            Alarm::Fork { epoch, lane } => format!(
                "stream {epoch}/{} was also written by another: is this agent's disk a copy? \
                 Its data stay here and are not sent; a new epoch begins",
                lane.as_str()
            ),
            Alarm::Topic { epoch, lane } => format!(
                "the cluster refuses the topic of {epoch}/{}: does the certificate name this agent?",
                lane.as_str()
            ),
            Alarm::Refused { epoch, lane } => {
                format!(
                    "the cluster refuses a gap record of {epoch}/{}",
                    lane.as_str()
                )
            }
        };
        tracing::error!("{text}");
        self.account.trouble(text);
        if self.buffer.is_forked() {
            self.begin_epoch();
        }
    }

    /// Files of the journal that nothing needs any more.
    fn let_go(&mut self) {
        self.see_space();
        if let Some(before) = self.buffer.release()
            && let Err(error) = self.disk.handle.release(before)
        {
            tracing::warn!(%error, "files of the buffer are not released");
        }
        let work = loop {
            let work = self.buffer.carry(self.disk.handle.usage());
            if work.is_some() || !self.load_wanted() {
                break work;
            }
        };
        if let Some(work) = work {
            self.submit(work);
        }
    }

    fn give_account(&mut self) {
        let oldest = self
            .buffer
            .oldest()
            .into_iter()
            .chain(self.batcher.since())
            .min();
        let now = self.clock.now();
        let (buffer, window, time_of_day) = (&self.buffer, &self.window, &self.time_of_day);
        let open = self.batcher.readings();
        let reserved = self.disk.handle.usage().bytes_reserved;
        self.account.give(|status| {
            status.epoch = buffer.epoch().0;
            status.pending_readings = open + buffer.readings_pending();
            status.in_flight_batches = window.in_flight() as u64;
            status.oldest_unacked_ms = oldest.map_or(0, |oldest| {
                u64::try_from(now.saturating_sub(oldest).as_millis())
                    .unwrap_or(u64::MAX)
                    .max(1)
            });
            status.buffer_bytes = buffer.bytes();
            status.buffer_bytes_max = buffer.bytes_max();
            status.buffer_bytes_reserved = reserved;
            status.buffer_ram_bytes = buffer.ram_bytes();
            status.journal_bytes_written_total = buffer.journal_bytes_written();
            status.unsafe_readings = open + buffer.readings_unsafe();
            status.classes = buffer.classes().collect();
            time_of_day.account(status);
        });
    }

    /// Puts what is left on disk, and says that nothing is missing.
    async fn end(mut self) -> Result<(), KeeperError> {
        self.uplink.close(GOOD_BYE_LIMIT).await;
        self.sync_all().await;
        // What is left of thinned batches is safe now: else both would be there at the next start.
        let wall = self.wall();
        let settled = self.buffer.finish_thinning(wall);
        self.settle(&settled);
        self.sync_all().await;
        let readings = self.buffer.readings_unsafe();
        if readings == 0 && !self.buffer.disk_failed() {
            let work = self.buffer.end_cleanly();
            self.submit(work);
            if self.buffer.is_syncing()
                && let Some(result) = self.disk.synced.recv().await
            {
                self.synced(result);
            }
        }
        self.waiters.stop();
        self.time_of_day.remember();
        let error = self.account.last_error();
        self.account.disconnected("stopped");
        self.give_account();
        let Disk {
            handle,
            thread,
            synced,
            ..
        } = self.disk;
        drop((handle, synced));
        let ended = tokio::task::spawn_blocking(move || thread.join()).await;
        if readings > 0 || !matches!(ended, Ok(Ok(()))) {
            return Err(KeeperError::NotSaved { error, readings });
        }
        Ok(())
    }

    /// Everything that is only in RAM comes to disk, if there is room for it.
    async fn sync_all(&mut self) {
        let mut looks = 0;
        loop {
            if !self.buffer.is_syncing() {
                match self.buffer.next_sync(self.clock.now(), true) {
                    Some(work) => self.submit(work),
                    None if self.buffer.waits_for_room() && looks < LAST_LOOKS => {
                        looks += 1;
                        self.let_go();
                        tokio::time::sleep(LAST_PAUSE).await;
                    }
                    None => break,
                }
            }
            if self.buffer.is_syncing()
                && let Some(result) = self.disk.synced.recv().await
            {
                self.synced(result);
            }
        }
    }
}

#[cfg(test)]
mod tests;
