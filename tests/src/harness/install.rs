//! The installation of smartclone on the running cluster, as an admin does it.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use common::{api::DataVolume, manifest::NAMESPACE};
use k8s_openapi::api::{
    admissionregistration::v1::{MutatingWebhookConfiguration, ValidatingWebhookConfiguration},
    apps::v1::Deployment,
};
use kube::{
    Api, Client, ResourceExt as _,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;
use webhook::manifests::{MUTATING, VALIDATING};

use super::{
    cdi,
    cluster::Cluster,
    wait::{self, Look},
};
use crate::{
    lab::{
        Lab, build,
        command::{self, until},
        images::{self, Image},
    },
    manifests,
};

/// The annotation with the program from which a Deployment's pods were started. The image's tag does not change during development.
const BUILT_FROM: &str = "smartclone.dev/built-from";

/// Installs the last build, and waits until it admits and clones. A second call updates the installation. Whatever an interrupted test has
/// left of CDI goes first.
pub async fn install(lab: &Lab) -> Result<()> {
    cdi::clear(lab).await?;
    let manifests = manifests::directory().display().to_string();
    install_by(lab, async || kubectl(lab, &["apply", "--kustomize"], &[&manifests]).await).await
}

/// Installs with `apply`, which applies the manifests.
pub async fn install_by(lab: &Lab, apply: impl AsyncFnOnce() -> Result<()>) -> Result<()> {
    lab.ensure_images(&images::ALL).await?;
    let client = lab.client()?;
    let programs = [Image::Webhook, Image::Controller];
    let mut outdated = Vec::new();
    for program in programs {
        outdated.push(is_outdated(&client, program).await?);
    }
    apply().await?;
    for (program, outdated) in programs.into_iter().zip(outdated) {
        let deployment = format!("deployment/{}", deployment(program));
        if outdated {
            kubectl(lab, &["rollout", "restart", "--namespace", NAMESPACE], &[&deployment]).await?;
        }
        note(&client, program).await?;
    }
    for program in programs {
        let deployment = format!("deployment/{}", deployment(program));
        kubectl(lab, &["rollout", "status", "--timeout=120s", "--namespace", NAMESPACE], &[&deployment])
            .await
            .with_context(|| format!("kubectl --namespace {NAMESPACE} logs {deployment} tells more"))?;
    }
    trusted(&client).await?;
    admits(&client).await
}

/// Waits until the smartclone on an existing cluster, which an admin has installed, admits clones.
pub async fn is_installed(cluster: &Cluster) -> Result<()> {
    let client = cluster.client()?;
    let api: Api<Deployment> = Api::namespaced(client.clone(), NAMESPACE);
    for name in [Image::Webhook, Image::Controller].map(deployment) {
        let found = api.get_opt(&name).await?;
        ensure!(
            found.is_some(),
            "Deployment {NAMESPACE}/{name} does not exist; docs/install.md tells how to install smartclone"
        );
    }
    trusted(&client).await?;
    admits(&client).await
}

async fn kubectl(lab: &Lab, verb: &[&str], rest: &[&str]) -> Result<()> {
    let mut kubectl = lab.kubectl();
    kubectl.args(verb).args(rest);
    command::run(kubectl).await.map(drop)
}

fn deployment(program: Image) -> String {
    format!("smartclone-{}", program.name())
}

fn fingerprint(program: Image) -> Result<String> {
    let file = build::binary(program.name())?;
    let content = std::fs::read(&file).with_context(|| format!("read {}", file.display()))?;
    Ok(blake3::hash(&content).to_hex()[..16].to_owned())
}

/// True if there are pods of another program than the present one.
async fn is_outdated(client: &Client, program: Image) -> Result<bool> {
    let api: Api<Deployment> = Api::namespaced(client.clone(), NAMESPACE);
    let Some(found) = api.get_opt(&deployment(program)).await? else { return Ok(false) };
    Ok(found.annotations().get(BUILT_FROM) != Some(&fingerprint(program)?))
}

async fn note(client: &Client, program: Image) -> Result<()> {
    let api: Api<Deployment> = Api::namespaced(client.clone(), NAMESPACE);
    let patch = json!({"metadata": {"annotations": {BUILT_FROM: fingerprint(program)?}}});
    api.patch(&deployment(program), &PatchParams::default(), &Patch::Merge(patch)).await?;
    Ok(())
}

/// Waits until the webhook has published its certificate authority to the API server.
async fn trusted(client: &Client) -> Result<()> {
    let seen = |bundles: Vec<Option<usize>>| {
        let all = !bundles.is_empty() && bundles.iter().all(|bundle| bundle.is_some_and(|bytes| bytes > 0));
        if all { Look::Break(()) } else { Look::Continue(format!("caBundles have these sizes: {bundles:?}")) }
    };
    let mutating: Api<MutatingWebhookConfiguration> = Api::all(client.clone());
    wait::object(&mutating, MUTATING, "the mutating webhook's caBundle", |found| {
        let hooks = found.and_then(|it| it.webhooks.as_deref()).unwrap_or_default();
        seen(hooks.iter().map(|it| it.client_config.ca_bundle.as_ref().map(|ca| ca.0.len())).collect())
    })
    .await?;
    let validating: Api<ValidatingWebhookConfiguration> = Api::all(client.clone());
    wait::object(&validating, VALIDATING, "the validating webhook's caBundle", |found| {
        let hooks = found.and_then(|it| it.webhooks.as_deref()).unwrap_or_default();
        seen(hooks.iter().map(|it| it.client_config.ca_bundle.as_ref().map(|ca| ca.0.len())).collect())
    })
    .await
}

/// Waits until a DataVolume is admitted. A completed rollout does not mean reachable: the API server learns the pods' addresses and the
/// caBundle by its own watches, which can't be observed.
async fn admits(client: &Client) -> Result<()> {
    let probe: DataVolume = serde_json::from_value(json!({
        "metadata": {"name": "probe"},
        "spec": {"source": {"pvc": {"namespace": "default", "name": "nothing"}}, "storage": {}}
    }))?;
    let api: Api<DataVolume> = Api::namespaced(client.clone(), "default");
    let params = PostParams { dry_run: true, ..PostParams::default() };
    let admitted = until("an admitted DataVolume", Duration::from_mins(1), async || {
        Ok(match api.create(&params, &probe).await {
            Ok(_) => Look::Break(()),
            Err(kube::Error::Api(status)) if status.code < 500 => Look::Break(()),
            Err(error) => Look::Continue(format!("{error}")),
        })
    });
    admitted.await?;
    let versions = api.create(&params, &probe).await;
    ensure!(
        !matches!(&versions, Err(kube::Error::Api(status)) if status.code >= 500),
        "the webhook is not to be relied on: {versions:?}"
    );
    Ok(())
}
