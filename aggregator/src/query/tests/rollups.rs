//! What a table comes to by the buckets that it is rolled up by, while its rows are there.

use super::{Bench, DAY, START};
use crate::state::{Command, SameTime, TableWish, Wish};

const FIRST: i64 = START - DAY;
const SECOND: i64 = 1_000_000_000;

fn bench() -> Bench {
    let mut bench = Bench::new();
    let merging = [("one".to_owned(), TableWish::from(SameTime::Merge))];
    let wish = Wish::default().with_tables(merging.into_iter().collect());
    bench.apply(&Command::Admit {
        name: "n1".to_owned(),
        address: "h:1".to_owned(),
        joining: 1,
    });
    bench.apply(&Command::Settings { node: 2, wish });
    for row in 0..300_i64 {
        let (device, site) = (row % 3, row % 2);
        let time = FIRST + row * 25 * SECOND;
        let text = if row % 5 == 0 { ",s=\"x\"" } else { "" };
        let value = f64::from(i32::try_from(row * 37 % 50).unwrap()) / 4.0;
        bench.lines(&format!(
            "engine,device=d{device},site=s{site} v={value:?},n={row}i,on={}{text} {time}",
            row % 2 == 0
        ));
        if row == 200 {
            bench.merge();
        }
    }
    bench.lines(&format!("one,device=d v=1 {FIRST}"));
    bench
}

/// What DataFusion makes of the rows.
const BY_ROWS: &str = "SELECT date_bin(INTERVAL '1 minute', time) AS at, device, site, count(*), \
     count(v), sum(v), min(v), max(v), first_value(v ORDER BY time), last_value(v ORDER BY time), \
     count(n), sum(n), min(n), max(n), first_value(n ORDER BY time), last_value(n ORDER BY time), \
     count(s) FROM engine WHERE device >= '' GROUP BY at, device, site ORDER BY at, device, site";
const BY_BUCKETS: &str = "SELECT time, device, site, rows, v_count, v_sum, v_min, v_max, v_first, \
     v_last, n_count, n_sum, n_min, n_max, n_first, n_last, s_count FROM rollup_1m.engine \
     ORDER BY time, device, site";

#[tokio::test]
async fn buckets_are_those_of_the_rows() {
    let bench = bench();
    let found = bench.ask(BY_BUCKETS).await;
    assert!(found.len() > 100, "{}", found.len());
    assert_eq!(found, bench.ask(BY_ROWS).await);
}

#[tokio::test]
async fn conditions_and_aggregates_work_as_on_any_table() {
    let bench = bench();
    let all = bench
        .ask("SELECT sum(rows), sum(v_sum), min(n_min), count(*) FROM rollup_1h.engine")
        .await;
    assert_eq!(
        all[0][..3],
        bench
            .ask("SELECT count(*), sum(v), min(n) FROM engine WHERE device >= ''")
            .await[0]
    );
    assert_eq!(all[0][3], bench.ask("SELECT count(*) FROM (SELECT DISTINCT device, site, date_bin(INTERVAL '1 hour', time) FROM engine)").await[0][0]);
    for condition in [
        "device = 'd1'",
        "device IN ('d0', 'd2') AND time >= TIMESTAMP '1972-09-26 00:30:30'",
        "time BETWEEN TIMESTAMP '1972-09-26 00:10:00' AND TIMESTAMP '1972-09-26 00:20:00'",
        "time < TIMESTAMP '1972-09-26 00:10:00' AND site = 's1'",
        "time > TIMESTAMP '2200-01-01 00:00:00'",
    ] {
        let of = |table: &str, time: &str| {
            format!("SELECT count(*), sum({time}) FROM {table} WHERE {condition}")
        };
        let rolled = bench.ask(&of("rollup_1m.engine", "rows")).await;
        let rows = "(SELECT date_bin(INTERVAL '1 minute', time) AS time, device, site, count(*) AS rows FROM engine WHERE device >= '' GROUP BY 1, 2, 3)";
        assert_eq!(rolled, bench.ask(&of(rows, "rows")).await, "{condition}");
    }
    let one = bench
        .ask(
            "SELECT on_first FROM rollup_1h.engine WHERE device = 'd0' ORDER BY time, site LIMIT 1",
        )
        .await;
    assert_eq!(one, [["true"]]);
}

#[tokio::test]
async fn what_is_not_rolled_up_is_not_there() {
    let bench = bench();
    for sql in [
        "SELECT * FROM rollup_1h.one",
        "SELECT * FROM rollup_1h.nothing",
        "SELECT * FROM rollup_7m.engine",
        "SELECT v_mean FROM rollup_1h.engine",
        "SELECT s_min FROM rollup_1h.engine",
    ] {
        bench.refusal(sql).await;
    }
}
