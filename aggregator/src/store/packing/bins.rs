//! Ranges of numbers, chosen by how often numbers lie in them: of each number its bin and its distance from
//! the bin's begin are written.

/// Bins are put together from ranges that hold this part of all numbers, or more of one number.
const RANGES: u32 = 64;
/// Counters for each number, since all have to be looked through, and of all numbers.
const SPREAD: usize = 4;
const COUNTERS_MAX: usize = 32_768;
/// If counters stand for several numbers each, at most this part of all may lie in one.
const CROWD: u32 = 32;
/// Bits of a bin's own head: its weight, where it begins and its width.
const BIN_BITS: u64 = 8 + 64 + 7;
/// Fixed point of logarithms.
const FRACTION_BITS: u32 = 8;

/// Numbers from `lower` on, in so many bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bin {
    pub(super) lower: u32,
    pub(super) width: u32,
    pub(super) count: u32,
}

/// Bins in ascending order, and in which of them a number lies.
#[derive(Debug)]
pub(super) struct Choice {
    pub(super) bins: Vec<Bin>,
    /// What all numbers will take, about.
    pub(super) bits: usize,
    table: Vec<u8>,
    shift: u32,
}

impl Choice {
    /// Of one of the numbers that it was made of.
    #[inline]
    pub(super) fn bin_of(&self, number: u32) -> u8 {
        self.table[(number >> self.shift) as usize]
    }
}

/// A range of counters that is not divided.
#[derive(Debug, Clone, Copy)]
struct Span {
    first: u32,
    last: u32,
    count: u32,
}

/// Bins for numbers of which the least is 0; nothing if they are too crowded for their spread.
pub(super) fn choose(numbers: &[u32]) -> Option<Choice> {
    let most = numbers.iter().copied().max()?;
    let counters_max = (SPREAD * numbers.len()).min(COUNTERS_MAX);
    let mut shift = 0;
    while (most >> shift) as usize >= counters_max {
        shift += 1;
    }
    let mut counts = vec![0_u32; (most >> shift) as usize + 1];
    for number in numbers {
        let count = &mut counts[(number >> shift) as usize];
        *count = count.wrapping_add(1);
    }
    let all = u32::try_from(numbers.len()).ok()?;
    let crowd_max = all / CROWD;
    if shift > 0 && counts.iter().any(|count| *count > crowd_max) {
        return None;
    }
    let spans = spans(&counts, all.div_ceil(RANGES));
    let (merged, bits) = merged(&spans, all, shift);
    let mut table = vec![0; counts.len()];
    let mut bins = Vec::with_capacity(merged.len());
    for (at, Span { first, last, count }) in (0_u8..).zip(merged) {
        table[first as usize..=last as usize].fill(at);
        bins.push(Bin {
            lower: first << shift,
            width: width(first, last, shift),
            count,
        });
    }
    Some(Choice {
        bins,
        bits,
        table,
        shift,
    })
}

/// Bits of the distance between the least and the greatest number of some counters.
fn width(first: u32, last: u32, shift: u32) -> u32 {
    let distance = ((u64::from(last - first) + 1) << shift) - 1;
    64 - distance.leading_zeros()
}

/// Each has so many numbers, but for those between two that have more of one counter.
fn spans(counts: &[u32], enough: u32) -> Vec<Span> {
    let mut spans = Vec::new();
    let mut open: Option<Span> = None;
    let some = (0_u32..).zip(counts).filter(|(_, count)| **count > 0);
    for (at, count) in some {
        let own = Span {
            first: at,
            last: at,
            count: *count,
        };
        if *count >= enough {
            spans.extend(open.take());
            spans.push(own);
            continue;
        }
        let joined = open.map_or(own, |open| Span {
            last: at,
            count: open.count + count,
            ..open
        });
        if joined.count >= enough {
            spans.push(joined);
            open = None;
        } else {
            open = Some(joined);
        }
    }
    spans.extend(open);
    spans
}

/// Neighbours put together so that all take fewest bits, and these.
fn merged(spans: &[Span], all: u32, shift: u32) -> (Vec<Span>, usize) {
    let all_log = log(all);
    // The cost of all spans before one, how many numbers they have, and where the last bin of them begins.
    let mut best: Vec<(u64, u32, usize)> = vec![(0, 0, 0)];
    let mut total = 0;
    for (at, last) in spans.iter().enumerate() {
        total += last.count;
        let mut least = (u64::MAX, total, at);
        for begin in (0..=at).rev() {
            let (before, counted, _) = best[begin];
            let count = total.wrapping_sub(counted);
            let offset = width(spans[begin].first, last.last, shift) << FRACTION_BITS;
            let each = all_log.wrapping_add(offset).wrapping_sub(log(count));
            let own = u64::from(count).wrapping_mul(each.into());
            let cost = before
                .wrapping_add(BIN_BITS << FRACTION_BITS)
                .wrapping_add(own);
            if cost < least.0 {
                least = (cost, total, begin);
            }
        }
        best.push(least);
    }
    let mut merged = Vec::new();
    let mut end = spans.len();
    while end > 0 {
        let (_, total, begin) = best[end];
        merged.push(Span {
            first: spans[begin].first,
            last: spans[end - 1].last,
            count: total - best[begin].1,
        });
        end = begin;
    }
    merged.reverse();
    let bits = best[spans.len()].0 >> FRACTION_BITS;
    (merged, usize::try_from(bits).unwrap_or(usize::MAX))
}

/// The binary logarithm in fixed point, about: whole numbers compute the same everywhere.
#[inline]
fn log(number: u32) -> u32 {
    let whole = number.ilog2();
    let fraction = ((number << (31 - whole)) & 0x7fff_ffff) >> (31 - FRACTION_BITS);
    let bend = (fraction * (256 - fraction) * 88) >> 16;
    (whole << FRACTION_BITS) + fraction + bend
}
