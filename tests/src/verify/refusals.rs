//! Requests of smartclone's own accounts that its own policies refused, as the API server's record of a run shows them. A refused request
//! is repeated only after a while, so whoever sends one too early waits for nothing. Tests that take a right away, fill a quota or end a
//! namespace provoke other refusals, which are none of these; tests that try what the policies refuse act as one of the accounts, which
//! the record shows as their own requests.

use std::collections::BTreeMap;

use anyhow::Result;
use common::{keys, manifest};

use super::none;
use crate::bench::audit::{Mark, Request};

/// The end of the names of our policies.
const OURS: &str = ".smartclone.dev";

/// Fails with every request of smartclone's accounts since `start` that one of its policies refused.
pub fn none_of_our_own(start: &Mark) -> Result<String> {
    let accounts = [keys::CONTROLLER, keys::WEBHOOK].map(manifest::user);
    let requests = start.requests(|request| accounts.iter().any(|account| account.as_str() == request.username()))?;
    none("smartclone's own policies refused requests of smartclone", &refused(&requests))?;
    Ok(format!("{} requests of smartclone, none refused by its policies", requests.len()))
}

/// A line for each kind of request that a policy of ours refused.
fn refused(requests: &[Request]) -> Vec<String> {
    let mut found: BTreeMap<String, (usize, &str)> = BTreeMap::new();
    for request in requests {
        if let Some((policy, words)) = request.refused_by_policy().filter(|(policy, _)| policy.ends_with(OURS)) {
            found.entry(format!("{request} by {policy}")).or_insert((0, words)).0 += 1;
        }
    }
    found.into_iter().map(|(what, (count, words))| format!("{count} × {what}: {words}")).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn request(code: u16, message: &str) -> Request {
        serde_json::from_value(json!({
            "verb": "delete", "userAgent": "smartclone-controller/0.1.0",
            "user": {"username": manifest::user(keys::CONTROLLER)},
            "objectRef": {"resource": "persistentvolumeclaims", "namespace": "n", "name": "x"},
            "responseStatus": {"code": code, "message": message},
            "requestReceivedTimestamp": "2026-01-01T00:00:00Z", "stageTimestamp": "2026-01-01T00:00:00Z",
        }))
        .unwrap()
    }

    fn by_policy(name: &str) -> String {
        format!(
            "persistentvolumeclaims \"x\" is forbidden: ValidatingAdmissionPolicy '{name}' with binding '{name}' denied request: no"
        )
    }

    #[test]
    fn only_what_our_policies_refuse_counts() {
        let (ours, movers) = (by_policy("controller.smartclone.dev"), by_policy("movers.smartclone.dev"));
        let of_the_cluster = by_policy("images.example.com");
        for (code, message, counts) in [
            (403, ours.as_str(), true),
            (422, &movers, true),
            (403, &of_the_cluster, false),
            (403, "persistentvolumeclaims \"x\" is forbidden: User \"u\" cannot delete", false),
            (403, "pods \"x\" is forbidden: exceeded quota: q", false),
            (403, "unable to create new content in namespace n because it is being terminated", false),
            (409, "the object has been modified", false),
            (200, "", false),
        ] {
            let found = refused(&[request(code, message), request(code, message)]);
            assert_eq!(found.len(), usize::from(counts), "{message}: {found:?}");
            let start = "2 × smartclone-controller delete persistentvolumeclaims by ";
            assert!(found.iter().all(|line| line.starts_with(start)), "{found:?}");
        }
    }
}
