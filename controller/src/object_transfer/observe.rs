//! The observations of a pass over an ObjectTransfer: reads only, from the caches or from the API server.

use std::fmt::Debug;

use common::{
    api::ObjectTransfer,
    lookup::Lookup,
    mode::Mode,
    object::ObjectName,
    object_transfer::{Observed, Subject, parse, users_of},
};
use config::{
    api::Objects,
    cache::{Cache, ask},
};
use jiff::Timestamp;
use k8s_openapi::{NamespaceResourceScope, api::core::v1::Pod};
use kube::{Resource, ResourceExt};
use serde::de::DeserializeOwned;

use crate::{context::Context, periodic};

/// The place from which a pass reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadFrom {
    /// The caches: fast, and slightly behind.
    Caches,
    /// The API server: the current state.
    ApiServer,
}

/// Reads all inputs of a pass over `transfer`.
pub async fn observe(transfer: &ObjectTransfer, from: ReadFrom, ctx: &Context, since: Timestamp) -> Observed {
    let subject = Subject::of(transfer);
    let wanted = parse(&transfer.spec);
    let (source_name, target_name) = match &wanted {
        Ok(wanted) => (Some(&wanted.source), Some(&wanted.target)),
        Err(_) => (None, None),
    };
    let caches = &ctx.caches;
    let (source, target, source_volume, target_volume, users) = tokio::join!(
        named(source_name, from, &caches.claims, ctx),
        named(target_name, from, &caches.claims, ctx),
        named(source_name, from, &caches.data_volumes, ctx),
        named(target_name, from, &caches.data_volumes, ctx),
        users(source_name, from, ctx),
    );
    let volume = match Observed::volume_name(subject.record.as_ref(), &source) {
        None => Lookup::Absent,
        Some(name) => match from {
            // Claims and volumes are watched separately: a volume that is not in the cache may not have been observed yet.
            ReadFrom::Caches => match caches.volumes.get(None, &name).map(|volume| (*volume).clone()) {
                Lookup::Absent if subject.record.is_none() => {
                    Lookup::Unknown(format!("PersistentVolume {name:?} has not been seen yet"))
                }
                volume => volume,
            },
            ReadFrom::ApiServer => ask(&Objects::all(ctx.client.clone()), &name).await,
        },
    };
    let mode = periodic::mode(ctx);
    Observed {
        now: Timestamp::now(),
        since,
        another_controller: mode.present().and_then(Mode::operator).map(ToString::to_string),
        transfer: subject,
        wanted,
        source,
        volume,
        target,
        source_volume,
        target_volume,
        users,
    }
}

async fn named<K>(name: Option<&ObjectName>, from: ReadFrom, cache: &Cache<K>, ctx: &Context) -> Lookup<K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + Debug
        + DeserializeOwned
        + Send
        + Sync
        + 'static,
{
    let Some(ObjectName { namespace, name }) = name else { return Lookup::Absent };
    match from {
        ReadFrom::Caches => cache.get(Some(namespace), name).map(|object| (*object).clone()),
        ReadFrom::ApiServer => ask(&Objects::namespaced(ctx.client.clone(), namespace), name).await,
    }
}

async fn users(source: Option<&ObjectName>, from: ReadFrom, ctx: &Context) -> Lookup<Vec<String>> {
    let Some(ObjectName { namespace, name }) = source else { return Lookup::Present(Vec::new()) };
    match from {
        ReadFrom::Caches => match ctx.caches.pods.all() {
            Lookup::Present(_) if ctx.caches.pods.unreadable_in(namespace).is_some() => {
                Lookup::Unknown(format!("a pod in namespace {namespace} can't be read"))
            }
            Lookup::Present(all) => {
                let here =
                    all.iter().map(|pod| -> &Pod { pod }).filter(|pod| pod.namespace().as_ref() == Some(namespace));
                Lookup::Present(users_of(name, here))
            }
            Lookup::Absent => Lookup::Unknown("the pods could not be listed".to_owned()),
            Lookup::Unknown(why) => Lookup::Unknown(why),
        },
        ReadFrom::ApiServer => {
            let api = Objects::<Pod>::namespaced(ctx.client.clone(), namespace);
            match api.list().await {
                Ok(pods) if pods.unreadable.is_empty() => Lookup::Present(users_of(name, &pods.items)),
                // It may be a pod that uses the claim.
                Ok(_) => Lookup::Unknown(format!("a pod in namespace {namespace} can't be read")),
                Err(error) => Lookup::Unknown(config::Chain(&error).to_string()),
            }
        }
    }
}
