//! Callers that aren't API servers: whoever reaches the webhook's port can say anything there, in anybody's name. Without the secret path
//! nothing is answered, and what is answered with it is of no use.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use common::{keys, manifest::NAMESPACE};
use http::{Method, Request, StatusCode};
use k8s_openapi::api::{
    admissionregistration::v1::MutatingWebhookConfiguration, apps::v1::Deployment, core::v1::PersistentVolumeClaim,
};
use kube::{
    Api,
    api::{Patch, PatchParams},
    client::Body,
};
use serde_json::{Value, json};
use tokio::time::timeout;
use webhook::manifests::{CA_SECRET, MUTATE_PATH, MUTATING, ROUTES, SERVICE, VALIDATING};

use super::process::roll_out;
use crate::{
    harness::{Space, clone_of, mi, review},
    lab::pki::WEBHOOK_CLIENT,
    manifests,
};

tests![
    nobody_is_answered_without_the_secret_path,
    a_tenant_can_read_the_secret_path_nowhere,
    manifests_that_are_applied_again_leave_the_path,
    nothing_in_a_forged_review_s_reply_is_of_use;
    alone:
    with_client_certificates_only_the_api_server_is_answered,
];

/// What the webhook answers to somebody who isn't the API server. The proxy for Services hands on whatever it is given, as any pod could say
/// it; nobody's certificate goes with it.
async fn answer(t: &Space, method: &Method, path: &str, body: &str) -> Result<(StatusCode, String)> {
    let uri = format!("/api/v1/namespaces/{NAMESPACE}/services/https:{SERVICE}:https/proxy{path}");
    let request = Request::builder().method(method).uri(uri).header("content-type", "application/json");
    let response = t.client().send(request.body(Body::from(body.as_bytes().to_vec()))?).await?;
    let (head, body) = response.into_parts();
    Ok((head.status, String::from_utf8(body.collect_bytes().await?.to_vec())?))
}

/// The answer to a review at the path that only an admin of the cluster can read.
async fn ask_directly(t: &Space, review: &Value) -> Result<Value> {
    let (status, text) = answer(t, &Method::POST, &secret_path(t).await?, &review.to_string()).await?;
    ensure!(status.is_success(), "{status}: {text}");
    Ok(serde_json::from_str(&text)?)
}

/// Where the API server asks for annotations of a DataVolume.
async fn secret_path(t: &Space) -> Result<String> {
    let configurations: Api<MutatingWebhookConfiguration> = t.everywhere();
    let webhooks = configurations.get(MUTATING).await?.webhooks.unwrap_or_default();
    let webhook = webhooks.into_iter().find(|webhook| webhook.name == MUTATING).context("there is no such webhook")?;
    webhook.client_config.service.and_then(|service| service.path).context("there is no path")
}

async fn nobody_is_answered_without_the_secret_path(t: &Space) -> Result<()> {
    let gold = t.neighbour().await?;
    let disk = gold.source("disk").blank().await?;
    let review = forged(&clone_of(&disk).from(&gold).object(t.name()), t.name()).to_string();
    let path = secret_path(t).await?;
    let segment = path.strip_suffix(MUTATE_PATH).context("the path does not end with the route")?;
    ensure!(segment.len() > 32, "there is no secret in {path:?}");
    let (first, rest) = segment.split_at(segment.len() - 1);
    let near = format!("{first}{}", if rest == "0" { "1" } else { "0" });
    let mut guesses: Vec<String> =
        ["/", "/live", "/ready", "/metrics", "/log-level", first, segment].map(str::to_owned).into();
    for (_, route) in ROUTES {
        guesses.extend([(*route).to_owned(), format!("{near}{route}"), format!("{first}{route}")]);
    }
    for guess in &guesses {
        for method in [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS] {
            let body = if method == Method::GET { "" } else { &review };
            let answer = answer(t, &method, guess, body).await?;
            ensure!(answer == (StatusCode::NOT_FOUND, String::new()), "{method} at a guess: {answer:?}");
        }
    }
    let (status, text) = answer(t, &Method::POST, &path, &review).await?;
    ensure!(status.is_success(), "not answered with the path, so this proves nothing: {status} {text}");
    let disk = t.source("disk").blank().await?;
    t.create(clone_of(&disk)).await?.succeeds().await?;
    Ok(())
}

async fn a_tenant_can_read_the_secret_path_nowhere(t: &Space) -> Result<()> {
    t.administered_by("mallory").await?;
    let places = [
        ("mutatingwebhookconfigurations", MUTATING),
        ("validatingwebhookconfigurations", VALIDATING),
        ("secrets", CA_SECRET),
    ];
    for (resource, name) in places {
        t.kubectl(&["get", resource, name, "--namespace", NAMESPACE]).await?;
        for question in [vec!["get", resource, name], vec!["get", resource]] {
            let by = ["--namespace", NAMESPACE, "--as=mallory", "--as-group=system:authenticated"];
            match t.kubectl(&[&question[..], &by].concat()).await {
                Ok(_) => bail!("mallory reads {resource}"),
                Err(error) => ensure!(format!("{error:#}").contains("Forbidden"), "{error:#}"),
            }
        }
    }
    Ok(())
}

/// The paths that the API server has right after an admin applied the manifests, before the webhook could restore them.
async fn manifests_that_are_applied_again_leave_the_path(t: &Space) -> Result<()> {
    let file = manifests::directory().join("webhook/configurations.yaml").display().to_string();
    for way in [&["apply"][..], &["apply", "--server-side", "--force-conflicts"]] {
        let applied = t.kubectl(&[way, &["--filename", &file, "--output", "json"]].concat()).await?;
        let applied: Value = serde_json::from_str(&applied)?;
        let webhooks = applied["items"].as_array().into_iter().flatten();
        let webhooks: Vec<_> = webhooks.flat_map(|it| it["webhooks"].as_array().into_iter().flatten()).collect();
        ensure!(webhooks.len() == ROUTES.len(), "{way:?}: {} webhooks", webhooks.len());
        for webhook in webhooks {
            let client = &webhook["clientConfig"];
            let path = client["service"]["path"].as_str().unwrap_or_default();
            let route = ROUTES.iter().find(|(name, _)| webhook["name"] == *name).context("an unknown webhook")?.1;
            ensure!(path.len() > route.len() + 32 && path.ends_with(route), "{way:?}: the path is {path:?}");
            ensure!(client["caBundle"].is_string(), "{way:?}: there is no caBundle");
        }
    }
    Ok(())
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
    ensure!(written["metadata"]["annotations"][keys::REQUESTER].is_string(), "there is no stamp in it: {written}");
    t.refuses(stolen).await?.by(MUTATING)?.about("spec.source.pvc.namespace", "FieldValueForbidden", "mallory")?;
    Ok(())
}

async fn with_client_certificates_only_the_api_server_is_answered(t: &Space) -> Result<()> {
    let disk = t.source("disk").blank().await?;
    let review = forged(&clone_of(&disk).object(t.name()), t.name());
    ask_directly(t, &review).await.context("without it whoever knows the path is answered")?;
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
    // Its API server has a certificate for webhooks; another cluster's may have none.
    t.lab()?;
    let deployments: Api<Deployment> = Api::namespaced(t.client().clone(), NAMESPACE);
    let name = common::manifest::name(keys::WEBHOOK);
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
    t.undo(async move { roll_out(&again, keys::WEBHOOK, back).await });
    roll_out(t, keys::WEBHOOK, become_of(template)).await
}
