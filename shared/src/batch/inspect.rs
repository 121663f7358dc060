//! A batch for human eyes: what `inspect` commands and failing tests print.

use std::fmt::{self, Write};

use super::{
    Batch, Body, Clock, Column, Data, Gap, Hello, SeriesDefinition, Values, decode, read_header,
};
use super::{Group, Header, Kind, SeriesColumns, digest};

/// Definitions, groups, series and columns that are printed in full; the rest is counted.
const ITEMS_MAX: usize = 64;
/// Values of a column that are printed.
const VALUES_MAX: usize = 8;
/// Characters of a text value that are printed.
const TEXT_CHARS_MAX: usize = 40;

/// Describes any bytes: a batch in full, a damaged one as far as it can be read.
pub fn describe(bytes: &[u8]) -> String {
    let mut out = String::new();
    // A String takes everything that is written to it.
    let _ = match (decode(bytes), read_header(bytes)) {
        (Ok(batch), _) => put_batch(&mut out, bytes, &batch),
        (Err(error), Ok((header, kind))) => put_header(&mut out, bytes, &header, kind)
            .and_then(|()| writeln!(out, "  the body cannot be read: {error}")),
        (Err(error), Err(_)) => writeln!(out, "{} bytes, no batch: {error}", bytes.len()),
    };
    out
}

fn put_batch(out: &mut String, bytes: &[u8], batch: &Batch) -> fmt::Result {
    put_header(out, bytes, &batch.header, batch.body.kind())?;
    match &batch.body {
        Body::Hello(hello) => put_hello(out, hello),
        Body::Names(definitions) => put_names(out, definitions),
        Body::Data(data) => put_data(out, data),
        Body::Gap(gap) => put_gap(out, gap),
        Body::Clock(clock) => put_clock(out, *clock),
    }
}

fn put_header(out: &mut String, bytes: &[u8], header: &Header, kind: Kind) -> fmt::Result {
    let Header {
        epoch,
        lane,
        number,
        previous,
        names_needed,
        sealed_at,
        complete_below,
        boot_relative,
    } = header;
    writeln!(
        out,
        "{} batch, version 1, {} bytes",
        kind.as_str(),
        bytes.len()
    )?;
    writeln!(out, "  stream          {epoch}/{}", lane.as_str())?;
    writeln!(out, "  number          {}", number.0)?;
    writeln!(out, "  previous        {previous}")?;
    if kind != Kind::Gap {
        writeln!(out, "  digest          {}", digest(*previous, bytes))?;
    }
    writeln!(out, "  names needed    {}", names_needed.0)?;
    writeln!(out, "  sealed at       {} ns", sealed_at.0)?;
    writeln!(out, "  complete below  {} ns", complete_below.0)?;
    if *boot_relative {
        writeln!(
            out,
            "  times           since boot; its epoch's clock raises them"
        )?;
    }
    Ok(())
}

fn put_hello(out: &mut String, hello: &Hello) -> fmt::Result {
    writeln!(out, "  max unsafe      {} ms", hello.max_unsafe_ms)?;
    match hello.last {
        None => writeln!(out, "  last epoch      none")?,
        Some(last) => {
            let end = if last.ended_cleanly {
                "ended cleanly"
            } else {
                "did not end cleanly"
            };
            writeln!(out, "  last epoch      {}, {end}", last.epoch)?;
        }
    }
    put_some(out, "  ", &hello.older_epochs, |out, epoch| {
        writeln!(out, "  older epoch     {epoch}")
    })
}

fn put_gap(out: &mut String, gap: &Gap) -> fmt::Result {
    writeln!(out, "  from number     {}", gap.from.0)?;
    writeln!(out, "  readings lost   {}", gap.readings)?;
    writeln!(out, "  reason          {}", gap.reason.as_str())?;
    writeln!(out, "  digest after    {}", gap.digest_to)
}

fn put_clock(out: &mut String, clock: Clock) -> fmt::Result {
    writeln!(out, "  offset          {} ns", clock.offset_ns)?;
    writeln!(out, "  quality         {}", clock.quality.as_str())
}

fn put_names(out: &mut String, definitions: &[SeriesDefinition]) -> fmt::Result {
    writeln!(out, "  {} definitions", definitions.len())?;
    put_some(out, "  ", definitions, |out, definition| {
        let SeriesDefinition {
            id,
            table,
            device,
            tags,
            fields,
        } = definition;
        write!(out, "  {} = table {table:?}, device {device:?}", id.0)?;
        for (key, value) in tags {
            write!(out, ", tag {key:?}={value:?}")?;
        }
        for (name, field_type) in fields {
            write!(out, ", field {name:?} {}", field_type.as_str())?;
        }
        writeln!(out)
    })
}

fn put_data(out: &mut String, data: &Data) -> fmt::Result {
    writeln!(out, "  {} rows, {} values", data.rows(), data.values())?;
    put_some(out, "  ", &data.groups, put_group)
}

fn put_group(out: &mut String, group: &Group) -> fmt::Result {
    write!(
        out,
        "  group of {} series, {} times: ",
        group.series.len(),
        group.times.len()
    )?;
    put_values(out, &group.times, |out, time| write!(out, "{time}"))?;
    writeln!(out)?;
    put_some(out, "    ", &group.series, put_series)
}

fn put_series(out: &mut String, series: &SeriesColumns) -> fmt::Result {
    writeln!(out, "    series {}", series.id.0)?;
    put_some(out, "      ", &series.columns, put_column)
}

fn put_column(out: &mut String, column: &Column) -> fmt::Result {
    let Column {
        field,
        present,
        values,
    } = column;
    write!(
        out,
        "      field {field} {}, {} values",
        values.field_type().as_str(),
        values.len()
    )?;
    if let Some(present) = present {
        write!(out, " in {} rows", present.len())?;
    }
    out.write_str(": ")?;
    match values {
        Values::Float(values) => put_values(out, values, |out, value| write!(out, "{value:?}")),
        Values::Int(values) => put_values(out, values, |out, value| write!(out, "{value}")),
        Values::Bool(values) => put_values(out, values, |out, value| write!(out, "{value}")),
        Values::Text(values) => put_values(out, values, |out, value| {
            let start: String = value.chars().take(TEXT_CHARS_MAX).collect();
            write!(out, "{start:?}")?;
            if start.len() < value.len() {
                out.write_str("..")
            } else {
                Ok(())
            }
        }),
    }?;
    writeln!(out)
}

/// Values in one line, separated by commas.
fn put_values<T>(
    out: &mut String,
    values: &[T],
    put: impl Fn(&mut String, &T) -> fmt::Result,
) -> fmt::Result {
    for (index, value) in values.iter().take(VALUES_MAX).enumerate() {
        if index > 0 {
            out.write_str(", ")?;
        }
        put(out, value)?;
    }
    if values.len() > VALUES_MAX {
        out.write_str(", ..")
    } else {
        Ok(())
    }
}

/// Items in lines of their own.
fn put_some<T>(
    out: &mut String,
    indent: &str,
    items: &[T],
    put: impl Fn(&mut String, &T) -> fmt::Result,
) -> fmt::Result {
    for item in items.iter().take(ITEMS_MAX) {
        put(out, item)?;
    }
    match items.len().saturating_sub(ITEMS_MAX) {
        0 => Ok(()),
        more => writeln!(out, "{indent}and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::encode;
    use super::super::tests::{samples, with_checksum};
    use super::*;

    #[test]
    fn every_sample_is_described() {
        for (name, batch) in samples() {
            let text = describe(&encode(&batch.header, &batch.body).unwrap());
            assert!(text.contains("0123456789abcdef/"), "{name}: {text}");
            assert!(!text.contains("cannot be read"), "{name}: {text}");
        }
    }

    #[test]
    fn a_data_batch_shows_its_values() {
        let (_, batch) = samples().remove(3);
        let text = describe(&encode(&batch.header, &batch.body).unwrap());
        assert!(text.starts_with("data batch, version 1, "), "{text}");
        assert!(text.contains("  7 rows, 13 values\n"), "{text}");
        assert!(
            text.contains("field 0 float, 3 values: 21.5, -0.0, inf\n"),
            "{text}"
        );
        assert!(
            text.contains("field 3 text, 1 values in 3 rows: \"läuft\"\n"),
            "{text}"
        );
    }

    #[test]
    fn damage_is_described_as_far_as_it_goes() {
        assert_eq!(
            describe(b""),
            "0 bytes, no batch: damaged batch: shorter than any batch\n"
        );
        let (_, batch) = samples().remove(3);
        let mut bytes = encode(&batch.header, &batch.body).unwrap();
        // The first bytes of the body, behind a header that stays as it is: no group.
        let body = bytes.len() - 4 - body_bytes(&bytes);
        bytes[body] = 0;
        let text = describe(&with_checksum(bytes));
        assert!(text.contains("number          1\n"), "{text}");
        assert!(
            text.contains("the body cannot be read: invalid batch"),
            "{text}"
        );
    }

    /// The body's length, which stands behind the 36 bytes that the header of a sample takes.
    fn body_bytes(bytes: &[u8]) -> usize {
        let content = &bytes[..bytes.len() - 4];
        let is_length = |at: &usize| {
            let mut reader = crate::wire::Reader::new(&content[*at..]);
            reader
                .varint()
                .is_ok_and(|n| usize::try_from(n) == Ok(reader.remaining()))
        };
        let at = (36..content.len()).find(is_length).unwrap();
        let mut reader = crate::wire::Reader::new(&content[at..]);
        usize::try_from(reader.varint().unwrap()).unwrap()
    }
}
