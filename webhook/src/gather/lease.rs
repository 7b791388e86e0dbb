//! The controller's Lease: beside CDI, a clone is taken only while the controller runs.

use std::sync::Arc;

use common::{lease, lookup::Lookup, manifest::NAMESPACE};
use config::{
    api::Objects,
    cache::{Cache, ask},
};
use futures::{FutureExt, StreamExt};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use kube::{Client, runtime::watcher};
use tokio::{sync::Notify, time::timeout};

use super::{READ_TIMEOUT, read_cache::Freshness, timed_out_lookup, watch::Watch};

/// The reader of the Lease.
pub(super) struct ControllerLease {
    client: Client,
    cache: Cache<Lease>,
}

impl ControllerLease {
    /// A reader that asks through `client` and watches through `watcher`. The watch begins with `start`: without CDI there is neither the
    /// Lease nor the right to read it.
    pub(super) fn new(client: Client, watcher: &Client, start: Arc<Notify>) -> (Self, Watch) {
        let config = watcher::Config::default().fields(&format!("metadata.name={}", lease::NAME));
        let strip = |lease: &mut Lease| lease.metadata.managed_fields = None;
        let (cache, stream) = Cache::watch_in(watcher.clone(), NAMESPACE, config, strip);
        let watch = async move {
            start.notified().await;
            stream.for_each(|_| std::future::ready(())).await;
        };
        (Self { client, cache }, ("leases", watch.boxed()))
    }

    /// True if the controller runs, as far as is known.
    pub(super) async fn is_fresh(&self, freshness: Freshness) -> bool {
        let watched = || self.cache.get(Some(NAMESPACE), lease::NAME);
        let found = match freshness {
            Freshness::Cached => watched(),
            Freshness::Latest => {
                let api = Objects::<Lease>::namespaced(self.client.clone(), NAMESPACE);
                let asked = timeout(READ_TIMEOUT, ask(&api, lease::NAME)).await;
                match asked.unwrap_or_else(|_| timed_out_lookup()) {
                    // If the API server is too busy to answer, the state of the watch suffices.
                    Lookup::Unknown(_) => watched(),
                    known => known.map(Arc::new),
                }
            }
        };
        found.present().is_some_and(|lease| is_alive(lease, Timestamp::now()))
    }
}

/// True if somebody holds the Lease and has renewed it. A controller that ends leaves it without a holder.
fn is_alive(lease: &Lease, now: Timestamp) -> bool {
    let Some(spec) = &lease.spec else { return false };
    let is_held = spec.holder_identity.as_deref().is_some_and(|holder| !holder.is_empty());
    is_held && lease::is_fresh(spec.renew_time.as_ref().map(|time| time.0), now)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;

    #[rstest]
    #[case::just_renewed(json!({"holderIdentity": "a", "renewTime": "2026-01-01T00:01:00.000000Z"}), true)]
    #[case::two_renewals_were_missed(json!({"holderIdentity": "a", "renewTime": "2026-01-01T00:00:30.000000Z"}), true)]
    #[case::stale(json!({"holderIdentity": "a", "renewTime": "2026-01-01T00:00:29.999999Z"}), false)]
    #[case::a_clock_that_is_ahead(json!({"holderIdentity": "a", "renewTime": "2026-01-01T00:01:09.000000Z"}), true)]
    #[case::given_up(json!({"holderIdentity": "", "renewTime": "2026-01-01T00:01:00.000000Z"}), false)]
    #[case::of_nobody(json!({"renewTime": "2026-01-01T00:01:00.000000Z"}), false)]
    #[case::never_renewed(json!({"holderIdentity": "a"}), false)]
    #[case::empty(Value::Null, false)]
    fn who_holds_the_lease_is_alive(#[case] spec: Value, #[case] expected: bool) {
        let lease: Lease = serde_json::from_value(json!({"metadata": {"name": lease::NAME}, "spec": spec})).unwrap();
        assert_eq!(is_alive(&lease, "2026-01-01T00:01:00Z".parse().unwrap()), expected);
    }
}
