//! The writes of an ObjectTransfer, each with its precondition.

use common::{
    api::{DataVolume, ObjectTransfer},
    clone::Exact,
    transfer::{
        self,
        object::{self, Action, FINALIZER, Why},
    },
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
    run::Context,
    write::{answered, params, post_params},
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
pub async fn one(transfer: &ObjectTransfer, action: Option<&Action>, ctx: &Context) -> Result<Done, Error> {
    let mut done = Done::default();
    let Some(action) = action else { return Ok(done) };
    let verb = action.verb();
    let result = write(transfer, action, ctx).await;
    ctx.metrics.action(verb, result.is_ok());
    match result {
        Ok(version) => {
            info!(name = transfer.name_any(), action = verb, "done");
            done.resource_version = version;
        }
        Err(error) if answered(&error, &[409]) => done.stale = true,
        // Gone already is what was wanted.
        Err(error)
            if answered(&error, &[404])
                && matches!(action, Action::Release | Action::DeleteClaim(_) | Action::DeleteDataVolume(_)) => {}
        Err(kube::Error::Api(status)) if matches!(status.code, 400 | 403 | 404 | 422) => {
            let quota = status.message.contains("exceeded quota");
            done.refused = Some(Why::refused(quota, &format!("{verb}: {}", status.message)));
        }
        Err(source) => return Err(Error::Write { verb, source }),
    }
    Ok(done)
}

async fn write(transfer: &ObjectTransfer, action: &Action, ctx: &Context) -> Result<Option<String>, kube::Error> {
    let client = || ctx.client.clone();
    let claims = |namespace: &str| Objects::<PersistentVolumeClaim>::namespaced(client(), namespace);
    match action {
        Action::Guard => return finalizers(transfer, true, ctx).await,
        Action::Release => return finalizers(transfer, false, ctx).await,
        Action::CreateClaim(claim) => create(&claims(&claim.namespace().unwrap_or_default()), &**claim).await?,
        Action::HandOver { volume, to, policy, at } => {
            let patch = object::hand_over(volume, to, policy.as_deref(), *at);
            change::<PersistentVolume>(&Objects::all(client()), &volume.name, patch).await?;
        }
        Action::RestorePolicy { volume, policy } => {
            let patch = object::restore_policy(volume, policy);
            change::<PersistentVolume>(&Objects::all(client()), &volume.name, patch).await?;
        }
        Action::Nudge { target, at } => {
            change(&claims(&target.namespace), &target.name, transfer::nudge(target, *at)).await?;
        }
        Action::CreateDataVolume(volume) => {
            let api = Objects::<DataVolume>::namespaced(client(), &volume.namespace().unwrap_or_default());
            create(&api, &**volume).await?;
        }
        Action::DeleteDataVolume(what) => {
            delete(&Objects::<DataVolume>::namespaced(client(), &what.namespace), what).await?;
        }
        Action::DeleteClaim(what) => delete(&claims(&what.namespace), what).await?,
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
async fn delete<K>(api: &Objects<K>, what: &Exact) -> Result<(), kube::Error>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + DeserializeOwned,
{
    let preconditions =
        Preconditions { uid: Some(what.uid.clone()), resource_version: Some(what.resource_version.clone()) };
    let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::background() };
    api.delete(&what.name, &params).await
}
