//! The keeper's account: counts, and the status made of them.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::sync::watch;

use crate::buffer::Settled;
use crate::status::Status;

/// Acknowledgements that the percentiles are taken of.
const ACKS_REMEMBERED: usize = 1_000;

#[derive(Debug)]
pub(super) struct Account {
    pub(super) readings: u64,
    pub(super) sealed: u64,
    pub(super) not_kept: u64,
    pub(super) dead_letters: u64,
    pub(super) dead_letters_removed: u64,
    status: Status,
    took_ms: VecDeque<u64>,
    sessions: u64,
    told: watch::Sender<Status>,
}

impl Default for Account {
    fn default() -> Self {
        Account {
            readings: 0,
            sealed: 0,
            not_kept: 0,
            dead_letters: 0,
            dead_letters_removed: 0,
            status: Status::default(),
            took_ms: VecDeque::new(),
            sessions: 0,
            told: watch::Sender::new(Status::default()),
        }
    }
}

impl Account {
    pub(super) fn subscribe(&self) -> watch::Receiver<Status> {
        self.told.subscribe()
    }

    pub(super) fn is_connected(&self) -> bool {
        self.status.connected
    }

    pub(super) fn connected(&mut self, server: &str) {
        self.status.connected = true;
        server.clone_into(&mut self.status.server);
        self.status.reconnects_total = self.sessions;
        self.sessions += 1;
    }

    pub(super) fn disconnected(&mut self, why: &str) {
        self.status.connected = false;
        self.trouble(format!("uplink: {why}"));
    }

    /// The session was ended on purpose: no trouble.
    pub(super) fn renewing(&mut self) {
        self.status.connected = false;
    }

    pub(super) fn trouble(&mut self, text: String) {
        self.status.last_error = Some(text);
    }

    pub(super) fn last_error(&self) -> String {
        self.status.last_error.clone().unwrap_or_default()
    }

    pub(super) fn settled(&mut self, settled: &Settled) {
        self.status.batches_acked_total += settled.batches_acked;
        self.status.readings_acked_total += settled.readings_acked;
        self.status.readings_lost_total += settled.readings_lost;
        self.status.readings_thinned_total += settled.readings_thinned;
        self.status.gap_records_total += settled.gap_records;
    }

    pub(super) fn sent(&mut self, bytes: u64, again: bool) {
        self.status.wire_bytes_total += bytes;
        self.status.batches_resent_total += u64::from(again);
    }

    pub(super) fn took(&mut self, took: Duration) {
        let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        tracing::debug!(took_us = took.as_micros(), "a live batch is acknowledged");
        self.status.ack_ms_last = took_ms;
        if self.took_ms.len() == ACKS_REMEMBERED {
            self.took_ms.pop_front();
        }
        self.took_ms.push_back(took_ms);
    }

    /// Gives the account; `fill` adds what is counted elsewhere.
    pub(super) fn give(&mut self, fill: impl FnOnce(&mut Status)) {
        let mut sorted: Vec<u64> = self.took_ms.iter().copied().collect();
        sorted.sort_unstable();
        let percentile = |percent: usize| {
            let at = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
            sorted.get(at).copied().unwrap_or(0)
        };
        self.status.ack_ms_p50 = percentile(50);
        self.status.ack_ms_p99 = percentile(99);
        self.status.readings_total = self.readings;
        self.status.batches_sealed_total = self.sealed;
        self.status.not_kept_total = self.not_kept;
        self.status.dead_letters_total = self.dead_letters;
        self.status.dead_letters_removed_total = self.dead_letters_removed;
        fill(&mut self.status);
        self.told.send_replace(self.status.clone());
    }
}
