//! What a record of the Raft log says, in words: `inspect` prints it.

use std::fmt::Write as _;

use bytes::Bytes;
use journal::RecordHead;
use openraft::EntryPayload;
use shared::batch::decode;

use super::layout::{
    Entry, KIND_BLANK, KIND_COMMAND, KIND_COMMITTED, KIND_MEMBERSHIP, KIND_PURGED, KIND_TRUNCATED,
    KIND_VOTE, decode_entry, decode_log_id, decode_vote,
};
use crate::cluster::types::CommandBytes;
use crate::state::{Command, Payload, Quota, Sealing, Submission, TableWish, Window};

/// Whether a record of this kind is an entry, so that its number is an index that is there.
pub(crate) fn is_entry(kind: u8) -> bool {
    matches!(kind, KIND_BLANK | KIND_COMMAND | KIND_MEMBERSHIP)
}

/// What one record says: a line, and one for each submission of a command.
///
/// # Errors
/// Why it is none of the Raft log.
pub(crate) fn meaning(head: RecordHead, payload: &[u8]) -> Result<String, String> {
    let number = head.number;
    match head.kind {
        KIND_TRUNCATED => Ok(format!("truncated: entries from {number} on are gone")),
        KIND_VOTE => {
            let vote = decode_vote(payload).map_err(|error| error.to_string())?;
            let (term, node) = (vote.leader_id.term, vote.leader_id.node_id);
            let committed = if vote.committed { ", committed" } else { "" };
            Ok(format!("vote term {term} node {node}{committed}"))
        }
        kind => {
            let id = decode_log_id(number, payload).map_err(|error| error.to_string())?;
            let (term, node) = (id.leader_id.term, id.leader_id.node_id);
            let what = match kind {
                KIND_PURGED => "purged: the state holds all up to here".to_owned(),
                KIND_COMMITTED => "committed: all up to here, a hint".to_owned(),
                kind => {
                    let payload = Bytes::copy_from_slice(payload);
                    let entry = decode_entry(kind, number, &payload);
                    entry_text(&entry.map_err(|error| error.to_string())?)?
                }
            };
            Ok(format!("index {number} term {term} node {node} {what}"))
        }
    }
}

fn entry_text(entry: &Entry) -> Result<String, String> {
    match &entry.payload {
        EntryPayload::Blank => Ok("blank: a leader begins its term".to_owned()),
        EntryPayload::Normal(CommandBytes(bytes)) => {
            let command = Command::decode(bytes).map_err(|error| error.to_string())?;
            Ok(command_text(&command))
        }
        EntryPayload::Membership(membership) => {
            let voters = membership.get_joint_config();
            let nodes = membership.nodes();
            let nodes: Vec<String> = nodes
                .map(|(id, member)| format!("{id} {} at {}", member.name, member.address))
                .collect();
            let nodes = nodes.join(", ");
            Ok(format!("membership: voters {voters:?}, nodes {nodes}"))
        }
    }
}

fn command_text(command: &Command) -> String {
    match command {
        Command::Submissions(submissions) => {
            let mut text = format!("submissions: {}", submissions.len());
            for submission in submissions {
                write!(text, "\n             {}", submission_text(submission))
                    .expect("writing to a string cannot fail");
            }
            text
        }
        Command::Clock { node, now } => format!("clock of node {node}: {} ns", now.0),
        Command::Merge => "merge".to_owned(),
        Command::Seal(Sealing { window, kept_days }) => {
            let Window { start_hour, hours } = window;
            let which = match kept_days {
                0 => String::new(),
                days => format!(", tables that are kept for {days} days"),
            };
            format!("seal the partition from hour {start_hour}, {hours} hours{which}")
        }
        Command::Retention => "retention".to_owned(),
        Command::Admit {
            name,
            address,
            joining,
        } => format!("admit {name} at {address}, joining {joining:016x}"),
        Command::RetentionDays(days) => format!("retention {days} days"),
        Command::Settings { node, wish } => {
            let said = |value: Option<u32>| value.map_or("unsaid".to_owned(), |it| it.to_string());
            let (days, hours) = (wish.retention_days(), wish.partition_hours());
            let (days, hours) = (said(days), said(hours));
            let quotas = Quota::ALL.into_iter().filter_map(|quota| {
                let most = wish.quotas().of(quota)?;
                Some(format!(", {} {most}", quota.key()))
            });
            let quotas: String = quotas.collect();
            let tables: String = wish.tables().iter().map(of_table).collect();
            format!(
                "settings of node {node}: retention in days {days}, partitions in hours {hours}\
                 {quotas}{tables}"
            )
        }
    }
}

/// What is said of one table.
fn of_table((name, wish): (&String, &TableWish)) -> String {
    let TableWish {
        same_time,
        retention_days,
        rollups,
    } = wish;
    let said = [
        same_time.map(|how| ("same_time", how.as_str().to_owned())),
        retention_days.map(|days| ("retention_days", days.to_string())),
        rollups.as_ref().map(|all| ("rollups", all.to_string())),
    ];
    let said = said.into_iter().flatten();
    said.map(|(key, value)| format!(", {key} of {name:?} {value}"))
        .collect()
}

fn submission_text(submission: &Submission) -> String {
    let agent = &submission.agent;
    let bytes = match &submission.payload {
        Payload::Lines(bytes) => return format!("{agent} {} bytes of lines", bytes.len()),
        Payload::Batch(bytes) => bytes,
    };
    let size = bytes.len();
    match decode(bytes) {
        Ok(batch) => {
            let (header, kind) = (&batch.header, batch.body.kind().as_str());
            let (epoch, lane) = (header.epoch, header.lane.as_str());
            let (from, to) = (batch.first_number().0, header.number.0);
            format!("{agent} {epoch}/{lane} {from} to {to}: {kind}, {size} bytes")
        }
        Err(error) => format!("{agent} {size} bytes: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use shared::id::{AgentId, TimeNs};

    use super::*;
    use crate::state::{Origin, Rollups, SameTime, Wish};

    fn head(kind: u8, number: u64) -> RecordHead {
        RecordHead {
            group: 0,
            kind,
            number,
        }
    }

    /// Term 2, node 3, then a body.
    fn led(body: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend_from_slice(&2_u64.to_le_bytes());
        out.extend_from_slice(&3_u64.to_le_bytes());
        out.extend_from_slice(body);
        out
    }

    #[test]
    fn records_are_told_by_what_they_mean() {
        let batch = include_bytes!("../../../../tests/fixtures/batch/v1/data_live.bin");
        let submission = Submission {
            origin: Origin { boot: 1, ticket: 2 },
            agent: AgentId::parse("gw-1").unwrap(),
            received: TimeNs(0),
            payload: Payload::Batch(Bytes::from_static(batch)),
        };
        let command = Command::Submissions(vec![submission]).encode();
        let text = meaning(head(KIND_COMMAND, 9), &led(&command)).unwrap();
        let expected = "index 9 term 2 node 3 submissions: 1\n             \
                        gw-1 0123456789abcdef/live 1 to 1: data, 122 bytes";
        assert_eq!(text, expected);
        let text = meaning(head(KIND_VOTE, 0), &led(&[1])).unwrap();
        assert_eq!(text, "vote term 2 node 3, committed");
        let text = meaning(head(KIND_BLANK, 4), &led(b"")).unwrap();
        assert!(text.starts_with("index 4 term 2 node 3 blank"), "{text}");
        let text = meaning(head(KIND_TRUNCATED, 4), b"").unwrap();
        assert!(text.contains("from 4 on"), "{text}");
        assert!(is_entry(KIND_BLANK) && !is_entry(KIND_VOTE));
    }

    #[test]
    fn settings_of_tables_are_told() {
        let table = TableWish {
            same_time: None,
            retention_days: Some(30),
            rollups: Some(Rollups::default()),
        };
        let tables = [
            ("a".to_owned(), table),
            ("b".to_owned(), SameTime::Merge.into()),
        ];
        let wish = Wish::new(None, Some(24)).with_tables(tables.into());
        let command = Command::Settings { node: 3, wish }.encode();
        let text = meaning(head(KIND_COMMAND, 9), &led(&command)).unwrap();
        let expected = "retention in days unsaid, partitions in hours 24, retention_days of \"a\" 30, \
                        rollups of \"a\" 1m, 1h, same_time of \"b\" merge";
        assert!(text.ends_with(expected), "{text}");
    }

    #[test]
    fn what_is_no_record_of_the_log_is_refused() {
        assert!(meaning(head(99, 1), &led(b"")).is_err());
        assert!(meaning(head(KIND_COMMAND, 1), b"short").is_err());
        assert!(meaning(head(KIND_COMMAND, 1), &led(b"\xff\xff")).is_err());
    }
}
