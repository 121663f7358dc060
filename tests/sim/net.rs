//! The wires between simulated nodes: every message takes its time, in order, and may be cut off.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aggregator::cluster::link::{Answerer, CallError, Link, Purpose};
use aggregator::cluster::types::Member;
use aggregator::cluster::wire::Kind;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::time::{Instant, sleep_until, timeout};

/// All wires. Clones are the same net.
#[derive(Clone, Default)]
pub(crate) struct Net(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// Who answers at an address; absent: nobody listens there.
    answerers: HashMap<String, Arc<dyn Answerer>>,
    /// Ordered pairs of addresses between which nothing passes.
    cut: HashSet<(String, String)>,
    wires: HashMap<Wire, Traffic>,
    /// How much longer entries take to an address.
    slow: HashMap<String, Duration>,
    /// How much longer everything takes.
    far: Duration,
    /// Nothing to or from these arrives before then.
    held: HashMap<String, Instant>,
    weather: Weather,
    seed: u64,
    lost: u64,
    late: u64,
}

/// What happens to single messages, in thousandths of them.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Weather {
    pub(crate) lost: u64,
    pub(crate) late: u64,
    pub(crate) late_by: Duration,
}

/// From, to, and for what: messages of one purpose do not overtake each other.
type Wire = (String, String, Purpose);

/// What has passed on one wire.
#[derive(Clone, Copy)]
struct Traffic {
    messages: u64,
    /// When the last message arrives: the next one comes after it.
    busy_until: Instant,
}

/// One node's end of the net.
pub(crate) struct End {
    pub(crate) net: Net,
    pub(crate) name: String,
    pub(crate) incarnation: u64,
}

impl Net {
    pub(crate) fn new(seed: u64) -> Net {
        let net = Net::default();
        net.state().seed = seed;
        net
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn listen(&self, address: &str, answerer: Arc<dyn Answerer>) {
        self.state().answerers.insert(address.to_owned(), answerer);
    }

    pub(crate) fn silence(&self, address: &str) {
        self.state().answerers.remove(address);
    }

    /// Cuts both directions between two nodes.
    pub(crate) fn cut(&self, one: &str, other: &str) {
        let mut state = self.state();
        state.cut.insert((one.to_owned(), other.to_owned()));
        state.cut.insert((other.to_owned(), one.to_owned()));
    }

    /// Cuts one direction.
    pub(crate) fn cut_one_way(&self, from: &str, to: &str) {
        let mut state = self.state();
        state.cut.insert((from.to_owned(), to.to_owned()));
    }

    /// All that goes to or from an address waits until then.
    pub(crate) fn hold(&self, address: &str, until: Instant) {
        self.state().held.insert(address.to_owned(), until);
    }

    /// From now on single messages fare so.
    pub(crate) fn weather(&self, weather: Weather) {
        self.state().weather = weather;
    }

    /// Messages that were lost, and that came late, because of the weather.
    pub(crate) fn weathered(&self) -> (u64, u64) {
        let state = self.state();
        (state.lost, state.late)
    }

    /// Entries take so much longer to this address; what is urgent does not.
    pub(crate) fn slow(&self, address: &str, longer: Duration) {
        self.state().slow.insert(address.to_owned(), longer);
    }

    /// All messages take so much longer.
    pub(crate) fn far(&self, longer: Duration) {
        self.state().far = longer;
    }

    pub(crate) fn heal(&self) {
        let mut state = self.state();
        state.cut.clear();
        state.slow.clear();
        state.held.clear();
    }

    /// Waits for a message to cross; false if it does not.
    async fn cross(&self, from: &str, to: &str, purpose: Purpose) -> bool {
        let wire = (from.to_owned(), to.to_owned(), purpose);
        let (arrival, is_lost) = {
            let state = &mut *self.state();
            let (seed, far, weather) = (state.seed, state.far, state.weather);
            let held = [from, to].map(|end| state.held.get(end).copied());
            let longer = match purpose {
                Purpose::Log => state.slow.get(to).copied().unwrap_or_default(),
                Purpose::Pulse | Purpose::Snapshot => Duration::ZERO,
            };
            let traffic = state.wires.entry(wire.clone()).or_insert(Traffic {
                messages: 0,
                busy_until: Instant::now(),
            });
            traffic.messages += 1;
            let luck = mix(seed ^ 0x77, &wire, traffic.messages) % 1_000;
            let is_lost = luck < weather.lost;
            state.lost += u64::from(is_lost);
            let mut earliest = Instant::now() + delay(seed, &wire, traffic.messages) + longer + far;
            if !is_lost && luck < weather.lost + weather.late {
                state.late += 1;
                earliest += weather.late_by;
            }
            let earliest = held.into_iter().flatten().fold(earliest, Instant::max);
            let arrival = earliest.max(traffic.busy_until + Duration::from_millis(1));
            traffic.busy_until = arrival;
            (arrival, is_lost)
        };
        sleep_until(arrival).await;
        !is_lost && !self.state().cut.contains(&(wire.0, wire.1))
    }
}

/// Between 1 and 16 ms, by the seed, the wire and the number of the message on it: not by what
/// passes elsewhere, so that two messages of one instant do not decide about each other.
fn delay(seed: u64, wire: &Wire, number: u64) -> Duration {
    Duration::from_millis(1 + mix(seed, wire, number) % 16)
}

fn mix(seed: u64, (from, to, purpose): &Wire, number: u64) -> u64 {
    let bytes = from.bytes().chain(to.bytes()).chain([*purpose as u8]);
    bytes.chain(number.to_le_bytes()).fold(seed, |mixed, byte| {
        (mixed ^ u64::from(byte))
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .rotate_left(23)
    })
}

impl Link for End {
    fn call(
        &self,
        to: &Member,
        purpose: Purpose,
        kind: Kind,
        payload: Bytes,
        limit: Duration,
    ) -> BoxFuture<'static, Result<Bytes, CallError>> {
        let (net, from, incarnation) = (self.net.clone(), self.name.clone(), self.incarnation);
        let to = to.address.clone();
        let lost = |why: &str| CallError::Lost {
            address: to.clone(),
            why: why.to_owned(),
        };
        let late = lost("no answer in time");
        let gone = lost("the wire is cut");
        let to = to.clone();
        let talk = async move {
            if !net.cross(&from, &to, purpose).await {
                return None;
            }
            let answerer = net.state().answerers.get(&to).cloned();
            let Some(answerer) = answerer else {
                return Some(Err(CallError::Unreachable {
                    address: to,
                    why: "nobody listens".to_owned(),
                }));
            };
            let answer = answerer.answer(&from, kind, incarnation, payload).await;
            // A node that lost power meanwhile says nothing any more.
            let same = net
                .state()
                .answerers
                .get(&to)
                .is_some_and(|now| Arc::ptr_eq(now, &answerer));
            if !same || !net.cross(&to, &from, purpose).await {
                return None;
            }
            Some(answer.map_err(|why| CallError::Refused { address: to, why }))
        };
        Box::pin(async move {
            match timeout(limit, talk).await {
                Ok(Some(result)) => result,
                Ok(None) => Err(gone),
                Err(_) => Err(late),
            }
        })
    }
}
