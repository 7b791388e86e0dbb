//! Callers that aren't API servers: whoever reaches the webhook's port can ask it anything, in anybody's name.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use common::{manifest::NAMESPACE, meta};
use http::Request;
use k8s_openapi::api::{apps::v1::Deployment, core::v1::PersistentVolumeClaim};
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};
use tokio::time::timeout;
use webhook::manifests::{MUTATE_PATH, MUTATING, SERVICE};

use super::process::roll_out;
use crate::{
    cluster::pki::WEBHOOK_CLIENT,
    harness::{Space, clone_of, mi, review},
};

tests![nothing_in_a_forged_review_s_reply_is_of_use];

tests![
    alone:
    with_client_certificates_only_the_api_server_is_answered,
];

/// What the webhook answers to somebody who isn't the API server. The proxy for Services hands on whatever it is given, as any pod could say
/// it; nobody's certificate goes with it.
async fn ask_directly(t: &Space, review: &Value) -> Result<Value> {
    let path = format!("/api/v1/namespaces/{NAMESPACE}/services/https:{SERVICE}:https/proxy{MUTATE_PATH}");
    let request =
        Request::post(path).header("content-type", "application/json").body(review.to_string().into_bytes())?;
    Ok(serde_json::from_str(&t.client().request_text(request).await?)?)
}

/// A creation in the name of somebody who may do everything.
fn forged(object: &Value, namespace: &str) -> Value {
    review::creation(object, namespace, &json!({"username": "admin", "groups": ["system:masters"]}))
}

async fn nothing_in_a_forged_review_s_reply_is_of_use(t: &Space) -> Result<()> {
    let gold = t.neighbour().await?;
    let disk = gold.source("disk").filled(mi(4)).await?;
    let note = json!({"metadata": {"annotations": {"example.com/password": "hunter2"}, "labels": {"example.com/tier": "secret"}}});
    gold.api::<PersistentVolumeClaim>().patch("disk", &PatchParams::default(), &Patch::Merge(note)).await?;
    t.administered_by("mallory").await?;
    let wanted = clone_of(&disk).from(&gold);
    let object = wanted.object(t.name());
    let reply = ask_directly(t, &forged(&object, t.name())).await?;
    let patch = review::patch_in(&reply)?;
    let text = format!("{reply} {}", serde_json::to_string(&patch)?);
    for secret in ["hunter2", "secret", "eyJ", "BEGIN", "kube-api-access"] {
        ensure!(!text.contains(secret), "the reply tells {secret:?}: {text}");
    }
    // Everything that the reply would have on the object, on an object of one's own.
    let mut written = object;
    json_patch::patch(&mut written, &patch)?;
    let mut stolen = wanted.by("mallory");
    for (key, value) in written["metadata"]["annotations"].as_object().context("no annotations")? {
        stolen = stolen.annotate(key, value.as_str().unwrap_or_default());
    }
    ensure!(written["metadata"]["annotations"][meta::REQUESTER].is_string(), "there is no stamp in it: {written}");
    t.refuses(stolen).await?.by(MUTATING)?.about("spec.source.pvc.namespace", "FieldValueForbidden", "mallory")?;
    Ok(())
}

async fn with_client_certificates_only_the_api_server_is_answered(t: &Space) -> Result<()> {
    let disk = t.source("disk").blank().await?;
    let review = forged(&clone_of(&disk).object(t.name()), t.name());
    ask_directly(t, &review).await.context("without it anybody is answered")?;
    require_client_certificates(t).await?;
    t.create(clone_of(&disk)).await?.succeeds().await?;
    // The proxy says nothing about a handshake that fails.
    let answer = timeout(ANSWERED_WITHIN, ask_directly(t, &review)).await;
    ensure!(!matches!(answer, Ok(Ok(_))), "answered: {answer:?}");
    Ok(())
}

/// Many times as long as an answer takes.
const ANSWERED_WITHIN: Duration = Duration::from_secs(10);

/// What the README tells an admin to do, until the end of the test.
async fn require_client_certificates(t: &Space) -> Result<()> {
    let deployments: Api<Deployment> = Api::namespaced(t.client().clone(), NAMESPACE);
    let name = common::manifest::name(meta::WEBHOOK);
    let before = deployments.get(&name).await?.spec.context("no spec")?.template;
    let mut template = serde_json::to_value(&before)?;
    let pod = &mut template["spec"];
    pod["volumes"] = json!([{"name": "client-ca", "configMap": {"name": "kube-root-ca.crt"}}]);
    pod["containers"][0]["volumeMounts"] = json!([{"name": "client-ca", "mountPath": "/client-ca"}]);
    pod["containers"][0]["args"] =
        json!(["--client-ca-file=/client-ca/ca.crt", format!("--client-name={WEBHOOK_CLIENT}")]);
    let become_of = |template: Value| {
        let (deployments, name) = (deployments.clone(), name.clone());
        async move {
            // A merge would keep what is to go.
            let patch = json!([{"op": "replace", "path": "/spec/template", "value": template}]);
            let patch = Patch::Json::<()>(serde_json::from_value(patch)?);
            deployments.patch(&name, &PatchParams::default(), &patch).await?;
            Ok(())
        }
    };
    let (back, again) = (become_of(serde_json::to_value(before)?), t.clone());
    t.undo(async move { roll_out(&again, meta::WEBHOOK, back).await });
    roll_out(t, meta::WEBHOOK, become_of(template)).await
}
