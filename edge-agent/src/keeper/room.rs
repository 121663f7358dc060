//! What the keeper does where the buffer has little room: it thins what may be thinned, and gives up
//! what cannot be sealed within the bound. The buffer decides; this reads, sums up and seals.

use shared::batch::decode;
use shared::reading::Reading;

use super::Keeper;
use crate::buffer::Place;
use crate::handed::{Class, Kind, NotKept, Stamp};

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

    /// Lets go of what there is no room for.
    pub(super) fn make_room(&mut self) {
        let wall = self.wall();
        let mut settled = self.buffer.make_room(wall);
        while self.load_wanted() {
            settled.add(self.buffer.make_room(wall));
        }
        if settled.readings_lost > 0 {
            tracing::warn!(
                readings = settled.readings_lost,
                "the buffer is full: the oldest readings go"
            );
        }
        self.settle(&settled);
    }

    /// Looks what room the disk has; where it is less than the buffer shall have, people are told.
    pub(super) fn see_space(&mut self) {
        let usage = self.disk.handle.usage();
        if self.buffer.see_space(usage) {
            let text = format!(
                "the disk has room for {} of the {} bytes of buffer.bytes_max: the buffer holds \
                 less until it has more. Free some space, or give the agent a smaller buffer",
                usage.bytes_reserved, usage.bytes_max
            );
            tracing::error!("{text}");
            self.account.trouble(text);
        }
        if usage.disk_full {
            self.make_room();
        }
    }

    /// Ends a thinning whose result is safe, and begins another where there is still little room.
    pub(super) fn thin(&mut self) {
        let wall = self.wall();
        let settled = self.buffer.finish_thinning(wall);
        self.settle(&settled);
        let plan = loop {
            let plan = self.buffer.plan_thinning();
            if plan.is_some() || !self.load_wanted() {
                break plan;
            }
        };
        let Some(plan) = plan else {
            return;
        };
        let rest = plan.sum_up(|place| {
            let bytes = self.read(place)?;
            decode(&bytes).ok().map(|batch| batch.body)
        });
        self.buffer.keep_whole(&rest.unreadable);
        if !self.seal_rest(plan.class, rest.readings, &rest.summed) {
            self.buffer.keep_whole(&rest.summed);
        }
        self.make_room();
    }

    /// Seals what is left of these batches; `false` if that is nothing.
    fn seal_rest(
        &mut self,
        class: Class,
        readings: Option<Vec<Reading>>,
        summed: &[Place],
    ) -> bool {
        let stamp = Stamp::Wall;
        let (now, wall) = (self.clock.now(), self.wall());
        let collected =
            readings.and_then(|rows| self.batcher.collect(now, Kind { class, stamp }, rows));
        let Some(collected) = collected else {
            return false;
        };
        let replaced = summed.to_vec();
        let sealed = self.buffer.seal_thinned(collected, replaced, now, wall);
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
}
