//! One feature, one test.

use std::sync::Arc;

use bytes::Bytes;
use journal::{OpenMode, SimStorage, Storage};
use shared::batch::{
    Body, Clock, ClockQuality, Column, Data, Group, SeriesColumns, SeriesDefinition, Values,
};
use shared::id::{AgentId, Lane, LocalSeriesId, TimeNs};
use shared::reading::{FieldType, Value};

use super::agent::{Agent, Link};
use super::{Node, all_rows, table_rows};
use crate::state::{Command, Origin, Outcome, Payload, State, Submission, Window, Wish};
use crate::store::{Scan, SnapshotFiles, Store, StoreError};

pub(super) const DAY: i64 = 86_400_000_000_000;
pub(super) const HOUR: i64 = DAY / 24;

pub(super) fn copy(from: &dyn Storage, to: &dyn Storage, name: &str) {
    let source = from.open(name, OpenMode::Existing).unwrap();
    let mut bytes = vec![0; usize::try_from(source.len().unwrap()).unwrap()];
    source.read_at(0, &mut bytes).unwrap();
    let target = to.open(name, OpenMode::Create).unwrap();
    target.write_at(0, &bytes).unwrap();
    target.sync().unwrap();
}

pub(super) fn submission(agent: &AgentId, payload: Payload) -> Command {
    let origin = Origin { boot: 1, ticket: 1 };
    let received = TimeNs(1000 * DAY);
    Command::Submissions(vec![Submission {
        origin,
        agent: agent.clone(),
        received,
        payload,
    }])
}

/// A node, its log and one agent with one series "truck"/"d1".
pub(super) struct Bench {
    pub(super) node: Node,
    pub(super) agent: Agent,
    pub(super) index: u64,
}

impl Bench {
    pub(super) fn new() -> Self {
        let node = Node::open(&SimStorage::new(7));
        let mut bench = Self {
            node,
            agent: Agent::new("gw", 1),
            index: 0,
        };
        bench.apply(&Command::Clock {
            node: 1,
            now: TimeNs(1000 * DAY),
        });
        let hello = bench.agent.lanes[0][0].clone();
        assert_eq!(bench.send(&hello), Outcome::Stored);
        let fields = ["speed", "on"].map(|name| (name.to_owned(), FieldType::Float));
        let names = bench.agent.define(vec![SeriesDefinition {
            id: LocalSeriesId(0),
            table: "truck".into(),
            device: "d1".into(),
            tags: vec![("line".into(), "3".into())],
            fields: fields.to_vec(),
        }]);
        assert_eq!(bench.send(&names), Outcome::Stored);
        bench
    }

    pub(super) fn apply(&mut self, command: &Command) -> crate::state::Effects {
        self.index += 1;
        self.node.apply(self.index, command)
    }

    pub(super) fn send(&mut self, link: &Link) -> Outcome {
        let id = self.agent.id.clone();
        self.apply(&submission(&id, Payload::Batch(link.bytes.clone())))
            .outcomes[0]
            .1
    }

    fn lines(&mut self, lines: &'static str) {
        let id = self.agent.id.clone();
        let payload = Payload::Lines(Bytes::from_static(lines.as_bytes()));
        assert_eq!(
            self.apply(&submission(&id, payload)).outcomes[0].1,
            Outcome::Stored
        );
    }

    pub(super) fn data(&mut self, times: &[i64], values: Values) -> Link {
        let columns = vec![Column {
            field: 0,
            present: None,
            values,
        }];
        let series = vec![SeriesColumns {
            id: LocalSeriesId(0),
            columns,
        }];
        let group = Group {
            times: times.to_vec(),
            series,
        };
        let link = self.agent.seal(
            Lane::Live,
            Body::Data(Data {
                groups: vec![group],
            }),
        );
        assert_eq!(self.send(&link), Outcome::Stored);
        link
    }

    fn clock(&mut self, offset_ns: i64) -> Link {
        let quality = ClockQuality::Cluster;
        let clock = Clock { offset_ns, quality };
        self.agent.seal(Lane::Names, Body::Clock(clock))
    }

    /// Readings so long after the boot; not sent.
    fn since_boot(&mut self, times: &[i64]) -> Link {
        let columns = vec![Column {
            field: 0,
            present: None,
            values: Values::Float(vec![1.0; times.len()]),
        }];
        let series = vec![SeriesColumns {
            id: LocalSeriesId(0),
            columns,
        }];
        let groups = vec![Group {
            times: times.to_vec(),
            series,
        }];
        self.agent.seal_since_boot(Data { groups })
    }

    fn times(&self) -> Vec<i64> {
        let view = self.node.store.view();
        let rows = table_rows(&view, "truck", i64::MIN..=i64::MAX, None);
        let mut times: Vec<i64> = rows.iter().map(|row| row.time).collect();
        times.sort_unstable();
        times
    }

    pub(super) fn merge(&mut self) {
        self.apply(&Command::Merge);
        assert!(self.node.finish_merges());
    }

    /// Begins to seal the day of most rows here.
    pub(super) fn seal_day(&mut self) {
        let window = Window {
            start_hour: 1000 * 24,
            hours: 24,
        };
        self.apply(&Command::Seal(window.into()));
    }

    /// Its only member, which may tell settings.
    pub(super) fn admit(&mut self) -> u64 {
        self.apply(&Command::Admit {
            name: "a".to_owned(),
            address: "h:1".to_owned(),
            joining: 1,
        });
        self.index
    }

    pub(super) fn files(&self) -> Vec<String> {
        self.node.store.segments().list().unwrap()
    }
}

#[test]
fn lines_and_batches_meet_in_one_table() {
    let mut bench = Bench::new();
    let now = 1000 * DAY;
    bench.data(&[now + 2, now], Values::Float(vec![2.0, 1.0]));
    bench.lines(
        "truck,device=d1,line=3 speed=3.5,load=7i 86400000000000001\nx,device=e f=\"t\"\nx f=1",
    );
    let before = all_rows(&bench.node.store.view());
    assert_eq!(before.len(), 5);
    assert_eq!(
        before
            .iter()
            .filter(|row| row.table == "quarantine")
            .count(),
        1
    );
    bench.merge();
    assert_eq!(all_rows(&bench.node.store.view()), before);
    assert_eq!(bench.files().len(), 1);
    let view = bench.node.store.view();
    assert_eq!(table_rows(&view, "truck", now..=now + 1, None).len(), 2);
    assert_eq!(
        table_rows(&view, "truck", now..=now + 9, Some(vec!["d2".into()])).len(),
        0
    );
    assert_eq!(
        table_rows(&view, "truck", now..=now + 9, Some(vec!["d1".into()])).len(),
        3
    );
    let truck = view.catalog().table("truck").unwrap();
    assert_eq!(truck.tag_keys, ["line"]);
    assert_eq!(truck.fields[1], ("load".to_owned(), FieldType::Int));
    let last = view.last_values(crate::state::SeriesId(0));
    assert_eq!(
        (last[0].time, &last[0].value),
        (TimeNs(now + 2), &Value::Float(2.0))
    );
}

#[test]
fn an_int_field_widens_while_its_ints_are_exact() {
    let mut bench = Bench::new();
    let now = 1000 * DAY;
    bench.data(&[now], Values::Int(vec![5]));
    bench.merge();
    bench.data(&[now + 1], Values::Int(vec![6]));
    bench.data(&[now + 2], Values::Float(vec![0.5]));
    bench.data(&[now + 3, now + 4], Values::Int(vec![7, i64::MAX]));
    for _ in 0..2 {
        let view = bench.node.store.view();
        let rows = table_rows(&view, "truck", i64::MIN..=i64::MAX, None);
        let values: Vec<&str> = rows.iter().map(|row| row.values[0].1.as_str()).collect();
        assert_eq!(
            values,
            ["Float(5.0)", "Float(6.0)", "Float(0.5)", "Float(7.0)"]
        );
        assert_eq!(view.row_count("quarantine"), Some(1));
        bench.merge();
    }
}

#[test]
fn times_since_boot_wait_for_their_clock() {
    let mut bench = Bench::new();
    let boot = 1000 * DAY - 60;
    let early = bench.since_boot(&[7, 60]);
    let names = bench
        .node
        .state
        .position(&bench.agent.id, bench.agent.epoch, Lane::Names);
    assert_eq!(bench.send(&early), Outcome::Names(names));
    assert!(bench.times().is_empty());
    let clock = bench.clock(boot);
    assert_eq!(bench.send(&clock), Outcome::Stored);
    assert_eq!(bench.send(&early), Outcome::Stored);
    assert!(matches!(bench.send(&early), Outcome::Have(_)));
    assert_eq!(bench.times(), [boot + 7, boot + 60]);
    let last = bench
        .node
        .store
        .view()
        .last_values(crate::state::SeriesId(0))[0]
        .time;
    assert_eq!(last, TimeNs(boot + 60));
    // A second one takes its number, and changes nothing.
    let second = bench.clock(boot + DAY);
    assert_eq!(bench.send(&second), Outcome::Stored);
    let later = bench.since_boot(&[90]);
    assert_eq!(bench.send(&later), Outcome::Stored);
    // Times of day are left alone.
    bench.data(&[1000 * DAY + 99], Values::Float(vec![2.0]));
    let expected = [boot + 7, boot + 60, boot + 90, 1000 * DAY + 99];
    assert_eq!(bench.times(), expected);
    bench.merge();
    assert_eq!(bench.times(), expected);
}

#[test]
fn a_clock_is_kept_over_merges_and_snapshots_and_read_again_the_same() {
    let mut bench = Bench::new();
    let clock = bench.clock(1000 * DAY);
    assert_eq!(bench.send(&clock), Outcome::Stored);
    bench.merge();
    let early = bench.since_boot(&[5]);
    let command = submission(&bench.agent.id.clone(), Payload::Batch(early.bytes.clone()));
    bench.apply(&command);
    let expected = all_rows(&bench.node.store.view());
    let before = bench.node.state.encode();
    let merged = bench.node.store.snapshot().unwrap().index;
    let index = bench.index;
    let sim = bench.node.sim.clone();
    drop(bench);
    // What was not merged is read from the log again, on top of the state that was.
    let mut node = Node::open(&sim);
    assert_eq!(node.state.index(), merged);
    node.apply(index, &command);
    assert_eq!(all_rows(&node.store.view()), expected);
    assert_eq!(node.state.encode(), before);
    assert_eq!(State::decode(&before).unwrap().encode(), before);
}

#[test]
fn a_clock_of_nonsense_moves_times_to_their_end_and_fails_nothing() {
    let mut bench = Bench::new();
    let clock = bench.clock(i64::MAX);
    assert_eq!(bench.send(&clock), Outcome::Stored);
    let early = bench.since_boot(&[i64::MIN, 5, i64::MAX]);
    assert_eq!(bench.send(&early), Outcome::Stored);
    let expected = [-1, i64::MAX, i64::MAX];
    assert_eq!(bench.times(), expected);
    bench.merge();
    assert_eq!(bench.times(), expected);
}

#[test]
fn an_unclean_end_and_gap_records_are_shown() {
    let mut bench = Bench::new();
    let now = 1000 * DAY;
    let first = bench.data(&[now], Values::Float(vec![1.0]));
    bench
        .agent
        .seal_gap(Lane::Live, 0, 2, &mut super::Random(1));
    let gap = bench.agent.lanes[Lane::Live as usize][0].clone();
    assert_eq!(bench.send(&gap), Outcome::Stored);
    assert!(matches!(bench.send(&first), Outcome::Have(_)));
    bench.agent.restart(2, false, false);
    let hello = bench.agent.lanes[0][0].clone();
    assert_eq!(bench.send(&hello), Outcome::Stored);
    let rows = bench.node.store.view().gaps();
    let told: Vec<(u64, u64, &str)> = rows
        .iter()
        .map(|row| (row.from, row.to, row.reason.as_str()))
        .collect();
    let unclean = "unclean end, up to 10000 ms may be missing";
    assert_eq!(told, [(2, 3, "overflow"), (0, 0, unclean)]);
    let agents = bench.node.store.view().agents();
    assert_eq!(agents.len(), 3);
    assert_eq!((agents[1].lane, agents[1].last), ("live", 3));
}

/// The width once was that of each node's own configuration, so replicas made other segments.
#[test]
fn a_new_width_of_partitions_leaves_older_segments_as_they_are() {
    let mut bench = Bench::new();
    let (node, now) = (bench.admit(), 1000 * DAY);
    let times = [now - DAY, now - DAY + HOUR];
    for (partition_hours, files) in [(24, 1), (1, 3)] {
        let wish = Wish::new(Some(2), Some(partition_hours));
        bench.apply(&Command::Settings { node, wish });
        bench.data(&times, Values::Float(vec![1.0, 2.0]));
        bench.merge();
        assert_eq!(bench.files().len(), files);
    }
    assert_eq!(bench.node.store.view().row_count("truck"), Some(4));
    let mut at = now;
    for (until, rows) in [(now + DAY + HOUR, 3), (now + 2 * DAY, 0)] {
        while at < until {
            at += HOUR;
            let now = TimeNs(at);
            bench.apply(&Command::Clock { node: 1, now });
        }
        bench.apply(&Command::Retention);
        assert_eq!(bench.node.store.view().row_count("truck"), Some(rows));
    }
}

/// Dropped while a view reads them, files wait for its end; a crash forgot that they were to go.
#[test]
fn what_the_manifest_does_not_name_is_removed_at_open_and_nothing_else() {
    let mut bench = Bench::new();
    let now = 1000 * DAY;
    bench.apply(&Command::RetentionDays(1));
    bench.data(&[now], Values::Float(vec![1.0]));
    bench.merge();
    let view = bench.node.store.view();
    for hour in 1..60 {
        let now = TimeNs(now + hour * HOUR);
        bench.apply(&Command::Clock { node: 1, now });
    }
    bench.apply(&Command::Retention);
    bench.data(&[now + 60 * HOUR], Values::Float(vec![1.0]));
    bench.merge();
    assert_eq!(bench.files().len(), 2, "a view has the first");
    let segments = bench.node.store.segments();
    segments.open("left.tmp", OpenMode::CreateNew).unwrap();
    segments.sync_directory().unwrap();
    bench.node.sim.power_cut();
    // Whoever loses power lets go of nothing.
    std::mem::forget(view);
    let storage = bench.node.sim.as_storage();
    let (store, recovered) = Store::open(&*storage).unwrap();
    assert_eq!(recovered.removed, 2);
    let named = store.snapshot().unwrap().files[0].name.clone();
    assert_eq!(store.segments().list().unwrap(), [named]);
    assert_eq!(store.view().row_count("truck"), Some(1));
    drop(store);
    assert_eq!(Store::open(&*storage).unwrap().1.removed, 0);
}

/// The end of the view once took the file away that the snapshot had named again.
#[test]
fn a_snapshot_names_a_file_again_that_a_view_still_reads() {
    let mut bench = Bench::new();
    let now = 1000 * DAY;
    bench.apply(&Command::RetentionDays(1));
    bench.data(&[now], Values::Float(vec![1.0]));
    bench.merge();
    let SnapshotFiles {
        index,
        raft,
        state,
        files,
        ..
    } = bench.node.store.snapshot().unwrap();
    let view = bench.node.store.view();
    for hour in 1..60 {
        let now = TimeNs(now + hour * HOUR);
        bench.apply(&Command::Clock { node: 1, now });
    }
    bench.apply(&Command::Retention);
    assert_eq!(bench.node.store.view().row_count("truck"), Some(0));
    let snapshot = SnapshotFiles::new(index, raft, state, files);
    let name = snapshot.files[0].name.clone();
    bench.node.store.install(snapshot).unwrap();
    drop(view);
    assert_eq!(bench.node.store.view().row_count("truck"), Some(1));
    bench.node.store.verify(&name).unwrap();
}

/// A new manifest was made in its place, and every segment was taken for one that nobody names.
#[test]
fn segments_without_their_manifest_are_left_alone() {
    let mut bench = Bench::new();
    bench.data(&[1000 * DAY], Values::Float(vec![1.0]));
    bench.merge();
    let files = bench.files();
    let storage = bench.node.sim.as_storage();
    storage.remove("manifest.redb").unwrap();
    let refused = Store::open(&*storage);
    assert!(matches!(refused, Err(StoreError::Damaged { .. })));
    assert_eq!(bench.files(), files);
}

#[test]
fn retention_drops_partitions_and_views_keep_their_files() {
    let mut bench = Bench::new();
    let now = 1000 * DAY;
    bench.apply(&Command::RetentionDays(2));
    bench.data(&[now - DAY, now, 5], Values::Float(vec![1.0, 2.0, 3.0]));
    bench.merge();
    assert_eq!(bench.files().len(), 3);
    let view = bench.node.store.view();
    let mut scan = view.scan(Scan {
        table: "truck".into(),
        fields: vec!["speed".into()],
        time: i64::MIN..=i64::MAX,
        devices: None,
    });
    drop(view);
    let mut at = now;
    while at < now + 2 * DAY + 12 * HOUR {
        at += HOUR;
        bench.apply(&Command::Clock {
            node: 1,
            now: TimeNs(at),
        });
    }
    bench.apply(&Command::Retention);
    assert_eq!(bench.node.store.view().row_count("truck"), Some(1));
    assert_eq!(bench.files().len(), 3, "the scan still reads them");
    assert_eq!(
        scan.by_ref()
            .map(|chunk| chunk.unwrap().times.len())
            .sum::<usize>(),
        3
    );
    drop(scan);
    assert_eq!(bench.files().len(), 1);
    let snapshot = bench.node.store.snapshot().unwrap();
    assert_eq!(snapshot.files.len(), 1);
}

#[test]
fn a_jump_of_the_clock_drops_nothing_before_it_is_confirmed() {
    let mut bench = Bench::new();
    bench.data(&[1000 * DAY], Values::Float(vec![1.0]));
    bench.merge();
    bench.apply(&Command::Clock {
        node: 1,
        now: TimeNs(3000 * DAY),
    });
    assert!(bench.apply(&Command::Retention).job.is_none());
    for _ in 0..250 {
        bench.apply(&Command::Clock {
            node: 1,
            now: TimeNs(3000 * DAY),
        });
    }
    assert!(bench.apply(&Command::Retention).job.is_some());
    assert_eq!(bench.node.store.view().row_count("truck"), Some(0));
}

#[test]
fn leftovers_of_a_merge_that_did_not_end_are_removed() {
    let mut bench = Bench::new();
    bench.data(&[1000 * DAY], Values::Float(vec![1.0]));
    bench.merge();
    let segments = bench.node.store.segments();
    segments
        .open("0000000000000099-0+24.seg", OpenMode::Create)
        .unwrap();
    segments
        .open("0000000000000099-0+24.seg.tmp", OpenMode::Create)
        .unwrap();
    let sim = bench.node.sim.clone();
    drop(bench);
    let node = Node::open(&sim);
    assert_eq!(node.store.segments().list().unwrap().len(), 1);
}

#[test]
fn segments_that_nobody_reads_hold_no_file_open() {
    let mut bench = Bench::new();
    let sim = bench.node.sim.clone();
    sim.limit_open_files(4);
    for nth in 0..20 {
        bench.data(&[1000 * DAY + nth], Values::Float(vec![1.0]));
        bench.merge();
    }
    let expected = all_rows(&bench.node.store.view());
    assert_eq!(expected.len(), 20);
    drop(bench);
    let node = Node::open(&sim);
    assert_eq!(all_rows(&node.store.view()), expected);
    let files = node.store.snapshot().unwrap().files;
    assert_eq!(files.len(), 20);
    for file in files {
        node.store.verify(&file.name).unwrap();
    }
}

#[test]
fn a_merge_that_a_snapshot_overtook_changes_nothing() {
    let mut bench = Bench::new();
    bench.data(&[1000 * DAY], Values::Float(vec![1.0]));
    bench.merge();
    let snapshot = bench.node.store.snapshot().unwrap();
    bench.data(&[1000 * DAY], Values::Float(vec![2.0]));
    bench.apply(&Command::Merge);
    let job = bench.node.jobs.pop().unwrap();
    let index = snapshot.index;
    let state = bench.node.store.install(snapshot).unwrap();
    assert_eq!(state.index(), index);
    assert!(matches!(job.run(), Err(StoreError::Superseded)));
    assert_eq!(bench.node.store.view().row_count("truck"), Some(1));
    let sim = bench.node.sim.clone();
    assert_eq!(Node::open(&sim).state.index(), index);
}

#[test]
fn every_flipped_bit_of_a_segment_is_found_or_harmless() {
    let mut bench = Bench::new();
    let times: Vec<i64> = (0..200).map(|n| 1000 * DAY + n).collect();
    bench.data(&times, Values::Float((0..200).map(f64::from).collect()));
    bench.merge();
    let expected = all_rows(&bench.node.store.view());
    let name = bench.files().pop().unwrap();
    let sim = bench.node.sim.clone();
    let len = bench.node.store.snapshot().unwrap().files[0].len;
    drop(bench);
    let mut found = 0;
    for bit in 0..len * 8 {
        if bit % 8 != (bit / 8) % 8 {
            continue;
        }
        assert!(sim.flip_bit(&format!("segments/{name}"), bit));
        match Store::open(&*sim.as_storage()) {
            Err(error) => {
                assert!(matches!(
                    error,
                    StoreError::Damaged { .. } | StoreError::Version { .. }
                ));
                found += 1;
            }
            Ok((store, _)) => found += u64::from(damaged_or_equal(&store, &name, &expected)),
        }
        assert!(sim.flip_bit(&format!("segments/{name}"), bit));
    }
    assert_eq!(found, len, "every byte is covered by a checksum");
}

/// True if verifying finds the damage; what a scan shows must be right in any case.
fn damaged_or_equal(store: &Store, name: &str, expected: &[super::PlainRow]) -> bool {
    let scan = Scan {
        table: "truck".into(),
        fields: vec!["speed".into()],
        time: i64::MIN..=i64::MAX,
        devices: None,
    };
    let chunks: Result<Vec<_>, _> = store.view().scan(scan).collect();
    match chunks {
        Err(error) => assert!(matches!(error, StoreError::Damaged { .. })),
        Ok(_) => assert_eq!(all_rows(&store.view()), expected),
    }
    matches!(store.verify(name), Err(StoreError::Damaged { .. }))
}

#[test]
fn flipped_bits_of_the_manifest_are_never_believed() {
    let mut bench = Bench::new();
    for n in 0..3 {
        bench.data(&[1000 * DAY + n], Values::Float(vec![1.0]));
        bench.merge();
    }
    let expected = all_rows(&bench.node.store.view());
    let index = bench.node.store.snapshot().unwrap().index;
    let sim = bench.node.sim.clone();
    drop(bench);
    let file = sim
        .as_storage()
        .open("manifest.redb", OpenMode::Existing)
        .unwrap();
    let len = file.len().unwrap();
    let mut bytes = vec![0; usize::try_from(len).unwrap()];
    file.read_at(0, &mut bytes).unwrap();
    let used: Vec<u64> = (0..len)
        .filter(|at| bytes[usize::try_from(*at).unwrap()] != 0)
        .collect();
    let mut found = 0;
    for at in used.iter().step_by(used.len() / 150 + 1) {
        file.write_at(0, &bytes).unwrap();
        file.set_len(len).unwrap();
        file.sync().unwrap();
        sim.flip_bit("manifest.redb", at * 8 + 3);
        match Store::open(&*sim.as_storage()) {
            Ok((store, recovered)) => {
                assert_eq!(recovered.index, index, "byte {at}");
                assert_eq!(all_rows(&store.view()), expected, "byte {at}");
            }
            Err(StoreError::Superseded) => panic!("no merge ran"),
            Err(_) => found += 1,
        }
    }
    assert!(found > 0);
}

#[test]
fn a_failed_sync_leaves_what_was_durable() {
    let mut bench = Bench::new();
    bench.data(&[1000 * DAY], Values::Float(vec![1.0]));
    bench.merge();
    let index = bench.node.store.snapshot().unwrap().index;
    for nth in 1..6 {
        bench.data(&[1000 * DAY], Values::Float(vec![2.0]));
        bench.apply(&Command::Merge);
        let sim = bench.node.sim.clone();
        sim.fail_sync(nth);
        let failed = !bench.node.finish_merges();
        sim.fail_sync(u64::MAX);
        if failed {
            sim.power_cut();
            let (_, recovered) = Store::open(&*sim.as_storage()).unwrap();
            assert!(recovered.index >= index);
            return;
        }
    }
    panic!("no sync failed");
}

#[test]
fn a_view_is_a_picture_of_one_index() {
    let mut bench = Bench::new();
    bench.data(&[1000 * DAY], Values::Float(vec![1.0]));
    let before = bench.node.store.view();
    bench.data(&[1000 * DAY], Values::Float(vec![2.0]));
    bench.lines("other,device=d f=1");
    bench.merge();
    assert_eq!(before.row_count("truck"), Some(1));
    assert_eq!(before.row_count("other"), None);
    assert_eq!(all_rows(&before).len(), 1);
    let views = bench.node.store.views();
    assert_eq!(views.latest().index(), bench.index);
    assert!(Arc::ptr_eq(&views.latest(), &bench.node.store.view()));
    assert_eq!(all_rows(&views.latest()).len(), 3);
}
