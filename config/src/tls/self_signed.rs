//! A certificate signed by an authority of our own, which API servers are told to trust.
//!
//! The authority is shared by all replicas; each signs a short-lived leaf for itself. One pass brings everything to
//! where it should be, from what is read in that pass; watches only say when to look again. So whatever is deleted
//! or overwritten from outside is put right, and a restart is just another pass.
//!
//! When the authority is replaced, its successor is published together with the predecessor's certificate, and a
//! replica goes on with the leaf it has until every API server can be expected to trust the successor.

use std::{fmt::Debug, time::Duration};

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
    Serving,
    authority::{self, Authority, Leaf},
    shared::{self, Shared},
    validity::{Verdict, Why},
    webhook_configuration::{self, publish},
};
use crate::error::Chain;

/// The wall clock is looked at this often; a timer for the whole life of a certificate would sleep through a pause of
/// the machine.
const PERIOD: Duration = Duration::from_mins(1);
/// Between two attempts after failures.
const SHORTEST_DELAY: Duration = Duration::from_secs(1);
const LONGEST_DELAY: Duration = Duration::from_secs(30);
/// Within this time after it was published, every API server has seen the bundle.
const SETTLE: SignedDuration = SignedDuration::from_secs(30);

/// Who we are, and whom we tell.
#[derive(Debug, Clone)]
pub(super) struct Names {
    pub(super) namespace: String,
    pub(super) service: String,
    pub(super) secret: String,
    pub(super) mutating: String,
    pub(super) validating: String,
}

impl Names {
    /// The names under which the service is reached within the cluster; an API server uses the first.
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
    #[error("failed to get the shared authority")]
    Authority(#[source] shared::Error),
    #[error("failed to sign a certificate")]
    Issue(#[source] authority::Error),
    #[error("failed to tell API servers whom to trust")]
    Publish(#[source] webhook_configuration::Error),
}

/// Keeps authority, configurations and certificate as they should be.
pub(super) struct SelfSigned {
    client: Client,
    names: Names,
    shared: Shared,
    mutating: Api<MutatingWebhookConfiguration>,
    validating: Api<ValidatingWebhookConfiguration>,
    serving: Serving,
    leaf: Option<Leaf>,
    published: Option<Published>,
}

/// The bundle that API servers were given, and since when.
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
            leaf: None,
            published: None,
        }
    }

    /// Works until dropped.
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
        let authority = self.shared.authority(now).await.map_err(Error::Authority)?;
        self.serving.metrics.in_use("authority", authority.validity.not_after);
        let published = self.publish(&authority, now).await;
        // Whether or not it could be published: a leaf of an authority that is trusted already must not expire.
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

    async fn publish(&mut self, authority: &Authority, now: Timestamp) -> Result<(), Error> {
        let bundle = ByteString(authority.bundle.clone().into_bytes());
        if self.published.as_ref().is_some_and(|published| published.bundle != bundle) {
            self.published = None;
        }
        let (mutating, validating) = tokio::join!(
            publish(&self.mutating, &self.names.mutating, &bundle),
            publish(&self.validating, &self.names.validating, &bundle),
        );
        mutating.and(validating).map_err(Error::Publish)?;
        self.published.get_or_insert(Published { bundle, since: now });
        Ok(())
    }

    /// Why a new leaf is needed now, if it is.
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

/// Doubles with each failure.
fn delay(failures: u32) -> Duration {
    SHORTEST_DELAY.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(LONGEST_DELAY)
}

/// Tells when something that a pass reads has changed; once, however much has changed since it was last asked.
fn wakes(client: &Client, names: &Names) -> impl Stream<Item = ()> + use<> {
    let changes = stream::select_all([
        changes::<Secret>(Api::namespaced(client.clone(), &names.namespace), &names.secret),
        changes::<MutatingWebhookConfiguration>(Api::all(client.clone()), &names.mutating),
        changes::<ValidatingWebhookConfiguration>(Api::all(client.clone()), &names.validating),
    ]);
    changes.ready_chunks(16).map(|_| ())
}

/// Tells when the object of this name was created, changed or deleted.
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
mod tests {
    use std::sync::{Arc, Mutex};

    use rustls::pki_types::CertificateDer;

    use super::*;
    use crate::{
        admin::Readiness,
        tls::{
            fake_api::FakeApi,
            tests::{Load, Server, Trust, client, serving, visit},
        },
    };

    const SECRET: &str = "/api/v1/namespaces/smartclone/secrets/authority";
    const MUTATING: &str = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/webhook";
    const VALIDATING: &str = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations/webhook";

    fn replica(api: &FakeApi) -> (SelfSigned, Readiness) {
        let names = Names {
            namespace: "smartclone".to_owned(),
            service: "webhook".to_owned(),
            secret: "authority".to_owned(),
            mutating: "webhook".to_owned(),
            validating: "webhook".to_owned(),
        };
        let (serving, readiness) = serving();
        (SelfSigned::new(names, api.client(), serving), readiness)
    }

    fn installed() -> FakeApi {
        let api = FakeApi::default();
        api.put(MUTATING, &configuration(&["one", "two"]));
        api.put(VALIDATING, &configuration(&["three"]));
        api
    }

    fn configuration(names: &[&str]) -> serde_json::Value {
        let webhooks: Vec<_> = names
            .iter()
            .map(|name| {
                let service = serde_json::json!({"name": "webhook", "namespace": "smartclone"});
                serde_json::json!({
                    "name": name, "clientConfig": {"service": service},
                    "sideEffects": "None", "admissionReviewVersions": ["v1"],
                })
            })
            .collect();
        serde_json::json!({"metadata": {"name": "webhook"}, "webhooks": webhooks})
    }

    impl SelfSigned {
        fn served(&self) -> Vec<u8> {
            self.serving.resolver.0.load_full().expect("a certificate").cert[0].to_vec()
        }
    }

    /// The bundle in every webhook, which has to be the same.
    fn trusted(api: &FakeApi) -> ByteString {
        let configurations = [MUTATING, VALIDATING].map(|path| api.get(path)["webhooks"].clone());
        let mut bundles = configurations.iter().flat_map(|webhooks| webhooks.as_array().unwrap());
        let bundle = bundles.next().unwrap()["clientConfig"]["caBundle"].clone();
        assert!(bundles.all(|webhook| webhook["clientConfig"]["caBundle"] == bundle));
        serde_json::from_value(bundle).unwrap()
    }

    /// The same, which also has to be the one that replicas share.
    fn published(api: &FakeApi) -> String {
        let bundle = trusted(api);
        assert_eq!(serde_json::json!(bundle), api.get(SECRET)["data"]["ca.crt"]);
        String::from_utf8(bundle.0).unwrap()
    }

    fn damage(api: &FakeApi) {
        let mut damaged = api.get(SECRET);
        damaged["data"]["tls.key"] = "cnViYmlzaA==".into();
        api.put(SECRET, &damaged);
    }

    fn count(bundle: &str) -> usize {
        bundle.matches("BEGIN CERTIFICATE").count()
    }

    fn start() -> Timestamp {
        "2026-01-01T00:00:00Z".parse().unwrap()
    }

    fn later(seconds: i64) -> Timestamp {
        start() + SignedDuration::from_secs(seconds)
    }

    #[tokio::test]
    async fn an_api_server_finds_the_name_that_it_calls() {
        let names = replica(&FakeApi::default()).0.names.dns();
        assert_eq!(names, ["webhook.smartclone.svc", "webhook.smartclone.svc.cluster.local", "webhook.smartclone"]);
    }

    #[tokio::test]
    async fn ready_once_every_webhook_has_the_bundle_and_silent_after() {
        let api = FakeApi::default();
        let (mut replica, readiness) = replica(&api);
        let error = replica.pass(start()).await.unwrap_err();
        assert!(matches!(error, Error::Publish(webhook_configuration::Error::Absent(_))), "{error:?}");
        assert_eq!(readiness.missing(), ["certificate"]);
        let served = replica.served();

        api.put(MUTATING, &configuration(&["one", "two"]));
        api.put(VALIDATING, &configuration(&["three"]));
        replica.pass(later(1)).await.unwrap();
        assert_eq!(readiness.missing(), Vec::<&str>::new());
        assert_eq!(count(&published(&api)), 1);

        let writes = api.writes();
        replica.pass(later(2)).await.unwrap();
        assert_eq!(api.writes(), writes);
        assert_eq!(replica.served(), served);
    }

    #[tokio::test]
    async fn what_somebody_overwrites_is_put_right() {
        let api = installed();
        let (mut replica, _) = replica(&api);
        replica.pass(start()).await.unwrap();
        let bundle = published(&api);

        api.put(MUTATING, &configuration(&["two", "one", "new"]));
        let mut foreign = configuration(&["three"]);
        foreign["webhooks"][0]["clientConfig"]["caBundle"] = "Zm9yZWlnbg==".into();
        api.put(VALIDATING, &foreign);
        replica.pass(later(1)).await.unwrap();
        assert_eq!(published(&api), bundle);
    }

    #[tokio::test]
    async fn a_patch_never_hits_a_version_that_was_not_read() {
        let api = installed();
        let (mut replica, _) = replica(&api);
        api.before_next_patch(MUTATING, &configuration(&["another"]));
        replica.pass(start()).await.unwrap();
        assert_eq!(api.refused(), 1);
        assert_eq!(api.get(MUTATING)["webhooks"][0]["name"], "another");
        assert_eq!(count(&published(&api)), 1);
    }

    #[tokio::test]
    async fn replicas_that_start_together_agree() {
        let api = installed();
        let ((mut one, _), (mut two, _)) = (replica(&api), replica(&api));
        let (first, second) = tokio::join!(one.pass(start()), two.pass(start()));
        first.and(second).unwrap();
        assert!(api.refused() > 0, "both tried to create the secret");
        assert_eq!(count(&published(&api)), 1);
        assert_ne!(one.served(), two.served(), "each has its own key");
    }

    #[tokio::test]
    async fn a_foreign_secret_is_not_touched() {
        let api = installed();
        let foreign = serde_json::json!({"metadata": {"name": "authority"}, "data": {"password": "c2VjcmV0"}});
        api.put(SECRET, &foreign);
        let before = api.get(SECRET);
        let (mut replica, readiness) = replica(&api);
        let error = replica.pass(start()).await.unwrap_err();
        assert!(matches!(error, Error::Authority(shared::Error::Foreign(_))), "{error:?}");
        assert_eq!(api.get(SECRET), before);
        assert_eq!(readiness.missing(), ["certificate"]);
    }

    #[tokio::test]
    async fn a_leaf_is_renewed_at_two_thirds_of_its_life() {
        const DAY: i64 = 24 * 3600;
        let api = installed();
        let (mut replica, _) = replica(&api);
        replica.pass(start()).await.unwrap();
        let (leaf, bundle) = (replica.served(), published(&api));
        replica.pass(later(4 * DAY)).await.unwrap();
        assert_eq!(replica.served(), leaf);
        replica.pass(later(5 * DAY)).await.unwrap();
        assert_ne!(replica.served(), leaf);
        assert_eq!(published(&api), bundle, "the authority is the same");
    }

    /// In whatever way the authority changes, nobody is cut off: old and new are trusted before the new one is used.
    async fn hands_over(api: &FakeApi, replica: &mut SelfSigned, at: Timestamp) {
        let (old, leaf) = (String::from_utf8(trusted(api).0).unwrap(), replica.served());
        replica.pass(at).await.unwrap();
        let both = published(api);
        assert_eq!(count(&both), 2);
        assert!(both.contains(old.trim()) && !both.starts_with(old.trim()), "successor first, predecessor kept");
        assert_eq!(replica.served(), leaf, "published, but not used yet");
        replica.pass(at + SETTLE - SignedDuration::from_secs(1)).await.unwrap();
        assert_eq!(replica.served(), leaf);
        replica.pass(at + SETTLE).await.unwrap();
        assert_ne!(replica.served(), leaf);
        assert_eq!(published(api), both);
    }

    #[tokio::test]
    async fn an_authority_near_its_end_hands_over_to_its_successor() {
        let api = installed();
        let (mut replica, _) = replica(&api);
        replica.pass(start()).await.unwrap();
        let due = later(7 * 365 * 24 * 3600);
        // A leaf that is young when the authority is found to be due.
        replica.leaf = Some(replica.shared.authority(start()).await.unwrap().issue(&replica.names.dns(), due).unwrap());
        replica.serving.present(&replica.leaf.as_ref().unwrap().pair);
        hands_over(&api, &mut replica, due).await;
    }

    #[tokio::test]
    async fn a_deleted_secret_does_not_take_trust_with_it() {
        let api = installed();
        let (mut replica, _) = replica(&api);
        replica.pass(start()).await.unwrap();
        api.delete(SECRET);
        hands_over(&api, &mut replica, later(60)).await;
    }

    #[tokio::test]
    async fn a_damaged_secret_is_repaired() {
        let api = installed();
        let (mut replica, _) = replica(&api);
        replica.pass(start()).await.unwrap();
        damage(&api);
        hands_over(&api, &mut replica, later(60)).await;
    }

    #[tokio::test]
    async fn a_replica_whose_authority_vanished_takes_the_new_one_at_once() {
        let api = installed();
        let ((mut one, _), (mut two, _)) = (replica(&api), replica(&api));
        one.pass(start()).await.unwrap();
        let leaf = one.served();
        api.delete(SECRET);
        two.pass(later(1)).await.unwrap();
        one.pass(later(2)).await.unwrap();
        assert_ne!(one.served(), leaf, "the bundle of the new authority does not vouch for the old leaf");
    }

    #[test]
    fn attempts_become_rarer() {
        assert_eq!([1, 2, 3, 6, 1000].map(|failures| delay(failures).as_secs()), [1, 2, 4, 30, 30]);
    }

    /// What API servers were told, and when.
    struct Told {
        bundles: Vec<(Timestamp, String)>,
        now: Timestamp,
    }

    impl Told {
        fn hear(&mut self, now: Timestamp, bundle: String) {
            if self.bundles.last().is_some_and(|(_, last)| *last != bundle) {
                self.bundles.push((now, bundle));
            }
        }

        /// Whom an API server trusts that is as slow to notice as it may be.
        fn late(&self) -> String {
            let noticed = self.bundles.iter().rev().find(|(since, _)| self.now.duration_since(*since) >= SETTLE);
            noticed.or(self.bundles.first()).unwrap().1.clone()
        }
    }

    /// Two replicas behind live listeners. API servers ask them without pause: some trust what either configuration says
    /// at that moment, some what it said before.
    struct Rehearsal {
        api: FakeApi,
        replicas: [SelfSigned; 2],
        servers: [Arc<Server>; 2],
        told: Arc<Mutex<Told>>,
        load: Load,
    }

    impl Rehearsal {
        async fn start(now: Timestamp) -> Self {
            let api = installed();
            let mut replicas = [replica(&api).0, replica(&api).0];
            for replica in &mut replicas {
                replica.pass(now).await.unwrap();
            }
            let servers = replicas.each_ref().map(|replica| Arc::new(Server::start(&replica.serving, None)));
            let told = Arc::new(Mutex::new(Told { bundles: vec![(now, published(&api))], now }));
            let clients = servers.iter().flat_map(|server| {
                let current = [MUTATING, VALIDATING].map(|path| {
                    let api = api.clone();
                    Box::new(move || bundle(&api, path)) as Trust
                });
                let told = told.clone();
                let late = Box::new(move || told.lock().unwrap().late()) as Trust;
                current.into_iter().chain([late]).map(|trust| (server.clone(), trust))
            });
            let mut load = Load::start(clients);
            load.goes_on().await;
            Self { api, replicas, servers, told, load }
        }

        /// Has both replicas look at that time; returns what they serve then.
        async fn pass(&mut self, now: Timestamp) -> [CertificateDer<'static>; 2] {
            {
                // No handshake lasts as long as the time that is skipped here.
                let _pause = self.load.pause().await;
                self.told.lock().unwrap().now = now;
            }
            let [one, two] = &mut self.replicas;
            let (first, second) = tokio::join!(one.pass(now), two.pass(now));
            first.and(second).unwrap();
            let bundle = published(&self.api);
            self.told.lock().unwrap().hear(now, bundle);
            self.load.goes_on().await;
            self.served().await
        }

        async fn served(&self) -> [CertificateDer<'static>; 2] {
            let bundle = published(&self.api);
            let [one, two] = self.servers.each_ref().map(|server| visit(server, client(&bundle, None)));
            let (one, two) = tokio::join!(one, two);
            [one.unwrap(), two.unwrap()]
        }

        /// After something happened to the Secret: both replicas go over to a new authority, but not before it is time.
        async fn rotates(&mut self, served: &[CertificateDer<'static>; 2], at: Timestamp) {
            self.load.goes_on().await;
            assert_eq!(self.pass(at).await, *served);
            assert_eq!(self.pass(at + SETTLE - SignedDuration::from_secs(1)).await, *served);
            assert!(differ(&self.pass(at + SETTLE).await, served));
        }
    }

    fn bundle(api: &FakeApi, configuration: &str) -> String {
        let bundle = api.get(configuration)["webhooks"][0]["clientConfig"]["caBundle"].clone();
        String::from_utf8(serde_json::from_value::<ByteString>(bundle).unwrap().0).unwrap()
    }

    fn differ(one: &[CertificateDer<'static>; 2], two: &[CertificateDer<'static>; 2]) -> bool {
        one.iter().zip(two).all(|(one, two)| one != two)
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn no_api_server_is_turned_away_while_the_authority_is_replaced_twice() {
        // Clients have the real time, and a leaf is valid from an hour before it was made until a week after.
        let (renewal, minute) = (Timestamp::now(), SignedDuration::from_mins(1));
        let start = renewal - SignedDuration::from_hours(5 * 24);
        let mut rehearsal = Rehearsal::start(start).await;

        let first = rehearsal.served().await;
        rehearsal.api.delete(SECRET);
        rehearsal.rotates(&first, start + minute).await;

        let second = rehearsal.served().await;
        let renewed = rehearsal.pass(renewal).await;
        assert!(differ(&renewed, &second), "at two thirds of their life");

        damage(&rehearsal.api);
        rehearsal.rotates(&renewed, renewal + minute).await;

        let bundle = published(&rehearsal.api);
        let newest = bundle.split_inclusive("-----END CERTIFICATE-----\n").next().unwrap();
        let bundles: Vec<_> = rehearsal.told.lock().unwrap().bundles.iter().map(|(_, bundle)| bundle.clone()).collect();
        assert_eq!(bundles.iter().map(|bundle| count(bundle)).collect::<Vec<_>>(), [1, 2, 3]);
        for (older, newer) in bundles.iter().zip(&bundles[1..]) {
            assert!(newer.ends_with(older.as_str()), "who was trusted stays so");
        }
        for server in &rehearsal.servers {
            assert!(visit(server, client(newest, None)).await.is_ok());
            assert!(visit(server, client(&bundles[1], None)).await.is_err(), "predecessors are trusted, not in use");
        }
    }
}
