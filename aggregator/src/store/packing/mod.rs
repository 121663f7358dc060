//! Writes whole numbers in pco's standalone format, for `strong`. pco's own encoder sorts all numbers to
//! find bins for them, and then searches the bin of each. Numbers that lie close together are counted
//! instead, and a table tells the bin of each: a fifth of the work. The bins are other ones, the format is
//! the same (`docs/formats.md`), and pco's decoder reads what is written before anyone believes it.

mod bins;
mod states;

use bins::Bin;
use states::States;

const HEAD: &[u8] = b"pco!\x03\x00";
const FORMAT: [u8; 2] = [4, 1];
const TYPE_I64: u8 = 4;
const END: u8 = 0;
/// Numbers whose states, and then whose offsets, stand together.
const BATCH: usize = 256;
/// States that take turns.
const LANES: usize = 4;

/// What became of numbers.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Packing {
    Packed(Vec<u8>),
    /// It would be longer than was asked for.
    Longer,
    /// They lie too far apart to be counted.
    Wide,
}

/// Appends numbers to what is there, as their differences of this order, at most two; of these there must
/// be some.
pub(super) fn pack(numbers: &[i64], order: usize, bytes_max: usize, out: Vec<u8>) -> Packing {
    let (moments, differences) = differences(numbers, order);
    let Some((least, distances)) = distances(&differences) else {
        return Packing::Wide;
    };
    let Some(choice) = bins::choose(&distances) else {
        return Packing::Wide;
    };
    if out.len() + HEAD.len() + choice.bits / 8 > bytes_max {
        return Packing::Longer;
    }
    let states = States::new(&choice.bins, distances.len());
    let mut out = Bits::behind(out);
    put_head(numbers.len(), order, &mut out);
    put_bins(&choice.bins, &states, least, &mut out);
    let (codes, ends) = states.codes(&distances, &choice);
    moments[..order].iter().for_each(|one| out.put_u64(*one));
    if states.log > 0 {
        ends.iter().for_each(|end| out.put(*end, states.log));
    }
    out.align();
    put_batches(&distances, &codes, &choice, &mut out);
    out.align();
    out.put(u32::from(END), 8);
    Packing::Packed(out.bytes())
}

/// What stands before the differences, and these.
fn differences(numbers: &[i64], order: usize) -> ([u64; 2], Vec<i64>) {
    let of = |all: &[i64]| -> Vec<i64> {
        let pairs = all.windows(2);
        pairs.map(|pair| pair[1].wrapping_sub(pair[0])).collect()
    };
    let mut moments = [0; 2];
    let mut differences = numbers.to_vec();
    for (at, moment) in moments.iter_mut().enumerate().take(order) {
        let first = differences[0];
        *moment = if at == 0 {
            centred(first)
        } else {
            first.cast_unsigned()
        };
        differences = of(&differences);
    }
    (moments, differences)
}

/// In the order of unsigned numbers.
fn centred(number: i64) -> u64 {
    number.cast_unsigned() ^ (1 << 63)
}

/// The least of some numbers, and how far above it each lies; nothing if 32 bits do not tell that.
fn distances(numbers: &[i64]) -> Option<(i64, Vec<u32>)> {
    let first = *numbers.first()?;
    let extremes = |(least, most): (i64, i64), one: &i64| (least.min(*one), most.max(*one));
    let (least, most) = numbers.iter().fold((first, first), extremes);
    u32::try_from(most.wrapping_sub(least).cast_unsigned()).ok()?;
    let distance = |number: &i64| low(number.wrapping_sub(least).cast_unsigned());
    Some((least, numbers.iter().map(distance).collect()))
}

/// The lowest 32 bits.
#[expect(clippy::cast_possible_truncation, reason = "that is what it is for")]
fn low(bits: u64) -> u32 {
    bits as u32
}

fn put_head(count: usize, order: usize, out: &mut Bits) {
    HEAD.iter().for_each(|byte| out.put(u32::from(*byte), 8));
    let count = u32::try_from(count).expect("BLOCK_ROWS_MAX");
    let digits = count.ilog2() + 1;
    out.put(digits - 1, 6);
    out.put(count, digits);
    out.align();
    let bytes = [FORMAT[0], FORMAT[1], TYPE_I64];
    bytes.iter().for_each(|byte| out.put(u32::from(*byte), 8));
    out.put(count - 1, 24);
    // Numbers as they are; differences of one order, if there is one.
    out.put(0, 4);
    out.put(u32::from(order > 0), 4);
    if order > 0 {
        out.put(u32::try_from(order).expect("at most two"), 3);
        out.put(0, 1);
    }
}

fn put_bins(bins: &[Bin], states: &States, least: i64, out: &mut Bits) {
    out.put(states.log, 4);
    out.put(u32::try_from(bins.len()).expect("BINS_MAX"), 15);
    for (bin, weight) in bins.iter().zip(&states.weights) {
        out.put(weight - 1, states.log);
        out.put_u64(centred(least.wrapping_add(i64::from(bin.lower))));
        out.put(bin.width, 7);
    }
    out.align();
}

fn put_batches(distances: &[u32], codes: &[u32], choice: &bins::Choice, out: &mut Bits) {
    let mut lowers = [(0, 0); 256];
    for (to, bin) in lowers.iter_mut().zip(&choice.bins) {
        *to = (bin.lower, bin.width);
    }
    let has_offsets = choice.bins.iter().any(|bin| bin.width > 0);
    let mut codes = codes.chunks(BATCH);
    for distances in distances.chunks(BATCH) {
        for code in codes.next().unwrap_or_default() {
            out.put(code & 0xffff, code >> 16);
        }
        if has_offsets {
            for distance in distances {
                let (lower, width) = lowers[usize::from(choice.bin_of(*distance))];
                out.put(distance.wrapping_sub(lower), width);
            }
        }
    }
}

/// Bytes that are filled bit by bit, lowest first.
struct Bits {
    out: Vec<u8>,
    pending: u64,
    /// Bits of it that are used: below 32.
    used: u32,
}

impl Bits {
    fn behind(out: Vec<u8>) -> Self {
        Self {
            out,
            pending: 0,
            used: 0,
        }
    }

    /// The lowest bits of a number that has no more; at most 32.
    #[inline]
    fn put(&mut self, number: u32, width: u32) {
        // Below 64 bits are used, so that neither sum nor shift overflows.
        self.pending |= u64::from(number).wrapping_shl(self.used);
        self.used = self.used.wrapping_add(width);
        if self.used >= 32 {
            self.out.extend_from_slice(&low(self.pending).to_le_bytes());
            self.pending >>= 32;
            self.used = self.used.wrapping_sub(32);
        }
    }

    fn put_u64(&mut self, number: u64) {
        self.put(low(number), 32);
        self.put(low(number >> 32), 32);
    }

    /// Fills the last byte with zeros.
    fn align(&mut self) {
        let bytes = self.used.div_ceil(8) as usize;
        self.out
            .extend_from_slice(&self.pending.to_le_bytes()[..bytes]);
        (self.pending, self.used) = (0, 0);
    }

    fn bytes(mut self) -> Vec<u8> {
        self.align();
        self.out
    }
}

#[cfg(test)]
mod tests {
    use pco::standalone::{simple_compress, simple_decompress};
    use pco::{ChunkConfig, DeltaSpec};
    use proptest::prelude::*;

    use super::*;

    fn packed(numbers: &[i64], order: usize) -> Option<Vec<u8>> {
        match pack(numbers, order, usize::MAX, Vec::new()) {
            Packing::Packed(bytes) => Some(bytes),
            Packing::Wide => None,
            Packing::Longer => panic!("of no length that it was allowed"),
        }
    }

    fn check(numbers: &[i64], order: usize) -> usize {
        let bytes = packed(numbers, order).expect("not so wide");
        assert_eq!(simple_decompress::<i64>(&bytes).unwrap(), numbers);
        bytes.len()
    }

    /// As many small numbers as large ones are rare.
    fn noise(count: u64, digits: u32) -> Vec<i64> {
        let mixed = |nth: u64| {
            let mixed = (nth + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            (mixed ^ (mixed >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9)
        };
        let value = |nth| (mixed(nth) >> (64 - digits) >> (mixed(nth) % 5)).cast_signed();
        (0..count).map(value).collect()
    }

    proptest! {
        #[test]
        fn pco_reads_what_is_packed(
            numbers in prop_oneof![
                prop::collection::vec(-3..4_i64, 3..1_500),
                prop::collection::vec(0..2_000_i64, 3..1_500),
                prop::collection::vec(prop_oneof![9 => Just(7_i64), 1 => any::<i64>()], 3..600),
                prop::collection::vec(any::<u32>().prop_map(i64::from), 3..600),
                (any::<i64>(), prop::collection::vec(-9..9_i64, 3..600)).prop_map(|(first, steps)| {
                    let walk = |at: &mut i64, step: i64| {
                        *at = at.wrapping_add(step);
                        Some(*at)
                    };
                    steps.into_iter().scan(first, walk).collect()
                }),
            ],
            order in 0..3_usize,
        ) {
            if let Some(bytes) = packed(&numbers, order) {
                prop_assert_eq!(simple_decompress::<i64>(&bytes).unwrap(), numbers);
            }
        }
    }

    #[test]
    fn batches_and_lanes_that_are_not_full_come_back() {
        for count in [255, 256, 257, 258, 259, 511, 513, 8_192] {
            for order in 0..3 {
                check(&noise(count, 9), order);
            }
        }
        // One bin, with and without offsets.
        check(&[5; 300], 0);
        check(&(0..300).collect::<Vec<_>>(), 1);
        check(&(0..300).map(|nth| nth * 7919 % 256).collect::<Vec<_>>(), 0);
        check(&[i64::MIN, i64::MIN + 1, i64::MIN + 3], 0);
        check(&[i64::MAX, i64::MAX - 1, i64::MAX - 3], 2);
    }

    #[test]
    fn it_is_about_as_short_as_by_pco() {
        for digits in [3, 6, 9, 12, 20] {
            let numbers = noise(8_192, digits);
            let config = ChunkConfig::default()
                .with_compression_level(6)
                .with_delta_spec(DeltaSpec::NoOp);
            let by_pco = simple_compress(&numbers, &config).unwrap().len();
            let own = check(&numbers, 0);
            assert!(own * 100 <= by_pco * 102, "{digits}: {own} {by_pco}");
        }
    }

    #[test]
    fn what_is_wide_or_longer_is_left() {
        assert_eq!(packed(&[0, 1 << 40, 5], 0), None);
        let crowded: Vec<i64> = (0..1_000).map(|nth| i64::from(nth == 3) << 30).collect();
        assert_eq!(packed(&crowded, 0), None);
        let numbers = noise(1_000, 12);
        let bytes = check(&numbers, 0);
        assert_eq!(pack(&numbers, 0, bytes / 2, Vec::new()), Packing::Longer);
    }
}
