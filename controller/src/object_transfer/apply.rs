//! The writes of an ObjectTransfer, each with its precondition.

use common::{
    api::{DataVolume, ObjectTransfer},
    object::ObjectVersion,
    object_transfer::{self, FINALIZER, Why, Write},
    rebind,
};
use config::api::Objects;
use k8s_openapi::{
    NamespaceResourceScope,
    api::core::v1::{PersistentVolume, PersistentVolumeClaim},
};
use kube::{
    Resource, ResourceExt,
    api::{DeleteParams, Patch, Preconditions},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tracing::info;

use crate::{
    Error,
    context::Context,
    write::{Failure, classify, params, post_params},
};

/// What became of a write.
#[derive(Debug, Default)]
pub struct Done {
    /// The ObjectTransfer's version after our own write to it.
    pub resource_version: Option<String>,
    /// An object was newer than the one that was looked at; nothing was changed, and its event is on the way.
    pub stale: bool,
    /// The API server will not have it, and says why.
    pub refused: Option<Why>,
}

/// Carries out an action, if there is one.
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
            // What was to be removed does not exist any more.
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

async fn send(transfer: &ObjectTransfer, write: &Write, ctx: &Context) -> Result<Option<String>, kube::Error> {
    let client = || ctx.client.clone();
    let claims = |namespace: &str| Objects::<PersistentVolumeClaim>::namespaced(client(), namespace);
    match write {
        Write::Guard => return finalizers(transfer, true, ctx).await,
        Write::Release => return finalizers(transfer, false, ctx).await,
        Write::CreateClaim(claim) => create(&claims(&claim.namespace().unwrap_or_default()), &**claim).await?,
        Write::HandOver { volume, to, policy, at } => {
            let patch = object_transfer::hand_over(volume, to, policy.as_deref(), *at);
            change::<PersistentVolume>(&Objects::all(client()), &volume.name, patch).await?;
        }
        Write::RestorePolicy { volume, policy } => {
            let patch = object_transfer::restore_policy(volume, policy);
            change::<PersistentVolume>(&Objects::all(client()), &volume.name, patch).await?;
        }
        Write::Nudge { target, at } => {
            change(&claims(&target.namespace), &target.name, rebind::nudge(target, *at)).await?;
        }
        Write::CreateDataVolume(volume) => {
            let api = Objects::<DataVolume>::namespaced(client(), &volume.namespace().unwrap_or_default());
            create(&api, &**volume).await?;
        }
        Write::DeleteDataVolume(what) => {
            delete(&Objects::<DataVolume>::namespaced(client(), &what.namespace), what).await?;
        }
        Write::DeleteClaim(what) => delete(&claims(&what.namespace), what).await?,
    }
    Ok(None)
}

/// With or without our own, as long as nobody else has changed it.
async fn finalizers(transfer: &ObjectTransfer, guarded: bool, ctx: &Context) -> Result<Option<String>, kube::Error> {
    let others = transfer.finalizers().iter().filter(|f| *f != FINALIZER).map(String::as_str);
    let all: Vec<_> = others.chain(guarded.then_some(FINALIZER)).collect();
    let patch = json!({ "metadata": {
        "uid": transfer.uid(), "resourceVersion": transfer.resource_version(), "finalizers": all,
    } });
    let api = Objects::<ObjectTransfer>::all(ctx.client.clone());
    let patched = api.patch(&transfer.name_any(), &params(), &Patch::Merge(patch)).await?;
    Ok(patched.resource_version())
}

async fn change<K: Resource<DynamicType = ()> + DeserializeOwned>(
    api: &Objects<K>,
    name: &str,
    patch: Value,
) -> Result<(), kube::Error> {
    api.patch(name, &params(), &Patch::Merge(patch)).await.map(drop)
}

async fn create<K>(api: &Objects<K>, object: &K) -> Result<(), kube::Error>
where
    K: Resource<DynamicType = ()> + Serialize + DeserializeOwned,
{
    api.create(&post_params(), object).await.map(drop)
}

/// Exactly this object, as it was looked at.
async fn delete<K>(api: &Objects<K>, what: &ObjectVersion) -> Result<(), kube::Error>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + DeserializeOwned,
{
    let preconditions =
        Preconditions { uid: Some(what.uid.clone()), resource_version: Some(what.resource_version.clone()) };
    let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::background() };
    api.delete(&what.name, &params).await
}
