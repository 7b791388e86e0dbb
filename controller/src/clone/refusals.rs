//! Refusals of drivers: records what one clone learns about a driver, for similar clones.

use std::sync::{Mutex, MutexGuard, PoisonError};

use common::{
    api::Phase,
    clone::{Observed, Plan},
    lookup::Lookup,
    mode::Mode,
    storage::refusals::{self, NamespaceRefusals, RefusalKey},
};
use tracing::warn;

use super::Reconciler;
use crate::profile;

/// The refusals that clones of each namespace met. They are kept in memory only: users who may read StorageProfiles must not learn about
/// other namespaces.
#[derive(Default)]
pub struct Refusals(Mutex<NamespaceRefusals>);

impl Refusals {
    fn lock(&self) -> MutexGuard<'_, NamespaceRefusals> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Adds the refusals that the clone's namespace met to the observations. A clone that has begun is not affected.
pub fn with_known(mut observed: Observed, ctx: &Reconciler) -> Observed {
    if observed.is_begun() {
        return observed;
    }
    let (now, namespace) = (observed.now, &observed.volume.namespace);
    if let (Lookup::Present(profile), Lookup::Present(class)) =
        (&mut observed.facts.profile, &observed.facts.target_class)
    {
        profile.refused_here = ctx.refusals.lock().in_force(namespace, &class.name, now);
    }
    observed
}

/// Records the driver's refusal in this pass, or removes one that no longer holds. A failure is only logged.
pub async fn record(seen: &Observed, plan: &Plan, ctx: &Reconciler) {
    let learned = if let Some(refused) = plan.refused.as_ref().filter(|refused| !refused.past.too_slow) {
        let evidence = ctx.refusals.lock().record(&seen.volume.namespace, &refused.met, seen.now);
        match evidence {
            Some(evidence) => {
                let class = &evidence.key.class;
                profile::record(&ctx.context, class, |known| Some(refusals::refused(known, &evidence, seen.now))).await
            }
            None => Ok(()),
        }
    } else {
        forget(seen, plan, ctx).await
    };
    if let Err(error) = learned {
        warn!(error = %config::Chain(&error), "what a driver refused could not be recorded");
    }
}

/// Removes the refusal of a strategy by which a clone succeeded.
async fn forget(seen: &Observed, plan: &Plan, ctx: &Reconciler) -> Result<(), kube::Error> {
    let succeeded = plan.phase == Phase::Succeeded && seen.volume.status.phase != Phase::Succeeded;
    let smart = seen.volume.history.pinned.filter(|strategy| strategy.spec().fallback.is_some());
    let (Some(strategy), true) = (smart, succeeded) else { return Ok(()) };
    let (Lookup::Present(class), Lookup::Present(source), Lookup::Present(claim)) =
        (&seen.facts.target_class, &seen.facts.source, &seen.claim)
    else {
        return Ok(());
    };
    let key = RefusalKey {
        strategy,
        driver: class.provisioner.clone(),
        source_class: source.class.clone(),
        class: class.name.clone(),
    };
    ctx.refusals.lock().succeeded(&seen.volume.namespace, &key, claim.request);
    let profile = ctx.context.caches.profiles.get(None, &class.name);
    let beside_cdi = seen.mode != Mode::Alone;
    let known = profile.present().map(|profile| refusals::recorded(profile, beside_cdi)).unwrap_or_default();
    if refusals::succeeded(&known, &key, claim.request).is_none() {
        return Ok(());
    }
    profile::record(&ctx.context, &class.name, |known| refusals::succeeded(known, &key, claim.request)).await
}
