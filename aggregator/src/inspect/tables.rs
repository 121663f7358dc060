//! What a configuration asks for tables, compared with those that this node had at its last merge.

use crate::cluster::STORE_FOLDER;
use crate::config::Config;
use crate::state::TableStanding;
use crate::store;

use super::InspectError;
use super::node::open;

/// A line for each `same_time` that is refused, because its table has rows, or one if the node's store
/// cannot be read. They stop no node from starting: it goes by the cluster. Of what came since the last
/// merge nothing is known.
pub fn table_warnings(config: &Config) -> Vec<String> {
    match refused_tables(config) {
        Ok(refused) => refused.iter().map(|table| refusal(table)).collect(),
        Err(error) => vec![format!("no table's same_time is checked: {error}")],
    }
}

fn refusal(table: &str) -> String {
    format!(
        "tables.{table}.same_time is refused: the table has rows that came under the other one, and \
         that stays. Take the lines out, or publish to a new table"
    )
}

/// None where nothing was merged yet, or the first start was cut short.
fn refused_tables(config: &Config) -> Result<Vec<String>, InspectError> {
    let path = config.data_dir.join(STORE_FOLDER);
    let wished = config.store.settings.tables();
    if wished.is_empty() || !path.is_dir() {
        return Ok(Vec::new());
    }
    let state = open(&path).and_then(|storage| store::inspect::tables(&*storage));
    let state = state.map_err(|source| InspectError::Store { path, source })?;
    let refused = wished.iter().filter(|(table, wish)| {
        let standing = |how| state.same_time_standing(table, how);
        wish.same_time.map(standing) == Some(TableStanding::TooLate)
    });
    Ok(refused.map(|(table, _)| table.clone()).collect())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use bytes::Bytes;
    use journal::DiskStorage;
    use shared::id::{AgentId, TimeNs};

    use super::*;
    use crate::state::{Command, Origin, Payload, State, Submission};
    use crate::store::Store;

    fn config(folder: &Path, same_time: &str) -> Config {
        let text = format!(
            "name = \"a\"\ncluster = \"demo\"\ndata_dir = \"d\"\n[listen]\n\
             mqtt = \"h:0\"\ncluster = \"h:0\"\npostgres = \"h:0\"\nhttp = \"h:0\"\n\
             [tls]\ncert = \"a.pem\"\nkey = \"a.key\"\nnodes_ca = \"n.pem\"\n\
             agents_ca = \"a.pem\"\nusers_ca = \"u.pem\"\nrevoked = \"r.toml\"\n\
             [tables.pump]\nsame_time = \"{same_time}\"\n"
        );
        Config::parse(&text, &folder.join("node.toml")).unwrap()
    }

    #[test]
    fn a_table_that_has_rows_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let refused = |how| refused_tables(&config(folder.path(), how)).unwrap();
        assert!(refused("merge").is_empty(), "there is no store yet");
        let disk = DiskStorage::open(folder.path().join("d")).unwrap();
        let disk = disk.directory(STORE_FOLDER).unwrap();
        assert!(
            refused("merge").is_empty(),
            "the first start was cut before the manifest"
        );
        let (mut store, mut state) = (Store::open(&*disk).unwrap().0, State::new());
        let lines = Command::Submissions(vec![Submission {
            origin: Origin { boot: 1, ticket: 1 },
            agent: AgentId::parse("gw").unwrap(),
            received: TimeNs(1),
            payload: Payload::Lines(Bytes::from_static(b"pump,device=p a=1")),
        }]);
        for (index, command) in [(1, lines), (2, Command::Merge)] {
            let effects = state.apply(index, &command);
            store.apply(index, &state, effects.rows);
        }
        store.begin_merge(2, &state, Bytes::new()).run().unwrap();
        drop(store);
        assert_eq!(refused("merge"), ["pump"]);
        assert!(refused("keep").is_empty());
        let warnings = |how| table_warnings(&config(folder.path(), how));
        assert!(warnings("merge")[0].contains("tables.pump.same_time is refused"));
        let manifest = folder.path().join("d/store/manifest.redb");
        std::fs::write(&manifest, b"").unwrap();
        assert!(warnings("merge").is_empty(), "nothing was written yet");
        std::fs::write(&manifest, b"no manifest").unwrap();
        assert!(warnings("merge")[0].contains("no table's same_time is checked"));
    }
}
