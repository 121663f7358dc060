//! Answers of rollups. One that is damaged is told and never served: the rows answer.

use std::ops::RangeInclusive;
use std::sync::Arc;

use journal::StorageFile;

use super::aggregate::Buckets;
use super::block::BlockMeta;
use super::damage::{self, Place};
use super::error::StoreError;
use super::group::Group;
use super::reader::View;
use super::rollup::{self, Asked};
use super::segment::SegmentHandle;

/// When, and what of which fields.
type Wanted<'a> = (&'a RangeInclusive<i64>, &'a Asked);

/// What rolls up the segment that is being scanned.
#[derive(Default)]
pub(super) struct Rolled {
    segment: Option<Arc<SegmentHandle>>,
    /// Those that fit, widest buckets first.
    fitting: Vec<Arc<SegmentHandle>>,
    /// The file that was read last, and whose it is.
    content: Option<(usize, Arc<dyn StorageFile>)>,
}

impl View {
    /// The rollups of a segment.
    pub(super) fn rollups_of(&self, segment: &SegmentHandle) -> &[Arc<SegmentHandle>] {
        of_segment(&self.rollups, segment)
    }
}

/// Those of a segment among rollups sorted by name.
pub(super) fn of_segment<'a>(
    rollups: &'a [Arc<SegmentHandle>],
    segment: &SegmentHandle,
) -> &'a [Arc<SegmentHandle>] {
    let stem = rollup::stem(&segment.file.name);
    let from = rollups.partition_point(|one| one.file.name.as_str() < stem);
    let count = rollups[from..].partition_point(|one| one.file.name.starts_with(stem));
    &rollups[from..from + count]
}

impl Rolled {
    /// The states of a block's rows that are in time, by the buckets that are asked for; `None`: the block
    /// has to be read.
    pub(super) fn groups(
        &mut self,
        view: &View,
        segment: &Arc<SegmentHandle>,
        block: &BlockMeta,
        buckets: Option<Buckets>,
        wanted: Wanted<'_>,
    ) -> Option<Vec<Group>> {
        let is_same = |known: &Arc<SegmentHandle>| Arc::ptr_eq(known, segment);
        if !self.segment.as_ref().is_some_and(is_same) {
            self.turn_to(view, segment, buckets);
        }
        for at in 0..self.fitting.len() {
            let rollup = Arc::clone(&self.fitting[at]);
            let of = (block.series, block.offset);
            let found = rollup
                .blocks
                .binary_search_by_key(&of, |cells| (cells.series, cells.source));
            let Ok(place) = found else { continue };
            match self.read(at, place, block, wanted) {
                Ok(Some(groups)) => {
                    if let Some(merged) = merged(groups, buckets) {
                        return Some(merged);
                    }
                }
                Ok(None) => {}
                Err((place, error)) => damage::report(&rollup, place, &error, view.state()),
            }
        }
        None
    }

    fn turn_to(&mut self, view: &View, segment: &Arc<SegmentHandle>, buckets: Option<Buckets>) {
        let fits = |rollup: &&Arc<SegmentHandle>| {
            let resolution = rollup.head.resolution;
            resolution.is_some_and(|resolution| resolution.fits(buckets))
        };
        let fitting = view.rollups_of(segment).iter().filter(fits);
        let mut fitting: Vec<_> = fitting.map(Arc::clone).collect();
        fitting.sort_by_key(|rollup| std::cmp::Reverse(rollup.head.resolution));
        *self = Self {
            segment: Some(Arc::clone(segment)),
            fitting,
            content: None,
        };
    }

    fn read(
        &mut self,
        at: usize,
        place: usize,
        block: &BlockMeta,
        (time, asked): Wanted<'_>,
    ) -> Result<Option<Vec<Group>>, (Place, StoreError)> {
        let rollup = &self.fitting[at];
        let cells = &rollup.blocks[place];
        let content = match self.content.take() {
            Some((of, content)) if of == at => content,
            _ => rollup.content().map_err(|error| (Place::File, error))?,
        };
        let wants = |column| asked.wants(column, block);
        let rows = rollup.read(&*content, cells, &wants);
        self.content = Some((at, content));
        let in_block = |error| (Place::Block(place), error);
        let rows = rows.map_err(in_block)?;
        let groups = rollup::groups(&rows, block.rows.into(), time, &asked.fields);
        groups.map_err(|fault| {
            let name = &rollup.file.name;
            in_block(StoreError::damaged(name, cells.offset, fault.to_string()))
        })
    }
}

/// By the buckets that are asked for; `None` if one of these begins where no time is.
fn merged(groups: Vec<Group>, buckets: Option<Buckets>) -> Option<Vec<Group>> {
    let mut merged: Vec<Group> = Vec::new();
    for mut group in groups {
        group.bucket = match (buckets, group.bucket) {
            (Some(buckets), Some(start)) => Some(buckets.start(start)?),
            _ => None,
        };
        match merged.last_mut() {
            Some(last) if last.bucket == group.bucket => last.merge(group),
            _ => merged.push(group),
        }
    }
    Some(merged)
}
