//! Every limit of format version 1, with its unit. Constants of the format: the same on every
//! node for ever, because what one replica accepts all must accept.

/// Bytes of one encoded batch, header and checksum included.
pub const BATCH_BYTES_MAX: usize = 1_000_000;
/// Bytes of one MQTT packet: a batch, its topic and its properties.
pub const PACKET_BYTES_MAX: usize = 1 << 20;
/// Values (rows times fields) of one batch, after decoding.
pub const BATCH_VALUES_MAX: usize = 65_536;
/// Rows of one batch, after decoding.
pub const BATCH_ROWS_MAX: usize = 65_536;
/// Bytes that decoding a batch may allocate, whatever its length.
pub const BATCH_DECODED_BYTES_MAX: usize = 8 << 20;
/// Bytes that decoding even the shortest batch may allocate. An agent seals before that.
pub const BATCH_DECODED_BYTES_FREE: usize = 1 << 20;
/// Bytes that decoding a longer one may allocate for each of its own.
pub const BATCH_DECODED_RATIO: usize = 16;
/// Series definitions of one `names` batch.
pub const DEFINITIONS_MAX: usize = 4_096;
/// Fields of one series.
pub const FIELDS_MAX: usize = 1_024;
/// Tags of one series.
pub const TAGS_MAX: usize = 64;
/// Bytes of a table, device, tag key, tag value or field name.
pub const NAME_BYTES_MAX: usize = 256;
/// Bytes of a text value.
pub const TEXT_BYTES_MAX: usize = 16_384;
/// Older epochs that a hello lists.
pub const OLDER_EPOCHS_MAX: usize = 1_024;
/// Bytes of one line-protocol payload on the plain topic.
pub const LINE_PAYLOAD_BYTES_MAX: usize = 256 << 10;

/// The highest batch number, and every other 64-bit count of the format: it fits a SQL BIGINT, and
/// adding one to it does not overflow.
pub const COUNT_MAX: u64 = i64::MAX as u64;

/// Bytes that decoding a batch of this length may allocate: few bytes never cost much.
pub const fn decoded_bytes_max(batch_bytes: usize) -> usize {
    let earned = batch_bytes.saturating_mul(BATCH_DECODED_RATIO);
    if earned < BATCH_DECODED_BYTES_FREE {
        BATCH_DECODED_BYTES_FREE
    } else if earned > BATCH_DECODED_BYTES_MAX {
        BATCH_DECODED_BYTES_MAX
    } else {
        earned
    }
}

const _: () = {
    assert!(BATCH_BYTES_MAX < PACKET_BYTES_MAX);
    assert!(BATCH_DECODED_BYTES_MAX >= BATCH_VALUES_MAX * 16);
    assert!(LINE_PAYLOAD_BYTES_MAX < BATCH_BYTES_MAX);
};
