//! The holders of a volume that is about to be handed over: pods as the API server lists them now, attachments and nodes from caches.

use common::{
    clone::{
        Observed,
        holders::{Look, holders},
    },
    lookup::Lookup,
};
use config::api::Objects;
use k8s_openapi::api::core::v1::Pod;

use crate::clone::Reconciler;

/// Reads the holders of the temporary claim's volume, as text. The claim is closed: no new pod can use it, so one list of the pods in its
/// namespace is complete.
pub async fn observe(seen: &Observed, ctx: &Reconciler) -> Lookup<Vec<String>> {
    let (Some(claim), Some(volume)) = (seen.temporary.present(), seen.rebind.volume.present()) else {
        return Lookup::Absent;
    };
    let own: Vec<_> = [&seen.mover, &seen.consumer]
        .into_iter()
        .filter_map(Lookup::present)
        .filter(|pod| pod.trusted)
        .map(|pod| pod.exact.uid.clone())
        .collect();
    let api = Objects::<Pod>::namespaced(ctx.context.client.clone(), &claim.exact.namespace);
    let pods = match api.list().await {
        Ok(pods) if pods.unreadable.is_empty() => pods.items,
        Ok(pods) => {
            let count = pods.unreadable.len();
            return Lookup::Unknown(format!("{count} pods beside the temporary claim can't be read"));
        }
        Err(error) => return Lookup::Unknown(config::Chain(&error).to_string()),
    };
    let volume = ctx.context.caches.volumes.get(None, &volume.exact.name);
    let (attachments, nodes) = (ctx.context.caches.attachments.all(), ctx.context.caches.nodes.all());
    match (volume, attachments, nodes) {
        (Lookup::Present(volume), Lookup::Present(attachments), Lookup::Present(nodes)) => {
            let look = Look { claim: &claim.exact.name, volume: &volume, own: &own, pods: &pods };
            Lookup::Present(holders(&look, attachments.iter().map(AsRef::as_ref), nodes.iter().map(AsRef::as_ref)))
        }
        (Lookup::Unknown(why), ..) | (_, Lookup::Unknown(why), _) | (.., Lookup::Unknown(why)) => Lookup::Unknown(why),
        _ => Lookup::Unknown("the volume, its attachments or the nodes are not known".to_owned()),
    }
}
