//! Golden files: bytes that were once written and must be read for ever. What is in them stays; a
//! new version of a format adds files.

use std::fs;
use std::path::PathBuf;

use bytes::Bytes;
use shared::batch::{
    Body, Clock, ClockQuality, Column, Data, Group, SeriesColumns, SeriesDefinition, Values,
};
use shared::id::{AgentId, Lane, LocalSeriesId, TimeNs};
use shared::reading::FieldType;

use super::agent::Agent;
use super::features::{DAY, submission};
use crate::state::{
    Command, Outcome, Payload, Quota, Quotas, Rollup, Rollups, SameTime, Sealing, Settings, State,
    TableStanding, TableWish, Window, Wish,
};

fn folder(format: &str) -> PathBuf {
    let fixtures = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures");
    PathBuf::from(fixtures).join(format)
}

fn read(format: &str, name: &str) -> Bytes {
    let path = folder(format).join(name);
    fs::read(&path)
        .unwrap_or_else(|e| panic!("{}: {e}", path.display()))
        .into()
}

const NOW: i64 = 20_000 * DAY;

const LINES: &[u8] = b"weather,device=roof,city=Mons temperature=24.5,raining=f,n=4i,txt=\"a4\" 1728000000000000000\n\
                       weather,device=roof temperature=\"warm\"\n";

fn definition(id: u32, table: &str, fields: &[&str]) -> SeriesDefinition {
    let fields = fields.iter();
    SeriesDefinition {
        id: LocalSeriesId(id),
        table: table.into(),
        device: "d1".into(),
        tags: vec![("line".into(), "3".into())],
        fields: fields
            .map(|name| ((*name).to_owned(), FieldType::Float))
            .collect(),
    }
}

/// Of a series that is stored and one that is refused.
fn data(times: &[i64]) -> Data {
    let column = |field, values| Column {
        field,
        present: None,
        values,
    };
    let series = |id, columns| SeriesColumns {
        id: LocalSeriesId(id),
        columns,
    };
    let rows = times.len();
    let stored = vec![
        column(0, Values::Float(vec![1.5; rows])),
        column(1, Values::Bool(vec![true; rows])),
    ];
    let refused = vec![column(0, Values::Int(vec![1 << 60; rows]))];
    Data {
        groups: vec![Group {
            times: times.to_vec(),
            series: vec![series(7, stored), series(8, refused)],
        }],
    }
}

/// Commands of every kind in version 1, as one cluster might have applied them, in order.
fn samples() -> Vec<(&'static str, Command)> {
    let id = AgentId::parse("gw-1").unwrap();
    let mut agent = Agent::new("gw-1", 0x0123_4567_89ab_cdef);
    let hello = agent.lanes[0][0].clone();
    let names = agent.define(vec![
        definition(7, "truck", &["speed", "on"]),
        definition(8, "agents", &["x"]),
    ]);
    let clock = agent.seal(
        Lane::Names,
        Body::Clock(Clock {
            offset_ns: NOW,
            quality: ClockQuality::Cluster,
        }),
    );
    let since_boot = agent.seal_since_boot(data(&[5, 6]));
    let live = agent.seal(Lane::Live, Body::Data(data(&[NOW, NOW - DAY])));
    agent.seal(Lane::Backlog, Body::Data(data(&[5])));
    agent.seal_gap(Lane::Backlog, 0, 0, &mut super::Random(1));
    let gap = agent.lanes[Lane::Backlog as usize][0].clone();
    agent.restart(0xfedc_ba98_7654_3210, true, false);
    let second = agent.lanes[0][0].clone();
    let batch = |link: &super::agent::Link| submission(&id, Payload::Batch(link.bytes.clone()));
    let told = |node| Command::Clock {
        node,
        now: TimeNs(NOW),
    };
    vec![
        (
            "admit.bin",
            Command::Admit {
                name: "a".into(),
                address: "10.0.0.1:8800".into(),
                joining: 0x1122_3344_5566_7788,
            },
        ),
        ("clock.bin", told(1)),
        ("settings.bin", Command::RetentionDays(30)),
        (
            "lines.bin",
            submission(&id, Payload::Lines(Bytes::from_static(LINES))),
        ),
        ("hello.bin", batch(&hello)),
        ("names.bin", batch(&names)),
        ("epoch_clock.bin", batch(&clock)),
        ("data_since_boot.bin", batch(&since_boot)),
        ("data.bin", batch(&live)),
        ("gap.bin", batch(&gap)),
        ("merge.bin", Command::Merge),
        ("hello_second.bin", batch(&second)),
        ("retention.bin", Command::Retention),
    ]
}

/// The only command of later versions.
fn settings() -> Command {
    Command::Settings {
        node: 1,
        wish: Wish::new(Some(90), Some(12)),
    }
}

/// Of a table that has rows, and of two that have none.
fn settings_of_tables() -> Command {
    let tables = [
        ("truck", SameTime::Merge),
        ("pump", SameTime::Merge),
        ("tank", SameTime::Merge),
    ];
    let tables = tables.map(|(name, how)| (name.to_owned(), how.into()));
    Command::Settings {
        node: 1,
        wish: Wish::new(Some(90), Some(12))
            .with_quotas(Quotas::default().with(Quota::Tables, Some(1)))
            .with_tables(tables.into()),
    }
}

/// Of tables all that can be said, and of one that there is not.
fn all_settings_of_tables() -> Command {
    let rollups = vec![
        Rollup::new(60, None).unwrap(),
        Rollup::new(3_600, Some(1_825)).unwrap(),
    ];
    let all = TableWish {
        same_time: Some(SameTime::Merge),
        retention_days: Some(30),
        rollups: Some(Rollups::new(rollups).unwrap()),
    };
    let none = TableWish {
        rollups: Some(Rollups::new(vec![]).unwrap()),
        ..TableWish::default()
    };
    let tables = [
        ("pump", all),
        ("tank", none),
        ("valve", SameTime::Keep.into()),
    ];
    let tables = tables.map(|(name, wish)| (name.to_owned(), wish));
    Command::Settings {
        node: 1,
        wish: Wish::new(None, Some(12)).with_tables(tables.into()),
    }
}

/// The first rows of one of them, and of a table that is one too many.
fn lines_of_a_table() -> Command {
    let id = AgentId::parse("gw-1").unwrap();
    let lines = b"pump,device=p1 flow=1.5 1728000000000000000\n\
                  pump,device=p1 flow=2.5,on=t 1728000000000000000\n\
                  tank,device=t1 level=3 1728000000000000000\n";
    submission(&id, Payload::Lines(Bytes::from_static(lines)))
}

/// A kind that came later, of which states know nothing.
fn seal() -> Command {
    Command::Seal(
        Window {
            start_hour: 489_984,
            hours: 24,
        }
        .into(),
    )
}

/// Of tables that are kept for a time of their own.
fn seal_of_tables() -> Command {
    Command::Seal(Sealing {
        window: Window {
            start_hour: -12,
            hours: 12,
        },
        kept_days: 30,
    })
}

fn command(format: &str, name: &str) -> Command {
    Command::decode(&read(format, name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// What the commands of version 1 come to.
fn applied() -> State {
    let mut state = State::new();
    for (index, (name, _)) in (1..).zip(samples()) {
        let effects = state.apply(index, &command("command/v1", name));
        let stored = |(_, outcome): &(_, _)| *outcome == Outcome::Stored;
        assert!(effects.outcomes.iter().all(stored), "{name}: {effects:?}");
    }
    state
}

/// And then the settings of the only member.
fn applied_with_settings() -> State {
    let mut state = applied();
    state.apply(state.index() + 1, &command("command/v2", "settings.bin"));
    state
}

/// And then settings of tables.
fn applied_with_tables() -> State {
    let mut state = applied_with_settings();
    for name in ["settings.bin", "lines.bin"] {
        state.apply(state.index() + 1, &command("command/v3", name));
    }
    state
}

/// And then settings of tables that go on.
fn applied_with_all_of_tables() -> State {
    let mut state = applied_with_tables();
    state.apply(state.index() + 1, &command("command/v4", "settings.bin"));
    state
}

#[test]
fn golden_commands_are_read_as_what_was_written() {
    for (name, sample) in samples() {
        let bytes = read("command/v1", name);
        let read = Command::decode(&bytes).unwrap();
        assert_eq!(read.encode(), bytes, "{name}");
        // An encoder of batches may come to write other bytes: those that are there stay.
        if !matches!(sample, Command::Submissions(_)) {
            assert_eq!(read, sample, "{name}");
        }
    }
    assert_eq!(command("command/v1", "seal.bin"), seal());
    assert_eq!(seal().encode(), read("command/v1", "seal.bin"));
    assert_eq!(command("command/v2", "seal.bin"), seal_of_tables());
    assert_eq!(seal_of_tables().encode(), read("command/v2", "seal.bin"));
    assert_eq!(command("command/v2", "settings.bin"), settings());
    assert_eq!(settings().encode(), read("command/v2", "settings.bin"));
    assert_eq!(command("command/v3", "settings.bin"), settings_of_tables());
    assert_eq!(
        settings_of_tables().encode(),
        read("command/v3", "settings.bin")
    );
    assert_eq!(command("command/v3", "lines.bin"), lines_of_a_table());
    assert_eq!(
        command("command/v4", "settings.bin"),
        all_settings_of_tables()
    );
    assert_eq!(
        all_settings_of_tables().encode(),
        read("command/v4", "settings.bin")
    );
}

#[test]
fn a_golden_state_of_version_1_is_what_its_commands_come_to() {
    let state = State::decode(&read("state/v1", "state.bin")).unwrap();
    assert_eq!(state.settings(), Settings::new(30, 24));
    assert!(state.encode() == applied().encode());
}

#[test]
fn a_golden_state_of_version_2_is_what_its_commands_come_to() {
    let state = State::decode(&read("state/v2", "state.bin")).unwrap();
    assert_eq!(state.settings(), Settings::new(90, 12));
    assert_eq!(state.settings_of(1), Some(&Wish::new(Some(90), Some(12))));
    assert!(state.encode() == applied_with_settings().encode());
}

/// As it is written where no more is said of tables: nodes of before read it.
#[test]
fn a_golden_state_of_version_3_is_what_its_commands_come_to() {
    let bytes = read("state/v3", "state.bin");
    let state = State::decode(&bytes).unwrap();
    assert!(state.encode() == bytes && applied_with_tables().encode() == bytes);
    let stands = |table| state.same_time_standing(table, SameTime::Merge);
    assert_eq!(stands("truck"), TableStanding::TooLate);
    assert_eq!(stands("pump"), TableStanding::InForce);
    assert_eq!(stands("tank"), TableStanding::InForce);
    assert_eq!(stands("other"), TableStanding::NotAgreed);
    let made = state.catalog().made().map(|(_, made)| *made);
    let made: Vec<_> = made.collect();
    assert_eq!(made.len(), 1);
    let counts = Quota::ALL.map(|quota| (made[0].of(quota), made[0].refused(quota)));
    assert_eq!(counts, [(1, 0), (1, 1), (2, 0)]);
    let same_time = |table| state.catalog().table(table).map(|info| info.same_time);
    assert_eq!(same_time("truck"), Some(SameTime::Keep));
    assert_eq!(same_time("pump"), Some(SameTime::Merge));
    assert_eq!(same_time("tank"), None);
}

#[test]
fn a_golden_state_of_version_4_is_what_its_commands_come_to() {
    let bytes = read("state/v4", "state.bin");
    let state = State::decode(&bytes).unwrap();
    assert!(state.encode() == bytes && applied_with_all_of_tables().encode() == bytes);
    let settings = state.table_settings();
    let days = |table| settings.retention_days_of(table);
    let rollups = |table| settings.rollups_of(table).to_string();
    assert_eq!((days("pump"), days("tank")), (Some(30), None));
    assert_eq!(rollups("pump"), "1m, 1h for 1825 days");
    assert_eq!(rollups("tank"), "none");
    assert_eq!(rollups("valve"), "1m, 1h", "nothing was said of them");
    assert_eq!(settings.retention_days_max(), Some(30));
}

#[test]
fn a_flipped_bit_and_a_missing_end_of_a_state_are_found() {
    for version in ["state/v1", "state/v2", "state/v3", "state/v4"] {
        let bytes = read(version, "state.bin");
        for len in 0..bytes.len() {
            assert!(State::decode(&bytes[..len]).is_err(), "{len} bytes");
        }
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(State::decode(&flipped).is_err(), "bit {bit}");
        }
    }
}

/// Run with `--ignored` after adding a sample. It leaves files that are there alone.
#[test]
#[ignore = "writes the golden files of new samples"]
fn write_golden_files() {
    let keep = |format: &str, name: &str, bytes: &[u8]| {
        fs::create_dir_all(folder(format)).unwrap();
        let path = folder(format).join(name);
        if !path.exists() {
            fs::write(path, bytes).unwrap();
        }
    };
    for (name, command) in samples() {
        keep("command/v1", name, &command.encode());
    }
    keep("command/v1", "seal.bin", &seal().encode());
    keep("command/v2", "settings.bin", &settings().encode());
    keep("command/v2", "seal.bin", &seal_of_tables().encode());
    keep("command/v3", "settings.bin", &settings_of_tables().encode());
    keep("command/v3", "lines.bin", &lines_of_a_table().encode());
    keep("state/v3", "state.bin", &applied_with_tables().encode());
    let settings = all_settings_of_tables().encode();
    keep("command/v4", "settings.bin", &settings);
    let state = applied_with_all_of_tables().encode();
    keep("state/v4", "state.bin", &state);
}
