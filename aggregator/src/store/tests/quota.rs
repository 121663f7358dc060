//! What one agent may make: counted alike by all nodes, kept over restarts, and said in `quarantine`.

use shared::batch::{Body, Column, Data, Group, SeriesColumns, SeriesDefinition, Values};
use shared::id::{Lane, LocalSeriesId};
use shared::reading::FieldType;

use super::features::{Bench, DAY};
use super::table_rows;
use crate::state::{Command, Quota, Quotas, State, Wish};

fn definition(id: u32, device: &str) -> SeriesDefinition {
    SeriesDefinition {
        id: LocalSeriesId(id),
        table: "truck".into(),
        device: device.into(),
        tags: vec![],
        fields: vec![("speed".into(), FieldType::Float)],
    }
}

fn data(id: u32) -> Body {
    let columns = vec![Column {
        field: 0,
        present: None,
        values: Values::Float(vec![1.5]),
    }];
    let series = vec![SeriesColumns {
        id: LocalSeriesId(id),
        columns,
    }];
    let times = vec![1000 * DAY];
    Body::Data(Data {
        groups: vec![Group { times, series }],
    })
}

fn allow(bench: &mut Bench, node: u64, series: u32) {
    let quotas = Quotas::default().with(Quota::Series, Some(series));
    let wish = Wish::default().with_quotas(quotas);
    bench.apply(&Command::Settings { node, wish });
}

#[test]
fn series_above_the_quota_of_their_agent_go_to_quarantine() {
    let mut bench = Bench::new();
    let node = bench.admit();
    allow(&mut bench, node, 2);
    let names = (1..5).map(|id| definition(id, &format!("d{id}")));
    let names = bench.agent.define(names.collect());
    bench.send(&names);
    for id in 1..5 {
        let link = bench.agent.seal(Lane::Live, data(id));
        bench.send(&link);
    }
    let rows = |bench: &Bench, table: &str| {
        table_rows(&bench.node.store.view(), table, i64::MIN..=i64::MAX, None)
    };
    assert_eq!(
        rows(&bench, "truck").len(),
        2,
        "what was there before does not count"
    );
    let refused = rows(&bench, "quarantine");
    assert_eq!(refused.len(), 2);
    let reason = refused[0].values.iter().find(|(name, _)| name == "reason");
    let reason = &reason.expect("quarantine has it").1;
    assert!(reason.contains("quotas.agent_series_max = 2:"), "{reason}");
    let encoded = bench.node.state.encode();
    let decoded = State::decode(&encoded).unwrap();
    assert!(decoded.encode() == encoded);
    let made: Vec<_> = decoded.catalog().made().map(|(_, made)| *made).collect();
    assert_eq!(
        (made[0].of(Quota::Series), made[0].refused(Quota::Series)),
        (2, 2)
    );

    // As of a restart from what a merge made durable.
    bench.apply(&Command::Merge);
    assert!(bench.node.finish_merges());
    let sim = bench.node.sim.clone();
    sim.power_cut();
    bench.node = super::Node::open(&sim);
    allow(&mut bench, node, 3);
    bench.agent.restart(2, false, true);
    let hello = bench.agent.lanes[0][0].clone();
    bench.send(&hello);
    let names = [3, 4].map(|id| definition(id, &format!("d{id}")));
    let names = bench.agent.define(names.to_vec());
    bench.send(&names);
    for id in [3, 4] {
        let link = bench.agent.seal(Lane::Live, data(id));
        bench.send(&link);
    }
    assert_eq!(rows(&bench, "truck").len(), 3, "one more may be made");
    assert_eq!(rows(&bench, "quarantine").len(), 3);
}
