//! Settings of tables, as SQL sees them: rows of one series and time are one.

use super::*;
use crate::state::{Quota, Quotas, Rollups, SameTime, TableWish, Wish};

#[tokio::test]
async fn rows_of_one_time_are_counted_and_shown_once() {
    let mut bench = Bench::new();
    let (name, address) = ("a".to_owned(), "h:1".to_owned());
    bench.apply(&Command::Admit {
        name,
        address,
        joining: 1,
    });
    let pump = TableWish {
        same_time: Some(SameTime::Merge),
        retention_days: Some(30),
        rollups: Some(Rollups::new(vec![]).unwrap()),
    };
    let valve = TableWish::from(SameTime::Merge);
    let tables = [("pump".to_owned(), pump), ("valve".to_owned(), valve)].into();
    let quotas = Quotas::default().with(Quota::Fields, Some(3));
    let wish = Wish::default().with_tables(tables).with_quotas(quotas);
    bench.apply(&Command::Settings { node: 2, wish });
    let line = |fields: &str, at: i64| format!("pump,device=p {fields} {}\n", START + at);
    bench.lines(&(line("a=1", 0) + &line("a=2,b=2", 0) + &line("a=3", 1)));
    bench.merge();
    bench.lines(
        &(line("b=4", 0) + &line("a=5", 2) + "tank,device=t a=1 5\n" + "tank,device=t a=1 5\n"),
    );
    assert_eq!(bench.ask("SELECT count(*) FROM pump").await, [["3"]]);
    assert_eq!(bench.ask("SELECT count(*) FROM tank").await, [["2"]]);
    assert_eq!(
        bench
            .ask("SELECT a, b FROM pump ORDER BY time LIMIT 1")
            .await,
        [["2.0", "4.0"]]
    );
    assert_eq!(
        bench.ask("SELECT count(b), sum(a) FROM pump").await,
        [["1", "10.0"]]
    );
    let plan = bench.ask("EXPLAIN SELECT sum(a) FROM pump").await;
    assert!(!format!("{plan:?}").contains("states by statistics"));
    let plan = bench.ask("EXPLAIN SELECT sum(a) FROM tank").await;
    assert!(format!("{plan:?}").contains("states by statistics"));
    // Its only field is one too many, so it has no rows yet.
    bench.lines("valve,device=v a=1\n");
    let shown = "SELECT table_name, same_time, retention_days, rollups \
                 FROM information_schema.tables WHERE table_type = 'BASE TABLE' AND table_name <> 'quarantine' ORDER BY 1";
    assert_eq!(
        bench.ask(shown).await,
        [
            ["pump", "merge", "30", "none"],
            ["tank", "keep", "400", "1m, 1h"],
            ["valve", "merge", "400", "1m, 1h"]
        ]
    );
}
