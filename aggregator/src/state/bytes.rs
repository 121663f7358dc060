//! Little-endian fields by hand: what every format of `state` and `store` is written with.
//! Reading checks every length against the bytes that are there before anything is allocated.

/// Appends fields to a buffer.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    pub(crate) out: Vec<u8>,
}

/// Why bytes could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ReadFault {
    #[error("ends early")]
    Short,
    #[error("{0}")]
    Invalid(&'static str),
}

/// Takes fields off a slice.
#[derive(Debug, Clone)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl Writer {
    pub(crate) fn u8(&mut self, value: u8) {
        self.out.push(value);
    }

    pub(crate) fn u16(&mut self, value: u16) {
        self.out.extend_from_slice(&value.to_le_bytes());
    }

    pub(crate) fn u32(&mut self, value: u32) {
        self.out.extend_from_slice(&value.to_le_bytes());
    }

    pub(crate) fn u64(&mut self, value: u64) {
        self.out.extend_from_slice(&value.to_le_bytes());
    }

    pub(crate) fn i64(&mut self, value: i64) {
        self.out.extend_from_slice(&value.to_le_bytes());
    }

    /// A count or a length: 4 bytes.
    pub(crate) fn count(&mut self, value: usize) {
        self.u32(u32::try_from(value).expect("counts are limited far below 2^32"));
    }

    pub(crate) fn bytes(&mut self, value: &[u8]) {
        self.count(value.len());
        self.out.extend_from_slice(value);
    }

    pub(crate) fn text(&mut self, value: &str) {
        self.bytes(value.as_bytes());
    }

    pub(crate) fn pairs(&mut self, pairs: &[(String, String)]) {
        self.count(pairs.len());
        for (key, value) in pairs {
            self.text(key);
            self.text(value);
        }
    }

    /// Closes the buffer with the CRC32C of all before.
    pub(crate) fn checked(mut self) -> Vec<u8> {
        let crc = crc32c(&self.out);
        self.u32(crc);
        self.out
    }
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Opens what [`Writer::checked`] closed.
    pub(crate) fn checked(bytes: &'a [u8]) -> Result<Self, ReadFault> {
        let (body, crc) = bytes.split_last_chunk::<4>().ok_or(ReadFault::Short)?;
        if crc32c(body) == u32::from_le_bytes(*crc) {
            Ok(Self::new(body))
        } else {
            Err(ReadFault::Invalid("checksum does not match"))
        }
    }

    pub(crate) fn take(&mut self, len: usize) -> Result<&'a [u8], ReadFault> {
        let (head, rest) = self.rest.split_at_checked(len).ok_or(ReadFault::Short)?;
        self.rest = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], ReadFault> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or(ReadFault::Short)?;
        self.rest = rest;
        Ok(*head)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, ReadFault> {
        Ok(self.array::<1>()?[0])
    }

    pub(crate) fn flag(&mut self) -> Result<bool, ReadFault> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(ReadFault::Invalid("a flag is 0 or 1")),
        }
    }

    pub(crate) fn u16(&mut self) -> Result<u16, ReadFault> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, ReadFault> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, ReadFault> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub(crate) fn i64(&mut self) -> Result<i64, ReadFault> {
        Ok(i64::from_le_bytes(self.array()?))
    }

    pub(crate) fn digest(&mut self) -> Result<[u8; 8], ReadFault> {
        self.array()
    }

    /// A count of items of at least `item_bytes_min` bytes each, checked against what is left.
    pub(crate) fn count(&mut self, item_bytes_min: usize) -> Result<usize, ReadFault> {
        let count = usize::try_from(self.u32()?).map_err(|_| ReadFault::Short)?;
        if count.saturating_mul(item_bytes_min) > self.rest.len() {
            return Err(ReadFault::Short);
        }
        Ok(count)
    }

    pub(crate) fn bytes(&mut self) -> Result<&'a [u8], ReadFault> {
        let len = self.count(1)?;
        self.take(len)
    }

    pub(crate) fn text(&mut self) -> Result<&'a str, ReadFault> {
        std::str::from_utf8(self.bytes()?).map_err(|_| ReadFault::Invalid("text is not UTF-8"))
    }

    pub(crate) fn pairs(&mut self) -> Result<Vec<(String, String)>, ReadFault> {
        let count = self.count(8)?;
        (0..count)
            .map(|_| Ok((self.text()?.to_owned(), self.text()?.to_owned())))
            .collect()
    }

    pub(crate) fn left(&self) -> usize {
        self.rest.len()
    }

    pub(crate) fn end(&self) -> Result<(), ReadFault> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(ReadFault::Invalid("bytes after the end"))
        }
    }
}

pub(crate) fn crc32c(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes)
}
