//! What one clone finds out about a driver spares others the trouble.

use common::{
    api::{CloneStrategy, Phase},
    clone::{Observed, Plan, breaker},
    lookup::Lookup,
};
use tracing::warn;

use crate::{profile, run::Context};

/// Remembers what the driver refused in this pass, and forgets a refusal that no longer holds. Nothing depends on it.
pub async fn from(seen: &Observed, plan: &Plan, ctx: &Context) {
    let learned = if let Some(refused) = plan.refused.as_ref().filter(|refused| !refused.past.too_slow) {
        profile::record(ctx, &refused.class, |known| {
            Some(breaker::refused(
                known,
                refused.past.strategy,
                &refused.driver,
                &refused.source_class,
                refused.code,
                &refused.past.message,
                seen.now,
            ))
        })
        .await
    } else {
        forget(seen, plan, ctx).await
    };
    if let Err(error) = learned {
        warn!(error = %config::Chain(&error), "what a driver refused could not be recorded");
    }
}

/// A clone that succeeds by a strategy that is on record as refused proves that it isn't any more.
async fn forget(seen: &Observed, plan: &Plan, ctx: &Context) -> Result<(), kube::Error> {
    let succeeded = plan.phase == Phase::Succeeded && seen.volume.status.phase != Phase::Succeeded;
    let smart = seen.volume.history.pinned.filter(|strategy| *strategy != CloneStrategy::Copy);
    let (Some(strategy), true) = (smart, succeeded) else { return Ok(()) };
    let (Lookup::Present(class), Lookup::Present(source)) = (&seen.facts.target_class, &seen.facts.source) else {
        return Ok(());
    };
    let profile = ctx.caches.profiles.get(None, &class.name);
    let known = profile.present().and_then(|profile| profile.status.as_ref()).map(|status| status.refusals.as_slice());
    if breaker::succeeded(known.unwrap_or_default(), strategy, &class.provisioner, &source.class).is_none() {
        return Ok(());
    }
    profile::record(ctx, &class.name, |known| breaker::succeeded(known, strategy, &class.provisioner, &source.class))
        .await
}
