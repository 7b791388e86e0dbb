//! Backoff of failed passes.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use common::object::ObjectName;
use kube::runtime::controller::Action;
use tracing::{error, warn};

use crate::Error;

/// How often in a row the passes over each object have failed.
#[derive(Default)]
pub struct Backoff(Mutex<HashMap<ObjectName, u32>>);

impl Backoff {
    /// A pass came to its end.
    pub fn forget(&self, name: &ObjectName) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
    }

    /// When to try again. What fails for ever isn't tried for ever at full speed; what is a mistake of ours only when something changes.
    pub fn next(&self, kind: &str, name: &ObjectName, cause: &Error) -> Action {
        let chain = config::Chain(cause);
        if let Error::Refused(_) = cause {
            error!(kind, namespace = name.namespace, name = name.name, error = %chain, "a pass was refused");
            return Action::await_change();
        }
        let mut attempts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let attempt = attempts.entry(name.clone()).or_default();
        let delay = Duration::from_millis(250u64 << (*attempt).min(8)) + jitter(name, *attempt);
        *attempt = attempt.saturating_add(1);
        warn!(kind, namespace = name.namespace, name = name.name, error = %chain, retry_in = ?delay, "a pass failed");
        Action::requeue(delay)
    }
}

/// Up to a quarter of a second, another one for each object and attempt: what failed together isn't tried again together.
fn jitter(name: &ObjectName, attempt: u32) -> Duration {
    let mut hash = DefaultHasher::new();
    (&name.namespace, &name.name, attempt).hash(&mut hash);
    Duration::from_millis(hash.finish() % 250)
}
