//! Tables that are kept for times of their own, apart from the random histories.

use std::time::Duration;

use bytes::Bytes;
use journal::{OpenMode, SimStorage};
use shared::id::{AgentId, TimeNs};

use super::features::{DAY, HOUR, submission};
use super::{Node, all_rows};
use crate::state::{Command, Payload, SameTime, Sealing, TableWish, Wish};

pub(super) const NOW: i64 = 1000 * DAY;

/// A node that is told of by its only member, and to which lines are sent.
pub(super) struct Bench {
    pub(super) node: Node,
    index: u64,
    now: i64,
}

impl Bench {
    /// The cluster keeps rows for three days.
    pub(super) fn new() -> Self {
        let node = Node::open(&SimStorage::new(7));
        let (index, now) = (0, NOW);
        let mut bench = Self { node, index, now };
        bench.apply(&Command::Admit {
            name: "a".to_owned(),
            address: "h:1".to_owned(),
            joining: 1,
        });
        bench.apply(&Command::RetentionDays(3));
        bench.advance(0);
        bench
    }

    pub(super) fn apply(&mut self, command: &Command) {
        self.index += 1;
        self.node.apply(self.index, command);
    }

    /// Hours later, as clocks tell it that agree.
    pub(super) fn advance(&mut self, hours: i64) {
        for _ in 0..=hours {
            let now = TimeNs(self.now);
            self.apply(&Command::Clock { node: 1, now });
            self.now += HOUR;
        }
        self.now -= HOUR;
    }

    pub(super) fn keep(&mut self, tables: &[(&str, u32)]) {
        let wish = |(table, days): &(&str, u32)| {
            let same_time = table.starts_with("merging").then_some(SameTime::Merge);
            let wish = TableWish {
                same_time,
                retention_days: (*days > 0).then_some(*days),
                rollups: None,
            };
            ((*table).to_owned(), wish)
        };
        let tables = tables.iter().map(wish).collect();
        let wish = Wish::default().with_tables(tables);
        self.apply(&Command::Settings { node: 1, wish });
    }

    /// One row of each table, at a time in hours from `NOW`.
    pub(super) fn send(&mut self, tables: &[&str], value: i64, hour: i64) {
        let time = NOW + hour * HOUR;
        let line = |table: &&str| format!("{table},device=d a={value} {time}\n");
        let lines: String = tables.iter().map(line).collect();
        let agent = AgentId::parse("gw").unwrap();
        self.apply(&submission(&agent, Payload::Lines(Bytes::from(lines))));
        self.merge();
    }

    pub(super) fn merge(&mut self) {
        self.apply(&Command::Merge);
        assert!(self.node.finish_merges());
    }

    pub(super) fn seal(&mut self, sealing: Sealing) {
        self.apply(&Command::Seal(sealing));
        assert!(self.node.finish_merges());
    }

    pub(super) fn unsealed(&self) -> Vec<Sealing> {
        let view = self.node.store.view();
        view.unsealed(view.state().now(), Duration::ZERO)
    }

    /// Tables and values, sorted, after the retention.
    pub(super) fn kept(&mut self) -> Vec<String> {
        self.apply(&Command::Retention);
        let rows = all_rows(&self.node.store.view());
        let shown = rows.into_iter().map(|row| {
            let values = row.values.iter().map(|(_, value)| value.as_str());
            format!("{} {}", row.table, values.collect::<String>())
        });
        shown.collect()
    }

    pub(super) fn files(&self) -> Vec<String> {
        let segments = self.node.store.segments.iter();
        segments.map(|one| one.file.name.clone()).collect()
    }
}

#[test]
fn each_table_goes_at_its_own_time() {
    let mut bench = Bench::new();
    bench.keep(&[("short", 1), ("other", 1), ("long", 9)]);
    bench.send(&["short", "other", "usual", "long"], 1, 0);
    assert_eq!(bench.files().len(), 3, "two are kept equally long");
    let all = ["long", "other", "short", "usual"].map(|table| format!("{table} Float(1.0)"));
    bench.advance(47);
    assert_eq!(bench.kept(), all, "the day has not ended a day ago");
    bench.advance(1);
    assert_eq!(bench.kept(), [&all[0][..], &all[3]]);
    bench.advance(48);
    assert_eq!(bench.kept(), [&all[0][..]]);
    bench.advance(6 * 24);
    assert!(bench.kept().is_empty() && bench.files().is_empty());
}

/// What is late for the cluster need not be for its table, and the other way round.
#[test]
fn late_rows_are_wild_by_the_retention_of_their_table() {
    let mut bench = Bench::new();
    bench.keep(&[("short", 1), ("long", 9)]);
    bench.send(&["short", "usual", "long"], 1, -48);
    let wild = |bench: &Bench| {
        let files = bench.files();
        files.iter().filter(|name| name.contains("wild")).count()
    };
    assert_eq!((bench.files().len(), wild(&bench)), (3, 1));
    bench.send(&["usual", "long"], 2, -96);
    assert_eq!((bench.files().len(), wild(&bench)), (5, 2));
    bench.advance(25);
    let kept = bench.kept();
    assert!(!kept.iter().any(|row| row.contains("short")), "{kept:?}");
    assert_eq!(kept.len(), 4);
}

#[test]
fn a_partition_is_sealed_for_each_retention_to_a_file_of_its_own() {
    let mut bench = Bench::new();
    bench.keep(&[("long", 9)]);
    for hour in 0..2 {
        bench.send(&["usual", "long"], hour, hour);
    }
    bench.advance(30);
    let all = bench.unsealed();
    let days: Vec<u32> = all.iter().map(|sealing| sealing.kept_days).collect();
    assert_eq!(days, [0, 9]);
    bench.seal(all[1]);
    let sealed = |bench: &Bench| {
        let files = bench.files();
        let sealed = files.iter().filter(|name| name.ends_with(".sealed.seg"));
        (files.len(), sealed.count())
    };
    assert_eq!(sealed(&bench), (3, 1), "the others stay as they are");
    assert_eq!(bench.unsealed(), all[..1]);
    bench.seal(all[0]);
    assert_eq!((sealed(&bench), bench.unsealed()), ((2, 2), vec![]));
    bench.advance(66);
    assert_eq!(bench.kept(), ["long Float(0.0)", "long Float(1.0)"]);
}

/// Files of before hold tables that are kept for different times now.
#[test]
fn a_shorter_retention_drops_late_and_never_early() {
    let mut bench = Bench::new();
    bench.send(&["a", "b"], 1, 0);
    bench.send(&["a", "b"], 2, 1);
    let window = bench.node.store.segments[0].head.partition.window();
    bench.seal(window.unwrap().into());
    assert_eq!(bench.files().len(), 1);
    bench.keep(&[("a", 1)]);
    bench.advance(47);
    assert_eq!(bench.unsealed(), [], "none of it has ended");
    bench.advance(1);
    assert_eq!(bench.kept().len(), 4, "they share a file");
    let all = bench.unsealed();
    assert_eq!(all.len(), 1);
    bench.seal(all[0]);
    let sealed = |name: &String| name.ends_with(".sealed.seg");
    assert!(bench.files().len() == 2 && bench.files().iter().all(sealed));
    assert_eq!(bench.kept(), ["b Float(1.0)", "b Float(2.0)"]);
    assert_eq!(bench.unsealed(), []);
}

#[test]
fn a_longer_retention_is_so_at_once() {
    let mut bench = Bench::new();
    bench.send(&["a", "b"], 1, 0);
    bench.keep(&[("a", 9)]);
    bench.advance(96);
    assert_eq!(bench.kept().len(), 2, "they share a file");
    let all = bench.unsealed();
    bench.seal(all[0]);
    assert_eq!(bench.kept(), ["a Float(1.0)"]);
}

/// What a command says holds when it is done, whatever was agreed on since.
#[test]
fn a_retention_that_waits_for_a_merge_goes_by_what_held_when_it_came() {
    let mut bench = Bench::new();
    bench.keep(&[("a", 1)]);
    bench.send(&["a"], 1, 0);
    bench.advance(48);
    bench.apply(&Command::Merge);
    bench.apply(&Command::Retention);
    bench.keep(&[("a", 9)]);
    assert!(bench.node.finish_merges());
    assert!(all_rows(&bench.node.store.view()).is_empty());
}

/// The overwritten value stayed with other tables, and came back.
#[test]
fn what_overwrote_a_value_stays_as_long_as_its_file() {
    for wild in [false, true] {
        let mut bench = Bench::new();
        bench.keep(&[("merging", 0)]);
        bench.send(&["merging", "b"], 1, 0);
        if wild {
            bench.advance(49);
        }
        bench.keep(&[("merging", 1)]);
        bench.send(&["merging"], 2, 0);
        let files = bench.files();
        assert_eq!((files.len(), files[1].contains("wild")), (2, wild));
        bench.advance(49);
        let both = ["b Float(1.0)", "merging Float(2.0)"];
        if !wild {
            assert_eq!(bench.kept(), both, "the first value is still there");
            let all = bench.unsealed();
            assert_eq!(all.len(), 1);
            bench.seal(all[0]);
            assert_eq!(bench.kept(), [both[0]]);
            continue;
        }
        bench.apply(&Command::RetentionDays(9));
        assert_eq!(bench.kept(), both);
        assert_eq!(bench.unsealed(), [], "later rows of its times are wild");
    }
}

/// On its own the first file would go to a later place than the value that took the place of its own.
#[test]
fn what_shares_a_table_is_sealed_together() {
    let mut bench = Bench::new();
    bench.keep(&[("merging", 0)]);
    bench.send(&["merging", "b"], 1, 0);
    bench.keep(&[("merging", 1)]);
    bench.send(&["merging"], 2, 0);
    let window = bench.node.store.segments[0].head.partition.window();
    bench.seal(window.unwrap().into());
    let sealed = |name: &String| name.ends_with(".sealed.seg");
    assert!(bench.files().len() == 2 && bench.files().iter().all(sealed));
    assert_eq!(bench.kept(), ["b Float(1.0)", "merging Float(2.0)"]);
}

/// Nobody knows which tables it has: it may be those that are kept the longest.
#[test]
fn what_cannot_be_opened_stays_as_long_as_any_table() {
    let mut bench = Bench::new();
    bench.keep(&[("short", 1), ("long", 9)]);
    bench.send(&["short"], 1, 0);
    bench.send(&["usual"], 1, 0);
    let (short, sim) = (bench.files()[0].clone(), bench.node.sim.clone());
    let files = bench.node.store.segments();
    let file = files.open(&short, OpenMode::Existing).unwrap();
    let at = file.len().unwrap() - 38;
    let mut byte = [0];
    file.read_at(at, &mut byte).unwrap();
    file.write_at(at, &[byte[0] ^ 1]).unwrap();
    file.sync().unwrap();
    bench.node = Node::open(&sim);
    assert!(bench.node.store.segments[0].is_opaque());
    bench.advance(96);
    bench.apply(&Command::Retention);
    assert_eq!(bench.files(), [&short[..]]);
    bench.advance(6 * 24);
    bench.apply(&Command::Retention);
    assert!(bench.files().is_empty());
}
