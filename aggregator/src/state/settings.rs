//! What an operator chooses for a whole cluster. Each node tells what its own configuration says,
//! through the log; what more than half of all members say is in force. So one file that was
//! forgotten changes nothing, whoever leads, and the last of a majority that is edited decides.

use std::collections::BTreeMap;

use super::bytes::{ReadFault, Reader, Writer};

pub const RETENTION_DAYS_MAX: u32 = 36_500;
pub const PARTITION_HOURS_MAX: u32 = 24 * 366;

/// What all replicas go by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    retention_days: u32,
    partition_hours: u32,
}

/// Which settings are in force, and whose wish they are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Agreement {
    pub(super) in_force: Settings,
    /// Node id -> what it told last.
    pub(super) told: BTreeMap<u64, Settings>,
}

impl Default for Settings {
    fn default() -> Self {
        Self::new(400, 24)
    }
}

impl Settings {
    /// Of what is out of range the nearest that is not: applying never fails.
    pub fn new(retention_days: u32, partition_hours: u32) -> Self {
        Self {
            retention_days: retention_days.clamp(1, RETENTION_DAYS_MAX),
            partition_hours: partition_hours.clamp(1, PARTITION_HOURS_MAX),
        }
    }

    /// How long rows are kept, by replicated time.
    pub fn retention_days(self) -> u32 {
        self.retention_days
    }

    /// The window of one partition. Segments name their own: it may change.
    pub fn partition_hours(self) -> u32 {
        self.partition_hours
    }

    pub(super) fn encode(self, out: &mut Writer) {
        out.u32(self.retention_days);
        out.u32(self.partition_hours);
    }

    pub(super) fn decode(from: &mut Reader<'_>) -> Result<Self, ReadFault> {
        Ok(Self::new(from.u32()?, from.u32()?))
    }
}

impl Agreement {
    /// One of `members` tells what its configuration says.
    pub(super) fn told(&mut self, node: u64, settings: Settings, members: usize) {
        self.told.insert(node, settings);
        let agreeing = self.told.values().filter(|told| **told == settings).count();
        if agreeing * 2 > members {
            self.in_force = settings;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_more_than_half_of_the_members_say_is_in_force() {
        let mut agreement = Agreement::default();
        let (first, other, third) = (
            Settings::new(30, 24),
            Settings::new(60, 12),
            Settings::new(90, 1),
        );
        agreement.told(1, first, 1);
        assert_eq!(agreement.in_force, first);
        agreement.told(2, other, 2);
        agreement.told(3, third, 3);
        assert_eq!(agreement.in_force, first, "each says something else");
        agreement.told(3, other, 3);
        assert_eq!(agreement.in_force, other);
        agreement.told(3, first, 4);
        assert_eq!(agreement.in_force, other, "two of four are no majority");
    }

    #[test]
    fn what_is_out_of_range_is_brought_into_it() {
        assert_eq!(Settings::new(0, 0), Settings::new(1, 1));
        let most = Settings::new(u32::MAX, u32::MAX);
        assert_eq!(most, Settings::new(RETENTION_DAYS_MAX, PARTITION_HOURS_MAX));
    }
}
