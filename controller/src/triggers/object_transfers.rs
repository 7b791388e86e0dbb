//! The trigger of ObjectTransfers: those whose source or target is the changed object or owns it.

use common::{
    api::{DataVolume, ObjectTransfer},
    object_transfer::{Move, is_over, parse},
};
use config::cache::Cache;
use futures::channel::mpsc;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use kube::{ResourceExt, runtime::reflector::ObjectRef};

use super::pods_by_claim;

/// Starts passes over ObjectTransfers. Cheap while no ObjectTransfer is in progress.
#[derive(Clone)]
pub struct ObjectTransferTrigger {
    transfers: Cache<ObjectTransfer>,
    // Unbounded, because a watch must not block: it holds one name per event and transfer, and is drained as fast as it fills.
    triggered: mpsc::UnboundedSender<ObjectRef<ObjectTransfer>>,
}

impl ObjectTransferTrigger {
    /// The trigger, and the ObjectTransfers that are triggered.
    pub fn new(transfers: Cache<ObjectTransfer>) -> (Self, mpsc::UnboundedReceiver<ObjectRef<ObjectTransfer>>) {
        let (sender, triggered) = mpsc::unbounded();
        (Self { transfers, triggered: sender }, triggered)
    }

    /// Triggers the ObjectTransfers whose source or target is `claim`.
    pub fn claim(&self, claim: &PersistentVolumeClaim) {
        let (namespace, name) = (claim.namespace().unwrap_or_default(), claim.name_any());
        self.trigger(|wanted| concerns(wanted, &namespace, &name));
    }

    /// Triggers the ObjectTransfers whose source or target is `volume`.
    pub fn data_volume(&self, volume: &DataVolume) {
        let (namespace, name) = (volume.namespace().unwrap_or_default(), volume.name_any());
        self.trigger(|wanted| concerns(wanted, &namespace, &name));
    }

    /// Triggers the ObjectTransfers whose source or target has `volume`. After a hand-over, the event of the new claim follows.
    pub fn volume(&self, volume: &PersistentVolume) {
        let Some(claim) = volume.spec.as_ref().and_then(|s| s.claim_ref.as_ref()) else { return };
        let (namespace, name) =
            (claim.namespace.as_deref().unwrap_or_default(), claim.name.as_deref().unwrap_or_default());
        self.trigger(|wanted| concerns(wanted, namespace, name));
    }

    /// Triggers the ObjectTransfers whose source `pod` uses.
    pub fn pod(&self, pod: &Pod) {
        let used = pods_by_claim::claims_of(pod);
        self.trigger(|wanted| used.contains(&wanted.source));
    }

    fn trigger(&self, concerned: impl Fn(&Move) -> bool) {
        for transfer in self.transfers.known_objects() {
            let is_concerned = !is_over(&transfer) && parse(&transfer.spec).is_ok_and(|wanted| concerned(&wanted));
            // Sending fails only during shutdown.
            if is_concerned && self.triggered.unbounded_send(ObjectRef::from_obj(&*transfer)).is_err() {
                return;
            }
        }
    }
}

fn concerns(wanted: &Move, namespace: &str, name: &str) -> bool {
    [&wanted.source, &wanted.target].iter().any(|it| it.namespace == namespace && it.name == name)
}
