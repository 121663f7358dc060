//! Tests of lines as sources write them, and of lines that break the rules.

use std::sync::Arc;

use proptest::prelude::*;

use super::*;

const NOW: TimeNs = TimeNs(42);

fn options() -> LineOptions<'static> {
    LineOptions::new(NOW, "gateway")
}

fn read(lines: &str) -> Vec<Result<Reading, LineError>> {
    parse(lines.as_bytes(), options()).collect()
}

fn one(line: &str) -> Reading {
    let mut readings = read(line);
    assert_eq!(readings.len(), 1, "{line}");
    readings
        .remove(0)
        .unwrap_or_else(|error| panic!("{line}: {error}"))
}

fn tags(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}

fn refused(line: &str) -> LineError {
    let mut readings = read(line);
    assert_eq!(readings.len(), 1, "{line}");
    readings.remove(0).expect_err(line)
}

#[test]
fn a_full_line_gives_every_part() {
    let line = r#"truck,model=H-2,device=t-17,fleet=South velocity=21.5,load=-7i,moving=t,state="ok" 1700000000000000000"#;
    let reading = one(line);
    assert_eq!(reading.shape.table, "truck");
    assert_eq!(reading.shape.device, "t-17");
    assert_eq!(
        reading.shape.tags,
        tags(&[("fleet", "South"), ("model", "H-2")])
    );
    assert_eq!(reading.time, TimeNs(1_700_000_000_000_000_000));
    let fields = [
        ("velocity", &Value::Float(21.5)),
        ("load", &Value::Int(-7)),
        ("moving", &Value::Bool(true)),
        ("state", &Value::Text("ok".to_owned())),
    ];
    assert!(reading.fields().eq(fields), "{reading:?}");
}

#[test]
fn what_a_line_leaves_out_comes_from_the_options() {
    let reading = one("weather t=1");
    assert_eq!(
        (reading.shape.device.as_str(), reading.time),
        ("gateway", NOW)
    );
    let options = LineOptions {
        precision: Precision::parse("ms").unwrap(),
        device_key: "host",
        ..options()
    };
    let reading = parse(b"weather,host=h-1 t=1 -5", options)
        .next()
        .unwrap()
        .unwrap();
    assert_eq!(
        (reading.shape.device.as_str(), reading.time),
        ("h-1", TimeNs(-5_000_000))
    );
    let error = parse(b"weather,device=h-1 t=1", options).next().unwrap();
    assert!(error.is_err(), "a tag named like the column `device`");
    let far = parse(b"weather t=1 9223372036854775807", options)
        .next()
        .unwrap();
    assert!(far.is_err());
}

#[test]
fn values_are_what_influx_reads() {
    let value = |text: &str| one(&format!("m f={text}")).values.remove(0);
    for (text, float) in [
        ("1", 1.0),
        ("-1.5", -1.5),
        ("+2", 2.0),
        (".5", 0.5),
        ("5.", 5.0),
        ("1e3", 1000.0),
        ("-1.5E-3", -0.0015),
        ("1e+2", 100.0),
    ] {
        assert_eq!(value(text), Value::Float(float), "{text}");
    }
    assert_eq!(value("9223372036854775807i"), Value::Int(i64::MAX));
    assert_eq!(value("-9223372036854775808i"), Value::Int(i64::MIN));
    assert_eq!(value("9223372036854775807u"), Value::Int(i64::MAX));
    for text in ["t", "T", "true", "True", "TRUE"] {
        assert_eq!(value(text), Value::Bool(true));
    }
    for text in ["f", "F", "false", "False", "FALSE"] {
        assert_eq!(value(text), Value::Bool(false));
    }
    assert_eq!(value(r#""""#), Value::Text(String::new()));
    assert_eq!(
        value(r#""a, b=c \"d\" \\ \n""#),
        Value::Text(r#"a, b=c "d" \ \n"#.to_owned())
    );
    assert_eq!(
        value("\"two\nlines\""),
        Value::Text("two\nlines".to_owned())
    );
}

#[test]
fn escapes_in_names_are_taken_off() {
    let reading = one(r"my\,table\ one=x,k\=e\,y=v\ a\\l,device=d=1 f\ 1=1");
    assert_eq!(reading.shape.table, "my,table one=x");
    assert_eq!(reading.shape.device, "d=1");
    assert_eq!(reading.shape.tags, tags(&[("k=e,y", r"v a\l")]));
    assert_eq!(reading.shape.fields, ["f 1"]);
    assert_eq!(one(r"C:\Win f=1").shape.table, r"C:\Win");
    assert_eq!(one(r"a\=b f=1").shape.table, r"a\=b");
}

#[test]
fn blank_lines_comments_and_line_ends_are_passed_over() {
    let lines = "\n  \t\n# a comment, with=things\nm f=1 7\r\n\r\n   m f=2   8   \n#";
    let times: Vec<i64> = read(lines).into_iter().map(|r| r.unwrap().time.0).collect();
    assert_eq!(times, [7, 8]);
    assert!(read("").is_empty());
}

#[test]
fn an_error_names_its_place_and_ends_with_its_line() {
    let lines = "m f=1 7\nm f=x 8\nm,a f=1\nm f=\"two\nlines\" x\nm f=2 9";
    let results = read(lines);
    let place = |index: usize| {
        let error = results[index].as_ref().expect_err("this line is wrong");
        (error.line, error.column)
    };
    assert_eq!(results.len(), 5);
    assert_eq!(place(1), (2, 5));
    assert_eq!(place(2), (3, 4));
    assert_eq!(place(3), (5, 8));
    assert_eq!(results[4].as_ref().unwrap().time, TimeNs(9));
    let error = refused("m f=x 8");
    assert_eq!(
        error.to_string(),
        "line 1, column 5: expected a number, a boolean or a quoted text"
    );
}

#[test]
fn an_open_quote_costs_its_own_line_only() {
    let results = read("m f=\"open 1\nm f=2 9\n");
    assert_eq!(results.len(), 2);
    assert_eq!(results[0].as_ref().unwrap_err().column, 5);
    assert_eq!(results[1].as_ref().unwrap().time, TimeNs(9));
}

#[test]
fn broken_lines_are_refused() {
    for line in [
        "m",
        "m ",
        "m,a=b",
        "m, f=1",
        "m,a= f=1",
        "m,=b f=1",
        "m,a f=1",
        ",a=b f=1",
        "m f",
        "m f=",
        "m =1",
        "m f=1,",
        "m f=1,,g=2",
        "m f=1 g=2",
        "m f=1 7 8",
        "m f=1 7x",
        "m f=1 1.5",
        "m f=1 99999999999999999999",
        "m f=NaN",
        "m f=-inf",
        "m f=1e999",
        "m f=0x10",
        "m f=1e",
        "m f=-",
        "m f=i",
        "m f=+5i",
        "m f=-1u",
        "m f=1.5i",
        "m f=9223372036854775808i",
        "m f=9223372036854775808u",
        "m f=tru",
        "m f=\"a\"b",
        "m f='a'",
        "m\\",
        "m\\\n",
        // What a batch cannot carry.
        "m,a=1,a=2 f=1",
        "m,device=1,device=2 f=1",
        "m,a=1 a=1",
        "m f=1,f=2",
        "m time=1",
        "m device=1",
        "m,time=1 f=1",
        "m\tn f=1",
    ] {
        refused(line);
    }
    let long = "x".repeat(257);
    refused(&format!("{long} f=1"));
    refused(&format!("m f=\"{}\"", "x".repeat(16_385)));
    let bad = parse(b"m\xff f=1\nm f=\"\xff\"\nm f=1", options());
    assert_eq!(
        bad.map(|result| result.is_ok()).collect::<Vec<_>>(),
        [false, false, true]
    );
}

#[test]
fn what_is_written_is_read_back() {
    let reading = Reading::new(
        r"a b,c=d\".to_owned(),
        r"C:\ ".to_owned(),
        tags(&[(r"k,\=", r" v\"), ("z", "\u{e4}#")]),
        TimeNs(i64::MIN),
        vec![
            (r"f =,\".to_owned(), Value::Float(-0.0)),
            ("tiny".to_owned(), Value::Float(5e-324)),
            ("large".to_owned(), Value::Float(f64::MAX)),
            ("int".to_owned(), Value::Int(i64::MIN)),
            ("text".to_owned(), Value::Text("\"\\\n,= \\\"".to_owned())),
            ("no".to_owned(), Value::Bool(false)),
        ],
    );
    let line = format(&reading).unwrap();
    let back = one(&line);
    assert_eq!(back, reading);
    assert!(matches!(back.values[0], Value::Float(zero) if zero.is_sign_negative()));
    let mut comment = reading.clone();
    Arc::make_mut(&mut comment.shape).table = "#x".to_owned();
    assert!(format(&comment).is_err());
    let mut nan = reading;
    nan.values[0] = Value::Float(f64::NAN);
    assert!(format(&nan).is_err());
}

fn any_reading() -> impl Strategy<Value = Reading> {
    let name = "[^\\p{Cc}]{1,12}";
    let value = prop_oneof![
        crate::column::properties::any_float()
            .prop_filter("line protocol has no NaN", |value| value.is_finite())
            .prop_map(Value::Float),
        any::<i64>().prop_map(Value::Int),
        any::<bool>().prop_map(Value::Bool),
        "(?s).{0,20}".prop_map(Value::Text),
    ];
    let tags = prop::collection::btree_map("t[^\\p{Cc}]{1,5}", name, 0..3);
    let fields = prop::collection::hash_map("f[^\\p{Cc}]{0,5}", value, 1..5);
    let names = ("[^#\\p{Cc}][^\\p{Cc}]{0,9}", name);
    (names, tags, any::<i64>(), fields).prop_map(|((table, device), tags, time, fields)| {
        let (tags, fields) = (tags.into_iter().collect(), fields.into_iter().collect());
        Reading::new(table, device, tags, TimeNs(time), fields)
    })
}

proptest! {
    #[test]
    fn every_reading_is_read_back(first in any_reading(), second in any_reading()) {
        let lines = format!("{}\n{}\n", format(&first).unwrap(), format(&second).unwrap());
        let back: Result<Vec<Reading>, LineError> = parse(lines.as_bytes(), options()).collect();
        prop_assert_eq!(back.unwrap(), vec![first, second]);
    }

    #[test]
    fn any_bytes_end(bytes in prop::collection::vec(
        prop_oneof![Just(b','), Just(b' '), Just(b'='), Just(b'\\'), Just(b'"'), Just(b'\n'), any::<u8>()],
        0..200,
    )) {
        for reading in parse(&bytes, options()).flatten() {
            prop_assert_eq!(reading.check(), Ok(()));
        }
    }
}
