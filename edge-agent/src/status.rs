//! What the agent knows of itself, for `/status`, `/metrics` and its own readings: the keeper's
//! account, and what it runs with.

use crate::expiry::Expiry;

use crate::buffer::ClassAccount;

/// What the keeper holds and has done since it started.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Status {
    pub connected: bool,
    /// The server it is connected to, or tried last.
    pub server: String,
    pub epoch: u64,
    /// Handed over and not acked: in the batcher and in the buffer, all epochs.
    pub pending_readings: u64,
    pub in_flight_batches: u64,
    /// Age of the oldest reading that is not acked; 0 if there is none.
    pub oldest_unacked_ms: u64,
    pub readings_total: u64,
    pub batches_sealed_total: u64,
    pub batches_acked_total: u64,
    pub batches_resent_total: u64,
    pub readings_acked_total: u64,
    pub buffer_bytes: u64,
    pub buffer_bytes_max: u64,
    /// What stands on the disk for it already.
    pub buffer_bytes_reserved: u64,
    pub buffer_ram_bytes: u64,
    pub journal_bytes_written_total: u64,
    /// Neither on disk nor acked: lost if the power goes now.
    pub unsafe_readings: u64,
    pub gap_records_total: u64,
    pub readings_lost_total: u64,
    /// Only the sums of their minutes stay.
    pub readings_thinned_total: u64,
    /// Readings refused: their source was told, or they could not wait.
    pub not_kept_total: u64,
    pub dead_letters_total: u64,
    /// Of these, removed again to make room for newer ones.
    pub dead_letters_removed_total: u64,
    pub reconnects_total: u64,
    /// From first sending to acknowledgement, of the last batch and of the last thousand, those of the
    /// backlog aside.
    pub ack_ms_last: u64,
    pub ack_ms_p50: u64,
    pub ack_ms_p99: u64,
    /// Bytes of batches handed to the connection.
    pub wire_bytes_total: u64,
    /// 0: the time of day is not known; 1: by the machine's synchronised clock; 2: by the cluster.
    pub clock_quality: u64,
    /// Steps of the machine's clock that were not followed.
    pub clock_steps_total: u64,
    pub last_error: Option<String>,
    /// In the order of the configuration.
    pub classes: Vec<ClassAccount>,
}

/// What the agent runs with: its configuration and its certificate.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Setup {
    /// Configurations taken over while running.
    pub config_reloads_total: u64,
    /// Configurations that were not taken over, because they are bad or need a restart.
    pub config_reloads_refused_total: u64,
    /// Why the file that lies there now is not in force.
    pub config_refused: Option<String>,
    /// Certificates, keys and authorities taken over while running.
    pub certificate_reloads_total: u64,
    /// Such files that were not taken over.
    pub certificate_reloads_refused_total: u64,
    /// Why the files that lie there now are not in use.
    pub certificate_refused: Option<String>,
    /// Until when the certificate in use is good, if it is known.
    pub certificate_expiry: Option<Expiry>,
    /// An intake that is configured and does not run, and why.
    pub intake_missing: Option<String>,
}
