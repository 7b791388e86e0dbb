//! The controller's heartbeat: renews the Lease [`NAME`] while the controller clones, so that the webhook takes clones over only then.
//!
//! It is no leader election: the Deployment has one replica, and the new pod starts after the old one has ended. A renewal carries the
//! version of the Lease that was read; whoever starts later takes the Lease over.

use std::time::Duration;

use common::{
    keys::CONTROLLER,
    lease::{NAME, PERIOD, STALE_AFTER},
    manifest::{self, NAMESPACE},
    object::{ObjectVersion, exact},
};
use config::{admin::Readiness, api::Objects, shutdown::Shutdown};
use jiff::Timestamp;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
};
use kube::{Client, Resource};
use serde_json::json;
use tracing::{debug, info, warn};

use crate::write::{create, merge_patch};

/// The time until the next attempt after a failed write. Several attempts fit into [`STALE_AFTER`].
const RETRY: Duration = Duration::from_secs(2);

/// The time after which it is checked again if the watches are synced.
const NOT_READY: Duration = Duration::from_secs(1);

/// The holder that a released Lease has.
const NOBODY: &str = "";

/// Renews the Lease while `readiness` has all conditions, and releases it when the shutdown begins: clones that are created from then on
/// stay CDI's.
pub async fn run(client: Client, holder: String, readiness: Readiness, shutdown: Shutdown) {
    let mut heartbeat = Heartbeat { api: Objects::namespaced(client, NAMESPACE), holder, held: None };
    loop {
        let again = heartbeat.beat(&readiness, Timestamp::now()).await;
        tokio::select! {
            () = shutdown.begun() => break,
            () = tokio::time::sleep(again) => {}
        }
    }
    heartbeat.release().await;
}

struct Heartbeat {
    api: Objects<Lease>,
    /// The name of this pod.
    holder: String,
    /// The version of the Lease that this process wrote last.
    held: Option<ObjectVersion>,
}

impl Heartbeat {
    /// Renews the Lease if the controller is ready. Returns the time until the next call.
    async fn beat(&mut self, readiness: &Readiness, now: Timestamp) -> Duration {
        if !readiness.missing().is_empty() {
            return NOT_READY;
        }
        match self.renew(now).await {
            Ok(()) => PERIOD,
            Err(error) => {
                warn!(name = NAME, error = %config::Chain(&error), "the controller's Lease could not be renewed");
                RETRY
            }
        }
    }

    /// Renews the Lease that this process holds, or takes it over. After a failure the Lease is read again.
    async fn renew(&mut self, now: Timestamp) -> kube::Result<()> {
        let written = match self.held.take() {
            Some(held) => merge_patch(&self.api, &held, json!({"spec": {"renewTime": MicroTime(now)}})).await?,
            None => match self.api.get_opt(NAME).await? {
                Some(lease) => {
                    info!(name = NAME, holder = self.holder, "took over the controller's Lease");
                    let patch = json!({"spec": self.acquired(lease.spec.as_ref(), now)});
                    merge_patch(&self.api, &exact(&lease.metadata), patch).await?
                }
                None => create(&self.api, &self.new_lease(now)).await?,
            },
        };
        self.held = Some(exact(written.meta()));
        Ok(())
    }

    /// Leaves the Lease without a holder. A failure is only logged, because the Lease gets stale by itself.
    async fn release(&mut self) {
        let Some(held) = self.held.take() else { return };
        match merge_patch(&self.api, &held, json!({"spec": {"holderIdentity": NOBODY}})).await {
            Ok(_) => debug!(name = NAME, "released the controller's Lease"),
            Err(error) => {
                warn!(name = NAME, error = %config::Chain(&error), "the controller's Lease could not be released");
            }
        }
    }

    fn new_lease(&self, now: Timestamp) -> Lease {
        Lease { metadata: manifest::namespaced_meta(CONTROLLER, NAME), spec: Some(self.acquired(None, now)) }
    }

    /// The `spec` of a Lease that this process acquires, after another or none had it.
    fn acquired(&self, former: Option<&LeaseSpec>, now: Timestamp) -> LeaseSpec {
        let transitions = former.map_or(0, |former| former.lease_transitions.unwrap_or_default().saturating_add(1));
        LeaseSpec {
            holder_identity: Some(self.holder.clone()),
            lease_duration_seconds: i32::try_from(STALE_AFTER.as_secs()).ok(),
            acquire_time: Some(MicroTime(now)),
            renew_time: Some(MicroTime(now)),
            lease_transitions: Some(transitions),
            ..LeaseSpec::default()
        }
    }
}

#[cfg(test)]
mod tests;
