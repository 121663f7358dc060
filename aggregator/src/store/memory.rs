//! Level 0: the rows since the last merge, as the log brought them. Frozen lists wait for their
//! merge to end; the open one grows.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::state::cow::CowList;
use crate::state::{Rows, TableId};

/// Rows of consecutive log entries, in log order. Clones are cheap.
#[derive(Debug, Clone)]
pub(super) struct RowList {
    pub(super) rows: CowList<Arc<Rows>>,
    pub(super) bytes: usize,
}

/// Everything that is not in segments yet.
#[derive(Debug)]
pub(super) struct Level0 {
    pub(super) open: RowList,
    /// Oldest first; each with the index of the merge command that froze it.
    pub(super) frozen: VecDeque<(u64, RowList)>,
}

impl RowList {
    pub(super) fn new() -> Self {
        Self {
            rows: CowList::new(),
            bytes: 0,
        }
    }

    pub(super) fn row_count(&self, table: TableId) -> u64 {
        let extents = self.rows.iter().flat_map(|rows| &rows.extents);
        extents
            .filter(|extent| extent.table == table)
            .map(|extent| extent.rows)
            .sum()
    }
}

impl Level0 {
    pub(super) fn new() -> Self {
        Self {
            open: RowList::new(),
            frozen: VecDeque::new(),
        }
    }

    pub(super) fn push(&mut self, rows: Vec<Rows>) {
        for rows in rows {
            self.open.bytes += rows.bytes_held();
            self.open.rows.push(Arc::new(rows));
        }
    }

    /// Hands the open list to a merge.
    pub(super) fn freeze(&mut self, index: u64) -> RowList {
        let list = std::mem::replace(&mut self.open, RowList::new());
        self.frozen.push_back((index, list.clone()));
        list
    }

    /// For a view: oldest first.
    pub(super) fn lists(&self) -> Vec<RowList> {
        let frozen = self.frozen.iter().map(|(_, list)| list.clone());
        frozen
            .chain([self.open.clone()])
            .filter(|list| list.rows.len() > 0)
            .collect()
    }
}
