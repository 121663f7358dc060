//! Who this node is, on its disk beside the log: the id that the cluster gave it and the life of
//! the cluster that it belongs to. An empty disk has none. Described in docs/formats.md.

use std::io;

use journal::{OpenMode, Storage};

use crate::state::bytes::{ReadFault, Reader, Writer};

const FILE: &str = "identity";
const NEW_FILE: &str = "identity.new";
const MAGIC: &[u8; 4] = b"TRID";
const VERSION: u16 = 1;
const BYTES_MAX: u64 = 4096;

/// What a node knows of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeIdentity {
    pub cluster: String,
    pub name: String,
    pub standing: Standing,
}

/// How far it got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It asks to be admitted, under this number.
    Joining { joining: u64 },
    /// Its id is the index of the log entry that admitted it.
    Member { id: u64, incarnation: u64 },
}

/// Why there is no identity to go by. Who must act: the operator.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("cannot read or write the node's identity: {0}")]
    Io(#[from] io::Error),
    #[error(
        "the node's identity file is damaged ({0}): this disk cannot be trusted; move the data \
         folder away and let the node rejoin as a new one"
    )]
    Damaged(&'static str),
    #[error("the node's identity file has version {0}, this program reads version 1")]
    Version(u16),
    #[error(
        "the data folder belongs to node {found:?} of cluster {cluster:?}; the configuration says \
         otherwise: name another data_dir"
    )]
    Other { found: String, cluster: String },
}

impl From<ReadFault> for IdentityError {
    fn from(fault: ReadFault) -> Self {
        match fault {
            ReadFault::Short => Self::Damaged("it ends early"),
            ReadFault::Invalid(what) => Self::Damaged(what),
        }
    }
}

impl NodeIdentity {
    /// The identity on this disk; `None` on an empty one.
    pub fn read(
        storage: &dyn Storage,
        cluster: &str,
        name: &str,
    ) -> Result<Option<NodeIdentity>, IdentityError> {
        match Self::found(storage)? {
            Some(found) if found.cluster != cluster || found.name != name => {
                Err(IdentityError::Other {
                    found: found.name,
                    cluster: found.cluster,
                })
            }
            found => Ok(found),
        }
    }

    /// The identity on this disk, whoever's it is; `None` on an empty one.
    pub fn found(storage: &dyn Storage) -> Result<Option<NodeIdentity>, IdentityError> {
        if !storage.list()?.iter().any(|file| file == FILE) {
            return Ok(None);
        }
        let file = storage.open(FILE, OpenMode::Existing)?;
        let len = file.len()?;
        if len > BYTES_MAX {
            return Err(IdentityError::Damaged("it is too long"));
        }
        let mut bytes = vec![0; usize::try_from(len).expect("below BYTES_MAX")];
        file.read_at(0, &mut bytes)?;
        Ok(Some(Self::decode(&bytes)?))
    }

    /// Replaces the identity on this disk; durable when it returns.
    pub fn write(&self, storage: &dyn Storage) -> io::Result<()> {
        let file = storage.open(NEW_FILE, OpenMode::Create)?;
        let bytes = self.encode();
        file.set_len(0)?;
        file.write_at(0, &bytes)?;
        file.sync()?;
        storage.rename(NEW_FILE, FILE)?;
        storage.sync_directory()
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.out.extend_from_slice(MAGIC);
        out.u16(VERSION);
        out.text(&self.cluster);
        out.text(&self.name);
        match self.standing {
            Standing::Joining { joining } => {
                out.u8(0);
                out.u64(joining);
            }
            Standing::Member { id, incarnation } => {
                out.u8(1);
                out.u64(id);
                out.u64(incarnation);
            }
        }
        out.checked()
    }

    fn decode(bytes: &[u8]) -> Result<NodeIdentity, IdentityError> {
        let mut from = Reader::checked(bytes)?;
        if from.take(MAGIC.len())? != MAGIC {
            return Err(IdentityError::Damaged("it does not start like one"));
        }
        let version = from.u16()?;
        if version != VERSION {
            return Err(IdentityError::Version(version));
        }
        let (cluster, name) = (from.text()?.to_owned(), from.text()?.to_owned());
        let standing = match from.u8()? {
            0 => Standing::Joining {
                joining: from.u64()?,
            },
            1 => Standing::Member {
                id: from.u64()?,
                incarnation: from.u64()?,
            },
            _ => return Err(IdentityError::Damaged("an unknown standing")),
        };
        from.end()?;
        Ok(NodeIdentity {
            cluster,
            name,
            standing,
        })
    }
}

#[cfg(test)]
mod tests {
    use journal::SimStorage;

    use super::*;

    fn identity(standing: Standing) -> NodeIdentity {
        NodeIdentity {
            cluster: "demo".to_owned(),
            name: "a".to_owned(),
            standing,
        }
    }

    #[test]
    fn it_is_read_back_survives_a_power_cut_and_fits_its_owner_only() {
        let sim = SimStorage::new(1);
        let disk = sim.as_storage();
        let read = |name| NodeIdentity::read(&*disk, "demo", name);
        assert!(read("a").unwrap().is_none(), "an empty disk has none");
        for standing in [
            Standing::Joining { joining: 9 },
            Standing::Member {
                id: 7,
                incarnation: 8,
            },
        ] {
            identity(standing).write(&*disk).unwrap();
            assert_eq!(read("a").unwrap(), Some(identity(standing)));
        }
        assert!(matches!(read("b"), Err(IdentityError::Other { .. })));
    }

    #[test]
    fn no_damaged_byte_passes() {
        let good = identity(Standing::Joining { joining: 1 }).encode();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            assert!(NodeIdentity::decode(&bad).is_err(), "{at}");
        }
    }
}
