//! The whole way on one page: a device, an agent, three nodes, a PostgreSQL client.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use tests::agent::AgentUnderTest;
use tests::cluster::ClusterUnderTest;

use crate::postgres::psql;

#[test]
fn readings_of_a_device_are_answered_by_sql_exactly_once() {
    let cluster = ClusterUnderTest::start(3);
    let agent = AgentUnderTest::start(&cluster, "gw1");

    // A device gives three readings and is told that each is kept.
    let mut device = TcpStream::connect(agent.line).unwrap();
    device
        .write_all(
            b"weather,device=roof,site=north temperature=21.5,rain=false 1767225600000000000\n\
              weather,device=roof,site=north temperature=21.25,rain=true 1767225601000000000\n\
              weather,device=cellar,site=north temperature=-3.75,note=\"cold, dark\" 1767225601000000001\n",
        )
        .unwrap();
    let answers: Vec<_> = BufReader::new(device)
        .lines()
        .take(3)
        .map(Result::unwrap)
        .collect();
    assert_eq!(answers, ["ok 1", "ok 2", "ok 3"]);

    // The agent has sent them to a node; a quorum has them on disk.
    agent.wait_drained(Duration::from_secs(30)).unwrap();

    // Every node answers the same rows, leader or not: reads are linearizable.
    let question = "SELECT CAST(time AS BIGINT) AS ns, device, site, temperature, rain, note \
                    FROM weather ORDER BY time, device";
    for node in 0..3 {
        assert_eq!(
            psql(&cluster, node, question),
            [
                ["1767225600000000000", "roof", "north", "21.5", "f", ""],
                ["1767225601000000000", "roof", "north", "21.25", "t", ""],
                [
                    "1767225601000000001",
                    "cellar",
                    "north",
                    "-3.75",
                    "",
                    "cold, dark"
                ],
            ]
        );
    }
}
