//! What queries may not do: take all memory, time or places.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::AsArray;
use arrow::record_batch::RecordBatch;
use datafusion::physical_plan::displayable;
use futures_util::{StreamExt, TryStreamExt};

use super::{Bench, Planned, QueryError, START};
use crate::query::running::Logical;

/// Runs for ever, as far as a test is concerned; hands out nothing before the end.
const ENDLESS: &str = "SELECT count(*) FROM generate_series(1, 10000000) a, generate_series(1, 10000000) b \
     WHERE a.value + b.value = 3";

#[tokio::test]
async fn a_query_ends_at_its_deadline() {
    let bench = Bench::with(|options| super::QueryOptions {
        queries_max: 1,
        time_max: Duration::from_millis(300),
        ..options
    });
    let error = bench.refusal(ENDLESS).await;
    assert!(matches!(error, QueryError::Timeout { .. }), "{error:?}");
    // Its place is free before its end is told. A busy machine may take longer than the deadline
    // even for a short query, which says nothing about places: that one is asked again.
    for _ in 0..100 {
        match bench.try_ask("SELECT 1", Vec::new()).await {
            Err(QueryError::Timeout { .. }) => {}
            other => return assert_eq!(other.unwrap().rows, [["1"]]),
        }
    }
    panic!("a short query never ended in time");
}

#[tokio::test]
async fn dropping_an_answer_frees_its_place() {
    let bench = Bench::with(|options| super::QueryOptions {
        queries_max: 1,
        ..options
    });
    for _ in 0..3 {
        let mut batches = bench
            .plan(ENDLESS)
            .await
            .unwrap()
            .run(vec![])
            .await
            .unwrap();
        assert!(futures_util::poll!(batches.next()).is_pending());
        drop(batches);
    }
    assert_eq!(bench.ask("SELECT 1").await, [["1"]]);
}

#[tokio::test]
async fn no_more_queries_run_than_there_are_places() {
    let bench = Bench::with(|options| super::QueryOptions {
        queries_max: 1,
        // Long enough for a busy machine to plan; what waits for a place waits this long.
        time_max: Duration::from_secs(3),
        ..options
    });
    let planned = [
        bench.plan(ENDLESS).await.unwrap(),
        bench.plan("SELECT 1").await.unwrap(),
    ];
    let [endless, short] = planned;
    let running = endless.run(vec![]).await.unwrap();
    let waiting = short.run(vec![]).await;
    // Either the place came free at the deadline of the first, or the wait was over before.
    if let Err(error) = waiting {
        assert!(
            matches!(error, QueryError::Busy { running: 1, .. }),
            "{error:?}"
        );
    }
    drop(running);
}

#[tokio::test]
async fn memory_of_a_query_is_bounded() {
    let bench = Bench::with(|options| super::QueryOptions {
        query_memory_bytes: 1 << 20,
        spill_bytes_max: 1 << 20,
        ..options
    });
    let sql = "SELECT value, count(*) FROM generate_series(1, 3000000) AS s(value) \
               GROUP BY value ORDER BY value DESC LIMIT 1";
    let error = bench.refusal(sql).await;
    assert!(matches!(error, QueryError::TooLarge { .. }), "{error:?}");
}

#[tokio::test]
async fn a_slow_reader_holds_few_batches() {
    let mut bench = Bench::new();
    for part in 0..20 {
        let line = |at: i64| format!("t,device=d v={at}i {}", START + at);
        let lines: Vec<String> = (part * 1_000..(part + 1) * 1_000).map(line).collect();
        bench.lines(&lines.join("\n"));
    }
    let mut batches = bench
        .plan("SELECT v FROM t")
        .await
        .unwrap()
        .run(vec![])
        .await
        .unwrap();
    let mut rows = 0;
    while let Some(batch) = batches.next().await {
        let batch = batch.unwrap();
        assert!(batch.num_rows() <= 8_192);
        rows += batch.num_rows();
        tokio::task::yield_now().await;
    }
    assert_eq!(rows, 20_000);
}

/// What the source of states hands to DataFusion.
async fn states(bench: &Bench, sql: &str) -> Vec<RecordBatch> {
    let Planned { state, plan, .. } = bench.plan(sql).await.unwrap();
    let Logical::Optimized(plan) = plan else {
        panic!("it has no parameters");
    };
    let planner = Arc::clone(state.query_planner());
    let mut node = planner.create_physical_plan(&plan, &*state).await.unwrap();
    while let Some(below) = node.children().first().copied().cloned() {
        node = below;
    }
    let shown = displayable(&*node).one_line().to_string();
    assert!(shown.contains("states by statistics"), "{shown}");
    let batches = node.execute(0, state.task_ctx()).unwrap();
    batches.try_collect().await.unwrap()
}

/// No pool counts what a batch is made of: all the texts of level 0 at once were GBs.
#[tokio::test]
async fn states_of_long_texts_come_in_small_batches() {
    const BATCH_BYTES_MAX: usize = 4 << 20;
    let mut bench = Bench::new();
    let text = "x".repeat(16_000);
    let devices = [("a", 400), ("b", 100), ("c", 100), ("d", 100), ("e", 100)];
    for (device, rows) in devices {
        let line = |at: i64| format!("t,device={device} t=\"{text}\" {}", START + at);
        let lines: Vec<String> = (0..rows).map(line).collect();
        for some in lines.chunks(15) {
            bench.lines(&some.join("\n"));
        }
    }
    let sql = "SELECT device, date_bin(INTERVAL '1 nanosecond', time), min(t) FROM t GROUP BY 1, 2";
    let batches = states(&bench, sql).await;
    let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
    assert_eq!(rows, 800);
    let bytes = batches.iter().map(RecordBatch::get_array_memory_size);
    let most = bytes.max().unwrap();
    assert!(most <= BATCH_BYTES_MAX, "{most} bytes");
}

/// Between batches a query can be stopped: many pieces are gathered into one only where the index knows
/// them.
#[tokio::test]
async fn a_batch_of_states_reads_one_block() {
    let mut bench = Bench::new();
    let fill = |bench: &mut Bench, from: i64| {
        for device in 0..8 {
            let line = |at: i64| format!("t,device=d{device} v={at}i {}", START + at);
            let lines: Vec<String> = (from..from + 300).map(line).collect();
            bench.lines(&lines.join("\n"));
        }
    };
    let rows = async |bench: &Bench, group: &str| -> Vec<Vec<String>> {
        let sql = format!("SELECT device, max(v) FROM t GROUP BY device, {group}");
        let devices = |batch: RecordBatch| {
            let devices = batch.column(0).as_string::<i32>().iter();
            let mut devices: Vec<String> = devices.map(|one| one.unwrap().to_owned()).collect();
            devices.dedup();
            devices
        };
        states(bench, &sql).await.into_iter().map(devices).collect()
    };
    fill(&mut bench, 0);
    bench.merge();
    let day = "date_bin(INTERVAL '1 day', time)";
    let part = "date_bin(INTERVAL '100 nanoseconds', time)";
    let all: Vec<String> = (0..8).map(|device| format!("d{device}")).collect();
    let each: Vec<Vec<String>> = all.iter().map(|one| vec![one.clone()]).collect();
    assert_eq!(rows(&bench, day).await, std::slice::from_ref(&all));
    assert_eq!(rows(&bench, part).await, each);
    // Rows of level 0 are decoded at once, for the first device of them.
    fill(&mut bench, 300);
    let found = rows(&bench, day).await;
    let with_first = [all.clone(), vec!["d0".to_owned()]].concat();
    assert_eq!(found, [with_first, all[1..].to_vec()]);
}

/// As deep as `statement` lets in; on threads with a smaller stack than those of the engine, too.
#[tokio::test]
async fn the_deepest_statements_break_no_stack() {
    let mut bench = Bench::new();
    bench.lines("t,device=d v=1i");
    let chain = format!("SELECT v{} FROM t", " + v".repeat(390));
    let either = format!(
        "SELECT v FROM t WHERE v = 1{}",
        " OR v = 2 AND v < 9".repeat(400)
    );
    let union = format!(
        "SELECT v FROM t{}",
        " UNION ALL SELECT v FROM t".repeat(300)
    );
    let parentheses = format!("SELECT {}v{} FROM t", "(".repeat(40), ")".repeat(40));
    let nested = format!(
        "SELECT * FROM {}t{}",
        "(SELECT * FROM ".repeat(20),
        ")".repeat(20)
    );
    let case = format!(
        "SELECT {}1{} FROM t",
        "CASE WHEN v = 1 THEN ".repeat(40),
        " END".repeat(40)
    );
    for (sql, rows) in [
        (chain, 1),
        (either, 1),
        (union, 301),
        (parentheses, 1),
        (nested, 1),
        (case, 1),
    ] {
        let start = &sql[..60];
        match bench.try_ask(&sql, vec![]).await {
            Ok(answer) => assert_eq!(answer.rows.len(), rows, "{start}"),
            Err(error) => assert!(
                matches!(error, QueryError::TooLarge { .. }),
                "{start} {error:?}"
            ),
        }
    }
}
