//! How a node becomes a member: `init` makes the first one, every other asks to be admitted. The
//! index of the log entry that admits a node is its id, so no id is ever given twice.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::DirEntry;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use journal::{DiskStorage, Storage};
use openraft::storage::{IOFlushed, RaftLogReader, RaftLogStorage};
use openraft::type_config::TypeConfigExt;
use openraft::{EntryPayload, Membership};
use tokio::sync::{Mutex, watch};
use tokio::time::sleep;

use super::identity::{IdentityError, NodeIdentity, Standing};
use super::link::{CallError, Link, Purpose};
use super::log::{Entry, LeaderId, LogError, LogId, LogStore};
use super::types::{CommandBytes, Member, Raft, TypeConfig};
use super::wire::{JoinRequest, Joined, Kind, WireError};
use crate::config::Config;
use crate::state::Command;
use crate::store::Views;

/// The first node's id: the index of the entry that admits it, behind the first membership.
const FIRST_ID: u64 = 1;
const JOIN_LIMIT: Duration = Duration::from_secs(10);
/// Between rounds of asking everybody.
const JOIN_PAUSE: Duration = Duration::from_millis(200);

/// Why a node has no place in a cluster. Who must act: the operator.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    #[error(
        "{folder} is initialised already, as node {name:?}; `run` starts it. To begin again, move \
         the folder away: what it holds is lost then"
    )]
    Initialised { folder: String, name: String },
    #[error(
        "{folder} has no identity, but the Raft log of a node that has run: what that node \
         promised must not be forgotten by a new one. Put its file `identity` back, or name another \
         data_dir"
    )]
    IdentityGone { folder: String },
    #[error(
        "{folder} is empty and the configuration names no peers: make a new cluster with \
         `tributary-aggregator init --config FILE`, once, or name the peers of an existing one"
    )]
    NoCluster { folder: String },
    #[error(
        "this data folder is empty, but the cluster knows a node {name:?} (id {id}) with another \
         disk. What that disk had acknowledged must not be forgotten by a node of the same name: \
         put the disk back, or give this node a new name and certificate"
    )]
    Known { name: String, id: u64 },
    #[error(
        "the address {address}, by which other nodes are to reach this one, is that of node \
         {name:?}: an acknowledgement of the one must not count for the other. Change \
         listen.cluster, or listen.cluster_advertised; another port will do"
    )]
    AddressTaken { address: String, name: String },
    #[error(
        "the Raft log of {owner} is gone, though this node is a member (id {id}): what it \
         promised is lost with it. Move the data folder away and join under a new name"
    )]
    LogGone {
        /// The data folder, or the node's name.
        owner: String,
        id: u64,
    },
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error("cannot open the Raft log: {0}")]
    Log(#[from] LogError),
    #[error("cannot write to {folder}: {source}")]
    Io { folder: String, source: io::Error },
    #[error("no randomness: {0}")]
    Random(String),
    #[error("stopped before a node of the cluster answered")]
    Stopped,
}

/// Makes the first node of a new cluster on an empty disk.
pub async fn init(config: &Config) -> Result<(), JoinError> {
    let folder = config.data_dir.display().to_string();
    let io = |source| JoinError::Io {
        folder: folder.clone(),
        source,
    };
    let disk = DiskStorage::open(&config.data_dir).map_err(io)?;
    if let Some(found) = NodeIdentity::read(&*disk, &config.cluster, &config.name)? {
        let name = found.name;
        return Err(JoinError::Initialised { folder, name });
    }
    let log = LogStore::open(
        disk.directory(super::LOG_FOLDER).map_err(io)?,
        super::log_options(config),
    )?;
    let member = Member {
        name: config.name.clone(),
        address: config.listen.cluster_advertised.clone(),
    };
    begin_log(log, &member).await.map_err(|error| match error {
        BeginError::HasRun => JoinError::IdentityGone {
            folder: folder.clone(),
        },
        BeginError::Io(source) => io(source),
    })?;
    let identity = NodeIdentity {
        cluster: config.cluster.clone(),
        name: config.name.clone(),
        standing: Standing::Member {
            id: FIRST_ID,
            incarnation: random()?,
        },
    };
    // Last: without it the folder counts as empty, and `init` can be done again.
    identity.write(&*disk).map_err(io)
}

/// Why a cluster does not begin in a log.
#[derive(Debug, thiserror::Error)]
pub enum BeginError {
    /// Who must act: the operator.
    #[error("the log is of a node that has run")]
    HasRun,
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Writes the first two entries of a cluster, durable when it returns: its only voter, of id 1, and
/// that voter's admission.
pub async fn begin_log(mut log: LogStore, member: &Member) -> Result<(), BeginError> {
    if log.reader().read_vote().await?.is_some() {
        return Err(BeginError::HasRun);
    }
    let last = log.get_log_state().await?.last_log_id;
    // Not 0: an `init` that ended between the log and the identity, or in the log.
    let next = last.map_or(0, |last| last.index + 1);
    if next > FIRST_ID + 1 {
        return Err(BeginError::HasRun);
    }
    let voters = vec![BTreeSet::from([FIRST_ID])];
    let nodes = BTreeMap::from([(FIRST_ID, member.clone())]);
    let membership = Membership::new(voters, nodes).map_err(io::Error::other)?;
    let admit = Command::Admit {
        name: member.name.clone(),
        address: member.address.clone(),
        joining: 0,
    };
    let entry = |index, payload| Entry {
        log_id: LogId {
            leader_id: LeaderId {
                term: 0,
                node_id: FIRST_ID,
            },
            index,
        },
        payload,
    };
    let mut entries = vec![
        entry(0, EntryPayload::Membership(membership)),
        entry(FIRST_ID, EntryPayload::Normal(CommandBytes(admit.encode()))),
    ];
    entries.retain(|entry| entry.log_id.index >= next);
    if entries.is_empty() {
        return Ok(());
    }
    let (sender, flushed) = TypeConfig::oneshot();
    log.append(entries, IOFlushed::<TypeConfig>::signal(sender))
        .await?;
    Ok(flushed.await.map_err(io::Error::other)??)
}

/// Reads who this node is; on an empty disk, asks the peers until one admits it.
pub(super) async fn settle(
    config: &Config,
    disk: &dyn Storage,
    link: &dyn Link,
    stop: &mut watch::Receiver<bool>,
) -> Result<(u64, u64), JoinError> {
    let folder = config.data_dir.display().to_string();
    let found = NodeIdentity::read(disk, &config.cluster, &config.name)?;
    let joining = match found.map(|found| found.standing) {
        Some(Standing::Member { id, incarnation }) => {
            if !has_journal(&config.data_dir.join(super::LOG_FOLDER)) {
                return Err(JoinError::LogGone { owner: folder, id });
            }
            return Ok((id, incarnation));
        }
        Some(Standing::Joining { joining }) => joining,
        None if config.peers.is_empty() => return Err(JoinError::NoCluster { folder }),
        None if !is_empty(&config.data_dir.join(super::LOG_FOLDER)) => {
            return Err(JoinError::IdentityGone { folder });
        }
        None => random()?,
    };
    let io = |source| JoinError::Io {
        folder: folder.clone(),
        source,
    };
    let identity = |standing| NodeIdentity {
        cluster: config.cluster.clone(),
        name: config.name.clone(),
        standing,
    };
    identity(Standing::Joining { joining })
        .write(disk)
        .map_err(io)?;
    let request = JoinRequest {
        name: config.name.clone(),
        address: config.listen.cluster_advertised.clone(),
        joining,
    };
    let peers: Vec<String> = config
        .peers
        .iter()
        .map(|peer| peer.address.clone())
        .collect();
    let asked = ask_all(&peers, link, &request);
    let (id, incarnation) = tokio::select! {
        biased;
        admitted = asked => admitted?,
        _ = stop.wait_for(|stop| *stop) => return Err(JoinError::Stopped),
    };
    // The log is made before the identity: a member without one is a member that lost it.
    drop(LogStore::open(
        disk.directory(super::LOG_FOLDER).map_err(io)?,
        super::log_options(config),
    )?);
    let member = Standing::Member { id, incarnation };
    identity(member).write(disk).map_err(io)?;
    tracing::info!(id, "this node was admitted to the cluster");
    Ok((id, incarnation))
}

fn is_empty(folder: &Path) -> bool {
    std::fs::read_dir(folder).map_or(true, |mut entries| entries.next().is_none())
}

/// Whether files of a journal are there: spare ones may outlive those that held something.
fn has_journal(folder: &Path) -> bool {
    let is_file = |entry: io::Result<DirEntry>| {
        entry.is_ok_and(|entry| entry.path().extension().is_some_and(|e| e == "journal"))
    };
    std::fs::read_dir(folder).is_ok_and(|mut entries| entries.any(is_file))
}

/// Whether the log of a member is the one that it ran with.
///
/// # Errors
/// `LogGone`: what the store holds came through a log with a vote, and there is none.
pub(super) async fn check_log(
    log: &LogStore,
    durable_index: u64,
    owner: &str,
    id: u64,
) -> Result<(), JoinError> {
    let owner = owner.to_owned();
    let vote = log.reader().read_vote().await;
    match vote {
        Ok(None) if durable_index > 0 => Err(JoinError::LogGone { owner, id }),
        Ok(_) => Ok(()),
        Err(source) => Err(JoinError::Io {
            folder: owner,
            source,
        }),
    }
}

fn random() -> Result<u64, JoinError> {
    getrandom::u64().map_err(|e| JoinError::Random(e.to_string()))
}

/// Asks the peers, and whom they name, until one admits the node: its id and the incarnation.
pub async fn ask_all(
    peers: &[String],
    link: &dyn Link,
    request: &JoinRequest,
) -> Result<(u64, u64), JoinError> {
    loop {
        let mut addresses = peers.to_vec();
        let mut at = 0;
        while let Some(address) = addresses.get(at).cloned() {
            at += 1;
            match ask(link, &address, request).await {
                Ok(Joined::Admitted { id, incarnation }) => return Ok((id, incarnation)),
                Ok(Joined::Known { id }) => {
                    let name = request.name.clone();
                    return Err(JoinError::Known { name, id });
                }
                Ok(Joined::AddressTaken { name }) => {
                    let address = request.address.clone();
                    return Err(JoinError::AddressTaken { address, name });
                }
                Ok(Joined::NotLeader {
                    address: Some(leader),
                }) if !addresses.contains(&leader) => addresses.push(leader),
                Ok(Joined::NotLeader { .. }) => {}
                Err(why) => tracing::debug!(peer = address, why, "does not admit this node yet"),
            }
        }
        sleep(JOIN_PAUSE).await;
    }
}

async fn ask(link: &dyn Link, address: &str, request: &JoinRequest) -> Result<Joined, String> {
    let to = Member {
        name: String::new(),
        address: address.to_owned(),
    };
    let asked = link.call(
        &to,
        Purpose::Pulse,
        Kind::Join,
        request.encode(),
        JOIN_LIMIT,
    );
    let answer = asked.await.map_err(|e: CallError| e.to_string())?;
    Joined::decode(&answer).map_err(|e: WireError| e.to_string())
}

/// The leader's side of it.
pub(super) struct Admission {
    incarnation: u64,
    raft: Raft,
    views: Views,
    // Held over one admission: two at once could not see each other's command.
    one_at_a_time: Mutex<()>,
}

impl Admission {
    pub(super) fn new(incarnation: u64, raft: Raft, views: Views) -> Arc<Admission> {
        Arc::new(Admission {
            incarnation,
            raft,
            views,
            one_at_a_time: Mutex::new(()),
        })
    }

    /// `from`: the name in the certificate of whoever asks.
    pub(super) async fn join(&self, from: &str, request: JoinRequest) -> Result<Joined, String> {
        if from != request.name {
            return Err(format!("{from:?} asks in the name of {:?}", request.name));
        }
        let _one = self.one_at_a_time.lock().await;
        if let Some(known) = self.known(&request) {
            return Ok(known);
        }
        let command = Command::Admit {
            name: request.name.clone(),
            address: request.address.clone(),
            joining: request.joining,
        };
        match self.raft.client_write(CommandBytes(command.encode())).await {
            // What was applied decides: an admission of the same name may have come before.
            Ok(_) => self
                .known(&request)
                .ok_or_else(|| "not admitted".to_owned()),
            Err(error) => match error.forward_to_leader() {
                Some(leader) => Ok(Joined::NotLeader {
                    address: leader.leader_node.as_ref().map(|node| node.address.clone()),
                }),
                None => Err(error.to_string()),
            },
        }
    }

    /// What the members that there are say to it; `None`: nothing against it.
    fn known(&self, request: &JoinRequest) -> Option<Joined> {
        let view = self.views.latest();
        let members = view.state().members();
        if let Some(known) = members.get(&request.name) {
            return Some(if known.joining == request.joining {
                Joined::Admitted {
                    id: known.id,
                    incarnation: self.incarnation,
                }
            } else {
                Joined::Known { id: known.id }
            });
        }
        let mut others = members.iter();
        let (name, _) = others.find(|(_, other)| other.address == request.address)?;
        Some(Joined::AddressTaken { name: name.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::log::{LogOptions, Mode, Vote};

    fn open(folder: &Path) -> LogStore {
        let options = LogOptions {
            journal: journal::Options {
                file_bytes: 1 << 16,
                files_max: 4,
            },
            cached_bytes_max: 1 << 16,
            mode: Mode::Thread,
        };
        LogStore::open(DiskStorage::open(folder).unwrap(), options).unwrap()
    }

    async fn begin(folder: &Path) -> Result<(), BeginError> {
        let member = Member {
            name: "a".to_owned(),
            address: "h:1".to_owned(),
        };
        begin_log(open(folder), &member).await
    }

    async fn append(folder: &Path, index: u64) {
        let leader_id = LeaderId {
            term: 0,
            node_id: FIRST_ID,
        };
        let entry = Entry {
            log_id: LogId { leader_id, index },
            payload: EntryPayload::Blank,
        };
        let (sender, flushed) = TypeConfig::oneshot();
        let flushes = IOFlushed::<TypeConfig>::signal(sender);
        open(folder).append([entry], flushes).await.unwrap();
        flushed.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_first_log_begins_with_its_voter_and_its_admission() {
        let folder = tempfile::tempdir().unwrap();
        for _again in 0..2 {
            begin(folder.path()).await.unwrap();
            let state = open(folder.path()).get_log_state().await.unwrap();
            assert_eq!(state.last_log_id.unwrap().index, FIRST_ID);
        }
    }

    #[tokio::test]
    async fn a_beginning_that_was_cut_short_is_completed() {
        let folder = tempfile::tempdir().unwrap();
        append(folder.path(), 0).await;
        begin(folder.path()).await.unwrap();
        let state = open(folder.path()).get_log_state().await.unwrap();
        assert_eq!(state.last_log_id.unwrap().index, FIRST_ID);
    }

    fn vote() -> Vote {
        let leader_id = LeaderId {
            term: 1,
            node_id: 7,
        };
        Vote {
            leader_id,
            committed: false,
        }
    }

    #[tokio::test]
    async fn no_cluster_begins_in_the_log_of_a_node_that_has_run() {
        let (voted, longer) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for folder in [&voted, &longer] {
            begin(folder.path()).await.unwrap();
        }
        open(voted.path()).save_vote(&vote()).await.unwrap();
        append(longer.path(), FIRST_ID + 1).await;
        for folder in [voted, longer] {
            let refused = begin(folder.path()).await;
            assert!(matches!(refused, Err(BeginError::HasRun)), "{refused:?}");
        }
    }

    /// Spare files once counted as a log: the member began a new one, and could vote twice.
    #[test]
    fn spare_files_are_no_log() {
        let folder = tempfile::tempdir().unwrap();
        assert!(!has_journal(&folder.path().join("none")));
        drop(open(folder.path()));
        assert!(has_journal(folder.path()));
        let names = DiskStorage::open(folder.path()).unwrap().list().unwrap();
        for name in names.iter().filter(|name| name.ends_with(".journal")) {
            std::fs::remove_file(folder.path().join(name)).unwrap();
        }
        assert!(!is_empty(folder.path()));
        assert!(!has_journal(folder.path()));
    }

    #[tokio::test]
    async fn a_store_without_the_log_that_filled_it_is_not_run() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = open(folder.path());
        check_log(&log, 0, "a", 7).await.unwrap();
        let checked = check_log(&log, 1, "a", 7).await;
        assert!(
            matches!(checked, Err(JoinError::LogGone { id: 7, .. })),
            "{checked:?}"
        );
        log.save_vote(&vote()).await.unwrap();
        check_log(&log, 1, "a", 7).await.unwrap();
    }
}
