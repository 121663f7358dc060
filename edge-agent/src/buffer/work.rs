//! What the buffer asks the journal's owner to write.

use bytes::Bytes;
use journal::{Append, JournalError, Position as DiskPosition, Reader};

use super::Place;
use super::record::{batch_head, decode_batch};

/// Work for the journal's owner.
#[derive(Debug)]
pub enum DiskWork {
    /// Sync these, then call [`synced`](super::Buffer::synced).
    Append(Vec<Append>),
    /// Read what is not in memory, append all of it, then call [`synced`](super::Buffer::synced); or,
    /// if some cannot be read, [`not_carried`](super::Buffer::not_carried).
    Carry(Vec<Carried>),
}

/// One record that is written again.
#[derive(Debug)]
pub enum Carried {
    InMemory(Append),
    OnDisk(Place, DiskPosition),
}

/// What is on disk and cannot be read back: all the places, and the first error.
#[derive(Debug)]
pub struct Unreadable {
    pub places: Vec<Place>,
    pub error: JournalError,
}

/// The bytes of a batch, of the payload that its record holds.
pub fn payload_to_batch(payload: &Bytes) -> Option<Bytes> {
    let (_, at) = decode_batch(payload).ok()?;
    Some(payload.slice(at..))
}

impl DiskWork {
    /// The records to append: those that are carried are read first.
    ///
    /// # Errors
    /// Some cannot be read back. None is to be appended then.
    pub fn into_records(self, reader: &Reader) -> Result<Vec<Append>, Unreadable> {
        let carried = match self {
            DiskWork::Append(records) => return Ok(records),
            DiskWork::Carry(carried) => carried,
        };
        let mut records = Vec::with_capacity(carried.len());
        let mut unreadable: Option<Unreadable> = None;
        for one in carried {
            let (place, position) = match one {
                Carried::InMemory(record) => {
                    records.push(record);
                    continue;
                }
                Carried::OnDisk(place, position) => (place, position),
            };
            match reader.read(position) {
                Ok(payload) => records.push(Append {
                    head: batch_head(place.lane, place.to),
                    payload,
                }),
                Err(error) => {
                    let places = Vec::new();
                    let all = unreadable.get_or_insert(Unreadable { places, error });
                    all.places.push(place);
                }
            }
        }
        unreadable.map_or(Ok(records), Err)
    }
}
