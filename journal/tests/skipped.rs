//! What is damaged is passed over where whoever opens the journal asks for it, and nowhere else.

use journal::{Journal, JournalError, Options, Position, RecordHead, SimStorage, Skipped};

const OPTIONS: Options = Options {
    file_bytes: 16 << 10,
    files_max: 8,
};
/// A header, and a payload of 100 bytes filled up to 104.
const RECORD_BYTES: u64 = 136;

const SUM: u8 = 9;

fn sums_up(head: RecordHead) -> bool {
    head.kind == SUM
}

fn fill(disk: &SimStorage, records: u64) -> Vec<Position> {
    fill_summed(disk, records, &[])
}

/// Some of the records sum up those before them.
fn fill_summed(disk: &SimStorage, records: u64, sums: &[u64]) -> Vec<Position> {
    let opened = Journal::open(disk.as_storage(), OPTIONS, &mut |_, _, _| Ok(()));
    let mut journal = opened.expect("an empty disk");
    let append = |number| {
        let head = RecordHead {
            group: 0,
            kind: if sums.contains(&number) { SUM } else { 1 },
            number,
        };
        let position = journal.append(head, &[7; 100]).expect("there is room");
        journal.sync().expect("the disk is sound");
        position
    };
    (0..records).map(append).collect()
}

fn open(disk: &SimStorage) -> (Vec<u64>, Vec<Skipped>) {
    let mut numbers = Vec::new();
    let opened = Journal::open_skipping(disk.as_storage(), OPTIONS, sums_up, &mut |_, head, _| {
        numbers.push(head.number);
        Ok(())
    });
    let (_, skipped) = opened.expect("damage is passed over");
    (numbers, skipped)
}

fn damage(disk: &SimStorage, position: Position) {
    let name = format!("{:016x}.journal", position.file());
    assert!(disk.flip_bit(&name, (u64::from(position.offset()) + 40) * 8));
}

#[test]
fn damaged_records_are_passed_over_and_told_each_time() {
    let disk = SimStorage::new(1);
    let positions = fill(&disk, 300);
    let damaged = [5, 6, 200];
    for number in damaged {
        damage(&disk, positions[number]);
    }
    let strict = Journal::open(disk.as_storage(), OPTIONS, &mut |_, _, _| Ok(()));
    assert!(matches!(strict, Err(JournalError::Rot { .. })));
    for _ in 0..2 {
        let (numbers, skipped) = open(&disk);
        let good = (0..300_u64).filter(|number| ![5, 6, 200].contains(number));
        assert!(numbers.into_iter().eq(good));
        let lengths: Vec<u64> = skipped.iter().map(|one| one.length).collect();
        assert_eq!(lengths, [2 * RECORD_BYTES, RECORD_BYTES]);
        assert_eq!(skipped[1].offset, u64::from(positions[200].offset()));
        assert_eq!(skipped[1].bytes.len() as u64, RECORD_BYTES);
    }
}

#[test]
fn the_first_record_of_a_file_may_be_damaged_and_a_file_must_not_be_missing() {
    let disk = SimStorage::new(2);
    let positions = fill(&disk, 300);
    let name = format!("{:016x}.journal", positions[299].file());
    assert!(disk.flip_bit(&name, 0));
    let (numbers, skipped) = open(&disk);
    assert_eq!((numbers.len(), skipped.len()), (300, 1));
    let storage = disk.as_storage();
    storage
        .remove("0000000000000002.journal")
        .expect("it is there");
    let opened = Journal::open_skipping(disk.as_storage(), OPTIONS, sums_up, &mut |_, _, _| Ok(()));
    assert!(matches!(opened, Err(JournalError::Rot { .. })));
}

#[test]
fn what_is_summed_up_is_not_read_and_can_be_read_back() {
    let disk = SimStorage::new(3);
    let positions = fill_summed(&disk, 500, &[130, 200, 300]);
    let file = |number: usize| positions[number].file();
    let first_of = |number| positions.iter().position(|one| one.file() == file(number));
    // Rot in a file that is not read is met when its records are asked for.
    damage(&disk, positions[5]);
    let opened = Journal::open_skipping(disk.as_storage(), OPTIONS, sums_up, &mut |_, _, _| Ok(()));
    let (journal, skipped) = opened.unwrap();
    assert!(skipped.is_empty());
    let span = journal
        .reader()
        .read_span(positions[3], positions[9].end())
        .unwrap();
    let numbers: Vec<u64> = span.records.iter().map(|one| one.1.number).collect();
    assert_eq!(numbers, [3, 4, 6, 7, 8, 9]);
    assert!(
        span.records
            .iter()
            .map(|one| one.0)
            .eq([3, 4, 6, 7, 8, 9].map(|nth| positions[nth]))
    );
    assert_eq!(span.damaged.len(), 1);
    assert_eq!(span.damaged[0].offset, u64::from(positions[5].offset()));
    assert_eq!(span.damaged[0].length, RECORD_BYTES);
    drop(journal);
    let start = first_of(300).unwrap() as u64;
    assert!(start > 200);
    assert!(open(&disk).0.into_iter().eq(start..500));
    // The newest that sums up stands in a damaged file: one before it is where reading begins.
    damage(&disk, positions[310]);
    let start = first_of(200).unwrap() as u64;
    let (numbers, skipped) = open(&disk);
    assert!(
        numbers
            .into_iter()
            .eq((start..500).filter(|number| *number != 310))
    );
    assert_eq!(skipped.len(), 1);
}

#[test]
fn a_file_that_is_missing_is_found_without_reading() {
    let disk = SimStorage::new(4);
    let positions = fill_summed(&disk, 500, &[450]);
    assert!(positions[450].file() > 3);
    disk.as_storage()
        .remove("0000000000000002.journal")
        .unwrap();
    let opened = Journal::open_skipping(disk.as_storage(), OPTIONS, sums_up, &mut |_, _, _| Ok(()));
    assert!(matches!(opened, Err(JournalError::Rot { .. })));
}
