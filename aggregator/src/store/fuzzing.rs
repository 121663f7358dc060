//! A door for fuzzers: what stands in a segment or a rollup.

use journal::{OpenMode, SimStorage, StorageFile};
use shared::id::Digest;
use shared::reading::FieldType;

use super::group::Measures;
use super::rollup::{self, AskedField};
use super::segment::{FOOTER_BYTES, SegmentFile, digest_on, footer, is_rollup};
use crate::state::bytes::crc32c;

/// The magic of a header, the version, and what follows, without the checksum.
const SEGMENT_HEAD_BYTES: usize = 8 + 2 + 8 + 13 + 8;
const ROLLUP_HEAD_BYTES: usize = SEGMENT_HEAD_BYTES + 4;
const CHECKSUM_BYTES: usize = 4;
const KINDS: [FieldType; 4] = [
    FieldType::Float,
    FieldType::Int,
    FieldType::Bool,
    FieldType::Text,
];

/// Any bytes as a file of the store, with the checksums that belong to them: it is read, or it is an
/// error. The lowest bit of the first byte says which kind of file it is; the others stand in it.
pub fn segment(bytes: &[u8]) {
    let Some((kind, bytes)) = bytes.split_first() else {
        return;
    };
    let name = if kind & 1 == 0 { "a.seg" } else { "a.roll" };
    let storage = SimStorage::new(1).as_storage();
    let mut forged = bytes.to_vec();
    let Some((index_at, footer_at)) = with_checksums(&mut forged, is_rollup(name)) else {
        return;
    };
    let put = |bytes: &[u8]| {
        let file = storage.open(name, OpenMode::Create).ok()?;
        file.write_at(0, bytes).ok()?;
        Some(file)
    };
    let Some(content) = put(&forged) else { return };
    let parts = |content: &dyn StorageFile| {
        let file = SegmentFile::of(name, content).ok()?;
        let (_, blocks) = file.read_parts(content).ok()?;
        Some((file, blocks))
    };
    let Some((_, blocks)) = parts(&*content) else {
        return;
    };
    // Now that the index is known, blocks can have theirs.
    for block in &blocks {
        let place = usize::try_from(block.offset).ok();
        let end = place.and_then(|at| at.checked_add(usize::try_from(block.bytes).ok()?));
        if let (Some(at), Some(end)) = (place, end.filter(|end| *end <= index_at)) {
            check_sum(&mut forged, at, end);
        }
    }
    seal(&mut forged, index_at, footer_at);
    let Some(content) = put(&forged) else { return };
    let Some((file, blocks)) = parts(&*content) else {
        return;
    };
    file.check(&*content).expect("its digest was made for it");
    for block in &blocks {
        let Ok(rows) = file.read_block(&*content, block, &|_| true) else {
            continue;
        };
        assert!(rows.times.is_sorted());
        if is_rollup(name) {
            let measures = Measures {
                sum: true,
                extremes: true,
                ends: true,
            };
            let asked = (0..8).flat_map(|slot| KINDS.map(|kind| (Some((slot, kind)), measures)));
            let asked: Vec<AskedField> = asked.collect();
            let _ = rollup::groups_shown(&rows, &(i64::MIN..=i64::MAX), &asked);
        }
    }
}

/// Header, index and footer. Where the index begins, and where the footer.
fn with_checksums(bytes: &mut [u8], is_rollup: bool) -> Option<(usize, usize)> {
    let head = if is_rollup {
        ROLLUP_HEAD_BYTES
    } else {
        SEGMENT_HEAD_BYTES
    };
    let footer_at = bytes.len().checked_sub(FOOTER_BYTES)?;
    let told = bytes.get(footer_at..)?.first_chunk::<8>()?;
    let index_at = usize::try_from(u64::from_le_bytes(*told)).ok()?;
    if index_at < head + CHECKSUM_BYTES || index_at.checked_add(CHECKSUM_BYTES)? > footer_at {
        return None;
    }
    check_sum(bytes, 0, head + CHECKSUM_BYTES);
    check_sum(bytes, index_at, footer_at);
    seal(bytes, index_at, footer_at);
    Some((index_at, footer_at))
}

/// The last four bytes of a span become the checksum of those before.
fn check_sum(bytes: &mut [u8], from: usize, to: usize) {
    let Some(span) = bytes.get_mut(from..to) else {
        return;
    };
    if let Some((covered, sum)) = span.split_last_chunk_mut::<CHECKSUM_BYTES>() {
        *sum = crc32c(covered).to_le_bytes();
    }
}

fn seal(bytes: &mut [u8], index_at: usize, footer_at: usize) {
    let digest = digest_on(Digest::ZERO, &bytes[..footer_at]);
    let footer = footer(index_at as u64, footer_at - index_at, digest);
    bytes[footer_at..].copy_from_slice(&footer);
}
