//! Reading bytes that nobody has vouched for: a cursor that never runs past its end and a budget
//! that is charged before anything is allocated. Used by `column`, `batch` and whoever else
//! decodes bytes of ours.

/// Why bytes cannot be decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    #[error("the bytes end too early")]
    Short,
    #[error("malformed: {0}")]
    Malformed(&'static str),
    #[error("over a limit: {0}")]
    Limit(&'static str),
}

/// Bytes of the longest LEB128 number of 64 bits.
const VARINT_BYTES_MAX: usize = 10;

/// A cursor over bytes. Every method either consumes what it returns or fails.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Bytes not yet read.
    pub fn remaining(&self) -> usize {
        self.rest.len()
    }

    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// All bytes not yet read.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// The next `count` bytes.
    pub fn take(&mut self, count: usize) -> Result<&'a [u8], WireError> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(WireError::Short)?;
        self.rest = rest;
        Ok(taken)
    }

    /// The next `N` bytes.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let (taken, rest) = self.rest.split_first_chunk::<N>().ok_or(WireError::Short)?;
        self.rest = rest;
        Ok(*taken)
    }

    pub fn byte(&mut self) -> Result<u8, WireError> {
        self.array::<1>().map(|[byte]| byte)
    }

    /// A LEB128 number in its shortest form.
    #[inline]
    pub fn varint(&mut self) -> Result<u64, WireError> {
        // Most numbers take one byte.
        if let [byte @ 0..=0x7f, rest @ ..] = self.rest {
            self.rest = rest;
            return Ok(u64::from(*byte));
        }
        self.long_varint()
    }

    fn long_varint(&mut self) -> Result<u64, WireError> {
        let (mut value, mut shift) = (0_u64, 0_u32);
        for (at, byte) in self.rest.iter().take(VARINT_BYTES_MAX).enumerate() {
            if at == VARINT_BYTES_MAX - 1 && *byte > 1 {
                return Err(WireError::Malformed("a varint above 64 bits"));
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                if *byte == 0 && at != 0 {
                    return Err(WireError::Malformed(
                        "a varint that is not in its shortest form",
                    ));
                }
                self.rest = &self.rest[at + 1..];
                return Ok(value);
            }
            shift += 7;
        }
        Err(WireError::Short)
    }

    /// A signed number: zigzag, then [`Reader::varint`].
    pub fn signed(&mut self) -> Result<i64, WireError> {
        self.varint().map(unzigzag)
    }

    /// A count, refused above `max` before anyone allocates for it. `what` names it in the error.
    pub fn count(&mut self, max: usize, what: &'static str) -> Result<usize, WireError> {
        let count = self.varint()?;
        usize::try_from(count)
            .ok()
            .filter(|n| *n <= max)
            .ok_or(WireError::Limit(what))
    }

    /// A text: its length in bytes, at most `bytes_max`, then UTF-8.
    pub fn text(&mut self, bytes_max: usize, what: &'static str) -> Result<&'a str, WireError> {
        let length = self.count(bytes_max, what)?;
        let bytes = self.take(length)?;
        std::str::from_utf8(bytes).map_err(|_| WireError::Malformed("a text that is not UTF-8"))
    }
}

/// Bytes that a decoder may still allocate. Its prices are constants of the format and not sizes
/// of Rust types, because every node must draw the line at the same place; what is held may be up
/// to half as much again.
#[derive(Debug)]
pub struct Budget {
    left: usize,
}

impl Budget {
    pub fn new(bytes_max: usize) -> Self {
        Self { left: bytes_max }
    }

    /// Takes `count` items of `price` bytes off; an error leaves nothing to allocate for.
    pub fn charge(&mut self, count: usize, price: usize) -> Result<(), WireError> {
        let cost = count.checked_mul(price);
        let left = cost.and_then(|cost| self.left.checked_sub(cost));
        self.left = left.ok_or(WireError::Limit("bytes after decoding"))?;
        Ok(())
    }

    /// Bytes not yet spent.
    pub fn left(&self) -> usize {
        self.left
    }
}

/// Appends a LEB128 number.
pub fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push((value & 0x7f) as u8);
}

/// Appends a signed number: zigzag, then LEB128.
pub fn put_signed(out: &mut Vec<u8>, value: i64) {
    put_varint(out, zigzag(value));
}

/// Appends a text: its length in bytes, then UTF-8.
pub fn put_text(out: &mut Vec<u8>, text: &str) {
    put_varint(out, text.len() as u64);
    out.extend_from_slice(text.as_bytes());
}

/// Bytes that [`put_varint`] takes for this value.
pub fn varint_bytes(value: u64) -> usize {
    let bits = (64 - value.leading_zeros()).max(1);
    // A seventh, rounded up, without a division: the same from 1 to 64.
    ((bits * 9 + 64) / 64) as usize
}

/// Bytes that [`put_signed`] takes for this value.
pub fn signed_bytes(value: i64) -> usize {
    varint_bytes(zigzag(value))
}

/// A signed number as one whose size is that of its distance from zero.
pub fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)).cast_unsigned()
}

/// The inverse of [`zigzag`].
pub fn unzigzag(value: u64) -> i64 {
    (value >> 1).cast_signed() ^ -((value & 1).cast_signed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_back_in_the_promised_length() {
        let edges = [
            0,
            1,
            -1,
            63,
            -64,
            64,
            127,
            128,
            1 << 20,
            i64::MAX,
            i64::MIN,
            -(1 << 55),
        ];
        for value in edges {
            let mut out = Vec::new();
            put_signed(&mut out, value);
            assert_eq!(out.len(), signed_bytes(value), "{value}");
            let mut reader = Reader::new(&out);
            assert_eq!(reader.signed(), Ok(value));
            assert!(reader.is_empty());
        }
        for value in [0, 127, 128, 16_383, 16_384, u64::MAX >> 1, u64::MAX] {
            let mut out = Vec::new();
            put_varint(&mut out, value);
            assert_eq!(out.len(), varint_bytes(value), "{value}");
            assert_eq!(Reader::new(&out).varint(), Ok(value));
        }
    }

    #[test]
    fn every_count_of_bits_takes_its_bytes() {
        for bits in 1..=64_u32 {
            let greatest = u64::MAX >> (64 - bits);
            assert_eq!(varint_bytes(greatest), bits.div_ceil(7) as usize);
            assert_eq!(varint_bytes(greatest / 2 + 1), bits.div_ceil(7) as usize);
        }
        assert_eq!(varint_bytes(0), 1);
    }

    #[test]
    fn a_number_has_one_form() {
        let long = [0x80, 0x00];
        assert!(matches!(
            Reader::new(&long).varint(),
            Err(WireError::Malformed(_))
        ));
        let eleven = [0xff; 11];
        assert!(matches!(
            Reader::new(&eleven).varint(),
            Err(WireError::Malformed(_))
        ));
        let above = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02];
        assert!(matches!(
            Reader::new(&above).varint(),
            Err(WireError::Malformed(_))
        ));
        assert_eq!(Reader::new(&[0x80]).varint(), Err(WireError::Short));
    }

    #[test]
    fn counts_are_refused_before_they_cost_anything() {
        let mut out = Vec::new();
        put_varint(&mut out, 11);
        assert_eq!(
            Reader::new(&out).count(10, "things"),
            Err(WireError::Limit("things"))
        );
        assert_eq!(Reader::new(&out).text(100, "name"), Err(WireError::Short));
        let mut budget = Budget::new(100);
        assert_eq!(budget.charge(12, 8), Ok(()));
        assert!(budget.charge(usize::MAX, 8).is_err());
        assert!(budget.charge(5, 1).is_err());
        assert_eq!(budget.left(), 4);
    }
}
