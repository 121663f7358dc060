//! How many bytes may lie between the sockets and their answers.
//!
//! One budget for the node, one account a connection. A connection charges bytes before it parses
//! them and keeps them charged until the publish that they belong to is answered. With an empty
//! budget it stops reading, so the pressure goes back through TCP to the publisher.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The node's budget.
#[derive(Debug, Clone)]
pub(super) struct Budget {
    free: Arc<Semaphore>,
}

/// One connection's share.
#[derive(Debug)]
pub(super) struct Account {
    budget: Budget,
    bytes_max: usize,
    bytes: usize,
    /// Read, but not yet a whole packet.
    unframed: Option<OwnedSemaphorePermit>,
    /// Publishes without an answer, in their order.
    publishes: VecDeque<Charge>,
}

/// What one packet costs.
#[derive(Debug, Default)]
pub(super) struct Charge(Option<OwnedSemaphorePermit>);

impl Budget {
    pub(super) fn new(bytes_max: usize) -> Budget {
        Budget {
            free: Arc::new(Semaphore::new(bytes_max)),
        }
    }

    pub(super) fn account(&self, bytes_max: usize) -> Account {
        let (budget, publishes) = (self.clone(), VecDeque::new());
        Account {
            budget,
            bytes_max,
            bytes: 0,
            unframed: None,
            publishes,
        }
    }

    /// Waits until that many bytes are free.
    pub(super) async fn take(self, bytes: u32) -> Option<OwnedSemaphorePermit> {
        self.free.acquire_many_owned(bytes).await.ok()
    }

    #[cfg(test)]
    pub(super) fn free(&self) -> usize {
        self.free.available_permits()
    }
}

impl Account {
    /// Whether the connection may read more.
    pub(super) fn has_room(&self) -> bool {
        self.bytes < self.bytes_max
    }

    pub(super) fn has_partial_packet(&self) -> bool {
        self.unframed
            .as_ref()
            .is_some_and(|permit| permit.num_permits() > 0)
    }

    pub(super) fn budget(&self) -> Budget {
        self.budget.clone()
    }

    /// Books bytes that are about to be parsed.
    pub(super) fn charge(&mut self, permit: OwnedSemaphorePermit) {
        self.bytes += permit.num_permits();
        match &mut self.unframed {
            Some(unframed) => unframed.merge(permit),
            none => *none = Some(permit),
        }
    }

    /// A packet of `bytes` is complete: its charge, apart from what is still unframed.
    pub(super) fn frame(&mut self, bytes: usize) -> Charge {
        let Some(unframed) = &mut self.unframed else {
            return Charge::default();
        };
        let bytes = bytes.min(unframed.num_permits());
        Charge(unframed.split(bytes))
    }

    /// The packet was a publish: charged until `release`.
    pub(super) fn hold(&mut self, charge: Charge) {
        self.publishes.push_back(charge);
    }

    /// The oldest publish is answered.
    pub(super) fn release(&mut self) {
        if let Some(charge) = self.publishes.pop_front() {
            self.drop_charge(charge);
        }
    }

    /// The packet was none that waits for an answer.
    pub(super) fn drop_charge(&mut self, charge: Charge) {
        self.bytes -= charge.0.map_or(0, |permit| permit.num_permits());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn bytes_are_charged_from_the_read_to_the_answer() {
        let budget = Budget::new(1_000);
        let mut account = budget.account(600);
        account.charge(account.budget().take(500).await.unwrap());
        let publish = account.frame(300);
        account.hold(publish);
        let ping = account.frame(2);
        account.drop_charge(ping);
        assert_eq!(budget.free(), 502);
        assert!(account.has_room() && account.has_partial_packet());
        account.charge(account.budget().take(102).await.unwrap());
        assert!(!account.has_room());
        account.release();
        assert_eq!(budget.free(), 700);
        assert!(account.has_room());
        drop(account);
        assert_eq!(budget.free(), 1_000);
    }
}
