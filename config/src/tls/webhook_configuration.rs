//! Makes API servers trust us: keeps `caBundle` of our webhook configurations equal to the authority's bundle.

use std::fmt::Debug;

use json_patch::{AddOperation, Patch, PatchOperation, TestOperation, jsonptr::PointerBuf};
use k8s_openapi::{
    ByteString,
    api::admissionregistration::v1::{MutatingWebhookConfiguration, ValidatingWebhookConfiguration},
};
use kube::{
    Api, Resource, ResourceExt,
    api::{self, PatchParams},
};
use serde::de::DeserializeOwned;
use serde_json::json;
use thiserror::Error;
use tracing::info;

const ROUNDS: usize = 5;

/// The bundle could not be published.
#[derive(Debug, Error)]
pub enum Error {
    /// The configuration cannot be read.
    #[error("failed to read {0}")]
    Read(String, #[source] kube::Error),
    /// The configuration cannot be patched.
    #[error("failed to patch caBundle of {0}")]
    Patch(String, #[source] kube::Error),
    /// The configuration was not installed, or has no webhook.
    #[error("{0} does not exist or is empty")]
    Absent(String),
}

/// An object that tells API servers whom to call and whom to trust.
pub(super) trait Configuration:
    Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static
{
    /// The bundle of each webhook, in order.
    fn bundles(&self) -> Vec<Option<&ByteString>>;
}

impl Configuration for MutatingWebhookConfiguration {
    fn bundles(&self) -> Vec<Option<&ByteString>> {
        self.webhooks.iter().flatten().map(|webhook| webhook.client_config.ca_bundle.as_ref()).collect()
    }
}

impl Configuration for ValidatingWebhookConfiguration {
    fn bundles(&self) -> Vec<Option<&ByteString>> {
        self.webhooks.iter().flatten().map(|webhook| webhook.client_config.ca_bundle.as_ref()).collect()
    }
}

/// Returns once every webhook of the configuration has this bundle.
pub(super) async fn publish<K: Configuration>(api: &Api<K>, name: &str, bundle: &ByteString) -> Result<(), Error> {
    let title = || format!("{} {name}", K::kind(&()));
    let mut more_rounds = 1..ROUNDS;
    loop {
        let found = api.get_opt(name).await.map_err(|error| Error::Read(title(), error))?;
        let Some(configuration) = found.filter(|found| !found.bundles().is_empty()) else {
            return Err(Error::Absent(title()));
        };
        let Some(patch) = difference(&configuration, bundle) else { return Ok(()) };
        match api.patch(name, &PatchParams::default(), &api::Patch::Json::<()>(patch)).await {
            Ok(_) => {
                info!(configuration = title(), "published the certificate authority");
                return Ok(());
            }
            Err(error) if is_lost_race(&error) && more_rounds.next().is_some() => {}
            Err(error) => return Err(Error::Patch(title(), error)),
        }
    }
}

/// A failed test of a JSON patch is answered with 422, not 409.
fn is_lost_race(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if matches!(status.code, 404 | 409 | 422))
}

/// What has to change in exactly this version; nothing else may have moved, for webhooks are addressed by position.
fn difference<K: Configuration>(configuration: &K, bundle: &ByteString) -> Option<Patch> {
    let changes: Vec<_> = configuration
        .bundles()
        .into_iter()
        .enumerate()
        .filter(|(_, present)| *present != Some(bundle))
        .map(|(index, _)| {
            let path = PointerBuf::from_tokens(["webhooks", &index.to_string(), "clientConfig", "caBundle"]);
            PatchOperation::Add(AddOperation { path, value: json!(bundle) })
        })
        .collect();
    if changes.is_empty() {
        return None;
    }
    let test = PatchOperation::Test(TestOperation {
        path: PointerBuf::from_tokens(["metadata", "resourceVersion"]),
        value: json!(configuration.resource_version()),
    });
    Some(Patch([vec![test], changes].concat()))
}
