//! The mode of this cluster, for admins: in the log, in a metric, and as an event on the CDI object. A change of the mode starts a pass over
//! every clone, because one that was CDI's may be smartclone's now.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use common::{
    api::{Cdi, DataVolume},
    clone::populator,
    lookup::Lookup,
    mode::Mode,
};
use config::shutdown::Shutdown;
use futures::channel::mpsc;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::{Resource, runtime::reflector::ObjectRef};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{family::Family, gauge::Gauge},
    registry::Registry,
};
use tracing::info;

use crate::{
    context::Context,
    events,
    periodic::{self, RESYNC, RETRY_NOT_SYNCED, Trigger},
};

/// The reason of the event on the CDI object.
const REASON: &str = "SmartcloneMode";

/// The names of all modes, see [`Mode::as_str`].
const MODES: [&str; 3] = ["alone", "beside", "passive"];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    mode: &'static str,
}

/// The gauge of the mode.
#[derive(Clone, Default)]
pub struct ModeGauge(Family<Labels, Gauge>);

impl ModeGauge {
    /// The gauge, registered in `registry`.
    pub fn register(registry: &mut Registry) -> Self {
        let gauge = Self::default();
        registry.register(
            "mode",
            "1 for the mode of this cluster, else 0: alone, beside CDI, passive",
            gauge.0.clone(),
        );
        gauge
    }

    fn set(&self, mode: &Mode) {
        for name in MODES {
            self.0.get_or_create(&Labels { mode: name }).set(i64::from(name == mode.as_str()));
        }
    }
}

/// The clones of which a change of the mode starts a pass.
pub struct AffectedClones {
    pub(crate) volumes: mpsc::UnboundedReceiver<ObjectRef<DataVolume>>,
    pub(crate) claims: mpsc::UnboundedReceiver<ObjectRef<PersistentVolumeClaim>>,
}

/// Reports the mode whenever it changes.
pub struct ModeReporter {
    ctx: Arc<Context>,
    gauge: ModeGauge,
    /// The mode that was reported last.
    reported: Mutex<Option<Mode>>,
    volumes: mpsc::UnboundedSender<ObjectRef<DataVolume>>,
    claims: mpsc::UnboundedSender<ObjectRef<PersistentVolumeClaim>>,
}

impl ModeReporter {
    /// The reporter, and the clones that it triggers.
    pub fn new(ctx: Arc<Context>, gauge: ModeGauge) -> (Self, AffectedClones) {
        let ((volumes, affected_volumes), (claims, affected_claims)) = (mpsc::unbounded(), mpsc::unbounded());
        let reporter = Self { ctx, gauge, reported: Mutex::default(), volumes, claims };
        (reporter, AffectedClones { volumes: affected_volumes, claims: affected_claims })
    }

    /// Reports the mode now, and whenever it has changed. `trigger` is notified when a CDI object has changed.
    pub async fn run(self, trigger: Trigger, shutdown: Shutdown) {
        let reporter = Arc::new(self);
        periodic::run(trigger, shutdown, || {
            let reporter = Arc::clone(&reporter);
            async move { reporter.reconcile().await }
        })
        .await;
    }

    /// Returns the time until the next run.
    async fn reconcile(&self) -> Duration {
        let Lookup::Present(mode) = periodic::mode(&self.ctx) else { return RETRY_NOT_SYNCED };
        let former = self.reported.lock().unwrap_or_else(PoisonError::into_inner).replace(mode.clone());
        if former.as_ref() == Some(&mode) {
            return RESYNC;
        }
        info!(mode = mode.as_str(), "{}", mode.describe());
        self.gauge.set(&mode);
        // The first passes after the start see the first mode.
        if former.is_some() {
            self.trigger_clones();
        }
        self.publish(&mode).await;
        RESYNC
    }

    /// Triggers every DataVolume, and every claim that is populated without one. Sending fails only during shutdown.
    fn trigger_clones(&self) {
        for volume in self.ctx.caches.data_volumes.known_objects() {
            let _ = self.volumes.unbounded_send(ObjectRef::from_obj(&*volume));
        }
        for claim in self.ctx.caches.claims.known_objects() {
            if populator::wanted(&claim).is_some() {
                let _ = self.claims.unbounded_send(ObjectRef::from_obj(&*claim));
            }
        }
    }

    /// Publishes an event on the CDI object: CDI's own, if there are several. Without a CDI object there is none.
    async fn publish(&self, mode: &Mode) {
        let all = self.ctx.caches.cdis.known_objects();
        let is_cdis_own = |cdi: &&Arc<Cdi>| Mode::of([&***cdi]) == *mode;
        let Some(cdi) = all.iter().find(is_cdis_own).or(all.first()) else { return };
        let is_warning = matches!(mode, Mode::Passive(_));
        let event = events::event(is_warning, REASON, &mode.describe(), "Follow");
        events::publish(&[event], &cdi.object_ref(&()), &self.ctx.recorder).await;
    }
}

#[cfg(test)]
mod tests;
