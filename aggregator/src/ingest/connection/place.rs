//! CONNECT is accepted once it is known where its streams stand.

use shared::id::{Epoch, Lane};
use shared::verdict::Position;

use super::super::packet::{self, Welcome};
use super::super::session::Accept;
use super::super::upstream::Upstream;
use super::{Inner, Step, Surroundings, wall_clock};
use crate::tls::Identity;

impl<U: Upstream> Inner<U> {
    /// Asks where the streams stand, if there are some, and accepts the CONNECT then.
    pub(super) fn place(&mut self, accept: Accept, identity: &Identity, around: &Surroundings<U>) {
        if accept.streams.is_empty() {
            return self.accept(&accept, Vec::new(), identity, around);
        }
        let (upstream, agent) = (around.upstream.clone(), identity.id.clone());
        self.step = Some(Box::pin(async move {
            let positions = upstream.positions(&agent, &accept.streams).await;
            Step::Placed(accept, positions)
        }));
    }

    pub(super) fn accept(
        &mut self,
        accept: &Accept,
        positions: Vec<(Epoch, Lane, Position)>,
        identity: &Identity,
        around: &Surroundings<U>,
    ) {
        let welcome = Welcome {
            positions,
            incarnation: around.upstream.incarnation(),
            now: wall_clock(),
            client_id: identity.id.as_str().to_owned(),
        };
        self.send(packet::accept(self.version(), accept, &welcome));
    }
}
