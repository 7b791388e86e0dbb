//! Webhook configurations, which tell API servers which authority to trust and which path to call: keeps `caBundle` of ours equal to the
//! authority's bundle, and `service.path` equal to a secret segment and the webhook's route.

use std::fmt::Debug;

use jiff::Timestamp;
use json_patch::{AddOperation, Patch, PatchOperation, TestOperation, jsonptr::PointerBuf};
use k8s_openapi::{
    ByteString,
    api::admissionregistration::v1::{
        MutatingWebhookConfiguration, ServiceReference, ValidatingWebhookConfiguration, WebhookClientConfig,
    },
};
use kube::{
    Api, Resource, ResourceExt,
    api::{self, PatchParams},
};
use serde::de::DeserializeOwned;
use serde_json::json;
use thiserror::Error;
use tracing::info;

use super::{Routes, path_segment::PathSegments};

const ROUNDS: usize = 5;

/// Bundle and path could not be published.
#[derive(Debug, Error)]
pub enum Error {
    /// The configuration cannot be read.
    #[error("failed to read {0}")]
    Read(String, #[source] kube::Error),
    /// The configuration cannot be patched.
    #[error("failed to patch caBundle and path of {0}")]
    Patch(String, #[source] kube::Error),
    /// The configuration was not installed, or has no webhook.
    #[error("{0} does not exist or is empty")]
    Absent(String),
}

/// The wanted contents of our webhook configurations.
pub(super) struct Published<'a> {
    /// The certificates that API servers trust.
    pub(super) bundle: &'a ByteString,
    /// The segments; one of them comes first in each path.
    pub(super) segments: &'a PathSegments,
    /// The route of each webhook, by the webhook's name. The path of any other webhook is not changed.
    pub(super) routes: Routes,
    /// The time at which a segment is chosen.
    pub(super) now: Timestamp,
}

/// The `clientConfig` of one webhook.
pub(super) struct Entry<'a> {
    name: &'a str,
    bundle: Option<&'a ByteString>,
    /// `None` if it names a URL and no Service.
    service: Option<&'a ServiceReference>,
}

impl<'a> Entry<'a> {
    fn new(name: &'a str, client: &'a WebhookClientConfig) -> Self {
        Self { name, bundle: client.ca_bundle.as_ref(), service: client.service.as_ref() }
    }

    /// The new path, if the present one has to change.
    fn new_path(&self, published: &Published<'_>) -> Option<String> {
        let (_, route) = published.routes.iter().find(|(name, _)| *name == self.name)?;
        let present = self.service?.path.as_deref().unwrap_or_default();
        let is_published = published.segments.is_published(present, route, published.now);
        if is_published { None } else { published.segments.path(route, published.now) }
    }
}

/// An object that tells API servers which webhook to call and which authority to trust.
pub(super) trait Configuration:
    Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static
{
    /// Each webhook, in order.
    fn entries(&self) -> Vec<Entry<'_>>;
}

impl Configuration for MutatingWebhookConfiguration {
    fn entries(&self) -> Vec<Entry<'_>> {
        self.webhooks.iter().flatten().map(|webhook| Entry::new(&webhook.name, &webhook.client_config)).collect()
    }
}

impl Configuration for ValidatingWebhookConfiguration {
    fn entries(&self) -> Vec<Entry<'_>> {
        self.webhooks.iter().flatten().map(|webhook| Entry::new(&webhook.name, &webhook.client_config)).collect()
    }
}

/// Writes bundle and path; returns once every webhook of the configuration has them.
pub(super) async fn publish<K: Configuration>(
    api: &Api<K>,
    name: &str,
    published: &Published<'_>,
) -> Result<(), Error> {
    let title = || format!("{} {name}", K::kind(&()));
    let mut more_rounds = 1..ROUNDS;
    loop {
        let found = api.get_opt(name).await.map_err(|error| Error::Read(title(), error))?;
        let Some(configuration) = found.filter(|found| !found.entries().is_empty()) else {
            return Err(Error::Absent(title()));
        };
        let Some(patch) = difference(&configuration, published) else { return Ok(()) };
        match api.patch(name, &PatchParams::default(), &api::Patch::Json::<()>(patch)).await {
            Ok(_) => {
                info!(configuration = title(), "published the certificate authority and the path");
                return Ok(());
            }
            Err(error) if is_lost_race(&error) && more_rounds.next().is_some() => {}
            Err(error) => return Err(Error::Patch(title(), error)),
        }
    }
}

/// True after a conflict. A failed test of a JSON patch is answered with 422, not 409.
fn is_lost_race(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if matches!(status.code, 404 | 409 | 422))
}

/// The patch for exactly this version: webhooks are addressed by position, so nothing else may have changed.
fn difference<K: Configuration>(configuration: &K, published: &Published<'_>) -> Option<Patch> {
    let mut changes = Vec::new();
    for (index, entry) in configuration.entries().into_iter().enumerate() {
        let mut change = |place: &[&str], value| {
            let index = index.to_string();
            let tokens = ["webhooks", &index, "clientConfig"].into_iter().chain(place.iter().copied());
            changes.push(PatchOperation::Add(AddOperation { path: PointerBuf::from_tokens(tokens), value }));
        };
        if entry.bundle != Some(published.bundle) {
            change(&["caBundle"], json!(published.bundle));
        }
        if let Some(path) = entry.new_path(published) {
            change(&["service", "path"], json!(path));
        }
    }
    if changes.is_empty() {
        return None;
    }
    let test = PatchOperation::Test(TestOperation {
        path: PointerBuf::from_tokens(["metadata", "resourceVersion"]),
        value: json!(configuration.resource_version()),
    });
    Some(Patch([vec![test], changes].concat()))
}
