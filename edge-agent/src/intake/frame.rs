//! Finds the lines of a stream of bytes, without letting one line take all memory. No I/O.

/// A stream that comes in pieces, cut into lines. A line ends at a line feed, also within quotes.
#[derive(Debug)]
pub(crate) struct Framer {
    /// What came and was not given out yet.
    bytes: Vec<u8>,
    /// Of these, the first were given out.
    taken: usize,
    /// Of the rest, the first hold no line feed.
    searched: usize,
    /// Bytes of the current line that were let go, because it is too long.
    passed_over: u64,
    line_bytes_max: usize,
}

/// One line of the stream.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Frame<'a> {
    /// Without its line feed; `None`: it was longer than allowed, its bytes are gone.
    pub(crate) line: Option<&'a [u8]>,
    /// What it took of the stream, its end included.
    pub(crate) bytes: u64,
}

impl Framer {
    /// For lines of up to `line_bytes_max` bytes, their ends not counted.
    pub(crate) fn new(line_bytes_max: usize) -> Framer {
        Framer {
            bytes: Vec::new(),
            taken: 0,
            searched: 0,
            passed_over: 0,
            line_bytes_max,
        }
    }

    /// Adds what came. Memory is bounded by the longest line and one piece, once all whole lines
    /// were taken.
    pub(crate) fn push(&mut self, piece: &[u8]) {
        self.bytes.drain(..self.taken);
        self.taken = 0;
        self.bytes.extend_from_slice(piece);
    }

    /// The next whole line.
    pub(crate) fn next(&mut self) -> Option<Frame<'_>> {
        let rest = &self.bytes[self.taken..];
        let Some(at) = line_feed(&rest[self.searched..]) else {
            self.searched = rest.len();
            if rest.len() > self.line_bytes_max {
                self.passed_over += rest.len() as u64;
                self.taken = self.bytes.len();
                self.searched = 0;
            }
            return None;
        };
        let length = self.searched + at;
        Some(self.take(length, 1))
    }

    /// What stands after the last line feed, once the stream has ended; `None` if nothing does.
    pub(crate) fn last(&mut self) -> Option<Frame<'_>> {
        let length = self.bytes.len() - self.taken;
        (length > 0 || self.passed_over > 0).then(|| self.take(length, 0))
    }

    fn take(&mut self, length: usize, end: usize) -> Frame<'_> {
        let start = self.taken;
        self.taken += length + end;
        self.searched = 0;
        let passed_over = std::mem::take(&mut self.passed_over);
        let fits = passed_over == 0 && length <= self.line_bytes_max;
        Frame {
            line: fits.then(|| &self.bytes[start..start + length]),
            bytes: passed_over + (length + end) as u64,
        }
    }
}

/// Where the first line feed stands. Blocks without one are passed over whole: of fixed size,
/// they are compared by vector instructions.
fn line_feed(bytes: &[u8]) -> Option<usize> {
    const BLOCK_BYTES: usize = 32;
    let (blocks, _) = bytes.as_chunks::<BLOCK_BYTES>();
    let has_one = |block: &[u8; BLOCK_BYTES]| {
        let found = block.iter().map(|byte| u8::from(*byte == b'\n'));
        found.fold(0_u8, |any, one| any | one) != 0
    };
    let passed = blocks.iter().position(has_one).unwrap_or(blocks.len()) * BLOCK_BYTES;
    let rest = &bytes[passed..];
    let at = rest.iter().position(|byte| *byte == b'\n')?;
    Some(passed + at)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lines of a stream that comes in pieces of one size.
    fn cut(stream: &[u8], piece_bytes: usize) -> Vec<(Option<String>, u64)> {
        let mut framer = Framer::new(5);
        let mut lines = Vec::new();
        let mut note = |frame: Frame| {
            let line = frame
                .line
                .map(|line| String::from_utf8(line.to_vec()).unwrap());
            lines.push((line, frame.bytes));
        };
        for piece in stream.chunks(piece_bytes) {
            framer.push(piece);
            while let Some(frame) = framer.next() {
                note(frame);
            }
            assert!(framer.bytes.len() - framer.taken <= 5);
        }
        if let Some(frame) = framer.last() {
            note(frame);
        }
        lines
    }

    #[test]
    fn lines_are_the_same_however_the_stream_is_cut() {
        let stream = b"ab\n\nfive5\nsix666\nelevenbytes\nc\r\nend";
        let line = |text: &str, bytes| (Some(text.to_owned()), bytes);
        let expected = [
            line("ab", 3),
            line("", 1),
            line("five5", 6),
            (None, 7),
            (None, 12),
            line("c\r", 3),
            line("end", 3),
        ];
        for piece_bytes in 1..=stream.len() {
            assert_eq!(
                cut(stream, piece_bytes),
                expected,
                "pieces of {piece_bytes}"
            );
        }
    }

    #[test]
    fn a_line_feed_is_found_wherever_it_stands() {
        for length in 0..100 {
            let mut bytes = vec![b'x'; length];
            assert_eq!(line_feed(&bytes), None);
            for at in (0..length).rev() {
                bytes[at] = b'\n';
                assert_eq!(line_feed(&bytes), Some(at));
            }
        }
    }

    #[test]
    fn a_long_line_without_an_end_is_told_at_the_end_of_the_stream() {
        assert_eq!(cut(b"sixsix", 1), [(None, 6)]);
        assert_eq!(cut(b"sixsix", 6), [(None, 6)]);
        assert_eq!(cut(b"a\n", 1), [(Some("a".to_owned()), 2)]);
        assert_eq!(cut(b"", 1), []);
    }
}
