//! One run: first everything breaks and what reads show must be right, then everything is mended and
//! all must be acknowledged, then every node is asked for everything.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use tests::dice::Dice;
use tests::history::Read;
use tokio::task::LocalSet;
use tokio::time::{Instant, sleep};

use crate::arena::Arena;
use crate::inject::Injector;
use crate::plan::Plan;
use crate::report;
use crate::session::Agent;
use crate::world::{NAMES, World, rows};

/// Virtual time in which everything must be acknowledged once all is mended.
const MENDED_LIMIT: Duration = Duration::from_secs(300);
/// And in which the nodes must once stand at the same entry.
const SAME_LIMIT: Duration = Duration::from_secs(60);

pub(crate) struct Outcome {
    pub(crate) digest: u64,
    pub(crate) events: usize,
    pub(crate) acknowledged: usize,
    pub(crate) simulated: Duration,
    /// By kind.
    pub(crate) faults: BTreeMap<&'static str, u64>,
    /// What a person reads of a run in which a promise was broken.
    pub(crate) report: Option<String>,
}

/// Runs a seed in this process, which must do nothing else.
pub(crate) fn run(seed: u64) -> Outcome {
    aggregator::cluster::seed_randomness(seed | 1 << 40);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime on one thread");
    LocalSet::new().block_on(&runtime, simulate(seed))
}

async fn simulate(seed: u64) -> Outcome {
    let plan = Plan::draw(seed);
    let began = Instant::now();
    let mut world = World::new(seed).with_sizes(plan.sizes.clone());
    world.found().await;
    let arena = Rc::new(Arena::new(plan, world));
    arena.note(format_args!("three nodes; {:?}", arena.plan));
    let mut wanted = Vec::new();
    for nth in 0..arena.plan.agents {
        let fault = Rc::new(Cell::new(None));
        wanted.push(Rc::clone(&fault));
        tokio::task::spawn_local(Agent::new(&arena, nth, seed, fault).run());
    }
    tokio::task::spawn_local(reader(Rc::clone(&arena), seed));
    let mut injector = Injector::new(&arena, seed, wanted);
    injector.run().await;
    arena.hands_over.set(false);
    let faults = faults(&arena);
    let watch = tokio::task::spawn_local(async move { injector.watch().await });
    let mended = Instant::now();
    while !arena.all_drained() {
        if mended.elapsed() > MENDED_LIMIT {
            arena.finding("not everything is acknowledged after all was mended".to_owned());
            break;
        }
        sleep(Duration::from_millis(50)).await;
    }
    judge(&arena).await;
    arena.over.set(true);
    watch.await.expect("the injector does not panic");
    let acknowledged = arena.history.borrow().acknowledged_count();
    Outcome {
        digest: arena.digest(),
        events: arena.events().len(),
        acknowledged,
        simulated: began.elapsed(),
        faults,
        report: arena.failed().then(|| report::of(seed, &arena)),
    }
}

fn faults(arena: &Arena) -> BTreeMap<&'static str, u64> {
    let mut faults = arena.counts.borrow().clone();
    let world = arena.world.borrow();
    let (lost, late) = world.net.weathered();
    let forgotten = (0..3).map(|at| world.disk(at).forgotten()).sum();
    for (kind, count) in [
        ("message_lost", lost),
        ("message_late", late),
        ("write_forgotten_or_torn", forgotten),
    ] {
        *faults.entry(kind).or_default() += count;
    }
    faults
}

/// A client that asks one node after the other for everything.
async fn reader(arena: Rc<Arena>, seed: u64) {
    let mut dice = Dice::new(seed ^ 0x4ead);
    while !arena.over.get() {
        sleep(dice.time(arena.plan.read_every)).await;
        let at = usize::try_from(dice.roll(3)).expect("one of three");
        let Some(cluster) = arena.cluster(at) else {
            continue;
        };
        let asked_ns = arena.now_ns();
        if dice.roll(5) == 0 {
            if let Some(rows) = rows(&cluster.views().latest()) {
                arena.judge(at, asked_ns, false, &rows);
            }
            continue;
        }
        let deadline = Instant::now() + Duration::from_millis(200 + dice.roll(8_000));
        if let Ok(view) = cluster.linearizable(deadline).await
            && let Some(rows) = rows(&view)
        {
            let shown: usize = rows.iter().map(|part| part.seqs.len()).sum();
            arena.note(format_args!("node {at} shows {shown} readings"));
            arena.judge(at, asked_ns, true, &rows);
        }
    }
}

/// Every node shows everything that was kept, once, and all hold the same.
async fn judge(arena: &Arena) {
    for (at, name) in NAMES.into_iter().enumerate() {
        let asked_ns = arena.now_ns();
        let cluster = arena.cluster(at).expect("nobody stops it any more");
        let deadline = Instant::now() + Duration::from_secs(60);
        let view = match cluster.linearizable(deadline).await {
            Ok(view) => view,
            Err(why) => {
                arena.finding(format!("node {at} does not answer: {why}"));
                continue;
            }
        };
        let rows = rows(&view).expect("all power is back");
        let read = Read {
            node: name.to_owned(),
            asked_ns,
            answered_ns: arena.now_ns(),
            linearizable: true,
        };
        let breaches = arena.history.borrow_mut().end(&read, &rows);
        arena.broken(breaches);
    }
    let began = Instant::now();
    loop {
        let views = (0..3).filter_map(|at| Some(arena.cluster(at)?.views().latest()));
        let views: Vec<_> = views.collect();
        let same = |index| views.iter().all(|view| view.index() == index);
        if views.len() == 3 && same(views[0].index()) {
            let states: Vec<_> = views.iter().map(|view| view.state().encode()).collect();
            if states.iter().any(|state| *state != states[0]) {
                arena.finding("at the same entry the nodes' states differ".to_owned());
            }
            return;
        }
        if began.elapsed() > SAME_LIMIT {
            arena.finding("the nodes never stand at the same entry".to_owned());
            return;
        }
        sleep(Duration::from_millis(20)).await;
    }
}
