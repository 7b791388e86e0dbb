//! A certificate signed by our own authority, which API servers are told to trust.
//!
//! All replicas share the authority; each signs a short-lived leaf for itself. A pass brings everything to the wanted state, from its own
//! reads; watches only start passes. So external deletions and changes are repaired, and a restart is just another pass.
//!
//! When the authority is replaced, its successor is published together with the predecessor's certificate. A replica keeps its leaf until
//! every API server can be expected to trust the successor.
//!
//! Secret path segments work the other way round: a replica accepts a new one as soon as it reads it, and it is published later, see
//! [`path_segment`](super::path_segment).

use std::{fmt::Debug, time::Duration};

use config::Chain;
use futures::{
    Stream, StreamExt,
    stream::{self, BoxStream},
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    ByteString,
    api::{
        admissionregistration::v1::{MutatingWebhookConfiguration, ValidatingWebhookConfiguration},
        core::v1::Secret,
    },
};
use kube::{
    Api, Client, Resource,
    core::PartialObjectMeta,
    runtime::{
        WatchStreamExt,
        watcher::{self, Event},
    },
};
use thiserror::Error;
use tokio::time::sleep;
use tracing::{info, warn};

use super::{
    Routes, Serving,
    authority::{self, Authority, Leaf},
    path_segment::SecretPath,
    shared::{self, Contents, Shared},
    validity::{Verdict, Why},
    webhook_configuration::{self, publish},
};

/// The interval at which the wall clock is checked. A single timer for the life of a certificate would miss a suspension of the machine.
const PERIOD: Duration = Duration::from_mins(1);
/// The delay between two attempts after failures.
const SHORTEST_DELAY: Duration = Duration::from_secs(1);
const LONGEST_DELAY: Duration = Duration::from_secs(30);
/// The time after its publication within which every API server has read the bundle.
const SETTLE: SignedDuration = SignedDuration::from_secs(30);

/// The names of the server and of the objects that it manages.
#[derive(Debug, Clone)]
pub(super) struct Names {
    pub(super) namespace: String,
    pub(super) service: String,
    pub(super) secret: String,
    pub(super) mutating: String,
    /// The name of a further MutatingWebhookConfiguration, which need not exist.
    pub(super) optional_mutating: Option<String>,
    pub(super) validating: String,
    pub(super) routes: Routes,
}

impl Names {
    /// The DNS names of the service within the cluster; an API server uses the first.
    fn dns(&self) -> Vec<String> {
        let Self { service, namespace, .. } = self;
        ["svc", "svc.cluster.local"]
            .map(|suffix| format!("{service}.{namespace}.{suffix}"))
            .into_iter()
            .chain([format!("{service}.{namespace}")])
            .collect()
    }
}

/// A pass failed; the next one may succeed.
#[derive(Debug, Error)]
enum Error {
    #[error("failed to get what replicas share")]
    Shared(#[source] shared::Error),
    #[error("failed to sign a certificate")]
    Issue(#[source] authority::Error),
    #[error("failed to tell API servers whom to trust and where to ask")]
    Publish(#[source] webhook_configuration::Error),
}

/// Reconciles authority, configurations and certificate.
pub(super) struct SelfSigned {
    client: Client,
    names: Names,
    shared: Shared,
    mutating: Api<MutatingWebhookConfiguration>,
    validating: Api<ValidatingWebhookConfiguration>,
    serving: Serving,
    path: SecretPath,
    /// True if the last pass found or wrote a path that needs no change.
    is_path_published: bool,
    leaf: Option<Leaf>,
    published: Option<Published>,
}

/// The published bundle, and the time since which it is published.
struct Published {
    bundle: ByteString,
    since: Timestamp,
}

impl SelfSigned {
    pub(super) fn new(names: Names, client: Client, serving: Serving) -> Self {
        Self {
            shared: Shared::new(Api::namespaced(client.clone(), &names.namespace), names.secret.clone()),
            mutating: Api::all(client.clone()),
            validating: Api::all(client.clone()),
            names,
            client,
            serving,
            path: SecretPath::secret(),
            is_path_published: false,
            leaf: None,
            published: None,
        }
    }

    /// The accepted paths.
    pub(super) fn path(&self) -> SecretPath {
        self.path.clone()
    }

    /// Runs until dropped.
    pub(super) async fn follow(mut self) {
        let mut wakes = wakes(&self.client, &self.names);
        let mut failures = 0;
        loop {
            let (at_least, at_most) = match self.pass(Timestamp::now()).await {
                Ok(()) => {
                    failures = 0;
                    (Duration::ZERO, PERIOD)
                }
                Err(error) => {
                    failures += 1;
                    self.serving.metrics.failed();
                    warn!(error = %Chain(&error), failures, "certificates are not as they should be; will try again");
                    (SHORTEST_DELAY, delay(failures))
                }
            };
            sleep(at_least).await;
            tokio::select! {
                () = sleep(at_most.saturating_sub(at_least)) => {}
                Some(()) = wakes.next() => {}
            }
        }
    }

    async fn pass(&mut self, now: Timestamp) -> Result<(), Error> {
        let contents = self.shared.contents(now).await.map_err(Error::Shared)?;
        // Before anything is published. The paths accepted so far remain accepted until the right path is known to be published.
        self.path.accept(&contents.segments, now, self.is_path_published);
        self.serving.metrics.in_use("authority", contents.authority.validity.not_after);
        let published = self.publish(&contents, now).await;
        self.is_path_published = published.is_ok();
        self.path.accept(&contents.segments, now, self.is_path_published);
        let authority = contents.authority;
        // Even if the publication failed: a leaf of a trusted authority must not expire.
        if let Some(why) = self.due(&authority, now) {
            let leaf = authority.issue(&self.names.dns(), now).map_err(Error::Issue)?;
            self.serving.present(&leaf.pair);
            info!(why, not_after = %leaf.pair.validity.not_after, "new certificate");
            self.leaf = Some(leaf);
        }
        published?;
        self.serving.certificate.ready();
        Ok(())
    }

    async fn publish(&mut self, contents: &Contents, now: Timestamp) -> Result<(), Error> {
        let bundle = ByteString(contents.authority.bundle.clone().into_bytes());
        if self.published.as_ref().is_some_and(|published| published.bundle != bundle) {
            self.published = None;
        }
        let routes = self.names.routes;
        let published = webhook_configuration::Published { bundle: &bundle, segments: &contents.segments, routes, now };
        let optional = async {
            let Some(name) = &self.names.optional_mutating else { return Ok(()) };
            match publish(&self.mutating, name, &published).await {
                Err(webhook_configuration::Error::Absent(_)) => Ok(()),
                ended => ended,
            }
        };
        let (mutating, optional, validating) = tokio::join!(
            publish(&self.mutating, &self.names.mutating, &published),
            optional,
            publish(&self.validating, &self.names.validating, &published),
        );
        mutating.and(optional).and(validating).map_err(Error::Publish)?;
        self.published.get_or_insert(Published { bundle, since: now });
        Ok(())
    }

    /// The reason why a new leaf is needed now, if it is.
    fn due(&self, authority: &Authority, now: Timestamp) -> Option<String> {
        let Some(leaf) = &self.leaf else { return Some("first".to_owned()) };
        if !authority.vouches_for(leaf) {
            return Some("nobody vouches for the last one".to_owned());
        }
        let settled = self.published.as_ref().is_some_and(|published| now.duration_since(published.since) >= SETTLE);
        if !authority.signed(leaf) && settled {
            return Some("new authority".to_owned());
        }
        match leaf.pair.validity.verdict(now) {
            Verdict::Keep => None,
            Verdict::Renew(Why::Due) if !authority.signed(leaf) => None,
            Verdict::Renew(why) => Some(why.to_string()),
        }
    }
}

/// The delay before the next attempt; doubles with each failure.
fn delay(failures: u32) -> Duration {
    SHORTEST_DELAY.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(LONGEST_DELAY)
}

/// Yields when an input of a pass has changed; once for all changes since the last poll.
fn wakes(client: &Client, names: &Names) -> impl Stream<Item = ()> + use<> {
    let mutating = |name| changes::<MutatingWebhookConfiguration>(Api::all(client.clone()), name);
    let wanted = [
        changes::<Secret>(Api::namespaced(client.clone(), &names.namespace), &names.secret),
        mutating(&names.mutating),
        changes::<ValidatingWebhookConfiguration>(Api::all(client.clone()), &names.validating),
    ];
    let optional = names.optional_mutating.as_deref().map(mutating);
    let changes = stream::select_all(wanted.into_iter().chain(optional));
    changes.ready_chunks(16).map(|_| ())
}

/// Yields when the object of this name was created, changed or deleted.
fn changes<K>(api: Api<PartialObjectMeta<K>>, name: &str) -> BoxStream<'static, ()>
where
    K: Resource<DynamicType = ()> + Clone + Debug + Send + 'static,
{
    let only = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let events = watcher::watcher(api, only).default_backoff();
    let changes = events.filter_map(async |event| match event {
        Ok(Event::Apply(_) | Event::Delete(_) | Event::InitDone) => Some(()),
        Ok(Event::Init | Event::InitApply(_)) => None,
        Err(error) => {
            warn!(kind = %K::kind(&()), error = %Chain(&error), "a watch failed; will try again");
            None
        }
    });
    changes.boxed()
}

#[cfg(test)]
mod tests;
