//! Aggregates over a view: states for each series and bucket of time. A block that lies wholly in the
//! time that is asked for and in one bucket is answered by its entry in the index, and not read; one of
//! which a rollup has states that fit is answered by these (`rolled`); all others, and level 0, are
//! decoded and folded. Either way the state is the same, bit by bit, but for sums of floats that round.
//!
//! Floats are added in this order: within a block, or what level 0 gathers of a series, by rows; where
//! a rollup answers, within each of its buckets by rows, then bucket by bucket; then block by block as
//! a scan has them.

use std::collections::BTreeMap;
use std::ops::{Range, RangeInclusive};
use std::sync::Arc;

use shared::batch::Column;
use shared::reading::FieldType;

use super::block::BlockMeta;
use super::error::StoreError;
use super::group::{FieldState, Group, Measures};
use super::reader::{Chunk, Scan, ScanIter, View};
use super::rolled::Rolled;
use super::rollup::Asked;
use super::segment::SegmentHandle;
use crate::state::{SeriesId, SeriesInfo};

/// Memory of the groups of one piece above which the next bucket begins another: a text may be in
/// each of the states of a field.
const PIECE_BYTES_MAX: usize = 2 << 20;

/// Pieces by statistics that take about as long as reading a block of a rollup, or one of rows: at least.
const ROLLUP_EFFORT: usize = 8;
const ROWS_EFFORT: usize = 256;

/// What to aggregate.
#[derive(Debug, Clone)]
pub struct Aggregate {
    pub table: String,
    /// With what is asked of each. Fields that the table does not have have no values.
    pub fields: Vec<(String, Measures)>,
    /// Nanoseconds since 1970-01-01 UTC.
    pub time: RangeInclusive<i64>,
    /// `None`: all.
    pub devices: Option<Vec<String>>,
    /// `None`: all times are one.
    pub buckets: Option<Buckets>,
}

/// Spans of equal width, one of which begins at the origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Buckets {
    width_ns: i64,
    origin: i64,
}

/// States of one series, from a block or what level 0 gathered. Pieces of one series and bucket are
/// to be merged in the order in which they come.
#[derive(Debug, Clone)]
pub struct Piece {
    pub series: Arc<SeriesInfo>,
    /// By time; each bucket once.
    pub groups: Vec<Group>,
    pub by: Answer,
    /// How many pieces by statistics would have taken as long, about: with what was read for it, and
    /// before it for nothing.
    pub effort: usize,
}

/// What a piece was made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// The statistics of a block.
    Statistics,
    /// The states of a block in a rollup.
    Rollup,
    Rows,
}

/// The pieces, made as they are asked for.
pub struct Aggregates {
    scan: ScanIter,
    measures: Vec<Measures>,
    /// Of rollups.
    asked: Asked,
    buckets: Option<Buckets>,
    rolled: Rolled,
    folding: Option<Folding>,
}

/// A chunk that is being folded.
struct Folding {
    chunk: Chunk,
    /// The next row, and of each column the next value.
    row: usize,
    values: Vec<usize>,
}

impl Buckets {
    /// `None` if the width is not above 0.
    pub fn new(width_ns: i64, origin: i64) -> Option<Self> {
        (width_ns > 0).then_some(Self { width_ns, origin })
    }

    /// Where the bucket of a time begins; `None` if that, or the distance between it and the origin,
    /// needs more than 64 bits.
    pub fn start(&self, time: i64) -> Option<i64> {
        let distance = time.checked_sub(self.origin)?;
        let distance = distance.checked_sub(distance.rem_euclid(self.width_ns))?;
        self.origin.checked_add(distance)
    }

    /// Whether each span of such a width that begins a multiple of it after 1970 lies in one of them.
    pub(super) fn are_made_of(&self, width_ns: i64) -> bool {
        self.width_ns % width_ns == 0 && self.origin % width_ns == 0
    }

    /// How many of these sorted times, of which there are some, lie in the bucket of the first.
    pub(super) fn run(&self, times: &[i64]) -> (Option<i64>, usize) {
        let start = self.start(times[0]);
        let end = start.and_then(|start| start.checked_add(self.width_ns));
        let rows = match end {
            // Within a bucket the distance to the origin may become too long.
            Some(end) => {
                times.partition_point(|time| *time < end && time.checked_sub(self.origin).is_some())
            }
            None => times
                .iter()
                .take_while(|time| self.start(**time) == start)
                .count(),
        };
        (start, rows)
    }
}

impl View {
    /// A table that is not there has no rows.
    pub fn aggregate(self: &Arc<Self>, wanted: Aggregate) -> Aggregates {
        let Aggregate {
            table,
            fields,
            time,
            devices,
            buckets,
        } = wanted;
        let (fields, measures): (_, Vec<_>) = fields.into_iter().unzip();
        let scan = self.scan(Scan {
            table,
            fields,
            time,
            devices,
        });
        let asked = scan.plan.fields.iter().copied();
        Aggregates {
            asked: Asked::new(asked.zip(measures.iter().copied()).collect()),
            scan,
            measures,
            buckets,
            rolled: Rolled::default(),
            folding: None,
        }
    }
}

impl Aggregates {
    /// One state for each series and bucket, in memory: for those who know that these are few.
    pub fn merged(self) -> Result<BTreeMap<(SeriesId, Option<i64>), Group>, StoreError> {
        let mut merged: BTreeMap<(SeriesId, Option<i64>), Group> = BTreeMap::new();
        for piece in self {
            let Piece { series, groups, .. } = piece?;
            for group in groups {
                let at = (series.id, group.bucket);
                group.add_to(&mut merged, at);
            }
        }
        Ok(merged)
    }

    /// What the index says of a whole block; `None` if it has to be read.
    fn answered(&self, block: &BlockMeta) -> Option<Piece> {
        let (plan, view) = (&self.scan.plan, &self.scan.view);
        let in_time = [block.time_min, block.time_max]
            .iter()
            .all(|time| plan.time.contains(time));
        let bucket = match &self.buckets {
            None => None,
            Some(buckets) => {
                let start = buckets.start(block.time_min)?;
                if buckets.start(block.time_max)? != start {
                    return None;
                }
                Some(start)
            }
        };
        let says_nothing = block.columns.is_empty() && !plan.fields.is_empty();
        if !in_time || says_nothing {
            return None;
        }
        let field = |(field, measures): (&Option<(u16, FieldType)>, &Measures)| {
            let Some((slot, field_type)) = *field else {
                return Some(FieldState::default());
            };
            let stats = block.stats(slot);
            stats.map_or(Some(FieldState::default()), |stats| {
                FieldState::of_stats(stats, field_type, *measures)
            })
        };
        let group = Group {
            bucket,
            rows: block.rows.into(),
            time_min: block.time_min,
            time_max: block.time_max,
            fields: plan
                .fields
                .iter()
                .zip(&self.measures)
                .map(field)
                .collect::<Option<_>>()?,
        };
        Some(Piece {
            series: Arc::clone(view.catalog().series(block.series)?),
            groups: vec![group],
            by: Answer::Statistics,
            effort: 1,
        })
    }

    /// What a rollup says of a block; `None` if the block has to be read. No groups: none of its rows is
    /// in time.
    fn rolled(&mut self, segment: &Arc<SegmentHandle>, block: &BlockMeta) -> Option<Piece> {
        let (plan, view) = (&self.scan.plan, &self.scan.view);
        let wanted = (&plan.time, &self.asked);
        let groups = self
            .rolled
            .groups(view, segment, block, self.buckets, wanted)?;
        Some(Piece {
            series: Arc::clone(view.catalog().series(block.series)?),
            groups,
            by: Answer::Rollup,
            effort: 1,
        })
    }
}

impl Folding {
    fn new(chunk: Chunk) -> Self {
        Self {
            row: 0,
            values: vec![0; chunk.columns.len()],
            chunk,
        }
    }

    /// The next buckets; there must be rows left.
    fn piece(&mut self, measures: &[Measures], buckets: Option<Buckets>, effort: usize) -> Piece {
        let Chunk {
            series,
            times,
            columns,
        } = &self.chunk;
        let mut groups = Vec::new();
        let mut bytes = 0;
        while self.row < times.len() && bytes < PIECE_BYTES_MAX {
            let (bucket, rows) = match buckets {
                None => (None, times.len()),
                Some(buckets) => buckets.run(&times[self.row..]),
            };
            let run = self.row..self.row + rows;
            let states = columns.iter().zip(measures).zip(&mut self.values);
            let states = states.map(|((column, measures), value)| match column {
                Some(column) => state_of(column, times, &run, value, *measures),
                None => FieldState::default(),
            });
            let fields = states.collect();
            let group = Group {
                bucket,
                rows: rows as u64,
                time_min: times[run.start],
                time_max: times[run.end - 1],
                fields,
            };
            bytes += group.bytes_held();
            groups.push(group);
            self.row = run.end;
        }
        Piece {
            series: Arc::clone(series),
            groups,
            by: Answer::Rows,
            effort,
        }
    }
}

/// The state of one column over a run of rows, of which the first would have the value at `value`; then
/// that is the next one's.
pub(super) fn state_of(
    column: &Column,
    times: &[i64],
    run: &Range<usize>,
    value: &mut usize,
    measures: Measures,
) -> FieldState {
    let Some((values, ends)) = values_of(column, run, *value) else {
        return FieldState::default();
    };
    *value = values.end;
    let ends = (times[ends.0], times[ends.1]);
    FieldState::of_values(&column.values, values, ends, measures)
}

/// The values of a run of rows, of which the first would be at `from`, and the rows of the first and the
/// last one.
fn values_of(
    column: &Column,
    run: &Range<usize>,
    from: usize,
) -> Option<(Range<usize>, (usize, usize))> {
    let Some(flags) = &column.present else {
        return Some((run.clone(), (run.start, run.end - 1)));
    };
    let flags = &flags[run.clone()];
    let first = flags.iter().position(|flag| *flag)?;
    let last = flags.iter().rposition(|flag| *flag)?;
    let count = flags.iter().filter(|flag| **flag).count();
    Some((from..from + count, (run.start + first, run.start + last)))
}

impl Iterator for Aggregates {
    type Item = Result<Piece, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(error) = self.scan.unreadable.take() {
            return Some(Err(error));
        }
        let mut effort = 1;
        loop {
            if let Some(folding) = &mut self.folding
                && folding.row < folding.chunk.times.len()
            {
                return Some(Ok(folding.piece(&self.measures, self.buckets, effort)));
            }
            let read = match self.scan.next_block() {
                Some((segment, block)) => {
                    if let Some(piece) = self.answered(&segment.blocks[block]) {
                        return Some(Ok(Piece { effort, ..piece }));
                    }
                    if let Some(piece) = self.rolled(&segment, &segment.blocks[block]) {
                        effort += ROLLUP_EFFORT;
                        if piece.groups.is_empty() {
                            continue;
                        }
                        return Some(Ok(Piece { effort, ..piece }));
                    }
                    effort += ROWS_EFFORT;
                    self.scan.read(&segment, block).transpose()
                }
                None => {
                    if !self.scan.is_gathered() {
                        effort += ROWS_EFFORT;
                    }
                    Some(self.scan.next()?)
                }
            };
            match read {
                Some(Ok(chunk)) => self.folding = Some(Folding::new(chunk)),
                Some(Err(error)) => return Some(Err(error)),
                None => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_begin_where_the_origin_says() {
        let buckets = Buckets::new(10, 3).unwrap();
        for (time, start) in [(3, 3), (12, 3), (13, 13), (2, -7), (-7, -7), (-8, -17)] {
            assert_eq!(buckets.start(time), Some(start), "{time}");
        }
        assert_eq!(buckets.start(i64::MIN), None);
        assert_eq!(Buckets::new(7, 0).unwrap().start(i64::MIN), None);
        assert_eq!(Buckets::new(0, 0), None);
        let times = [i64::MIN, i64::MIN + 1, 3, 4, 13];
        assert_eq!(buckets.run(&times), (None, 2));
        assert_eq!(buckets.run(&times[2..]), (Some(3), 2));
        let last = Buckets::new(i64::MAX, 0).unwrap();
        assert_eq!(last.run(&[0, i64::MAX - 1, i64::MAX]), (Some(0), 2));
        assert_eq!(last.run(&[i64::MAX]), (Some(i64::MAX), 1));
        let far = Buckets::new(10, -20).unwrap();
        let farthest = i64::MAX - 20;
        let start = far.start(farthest);
        assert!(start.is_some() && far.start(farthest + 1).is_none());
        assert_eq!(far.run(&[farthest, farthest + 1]), (start, 1));
    }
}
