//! The reconciler of the CDIConfig, a single object whose status holds the settings in force.

use std::{sync::Arc, time::Duration};

use common::{
    api::{CdiConfig, CdiConfigSpec},
    cdi_config::{Config, NAME, in_force},
    lookup::Lookup,
};
use config::{api::Objects, shutdown::Shutdown};
use tracing::info;

use crate::{
    context::Context,
    periodic::{self, RESYNC, RETRY_NOT_SYNCED, Trigger},
    write::{create_if_absent, replace_status},
};

/// Creates the object and writes its status. `trigger` is notified when a CDIConfig, a CDI object or a StorageClass has changed.
pub async fn run(ctx: Arc<Context>, trigger: Trigger, shutdown: Shutdown) {
    periodic::run(trigger, shutdown, || {
        let ctx = Arc::clone(&ctx);
        async move { reconcile(&ctx).await }
    })
    .await;
}

async fn reconcile(ctx: &Context) -> Duration {
    periodic::again(pass(ctx).await, "the CDIConfig could not be written")
}

async fn pass(ctx: &Context) -> Result<Duration, kube::Error> {
    let (Lookup::Present(ours), Lookup::Present(classes)) = (periodic::is_alone(ctx), ctx.caches.classes.all()) else {
        return Ok(RETRY_NOT_SYNCED);
    };
    let cdis = ctx.caches.cdis.known_objects();
    let api = Objects::<CdiConfig>::all(ctx.client.clone());
    match ctx.caches.configs.get(None, NAME) {
        _ if !ours => {}
        Lookup::Unknown(_) => return Ok(RETRY_NOT_SYNCED),
        Lookup::Absent => {
            if create_if_absent(&api, &CdiConfig::new(NAME, CdiConfigSpec::default())).await? {
                info!("created the CDIConfig");
            }
        }
        Lookup::Present(config) => {
            let settings = Config::of(Some(&config.spec), in_force(cdis.iter().map(AsRef::as_ref)));
            let next = settings.status(config.status.as_ref(), classes.iter().map(AsRef::as_ref));
            if config.status.as_ref() != Some(&next) && config.metadata.deletion_timestamp.is_none() {
                // A CDIConfig that is newer, or gone, triggers the next run by its event.
                let _ = replace_status(&api, CdiConfig { status: Some(next), ..(*config).clone() }).await?;
            }
        }
    }
    Ok(RESYNC)
}

#[cfg(test)]
mod tests;
