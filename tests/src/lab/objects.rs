//! What the cluster is asked to hold, and when it is ready.

use std::{path::Path, time::Duration};

use anyhow::{Context as _, Result};
use futures::future::try_join_all;
use http::Request;
use k8s_openapi::{
    api::{
        core::v1::{Node, ServiceAccount},
        storage::v1::CSINode,
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, Client, ResourceExt as _,
    api::{DynamicObject, Patch, PatchParams},
    core::{ApiResource, GroupVersionKind},
};

use super::{
    command::{Look, until},
    layout::NODE,
};

const FIELD_MANAGER: &str = "smartclone-lab";
const PATIENCE: Duration = Duration::from_mins(1);

/// Applies every document of a YAML text, on the server's side; returns the objects' names.
pub async fn apply(client: &Client, yaml: &str) -> Result<Vec<String>> {
    let objects: Vec<DynamicObject> = serde_saphyr::from_multiple(yaml).context("parse objects")?;
    try_join_all(objects.into_iter().map(async |object| {
        let types = object.types.as_ref().context("an object has a kind")?;
        let kind = ApiResource::from_gvk(&GroupVersionKind::try_from(types)?);
        let api: Api<DynamicObject> = match object.namespace() {
            Some(namespace) => Api::namespaced_with(client.clone(), &namespace, &kind),
            None => Api::all_with(client.clone(), &kind),
        };
        let name = object.name_any();
        let params = PatchParams::apply(FIELD_MANAGER).force();
        api.patch(&name, &params, &Patch::Apply(&object))
            .await
            .with_context(|| format!("apply {} {name}", types.kind))?;
        Ok(name)
    }))
    .await
}

/// Applies the CRDs in `directory` and waits until the API server serves them.
pub async fn apply_crds(client: &Client, directory: &Path) -> Result<()> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        names.extend(apply(client, &std::fs::read_to_string(entry?.path())?).await?);
    }
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    try_join_all(names.iter().map(async |name| {
        until(&format!("the CRD {name}"), PATIENCE, async || {
            let conditions = api.get(name).await?.status.and_then(|status| status.conditions).unwrap_or_default();
            let established = conditions.iter().any(|found| found.type_ == "Established" && found.status == "True");
            Ok(if established { Look::Break(()) } else { Look::Continue(format!("{conditions:?}")) })
        })
        .await
    }))
    .await?;
    Ok(())
}

/// Waits until the API server is ready. `alive` ends the waiting with an error when there is nobody to wait for.
pub async fn api_ready(client: &Client, alive: impl Fn() -> Result<()>) -> Result<()> {
    until("the API server", PATIENCE, async || {
        alive()?;
        let answer = client.request_text(Request::get("/readyz").body(Vec::new())?).await;
        Ok(answer.map_or_else(|error| Look::Continue(format!("{error}")), |_| Look::Break(())))
    })
    .await
}

/// Waits until the node takes pods and kubelet answers: what a restarted one has reported earlier proves nothing.
pub async fn node_ready(client: &Client, alive: impl Fn() -> Result<()>) -> Result<()> {
    let api: Api<Node> = Api::all(client.clone());
    until("the node", PATIENCE, async || {
        alive()?;
        let node = api.get_opt(NODE).await?;
        let conditions = node.and_then(|node| node.status).and_then(|status| status.conditions).unwrap_or_default();
        match conditions.into_iter().find(|condition| condition.type_ == "Ready") {
            Some(ready) if ready.status == "True" => {}
            Some(ready) => return Ok(Look::Continue(ready.message.unwrap_or_default())),
            None => return Ok(Look::Continue("it isn't registered".to_owned())),
        }
        let healthy = Request::get(format!("/api/v1/nodes/{NODE}/proxy/healthz")).body(Vec::new())?;
        let answer = client.request_text(healthy).await;
        Ok(answer.map_or_else(|error| Look::Continue(format!("kubelet: {error}")), |_| Look::Break(())))
    })
    .await
}

/// Waits until kubelet knows these storage drivers.
pub async fn drivers_registered(client: &Client, drivers: &[String], alive: impl Fn() -> Result<()>) -> Result<()> {
    let api: Api<CSINode> = Api::all(client.clone());
    until("the storage drivers' registration", PATIENCE, async || {
        alive()?;
        let known: Vec<_> =
            api.get_opt(NODE).await?.map(|node| node.spec.drivers).into_iter().flatten().map(|it| it.name).collect();
        let all = drivers.iter().all(|driver| known.contains(driver));
        Ok(if all { Look::Break(()) } else { Look::Continue(format!("kubelet knows {known:?}")) })
    })
    .await
}

/// Waits until the controller manager has made what every pod needs.
pub async fn controllers_ready(client: &Client, alive: impl Fn() -> Result<()>) -> Result<()> {
    let api: Api<ServiceAccount> = Api::namespaced(client.clone(), "default");
    until("the controller manager", PATIENCE, async || {
        alive()?;
        Ok(match api.get_opt("default").await? {
            Some(_) => Look::Break(()),
            None => Look::Continue("there is no service account in the namespace default".to_owned()),
        })
    })
    .await
}
