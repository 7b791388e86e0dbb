//! Backoff of failed passes.

use std::{
    borrow::Cow,
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use common::object::ObjectName;
use kube::{Resource, runtime::controller::Action};
use tracing::{error, warn};

use crate::{Error, context::name_of};

/// The object of a pass. A DataVolume and a claim may have the same name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    kind: Cow<'static, str>,
    name: ObjectName,
}

impl Key {
    fn of<K: Resource<DynamicType = ()>>(object: &K) -> Self {
        Self { kind: K::kind(&()), name: name_of(object) }
    }
}

/// The number of passes in a row that failed, for each object.
#[derive(Default)]
pub struct Backoff(Mutex<HashMap<Key, u32>>);

impl Backoff {
    /// Forgets the failures of an object after a pass over it that succeeded.
    pub fn forget<K: Resource<DynamicType = ()>>(&self, object: &K) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&Key::of(object));
    }

    /// Returns the time of the next attempt: delays grow to about a minute. After a plan that breaks an invariant, an internal error, only
    /// a change of an object starts the next pass.
    pub fn next<K: Resource<DynamicType = ()>>(&self, object: &K, cause: &Error) -> Action {
        let key = Key::of(object);
        let (kind, ObjectName { namespace, name }) = (&key.kind, &key.name);
        let chain = config::Chain(cause);
        if let Error::Refused(_) = cause {
            error!(%kind, namespace, name, error = %chain, "a pass was refused");
            return Action::await_change();
        }
        let mut attempts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let attempt = attempts.entry(key.clone()).or_default();
        let delay = Duration::from_millis(250u64 << (*attempt).min(8)) + jitter(&key, *attempt);
        *attempt = attempt.saturating_add(1);
        warn!(%kind, namespace, name, error = %chain, retry_in = ?delay, "a pass failed");
        Action::requeue(delay)
    }
}

/// Up to a quarter of a second, different for each object and attempt, so that passes that failed together are not repeated together.
fn jitter(key: &Key, attempt: u32) -> Duration {
    let mut hash = DefaultHasher::new();
    (key, attempt).hash(&mut hash);
    Duration::from_millis(hash.finish() % 250)
}

#[cfg(test)]
mod tests {
    use common::api::{DataVolume, DataVolumeSpec};
    use k8s_openapi::api::core::v1::PersistentVolumeClaim;

    use super::*;

    fn error() -> Error {
        Error::Late(Duration::from_secs(1))
    }

    /// The delay of the next attempt without its jitter, in quarters of a second.
    fn delay<K: Resource<DynamicType = ()>>(backoff: &Backoff, object: &K) -> u64 {
        let action = backoff.next(object, &error());
        let mut delays = (0..12).map(|exponent| 1_u64 << exponent);
        let is_delay = |quarters: &u64| {
            (0..250).any(|jitter| action == Action::requeue(Duration::from_millis(250 * quarters + jitter)))
        };
        delays.find(is_delay).unwrap()
    }

    #[test]
    fn a_data_volume_and_a_claim_of_one_name_fail_apart() {
        let backoff = Backoff::default();
        let (mut volume, mut claim) =
            (DataVolume::new("a", DataVolumeSpec::default()), PersistentVolumeClaim::default());
        volume.metadata.namespace = Some("n".into());
        claim.metadata.clone_from(&volume.metadata);
        assert_eq!([delay(&backoff, &volume), delay(&backoff, &volume), delay(&backoff, &volume)], [1, 2, 4]);
        assert_eq!(delay(&backoff, &claim), 1);
        backoff.forget(&claim);
        assert_eq!((delay(&backoff, &claim), delay(&backoff, &volume)), (1, 8));
        backoff.forget(&volume);
        assert_eq!((delay(&backoff, &claim), delay(&backoff, &volume)), (2, 1));
        for _ in 0..20 {
            backoff.next(&claim, &error());
        }
        assert_eq!(delay(&backoff, &claim), 256);
    }

    #[test]
    fn a_plan_that_breaks_an_invariant_is_not_repeated_by_a_timer() {
        let refused = Error::Refused("breaks something".into());
        assert_eq!(Backoff::default().next(&PersistentVolumeClaim::default(), &refused), Action::await_change());
    }
}
