//! The bytes of one record: a header of 32 bytes, the payload, zeros up to the next 8 bytes.
//!
//! ```text
//!  0 magic    u16  "TJ"        16 length   u32  of the payload
//!  2 version  u8   1           20 synced   u32  the file was synced up to here when this was written
//!  3 kind     u8               24 previous u32  crc of the record before
//!  4 group    u32              28 crc      u32  CRC32C(generation u64, header[0..28], payload)
//!  8 number   u64              all little-endian
//! ```

/// Bytes of a record's header.
pub(crate) const HEADER_BYTES: usize = 32;
/// Bytes of payload that one record may hold, whatever the size of the files.
pub const PAYLOAD_BYTES_MAX: usize = 16 << 20;
/// Records begin at multiples of this.
pub(crate) const ALIGNMENT_BYTES: usize = 8;
pub(crate) const VERSION: u8 = 1;
const MAGIC: [u8; 2] = *b"TJ";

/// Kinds from here on are the journal's own.
pub(crate) const KIND_OWN_MIN: u8 = 0xf0;
/// First record of a file: generation u64, opens u64.
pub(crate) const KIND_FILE: u8 = 0xf0;
pub(crate) const FIRST_BYTES: usize = HEADER_BYTES + 16;
/// Written at every opening: opens u64. Makes the chain of checksums differ from every earlier one.
pub(crate) const KIND_OPEN: u8 = 0xf1;
/// Last record of a file that has a successor.
pub(crate) const KIND_SEAL: u8 = 0xf2;
/// Zeros up to the next block, between two records.
pub(crate) const KIND_FILLER: u8 = 0xf3;

/// What its owner says of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordHead {
    /// Which of several users of one journal it belongs to.
    pub group: u32,
    /// What the payload is: below 0xf0, the journal does not interpret it.
    pub kind: u8,
    /// The owner's number, for people and checks; the journal does not interpret it.
    pub number: u64,
}

/// A header as it stands in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) version: u8,
    pub(crate) head: RecordHead,
    pub(crate) length: u32,
    pub(crate) synced: u32,
    pub(crate) previous: u32,
    pub(crate) crc: u32,
}

/// Bytes that a record with this payload takes in a file.
pub(crate) fn record_bytes(payload: usize) -> usize {
    HEADER_BYTES + payload.next_multiple_of(ALIGNMENT_BYTES)
}

/// The checksum that the header must hold: the generation keeps the records that a reused file
/// held before from ever being taken for current ones.
pub(crate) fn checksum(generation: u64, header: &[u8; HEADER_BYTES], payload: &[u8]) -> u32 {
    let seed = crc32c::crc32c(&generation.to_le_bytes());
    let crc = crc32c::crc32c_append(seed, &header[..HEADER_BYTES - 4]);
    crc32c::crc32c_append(crc, payload)
}

/// Appends a whole record to `out` and returns its checksum.
pub(crate) fn encode(
    out: &mut Vec<u8>,
    generation: u64,
    head: RecordHead,
    synced: u32,
    previous: u32,
    payload: &[u8],
) -> u32 {
    let length = u32::try_from(payload.len()).expect("the caller checked PAYLOAD_BYTES_MAX");
    let mut header = [0; HEADER_BYTES];
    header[0..2].copy_from_slice(&MAGIC);
    header[2] = VERSION;
    header[3] = head.kind;
    header[4..8].copy_from_slice(&head.group.to_le_bytes());
    header[8..16].copy_from_slice(&head.number.to_le_bytes());
    header[16..20].copy_from_slice(&length.to_le_bytes());
    header[20..24].copy_from_slice(&synced.to_le_bytes());
    header[24..28].copy_from_slice(&previous.to_le_bytes());
    let crc = checksum(generation, &header, payload);
    header[28..32].copy_from_slice(&crc.to_le_bytes());
    out.extend_from_slice(&header);
    out.extend_from_slice(payload);
    let padding = payload.len().next_multiple_of(ALIGNMENT_BYTES) - payload.len();
    out.extend_from_slice(&[0; ALIGNMENT_BYTES][..padding]);
    crc
}

/// Reads a header. `None` if the magic is missing or the length cannot be.
pub(crate) fn decode(bytes: &[u8; HEADER_BYTES]) -> Option<Header> {
    let u32_at =
        |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let number = u64::from(u32_at(8)) | u64::from(u32_at(12)) << 32;
    let header = Header {
        version: bytes[2],
        head: RecordHead {
            group: u32_at(4),
            kind: bytes[3],
            number,
        },
        length: u32_at(16),
        synced: u32_at(20),
        previous: u32_at(24),
        crc: u32_at(28),
    };
    let fits = header.length as usize <= PAYLOAD_BYTES_MAX;
    (bytes[0..2] == MAGIC && fits).then_some(header)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: RecordHead = RecordHead {
        group: 7,
        kind: 3,
        number: 0x0102_0304_0506_0708,
    };

    #[test]
    fn a_record_is_these_bytes() {
        let mut out = Vec::new();
        let crc = encode(&mut out, 5, HEAD, 0x40, 0xdead_beef, b"hello");
        let mut golden = b"TJ\x01\x03\x07\0\0\0\x08\x07\x06\x05\x04\x03\x02\x01".to_vec();
        golden.extend_from_slice(b"\x05\0\0\0\x40\0\0\0\xef\xbe\xad\xde");
        golden.extend_from_slice(&crc.to_le_bytes());
        golden.extend_from_slice(b"hello\0\0\0");
        assert_eq!(out, golden);
        assert_eq!(out.len(), record_bytes(5));
        assert_eq!(crc, 0xadfc_40c7, "the checksum is part of the format");
    }

    #[test]
    fn another_generation_never_matches() {
        let mut out = Vec::new();
        let crc = encode(&mut out, 5, HEAD, 0, 0, b"payload");
        let header: [u8; HEADER_BYTES] = out[..HEADER_BYTES].try_into().unwrap();
        for generation in (0..2000).filter(|generation| *generation != 5) {
            assert_ne!(checksum(generation, &header, b"payload"), crc);
        }
        assert_eq!(checksum(5, &header, b"payload"), crc);
        assert_eq!(decode(&header).unwrap().head, HEAD);
    }

    #[test]
    fn a_length_that_cannot_be_is_no_header() {
        let mut out = Vec::new();
        encode(&mut out, 5, HEAD, 0, 0, b"");
        let mut header: [u8; HEADER_BYTES] = out[..HEADER_BYTES].try_into().unwrap();
        header[16..20].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(decode(&header).is_none());
    }
}
