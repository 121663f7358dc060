//! What must never be seen, in a state and in what comes of it once nothing breaks any more.

use std::hash::{Hash, Hasher};

use shared::id::{Epoch, Lane};

use super::cluster::Fate;
use super::world::{Action, World};
use super::{Breach, Mixer, Promise};

/// Steps in which everything must have come through once nothing breaks any more.
const MENDED_STEPS: usize = 200;

impl World {
    /// Each process believes of the cluster only what is so.
    pub(super) fn judge(&self) -> Result<(), Breach> {
        for core in &self.cores {
            let epochs: Vec<Epoch> = core.buffer.epochs().collect();
            for (epoch, lane) in epochs
                .iter()
                .flat_map(|epoch| Lane::ALL.map(|lane| (*epoch, lane)))
            {
                let stream = (epoch, lane);
                let acked = core.buffer.acked(epoch, lane);
                if acked.last.0 == 0 {
                    continue;
                }
                let Some((_, digest)) = self.cluster.fate(stream, acked.last.0) else {
                    let what = format!("{stream:?} is acknowledged up to {:?}", acked.last);
                    return Err(Breach::of(Promise::Acknowledged, what));
                };
                let own = core.own.iter().filter(|((of, _), _)| *of == stream);
                let mut own = own.filter(|((_, number), _)| *number <= acked.last.0);
                let is_other = |number: u64, reading: u8| match self.cluster.fate(stream, number) {
                    Some((Fate::Reading(stored), _)) => stored != reading,
                    Some((Fate::Gap, _)) => !self.dropped.contains(&(stream, number)),
                    Some((Fate::Names, _)) | None => true,
                };
                let other = own.find(|((_, number), reading)| is_other(*number, **reading));
                if other.is_some() || digest.is_some_and(|digest| digest != acked.digest) {
                    let what = format!("{stream:?} is acknowledged up to {acked:?}: {other:?}");
                    return Err(Breach::of(Promise::Unaltered, what));
                }
            }
            if !self.is_cloned && !core.forked.is_empty() {
                let what = format!("{:?} without another writer", core.forked);
                return Err(Breach::of(Promise::OneWriter, what));
            }
        }
        Ok(())
    }

    /// The same once nothing is on its way and nobody is connected; `lose_power`: and every process
    /// started anew, from what its disk is known to hold.
    pub(crate) fn mended(&self, lose_power: bool) -> World {
        let mut world = self.clone();
        world.limits = world.limits.without_faults();
        for of in 0..world.cores.len() {
            if lose_power {
                world.crash(of, false);
                world.settle();
            } else {
                let kept = world.cores[of].synced(world.flaw);
                world.kept.extend(kept);
                world.cores[of].session = None;
            }
        }
        world.pool.clear();
        world.late.clear();
        world
    }

    pub(crate) fn lasting_key(&self) -> u64 {
        let mut hasher = Mixer::default();
        self.lasting().hash(&mut hasher);
        hasher.finish()
    }

    /// Whether everything comes through from here if nothing breaks any more.
    pub(crate) fn comes_through(mut self) -> Result<(), Breach> {
        for of in 0..self.cores.len() {
            let mut steps = 0..MENDED_STEPS;
            while self.cores[of].buffer.readings_pending() > 0 && steps.next().is_some() {
                self.moves_on(of)?;
            }
            self.cores[of].session = None;
            let is_stuck = self.cores[of].buffer.readings_pending() > 0;
            if is_stuck && self.cores[of].forked.is_empty() {
                let pending = self.cores[of].buffer.streams().collect::<Vec<_>>();
                let what = format!("what is held of {pending:?} never comes through");
                return Err(Breach::of(Promise::NoDeadEnd, what));
            }
        }
        self.judge()?;
        let lost = self
            .kept
            .iter()
            .find(|reading| !self.is_accounted_for(**reading));
        match lost {
            Some(lost) => {
                let what = format!("reading {lost} was kept and does not come");
                Err(Breach::of(Promise::Kept, what))
            }
            None => Ok(()),
        }
    }

    /// One step that needs no luck.
    pub(super) fn moves_on(&mut self, of: usize) -> Result<(), Breach> {
        let action = if !self.pool.is_empty() {
            Action::Commit(0)
        } else if self.cores[of].session.is_none() {
            Action::Connect(of)
        } else {
            Action::Hear(of)
        };
        if !self.does(action)? {
            self.cores[of].session = None;
        }
        self.settle();
        Ok(())
    }

    /// Stored, listed in a gap, or held where another wrote the stream, of which there is an alarm.
    fn is_accounted_for(&self, reading: u8) -> bool {
        let mut own = self.cores.iter().flat_map(|core| {
            let own = core.own.iter();
            own.map(move |((stream, number), of)| (core, *stream, *number, *of))
        });
        self.cluster.has(reading)
            || own.any(|(core, stream, number, of)| {
                let is_gap = self.dropped.contains(&(stream, number));
                of == reading && (is_gap || core.forked.contains(&stream))
            })
    }
}
