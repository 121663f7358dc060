//! Links that carry little, in virtual time.

use super::*;

const STEP: Duration = Duration::from_millis(50);

/// A link of some bytes a second, and half a round trip behind it.
struct SlowLink {
    bytes_per_second: u64,
    half_trip: Duration,
    free_at: Duration,
    under_way: VecDeque<(Duration, u64, Bytes)>,
    answers: VecDeque<(Duration, u64, Verdict)>,
    /// It takes everything and gives nothing.
    dead: bool,
    sessions: u32,
    in_flight_bytes_max: usize,
}

impl SlowLink {
    fn new(bytes_per_second: u64, round_trip: Duration) -> SlowLink {
        SlowLink {
            bytes_per_second,
            half_trip: round_trip / 2,
            free_at: Duration::ZERO,
            under_way: VecDeque::new(),
            answers: VecDeque::new(),
            dead: false,
            sessions: 0,
            in_flight_bytes_max: 0,
        }
    }

    fn begin(&mut self, agent: &mut Agent, cluster: &Cluster) {
        self.under_way.clear();
        self.answers.clear();
        self.free_at = agent.now;
        self.sessions += 1;
        agent.connect(cluster);
    }

    /// A moment passes.
    fn step(&mut self, agent: &mut Agent, cluster: &mut Cluster) {
        agent.now += STEP;
        let now = agent.now;
        while agent.send() {}
        while let Some((id, bytes)) = agent.wire.pop_front() {
            let needs = bytes.len() as u64 * 1_000 / self.bytes_per_second;
            self.free_at = self.free_at.max(now) + Duration::from_millis(needs);
            let arrives = self.free_at + self.half_trip;
            self.under_way.push_back((arrives, id, bytes));
        }
        let in_flight = agent.window.flight_bytes;
        self.in_flight_bytes_max = self.in_flight_bytes_max.max(in_flight);
        let arrived = |at: Option<Duration>| at.is_some_and(|at| at <= now);
        while !self.dead && arrived(self.under_way.front().map(|one| one.0)) {
            let (_, id, bytes) = self.under_way.pop_front().unwrap();
            let heard = now + self.half_trip;
            self.answers.push_back((heard, id, cluster.take(&bytes)));
        }
        while arrived(self.answers.front().map(|one| one.0)) {
            let (_, id, verdict) = self.answers.pop_front().unwrap();
            agent.answers.push_back((id, verdict));
            agent.hear();
        }
        if arrived(agent.window.answer_due()) {
            agent.window.gave_up(now);
            self.begin(agent, cluster);
        }
    }

    fn run(&mut self, agent: &mut Agent, cluster: &mut Cluster, length: Duration) {
        let end = agent.now + length;
        while agent.now < end {
            self.step(agent, cluster);
        }
    }
}

/// A batch that needed longer than an answer was waited for once ended every session, for ever.
#[test]
fn a_batch_that_needs_longer_than_silence_is_borne_gets_through() {
    let disk = SimStorage::new(31);
    let mut cluster = Cluster::default();
    let mut agent = Agent::start(&disk, 1);
    let mut link = SlowLink::new(500, Duration::from_secs(1));
    link.begin(&mut agent, &cluster);
    // About 24 s each.
    agent.seal_wide(0..1_500);
    agent.sync();
    let mut value = 10_000;
    for _ in 0..120 {
        agent.seal(value..value + 1, false);
        agent.sync();
        value += 1;
        link.run(&mut agent, &mut cluster, Duration::from_secs(1));
    }
    let mut rows: HashSet<i64> = (0..1_500).map(wide).collect();
    let stored: HashSet<i64> = cluster.rows.iter().copied().collect();
    assert!(rows.is_subset(&stored), "{} of 1,500", stored.len());
    let sessions = link.sessions;
    assert!(sessions <= 4, "{sessions}");
    // What was learned lasts: the next one is not given up once more.
    agent.seal_wide(2_000..3_500);
    agent.sync();
    link.run(&mut agent, &mut cluster, Duration::from_secs(400));
    assert_eq!(agent.buffer.readings_pending(), 0);
    assert_eq!(link.sessions, sessions);
    rows.extend((2_000..3_500).map(wide));
    rows.extend(10_000..value);
    check(&cluster, &rows, 0);
    assert_eq!(cluster.gaps, []);
}

#[test]
fn little_waits_in_a_slow_link_and_much_in_a_quick_one() {
    for (bytes_per_second, bytes_min, bytes_max) in
        [(2_000, 0, 20 << 10), (8_000_000, 40_000, 1 << 20)]
    {
        let disk = SimStorage::new(32);
        let mut cluster = Cluster::default();
        let mut agent = Agent::start(&disk, 1);
        let options = WindowOptions {
            batches_max: 1_000,
            ..WINDOW
        };
        agent.window = Window::new(options);
        for batch in 0..180 {
            agent.seal_wide(batch * 100..(batch + 1) * 100);
            agent.sync();
        }
        let mut link = SlowLink::new(bytes_per_second, Duration::from_millis(200));
        link.begin(&mut agent, &cluster);
        link.run(&mut agent, &mut cluster, Duration::from_secs(120));
        let reached = link.in_flight_bytes_max;
        assert!((bytes_min..=bytes_max).contains(&reached), "{reached}");
        assert_eq!(link.sessions, 1);
        assert!(agent.window.flight_bytes <= bytes_max);
        assert_eq!(agent.lost, 0);
        if bytes_per_second > 10_000 {
            assert_eq!(agent.buffer.readings_pending(), 0);
        }
    }
}

#[test]
fn a_link_that_goes_dead_is_given_up_soon() {
    let disk = SimStorage::new(33);
    let mut cluster = Cluster::default();
    let mut agent = Agent::start(&disk, 1);
    let mut link = SlowLink::new(1_000_000, Duration::from_millis(100));
    link.begin(&mut agent, &cluster);
    agent.seal_wide(0..1_200);
    agent.sync();
    link.run(&mut agent, &mut cluster, Duration::from_secs(5));
    assert_eq!(agent.buffer.readings_pending(), 0);
    link.dead = true;
    agent.seal_wide(2_000..3_200);
    agent.sync();
    link.run(&mut agent, &mut cluster, Duration::from_secs(12));
    assert_eq!(link.sessions, 2);
    link.dead = false;
    link.run(&mut agent, &mut cluster, Duration::from_secs(5));
    assert_eq!(agent.buffer.readings_pending(), 0);
}

/// While live batches go the backlog leaves the way to them and gets on all the same.
#[test]
fn the_backlog_queues_up_only_where_nothing_is_live() {
    let disk = SimStorage::new(34);
    let mut cluster = Cluster::default();
    let mut agent = Agent::start(&disk, 1);
    let options = WindowOptions {
        batches_max: 1_000,
        ..WINDOW
    };
    agent.window = Window::new(options);
    for batch in 0..180 {
        agent.seal_wide(batch * 300..(batch + 1) * 300);
        agent.sync();
    }
    let mut link = SlowLink::new(10_000, Duration::from_millis(100));
    link.begin(&mut agent, &cluster);
    let mut value = 1_000_000;
    let before = agent.buffer.readings_pending();
    for _ in 0..8 {
        for _ in 0..20 {
            agent.seal(value..value + 1, false);
            value += 1;
            link.step(&mut agent, &mut cluster);
        }
        agent.sync();
    }
    assert!(agent.buffer.readings_pending() < before * 9 / 10);
    let beside_live = std::mem::take(&mut link.in_flight_bytes_max);
    link.run(&mut agent, &mut cluster, Duration::from_secs(15));
    let alone = link.in_flight_bytes_max;
    assert!(beside_live <= 20 << 10, "{beside_live}");
    assert!(alone > 2 * beside_live, "{alone} and {beside_live}");
}
