//! Reads back what the buffer holds only as a sum, a run at a time: at most half a MiB. Like a batch
//! that is sent it is read where it is needed: nothing can go on without it.

use shared::id::{Epoch, Lane};
use shared::verdict::Position;

use super::Keeper;
use crate::buffer::RunToLoad;

impl Keeper {
    pub(super) fn load(&mut self, run: RunToLoad) {
        let loaded = run.read(self.disk.handle.reader());
        let missing = loaded.missing();
        if missing > 0 {
            for one in loaded.damaged() {
                self.folder.quarantine.put_skipped(one);
            }
            let text = format!(
                "{missing} batches cannot be read back from the buffer. Their readings are lost, \
                 and the cluster is told; check the disk"
            );
            tracing::error!("{text}");
            self.account.trouble(text);
        }
        let wall = self.wall();
        let settled = self.buffer.loaded(loaded, wall);
        self.settle(&settled);
    }

    /// Whether there was something that the buffer asks for.
    pub(super) fn load_wanted(&mut self) -> bool {
        let run = self.buffer.wanted();
        if let Some(run) = run {
            self.load(run);
        }
        run.is_some()
    }

    /// The cluster says that it stands there: what the own chain says of it has to be known.
    pub(super) fn load_at(&mut self, epoch: Epoch, lane: Lane, position: Position) {
        if let Some(run) = self.buffer.run_around(epoch, lane, position.last) {
            self.load(run);
        }
    }
}
