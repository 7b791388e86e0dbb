//! The cleanup after CDI's controller: removes its finalizers from DataVolumes and claims that are being deleted. `common::clone::former`
//! decides.

use std::{fmt::Debug, sync::Arc};

use common::{
    api::DataVolume,
    clone::{
        former::{guarded, other_finalizers},
        shared_snapshot::SharedSnapshot,
    },
    keys,
    object::{ObjectName, exact},
};
use k8s_openapi::{NamespaceResourceScope, api::core::v1::PersistentVolumeClaim};
use kube::{Resource, api::ObjectMeta};
use serde::de::DeserializeOwned;
use tracing::info;

use super::Cleanup;
use crate::{clone::observe, context::name_of, write};

impl Cleanup<'_> {
    /// Removes CDI's finalizers from every object that need not be kept for them any more.
    pub(super) async fn former_finalizers(&mut self) {
        let volumes = self.ctx.context.caches.data_volumes.known_objects();
        self.former_finalizers_of::<DataVolume>(&volumes).await;
        let claims = self.ctx.context.caches.claims.known_objects();
        self.former_finalizers_of::<PersistentVolumeClaim>(&claims).await;
    }

    async fn former_finalizers_of<K>(&mut self, all: &[Arc<K>])
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
    {
        for object in all {
            let meta = object.meta();
            let Some(others) = other_finalizers(meta).filter(|_| self.is_due(meta)) else { continue };
            let users = || observe::users(&name_of(&**object), self.ctx).into_iter().map(|user| user.pod);
            if let Some(left) = guarded(meta, temporary_objects(meta, self).into_iter(), users()) {
                let (kind, namespace, name) = (K::kind(&()), meta.namespace.as_deref(), meta.name.as_deref());
                info!(%kind, namespace, name, kept_for = %left, "CDI's finalizer stays on an object that is being deleted");
                continue;
            }
            let result = write::keep_finalizers::<K>(&exact(meta), &others, &self.ctx.context.client).await;
            self.done(&K::kind(&()), meta, result.map(|()| false));
        }
    }
}

/// The temporary objects, ours and CDI's, that are labelled with the UID of `owner`. A snapshot that several clones share belongs to none
/// of them.
fn temporary_objects(owner: &ObjectMeta, cleanup: &Cleanup<'_>) -> Vec<(&'static str, ObjectName)> {
    let caches = &cleanup.ctx.context.caches;
    let is_its = |meta: &ObjectMeta| {
        let label = meta.labels.as_ref().and_then(|labels| labels.get(keys::OWNED_BY_UID));
        label.is_some() && label == owner.uid.as_ref()
    };
    let claims = caches.claims.known_objects();
    let claims = claims.iter().filter(|it| is_its(it.meta())).map(|it| ("PersistentVolumeClaim", name_of(&**it)));
    let pods = caches.pods.known_objects();
    let pods = pods.iter().filter(|it| is_its(it.meta())).map(|it| ("Pod", name_of(&**it)));
    let snapshots = caches.snapshots.known_objects();
    let snapshots = snapshots
        .iter()
        .filter(|it| is_its(it.meta()) && !SharedSnapshot::of(it).ours)
        .map(|it| ("VolumeSnapshot", name_of(&**it)));
    claims.chain(pods).chain(snapshots).collect()
}
