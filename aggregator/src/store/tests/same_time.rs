//! Tables whose rows of one series and time are one, apart from the random histories.

use std::time::Duration;

use bytes::Bytes;
use shared::id::{AgentId, TimeNs};

use super::features::{DAY, submission};
use super::{Node, PlainRow, all_rows, table_rows};
use crate::state::{Command, Payload, SameTime, TableStanding, Window, Wish};
use crate::store::Scan;
use journal::SimStorage;

const NOW: i64 = 1000 * DAY;
const SECOND: i64 = 1_000_000_000;
const DAY_OF_NOW: Window = Window {
    start_hour: 24_000,
    hours: 24,
};

/// A node that is told of by its only member, and to which lines are sent.
struct Bench {
    node: Node,
    index: u64,
}

impl Bench {
    fn new() -> Self {
        let node = Node::open(&SimStorage::new(7));
        let mut bench = Self { node, index: 0 };
        bench.apply(&Command::Admit {
            name: "a".to_owned(),
            address: "h:1".to_owned(),
            joining: 1,
        });
        bench.apply(&Command::Clock {
            node: 1,
            now: TimeNs(NOW),
        });
        bench
    }

    fn apply(&mut self, command: &Command) {
        self.index += 1;
        self.node.apply(self.index, command);
    }

    fn tell(&mut self, partition_hours: u32, same_time: SameTime) {
        let tables = [("pump".to_owned(), same_time.into())].into();
        let wish = Wish::new(None, Some(partition_hours)).with_tables(tables);
        self.apply(&Command::Settings { node: 1, wish });
    }

    fn lines(&mut self, lines: String) {
        let agent = AgentId::parse("gw").unwrap();
        self.apply(&submission(&agent, Payload::Lines(Bytes::from(lines))));
    }

    fn merge(&mut self) {
        self.apply(&Command::Merge);
        assert!(self.node.finish_merges());
    }

    fn rows(&self) -> Vec<(i64, String)> {
        let values = |row: PlainRow| {
            let values: Vec<String> = row.values.iter().map(|(n, v)| format!("{n}={v}")).collect();
            (row.time - NOW, values.join(" "))
        };
        let rows = all_rows(&self.node.store.view());
        rows.into_iter().map(values).collect()
    }
}

/// A line at so many seconds from `NOW`.
fn line(fields: &str, second: i64) -> String {
    format!("pump,device=p {fields} {}\n", NOW + second * SECOND)
}

#[test]
fn the_later_value_of_each_field_wins_wherever_it_lies() {
    let mut bench = Bench::new();
    bench.tell(24, SameTime::Merge);
    let one = |text: &str| vec![(0, text.to_owned())];
    bench.lines(line("a=1,b=1", 0) + &line("a=2", 0) + &line("a=3,b=3", 0) + &line("b=4", 0));
    assert_eq!(
        bench.rows(),
        one("a=Float(3.0) b=Float(4.0)"),
        "of one payload"
    );
    bench.lines(line("c=5", 0));
    let of_two = one("a=Float(3.0) b=Float(4.0) c=Float(5.0)");
    assert_eq!(bench.rows(), of_two, "of two");
    bench.merge();
    assert_eq!(bench.rows(), of_two);
    assert_eq!(
        bench.node.store.view().known_rows("pump"),
        Some(1),
        "merged"
    );
    bench.lines(line("a=6", 0));
    bench.merge();
    bench.lines(line("b=7", 0));
    let last = one("a=Float(6.0) b=Float(7.0) c=Float(5.0)");
    assert_eq!(bench.rows(), last, "two segments and level 0");
    bench.apply(&Command::Seal(DAY_OF_NOW.into()));
    assert!(bench.node.finish_merges());
    assert_eq!(bench.rows(), last);
    assert_eq!(
        bench.node.store.view().known_rows("pump"),
        Some(1),
        "sealed"
    );
}

#[test]
fn a_table_keeps_what_held_for_its_first_row() {
    let mut bench = Bench::new();
    bench.lines(line("a=1", 0) + &line("a=2", 0));
    bench.tell(24, SameTime::Merge);
    let stands = |bench: &Bench, how| bench.node.state.same_time_standing("pump", how);
    assert_eq!(stands(&bench, SameTime::Merge), TableStanding::TooLate);
    bench.lines(line("a=3", 0));
    assert_eq!(bench.rows().len(), 3);
    assert_eq!(bench.node.store.view().row_count("pump"), Some(3));

    let mut bench = Bench::new();
    bench.tell(24, SameTime::Merge);
    bench.tell(24, SameTime::Keep);
    assert_eq!(stands(&bench, SameTime::Merge), TableStanding::NotAgreed);
    bench.tell(24, SameTime::Merge);
    bench.lines(line("a=1", 0) + &line("a=2", 0));
    bench.tell(24, SameTime::Keep);
    assert_eq!(stands(&bench, SameTime::Keep), TableStanding::TooLate);
    assert_eq!(bench.rows().len(), 1);
    assert_eq!(bench.node.store.view().row_count("pump"), None);
}

/// As one segment of a later command its rows would win over those that came between.
#[test]
fn a_partition_whose_rows_were_overtaken_in_another_is_not_sealed() {
    let mut bench = Bench::new();
    bench.tell(24, SameTime::Merge);
    bench.lines(line("a=1", 0));
    bench.merge();
    bench.lines(line("a=2", 1));
    bench.merge();
    bench.tell(12, SameTime::Merge);
    bench.lines(line("a=3", 0));
    bench.merge();
    let expected = bench.rows();
    assert_eq!(expected[0], (0, "a=Float(3.0)".to_owned()));
    let later = TimeNs(NOW + 5 * DAY);
    let unsealed = bench.node.store.view().unsealed(later, Duration::ZERO);
    assert!(!unsealed.contains(&DAY_OF_NOW.into()), "{unsealed:?}");
    bench.apply(&Command::Seal(DAY_OF_NOW.into()));
    assert!(bench.node.finish_merges());
    assert_eq!(bench.rows(), expected);
}

/// Of a clock that ran ahead: what it told has long been overtaken when its time comes.
#[test]
fn a_wild_row_that_is_older_than_all_parts_holds_nothing_back() {
    let mut bench = Bench::new();
    bench.tell(24, SameTime::Merge);
    let day = DAY / SECOND;
    bench.lines(line("a=1,b=1", 2 * day));
    bench.merge();
    bench.apply(&Command::Clock {
        node: 1,
        now: TimeNs(NOW + 2 * DAY),
    });
    for (value, second) in [(2, 2 * day), (3, 2 * day + 1)] {
        bench.lines(line(&format!("a={value}"), second));
        bench.merge();
    }
    let expected = bench.rows();
    assert_eq!(expected[0].1, "a=Float(2.0) b=Float(1.0)");
    let later = TimeNs(NOW + 5 * DAY);
    let window = Window {
        start_hour: 24_048,
        hours: 24,
    };
    assert_eq!(
        bench.node.store.view().unsealed(later, Duration::ZERO),
        [window.into()]
    );
    bench.apply(&Command::Seal(window.into()));
    assert!(bench.node.finish_merges());
    let files = bench.node.store.snapshot().unwrap().files;
    assert!(files.iter().any(|file| file.name.ends_with(".sealed.seg")));
    assert_eq!(bench.rows(), expected);
}

/// Of a clock that jumps to both ends: no block reaches from one to the other.
#[test]
fn later_wild_rows_around_a_partition_hold_nothing_back() {
    let mut bench = Bench::new();
    bench.tell(24, SameTime::Merge);
    let years = 3_650 * DAY / SECOND;
    for second in [0, 1] {
        bench.lines(line("a=1", second));
        bench.merge();
    }
    bench.lines(line("a=2", -years) + &line("a=2", years));
    bench.merge();
    let view = bench.node.store.view();
    let later = TimeNs(NOW + 5 * DAY);
    assert_eq!(view.unsealed(later, Duration::ZERO), [DAY_OF_NOW.into()]);
    assert_eq!(view.held_back(later, Duration::ZERO), []);
}

/// What is wild today was not when it first came: the retention is shorter now.
#[test]
fn a_partition_that_was_overtaken_by_a_wild_row_is_not_sealed() {
    let mut bench = Bench::new();
    bench.tell(24, SameTime::Merge);
    for (field, second) in [("a=1", 0), ("a=2", 1)] {
        bench.lines(line(field, second));
        bench.merge();
    }
    bench.apply(&Command::Clock {
        node: 1,
        now: TimeNs(NOW + 5 * DAY),
    });
    bench.apply(&Command::RetentionDays(3));
    bench.lines(line("a=3", 0));
    bench.merge();
    let expected = bench.rows();
    assert_eq!(expected[0].1, "a=Float(3.0)");
    let view = bench.node.store.view();
    let later = TimeNs(NOW + 5 * DAY);
    assert_eq!(view.unsealed(later, Duration::ZERO), []);
    assert_eq!(view.held_back(later, Duration::ZERO), [DAY_OF_NOW.into()]);
    bench.apply(&Command::Seal(DAY_OF_NOW.into()));
    assert!(bench.node.finish_merges());
    assert_eq!(bench.rows(), expected);
}

/// The overwritten value came back while the wider partition stayed.
#[test]
fn retention_drops_no_value_before_the_one_that_it_overwrote() {
    let mut bench = Bench::new();
    bench.apply(&Command::RetentionDays(1));
    bench.tell(24, SameTime::Merge);
    bench.lines(line("a=1,b=1", 0));
    bench.merge();
    bench.tell(12, SameTime::Merge);
    bench.lines(line("a=2", 0));
    // Its merge ends only after the retention command.
    bench.apply(&Command::Merge);
    let retention = |bench: &mut Bench, hours: std::ops::Range<i64>| {
        for hour in hours {
            let now = TimeNs(NOW + hour * (DAY / 24));
            bench.apply(&Command::Clock { node: 1, now });
        }
        bench.apply(&Command::Retention);
        assert!(bench.node.finish_merges());
    };
    retention(&mut bench, 1..41);
    assert_eq!(
        bench.rows(),
        [(0, "a=Float(2.0) b=Float(1.0)".to_owned())],
        "the narrow partition ended, the wide one did not"
    );
    retention(&mut bench, 41..50);
    assert_eq!(bench.rows(), []);
}

/// A sealed segment and another of one command: what was sealed was there before.
#[test]
fn what_comes_with_the_command_that_seals_is_the_later() {
    let mut bench = Bench::new();
    bench.tell(24, SameTime::Merge);
    bench.lines(line("a=1,b=1", 0));
    bench.merge();
    bench.lines(line("a=2", 1));
    bench.merge();
    bench.tell(12, SameTime::Merge);
    bench.lines(line("a=3", 0));
    bench.apply(&Command::Seal(DAY_OF_NOW.into()));
    assert!(bench.node.finish_merges());
    let files = bench.node.store.snapshot().unwrap().files;
    let sealed = files
        .iter()
        .filter(|file| file.name.ends_with(".sealed.seg"));
    assert_eq!((files.len(), sealed.count()), (2, 1));
    assert_eq!(bench.rows()[0], (0, "a=Float(3.0) b=Float(1.0)".to_owned()));
}

/// Two segments and level 0 hold rows of the same hours, more than a chunk has room for.
#[test]
fn long_series_come_in_windows_of_time() {
    const ROWS: i64 = 300;
    let mut bench = Bench::new();
    bench.tell(24, SameTime::Merge);
    for (nth, field) in (0..).zip(["a", "b", "c"]) {
        // Each third time is common to all, the others are of one alone.
        for from in (0..ROWS).step_by(60) {
            let times = (from..from + 60).map(|at| if at % 3 == 0 { 3 * at } else { 3 * at + nth });
            bench.lines(times.map(|at| line(&format!("{field}={at}"), at)).collect());
        }
        if field != "c" {
            bench.merge();
        }
    }
    let view = bench.node.store.view();
    let scan = Scan {
        table: "pump".to_owned(),
        fields: vec!["a".to_owned(), "c".to_owned()],
        time: NOW + 5 * SECOND..=i64::MAX,
        devices: None,
    };
    let (mut rows, mut chunks, mut last) = (0, 0, i64::MIN);
    for chunk in view.scan(scan) {
        let times = chunk.unwrap().times;
        assert!(last < times[0] && times.windows(2).all(|two| two[0] < two[1]));
        last = times[times.len() - 1];
        rows += times.len();
        chunks += 1;
    }
    assert!(chunks > 1, "they are more than a chunk");
    // Before the fifth second lie those of 0, 3 and 4.
    let all = ROWS / 3 + ROWS / 3 * 2 * 3;
    assert_eq!(rows, usize::try_from(all - 3).unwrap());
    let found = table_rows(&view, "pump", NOW..=NOW + 9 * SECOND, None);
    assert_eq!((found.len(), found[0].values.len()), (8, 3));
}
