//! One feature, one test.

use journal::OpenMode;

use super::{Bench, Parameter, QueryError, START};
use crate::query::Unknown;

fn bench() -> Bench {
    let mut bench = Bench::new();
    bench.lines(&format!(
        "fire,device=d1,site=north value=21.5,ok=true,note=\"it's\" {}\nfire,device=d2 value=-1 {}",
        START + 1_500_000_000,
        START + 2_000_000_000
    ));
    bench
}

#[tokio::test]
async fn a_row_is_shown_as_it_was_sent() {
    let bench = bench();
    let rows = bench.ask("SELECT * FROM fire ORDER BY time").await;
    assert_eq!(
        rows,
        [
            [
                "1972-09-27T00:00:01.500Z",
                "d1",
                "north",
                "21.5",
                "true",
                "it's"
            ],
            ["1972-09-27T00:00:02Z", "d2", "NULL", "-1.0", "NULL", "NULL"],
        ]
    );
    let answer = bench
        .try_ask("SELECT time, * FROM fire LIMIT 1", vec![])
        .await;
    assert!(answer.is_err(), "a name twice is refused: {answer:?}");
}

#[tokio::test]
async fn times_are_nanoseconds_of_utc() {
    let bench = bench();
    assert_eq!(
        bench
            .ask("SELECT CAST(time AS BIGINT), extract(epoch FROM time) FROM fire LIMIT 1")
            .await,
        [["86400001500000000", "86400001.5"]]
    );
    assert_eq!(
        bench
            .ask("SELECT date_trunc('minute', time), time + interval '1 hour' FROM fire LIMIT 1")
            .await,
        [["1972-09-27T00:00:00Z", "1972-09-27T01:00:01.500Z"]]
    );
    let rows = bench
        .ask("SELECT CAST(time AS BIGINT) FROM fire ORDER BY time DESC")
        .await;
    assert_eq!(rows, [["86400002000000000"], ["86400001500000000"]]);
    let recent = "SELECT count(*) FROM fire WHERE time > now() - interval '10 minutes'";
    assert_eq!(bench.ask(recent).await, [["0"]]);
    let old = "SELECT count(*) FROM fire WHERE time < now() - interval '10 minutes'";
    assert_eq!(bench.ask(old).await, [["2"]]);
    let zoned = bench
        .plan("SELECT time, now(), current_timestamp FROM fire")
        .await
        .unwrap()
        .schema();
    for field in zoned.fields() {
        assert_eq!(
            field.data_type().to_string(),
            "Timestamp(ns, \"UTC\")",
            "{field:?}"
        );
    }
}

#[tokio::test]
async fn what_grafana_asks_is_answered() {
    let bench = bench();
    let between = "time BETWEEN '1972-09-27T00:00:00Z' AND '1972-09-27T00:00:01.7Z'";
    let sql = format!(
        "SELECT time_bucket('1.000s', time) AS \"time\", avg(value) AS \"value\" FROM fire \
         WHERE {between} GROUP BY 1 ORDER BY 1"
    );
    assert_eq!(bench.ask(&sql).await, [["1972-09-27T00:00:01Z", "21.5"]]);
    let sql = format!(
        "SELECT floor(extract(epoch from time)/300)*300 AS time, max(value) FROM fire \
         WHERE {between} GROUP BY 1"
    );
    assert_eq!(bench.ask(&sql).await, [["86400000.0", "21.5"]]);
    let sql = "SELECT current_setting('server_version_num')::int/100 AS version";
    assert_eq!(bench.ask(sql).await, [["1600"]]);
    let path = "quote_ident(table_schema) IN (SELECT trim(s[i]) FROM generate_series(array_lower( \
                string_to_array(current_setting('search_path'), ','), 1), 1) AS i, \
                string_to_array(current_setting('search_path'), ',') s)";
    let sql = format!(
        "SELECT CASE WHEN {path} THEN quote_ident(table_name) ELSE 'x' END AS \"table\" \
         FROM information_schema.tables ORDER BY CASE WHEN {path} THEN 0 ELSE 1 END, 1"
    );
    assert_eq!(
        bench.ask(&sql).await,
        [["agents"], ["fire"], ["gaps"], ["node_damage"], ["nodes"]]
    );
    let sql = format!(
        "SELECT quote_ident(column_name) AS \"column\", data_type AS \"type\" \
         FROM information_schema.columns WHERE CASE WHEN array_length(parse_ident('fire'), 1) = 2 \
         THEN quote_ident(table_name) = (parse_ident('fire'))[2] \
         ELSE quote_ident(table_name) = 'fire' AND {path} END"
    );
    let columns = bench.ask(&sql).await;
    assert_eq!(columns[0], ["time", "timestamp with time zone"]);
    assert_eq!(columns.len(), 6);
    let none = "SELECT extversion FROM pg_extension WHERE extname = 'timescaledb'";
    assert_eq!(bench.ask(none).await.len(), 0);
}

#[tokio::test]
async fn count_needs_no_scan() {
    let bench = bench();
    let plan = format!("{:?}", bench.ask("EXPLAIN SELECT count(*) FROM fire").await);
    assert!(!plan.contains("DataSourceExec"), "{plan}");
    assert_eq!(bench.ask("SELECT count(*) FROM fire").await, [["2"]]);
    let pruned =
        "EXPLAIN SELECT value FROM fire WHERE time >= '1972-09-27T00:00:02Z' AND device = 'd2'";
    let plan = format!("{:?}", bench.ask(pruned).await);
    assert!(plan.contains("time_ns=86400002000000000..="), "{plan}");
    assert!(
        plan.contains("devices=1") && !plan.contains("FilterExec"),
        "{plan}"
    );
}

#[tokio::test]
async fn names_may_hold_anything() {
    let mut bench = Bench::new();
    bench.lines(&format!(
        "Odd\\ \"Table\",device=d,Tag\\,\\ one=x a.b=1,Über=2,select=3i {START}\nodd,device=d v=9 {START}"
    ));
    let sql = "SELECT \"Tag, one\", \"a.b\", \"Über\", t.\"select\" FROM \"Odd \"\"Table\"\"\" t \
               WHERE t.\"Tag, one\" = 'x' AND \"a.b\" > 0";
    assert_eq!(bench.ask(sql).await, [["x", "1.0", "2.0", "3"]]);
    let sql = "SELECT relname FROM pg_class WHERE oid = '\"Odd \"\"Table\"\"\"'::regclass";
    assert_eq!(bench.ask(sql).await, [["Odd \"Table\""]]);
    assert_eq!(bench.ask("SELECT V FROM ODD").await, [["9.0"]]);
    assert_eq!(bench.ask("SELECT v FROM public.odd").await, [["9.0"]]);
    assert_eq!(
        bench.ask("SELECT v FROM tributary.public.odd").await,
        [["9.0"]]
    );
}

#[tokio::test]
async fn what_is_not_there_is_named() {
    let bench = bench();
    for (sql, what, name, state) in [
        (
            "SELECT * FROM nowhere",
            Unknown::Table,
            "\"nowhere\"",
            "42P01",
        ),
        ("SELECT * FROM no.where", Unknown::Table, "where", "42P01"),
        (
            "SELECT colour FROM fire",
            Unknown::Column,
            "\"colour\"",
            "42703",
        ),
        (
            "SELECT foo(value) FROM fire",
            Unknown::Function,
            "\"foo\"",
            "42883",
        ),
        (
            "SELECT repeat('x', 10)",
            Unknown::Function,
            "\"repeat\"",
            "42883",
        ),
    ] {
        let error = bench.refusal(sql).await;
        assert!(
            matches!(error, QueryError::Unknown { what: is, .. } if is == what),
            "{error:?}"
        );
        assert!(error.to_string().contains(name), "{error}");
        assert_eq!(error.sqlstate(), state);
    }
}

#[tokio::test]
async fn errors_are_sorted_by_who_must_act() {
    let bench = bench();
    for (sql, state) in [
        ("SELEC 1", "42601"),
        ("SELECT value FROM fire WHERE", "42601"),
        ("SELECT 1; SELECT 2", "42601"),
        ("SELECT value + 'x' FROM fire", "22023"),
        ("SELECT 1 / (value - value)::bigint FROM fire", "22023"),
        ("SELECT CAST('x' AS BIGINT)", "22023"),
        ("SELECT $2", "42601"),
        ("DROP TABLE fire", "25006"),
        ("INSERT INTO fire VALUES (1)", "25006"),
        ("COPY fire TO '/tmp/x'", "25006"),
        ("SELECT * INTO other FROM fire", "25006"),
        (
            "CREATE EXTERNAL TABLE t STORED AS CSV LOCATION '/etc/passwd'",
            "42601",
        ),
        ("SELECT * FROM '/etc/passwd'", "42P01"),
    ] {
        let error = bench.refusal(sql).await;
        assert_eq!(error.sqlstate(), state, "{sql}: {error:?}");
        assert!(!error.hint().is_empty());
    }
    let error = bench.refusal("DROP TABLE fire").await;
    assert!(
        error.to_string().starts_with("DROP is not allowed"),
        "{error}"
    );
}

#[tokio::test]
async fn system_tables_show_the_state() {
    let bench = bench();
    let node = ["1", "n1", "127.0.0.1:1", "leader", "2", "NULL"];
    assert_eq!(bench.ask("SELECT * FROM nodes").await, [node]);
    assert_eq!(
        bench
            .ask("SELECT agent, epoch, lane, last FROM agents")
            .await
            .len(),
        0
    );
    assert_eq!(bench.ask("SELECT sum(last) FROM agents").await, [["NULL"]]);
    assert_eq!(
        bench
            .ask("SELECT coalesce(sum(readings), 0) FROM gaps")
            .await,
        [["0"]]
    );
}

#[tokio::test]
async fn tables_and_columns_can_be_listed() {
    let bench = bench();
    let names = |rows: Vec<Vec<String>>, at: usize| -> Vec<String> {
        rows.into_iter().map(|row| row[at].clone()).collect()
    };
    let tables = names(bench.ask("SHOW TABLES").await, 2);
    assert_eq!(tables, ["agents", "fire", "gaps", "node_damage", "nodes"]);
    let columns = names(bench.ask("SHOW COLUMNS FROM fire").await, 3);
    assert_eq!(columns, ["time", "device", "site", "value", "ok", "note"]);
    assert_eq!(
        bench.ask("SELECT tablename FROM pg_tables").await,
        [["fire"]]
    );
}

#[tokio::test]
async fn a_session_knows_who_and_where_it_is() {
    let bench = bench();
    let sql = "SELECT current_user, session_user, current_schema, current_schema() AS again, \
               current_database(), current_catalog, current_setting('TimeZone')";
    let row = [
        "ada",
        "ada",
        "public",
        "public",
        "tributary",
        "tributary",
        "UTC",
    ];
    assert_eq!(bench.ask(sql).await, [row]);
    let version = bench.ask("SELECT version()").await;
    assert!(
        version[0][0].starts_with("PostgreSQL 16.6 (Tributary"),
        "{version:?}"
    );
}

#[tokio::test]
async fn parameters_take_the_type_that_is_expected() {
    let bench = bench();
    let sql = "SELECT device FROM fire WHERE value > $1 AND time < $2 AND device = $3";
    let planned = bench.plan(sql).await.unwrap();
    let types: Vec<String> = planned
        .parameter_types()
        .iter()
        .map(|known| known.as_ref().map_or("any".to_owned(), ToString::to_string))
        .collect();
    assert_eq!(types, ["Float64", "Timestamp(ns, \"UTC\")", "Utf8"]);
    for (value, time) in [
        (Parameter::Int(3), Parameter::Time(START + 1_600_000_000)),
        (
            Parameter::Text("3.5".into()),
            Parameter::Text("1972-09-27 00:00:01.6+00".into()),
        ),
    ] {
        let with = vec![value, time, Parameter::Text("d1".into())];
        assert_eq!(bench.try_ask(sql, with).await.unwrap().rows, [["d1"]]);
    }
    let missing = bench
        .try_ask(sql, vec![Parameter::Null])
        .await
        .expect_err("too few");
    assert!(missing.to_string().contains("3 parameters"), "{missing}");
    let wrong = vec![
        Parameter::Text("x".into()),
        Parameter::Time(0),
        Parameter::Null,
    ];
    assert_eq!(
        bench
            .try_ask(sql, wrong)
            .await
            .expect_err("no number")
            .sqlstate(),
        "22023"
    );
}

#[tokio::test]
async fn a_plan_sees_its_view_and_nothing_newer() {
    let mut bench = bench();
    let planned = bench.plan("SELECT count(value) FROM fire").await.unwrap();
    assert_eq!(planned.index(), bench.index);
    bench.lines("fire,device=d3 value=1");
    bench.merge();
    let batches: Vec<_> =
        futures_util::TryStreamExt::try_collect(planned.run(vec![]).await.unwrap())
            .await
            .unwrap();
    assert_eq!(super::texts(&batches[0]), [["2"]]);
    assert_eq!(bench.ask("SELECT count(value) FROM fire").await, [["3"]]);
}

#[tokio::test]
async fn what_other_clients_probe_is_answered() {
    let bench = bench();
    for (sql, rows) in [
        ("select pg_catalog.version()", 1),
        ("select current_schema()", 1),
        (
            "SELECT t.oid, typarray FROM pg_type t JOIN pg_namespace ns ON typnamespace = ns.oid \
             WHERE typname = 'hstore'",
            0,
        ),
        (
            "SELECT pg_catalog.pg_class.relname FROM pg_catalog.pg_class JOIN pg_catalog.pg_namespace \
             ON pg_catalog.pg_namespace.oid = pg_catalog.pg_class.relnamespace \
             WHERE pg_catalog.pg_class.relkind = ANY (ARRAY['r', 'p']) \
             AND pg_catalog.pg_table_is_visible(pg_catalog.pg_class.oid) \
             AND pg_catalog.pg_namespace.nspname != 'pg_catalog'",
            1,
        ),
        (
            "SELECT NULL AS TABLE_CAT, n.nspname AS TABLE_SCHEM, c.relname AS TABLE_NAME, \
             d.description AS REMARKS FROM pg_catalog.pg_namespace n, pg_catalog.pg_class c \
             LEFT JOIN pg_catalog.pg_description d ON (c.oid = d.objoid AND d.objsubid = 0 \
             AND d.classoid = 'pg_class'::regclass) WHERE c.relnamespace = n.oid \
             ORDER BY TABLE_SCHEM, TABLE_NAME",
            5,
        ),
        (
            "SELECT nspname FROM pg_namespace WHERE nspname = ANY (current_schemas(false))",
            1,
        ),
        ("DESCRIBE fire", 6),
        ("EXPLAIN ANALYZE SELECT max(value) FROM fire", 1),
        ("EXPLAIN VERBOSE SELECT max(value) FROM fire", 0),
        ("SELECT * FROM information_schema.views", 4),
        (
            "SELECT 'fire'::regclass, 1::regclass::text, 'int8'::regtype::oid",
            1,
        ),
    ] {
        let found = bench.ask(sql).await;
        assert!(rows == 0 || found.len() == rows, "{sql}: {found:?}");
    }
}

#[tokio::test]
async fn damaged_data_is_an_error_and_never_an_answer() {
    let mut bench = bench();
    bench.merge();
    assert_eq!(bench.ask("SELECT sum(value) FROM fire").await, [["20.5"]]);
    let segments = bench.disk.directory("segments").unwrap();
    let [name] = segments.list().unwrap().try_into().expect("one segment");
    let file = segments.open(&name, OpenMode::Existing).unwrap();
    let mut bytes = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
    file.read_at(0, &mut bytes).unwrap();
    bytes.iter_mut().take(60).for_each(|byte| *byte = !*byte);
    file.write_at(0, &bytes).unwrap();
    let error = bench.refusal("SELECT sum(value) FROM fire").await;
    assert!(matches!(error, QueryError::Data(_)), "{error:?}");
    assert_eq!(error.sqlstate(), "XX001");
    assert!(error.to_string().contains(&name), "{error}");
    let told = "SELECT file, \"table\", device, rows, what FROM node_damage ORDER BY \"offset\"";
    let [row] = bench
        .ask(told)
        .await
        .try_into()
        .expect("the scan met one block");
    assert_eq!(row[..4], [name.as_str(), "fire", "d1", "1"], "{row:?}");
    assert_eq!(row[4], "checksum does not match");
    let rest = "SELECT value FROM fire WHERE device = 'd2'";
    assert_eq!(bench.ask(rest).await.len(), 1, "other blocks are read");
}
