//! Cancelling: a client opens a second connection and names what the first was told at its login.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio::sync::Notify;

/// The sessions that are there.
#[derive(Default)]
pub(super) struct Cancels {
    // A std mutex: held for a few instructions, never across an await.
    sessions: Arc<Mutex<HashMap<i32, Entry>>>,
}

struct Entry {
    secret: [u8; 4],
    asked: Arc<Notify>,
}

/// A session's place in the list, which it leaves when dropped.
pub(super) struct Ticket {
    sessions: Arc<Mutex<HashMap<i32, Entry>>>,
    pub(super) process: i32,
    pub(super) secret: [u8; 4],
    /// Wakes whoever waits for it just then: a session that does nothing misses it, rightly.
    pub(super) asked: Arc<Notify>,
}

impl Cancels {
    /// A place with numbers that cannot be guessed.
    pub(super) fn register(&self) -> Result<Ticket, getrandom::Error> {
        let mut secret = [0; 4];
        getrandom::fill(&mut secret)?;
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        let process = loop {
            let process = i32::try_from(getrandom::u32()? >> 1).expect("31 bits");
            if !sessions.contains_key(&process) {
                break process;
            }
        };
        let asked = Arc::new(Notify::new());
        let entry = Entry {
            secret,
            asked: Arc::clone(&asked),
        };
        sessions.insert(process, entry);
        Ok(Ticket {
            sessions: Arc::clone(&self.sessions),
            process,
            secret,
            asked,
        })
    }

    /// `true` if there is such a session and the secret is its own.
    pub(super) fn cancel(&self, process: i32, secret: &Bytes) -> bool {
        let sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = sessions
            .get(&process)
            .filter(|entry| secret[..] == entry.secret[..]);
        entry
            .inspect(|entry| entry.asked.notify_waiters())
            .is_some()
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        sessions.remove(&self.process);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_knows_the_secret_cancels_and_only_while_the_session_is_there() {
        let cancels = Cancels::default();
        let ticket = cancels.register().unwrap();
        let secret = Bytes::copy_from_slice(&ticket.secret);
        let wrong = Bytes::from_static(b"");
        assert!(!cancels.cancel(ticket.process, &wrong));
        assert!(!cancels.cancel(ticket.process ^ 1, &secret));
        assert!(cancels.cancel(ticket.process, &secret));
        let process = ticket.process;
        drop(ticket);
        assert!(!cancels.cancel(process, &secret));
    }
}
