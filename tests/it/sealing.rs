//! A day that is over lies in as many files as merges brought rows of it: they become one on every
//! node, and every row stays what it was, also for a node that starts again.

use std::fs;
use std::time::Duration;

use tests::agent::{AgentUnderTest, Options};
use tests::bulk::Bulk;
use tests::cluster::{self, ClusterUnderTest};
use tests::source::wall_clock_ns;
use tests::wait;

const LIMIT: Duration = Duration::from_secs(240);
const HOUR_NS: i64 = 3_600 * 1_000_000_000;
const DAY_NS: i64 = 24 * HOUR_NS;
const PARTS: i64 = 3;
const READINGS: i64 = 2_000;

#[test]
fn a_day_that_is_over_becomes_one_file_on_every_node() {
    let options = cluster::Options {
        merge_seconds: 1,
        seal_rest_seconds: 1,
        ..cluster::Options::default()
    };
    let mut cluster = ClusterUnderTest::start_with(options);
    let agent = AgentUnderTest::start_with(&cluster, &Options::for_cluster("gw1", &cluster));
    let day = wall_clock_ns() / DAY_NS - 3;
    let bulks: Vec<Bulk> = (0..PARTS)
        .map(|part| Bulk {
            device: format!("past-{part}"),
            count: READINGS,
            start_ns: day * DAY_NS + 6 * HOUR_NS,
            step_ns: 1_000_000_000,
            pad_bytes: 0,
        })
        .collect();
    let files = |cluster: &ClusterUnderTest, node: usize| -> Vec<String> {
        let name = &cluster.nodes()[node].name;
        let folder = cluster.folder().join(format!("data-{name}/store/segments"));
        let named = |entry: fs::DirEntry| entry.file_name().into_string().ok();
        let of_day = |name: &String| {
            let is_whole = name.rsplit('.').next() == Some("seg");
            is_whole && name.contains(&format!("-{}+24.", day * 24))
        };
        let all = fs::read_dir(folder).into_iter().flatten().flatten();
        all.filter_map(named).filter(of_day).collect()
    };
    let newest = |cluster: &ClusterUnderTest| files(cluster, 0).into_iter().max();
    for bulk in &bulks {
        let before = newest(&cluster);
        bulk.hand_over(agent.line).unwrap();
        agent.wait_drained(LIMIT).unwrap();
        wait::until("a merge of it", LIMIT, || {
            (newest(&cluster) > before).then_some(())
        })
        .unwrap();
    }

    // Names begin with the command: the oldest file is the sealed one once the parts are gone. Behind
    // it may stand what came after it.
    let oldest = |cluster: &ClusterUnderTest, node| files(cluster, node).into_iter().min();
    let sealed = wait::until("one file in place of parts on every node", LIMIT, || {
        let is_sealed = |name: &String| name.ends_with(".sealed.seg");
        let each = (0..3).map(|node| oldest(&cluster, node).filter(is_sealed));
        each.collect::<Option<Vec<String>>>()
    });
    let sealed = sealed.unwrap_or_else(|late| panic!("{late}\n{}", cluster.tails()));
    assert!(sealed.iter().all(|name| *name == sealed[0]), "{sealed:?}");
    cluster.restart(1);
    cluster.wait_ready().unwrap();
    for (node, name) in sealed.iter().enumerate() {
        for bulk in &bulks {
            assert_eq!(bulk.stored(&cluster.client(node)).unwrap(), bulk.whole());
        }
        assert_eq!(oldest(&cluster, node).as_ref(), Some(name));
    }
}
