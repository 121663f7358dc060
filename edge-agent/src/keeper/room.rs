//! What the keeper does where the buffer has little room: it thins what may be thinned, and gives up
//! what cannot be sealed within the bound. The buffer decides; this reads, sums up and seals.

use std::collections::HashMap;

use shared::batch::{Body, SeriesDefinition, decode};
use shared::id::LocalSeriesId;

use super::{Clock, Keeper};
use crate::buffer::thin::Sums;
use crate::buffer::{Place, ThinPlan};
use crate::handed::{Kind, NotKept, Stamp};

impl Keeper {
    /// There is no room for what is open of a kind, and nothing may go for it.
    pub(super) fn give_up_open(&mut self, kind: Kind) {
        let (readings, waiting) = self.batcher.give_up(kind);
        if readings == 0 {
            return;
        }
        tracing::warn!(
            readings,
            class = kind.class.0,
            "the buffer is full of what must not go: new readings are not taken. Let the agent \
             reach the cluster, or give it more disk"
        );
        self.account.not_kept += readings;
        self.buffer.count_refused(kind.class, readings);
        self.waiters.lost(&waiting, NotKept::BufferFull);
    }

    /// Ends a thinning whose result is safe, and begins another where there is still little room.
    pub(super) fn thin(&mut self) {
        let settled = self.buffer.finish_thinning(Clock::wall());
        self.settle(&settled);
        let Some(plan) = self.buffer.plan_thinning() else {
            return;
        };
        let mut sums = Sums::default();
        let (mut summed, mut unreadable) = (Vec::new(), Vec::new());
        for place in &plan.batches {
            if sums.is_full() {
                break;
            }
            if let Some(Body::Data(data)) = self.body(*place) {
                sums.add(&data);
                summed.push(*place);
            } else {
                unreadable.push(*place);
            }
        }
        self.buffer.keep_whole(&unreadable);
        if !self.seal_rest(&plan, sums, &summed) {
            self.buffer.keep_whole(&summed);
        }
    }

    /// Seals the rest of these batches; `false` if there is none that is worth it.
    fn seal_rest(&mut self, plan: &ThinPlan, sums: Sums, summed: &[Place]) -> bool {
        if summed.is_empty() || !sums.pays() {
            return false;
        }
        let definitions = self.definitions(&plan.names, &sums);
        let Some(readings) = sums.into_readings(&definitions) else {
            return false;
        };
        let now = self.clock.now();
        let kind = Kind {
            class: plan.class,
            stamp: Stamp::Wall,
        };
        let Some(collected) = self.batcher.collect(now, kind, readings) else {
            return false;
        };
        let replaced = summed.to_vec();
        let sealed = self
            .buffer
            .seal_thinned(collected, replaced, now, Clock::wall());
        match sealed {
            Ok(batches) => {
                self.account.sealed += batches;
                true
            }
            Err(error) => {
                tracing::error!(%error, "what is left of thinned readings cannot be encoded: they stay whole");
                false
            }
        }
    }

    /// The definitions that sums need.
    fn definitions(
        &self,
        names: &[Place],
        sums: &Sums,
    ) -> HashMap<LocalSeriesId, SeriesDefinition> {
        let mut needed = HashMap::new();
        for place in names {
            if let Some(Body::Names(definitions)) = self.body(*place) {
                let wanted = definitions.into_iter().filter(|one| sums.needs(one.id));
                needed.extend(wanted.map(|one| (one.id, one)));
            }
        }
        needed
    }

    fn body(&self, place: Place) -> Option<Body> {
        let bytes = self.read(place)?;
        decode(&bytes).ok().map(|batch| batch.body)
    }
}
