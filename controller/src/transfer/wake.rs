//! Which ObjectTransfers the other objects wake.

use common::{
    api::{DataVolume, ObjectTransfer},
    transfer::object::{Move, parse},
};
use config::cache::Cache;
use futures::{StreamExt, stream::BoxStream};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use kube::{ResourceExt, runtime::reflector::ObjectRef};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;

use crate::users;

/// The ObjectTransfers that were woken.
pub type Wakes = BoxStream<'static, ObjectRef<ObjectTransfer>>;

/// Told of objects as they change. Cheap while no ObjectTransfer is under way, which is nearly always.
#[derive(Clone)]
pub struct Bell {
    transfers: Cache<ObjectTransfer>,
    // Unbounded, since whoever tells must not wait: it holds a name per event and transfer, and is emptied as fast as it fills.
    woken: mpsc::UnboundedSender<ObjectRef<ObjectTransfer>>,
}

impl Bell {
    pub(super) fn new(transfers: Cache<ObjectTransfer>) -> (Self, Wakes) {
        let (woken, wakes) = mpsc::unbounded_channel();
        (Self { transfers, woken }, UnboundedReceiverStream::new(wakes).boxed())
    }

    /// A claim is a source or a target.
    pub fn claim(&self, claim: &PersistentVolumeClaim) {
        let (namespace, name) = (claim.namespace().unwrap_or_default(), claim.name_any());
        self.wake(|wanted| concerns(wanted, &namespace, &name));
    }

    /// So is a DataVolume.
    pub fn data_volume(&self, volume: &DataVolume) {
        let (namespace, name) = (volume.namespace().unwrap_or_default(), volume.name_any());
        self.wake(|wanted| concerns(wanted, &namespace, &name));
    }

    /// A volume belongs to one of them, or did until a moment ago; then its new owner's event follows.
    pub fn volume(&self, volume: &PersistentVolume) {
        let Some(claim) = volume.spec.as_ref().and_then(|s| s.claim_ref.as_ref()) else { return };
        let (namespace, name) =
            (claim.namespace.as_deref().unwrap_or_default(), claim.name.as_deref().unwrap_or_default());
        self.wake(|wanted| concerns(wanted, namespace, name));
    }

    /// A pod may use the source, and ends.
    pub fn pod(&self, pod: &Pod) {
        let used = users::claims(pod);
        self.wake(|wanted| used.contains(&wanted.source));
    }

    fn wake(&self, whom: impl Fn(&Move) -> bool) {
        for transfer in self.transfers.known_objects() {
            let concerned = !super::is_over(&transfer) && parse(&transfer.spec).is_ok_and(|wanted| whom(&wanted));
            // Nobody listens any more only when the process ends.
            if concerned && self.woken.send(ObjectRef::from_obj(&*transfer)).is_err() {
                return;
            }
        }
    }
}

fn concerns(wanted: &Move, namespace: &str, name: &str) -> bool {
    [&wanted.source, &wanted.target].iter().any(|it| it.namespace == namespace && it.name == name)
}
