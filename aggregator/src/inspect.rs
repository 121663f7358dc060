//! What stored bytes say, for a person. Reads, changes nothing.

use std::fmt::Write;

use shared::batch::{Batch, Body, DecodeError, decode};

/// One encoded batch, as it lies in an agent's dead-letter folder or came off the wire.
pub fn batch(bytes: &[u8]) -> Result<String, DecodeError> {
    let batch = decode(bytes)?;
    let mut text = String::new();
    describe(&batch, bytes.len(), &mut text).expect("writing to a String does not fail");
    Ok(text)
}

fn describe(batch: &Batch, bytes: usize, text: &mut String) -> std::fmt::Result {
    let Batch { header, body } = batch;
    let (first, last) = (batch.first_number().0, header.number.0);
    writeln!(text, "kind            {}", body.kind().as_str())?;
    writeln!(text, "epoch           {}", header.epoch)?;
    writeln!(text, "lane            {}", header.lane.as_str())?;
    writeln!(text, "numbers         {first} to {last}")?;
    writeln!(text, "previous digest {}", header.previous)?;
    writeln!(text, "names needed    {}", header.names_needed.0)?;
    writeln!(text, "sealed at       {} ns", header.sealed_at.0)?;
    writeln!(text, "complete below  {} ns", header.complete_below.0)?;
    writeln!(text, "bytes           {bytes}")?;
    match body {
        Body::Hello(hello) => {
            writeln!(text, "older epochs    {}", hello.older_epochs.len())?;
            writeln!(text, "max unsafe      {} ms", hello.max_unsafe_ms)
        }
        Body::Names(definitions) => {
            for one in definitions {
                let fields: Vec<&str> = one.fields.iter().map(|(name, _)| name.as_str()).collect();
                let fields = fields.join(" ");
                writeln!(
                    text,
                    "series {} {} {}: {fields}",
                    one.id.0, one.table, one.device
                )?;
            }
            Ok(())
        }
        Body::Data(data) => {
            for group in &data.groups {
                let (rows, series) = (group.times.len(), group.series.len());
                writeln!(text, "group           {rows} rows of {series} series")?;
            }
            Ok(())
        }
        Body::Gap(gap) => {
            writeln!(text, "reason          {}", gap.reason.as_str())?;
            writeln!(text, "readings lost   {}", gap.readings)
        }
        Body::Clock(clock) => {
            writeln!(text, "quality         {}", clock.quality.as_str())?;
            writeln!(text, "offset          {} ns", clock.offset_ns)
        }
    }
}
