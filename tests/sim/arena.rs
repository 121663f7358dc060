//! What the tasks of one run share: the nodes, what was handed over and read, and the trace.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use aggregator::cluster::Cluster;
use tests::history::{Breach, History, Read, Rows, Stream};
use tokio::time::Instant;

use crate::plan::{Fault, Plan};
use crate::world::{NAMES, World};

/// See the module. Borrowed for moments, never across a wait.
pub(crate) struct Arena {
    pub(crate) plan: Plan,
    pub(crate) world: RefCell<World>,
    pub(crate) history: RefCell<History>,
    pub(crate) counts: RefCell<BTreeMap<&'static str, u64>>,
    pub(crate) breaches: RefCell<Vec<Breach>>,
    /// What is wrong besides.
    pub(crate) findings: RefCell<Vec<String>>,
    drained: RefCell<BTreeMap<String, bool>>,
    events: RefCell<Vec<String>>,
    began: Instant,
    /// Sources hand over.
    pub(crate) hands_over: Cell<bool>,
    /// Nothing more is to be done.
    pub(crate) over: Cell<bool>,
}

impl Arena {
    pub(crate) fn new(plan: Plan, world: World) -> Arena {
        let history = History::new(plan.content);
        Arena {
            plan,
            world: RefCell::new(world),
            history: RefCell::new(history),
            counts: RefCell::default(),
            breaches: RefCell::default(),
            findings: RefCell::default(),
            drained: RefCell::default(),
            events: RefCell::default(),
            began: Instant::now(),
            hands_over: Cell::new(true),
            over: Cell::new(false),
        }
    }

    /// Since the run began.
    pub(crate) fn now_ns(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).expect("a run takes no centuries")
    }

    pub(crate) fn note(&self, event: impl std::fmt::Display) {
        let event = format!("{} ms: {event}", self.began.elapsed().as_millis());
        if std::env::var_os("TRIBUTARY_SIM_TALK").is_some() {
            eprintln!("{event}");
        }
        self.events.borrow_mut().push(event);
    }

    /// A fault is about to happen: false if it is to be left out.
    pub(crate) fn injects(&self, fault: Fault) -> bool {
        let injects = !self.plan.skipped.contains(&fault);
        if injects {
            *self.counts.borrow_mut().entry(fault.name()).or_default() += 1;
        }
        injects
    }

    pub(crate) fn finding(&self, what: String) {
        self.note(&what);
        self.findings.borrow_mut().push(what);
    }

    pub(crate) fn cluster(&self, at: usize) -> Option<Cluster> {
        self.world.borrow().cluster(at).cloned()
    }

    /// Judges a read of a node that was asked for at `asked_ns`.
    pub(crate) fn judge(&self, at: usize, asked_ns: u64, linearizable: bool, rows: &[Rows]) {
        let read = Read {
            node: NAMES[at].to_owned(),
            asked_ns,
            answered_ns: self.now_ns(),
            linearizable,
        };
        let breaches = self.history.borrow_mut().read(&read, rows);
        self.broken(breaches);
    }

    /// The node that acknowledged a batch shows it, whatever other nodes do.
    pub(crate) fn judge_own(&self, at: usize, stream: &Stream, number: u64, rows: &[Rows]) {
        self.judge(at, self.now_ns(), false, rows);
        let shows = self.history.borrow().is_shown(stream, number, rows);
        if !shows {
            let what = format!("batch {number} of {stream:?} is acknowledged, not visible at once");
            self.finding(format!("node {at}: {what}"));
        }
    }

    /// Whether all that an agent was given is acknowledged.
    pub(crate) fn drained(&self, agent: &str, is_drained: bool) {
        self.drained
            .borrow_mut()
            .insert(agent.to_owned(), is_drained);
    }

    pub(crate) fn all_drained(&self) -> bool {
        let drained = self.drained.borrow();
        drained.len() == self.plan.agents && drained.values().all(|one| *one)
    }

    pub(crate) fn broken(&self, breaches: Vec<Breach>) {
        for breach in &breaches {
            self.note(breach);
        }
        self.breaches.borrow_mut().extend(breaches);
    }

    pub(crate) fn failed(&self) -> bool {
        !self.breaches.borrow().is_empty() || !self.findings.borrow().is_empty()
    }

    pub(crate) fn events(&self) -> Vec<String> {
        self.events.borrow().clone()
    }

    /// FNV-1a over all events.
    pub(crate) fn digest(&self) -> u64 {
        let events = self.events.borrow();
        let bytes = events.iter().flat_map(|event| event.bytes());
        bytes.fold(0xcbf2_9ce4_8422_2325, |digest, byte| {
            (digest ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        })
    }
}
