//! The leader's Lease of the controller: 15 s, never released, so that a successor of a killed process waits for its end.

use std::time::Duration;

use anyhow::{Result, bail};
use jiff::Timestamp;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
};
use kube::{
    Api,
    api::{ObjectMeta, PostParams},
};
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

/// The name of the Lease.
pub const NAME: &str = "cdi-controller-leader-election-helper";
/// The time for which the leader is the leader without renewing.
const DURATION: Duration = Duration::from_secs(15);
/// The time without a renewal after which the leader gives up.
const RENEW_DEADLINE: Duration = Duration::from_secs(10);
/// The pause between two attempts.
const RETRY: Duration = Duration::from_secs(2);

/// A candidate, known by its identity.
pub struct Candidate {
    api: Api<Lease>,
    identity: String,
}

impl Candidate {
    /// A candidate of this identity, which no other process has.
    pub fn new(api: Api<Lease>, identity: String) -> Self {
        Self { api, identity }
    }

    /// Waits until this process is the leader. A foreign Lease has ended if it did not change for its duration, by this process's clock.
    pub async fn acquire(&self) {
        let mut observed: Option<(Option<LeaseSpec>, Instant)> = None;
        loop {
            match self.attempt(&mut observed).await {
                Ok(true) => return info!(identity = self.identity, "leads"),
                Ok(false) => {}
                Err(error) => warn!(%error, "no Lease"),
            }
            sleep(RETRY).await;
        }
    }

    async fn attempt(&self, observed: &mut Option<(Option<LeaseSpec>, Instant)>) -> Result<bool> {
        let Some(mut lease) = self.api.get_opt(NAME).await? else {
            let lease = Lease {
                metadata: ObjectMeta { name: Some(NAME.to_owned()), ..ObjectMeta::default() },
                spec: Some(self.spec(0)),
            };
            return Ok(self.api.create(&PostParams::default(), &lease).await.is_ok());
        };
        let (known, since) = observed.get_or_insert_with(|| (lease.spec.clone(), Instant::now()));
        if *known != lease.spec {
            known.clone_from(&lease.spec);
            *since = Instant::now();
        }
        if since.elapsed() < DURATION {
            return Ok(false);
        }
        let transitions = lease.spec.and_then(|spec| spec.lease_transitions).unwrap_or_default();
        lease.spec = Some(self.spec(transitions + 1));
        Ok(self.api.replace(NAME, &PostParams::default(), &lease).await.is_ok())
    }

    /// Renews the Lease for ever. Ends with an error when it is lost: then the process has to end, too.
    pub async fn renew(&self) -> Result<()> {
        let mut renewed = Instant::now();
        loop {
            sleep(RETRY).await;
            match self.renew_once().await {
                Ok(()) => renewed = Instant::now(),
                Err(error) if renewed.elapsed() > RENEW_DEADLINE => bail!("leader election lost: {error}"),
                Err(error) => warn!(%error, "Lease not renewed"),
            }
        }
    }

    async fn renew_once(&self) -> Result<()> {
        let mut lease = self.api.get(NAME).await?;
        let spec = lease.spec.get_or_insert_default();
        if spec.holder_identity.as_ref() != Some(&self.identity) {
            bail!("{:?} leads", spec.holder_identity);
        }
        spec.renew_time = Some(MicroTime(Timestamp::now()));
        self.api.replace(NAME, &PostParams::default(), &lease).await?;
        Ok(())
    }

    fn spec(&self, transitions: i32) -> LeaseSpec {
        let now = Some(MicroTime(Timestamp::now()));
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
            acquire_time: now.clone(),
            renew_time: now,
            lease_transitions: Some(transitions),
            ..LeaseSpec::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use fake_api::FakeApi;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_successor_of_a_killed_leader_waits() {
        let api = FakeApi::default();
        let candidate = |name: &str| Candidate::new(Api::namespaced(api.client(), "cdi"), name.to_owned());
        let start = Instant::now();
        candidate("one").acquire().await;
        assert!(start.elapsed() < Duration::from_millis(100), "nobody led");
        let (start, two) = (Instant::now(), candidate("two"));
        two.acquire().await;
        let waited = start.elapsed().as_secs_f32();
        assert!((15.0..19.0).contains(&waited), "{waited}");
        assert!(two.renew_once().await.is_ok());
        assert!(candidate("one").renew_once().await.is_err());
    }
}
