//! The cluster, as far as an agent can tell: the state machine as it ships, and what it stored of
//! every stream, kept a second time to judge it by.

use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};

use aggregator::state::{Command, Origin, Outcome, Payload, State, Submission};
use bytes::Bytes;
use shared::batch::{Batch, Body, Header, Values, decode, digest};
use shared::id::{AgentId, Digest, Epoch, Lane, TimeNs};
use shared::verdict::{Position, Verdict};

use super::{Breach, Flaw, Promise};

pub(crate) type Stream = (Epoch, Lane);

/// What a number of a stream came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Fate {
    /// A batch without readings.
    Names,
    /// A batch of this one reading.
    Reading(u8),
    /// It will never come.
    Gap,
}

#[derive(Clone)]
pub(crate) struct Cluster {
    state: State,
    /// By number, from 1 on. With the digest of the chain there; of a gap only at its end.
    fates: BTreeMap<Stream, Vec<(Fate, Option<Digest>)>>,
}

fn agent() -> AgentId {
    AgentId::parse("gw").expect("a good name")
}

/// The reading of a batch; `None` if it holds none.
pub(crate) fn reading_of(batch: &Batch) -> Option<u8> {
    let Body::Data(data) = &batch.body else {
        return None;
    };
    match &data.groups[0].series[0].columns[0].values {
        Values::Int(seqs) => u8::try_from(seqs[0]).ok(),
        other => panic!("the model makes no {other:?}"),
    }
}

impl Cluster {
    pub(crate) fn new() -> Cluster {
        Cluster {
            state: State::new(),
            fates: BTreeMap::new(),
        }
    }

    pub(crate) fn position(&self, (epoch, lane): Stream) -> Position {
        self.state.position(&agent(), epoch, lane)
    }

    /// What a number came to; `None`: nothing yet.
    pub(crate) fn fate(&self, stream: Stream, number: u64) -> Option<(Fate, Option<Digest>)> {
        let at = usize::try_from(number).ok()?.checked_sub(1)?;
        self.fates.get(&stream)?.get(at).copied()
    }

    pub(crate) fn has(&self, reading: u8) -> bool {
        let mut all = self.fates.values().flatten();
        all.any(|(fate, _)| *fate == Fate::Reading(reading))
    }

    /// Applies a committed batch, judges what that did, and answers.
    pub(crate) fn commit(
        &mut self,
        bytes: &Bytes,
        dropped: &dyn Fn(Stream, u64) -> bool,
        flaw: Flaw,
    ) -> Result<Verdict, Breach> {
        let batch = decode(bytes).expect("an agent seals what can be decoded");
        let stream = (batch.header.epoch, batch.header.lane);
        let before = self.position(stream);
        let submission = Submission {
            origin: Origin { boot: 1, ticket: 1 },
            agent: agent(),
            received: TimeNs(0),
            payload: Payload::Batch(bytes.clone()),
        };
        let command = Command::Submissions(vec![submission]);
        let effects = self.state.apply(self.state.index() + 1, &command);
        let (_, outcome) = effects.outcomes[0];
        let rows: u64 = effects
            .rows
            .iter()
            .map(aggregator::state::Rows::row_count)
            .sum();
        let is_reading = outcome == Outcome::Stored && reading_of(&batch).is_some();
        if rows != u64::from(is_reading) {
            return Err(Breach::of(
                Promise::Once,
                format!("{rows} rows of {outcome:?}"),
            ));
        }
        let wrongly = match outcome {
            Outcome::Have(_) => flaw == Flaw::StoresAgain,
            Outcome::Gap(_) => flaw == Flaw::TakesBehindHoles,
            Outcome::Fork(_) => flaw == Flaw::BelievesAnyChain,
            Outcome::Stored | Outcome::Names(_) => false,
        };
        if outcome == Outcome::Stored || wrongly {
            self.take(&batch, bytes, dropped, flaw)?;
            let stored = self.fates.get(&stream).map_or(0, Vec::len) as u64;
            let last = self.position(stream).last.0;
            if !wrongly && flaw == Flaw::None && last != stored {
                let what = format!("{stream:?} stands at {last} with {stored} settled");
                return Err(Breach::of(Promise::Order, what));
            }
            return Ok(Verdict::Ok);
        }
        let after = self.position(stream);
        if after != before {
            let what = format!("{outcome:?} moved {before:?} to {after:?}");
            return Err(Breach::of(Promise::Order, what));
        }
        Ok(match outcome {
            Outcome::Stored => Verdict::Ok,
            Outcome::Have(position) => Verdict::Have(Position {
                digest: match flaw {
                    Flaw::ForgetsDigests => Digest::ZERO,
                    _ => position.digest,
                },
                ..position
            }),
            Outcome::Gap(position) => Verdict::Gap(position),
            Outcome::Names(position) => Verdict::Names(position),
            Outcome::Fork(position) => Verdict::Fork(position),
        })
    }

    /// It took effect: what that may be.
    fn take(
        &mut self,
        batch: &Batch,
        bytes: &Bytes,
        dropped: &dyn Fn(Stream, u64) -> bool,
        flaw: Flaw,
    ) -> Result<(), Breach> {
        let Header {
            epoch,
            lane,
            number,
            previous,
            ..
        } = batch.header;
        let stream = (epoch, lane);
        let next = 1 + self.fates.get(&stream).map_or(0, Vec::len) as u64;
        if let Body::Gap(gap) = &batch.body {
            let undropped = (next..=number.0).find(|lost| !dropped(stream, *lost));
            if gap.from.0 > next || undropped.is_some() {
                let what = format!("{gap:?} of {stream:?} took effect before {next}");
                return Err(Breach::of(Promise::Order, what));
            }
            let fates = self.fates.entry(stream).or_default();
            for lost in next..=number.0 {
                let digest = (lost == number.0).then_some(gap.digest_to);
                fates.push((Fate::Gap, digest));
            }
            return Ok(());
        }
        let reading = reading_of(batch);
        let is_again = reading.is_some_and(|reading| self.has(reading)) || number.0 < next;
        if is_again {
            let what = format!("{number:?} of {stream:?}, reading {reading:?}, is stored again");
            return Err(Breach::of(Promise::Once, what));
        }
        if number.0 != next {
            let what = format!("{number:?} of {stream:?} took effect before {next}");
            return Err(Breach::of(Promise::Order, what));
        }
        let altered = u8::from(flaw == Flaw::StoresAnother) << 6;
        let fate = reading.map_or(Fate::Names, |reading| Fate::Reading(reading ^ altered));
        let digest = digest(previous, bytes);
        let fates = self.fates.entry(stream).or_default();
        fates.push((fate, Some(digest)));
        Ok(())
    }
}

/// Entries without effect leave nothing but a higher index, which no rule looks at.
impl Hash for Cluster {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        self.fates.hash(hasher);
        for stream in self.fates.keys() {
            self.position(*stream).hash(hasher);
        }
    }
}
