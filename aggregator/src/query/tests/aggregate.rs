//! Aggregates by the store's states answer what reading the rows does.

use std::fmt::Write as _;
use std::time::Duration;

use bytes::Bytes;
use shared::id::TimeNs;

use super::{Bench, DAY, START, counted};
use crate::state::Command;

const SECOND: i64 = 1_000_000_000;
/// Two days from here on are plausible times.
const FIRST: i64 = START - DAY;
/// True for every row, but not known before rows are read.
const BY_ROWS: &str = "device >= ''";
const BY_STATES: &str = "states by statistics";

/// Readings `from..to` of device `d<nth>`, ten seconds apart; `load` is an int or not.
fn lines(nth: i64, from: i64, to: i64, is_int: bool) -> String {
    let mut lines = String::new();
    for row in from..to {
        let time = FIRST + row * 10 * SECOND + nth;
        let quarter = (row * 37 + nth * 11) % 400 - 200;
        write!(
            lines,
            "engine,device=d{nth},site=s{} turns={quarter}i",
            nth % 2
        )
        .unwrap();
        let load = if is_int { "i" } else { ".25" };
        write!(lines, ",load={}{load}", quarter % 9).unwrap();
        if row % 3 != 1 {
            write!(
                lines,
                ",heat={:?}",
                f64::from(i32::try_from(quarter).unwrap()) / 4.0
            )
            .unwrap();
        }
        if row % 7 == 0 {
            write!(lines, ",running={},state=\"s{}\"", quarter > 0, quarter % 3).unwrap();
        }
        writeln!(lines, " {time}").unwrap();
    }
    lines
}

fn send(bench: &mut Bench, nth: i64, from: i64, to: i64, is_int: bool) {
    let all = lines(nth, from, to, is_int);
    let all: Vec<&str> = all.lines().collect();
    for some in all.chunks(400) {
        bench.lines(&some.join("\n"));
    }
}

fn seal(bench: &mut Bench) {
    let windows = bench
        .store
        .view()
        .unsealed(TimeNs(i64::MAX), Duration::ZERO);
    let window = *windows.first().expect("a day in parts");
    bench.apply(&Command::Seal(window));
    let job = bench
        .store
        .begin_seal(bench.index, &bench.state, Bytes::new(), window);
    bench.store.finish_merge(job.run().unwrap()).unwrap();
}

/// Two days in parts and sealed, what came late, and level 0; a device without a tag and with few rows.
fn filled() -> Bench {
    let mut bench = Bench::new();
    for nth in 0..3 {
        send(&mut bench, nth, 0, 4_000, true);
    }
    bench.merge();
    for nth in 0..3 {
        send(&mut bench, nth, 5_000, 10_000, true);
    }
    bench.merge();
    seal(&mut bench);
    send(&mut bench, 1, 4_000, 5_000, true);
    bench.lines(&format!("engine,device=few turns=5i,load=2i {}", FIRST + 9));
    bench.merge();
    for nth in 0..3 {
        send(&mut bench, nth, 10_000, 12_000, false);
    }
    bench.merge();
    send(&mut bench, 2, 12_000, 12_700, false);
    send(&mut bench, 2, 4_000, 4_100, false);
    bench
}

const FUNCTIONS: [&str; 2] = [
    "count(*), count(heat), count(site), count(time), count(state), \
     sum(turns), sum(heat), sum(load), avg(turns), avg(heat), avg(load)",
    "min(heat), max(heat), min(turns), max(load), min(running), max(running), min(state), \
     max(state), min(time), max(time), first(turns, time), last(turns, time), first(heat, time), \
     last(heat, time), last(state, time), first_value(heat ORDER BY time) IGNORE NULLS, \
     last_value(state ORDER BY time DESC) IGNORE NULLS",
];

const GROUPS: [&str; 8] = [
    "",
    "device",
    "site",
    "device, site",
    "time_bucket('1 day', time)",
    "device, time_bucket('1 hour', time)",
    "date_bin(INTERVAL '7 minutes', time), site",
    "time_bucket('2 days', time, TIMESTAMP '1970-01-02T03:00:00Z'), device",
];

fn query(function: &str, group: &str, condition: &str) -> String {
    if group.is_empty() {
        format!("SELECT {function} FROM engine WHERE {condition}")
    } else {
        format!("SELECT {group}, {function} FROM engine WHERE {condition} GROUP BY {group}")
    }
}

async fn plan(bench: &Bench, sql: &str) -> String {
    format!("{:?}", bench.ask(&format!("EXPLAIN {sql}")).await)
}

#[tokio::test]
async fn answers_are_those_of_the_rows() {
    let bench = filled();
    let conditions = [
        "true",
        "device IN ('d1', 'few')",
        "time >= '1972-09-26T03:00:00Z' AND time < '1972-09-27T06:54:32Z'",
        "time > '2100-01-01'",
    ];
    for condition in conditions {
        same(&bench, condition, 1).await;
    }
}

#[tokio::test]
async fn answers_of_two_parts_are_those_of_the_rows() {
    let mut bench = filled();
    for nth in 3..7 {
        send(&mut bench, nth, 0, 8_000, true);
    }
    bench.merge();
    same(&bench, "time < '1972-09-26T09:30:00Z'", 2).await;
}

/// By all functions and groups.
async fn same(bench: &Bench, condition: &str, parts: usize) {
    let parts = format!("parts={parts}");
    for group in GROUPS {
        for functions in FUNCTIONS {
            let by_states = query(functions, group, condition);
            let by_rows = query(functions, group, &format!("{condition} AND {BY_ROWS}"));
            let shown = plan(bench, &by_states).await;
            let is_so = shown.contains(BY_STATES) && shown.contains(&parts);
            assert!(is_so, "{by_states}: {shown}");
            let shown = plan(bench, &by_rows).await;
            assert!(!shown.contains(BY_STATES), "{by_rows}: {shown}");
            let found = counted(bench.ask(&by_states).await);
            assert_eq!(found, counted(bench.ask(&by_rows).await), "{by_states}");
        }
    }
}

/// Limits, joins and conditions on groups stand above the second stage.
#[tokio::test]
async fn what_stands_above_groups_sees_the_same() {
    let bench = filled();
    for sql in [
        "SELECT device, max(turns) FROM engine WHERE {} GROUP BY device ORDER BY 2 DESC, 1 LIMIT 2",
        "SELECT device, max(time) FROM engine WHERE {} GROUP BY device ORDER BY 2 DESC LIMIT 2",
        "SELECT time_bucket('1 hour', time), min(heat) FROM engine WHERE {} GROUP BY 1 \
         ORDER BY 1 LIMIT 5",
        "SELECT time_bucket('1 hour', time), min(time) FROM engine WHERE {} GROUP BY 1 \
         ORDER BY 2 LIMIT 5",
        "SELECT device, sum(turns) FROM engine WHERE {} GROUP BY 1 HAVING sum(turns) < 0 ORDER BY 1",
        "SELECT count(*), max(mean) FROM \
         (SELECT device, avg(heat) AS mean FROM engine WHERE {} GROUP BY device)",
        "SELECT a.device, a.many, b.most FROM \
         (SELECT device, count(heat) AS many FROM engine WHERE {} GROUP BY device) a JOIN \
         (SELECT device, max(turns) AS most FROM engine WHERE {} GROUP BY device) b USING (device) \
         ORDER BY 1",
        "SELECT sum(turns) + count(*) FROM engine WHERE {} UNION ALL \
         SELECT max(turns) FROM engine WHERE {} ORDER BY 1",
        "SELECT device, count(*) FROM engine WHERE {} AND turns < \
         (SELECT avg(turns) FROM engine WHERE {}) GROUP BY device ORDER BY 1",
    ] {
        let by_states = sql.replace("{}", "true");
        let shown = plan(&bench, &by_states).await;
        assert!(shown.contains(BY_STATES), "{by_states}: {shown}");
        let by_rows = sql.replace("{}", BY_ROWS);
        let shown = plan(&bench, &by_rows).await;
        assert!(!shown.contains(BY_STATES), "{by_rows}: {shown}");
        let (found, wanted) = (bench.ask(&by_states).await, bench.ask(&by_rows).await);
        assert_eq!(found, wanted, "{sql}");
        assert!(!found.is_empty(), "{sql}");
    }
}

#[tokio::test]
async fn whole_blocks_are_not_read() {
    let bench = filled();
    let all =
        "SELECT device, count(*), sum(turns), avg(heat), max(heat) FROM engine GROUP BY device";
    let shown = plan(&bench, all).await;
    assert!(shown.contains(BY_STATES), "{shown}");
    let answer = counted(bench.ask(all).await);
    let segments = bench.disk.directory("segments").unwrap();
    for name in segments.list().unwrap() {
        let file = segments.open(&name, journal::OpenMode::Existing).unwrap();
        file.write_at(60, &[0xff; 200]).unwrap();
    }
    assert!(counted(bench.ask(all).await) == answer);
    let error = bench
        .refusal("SELECT sum(turns) FROM engine WHERE turns < 1000")
        .await;
    assert!(
        matches!(error, crate::query::QueryError::Data(_)),
        "{error:?}"
    );
}

/// What the counters of a plan say that ran.
async fn counter(bench: &Bench, sql: &str, name: &str) -> u64 {
    let shown = format!("{:?}", bench.ask(&format!("EXPLAIN ANALYZE {sql}")).await);
    let (_, rest) = shown.split_once(&format!("{name}=")).expect(&shown);
    let digits = rest.split(|c: char| !c.is_ascii_digit()).next().unwrap();
    digits.parse().unwrap()
}

/// A day in one segment, and nothing else.
#[tokio::test]
async fn hours_of_a_sealed_day_are_answered_by_rollups() {
    let mut bench = Bench::new();
    send(&mut bench, 1, 0, 4_000, true);
    bench.merge();
    send(&mut bench, 1, 4_000, 8_640, true);
    bench.merge();
    seal(&mut bench);
    let sql = "SELECT time_bucket('2 hours', time), count(*), avg(heat), max(turns), sum(load), \
               last(heat, time) FROM engine";
    let by_rollups = format!("{sql} GROUP BY 1");
    // The second block lies in one bucket.
    assert_eq!(counter(&bench, &by_rollups, "pieces_by_rollups").await, 1);
    let by_statistics = counter(&bench, &by_rollups, "pieces_by_statistics").await;
    assert_eq!(by_statistics, 1);
    assert_eq!(counter(&bench, &by_rollups, "pieces_by_rows").await, 0);
    let by_rows = format!("{sql} WHERE {BY_ROWS} GROUP BY 1");
    let found = counted(bench.ask(&by_rollups).await);
    assert_eq!(found, counted(bench.ask(&by_rows).await));
    assert_eq!(found.len(), 12);
    // Sealed again with what came late, and with what has been widened since.
    send(&mut bench, 1, 700, 800, false);
    bench.merge();
    assert_eq!(counter(&bench, &by_rollups, "pieces_by_rollups").await, 1);
    let found = counted(bench.ask(&by_rollups).await);
    assert_eq!(found, counted(bench.ask(&by_rows).await));
    seal(&mut bench);
    assert_eq!(counter(&bench, &by_rollups, "pieces_by_rows").await, 0);
    let found = counted(bench.ask(&by_rollups).await);
    assert_eq!(found, counted(bench.ask(&by_rows).await));
}

/// Reading rollups takes longer than reading the index: a query can be stopped between a few of them.
#[tokio::test]
async fn a_batch_is_made_of_few_rollups() {
    let mut bench = Bench::new();
    for (from, to) in [(0, 540), (540, 1_080)] {
        for nth in 0..20 {
            send(&mut bench, nth, from, to, true);
        }
        bench.merge();
    }
    seal(&mut bench);
    let sql = "SELECT device, time_bucket('1 hour', time), sum(turns) FROM engine GROUP BY 1, 2";
    assert_eq!(counter(&bench, sql, "pieces_by_rollups").await, 20);
    let shown = format!("{:?}", bench.ask(&format!("EXPLAIN ANALYZE {sql}")).await);
    let (_, ours) = shown.split_once(BY_STATES).unwrap();
    let (_, batches) = ours.split_once("output_batches=").unwrap();
    assert!(batches.starts_with("3,"), "{shown}");
    let sql = "SELECT device, sum(turns) FROM engine GROUP BY 1";
    assert_eq!(counter(&bench, sql, "pieces_by_statistics").await, 20);
    let shown = format!("{:?}", bench.ask(&format!("EXPLAIN ANALYZE {sql}")).await);
    let (_, ours) = shown.split_once(BY_STATES).unwrap();
    let (_, batches) = ours.split_once("output_batches=").unwrap();
    assert!(batches.starts_with("1,"), "{shown}");
}

#[tokio::test]
async fn everything_else_reads_rows() {
    let bench = filled();
    for sql in [
        "SELECT sum(turns) FROM engine WHERE turns > 1",
        "SELECT sum(turns + 1) FROM engine",
        "SELECT count(DISTINCT turns) FROM engine",
        "SELECT sum(turns) FILTER (WHERE running) FROM engine",
        "SELECT stddev(heat), sum(turns) FROM engine",
        "SELECT time, sum(turns) FROM engine GROUP BY time",
        "SELECT state, sum(turns) FROM engine GROUP BY state",
        "SELECT time_bucket('1 month', time), sum(turns) FROM engine GROUP BY 1",
        "SELECT last(turns, heat) FROM engine",
        "SELECT device, sum(turns) FROM engine GROUP BY ROLLUP (device)",
        "SELECT sum(turns) FROM (SELECT turns FROM engine LIMIT 9)",
        "SELECT DISTINCT device FROM engine",
        "SELECT max(device) FROM engine",
    ] {
        let shown = plan(&bench, sql).await;
        assert!(!shown.contains(BY_STATES), "{sql}: {shown}");
        bench.ask(sql).await;
    }
}

/// The sign of a zero is seen in the order of floats, and sums of ints wrap around.
#[tokio::test]
async fn odd_numbers_are_those_of_the_rows() {
    let mut bench = Bench::new();
    let values = |row: i64| match row % 5 {
        0 => "zero=-0.0,big=9223372036854775807i",
        1 => "zero=0.0,big=9223372036854775800i",
        _ => "zero=-0.0",
    };
    let line = |row| format!("odd,device=d {} {}", values(row), START + row * SECOND);
    let lines: Vec<String> = (0..300).map(line).collect();
    bench.lines(&lines.join("\n"));
    bench.merge();
    let sql = "SELECT min(zero), max(zero), sum(zero), sum(big), max(big), count(big) FROM odd";
    let found = bench.ask(sql).await;
    assert_eq!(found, bench.ask(&format!("{sql} WHERE {BY_ROWS}")).await);
    assert_eq!(found[0][..2], ["-0.0", "0.0"]);
}

/// `docs/sql.md` says so: what rounds is rounded less often, and what overflows does so within a block.
#[tokio::test]
async fn averages_of_large_ints_and_sums_that_overflow_differ() {
    let mut bench = Bench::new();
    let row = |at: i64, int: i64, float: &str| {
        format!("odd,device=d int={int}i,float={float} {}\n", START + at)
    };
    let exact = 1 << 53;
    bench.lines(&[row(0, exact, "1e308"), row(1, 1, "1e308"), row(2, 1, "0.0")].concat());
    bench.merge();
    bench.lines(&[row(3, 0, "-1e308"), row(4, 0, "-1e308")].concat());
    let sql = |condition| {
        format!("SELECT avg(int), sum(float), sum(int) FROM odd WHERE {condition} GROUP BY device")
    };
    let (by_states, by_rows) = (
        bench.ask(&sql("true")).await,
        bench.ask(&sql(BY_ROWS)).await,
    );
    let sum = "9007199254740994";
    assert_eq!(by_states, [["1801439850948198.8", "NaN", sum]]);
    assert_eq!(by_rows, [["1801439850948198.5", "inf", sum]]);
}

#[tokio::test]
async fn states_of_a_device_need_no_exchange() {
    let mut bench = Bench::new();
    for nth in 0..7 {
        send(&mut bench, nth, 0, 9_400, true);
    }
    bench.merge();
    assert!(bench.store.view().row_count("engine").unwrap() > 65_536);
    let sql = "SELECT device, time_bucket('1 hour', time), avg(turns) FROM engine GROUP BY 1, 2";
    let shown = plan(&bench, sql).await;
    assert!(
        shown.contains(BY_STATES) && shown.contains("parts=2"),
        "{shown}"
    );
    assert!(!shown.contains("RepartitionExec"), "{shown}");
    let hours = usize::try_from(9_400 * 10 * SECOND / (DAY / 24) + 1).unwrap();
    assert_eq!(bench.ask(sql).await.len(), 7 * hours);
    let sql = "SELECT count(*), sum(turns) FROM engine";
    assert_eq!(
        bench.ask(sql).await,
        bench.ask(&format!("{sql} WHERE {BY_ROWS}")).await
    );
}
