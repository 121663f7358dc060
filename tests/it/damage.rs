//! A disk that forgets: a node serves what it can read, says what it cannot, and goes on taking part.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tests::agent::{AgentUnderTest, Options};
use tests::bulk::Bulk;
use tests::cluster::{self, ClusterUnderTest};
use tests::source::wall_clock_ns;
use tests::wait;

const LIMIT: Duration = Duration::from_secs(240);
const HOUR_NS: i64 = 3_600 * 1_000_000_000;
const DAY_NS: i64 = 24 * HOUR_NS;
const READINGS: i64 = 2_000;
/// Behind the header: in the first block.
const BYTE: usize = 60;

/// Readings of one device on the morning of a day that is over.
fn bulk(device: &str, days_ago: i64) -> Bulk {
    let day = wall_clock_ns() / DAY_NS - days_ago;
    Bulk {
        device: device.to_owned(),
        count: READINGS,
        start_ns: day * DAY_NS + 6 * HOUR_NS,
        step_ns: 1_000_000_000,
        pad_bytes: 0,
    }
}

/// Segments of the day of these readings on one node.
fn files(cluster: &ClusterUnderTest, node: usize, of: &Bulk) -> Vec<PathBuf> {
    let name = &cluster.nodes()[node].name;
    let folder = cluster.folder().join(format!("data-{name}/store/segments"));
    let day = format!("-{}+24.", of.start_ns / DAY_NS * 24);
    let is_of_day = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str());
        name.is_some_and(|name| name.contains(&day) && name.rsplit('.').next() == Some("seg"))
    };
    let all = fs::read_dir(folder).into_iter().flatten().flatten();
    all.map(|entry| entry.path()).filter(is_of_day).collect()
}

fn flip(file: &Path) {
    let mut bytes = fs::read(file).unwrap();
    bytes[BYTE] ^= 0x10;
    fs::write(file, bytes).unwrap();
}

#[test]
fn a_node_with_damaged_files_serves_the_rest_and_says_so() {
    let options = cluster::Options {
        merge_seconds: 1,
        ..cluster::Options::default()
    };
    let mut cluster = ClusterUnderTest::start_with(options);
    let agent = AgentUnderTest::start_with(&cluster, &Options::for_cluster("gw1", &cluster));
    let (flipped, gone, sound) = (bulk("flipped", 3), bulk("gone", 5), bulk("sound", 1));
    for bulk in [&flipped, &gone, &sound] {
        bulk.hand_over(agent.line).unwrap();
    }
    agent.wait_drained(LIMIT).unwrap();
    wait::until("merges of all days", LIMIT, || {
        let is_merged = |bulk| !files(&cluster, 1, bulk).is_empty();
        [&flipped, &gone, &sound]
            .into_iter()
            .all(is_merged)
            .then_some(())
    })
    .unwrap();

    cluster.stop(1, LIMIT).unwrap();
    let aside = cluster.folder().join("aside");
    fs::create_dir(&aside).unwrap();
    let (changed, moved) = (files(&cluster, 1, &flipped), files(&cluster, 1, &gone));
    changed.iter().for_each(|file| flip(file));
    let away = |file: &PathBuf| aside.join(file.file_name().unwrap());
    moved
        .iter()
        .for_each(|file| fs::rename(file, away(file)).unwrap());
    cluster
        .run(1)
        .and_then(|()| cluster.wait_node_ready(1))
        .unwrap();

    serves_the_rest(&cluster, [&flipped, &gone]);
    says_so(&cluster, &changed, &moved);

    let more = bulk("more", 1);
    more.hand_over(agent.line).unwrap();
    agent.wait_drained(LIMIT).unwrap();
    assert_eq!(lately(&cluster, "more"), READINGS.to_string());

    cluster.stop(1, LIMIT).unwrap();
    changed.iter().for_each(|file| flip(file));
    moved
        .iter()
        .for_each(|file| fs::rename(away(file), file).unwrap());
    cluster
        .run(1)
        .and_then(|()| cluster.wait_node_ready(1))
        .unwrap();
    for bulk in [&flipped, &gone, &sound, &more] {
        let stored = bulk.stored(&cluster.client(1));
        let stored = stored.unwrap_or_else(|why| panic!("{why}\n{}", cluster.tails()));
        assert_eq!(stored, bulk.whole());
    }
    let told = cluster.client(1).sql("SELECT * FROM node_damage").unwrap();
    assert_eq!(told.rows.len(), 0, "{told:?}");
}

/// Rows of a device since yesterday, as the node with the damage has them.
fn lately(cluster: &ClusterUnderTest, device: &str) -> String {
    let bound = "time > now() - interval '2 days'";
    let statement = format!("SELECT count(*) AS n FROM fire WHERE device = '{device}' AND {bound}");
    cluster.client(1).value(&statement).unwrap().unwrap()
}

fn serves_the_rest(cluster: &ClusterUnderTest, damaged: [&Bulk; 2]) {
    assert_eq!(lately(cluster, "sound"), READINGS.to_string());
    for bulk in damaged {
        let error = bulk.stored(&cluster.client(1)).unwrap_err();
        assert!(
            error.contains("cannot be read") && error.contains(".seg"),
            "{error}"
        );
        assert_eq!(bulk.stored(&cluster.client(0)).unwrap(), bulk.whole());
    }
    let day = "SELECT * FROM fire WHERE device = 'flipped' AND time > now() - interval '4 days'";
    let error = cluster.client(1).sql(day).unwrap_err();
    assert!(error.message.contains("damaged at byte"), "{error}");
}

fn says_so(cluster: &ClusterUnderTest, changed: &[PathBuf], moved: &[PathBuf]) {
    let told = cluster.client(1).sql("SELECT * FROM node_damage").unwrap();
    let known = |file: &PathBuf, device: Option<&str>| {
        let name = file.file_name().unwrap().to_str();
        let of = |row: &std::collections::HashMap<&str, &str>| {
            row.get("file").copied() == name && row.get("device").copied() == device
        };
        told.records().iter().any(of)
    };
    assert!(moved.iter().all(|file| known(file, None)), "{told:?}");
    assert!(
        changed.iter().any(|file| known(file, Some("flipped"))),
        "{told:?}"
    );
    let status = cluster.client(1).status().unwrap();
    assert!(status["damaged_files"].as_u64() >= Some(2), "{status}");
    assert_eq!(cluster.client(0).status().unwrap()["damaged_files"], 0);
}
