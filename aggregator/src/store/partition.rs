//! Partitions: windows of time. Times that are not plausible share one, so that a wild clock
//! cannot make a file per reading.

use std::fmt;
use std::ops::RangeInclusive;

use shared::id::Digest;

use crate::state::Window;
use crate::state::bytes::{ReadFault, Reader, Writer};
use crate::state::machine::HOUR_NS;

/// How files of segments end, those of sealed ones, and those of their rollups.
pub(super) const SEGMENT: &str = ".seg";
pub(super) const SEALED: &str = ".sealed.seg";
pub(super) const ROLLUP: &str = ".roll";
const WILD: &str = "wild";

impl From<Window> for Partition {
    fn from(window: Window) -> Self {
        let Window { start_hour, hours } = window;
        Self::Window { start_hour, hours }
    }
}

/// One partition. The window's length is part of it, so that it may be configured anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Partition {
    /// UTC hours since 1970.
    Window { start_hour: i64, hours: u32 },
    /// Times before the retention or more than a day ahead of replicated time.
    Wild,
}

impl Partition {
    pub(crate) fn of(time: i64, hours: u32, plausible: Option<&RangeInclusive<i64>>) -> Self {
        if !plausible.is_some_and(|range| range.contains(&time)) {
            return Self::Wild;
        }
        let length = i64::from(hours) * HOUR_NS;
        Self::Window {
            start_hour: time.div_euclid(length) * i64::from(hours),
            hours,
        }
    }

    /// The first time behind it.
    pub(crate) fn end(self) -> Option<i64> {
        self.window().map(|window| window.end().0)
    }

    /// Whether some time may be in either, by what was configured and when rows came.
    pub(super) fn may_share_times_with(self, other: Self) -> bool {
        let (Some(one), Some(two)) = (self.window(), other.window()) else {
            return true;
        };
        let begin = |window: Window| window.start_hour.saturating_mul(HOUR_NS);
        begin(one) < two.end().0 && begin(two) < one.end().0
    }

    /// None for what is wild.
    pub(crate) fn window(self) -> Option<Window> {
        match self {
            Self::Window { start_hour, hours } => Some(Window { start_hour, hours }),
            Self::Wild => None,
        }
    }

    /// Times that its rows have; `None` for what is wild.
    pub(super) fn times(self) -> Option<RangeInclusive<i64>> {
        let Window { start_hour, .. } = self.window()?;
        Some(start_hour.saturating_mul(HOUR_NS)..=self.end()?.saturating_sub(1))
    }

    /// What the name of a segment's file, or of a rollup's, says: its command and partition.
    pub(super) fn of_file_name(name: &str) -> Option<(u64, Self)> {
        let (command, rest) = name.split_at_checked(16)?;
        let command = u64::from_str_radix(command, 16).ok()?;
        let (partition, _) = rest.strip_prefix('-')?.split_once('.')?;
        let partition = match partition.split_once('+') {
            Some((start_hour, hours)) => Self::Window {
                start_hour: start_hour.parse().ok()?,
                hours: hours.parse().ok().filter(|hours| *hours > 0)?,
            },
            None if partition == WILD => Self::Wild,
            None => return None,
        };
        Some((command, partition))
    }

    /// How the file of a segment is named: which command made it, for which partition, what is in
    /// it, and whether that is all that came for the partition until then. Nodes that were short of
    /// room or memory may have cut the same rows otherwise: one name never stands for other bytes.
    pub(crate) fn file_name(self, command: u64, digest: Digest, sealed: bool) -> String {
        let end = if sealed { SEALED } else { SEGMENT };
        format!("{}.{digest}{end}", self.stem(command))
    }

    /// The name of a file that is being written begins so.
    pub(crate) fn stem(self, command: u64) -> String {
        format!("{command:016x}-{self}")
    }

    pub(super) fn encode(self, out: &mut Writer) {
        let (kind, start_hour, hours) = match self {
            Self::Window { start_hour, hours } => (0, start_hour, hours),
            Self::Wild => (1, 0, 0),
        };
        out.u8(kind);
        out.i64(start_hour);
        out.u32(hours);
    }

    pub(super) fn decode(from: &mut Reader<'_>) -> Result<Self, ReadFault> {
        match (from.u8()?, from.i64()?, from.u32()?) {
            (0, start_hour, hours) if hours > 0 => Ok(Self::Window { start_hour, hours }),
            (1, 0, 0) => Ok(Self::Wild),
            _ => Err(ReadFault::Invalid("partition")),
        }
    }
}

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Window { start_hour, hours } => write!(f, "{start_hour}+{hours}"),
            Self::Wild => f.write_str(WILD),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_has_one_partition() {
        let day = 24 * HOUR_NS;
        let plausible = Some(-3 * day..=10 * day);
        let of = |time| Partition::of(time, 24, plausible.as_ref());
        assert_eq!(
            of(0),
            Partition::Window {
                start_hour: 0,
                hours: 24
            }
        );
        assert_eq!(of(day - 1), of(0));
        assert_eq!(
            of(day),
            Partition::Window {
                start_hour: 24,
                hours: 24
            }
        );
        assert_eq!(
            of(-1),
            Partition::Window {
                start_hour: -24,
                hours: 24
            }
        );
        assert_eq!(of(day).end(), Some(2 * day));
        assert_eq!(of(day).times(), Some(day..=2 * day - 1));
        assert_eq!(of(11 * day), Partition::Wild);
        assert_eq!(Partition::of(0, 24, None), Partition::Wild);
        let name = |sealed| of(day).file_name(16, Digest([1; 8]), sealed);
        let stem = "0000000000000010-24+24.0101010101010101";
        assert_eq!(name(false), format!("{stem}.seg"));
        assert_eq!(name(true), format!("{stem}.sealed.seg"));
        for partition in [of(day), of(-1), Partition::Wild] {
            let name = partition.file_name(u64::MAX, Digest([7; 8]), true);
            assert_eq!(Partition::of_file_name(&name), Some((u64::MAX, partition)));
        }
        for bad in [
            "",
            "manifest.redb",
            "0000000000000010-24+0.seg",
            "0000000000000010-x.seg",
        ] {
            assert_eq!(Partition::of_file_name(bad), None, "{bad}");
        }
    }
}
