//! Random rows in a store and in a list; both answer the same.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::{Bench, START, counted};

const SECOND: i64 = 1_000_000_000;

#[derive(Debug, Clone)]
struct Row {
    device: String,
    site: Option<String>,
    time: i64,
    seq: i64,
    value: Option<f64>,
    ok: Option<bool>,
    note: Option<String>,
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }

    fn chance(&mut self) -> bool {
        self.below(3) > 0
    }

    fn row(&mut self, seq: i64) -> Row {
        let quarter = i64::try_from(self.below(4_000)).unwrap();
        let exact = f64::from(u32::try_from(self.below(1_000)).unwrap()) / 4.0;
        Row {
            device: format!("d{}", self.below(5)),
            site: self.chance().then(|| format!("s{}", self.below(2))),
            time: START + quarter * SECOND / 4,
            seq,
            value: self.chance().then_some(exact),
            ok: self.chance().then(|| self.chance()),
            note: self.chance().then(|| format!("note {}", self.below(9))),
        }
    }
}

impl Row {
    fn line(&self) -> String {
        let Self {
            device,
            site,
            time,
            seq,
            value,
            ok,
            note,
        } = self;
        let mut line = format!("fire,device={device}");
        if let Some(site) = site {
            write!(line, ",site={site}").unwrap();
        }
        write!(line, " seq={seq}i").unwrap();
        if let Some(value) = value {
            write!(line, ",value={value:?}").unwrap();
        }
        if let Some(ok) = ok {
            write!(line, ",ok={ok}").unwrap();
        }
        if let Some(note) = note {
            write!(line, ",note=\"{note}\"").unwrap();
        }
        write!(line, " {time}").unwrap();
        line
    }

    fn cells(&self) -> Vec<String> {
        let Self {
            device,
            site,
            time,
            seq,
            value,
            ok,
            note,
        } = self;
        vec![
            device.clone(),
            or_null(site.as_ref()),
            time.to_string(),
            seq.to_string(),
            value.map_or_else(|| "NULL".to_owned(), |value| format!("{value:?}")),
            or_null(ok.as_ref()),
            or_null(note.as_ref()),
        ]
    }
}

fn or_null<T: ToString>(value: Option<&T>) -> String {
    value.map_or_else(|| "NULL".to_owned(), ToString::to_string)
}

/// Half of it in segments, half in level 0.
fn filled(count: i64) -> (Bench, Vec<Row>) {
    let mut random = Random(11);
    // The first row has all fields, so that the table has all columns.
    let first = Row {
        device: "d0".into(),
        site: Some("s0".into()),
        time: START,
        seq: 0,
        value: Some(0.25),
        ok: Some(true),
        note: Some("first".into()),
    };
    let mut rows = vec![first];
    rows.extend((1..count).map(|seq| random.row(seq)));
    let mut bench = Bench::new();
    for (at, part) in rows.chunks(rows.len().div_ceil(4)).enumerate() {
        for lines in part.chunks(500) {
            let lines: Vec<String> = lines.iter().map(Row::line).collect();
            bench.lines(&lines.join("\n"));
        }
        if at == 1 {
            bench.merge();
        }
    }
    (bench, rows)
}

/// A time of the tests as SQL has it.
fn literal(time: i64) -> String {
    let since = time - START;
    let (seconds, ns) = (since.div_euclid(SECOND), since.rem_euclid(SECOND));
    format!(
        "'1972-09-27T00:{:02}:{:02}.{ns:09}Z'",
        seconds / 60,
        seconds % 60
    )
}

const COLUMNS: &str = "device, site, CAST(time AS BIGINT), seq, value, ok, note";

/// A condition in SQL, and the same in Rust.
type Condition = (String, Box<dyn Fn(&Row) -> bool>);

fn conditions() -> Vec<Condition> {
    let (low, high) = (START + 100 * SECOND, START + 700 * SECOND);
    let (from, to) = (literal(low), literal(high));
    vec![
        ("true".into(), Box::new(|_| true)),
        (
            format!("time > {from}"),
            Box::new(move |row| row.time > low),
        ),
        (
            format!("{from} <= time"),
            Box::new(move |row| row.time >= low),
        ),
        (
            format!("time = {from}"),
            Box::new(move |row| row.time == low),
        ),
        (
            format!("time <> {from}"),
            Box::new(move |row| row.time != low),
        ),
        (
            format!("time BETWEEN {from} AND {to}"),
            Box::new(move |row| (low..=high).contains(&row.time)),
        ),
        (
            format!("time >= {from} AND time < {to} AND device IN ('d1', 'd3', 'none')"),
            Box::new(move |row| {
                (low..high).contains(&row.time) && ["d1", "d3"].contains(&row.device.as_str())
            }),
        ),
        (
            "device = 'd2' AND seq > 50".into(),
            Box::new(|row| row.device == "d2" && row.seq > 50),
        ),
        (
            "device > 'd2'".into(),
            Box::new(|row| row.device.as_str() > "d2"),
        ),
        (
            "device = 'd1' AND device = 'd2'".into(),
            Box::new(|_| false),
        ),
        ("device = 'D1'".into(), Box::new(|_| false)),
        ("time > '2100-01-01'".into(), Box::new(|_| false)),
        (
            "site IS NULL AND value >= 100".into(),
            Box::new(|row| row.site.is_none() && row.value.is_some_and(|value| value >= 100.0)),
        ),
        ("NOT ok".into(), Box::new(|row| row.ok == Some(false))),
        (
            format!("CAST(time AS BIGINT) < {low} OR note = 'note 3'"),
            Box::new(move |row| row.time < low || row.note.as_deref() == Some("note 3")),
        ),
    ]
}

#[tokio::test]
async fn conditions_on_time_and_device_take_the_same_rows() {
    let (bench, rows) = filled(2_000);
    for (condition, holds) in conditions() {
        let wanted: Vec<Vec<String>> = rows
            .iter()
            .filter(|row| holds(row))
            .map(Row::cells)
            .collect();
        let count = wanted.len().to_string();
        let found = bench
            .ask(&format!("SELECT {COLUMNS} FROM fire WHERE {condition}"))
            .await;
        assert!(counted(found) == counted(wanted), "{condition}");
        let found = bench
            .ask(&format!("SELECT count(*) FROM fire WHERE {condition}"))
            .await;
        assert_eq!(found, [[count]], "{condition}");
    }
}

#[tokio::test]
async fn groups_by_time_and_device_count_the_same() {
    let (bench, rows) = filled(1_500);
    let mut groups: BTreeMap<(i64, String), (i64, i64, i64, f64)> = BTreeMap::new();
    for row in &rows {
        let bucket = row.time - (row.time - START).rem_euclid(60 * SECOND);
        let group = groups.entry((bucket, row.device.clone())).or_default();
        group.0 += 1;
        group.1 += i64::from(row.value.is_some());
        group.2 += row.seq;
        group.3 = group.3.max(row.value.unwrap_or(0.0));
    }
    let wanted = groups
        .into_iter()
        .map(|((bucket, device), (count, values, seq, max))| {
            [
                bucket.to_string(),
                device,
                count.to_string(),
                values.to_string(),
                seq.to_string(),
                format!("{max:?}"),
            ]
            .to_vec()
        });
    let wanted: Vec<Vec<String>> = wanted.collect();
    for width in ["'1 minute'", "'60s'", "'60.000s'", "INTERVAL '1 minute'"] {
        let sql = format!(
            "SELECT CAST(time_bucket({width}, time) AS BIGINT), device, count(*), count(value), \
             sum(seq), coalesce(max(value), 0.0) FROM fire \
             GROUP BY time_bucket({width}, time), device ORDER BY 1, 2"
        );
        assert_eq!(bench.ask(&sql).await, wanted, "{width}");
    }
}

#[tokio::test]
async fn order_limit_and_newest_values_are_the_same() {
    let (bench, mut rows) = filled(1_500);
    rows.sort_by_key(|row| (-row.time, row.seq));
    let wanted: Vec<Vec<String>> = rows.iter().skip(3).take(7).map(Row::cells).collect();
    let sql = format!("SELECT {COLUMNS} FROM fire ORDER BY time DESC, seq LIMIT 7 OFFSET 3");
    assert_eq!(bench.ask(&sql).await, wanted);

    let mut newest: BTreeMap<&str, &Row> = BTreeMap::new();
    for row in &rows {
        let known = newest.entry(&row.device).or_insert(row);
        if (row.time, row.seq) > (known.time, known.seq) {
            *known = row;
        }
    }
    let wanted: Vec<Vec<String>> = newest
        .values()
        .map(|row| vec![row.device.clone(), row.time.to_string()])
        .collect();
    let sql = "SELECT device, last(CAST(time AS BIGINT), time) FROM fire GROUP BY 1 ORDER BY 1";
    assert_eq!(bench.ask(sql).await, wanted);
    assert_eq!(bench.ask("SELECT seq FROM fire LIMIT 9").await.len(), 9);
    assert_eq!(bench.ask("SELECT seq FROM fire LIMIT 0").await.len(), 0);
    assert_eq!(
        bench
            .ask("SELECT 1 FROM fire WHERE device = 'd1' LIMIT 4")
            .await
            .len(),
        4
    );
}

#[tokio::test]
async fn nulls_are_null() {
    let (bench, rows) = filled(800);
    let count = |is: &dyn Fn(&Row) -> bool| rows.iter().filter(|row| is(row)).count().to_string();
    let wanted = [
        count(&|row| row.site.is_none()),
        count(&|row| row.value.is_none()),
        count(&|row| row.ok.is_none()),
        count(&|row| row.note.is_some()),
    ];
    let sql = "SELECT count(*) - count(site), count(*) FILTER (WHERE value IS NULL), \
               sum(CASE WHEN ok IS NULL THEN 1 ELSE 0 END), count(note) FROM fire";
    assert_eq!(bench.ask(sql).await, [wanted]);
}

/// Beyond the rows from which on a scan is divided.
#[tokio::test]
async fn a_large_table_is_read_in_parts() {
    let mut bench = Bench::new();
    for part in 0..70 {
        let line = |at: i64| {
            let (device, time) = (at % 7, START + at * SECOND);
            format!("big,device=d{device},part=p{part} v={at}i {time}")
        };
        let lines: Vec<String> = (part * 1_000..(part + 1) * 1_000).map(line).collect();
        bench.lines(&lines.join("\n"));
        if part == 30 {
            bench.merge();
        }
    }
    let plan = format!(
        "{:?}",
        bench.ask("EXPLAIN SELECT * FROM big WHERE v > 1").await
    );
    assert!(
        plan.contains("parts=2") && plan.contains("devices=7"),
        "{plan}"
    );
    assert_eq!(
        bench.ask("SELECT count(*), sum(v) FROM big").await,
        [["70000", "2449965000"]]
    );
    let groups = bench
        .ask("SELECT device, count(*) FROM big GROUP BY device ORDER BY 1")
        .await;
    assert_eq!(groups.len(), 7);
    assert!(groups.iter().all(|row| row[1] == "10000"), "{groups:?}");
    let grouped = "SELECT device, part, sum(v) FROM big GROUP BY device, part";
    let plan = format!("{:?}", bench.ask(&format!("EXPLAIN {grouped}")).await);
    assert!(
        !plan.contains("RepartitionExec"),
        "parts are whole devices: {plan}"
    );
    assert_eq!(bench.ask(grouped).await.len(), 7 * 70);
    let joined = "SELECT count(*), sum(b.v) FROM big a JOIN big b USING (device, v) \
                  WHERE a.device IN ('d0', 'd1', 'd2', 'none')";
    assert_eq!(bench.ask(joined).await, [["30000", "1049925000"]]);
    let one = bench
        .ask("SELECT count(v) FROM big WHERE device = 'd3' AND part = 'p1'")
        .await;
    assert_eq!(one, [["143"]]);
    assert_eq!(bench.ask("SELECT v FROM big LIMIT 70").await.len(), 70);
}
