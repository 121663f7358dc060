//! Partitions: windows of time. Times that are not plausible share one, so that a wild clock
//! cannot make a file per reading.

use std::ops::RangeInclusive;

use crate::state::bytes::{ReadFault, Reader, Writer};

const HOUR_NS: i64 = 3_600 * 1_000_000_000;

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
        match self {
            Self::Window { start_hour, hours } => Some(
                start_hour
                    .saturating_add(i64::from(hours))
                    .saturating_mul(HOUR_NS),
            ),
            Self::Wild => None,
        }
    }

    /// The segment's file name: which command made it, and for which partition.
    pub(crate) fn file_name(self, command: u64) -> String {
        match self {
            Self::Window { start_hour, hours } => {
                format!("{command:016x}-{start_hour}+{hours}.seg")
            }
            Self::Wild => format!("{command:016x}-wild.seg"),
        }
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
        assert_eq!(of(11 * day), Partition::Wild);
        assert_eq!(Partition::of(0, 24, None), Partition::Wild);
        assert_eq!(of(day).file_name(16), "0000000000000010-24+24.seg");
    }
}
