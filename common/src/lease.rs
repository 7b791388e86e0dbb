//! The Lease by which the controller shows that it runs. Beside CDI, the webhook takes a clone only while the Lease is fresh: CDI keeps off
//! a clone that is taken, so nobody would serve it.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::coordination::v1::Lease;

/// The name of the Lease, in [`NAMESPACE`](crate::manifest::NAMESPACE).
pub const NAME: &str = "smartclone-controller";
/// The API group of Leases.
pub const GROUP: &str = "coordination.k8s.io";
/// The interval at which the controller renews the Lease.
pub const RENEW_INTERVAL: SignedDuration = SignedDuration::from_secs(10);
/// The age at which the Lease is stale: two renewals may fail. The clocks of webhook and controller may differ by as much.
pub const FRESH_FOR: SignedDuration = SignedDuration::from_secs(30);

/// True if the controller has renewed the Lease in the last [`FRESH_FOR`]. A time in the future is that of a clock which is ahead; one that
/// is further ahead would stay fresh after the controller has ended, so it does not count. A Lease without a holder was given up.
pub fn is_fresh(lease: &Lease, now: Timestamp) -> bool {
    let Some(spec) = &lease.spec else { return false };
    let is_held = spec.holder_identity.as_deref().is_some_and(|holder| !holder.is_empty());
    let age = spec.renew_time.as_ref().map(|renewed| now.duration_since(renewed.0).abs());
    is_held && age.is_some_and(|age| age <= FRESH_FOR)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;

    #[rstest]
    #[case::just_renewed(json!({"holderIdentity": "a", "renewTime": "2026-01-01T00:01:00.000000Z"}), true)]
    #[case::a_renewal_ago(json!({"holderIdentity": "a", "renewTime": "2026-01-01T00:00:50.000000Z"}), true)]
    #[case::two_were_missed(json!({"holderIdentity": "a", "renewTime": "2026-01-01T00:00:30.000000Z"}), true)]
    #[case::stale(json!({"holderIdentity": "a", "renewTime": "2026-01-01T00:00:29.999999Z"}), false)]
    #[case::long_ago(json!({"holderIdentity": "a", "renewTime": "2025-01-01T00:00:00.000000Z"}), false)]
    #[case::a_clock_ahead(json!({"holderIdentity": "a", "renewTime": "2026-01-01T00:01:30.000000Z"}), true)]
    #[case::a_wrong_clock(json!({"holderIdentity": "a", "renewTime": "2026-01-01T00:01:30.000001Z"}), false)]
    #[case::the_end_of_time(json!({"holderIdentity": "a", "renewTime": "9999-12-30T00:00:00.000000Z"}), false)]
    #[case::given_up(json!({"holderIdentity": "", "renewTime": "2026-01-01T00:01:00.000000Z"}), false)]
    #[case::of_nobody(json!({"renewTime": "2026-01-01T00:01:00.000000Z"}), false)]
    #[case::never_renewed(json!({"holderIdentity": "a"}), false)]
    #[case::empty(Value::Null, false)]
    fn a_lease_is_fresh_for_three_renewals(#[case] spec: Value, #[case] expected: bool) {
        let lease: Lease = serde_json::from_value(json!({"metadata": {"name": NAME}, "spec": spec})).unwrap();
        assert_eq!(is_fresh(&lease, "2026-01-01T00:01:00Z".parse().unwrap()), expected);
    }
}
