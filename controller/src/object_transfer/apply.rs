//! The writes of an ObjectTransfer, each with its precondition.

use common::{
    api::{DataVolume, ObjectTransfer},
    keys::TRANSFER_FINALIZER,
    object::exact,
    object_transfer::{self, Why, Write},
    rebind,
};
use config::api::Objects;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::ResourceExt;
use serde_json::json;
use tracing::info;

use crate::{
    Error,
    context::Context,
    write::{Failure, classify, create, delete_version, merge_patch, patch_claim},
};

/// The outcome of a write.
#[derive(Debug, Default)]
pub struct Done {
    /// The ObjectTransfer's version after our own write to it.
    pub resource_version: Option<String>,
    /// An object is newer than the one that was read. Nothing was changed, and its event starts the next pass.
    pub stale: bool,
    /// The API server refused the write, for this reason.
    pub refused: Option<Why>,
}

/// Sends a write, if there is one.
pub async fn apply(transfer: &ObjectTransfer, write: Option<&Write>, ctx: &Context) -> Result<Done, Error> {
    let mut done = Done::default();
    let Some(write) = write else { return Ok(done) };
    let verb = write.verb();
    let result = send(transfer, write, ctx).await;
    ctx.metrics.action(verb, result.is_ok());
    match result {
        Ok(version) => {
            info!(name = transfer.name_any(), action = verb, "done");
            done.resource_version = version;
        }
        Err(error) => match classify(error) {
            Failure::Stale => done.stale = true,
            // The object to be removed does not exist any more.
            Failure::Gone(_)
                if matches!(write, Write::Release | Write::DeleteClaim(_) | Write::DeleteDataVolume(_)) => {}
            Failure::Gone(message) => done.refused = Some(Why::refused(false, &format!("{verb}: {message}"))),
            Failure::Refused { quota, message } => {
                done.refused = Some(Why::refused(quota, &format!("{verb}: {message}")));
            }
            Failure::Failed(source) => return Err(Error::Write { verb, source }),
        },
    }
    Ok(done)
}

async fn send(transfer: &ObjectTransfer, write: &Write, ctx: &Context) -> kube::Result<Option<String>> {
    let client = &ctx.client;
    match write {
        Write::Guard => return set_guard(transfer, true, ctx).await,
        Write::Release => return set_guard(transfer, false, ctx).await,
        Write::CreateClaim(claim) => {
            let namespace = claim.namespace().unwrap_or_default();
            create(&Objects::<PersistentVolumeClaim>::namespaced(client.clone(), &namespace), &**claim).await?;
        }
        Write::HandOver { volume, to, policy, at } => {
            let patch = object_transfer::hand_over(volume, to, policy.as_deref(), *at);
            merge_patch(&Objects::<PersistentVolume>::all(client.clone()), volume, patch).await?;
        }
        Write::RestorePolicy { volume, policy } => {
            let patch = object_transfer::restore_policy(volume, policy);
            merge_patch(&Objects::<PersistentVolume>::all(client.clone()), volume, patch).await?;
        }
        Write::Nudge { claim, at } => patch_claim(claim, rebind::nudge(claim, *at), client).await?,
        Write::CreateDataVolume(volume) => {
            let namespace = volume.namespace().unwrap_or_default();
            create(&Objects::<DataVolume>::namespaced(client.clone(), &namespace), &**volume).await?;
        }
        Write::DeleteDataVolume(volume) => delete_version::<DataVolume>(volume, client).await?,
        Write::DeleteClaim(claim) => delete_version::<PersistentVolumeClaim>(claim, client).await?,
    }
    Ok(None)
}

/// Adds our finalizer to exactly this version of the ObjectTransfer, or removes it. Returns the new version.
async fn set_guard(transfer: &ObjectTransfer, guarded: bool, ctx: &Context) -> kube::Result<Option<String>> {
    let others = transfer.finalizers().iter().filter(|f| *f != TRANSFER_FINALIZER).map(String::as_str);
    let all: Vec<_> = others.chain(guarded.then_some(TRANSFER_FINALIZER)).collect();
    let patch = json!({ "metadata": { "finalizers": all } });
    let api = Objects::<ObjectTransfer>::all(ctx.client.clone());
    Ok(merge_patch(&api, &exact(&transfer.metadata), patch).await?.resource_version())
}

#[cfg(test)]
mod tests;
