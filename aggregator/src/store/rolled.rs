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
use super::rollup::{self, Asked, Resolution};
use super::segment::SegmentHandle;

/// When, and what of which fields.
type Wanted<'a> = (&'a RangeInclusive<i64>, &'a Asked);

/// What rolls up the segment that is being scanned.
#[derive(Default)]
pub(super) struct Rolled {
    segment: Option<Arc<SegmentHandle>>,
    /// Widest buckets first.
    fitting: Vec<Fitting>,
}

/// One whose buckets fit those that are asked for.
struct Fitting {
    rollup: Arc<SegmentHandle>,
    resolution: Resolution,
    /// Once something of it was read: the few that a table has stay open until the scan turns to
    /// another segment.
    content: Option<Arc<dyn StorageFile>>,
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

/// Damaged ones, of which the segment has the rows.
pub(super) fn without_need(
    rollups: &[Arc<SegmentHandle>],
    segments: &[Arc<SegmentHandle>],
) -> Vec<Arc<SegmentHandle>> {
    let of_rows = segments.iter().flat_map(|one| of_segment(rollups, one));
    let spoilt = of_rows.filter(|rollup| rollup.is_spoilt());
    spoilt.map(Arc::clone).collect()
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
        let (time, asked) = wanted;
        if asked.needs_rows_of(block) {
            return None;
        }
        let is_same = |known: &Arc<SegmentHandle>| Arc::ptr_eq(known, segment);
        if !self.segment.as_ref().is_some_and(is_same) {
            self.turn_to(view, segment, buckets);
        }
        let mut cut = None;
        for one in &mut self.fitting {
            let Some(place) = one.place_of(block) else {
                continue;
            };
            if one
                .resolution
                .is_cut(time, (block.time_min, block.time_max))
            {
                cut = Some((one, place));
            } else if let Some(groups) = one.answer(view, (block, place), buckets, wanted) {
                return Some(groups);
            }
        }
        // No row may lie where a bucket is cut off; that the narrowest tell best.
        let (narrowest, place) = cut?;
        narrowest.answer(view, (block, place), buckets, wanted)
    }

    fn turn_to(&mut self, view: &View, segment: &Arc<SegmentHandle>, buckets: Option<Buckets>) {
        let fits = |rollup: &Arc<SegmentHandle>| {
            let resolution = rollup.head.resolution?;
            resolution.fits(buckets).then(|| Fitting {
                rollup: Arc::clone(rollup),
                resolution,
                content: None,
            })
        };
        let fitting = view.rollups_of(segment).iter().filter_map(fits);
        let mut fitting: Vec<_> = fitting.collect();
        fitting.sort_by_key(|one| std::cmp::Reverse(one.resolution));
        *self = Self {
            segment: Some(Arc::clone(segment)),
            fitting,
        };
    }
}

impl Fitting {
    /// Where the states of a block are; `None` as well if they are known to be damaged.
    fn place_of(&self, block: &BlockMeta) -> Option<usize> {
        let of = (block.series, block.offset);
        let blocks = &self.rollup.blocks;
        let place = blocks.binary_search_by_key(&of, |cells| (cells.series, cells.source));
        place
            .ok()
            .filter(|place| !self.rollup.faults.concern(*place))
    }

    /// `None`: they do not tell all.
    fn answer(
        &mut self,
        view: &View,
        (block, place): (&BlockMeta, usize),
        buckets: Option<Buckets>,
        wanted: Wanted<'_>,
    ) -> Option<Vec<Group>> {
        match self.read(place, block, wanted) {
            Ok(groups) => merged(groups?, buckets),
            Err((place, error)) => {
                damage::report(&self.rollup, place, &error, view.state());
                None
            }
        }
    }

    fn read(
        &mut self,
        place: usize,
        block: &BlockMeta,
        (time, asked): Wanted<'_>,
    ) -> Result<Option<Vec<Group>>, (Place, StoreError)> {
        let cells = &self.rollup.blocks[place];
        let content = match self.content.take() {
            Some(content) => content,
            None => self
                .rollup
                .content()
                .map_err(|error| (Place::File, error))?,
        };
        let wants = |column| asked.wants(column, block);
        let rows = self.rollup.read(&*content, cells, &wants);
        self.content = Some(content);
        let in_block = |error| (Place::Block(place), error);
        let rows = rows.map_err(in_block)?;
        let groups = rollup::groups(&rows, Some(block.rows.into()), time, &asked.fields);
        groups.map_err(|fault| {
            let name = &self.rollup.file.name;
            in_block(StoreError::damaged(name, cells.offset, fault.to_string()))
        })
    }
}

/// By the buckets that are asked for; `None` if the rows of one lie in several of these, or in none: where
/// a distance to the origin needs more than 64 bits.
fn merged(groups: Vec<Group>, buckets: Option<Buckets>) -> Option<Vec<Group>> {
    let mut merged: Vec<Group> = Vec::new();
    for mut group in groups {
        group.bucket = match buckets {
            Some(buckets) => {
                let start = buckets.start(group.time_min)?;
                let all = [group.bucket?, group.time_max];
                let is_one = all.iter().all(|time| buckets.start(*time) == Some(start));
                is_one.then_some(Some(start))?
            }
            None => None,
        };
        match merged.last_mut() {
            Some(last) if last.bucket == group.bucket => last.merge(group),
            _ => merged.push(group),
        }
    }
    Some(merged)
}
