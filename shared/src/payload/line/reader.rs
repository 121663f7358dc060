//! Reads the lines of one source, which says nearly the same again and again: a line whose head
//! (all up to its first value) and fields came before costs its values alone. All others go by the
//! rules.

use std::collections::HashMap;
use std::sync::Arc;

use super::{LineError, LineOptions, Precision, parse, plain};
use crate::id::TimeNs;
use crate::reading::{Reading, SeriesShape, Value};

/// Bytes that what a reader knows takes at most, about; then it forgets all and learns anew.
const BYTES_MAX: usize = 2 << 20;
/// Sets of fields that are known of one head, which begin with the same one.
const SHAPES_MAX: usize = 4;

/// Gives for every line what [`parse`] gives for it.
#[derive(Debug)]
pub struct LineReader {
    precision: Precision,
    device_key: String,
    default_device: String,
    known: Vec<Known>,
    /// Where a head stands in `known`.
    by_head: HashMap<Arc<[u8]>, usize>,
    /// Whose line came last.
    last: usize,
    bytes: usize,
}

#[derive(Debug)]
struct Known {
    /// A line up to its first value, as it stands.
    head: Arc<[u8]>,
    /// That used last is the first.
    shapes: Vec<Arc<SeriesShape>>,
    /// Whose line came next the last time: devices take turns.
    follower: usize,
}

impl LineReader {
    /// A reader that knows nothing yet; see [`LineOptions`].
    pub fn new(precision: Precision, device_key: &str, default_device: &str) -> LineReader {
        LineReader {
            precision,
            device_key: device_key.to_owned(),
            default_device: default_device.to_owned(),
            known: Vec::new(),
            by_head: HashMap::new(),
            last: 0,
            bytes: 0,
        }
    }

    /// The reading of one line; `None` if it is blank or a comment.
    pub fn read(
        &mut self,
        line: &[u8],
        default_time: TimeNs,
    ) -> Option<Result<Reading, LineError>> {
        if let Some(reading) = self.read_known(line, default_time) {
            return Some(Ok(reading));
        }
        let options = LineOptions {
            default_time,
            precision: self.precision,
            device_key: &self.device_key,
            default_device: &self.default_device,
        };
        let mut lines = parse(line, options);
        let mut result = lines.next();
        let identity = lines.identity.clone();
        if let Some(Ok(reading)) = &mut result {
            self.learn(&line[identity.start..], identity.len(), &mut reading.shape);
        }
        result
    }

    /// The reading of a line that is like one before. The same head is the same bytes up to the
    /// same place, so the rules would read it as they did; the other fields are compared by name.
    fn read_known(&mut self, line: &[u8], default_time: TimeNs) -> Option<Reading> {
        let at = self.find(line)?;
        let known = &mut self.known[at];
        let behind = &line[known.head.len()..];
        let found = known.shapes.iter().enumerate().find_map(|(nth, shape)| {
            let (values, rest) = values(shape, behind)?;
            Some((nth, values, rest))
        });
        let (nth, values, rest) = found?;
        let time = time(rest, self.precision, default_time)?;
        known.shapes.swap(0, nth);
        Some(Reading {
            shape: Arc::clone(&known.shapes[0]),
            time,
            values,
        })
    }

    /// Where the head of the line is known.
    fn find(&mut self, line: &[u8]) -> Option<usize> {
        let expected = self.known.get(self.last)?.follower;
        if line.starts_with(&self.known[expected].head) {
            self.last = expected;
            return Some(expected);
        }
        let at = *self.by_head.get(head(line)?)?;
        self.known[self.last].follower = at;
        self.last = at;
        Some(at)
    }

    /// Keeps the shape for lines that begin as this one, or puts the one in its place that is kept
    /// already. The fields begin behind so many bytes.
    fn learn(&mut self, line: &[u8], fields_at: usize, shape: &mut Arc<SeriesShape>) {
        let special = |byte: u8| matches!(byte, b',' | b' ' | b'=' | b'\\');
        if shape.fields.iter().any(|name| name.bytes().any(special)) {
            // It stands in the line with escapes: always by the rules.
            return;
        }
        let spaces = line.len() - fields_at - without_spaces(&line[fields_at..]).len();
        let head = &line[..=fields_at + spaces + shape.fields[0].len()];
        if let Some(at) = self.by_head.get(head).copied()
            && let Some(same) = self.known[at].shapes.iter().find(|one| **one == *shape)
        {
            *shape = Arc::clone(same);
            return;
        }
        let bytes = head.len() + shape.memory_bytes();
        if bytes > BYTES_MAX {
            return;
        }
        if self.bytes + bytes > BYTES_MAX {
            self.forget();
        }
        self.bytes += bytes;
        match self.by_head.get(head).copied() {
            Some(at) => self.widen(at, shape),
            None => self.add(head, shape),
        }
    }

    fn widen(&mut self, at: usize, shape: &Arc<SeriesShape>) {
        let known = &mut self.known[at];
        if known.shapes.len() == SHAPES_MAX
            && let Some(oldest) = known.shapes.pop()
        {
            self.bytes -= known.head.len() + oldest.memory_bytes();
        }
        known.shapes.insert(0, Arc::clone(shape));
    }

    fn add(&mut self, head: &[u8], shape: &Arc<SeriesShape>) {
        let at = self.known.len();
        if let Some(last) = self.known.get_mut(self.last) {
            last.follower = at;
        }
        let head: Arc<[u8]> = head.into();
        self.by_head.insert(Arc::clone(&head), at);
        self.known.push(Known {
            head,
            shapes: vec![Arc::clone(shape)],
            follower: at,
        });
        self.last = at;
    }

    fn forget(&mut self) {
        self.known.clear();
        self.by_head.clear();
        self.last = 0;
        self.bytes = 0;
    }
}

/// What may be the head of a line: if it is not, then it is none that is known.
fn head(line: &[u8]) -> Option<&[u8]> {
    let ends = |at: &usize| line[*at] == b' ' && (*at == 0 || line[*at - 1] != b'\\');
    let fields_at = (0..line.len()).find(ends)?;
    let name_bytes = line[fields_at..].iter().position(|byte| *byte == b'=')?;
    Some(&line[..=fields_at + name_bytes])
}

/// The values behind a head, if the fields are those of the shape and plainly written, and what
/// follows them.
fn values<'a>(shape: &SeriesShape, behind: &'a [u8]) -> Option<(Vec<Value>, &'a [u8])> {
    let mut rest = behind;
    let mut values = Vec::with_capacity(shape.fields.len());
    for (nth, name) in shape.fields.iter().enumerate() {
        if nth > 0 {
            rest = rest.strip_prefix(b",")?.strip_prefix(name.as_bytes())?;
            rest = rest.strip_prefix(b"=")?;
        }
        let (value, length) = plain::value(rest)?;
        values.push(value);
        rest = &rest[length..];
    }
    (!rest.starts_with(b",")).then_some((values, rest))
}

/// The time of a line that ends as it should.
fn time(rest: &[u8], precision: Precision, default_time: TimeNs) -> Option<TimeNs> {
    let mut rest = without_spaces(rest);
    let mut time = default_time;
    if let Some(b'0'..=b'9' | b'-') = rest.first() {
        let (number, length) = plain::integer(rest)?;
        time = TimeNs(number.checked_mul(precision.unit_ns())?);
        rest = without_spaces(&rest[length..]);
    }
    let rest = rest.strip_prefix(b"\r").unwrap_or(rest);
    matches!(rest.first(), None | Some(b'\n')).then_some(time)
}

fn without_spaces(text: &[u8]) -> &[u8] {
    let spaces = text.iter().take_while(|byte| **byte == b' ').count();
    &text[spaces..]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: TimeNs = TimeNs(42);

    fn reader() -> LineReader {
        LineReader::new(Precision::Ns, "device", "gateway")
    }

    fn by_the_rules(line: &[u8]) -> Option<Result<Reading, LineError>> {
        parse(line, LineOptions::new(NOW, "gateway")).next()
    }

    /// Reads the lines twice and compares each with what the rules say.
    fn check(lines: &[&str]) {
        let mut reader = reader();
        for line in lines.iter().chain(lines) {
            let line = line.as_bytes();
            assert_eq!(reader.read(line, NOW), by_the_rules(line));
        }
    }

    #[test]
    fn a_known_line_shares_its_shape() {
        let mut reader = reader();
        let mut read = |line: &str| reader.read(line.as_bytes(), NOW).unwrap().unwrap();
        let first = read("t,device=a,z=1,b=2 x=1,y=2i 7");
        let other = read("t,device=b x=1 7");
        let again = read("t,device=a,z=1,b=2 x=1.5,y=-3i 8");
        assert!(Arc::ptr_eq(&first.shape, &again.shape));
        assert!(!Arc::ptr_eq(&first.shape, &other.shape));
        assert_eq!(again.values, [Value::Float(1.5), Value::Int(-3)]);
        assert_eq!(again.time, TimeNs(8));
        let narrow = read("t,device=a,z=1,b=2 x=1 9");
        assert_eq!(narrow.shape.fields, ["x"]);
        let wide = read("t,device=a,z=1,b=2 x=1e0,y=2i 9");
        assert!(Arc::ptr_eq(&first.shape, &wide.shape));
    }

    #[test]
    fn lines_that_are_nearly_known_go_by_the_rules() {
        check(&[
            "m,device=a f=1 7",
            "m,device=a f=1 7 8",
            "m,device=a f=1 7x",
            "m,device=a f=1,f=2 7",
            "m,device=a f=x 7",
            "m,device=a f=\"a\"5",
            "m,device=a f=\"a\\\"b\" 5",
            "m,device=a f=1e3 7",
            "m,device=a f=99999999999999999999i 7",
            "m,device=a f=1 -5",
            "m,device=a f=1 5-",
            "m,device=a f=1 -9223372036854775808",
            "m,device=a f=1 99999999999999999999",
            "m,device=a   f=1   7   \r",
            "m,device=a f=1",
            "m,device=a f=1,g=t",
            "m,device=a g=t,f=1",
            "m,device=a  g=t",
            "m,device=a f",
            "m,device=a ",
            "m,device=a",
            " m,device=a f=1",
            "m,device=a\\ b f=1",
            "m,device=a f\\ g=1",
            "m,device=a\\\\ f=1",
            "m f=1",
            "m\\ n f=1",
            "# m f=1",
            "",
            "m f=1\nm f=2",
        ]);
    }

    #[test]
    fn what_is_known_is_bounded() {
        let mut reader = reader();
        let table = "t".repeat(200);
        for nth in 0..10_000 {
            let line = format!("{table}{} f{nth}=1", nth / 8);
            assert!(reader.read(line.as_bytes(), NOW).unwrap().is_ok());
            assert!(reader.bytes <= BYTES_MAX);
            assert_eq!(reader.known.len(), reader.by_head.len());
        }
        assert!(reader.known.len() < 10_000, "it forgot");
        for nth in 0..20 {
            let line = format!("t a=1,f{nth}=1");
            assert!(reader.read(line.as_bytes(), NOW).unwrap().is_ok());
        }
        assert!(
            reader
                .known
                .iter()
                .all(|one| one.shapes.len() <= SHAPES_MAX)
        );
    }

    proptest! {
        #[test]
        fn it_reads_what_the_rules_read(lines in prop::collection::vec(
            "[mn](,(device|a)=[ab\\\\ ]{1,2})? {0,2}[fg]=(-?[0-9]{1,3}(\\.[0-9])?|[0-9]i|t|\"[a\\\\]?\")(,[fg]=1)?( -?[0-9]{1,2})?[ \r]?",
            1..30,
        )) {
            let mut reader = reader();
            for line in &lines {
                let line = line.as_bytes();
                prop_assert_eq!(reader.read(line, NOW), by_the_rules(line));
            }
        }
    }
}
