//! The cleanup of volumes that lost their claim to another volume: beside CDI, both may fill a claim whose mark somebody removed.
//! `common::clone::cleanup` decides.

use common::{
    clone::cleanup::{claim_of_candidate, has_lost},
    object::{ObjectName, exact},
};
use config::api::Objects;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};

use super::Cleanup;
use crate::{clone::Reconciler, write};

impl Cleanup<'_> {
    /// Gives up every volume of ours whose claim is bound to another one, so that it is deleted in the storage system.
    pub(super) async fn lost_volumes(&mut self) {
        for volume in self.ctx.context.caches.volumes.known_objects() {
            let Some(name) = claim_of_candidate(&volume) else { continue };
            let claim = self.ctx.context.caches.claims.get(Some(&name.namespace), &name.name);
            let has_lost = claim.present().is_some_and(|claim| has_lost(&volume, claim));
            if !has_lost || !self.is_due(&volume.metadata) {
                continue;
            }
            let result = give_up(&volume, &name, self.ctx).await;
            self.done("PersistentVolume", &volume.metadata, result);
        }
    }
}

/// Gives up a volume if the claim that it names, as the API server has it, is bound to another one. Returns true if it did.
async fn give_up(volume: &PersistentVolume, name: &ObjectName, ctx: &Reconciler) -> Result<bool, kube::Error> {
    let api = Objects::<PersistentVolumeClaim>::namespaced(ctx.context.client.clone(), &name.namespace);
    let claim = api.get_opt(&name.name).await?;
    if !claim.is_some_and(|claim| has_lost(volume, &claim)) {
        return Ok(false);
    }
    match write::give_up_volume(&exact(&volume.metadata), &ctx.context.client).await {
        Err(error) if write::is_conflict(&error) || write::is_gone(&error) => Ok(false),
        given_up => given_up.map(|()| true),
    }
}
