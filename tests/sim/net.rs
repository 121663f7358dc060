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
    /// When the last message of a wire arrives: the next one comes after it.
    busy_until: HashMap<(String, String), Instant>,
    seed: u64,
    messages: u64,
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

    pub(crate) fn heal(&self) {
        self.state().cut.clear();
    }

    /// Waits for a message to cross; false if it does not.
    async fn cross(&self, from: &str, to: &str) -> bool {
        let wire = (from.to_owned(), to.to_owned());
        let arrival = {
            let mut state = self.state();
            state.messages += 1;
            // Between 1 and 8 ms, by the seed and the number of the message.
            let mixed = (state.seed ^ state.messages).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 61;
            let earliest = Instant::now() + Duration::from_millis(mixed + 1);
            let after = state.busy_until.get(&wire).copied();
            let after = after.map_or(earliest, |last| last + Duration::from_millis(1));
            let arrival = earliest.max(after);
            state.busy_until.insert(wire.clone(), arrival);
            arrival
        };
        sleep_until(arrival).await;
        !self.state().cut.contains(&wire)
    }
}

impl Link for End {
    fn call(
        &self,
        to: &Member,
        _purpose: Purpose,
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
            if !net.cross(&from, &to).await {
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
            let same = net.state().answerers.get(&to).is_some_and(|now| Arc::ptr_eq(now, &answerer));
            if !same || !net.cross(&to, &from).await {
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
