//! What is said on one connection: bytes to groups of readings and answers. No I/O, no clock.

use std::fmt::Write as _;

use shared::id::TimeNs;
use shared::payload::line::{LineError, LineReader};
use shared::reading::Reading;

use crate::config::Line;
use crate::handed::{HANDED_READINGS_MAX, NotKept, Stamp};
use crate::intake::frame::Framer;

/// The lines of one connection so far.
#[derive(Debug)]
pub(super) struct Dialogue {
    framer: Framer,
    reader: LineReader,
    line_bytes_max: usize,
    /// Lines that were given out.
    lines: u64,
    /// The line behind the last group, which it could not join.
    held: Option<Taken>,
}

/// What a line came to.
#[derive(Debug)]
enum Taken {
    Reading(Reading, Stamp),
    Nothing,
    Refused(Refusal),
}

/// Whether more comes on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stream {
    Open,
    /// The peer closed it: what stands behind the last line feed is a line.
    Ended,
    /// It was cut off, so the last line may be as well: half a number is another number.
    Broken,
}

/// Lines that are handed over and answered together.
#[derive(Debug, Default)]
pub(super) struct Group {
    /// At most [`HANDED_READINGS_MAX`].
    pub(super) readings: Vec<Reading>,
    /// By whose clock all of them are stamped.
    pub(super) stamp: Stamp,
    pub(super) answers: Answers,
}

/// What a group of consecutive lines is answered, as far as it is known.
#[derive(Debug, Default)]
pub(super) struct Answers {
    /// The first line, counted from 1.
    first: u64,
    /// At most [`HANDED_READINGS_MAX`].
    lines: Vec<Answer>,
}

#[derive(Debug, Clone, Copy)]
enum Answer {
    /// As the readings of the group fare.
    Reading,
    /// A blank line or a comment: there is nothing to keep.
    Nothing,
    Refused(Refusal),
}

/// Why a line is no reading.
#[derive(Debug, Clone, Copy, thiserror::Error)]
pub(super) enum Refusal {
    #[error("column {}: {}", .0.column, .0.reason)]
    Line(LineError),
    #[error("the line is over {0} bytes: send fewer fields a line, or raise line_bytes_max")]
    TooLong(usize),
    #[error("the connection broke within the line: send it again")]
    CutOff,
}

impl Dialogue {
    /// `device` is that of a line that names none.
    pub(super) fn new(options: &Line, device: &str) -> Dialogue {
        Dialogue {
            framer: Framer::new(options.line_bytes_max),
            reader: LineReader::new(options.precision, &options.device_key, device),
            line_bytes_max: options.line_bytes_max,
            lines: 0,
            held: None,
        }
    }

    pub(super) fn push(&mut self, piece: &[u8]) {
        self.framer.push(piece);
    }

    /// The next lines of what was pushed; once no more comes, also one without an end. `now` is
    /// the time of a line that has none, and by whose clock that is.
    pub(super) fn next(&mut self, now: (TimeNs, Stamp), stream: Stream) -> Option<Group> {
        let mut group = Group::default();
        group.answers.first = self.lines + 1;
        while group.answers.lines.len() < HANDED_READINGS_MAX
            && let Some(next) = self.take(now, stream)
        {
            let answer = match next {
                Taken::Reading(reading, stamp) => {
                    if !group.readings.is_empty() && group.stamp != stamp {
                        self.held = Some(Taken::Reading(reading, stamp));
                        break;
                    }
                    group.stamp = stamp;
                    group.readings.push(reading);
                    Answer::Reading
                }
                Taken::Nothing => Answer::Nothing,
                Taken::Refused(refusal) => Answer::Refused(refusal),
            };
            self.lines += 1;
            group.answers.lines.push(answer);
        }
        (!group.answers.lines.is_empty()).then_some(group)
    }

    /// The next line.
    fn take(&mut self, (now, stamp): (TimeNs, Stamp), stream: Stream) -> Option<Taken> {
        if let Some(held) = self.held.take() {
            return Some(held);
        }
        let frame = match self.framer.next() {
            Some(frame) => frame,
            None if stream == Stream::Open => return None,
            None => {
                let last = self.framer.last()?;
                if stream == Stream::Broken {
                    return Some(Taken::Refused(Refusal::CutOff));
                }
                last
            }
        };
        let Some(line) = frame.line else {
            return Some(Taken::Refused(Refusal::TooLong(self.line_bytes_max)));
        };
        Some(match self.reader.read(line, now) {
            None => Taken::Nothing,
            // No device gives by chance, as its time of day, this very nanosecond since boot.
            Some(Ok(reading)) if reading.time == now => Taken::Reading(reading, stamp),
            Some(Ok(reading)) => Taken::Reading(reading, Stamp::Wall),
            Some(Err(error)) => Taken::Refused(Refusal::Line(error)),
        })
    }
}

impl Answers {
    /// The lines that are no readings, with their numbers.
    pub(super) fn refused(&self) -> impl Iterator<Item = (u64, Refusal)> + '_ {
        let numbered = self.numbered();
        numbered.filter_map(|(number, answer)| match answer {
            Answer::Refused(refusal) => Some((number, refusal)),
            Answer::Reading | Answer::Nothing => None,
        })
    }

    /// How many lines are readings.
    pub(super) fn readings(&self) -> u64 {
        let readings = self.lines.iter();
        readings
            .filter(|line| matches!(line, Answer::Reading))
            .count() as u64
    }

    /// The text that goes to the device.
    pub(super) fn text(&self, outcome: Result<(), NotKept>) -> String {
        let mut text = String::new();
        for (number, answer) in self.numbered() {
            let written = match (answer, outcome) {
                (Answer::Refused(refusal), _) => writeln!(text, "error {number} {refusal}"),
                (Answer::Reading, Err(why)) => writeln!(text, "error {number} {why}"),
                (Answer::Reading, Ok(())) | (Answer::Nothing, _) => writeln!(text, "ok {number}"),
            };
            written.expect("writing to a string cannot fail");
        }
        text
    }

    fn numbered(&self) -> impl Iterator<Item = (u64, Answer)> + '_ {
        (self.first..).zip(self.lines.iter().copied())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Listen;
    use crate::handed::Class;
    use shared::payload::line::Precision;

    fn options() -> Line {
        Line {
            listen: Listen::Stdin,
            ack: true,
            precision: Precision::Ns,
            device_key: "device".to_owned(),
            connections_max: 1,
            line_bytes_max: 100,
            class: Class::default(),
        }
    }

    /// Groups of a stream that comes in pieces of one size.
    fn talk(stream: &[u8], piece_bytes: usize) -> Vec<Group> {
        talk_at(stream, piece_bytes, (TimeNs(7), Stamp::Wall))
    }

    fn talk_at(stream: &[u8], piece_bytes: usize, now: (TimeNs, Stamp)) -> Vec<Group> {
        let mut dialogue = Dialogue::new(&options(), "gw1");
        let mut groups = Vec::new();
        for piece in stream.chunks(piece_bytes) {
            dialogue.push(piece);
            groups.extend(std::iter::from_fn(|| dialogue.next(now, Stream::Open)));
        }
        groups.extend(std::iter::from_fn(|| dialogue.next(now, Stream::Ended)));
        groups
    }

    #[test]
    fn every_line_is_answered_in_order_however_it_comes() {
        let long = format!("t f=\"{}\"", "x".repeat(200));
        let stream = format!("t f=1 1\n\n# note\nt f=NaN 2\n{long}\nno line protocol\nt f=2");
        for piece_bytes in [1, 3, 1_000] {
            let groups = talk(stream.as_bytes(), piece_bytes);
            let text: String = groups
                .iter()
                .map(|group| group.answers.text(Ok(())))
                .collect();
            let answers: Vec<_> = text.lines().collect();
            assert_eq!(answers.len(), 7, "{text}");
            assert_eq!(answers[..3], ["ok 1", "ok 2", "ok 3"]);
            assert!(answers[3].starts_with("error 4 column 5: NaN"), "{text}");
            assert!(
                answers[4].starts_with("error 5 the line is over 100 bytes"),
                "{text}"
            );
            assert!(answers[5].starts_with("error 6 column "), "{text}");
            assert_eq!(answers[6], "ok 7");
            let readings: Vec<_> = groups.iter().flat_map(|group| &group.readings).collect();
            assert_eq!(readings.len(), 2);
            assert_eq!(
                (readings[1].time, readings[1].shape.device.as_str()),
                (TimeNs(7), "gw1")
            );
            let refused: Vec<_> = groups
                .iter()
                .flat_map(|group| group.answers.refused())
                .collect();
            assert_eq!(
                refused
                    .iter()
                    .map(|(number, _)| *number)
                    .collect::<Vec<_>>(),
                [4, 5, 6]
            );
        }
    }

    #[test]
    fn readings_that_are_not_kept_are_answered_so_and_the_rest_as_it_is() {
        let groups = talk(b"t f=1 1\n\nt f= 2\n", 100);
        assert_eq!(groups.len(), 1, "lines of one read go together");
        assert_eq!(groups[0].answers.readings(), 1);
        let text = groups[0].answers.text(Err(NotKept::BufferFull));
        let answers: Vec<_> = text.lines().collect();
        assert!(
            answers[0].starts_with("error 1 the agent's buffer is full"),
            "{text}"
        );
        assert_eq!(answers[1], "ok 2");
        assert!(answers[2].starts_with("error 3 column 5"), "{text}");
    }

    #[test]
    fn lines_with_a_time_and_lines_stamped_since_boot_go_apart() {
        let stream = b"t f=1 1\nt f=2\n\nt f=3\nnonsense\nt f=4 4\nt f=5";
        for piece_bytes in [1, 100] {
            let groups = talk_at(stream, piece_bytes, (TimeNs(60), Stamp::Boot));
            let mut by_stamp: Vec<(Stamp, usize)> = Vec::new();
            for group in groups.iter().filter(|group| !group.readings.is_empty()) {
                match by_stamp.last_mut() {
                    Some((stamp, readings)) if *stamp == group.stamp => {
                        *readings += group.readings.len();
                    }
                    _ => by_stamp.push((group.stamp, group.readings.len())),
                }
            }
            let (wall, boot) = (Stamp::Wall, Stamp::Boot);
            assert_eq!(by_stamp, [(wall, 1), (boot, 2), (wall, 1), (boot, 1)]);
            let text: String = groups
                .iter()
                .map(|group| group.answers.text(Ok(())))
                .collect();
            let answers: Vec<_> = text.lines().collect();
            assert_eq!(answers.len(), 7, "{text}");
            assert_eq!(answers[3], "ok 4");
            assert!(answers[4].starts_with("error 5 "), "{text}");
        }
    }

    #[test]
    fn groups_are_bounded() {
        let stream = "t f=1\n".repeat(2 * HANDED_READINGS_MAX + 1);
        let sizes: Vec<_> = talk(stream.as_bytes(), stream.len())
            .iter()
            .map(|group| group.readings.len())
            .collect();
        assert_eq!(sizes, [HANDED_READINGS_MAX, HANDED_READINGS_MAX, 1]);
    }
}
