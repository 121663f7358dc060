//! Level 0: the rows since the last merge, as the log brought them. Frozen lists wait for their
//! merge to end; the open one grows.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::state::cow::CowList;
use crate::state::{Rows, SeriesId, TableId};

/// Payloads of which an index tells the series.
const PAGE: usize = 256;
/// Where more series than that have rows in most payloads, an index would take long to make and rule
/// out little.
const PAGE_SERIES_MAX: usize = 16 * PAGE;
/// Of more series it is as quick to ask each payload.
const LOOKED_UP_MAX: usize = 64;

/// Rows of consecutive log entries, in log order. Clones are cheap.
#[derive(Debug, Clone)]
pub(super) struct RowList {
    pub(super) rows: CowList<Arc<Rows>>,
    pub(super) bytes: usize,
    /// Of each full page of the rows.
    pages: CowList<Option<Arc<Page>>>,
}

/// Which payloads of a page have rows of a series: sorted by series, then by place in the page.
#[derive(Debug)]
struct Page(Box<[(SeriesId, u8)]>);

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
            pages: CowList::new(),
        }
    }

    pub(super) fn push(&mut self, rows: Rows) {
        self.bytes += rows.bytes_held();
        self.rows.push(Arc::new(rows));
        let len = self.rows.len();
        if len.is_multiple_of(PAGE) {
            let page = (len - PAGE..len).filter_map(|at| self.rows.get(at));
            let page = Page::of(page).map(Arc::new);
            self.bytes += page.as_ref().map_or(0, |page| size_of_val(&*page.0));
            self.pages.push(page);
        }
    }

    /// The next payload from `at` on that may have rows of these series; `None` if there is no more.
    pub(super) fn next_of(&self, mut at: usize, series: &[SeriesId]) -> Option<usize> {
        if series.len() > LOOKED_UP_MAX {
            return (at < self.rows.len()).then_some(at);
        }
        while at < self.rows.len() {
            match self.pages.get(at / PAGE) {
                Some(Some(page)) => match page.next_of(at % PAGE, series) {
                    Some(place) => return Some(at / PAGE * PAGE + place),
                    None => at = (at / PAGE + 1) * PAGE,
                },
                Some(None) | None => return Some(at),
            }
        }
        None
    }

    pub(super) fn row_count(&self, table: TableId) -> u64 {
        let extents = self.rows.iter().flat_map(|rows| &rows.extents);
        extents
            .filter(|extent| extent.table == table)
            .map(|extent| extent.rows)
            .sum()
    }
}

impl Page {
    /// `None`: it is not worth it.
    fn of<'a>(rows: impl Iterator<Item = &'a Arc<Rows>>) -> Option<Page> {
        let mut all: Vec<(SeriesId, u8)> = Vec::new();
        for (place, rows) in (0..=u8::MAX).zip(rows) {
            let before = all.len();
            rows.weights(|series, _| all.push((series, place)));
            all[before..].sort_unstable();
            if all.len() > PAGE_SERIES_MAX {
                return None;
            }
        }
        all.sort();
        all.dedup();
        Some(Page(all.into()))
    }

    fn next_of(&self, from: usize, series: &[SeriesId]) -> Option<usize> {
        let first = |id: &SeriesId| {
            let least = (*id, u8::try_from(from).expect("within a page"));
            let at = self.0.partition_point(|one| *one < least);
            let (found, place) = self.0.get(at)?;
            (found == id).then_some(usize::from(*place))
        };
        series.iter().filter_map(first).min()
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
        rows.into_iter().for_each(|rows| self.open.push(rows));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::rows::{SeriesRows, Source};

    fn payload(series: &[u32]) -> Rows {
        let of = |id: &u32| SeriesRows {
            series: SeriesId(*id),
            times: vec![1],
            columns: Vec::new(),
        };
        Rows {
            source: Source::Decoded(series.iter().map(of).collect()),
            extents: Vec::new(),
        }
    }

    /// Where a series has rows, as the index says and as the payloads do.
    fn places(list: &RowList, asked: &[SeriesId]) -> (Vec<usize>, Vec<usize>) {
        let mut at = 0;
        let mut told = Vec::new();
        while let Some(next) = list.next_of(at, asked) {
            told.push(next);
            at = next + 1;
        }
        let has = |at: &usize| {
            let mut any = false;
            let rows = list.rows.get(*at).unwrap();
            rows.weights(|series, _| any |= asked.contains(&series));
            any
        };
        (told, (0..list.rows.len()).filter(has).collect())
    }

    #[test]
    fn the_index_finds_what_the_payloads_have() {
        let mut list = RowList::new();
        for at in 0..u32::try_from(PAGE * 3).unwrap() {
            list.push(payload(&[at % 7, 100 + at % 300, at % 7]));
        }
        for asked in [&[3][..], &[399], &[1, 250], &[999], &[]] {
            let asked: Vec<SeriesId> = asked.iter().copied().map(SeriesId).collect();
            let (told, held) = places(&list, &asked);
            assert_eq!(told, held, "{asked:?}");
        }
        assert!(!places(&list, &[SeriesId(3)]).0.is_empty());
    }

    #[test]
    fn what_is_not_indexed_is_told_for_any() {
        let mut list = RowList::new();
        let many: Vec<u32> = (0..17).collect();
        (0..PAGE).for_each(|_| list.push(payload(&many)));
        list.push(payload(&[1]));
        assert_eq!(list.next_of(5, &[SeriesId(99)]), Some(5), "too many series");
        assert_eq!(
            list.next_of(PAGE, &[SeriesId(99)]),
            Some(PAGE),
            "a page that is not full"
        );
        assert_eq!(list.next_of(PAGE + 1, &[SeriesId(99)]), None);
    }
}
