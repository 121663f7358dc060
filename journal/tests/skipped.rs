//! What is damaged is passed over where whoever opens the journal asks for it, and nowhere else.

use journal::{
    Journal, JournalError, OpenMode, Options, Position, RecordHead, SimStorage, Skipped,
};

const OPTIONS: Options = Options {
    file_bytes: 16 << 10,
    files_max: 8,
};
/// A header, and a payload of 100 bytes filled up to 104.
const RECORD_BYTES: u64 = 136;

const SUM: u8 = 9;

fn head(number: u64) -> RecordHead {
    RecordHead {
        group: 0,
        kind: 1,
        number,
    }
}

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

/// Nothing of the second of the files is found, and all of the others, each time.
fn assert_second_is_passed_over(disk: &SimStorage, positions: &[Position]) {
    for _ in 0..2 {
        let (numbers, skipped) = open(disk);
        let elsewhere =
            |number: &u64| positions[usize::try_from(*number).expect("few")].file() != 2;
        assert!(
            numbers
                .into_iter()
                .eq((0..positions.len() as u64).filter(elsewhere))
        );
        assert_eq!((skipped.len(), skipped[0].offset), (1, 0));
        assert_eq!(skipped[0].length, OPTIONS.file_bytes);
    }
}

fn damage(disk: &SimStorage, position: Position) {
    let offset = u64::from(position.offset());
    assert!(disk.flip_bit(&name(position.file()), (offset + 40) * 8));
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
    assert!(disk.flip_bit(&name(positions[299].file()), 0));
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

fn name(file: u64) -> String {
    format!("{file:016x}.journal")
}

/// The last of the records in a file.
fn last_in(positions: &[Position], file: u64) -> usize {
    let in_file = |position: &Position| position.file() == file;
    positions
        .iter()
        .rposition(in_file)
        .expect("it is not empty")
}

/// Damages the seal of a file, behind the last record in it.
fn break_seal(disk: &SimStorage, last: Position) {
    assert!(disk.flip_bit(&name(last.file()), (u64::from(last.end()) + 4) * 8));
}

#[test]
fn the_end_of_a_file_that_has_a_successor_may_be_damaged() {
    for lost in [0, 1, 3] {
        let disk = SimStorage::new(5);
        let positions = fill(&disk, 400);
        let last = last_in(&positions, 2);
        break_seal(&disk, positions[last]);
        for position in &positions[last + 1 - lost..=last] {
            damage(&disk, *position);
        }
        let strict = Journal::open(disk.as_storage(), OPTIONS, &mut |_, _, _| Ok(()));
        assert!(matches!(strict, Err(JournalError::Rot { .. })));
        for _ in 0..2 {
            let (numbers, skipped) = open(&disk);
            let bad = (last + 1 - lost) as u64..=last as u64;
            let good = (0..400).filter(|number| !bad.contains(number));
            assert!(numbers.into_iter().eq(good), "{lost} are lost");
            let [rest] = &skipped[..] else {
                panic!("one place, and not {}", skipped.len());
            };
            let offset = u64::from(positions[last].end()) - lost as u64 * RECORD_BYTES;
            assert_eq!((&rest.file, rest.offset), (&name(2), offset));
            assert_eq!(rest.offset + rest.length, OPTIONS.file_bytes);
            assert_eq!(rest.bytes.len() as u64, rest.length);
        }
    }
}

#[test]
fn what_stands_before_a_good_seal_counts_if_no_sync_came_between() {
    let disk = SimStorage::new(6);
    let opened = Journal::open(disk.as_storage(), OPTIONS, &mut |_, _, _| Ok(()));
    let mut journal = opened.unwrap();
    let append = |number| journal.append(head(number), &[7; 100]).unwrap();
    let positions: Vec<Position> = (0..400).map(append).collect();
    journal.sync().unwrap();
    drop(journal);
    let (file, bad) = (positions[200].file(), 200);
    assert!(file > 1 && file < positions[399].file());
    damage(&disk, positions[bad]);
    let strict = Journal::open(disk.as_storage(), OPTIONS, &mut |_, _, _| Ok(()));
    assert!(matches!(strict, Err(JournalError::Rot { .. })));
    let (numbers, skipped) = open(&disk);
    let good = (0..400).filter(|number| *number != bad as u64);
    assert!(numbers.into_iter().eq(good));
    assert_eq!((skipped.len(), skipped[0].length), (1, RECORD_BYTES));
}

#[test]
fn a_file_without_a_good_record_is_passed_over() {
    let disk = SimStorage::new(7);
    let positions = fill(&disk, 400);
    let file = disk.as_storage().open(&name(2), OpenMode::Existing);
    let file = file.unwrap();
    let zeros = vec![0; usize::try_from(OPTIONS.file_bytes).unwrap()];
    file.write_at(0, &zeros).unwrap();
    file.sync().unwrap();
    assert_second_is_passed_over(&disk, &positions);
}

#[test]
fn a_file_whose_end_is_damaged_is_not_where_reading_begins() {
    let disk = SimStorage::new(8);
    let positions = fill_summed(&disk, 500, &[130, 300]);
    let file = positions[300].file();
    assert!(positions[130].file() < file && file < positions[499].file());
    let last = last_in(&positions, file);
    break_seal(&disk, positions[last]);
    damage(&disk, positions[last]);
    let first = positions[130].file();
    let start = positions.iter().position(|one| one.file() == first);
    let start = start.unwrap() as u64;
    let (numbers, skipped) = open(&disk);
    let good = (start..500).filter(|number| *number != last as u64);
    assert!(numbers.into_iter().eq(good));
    assert_eq!(skipped.len(), 1);
}

/// The sectors of 4 KiB in which a record lies.
fn sectors(position: Position) -> std::ops::Range<u64> {
    let (start, end) = (u64::from(position.offset()), u64::from(position.end()));
    start / 4_096 * 4_096..end.next_multiple_of(4_096)
}

fn lies_in(position: Position, file: u64, bytes: &std::ops::Range<u64>) -> bool {
    let (start, end) = (u64::from(position.offset()), u64::from(position.end()));
    position.file() == file && start < bytes.end && bytes.start < end
}

#[test]
fn what_the_disk_does_not_give_is_damage() {
    for number in [50, 200, 358] {
        let disk = SimStorage::new(9);
        let positions = fill(&disk, 400);
        let file = positions[number].file();
        let bytes = sectors(positions[number]);
        assert!(disk.fail_reads(&name(file), bytes.clone()));
        let strict = Journal::open(disk.as_storage(), OPTIONS, &mut |_, _, _| Ok(()));
        assert!(matches!(strict, Err(JournalError::Io { .. })));
        for _ in 0..2 {
            let (numbers, skipped) = open(&disk);
            let given = |number: &u64| {
                let position = positions[usize::try_from(*number).unwrap()];
                !lies_in(position, file, &bytes)
            };
            assert!(numbers.into_iter().eq((0..400).filter(given)), "{number}");
            let [damaged] = &skipped[..] else {
                panic!("one place, and not {}", skipped.len());
            };
            let end = damaged.offset + damaged.length;
            assert!(damaged.offset <= bytes.start && bytes.end <= end);
            assert!(damaged.length < bytes.end - bytes.start + 2 * RECORD_BYTES);
        }
    }
}

/// What is bad there looks like a torn tail, but torn bytes can be read.
#[test]
fn what_the_disk_does_not_give_of_the_last_records_is_told_once() {
    let disk = SimStorage::new(10);
    let positions = fill(&disk, 390);
    let last = positions[389];
    let bytes = sectors(last);
    assert!(disk.fail_reads(&name(last.file()), bytes.clone()));
    let (numbers, skipped) = open(&disk);
    let given = |number: &u64| {
        let position = positions[usize::try_from(*number).unwrap()];
        !lies_in(position, last.file(), &bytes)
    };
    let kept = (0..390).filter(given).count();
    assert!(kept < 390);
    assert!(numbers.into_iter().eq(0..kept as u64));
    assert_eq!(skipped.len(), 1);
    assert_eq!(skipped[0].offset, u64::from(positions[kept].offset()));
    // It was written over.
    let (numbers, skipped) = open(&disk);
    assert_eq!((numbers.len(), skipped.len()), (kept, 0));
}

#[test]
fn a_file_of_which_the_disk_gives_nothing_is_damage() {
    let disk = SimStorage::new(11);
    let positions = fill(&disk, 400);
    assert!(disk.fail_reads(&name(2), 0..OPTIONS.file_bytes));
    assert_second_is_passed_over(&disk, &positions);
}

/// It goes on in the next file. What the disk gives again later stands where it stood.
#[test]
fn the_newest_file_is_left_as_it_is_if_the_disk_gives_nothing_of_it() {
    let disk = SimStorage::new(12);
    let positions = fill(&disk, 400);
    let newest = positions[399].file();
    let before = |number: &u64| positions[usize::try_from(*number).unwrap()].file() < newest;
    assert!(disk.fail_reads(&name(newest), 0..OPTIONS.file_bytes));
    let mut numbers = Vec::new();
    let opened = Journal::open_skipping(disk.as_storage(), OPTIONS, sums_up, &mut |_, head, _| {
        numbers.push(head.number);
        Ok(())
    });
    let (mut journal, skipped) = opened.unwrap();
    assert!(numbers.into_iter().eq((0..400).filter(before)));
    assert_eq!((skipped.len(), skipped[0].offset), (1, 0));
    let head = head(400);
    assert!(journal.append(head, &[7; 100]).unwrap().file() > newest);
    journal.sync().unwrap();
    drop(journal);
    let (numbers, _) = open(&disk);
    assert!(numbers.into_iter().eq((0..400).filter(before).chain([400])));
    disk.heal_reads(&name(newest));
    assert!(open(&disk).0.into_iter().eq(0..=400));
}

/// A file that was sealed when the power went is continued by the next, unless the disk gives nothing
/// of it then.
#[test]
fn a_sealed_newest_file_of_which_the_disk_gives_nothing_may_come_back() {
    let disk = SimStorage::new(13);
    let positions = fill(&disk, 400);
    let last = positions[399].file();
    // The next file was never begun.
    let storage = disk.as_storage();
    let sealed = last - 1;
    storage.remove(&name(last)).unwrap();
    let kept = positions.iter().filter(|one| one.file() < last).count() as u64;
    let before = positions.iter().filter(|one| one.file() < sealed).count() as u64;
    assert!(disk.fail_reads(&name(sealed), 0..OPTIONS.file_bytes));
    let (numbers, skipped) = open(&disk);
    assert!(numbers.into_iter().eq(0..before));
    assert_eq!(skipped.len(), 1);
    disk.heal_reads(&name(sealed));
    assert!(open(&disk).0.into_iter().eq(0..kept));
}

/// It is removed, and another takes its place.
#[test]
fn a_file_of_which_the_disk_gave_nothing_is_not_written_again() {
    let disk = SimStorage::new(14);
    let positions = fill(&disk, 400);
    assert!(disk.fail_reads(&name(1), 0..OPTIONS.file_bytes));
    let opened = Journal::open_skipping(disk.as_storage(), OPTIONS, sums_up, &mut |_, _, _| Ok(()));
    let (mut journal, _) = opened.unwrap();
    journal.release(positions[399]).unwrap();
    let head = head(400);
    for _ in 0..200 {
        journal.append(head, &[7; 100]).unwrap();
        journal.sync().unwrap();
    }
    let mut first = [0; 1];
    for file in disk.as_storage().list().unwrap() {
        let opened = disk.as_storage().open(&file, OpenMode::Existing).unwrap();
        assert!(opened.read_at(0, &mut first).is_ok(), "{file}");
    }
}

#[test]
fn a_disk_that_gives_nothing_of_any_file_is_no_damage() {
    let disk = SimStorage::new(11);
    let positions = fill(&disk, 400);
    for file in 1..=positions[399].file() {
        assert!(disk.fail_reads(&name(file), 0..OPTIONS.file_bytes));
    }
    let opened = Journal::open_skipping(disk.as_storage(), OPTIONS, sums_up, &mut |_, _, _| Ok(()));
    assert!(matches!(opened, Err(JournalError::Io { .. })));
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
