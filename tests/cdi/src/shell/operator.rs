//! The operator: keeps webhook configurations, StorageProfiles, the CDIConfig and the status of the CDI object as they should be.

use std::{collections::BTreeMap, time::Duration};

use anyhow::Result;
use common::api::{Cdi, CdiConfig, ClaimPropertySet, CloneStrategy, StorageProfile};
use futures::{StreamExt as _, stream::select_all};
use k8s_openapi::api::{
    admissionregistration::v1::{MutatingWebhookConfiguration, ValidatingWebhookConfiguration},
    storage::v1::StorageClass,
};
use kube::{
    Api, Client, Resource, ResourceExt as _,
    api::{ListParams, Patch, PatchParams},
    runtime::{WatchStreamExt as _, watcher},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tokio::time::sleep;
use tracing::{info, warn};

use super::{
    install::{config_spec, ensure},
    webhooks::{Configuration, Endpoint},
};
use crate::{
    keys::{CDI, CONFIG},
    version::Version,
};

/// The pause between a change and the operator's pass.
const PAUSE: Duration = Duration::from_millis(500);

/// The operator.
pub struct Operator {
    client: Client,
    version: Version,
    endpoint: Endpoint,
    unknown_drivers: Vec<String>,
    /// What was written last and what the API server made of it, by the name of the configuration.
    applied: BTreeMap<&'static str, (Value, Value)>,
}

impl Operator {
    /// An operator.
    pub fn new(client: Client, version: Version, endpoint: Endpoint, unknown_drivers: Vec<String>) -> Self {
        Self { client, version, endpoint, unknown_drivers, applied: BTreeMap::new() }
    }

    /// Makes a pass after each change, for ever.
    pub async fn run(mut self) -> Result<()> {
        fn changes<K>(client: &Client) -> futures::stream::BoxStream<'static, ()>
        where
            K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned + Send + 'static,
        {
            let api: Api<K> = Api::all(client.clone());
            watcher(api, watcher::Config::default()).default_backoff().map(drop).boxed()
        }
        let client = self.client.clone();
        let mut changes = select_all([
            changes::<Cdi>(&client),
            changes::<CdiConfig>(&client),
            changes::<StorageClass>(&client),
            changes::<StorageProfile>(&client),
            changes::<MutatingWebhookConfiguration>(&client),
            changes::<ValidatingWebhookConfiguration>(&client),
        ])
        .ready_chunks(100);
        loop {
            if let Err(error) = self.pass().await {
                warn!(%error, "the operator's pass failed");
                sleep(PAUSE).await;
                continue;
            }
            if changes.next().await.is_none() {
                return Ok(());
            }
            sleep(PAUSE).await;
        }
    }

    /// Makes everything as it should be; writes only what differs.
    pub async fn pass(&mut self) -> Result<()> {
        let Some(cdi) = Api::<Cdi>::all(self.client.clone()).get_opt(CDI).await? else { return Ok(()) };
        let mutating: Api<MutatingWebhookConfiguration> = Api::all(self.client.clone());
        let validating: Api<ValidatingWebhookConfiguration> = Api::all(self.client.clone());
        self.webhook(&mutating, Configuration::Mutating, &cdi).await?;
        self.webhook(&validating, Configuration::Validating, &cdi).await?;
        self.config(&cdi).await?;
        self.profiles().await?;
        self.report(&cdi).await
    }

    async fn webhook<K>(&mut self, api: &Api<K>, which: Configuration, cdi: &Cdi) -> Result<()>
    where
        K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned + Serialize,
    {
        let live = api.get_opt(which.name()).await?.map(serde_json::to_value).transpose()?;
        let desired = which.desired(&self.endpoint, &cdi.spec, live.as_ref(), self.version);
        let webhooks = |object: &Value| object["webhooks"].clone();
        if let (Some(live), Some((wanted, stored))) = (&live, self.applied.get(which.name()))
            && *wanted == desired
            && webhooks(stored) == webhooks(live)
        {
            return Ok(());
        }
        let stored = serde_json::to_value(ensure(api, &desired).await?)?;
        info!(name = which.name(), "webhook configuration written");
        self.applied.insert(which.name(), (desired, stored));
        Ok(())
    }

    async fn config(&self, cdi: &Cdi) -> Result<()> {
        let api: Api<CdiConfig> = Api::all(self.client.clone());
        let Some(present) = api.get_opt(CONFIG).await? else { return Ok(()) };
        let spec = config_spec(&cdi.spec)?;
        if serde_json::to_value(&present.spec)? != spec {
            let mut object = serde_json::to_value(&present)?;
            object["spec"] = spec;
            ensure(&api, &object).await?;
        }
        let status = json!({"filesystemOverhead": {"global": "0.06"}, "preallocation": false});
        if present.status.is_none() {
            let patch = Patch::Merge(json!({"status": status}));
            api.patch_status(CONFIG, &PatchParams::default(), &patch).await?;
        }
        Ok(())
    }

    /// A StorageProfile for each class, with its status.
    async fn profiles(&self) -> Result<()> {
        let classes: Api<StorageClass> = Api::all(self.client.clone());
        let profiles: Api<StorageProfile> = Api::all(self.client.clone());
        for class in classes.list(&ListParams::default()).await? {
            let name = class.name_any();
            let present = match profiles.get_opt(&name).await? {
                Some(present) => present,
                None => ensure(&profiles, &serde_json::to_value(StorageProfile::new(&name, <_>::default()))?).await?,
            };
            let status = self.profile_status(&class, &present);
            let known = serde_json::to_value(present.status.unwrap_or_default())?;
            // Only what the double writes is compared: conditions are nobody's.
            if status.as_object().is_some_and(|fields| fields.iter().any(|(field, value)| known[field] != *value)) {
                let patch = Patch::Merge(json!({"status": status}));
                profiles.patch_status(&name, &PatchParams::default(), &patch).await?;
            }
        }
        Ok(())
    }

    fn profile_status(&self, class: &StorageClass, profile: &StorageProfile) -> Value {
        let set = |mode: &str| ClaimPropertySet {
            access_modes: Some(vec!["ReadWriteOnce".to_owned()]),
            volume_mode: Some(mode.to_owned()),
        };
        let known = !self.unknown_drivers.contains(&class.provisioner);
        let own = profile.spec.claim_property_sets.clone();
        let sets = own.or_else(|| known.then(|| vec![set("Filesystem"), set("Block")]));
        let strategy = profile.spec.clone_strategy.unwrap_or(CloneStrategy::Snapshot);
        let mut status = json!({
            "storageClass": class.name_any(), "provisioner": class.provisioner, "cloneStrategy": strategy,
        });
        if let Some(sets) = sets {
            status["claimPropertySets"] = json!(sets);
        }
        if let Some(snapshots) = &profile.spec.snapshot_class {
            status["snapshotClass"] = json!(snapshots);
        }
        status
    }

    async fn report(&self, cdi: &Cdi) -> Result<()> {
        let version = self.version.to_string();
        let status = json!({
            "phase": "Deployed", "operatorVersion": version, "targetVersion": version, "observedVersion": version,
        });
        let known = serde_json::to_value(cdi.status.clone().unwrap_or_default())?;
        if status.as_object().is_some_and(|fields| fields.iter().any(|(field, value)| known[field] != *value)) {
            let api: Api<Cdi> = Api::all(self.client.clone());
            api.patch_status(CDI, &PatchParams::default(), &Patch::Merge(json!({"status": status}))).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use fake_api::FakeApi;

    use super::{super::webhooks::MUTATING, *};

    #[tokio::test]
    async fn what_an_admin_changes_is_put_back_unless_it_is_a_customization() -> Result<()> {
        let api = FakeApi::default();
        let patch =
            r#"[{"op": "add", "path": "/webhooks/0/matchConditions", "value": [{"name": "x", "expression": "true"}]}]"#;
        let customized = json!({"metadata": {"name": CDI}, "spec": {"customizeComponents": {"patches": [{
            "resourceName": MUTATING, "resourceType": "MutatingWebhookConfiguration", "type": "json", "patch": patch,
        }]}}});
        api.put::<Cdi>(&json!({"metadata": {"name": CDI}, "spec": {}}));
        api.put::<StorageClass>(&json!({"metadata": {"name": "c"}, "provisioner": "p"}));
        let endpoint = Endpoint { url: "https://h:1".to_owned(), authority: "pem".to_owned() };
        let mut operator = Operator::new(api.client(), Version::new(1, 66, 0), endpoint, Vec::new());
        operator.pass().await?;
        let webhook = || api.get::<MutatingWebhookConfiguration>(None, MUTATING).unwrap()["webhooks"][0].clone();
        let phase = api.get::<Cdi>(None, CDI).unwrap()["status"]["phase"].clone();
        let profile = api.get::<StorageProfile>(None, "c").unwrap()["status"].clone();
        assert_eq!((phase, &profile["cloneStrategy"]), (json!("Deployed"), &json!("snapshot")));
        api.take_requests();
        operator.pass().await?;
        assert!(api.take_writes().is_empty(), "a second pass is quiet");

        let mut changed = api.get::<MutatingWebhookConfiguration>(None, MUTATING).unwrap();
        changed["webhooks"][0]["failurePolicy"] = json!("Ignore");
        changed["webhooks"][0]["namespaceSelector"] = json!({"matchLabels": {"a": "b"}});
        api.put::<MutatingWebhookConfiguration>(&changed);
        operator.pass().await?;
        let put_back = webhook();
        assert_eq!(put_back["failurePolicy"], "Fail");
        assert_eq!(put_back["namespaceSelector"]["matchLabels"]["a"], "b");

        api.put::<Cdi>(&customized);
        operator.pass().await?;
        assert_eq!(webhook()["matchConditions"][0]["name"], "x");
        api.put::<Cdi>(&json!({"metadata": {"name": CDI}, "spec": {}}));
        operator.pass().await?;
        assert!(webhook().get("matchConditions").is_none());
        Ok(())
    }
}
