//! What a configuration asks for tables, compared with those that this node had at its last merge.

use crate::cluster::STORE_FOLDER;
use crate::config::Config;
use crate::state::TableStanding;
use crate::store;

use super::InspectError;
use super::node::open;

/// Tables whose `same_time` is refused, because they have rows. None where there is no store yet; of
/// what came since the last merge nothing is known.
///
/// # Errors
/// The store of the node cannot be read.
pub fn refused_tables(config: &Config) -> Result<Vec<String>, InspectError> {
    let path = config.data_dir.join(STORE_FOLDER);
    let wished = config.store.settings.tables();
    if wished.is_empty() || !path.is_dir() {
        return Ok(Vec::new());
    }
    let state = open(&path).and_then(|storage| store::inspect::state(&*storage));
    let state = state.map_err(|source| InspectError::Store { path, source })?;
    let standing = |table, how| state.table_standing(table, how);
    let refused = wished
        .iter()
        .filter(|(table, how)| standing(table, **how) == TableStanding::TooLate);
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
    }
}
