//! What intakes hand over to the keeper, and the bounded way it takes.
//!
//! Bounded in count by the channel and in bytes by a semaphore whose permits travel with the
//! readings: a source that can wait waits here, so a slow disk or uplink slows it down.

use std::sync::Arc;

use shared::reading::{Reading, Value};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

/// Readings of one hand-over.
pub const HANDED_READINGS_MAX: usize = 1_000;
/// Hand-overs that may wait for the keeper.
pub const HANDOVERS_MAX: usize = 256;
/// Bytes of readings that may wait for the keeper; one larger hand-over is taken alone.
pub const HANDED_BYTES_MAX: usize = 16 << 20;

/// Priority classes that there may be.
pub const CLASSES_MAX: usize = 8;

/// Which priority class readings are of: a place in the configuration's list, 0 is the default
/// class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Class(pub u8);

/// By whose clock readings are stamped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Stamp {
    /// Time of day, given by the device or by an agent that knows it.
    #[default]
    Wall,
    /// Nanoseconds since this machine's boot: the agent does not know the time of day yet.
    Boot,
}

/// What readings must have in common to share a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Kind {
    pub class: Class,
    pub stamp: Stamp,
}

/// Readings that one source handed over together, and who wants to know that they are kept.
#[derive(Debug)]
pub struct Handed {
    /// 1 to [`HANDED_READINGS_MAX`], each passed `Reading::check`.
    pub readings: Vec<Reading>,
    /// Of all the readings.
    pub kind: Kind,
    /// `Some`: the source waits. "Kept" is: synced to the agent's journal or acked by the cluster,
    /// whichever is first, for all readings of the hand-over.
    pub kept: Option<oneshot::Sender<Result<(), NotKept>>>,
}

/// Why readings are not kept; the text goes to the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotKept {
    #[error("the agent's buffer is full: send it again later, or give the agent more disk")]
    BufferFull,
    #[error("the reading does not fit in a batch: send fewer or smaller fields")]
    TooLarge,
    #[error("the cluster takes no such batch: it lies among the agent's dead letters, see its log")]
    Refused,
    #[error("the agent is stopping: send it again once it is back")]
    Stopping,
    #[error("the agent's disk failed: see its log, then restart it")]
    Disk,
}

/// The agent stops: nothing more is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the agent is stopping")]
pub struct Stopped;

/// The intakes' side.
#[derive(Debug, Clone)]
pub struct Intakes {
    sender: mpsc::Sender<InTransit>,
    room: Arc<Semaphore>,
}

/// The keeper's side.
#[derive(Debug)]
pub struct Handovers {
    receiver: mpsc::Receiver<InTransit>,
}

#[derive(Debug)]
struct InTransit {
    handed: Handed,
    room: OwnedSemaphorePermit,
}

/// Both ends.
pub fn channel() -> (Intakes, Handovers) {
    let (sender, receiver) = mpsc::channel(HANDOVERS_MAX);
    let room = Arc::new(Semaphore::new(HANDED_BYTES_MAX));
    (Intakes { sender, room }, Handovers { receiver })
}

impl Intakes {
    /// Waits for room: back-pressure for sources that can wait.
    ///
    /// # Errors
    /// The agent stops; the readings are not kept.
    pub async fn hand_over(&self, handed: Handed) -> Result<(), Stopped> {
        let wanted = weight(&handed);
        let room = Arc::clone(&self.room).acquire_many_owned(wanted).await;
        let room = room.map_err(|_| Stopped)?;
        let sent = self.sender.send(InTransit { handed, room }).await;
        sent.map_err(|_| Stopped)
    }

    /// Never waits: for sources that cannot. The source counts what it gets back as dropped.
    ///
    /// # Errors
    /// Gives the readings back when there is no room or the agent stops.
    pub fn try_hand_over(&self, handed: Handed) -> Result<(), Handed> {
        let wanted = weight(&handed);
        let Ok(room) = Arc::clone(&self.room).try_acquire_many_owned(wanted) else {
            return Err(handed);
        };
        self.sender
            .try_send(InTransit { handed, room })
            .map_err(|refused| refused.into_inner().handed)
    }
}

impl Handovers {
    /// The next hand-over; `None` once every [`Intakes`] is gone or after [`Handovers::close`].
    pub async fn receive(&mut self) -> Option<Handed> {
        self.receiver.recv().await.map(InTransit::arrive)
    }

    /// The next hand-over if one waits.
    pub fn try_receive(&mut self) -> Option<Handed> {
        self.receiver.try_recv().ok().map(InTransit::arrive)
    }

    /// Takes nothing more; what was handed over before is still received.
    pub fn close(&mut self) {
        self.receiver.close();
    }
}

impl InTransit {
    fn arrive(self) -> Handed {
        drop(self.room);
        self.handed
    }
}

/// What a hand-over weighs in the channel, in bytes; at most all the room there is.
fn weight(handed: &Handed) -> u32 {
    let bytes = readings_bytes(&handed.readings);
    u32::try_from(bytes.clamp(1, HANDED_BYTES_MAX)).expect("below 4 GiB")
}

/// About what readings take in memory. A run of one shape holds it once.
pub(crate) fn readings_bytes(readings: &[Reading]) -> usize {
    let mut bytes = 0;
    let mut before: Option<&Reading> = None;
    for reading in readings {
        bytes += values_bytes(reading);
        if before.is_none_or(|one| !Arc::ptr_eq(&one.shape, &reading.shape)) {
            bytes += reading.shape.memory_bytes();
        }
        before = Some(reading);
    }
    bytes
}

/// About what a reading takes in memory besides its shape.
fn values_bytes(reading: &Reading) -> usize {
    let text_bytes = |value: &Value| match value {
        Value::Text(text) => text.len(),
        Value::Float(_) | Value::Int(_) | Value::Bool(_) => 0,
    };
    let texts: usize = reading.values.iter().map(text_bytes).sum();
    size_of::<Reading>() + size_of_val(reading.values.as_slice()) + texts
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared::id::TimeNs;

    fn handed(text_bytes: usize) -> Handed {
        let reading = Reading::new(
            "t".to_owned(),
            "d".to_owned(),
            Vec::new(),
            TimeNs(1),
            vec![("f".to_owned(), Value::Text("x".repeat(text_bytes)))],
        );
        Handed {
            readings: vec![reading],
            kind: Kind::default(),
            kept: None,
        }
    }

    #[tokio::test]
    async fn the_way_is_bounded_in_count() {
        let (intakes, mut handovers) = channel();
        for _ in 0..HANDOVERS_MAX {
            intakes.try_hand_over(handed(1)).unwrap();
        }
        assert!(intakes.try_hand_over(handed(1)).is_err());
        assert!(handovers.receive().await.is_some());
        intakes.try_hand_over(handed(1)).unwrap();
    }

    #[tokio::test]
    async fn the_way_is_bounded_in_bytes_and_one_huge_hand_over_passes_alone() {
        let (intakes, mut handovers) = channel();
        intakes.try_hand_over(handed(HANDED_BYTES_MAX * 2)).unwrap();
        assert!(intakes.try_hand_over(handed(1)).is_err());
        assert!(handovers.try_receive().is_some());
        intakes.hand_over(handed(1)).await.unwrap();
        handovers.close();
        assert!(intakes.hand_over(handed(1)).await.is_err());
        assert!(handovers.receive().await.is_some());
        assert!(handovers.receive().await.is_none());
    }
}
