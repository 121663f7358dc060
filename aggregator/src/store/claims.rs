//! Who still needs a segment's file: the segments that are read, and snapshots on their way that
//! count on files which are here already. The last one that lets go of a file which no manifest
//! names any more unlinks it.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use journal::Storage;

/// The directory of the segment files, with those who need them.
pub struct Claims {
    files: Arc<dyn Storage>,
    // A std mutex: held for an unlink at most, by whoever may wait for the disk anyway.
    by_name: Mutex<BTreeMap<String, Claim>>,
    /// A sync of the directory failed.
    failed: AtomicBool,
}

#[derive(Default)]
struct Claim {
    segments: u32,
    promises: u32,
    /// Its last segment was dropped: no manifest names it.
    unwanted: bool,
}

/// Files that stay while it lives, whatever is dropped meanwhile.
pub struct Promise {
    claims: Arc<Claims>,
    names: Vec<String>,
}

impl Claims {
    pub(crate) fn new(files: Arc<dyn Storage>) -> Arc<Claims> {
        Arc::new(Claims {
            files,
            by_name: Mutex::default(),
            failed: AtomicBool::new(false),
        })
    }

    pub(super) fn files(&self) -> &Arc<dyn Storage> {
        &self.files
    }

    /// Makes names durable. Once that failed it fails for ever: a later sync that succeeds would not say
    /// that the names before it are.
    pub(super) fn sync(&self) -> io::Result<()> {
        if self.failed.load(Ordering::Acquire) {
            return Err(io::Error::other("a sync failed before"));
        }
        self.files.sync_directory().inspect_err(|_| {
            self.failed.store(true, Ordering::Release);
        })
    }

    /// Nobody reads this file yet: it goes with the last promise unless a segment of its name comes.
    pub(super) fn disown(&self, name: &str) {
        if let Some(claim) = self.by_name().get_mut(name) {
            claim.unwanted = claim.segments == 0;
        }
    }

    /// A segment is read from this file from now on.
    pub(super) fn hold(&self, name: &str) {
        let mut by_name = self.by_name();
        let claim = by_name.entry(name.to_owned()).or_default();
        claim.segments += 1;
        claim.unwanted = false;
    }

    /// The end of a [`Claims::hold`]; `doomed`: of a segment that no manifest names.
    pub(super) fn release(&self, name: &str, doomed: bool) {
        self.let_go(&mut self.by_name(), name, |claim| {
            claim.segments -= 1;
            // Another one of this name may have come meanwhile, by a snapshot.
            claim.unwanted |= doomed && claim.segments == 0;
        });
    }

    /// From now on files of these names are not unlinked, such as are here and such as come.
    pub(crate) fn promise(self: &Arc<Self>, names: Vec<String>) -> Promise {
        let mut by_name = self.by_name();
        for name in &names {
            by_name.entry(name.clone()).or_default().promises += 1;
        }
        drop(by_name);
        Promise {
            claims: Arc::clone(self),
            names,
        }
    }

    fn by_name(&self) -> MutexGuard<'_, BTreeMap<String, Claim>> {
        self.by_name.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn let_go(
        &self,
        by_name: &mut BTreeMap<String, Claim>,
        name: &str,
        change: impl FnOnce(&mut Claim),
    ) {
        let claim = by_name.get_mut(name).expect("held until it is released");
        change(claim);
        if claim.segments > 0 || claim.promises > 0 {
            return;
        }
        // One that is gone already was lost: that was told.
        if claim.unwanted
            && let Err(error) = self.files.remove(name)
            && error.kind() != io::ErrorKind::NotFound
        {
            // The manifest does not name it: the next open removes it.
            tracing::warn!(file = name, %error, "a dropped segment stays for now");
        }
        by_name.remove(name);
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        let mut by_name = self.claims.by_name();
        for name in &self.names {
            self.claims
                .let_go(&mut by_name, name, |claim| claim.promises -= 1);
        }
    }
}

impl std::fmt::Debug for Promise {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Promise")
            .field("files", &self.names.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use journal::{OpenMode, SimStorage};

    use super::*;

    const NAME: &str = "a.seg";

    fn claims() -> Arc<Claims> {
        let files = SimStorage::new(1).as_storage();
        files.open(NAME, OpenMode::CreateNew).unwrap();
        Claims::new(files)
    }

    fn is_here(claims: &Claims) -> bool {
        !claims.files.list().unwrap().is_empty()
    }

    #[test]
    fn a_dropped_file_goes_with_the_last_who_needs_it() {
        let claims = claims();
        claims.hold(NAME);
        let promises = [(); 2].map(|()| claims.promise(vec![NAME.to_owned()]));
        claims.release(NAME, true);
        for promise in promises {
            assert!(is_here(&claims));
            drop(promise);
        }
        assert!(!is_here(&claims));
        assert!(claims.by_name().is_empty());
    }

    #[test]
    fn what_counts_again_stays() {
        for again_first in [false, true] {
            let claims = claims();
            claims.hold(NAME);
            let promise = claims.promise(vec![NAME.to_owned()]);
            if again_first {
                claims.hold(NAME);
                claims.release(NAME, true);
            } else {
                claims.release(NAME, true);
                claims.hold(NAME);
            }
            drop(promise);
            assert!(is_here(&claims));
            claims.release(NAME, false);
            assert!(is_here(&claims), "it is only not read any more");
        }
    }

    #[test]
    fn what_was_never_a_segment_is_left_alone() {
        let claims = claims();
        drop(claims.promise(vec![NAME.to_owned(), "b.seg".to_owned()]));
        assert!(is_here(&claims));
    }
}
