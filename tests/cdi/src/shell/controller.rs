//! The controller: passes of DataVolumes and of the clone populator.

use std::sync::Arc;

use common::api::DataVolume;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::{ResourceExt as _, runtime::reflector::ObjectRef};
use tracing::{debug, warn};

use super::{
    cache::{Caches, Queues, reference},
    limiter::Limiter,
    queue::{Key, Queue},
    recorder::Recorder,
    writer::Writer,
};
use crate::{
    claim,
    populator::{self, populate, source_of, temporary_name},
    reconcile::{self, Pass, reconcile},
    token::Tokens,
    version::Version,
};

/// The number of passes at the same time, of each kind.
const WORKERS: usize = 3;

/// The controller.
pub struct Controller {
    /// What is known.
    pub caches: Caches,
    /// What is to be done.
    pub queues: Arc<Queues>,
    /// The writes.
    pub writer: Writer,
    /// The events.
    pub recorder: Recorder,
    /// The key of tokens.
    pub tokens: Tokens,
    /// The imitated version.
    pub version: Version,
    /// The limit of writes of DataVolumes.
    pub limiter: Limiter,
}

/// A pass has failed and is repeated.
type Failure = Box<dyn std::error::Error + Send + Sync>;

impl Controller {
    /// Works for ever.
    pub async fn run(&self) {
        let data_volumes = (0..WORKERS).map(|_| self.work_on_data_volumes());
        let claims = (0..WORKERS).map(|_| self.work_on_claims());
        futures::join!(futures::future::join_all(data_volumes), futures::future::join_all(claims));
    }

    async fn work_on_data_volumes(&self) {
        loop {
            let key = self.queues.data_volumes.next().await;
            let result = self.data_volume(&key).await;
            finish(&self.queues.data_volumes, &key, &result);
        }
    }

    async fn work_on_claims(&self) {
        loop {
            let key = self.queues.claims.next().await;
            let result = self.claim(&key).await;
            finish(&self.queues.claims, &key, &result);
        }
    }

    /// One pass of a DataVolume: the sync steps, and then the status, also when they failed.
    async fn data_volume(&self, (namespace, name): &Key) -> Result<(), Failure> {
        let Some(data_volume) = self.caches.data_volumes.get(&reference(namespace, name)) else { return Ok(()) };
        // Without a source no controller of CDI is responsible: not even the status is written.
        let Some(source) = self.caches.source(&data_volume) else { return Ok(()) };
        let claim = self.caches.claims.get(&reference(namespace, name));
        let object = self.caches.source_object(&source);
        let uid = data_volume.uid().unwrap_or_default();
        let clone_source = format!("volume-clone-source-{uid}");
        let clone_source = self.caches.clone_sources.get(&reference(&source.namespace, &clone_source));
        let settings = self.caches.settings(self.version);
        let observed = reconcile::Observed {
            data_volume: &data_volume,
            claim: claim.as_deref(),
            source: &source,
            source_object: object.as_ref(),
            clone_source: clone_source.as_deref(),
            settings: &settings,
            now: Timestamp::now(),
        };
        let pass = reconcile(&observed, &self.tokens);
        let mut latest = (*data_volume).clone();
        let written = self.sync(&pass, &mut latest, claim.as_deref()).await;
        // A PUT of the status needs the version that the sync has left.
        let mut cached = (*data_volume).clone();
        cached.metadata.resource_version = latest.metadata.resource_version.clone();
        self.report(&cached, &pass).await?;
        written?;
        match &pass.error {
            Some(error) => Err(error.message().into()),
            None => Ok(()),
        }
    }

    async fn sync(
        &self,
        pass: &Pass,
        latest: &mut DataVolume,
        claim: Option<&PersistentVolumeClaim>,
    ) -> Result<(), Failure> {
        let mut claim = claim.cloned();
        for write in &pass.writes {
            self.limiter.acquire().await;
            match write {
                reconcile::Write::DataVolume(edit) => self.writer.edit_data_volume(latest, edit).await?,
                reconcile::Write::Claim(edit) => {
                    if let Some(claim) = &mut claim {
                        self.writer.edit_claim(claim, edit).await?;
                    }
                }
                reconcile::Write::CreateClaim(new) => self.writer.create_claim(new, false).await?,
                reconcile::Write::CreateCloneSource(new) => self.writer.create_clone_source(new).await?,
                reconcile::Write::DeleteCloneSource { namespace, name } => {
                    self.writer.delete_clone_source(namespace, name).await?;
                }
            }
        }
        Ok(())
    }

    /// Writes the status if it differs from the cached one, and then the events.
    async fn report(&self, cached: &DataVolume, pass: &Pass) -> Result<(), Failure> {
        if cached.status.clone().unwrap_or_default() != pass.status {
            self.limiter.acquire().await;
            match self.writer.write_status(cached, &pass.status).await {
                // It was deleted meanwhile.
                Err(kube::Error::Api(status)) if status.code == 404 => return Ok(()),
                written => written?,
            }
            // CDI's own event brings a second pass before its cache has the first one's result: the same patch again. Under load the two
            // passes are one.
            if self.version.patches_status() && self.queues.data_volumes.is_idle() {
                self.limiter.acquire().await;
                let _ = self.writer.write_status(cached, &pass.status).await;
            }
        }
        for event in &pass.events {
            self.recorder.record(cached, event).await;
        }
        Ok(())
    }

    /// One pass of the populator.
    async fn claim(&self, (namespace, name): &Key) -> Result<(), Failure> {
        let Some(claim) = self.caches.claims.get(&reference(namespace, name)) else { return Ok(()) };
        let Some(named) = claim::clone_source(&claim) else { return Ok(()) };
        let source_namespace = claim::clone_source_namespace(&claim);
        let clone_source = self.caches.clone_sources.get(&reference(&source_namespace, &named.name));
        let object = clone_source.as_deref().and_then(|it| self.caches.source_object(&source_of(it)));
        let temporary = self.caches.claims.get(&reference(&source_namespace, &temporary_name(&claim)));
        let volume = temporary.as_ref().and_then(|it| it.spec.as_ref()?.volume_name.clone());
        let volume = volume.and_then(|name| self.caches.volumes.get(&ObjectRef::<PersistentVolume>::new(&name)));
        let settings = self.caches.settings(self.version);
        let observed = populator::Observed {
            claim: &claim,
            clone_source: clone_source.as_deref(),
            source_object: object.as_ref(),
            temporary: temporary.as_deref(),
            volume: volume.as_deref(),
            settings: &settings,
        };
        let writes = populate(&observed, &self.tokens, Timestamp::now())?;
        let mut latest = (*claim).clone();
        for write in writes {
            match write {
                populator::Write::Claim(edit) => self.writer.edit_claim(&mut latest, &edit).await?,
                populator::Write::CreateTemporary(new) => self.writer.create_claim(&new, true).await?,
                populator::Write::Rebind { volume, version } => {
                    self.writer.rebind(&volume, version.as_deref(), &latest).await?;
                }
                populator::Write::DeleteOwned => {
                    for owned in self.caches.owned_claims(&claim.uid().unwrap_or_default()) {
                        self.writer.delete_claim(&owned).await?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// Ends a pass: after a failure it is repeated.
fn finish(queue: &Queue, key: &Key, result: &Result<(), Failure>) {
    if let Err(error) = result {
        match error.downcast_ref::<kube::Error>() {
            Some(kube::Error::Api(status)) if status.code == 409 => debug!(?key, "conflict"),
            _ => warn!(?key, %error, "the pass failed"),
        }
    }
    queue.done(key, result.is_ok());
}

#[cfg(test)]
mod tests;
