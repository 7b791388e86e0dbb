//! The reconciler of StorageProfiles: creates one for each StorageClass, writes its status, and records what drivers refused.

use std::{sync::Arc, time::Duration};

use common::{
    api::{Refusal, StorageProfile, StorageProfileSpec, StorageProfileStatus},
    keys,
    lookup::Lookup,
    mode::Mode,
    object::exact,
    storage::{profile::status, refusals, snapshot_class::SnapshotClass},
};
use config::{api::Objects, shutdown::Shutdown};
use jiff::Timestamp;
use k8s_openapi::api::storage::v1::StorageClass;
use kube::{Resource, ResourceExt, api::ObjectMeta};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{family::Family, gauge::Gauge},
    registry::Registry,
};
use serde_json::json;
use tracing::{info, warn};

use crate::{
    context::Context,
    periodic::{self, RESYNC, RETRY_FAILED, RETRY_NOT_SYNCED, Trigger},
    write::{StatusReplacement, create_if_absent, merge_patch, replace_status},
};

/// The maximum number of attempts to record a refusal. Other writers of the same profile cause conflicts, but rarely so many in a row.
const MAX_ATTEMPTS: usize = 8;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    driver: String,
    strategy: &'static str,
}

/// The gauge of the refusals in force.
#[derive(Clone, Default)]
pub struct OpenRefusals(Family<Labels, Gauge>);

impl OpenRefusals {
    /// The gauge, registered in `registry`.
    pub fn register(registry: &mut Registry) -> Self {
        let gauge = Self::default();
        registry.register("open_refusals", "Refusals of drivers that are in force, by strategy", gauge.0.clone());
        gauge
    }

    /// Counts the refusals in force. Returns the time at which the first of them ends.
    fn count(&self, profiles: &[Arc<StorageProfile>], beside_cdi: bool, now: Timestamp) -> Option<Timestamp> {
        self.0.clear();
        let all = profiles.iter().flat_map(|profile| refusals::recorded(profile, beside_cdi));
        let open = all.filter(|refusal| refusals::open(refusal, now));
        open.inspect(|refusal| {
            let driver = refusal.driver.clone().unwrap_or_default();
            let strategy = refusal.strategy.map(common::api::CloneStrategy::as_str).unwrap_or_default();
            self.0.get_or_create(&Labels { driver, strategy }).inc();
        })
        .filter_map(|refusal| refusal.until.as_ref().map(|until| until.0))
        .min()
    }
}

/// Creates the profiles and writes their status. `trigger` is notified when a StorageClass, StorageProfile, VolumeSnapshotClass or CDI object has changed.
pub async fn run(ctx: Arc<Context>, gauge: OpenRefusals, trigger: Trigger, shutdown: Shutdown) {
    periodic::run(trigger, shutdown, || {
        let (ctx, gauge) = (Arc::clone(&ctx), gauge.clone());
        async move { reconcile(&ctx, &gauge).await }
    })
    .await;
}

/// Reconciles the profiles of all classes. Returns the time until the next run.
async fn reconcile(ctx: &Context, gauge: &OpenRefusals) -> Duration {
    let now = Timestamp::now();
    let (Lookup::Present(ours), Lookup::Present(classes), Lookup::Present(profiles)) =
        (periodic::is_alone(ctx), ctx.caches.classes.all(), ctx.caches.profiles.all())
    else {
        return RETRY_NOT_SYNCED;
    };
    let snapshot_classes: Vec<_> = match ctx.caches.snapshot_classes.all() {
        Lookup::Present(all) => all.iter().map(|class| SnapshotClass::of(class)).collect(),
        Lookup::Absent => Vec::new(),
        Lookup::Unknown(_) => return RETRY_NOT_SYNCED,
    };
    let until = gauge.count(&profiles, !ours, now);
    let mut after = until.and_then(|until| Duration::try_from(until.duration_since(now)).ok()).unwrap_or(RESYNC);
    for class in classes.iter().filter(|class| ours && class.metadata.deletion_timestamp.is_none()) {
        let profile = profiles.iter().find(|p| p.metadata.name == class.metadata.name).map(AsRef::as_ref);
        if let Err(error) = reconcile_profile(class, profile, &snapshot_classes, now, ctx).await {
            warn!(name = class.name_any(), error = %config::Chain(&error), "a StorageProfile could not be written");
            after = RETRY_FAILED;
        }
    }
    after
}

/// Creates the profile of `class`, or writes its status if it has changed.
async fn reconcile_profile(
    class: &StorageClass,
    profile: Option<&StorageProfile>,
    snapshot_classes: &[SnapshotClass],
    now: Timestamp,
    ctx: &Context,
) -> Result<(), kube::Error> {
    let api = Objects::all(ctx.client.clone());
    let Some(profile) = profile else {
        // The event of the profile's creation triggers the run that writes its status.
        if create_if_absent(&api, &new_profile(class)).await? {
            info!(name = class.name_any(), "created the StorageProfile");
        }
        return Ok(());
    };
    let next = status(class, Some(profile), snapshot_classes, now);
    if profile.metadata.deletion_timestamp.is_some() || profile.status.as_ref() == Some(&next) {
        return Ok(());
    }
    // A profile that is newer, or gone, triggers the next run by its event.
    let _ = replace_status(&api, StorageProfile { status: Some(next), ..profile.clone() }).await?;
    Ok(())
}

/// A new profile, which is deleted with its class.
fn new_profile(class: &StorageClass) -> StorageProfile {
    StorageProfile {
        metadata: ObjectMeta {
            name: class.metadata.name.clone(),
            labels: Some([(keys::APP_LABEL.to_owned(), keys::APP.to_owned())].into()),
            owner_references: class.owner_ref(&()).map(|owner| vec![owner]),
            ..ObjectMeta::default()
        },
        spec: StorageProfileSpec::default(),
        status: None,
    }
}

/// Records a driver's refusal for clones into `class`, or removes it. `change` returns the new refusals, or `None` if nothing changes. It
/// is called again after a conflict, because others write the same profile. Without a profile nothing is recorded.
pub async fn record(
    ctx: &Context,
    class: &str,
    change: impl Fn(&[Refusal]) -> Option<Vec<Refusal>>,
) -> Result<(), kube::Error> {
    let api = Objects::<StorageProfile>::all(ctx.client.clone());
    let beside_cdi = periodic::mode(ctx).present().is_some_and(|mode| *mode != Mode::Alone);
    let mut known = ctx.caches.profiles.get(None, class).present().map(|profile| (**profile).clone());
    for attempt in 1.. {
        let profile = match known.take() {
            Some(profile) => profile,
            None => match api.get_opt(class).await? {
                Some(profile) => profile,
                None => break,
            },
        };
        let known = refusals::recorded(&profile, beside_cdi);
        // Many clones are refused at once; another one may have recorded the same refusal.
        let Some(refusals) = change(&known).filter(|next| *next != known) else { break };
        match write_refusals(&api, profile, refusals, beside_cdi).await? {
            StatusReplacement::Written | StatusReplacement::Gone => break,
            StatusReplacement::Conflict(_) if attempt < MAX_ATTEMPTS => {}
            StatusReplacement::Conflict(error) => return Err(error),
        }
    }
    Ok(())
}

/// Writes the refusals of exactly this version of a profile: into its status, or into an annotation where the status is CDI's.
async fn write_refusals(
    api: &Objects<StorageProfile>,
    profile: StorageProfile,
    refusals: Vec<Refusal>,
    beside_cdi: bool,
) -> Result<StatusReplacement, kube::Error> {
    if !beside_cdi {
        let status = StorageProfileStatus { refusals, ..profile.status.clone().unwrap_or_default() };
        return replace_status(api, StorageProfile { status: Some(status), ..profile }).await;
    }
    let text = (!refusals.is_empty()).then(|| json!(refusals).to_string());
    let patch = json!({ "metadata": { "annotations": { keys::REFUSALS: text } } });
    StatusReplacement::of(merge_patch(api, &exact(&profile.metadata), patch).await)
}

#[cfg(test)]
mod tests;
