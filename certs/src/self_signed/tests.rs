//! Replicas, an API server in memory, and clients that connect continuously.

use std::sync::{Arc, Mutex};

use config::admin::Readiness;
use rustls::pki_types::CertificateDer;

use super::*;
use crate::{
    fake_api::FakeApi,
    path_segment::PUBLISHED_AFTER,
    tests::{Load, Server, Trust, client, serving, visit, visit_at},
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
        optional_mutating: Some("earlier".to_owned()),
        validating: "webhook".to_owned(),
        routes: &[("one", "/first"), ("two", "/second"), ("three", "/third")],
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

/// The bundle in the webhooks, which has to be the same in all.
fn trusted(api: &FakeApi) -> ByteString {
    let configurations = [MUTATING, VALIDATING].map(|path| api.get(path)["webhooks"].clone());
    let mut bundles = configurations.iter().flat_map(|webhooks| webhooks.as_array().unwrap());
    let bundle = bundles.next().unwrap()["clientConfig"]["caBundle"].clone();
    assert!(bundles.all(|webhook| webhook["clientConfig"]["caBundle"] == bundle));
    serde_json::from_value(bundle).unwrap()
}

/// The same, which also has to be the one in the shared Secret.
fn published(api: &FakeApi) -> String {
    let bundle = trusted(api);
    assert_eq!(serde_json::json!(bundle), api.get(SECRET)["data"]["ca.crt"]);
    String::from_utf8(bundle.0).unwrap()
}

/// The path of a webhook, which has to be in one of the configurations.
fn path(api: &FakeApi, name: &str) -> String {
    let configurations = [MUTATING, VALIDATING].map(|path| api.get(path)["webhooks"].clone());
    let mut webhooks = configurations.iter().flat_map(|webhooks| webhooks.as_array().unwrap());
    let webhook = webhooks.find(|webhook| webhook["name"] == name).unwrap();
    webhook["clientConfig"]["service"]["path"].as_str().unwrap_or_default().to_owned()
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

/// The configuration may be applied at any time, and nothing waits for it.
#[tokio::test]
async fn an_optional_configuration_is_published_once_it_exists() {
    const EARLIER: &str = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/earlier";
    let api = installed();
    let (mut replica, readiness) = replica(&api);
    replica.pass(start()).await.unwrap();
    assert_eq!(readiness.missing(), Vec::<&str>::new());
    let mut earlier = configuration(&["one"]);
    earlier["metadata"]["name"] = "earlier".into();
    api.put(EARLIER, &earlier);
    replica.pass(later(1)).await.unwrap();
    let client = api.get(EARLIER)["webhooks"][0]["clientConfig"].clone();
    assert_eq!(client["caBundle"], serde_json::json!(trusted(&api)));
    assert_eq!(client["service"]["path"], path(&api, "one"));
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
    let paths = ["one", "three"].map(|name| path(&api, name));
    replica.pass(later(1)).await.unwrap();
    assert_eq!(published(&api), bundle);
    assert_eq!(paths, ["", ""]);
    let restored = ["one", "three"].map(|name| path(&api, name));
    for (path, route) in restored.iter().zip(["/first", "/third"]) {
        assert_eq!(replica.path.route(path), Some(route));
    }
    assert_eq!(path(&api, "new"), "", "nobody knows its route");
}

/// An existing path by an admin, a foreign segment, and no Service.
#[tokio::test]
async fn a_path_is_overwritten_unless_there_is_no_service() {
    let api = installed();
    let (mut replica, _) = replica(&api);
    let mut foreign = configuration(&["one", "two"]);
    foreign["webhooks"][0]["clientConfig"]["service"]["path"] = "/first".into();
    foreign["webhooks"][1]["clientConfig"] = serde_json::json!({"url": "https://elsewhere.test/second"});
    api.put(MUTATING, &foreign);
    replica.pass(start()).await.unwrap();
    assert_eq!(replica.path.route(&path(&api, "one")), Some("/first"));
    let url = &api.get(MUTATING)["webhooks"][1]["clientConfig"];
    assert_eq!(
        (&url["service"], url["url"].as_str()),
        (&serde_json::Value::Null, Some("https://elsewhere.test/second"))
    );
}

/// The Secret is from an older version, or somebody removed the segments.
#[tokio::test]
async fn a_secret_without_segments_gets_them_and_keeps_its_authority() {
    let api = installed();
    let (mut replica, _) = replica(&api);
    replica.pass(start()).await.unwrap();
    let (bundle, leaf, old) = (published(&api), replica.served(), path(&api, "one"));
    let mut secret = api.get(SECRET);
    secret["data"].as_object_mut().unwrap().remove("path-segments").unwrap();
    api.put(SECRET, &secret);
    replica.pass(later(1)).await.unwrap();
    assert_eq!((published(&api), replica.served(), path(&api, "one")), (bundle, leaf, old.clone()));
    assert!(!api.get(SECRET)["data"]["path-segments"].is_null());
    let (mut another, _) = self::replica(&api);
    another.pass(later(2)).await.unwrap();
    assert_eq!(another.path.route(&old), Some("/first"));
}

/// While the configurations can't be written, the path in them is accepted.
#[tokio::test]
async fn a_path_that_could_not_be_replaced_is_answered() {
    let api = installed();
    let (mut replica, _) = replica(&api);
    replica.pass(start()).await.unwrap();
    let old = path(&api, "one");
    replica.pass(later(3600)).await.unwrap();
    assert_eq!(path(&api, "one"), old);
    let configuration = api.get(MUTATING);
    api.delete(MUTATING);
    replica.pass(later(2 * 3600)).await.unwrap_err();
    assert_eq!(replica.path.route(&old), Some("/first"));
    api.put(MUTATING, &configuration);
    replica.pass(later(2 * 3600 + 1)).await.unwrap();
    assert_ne!(path(&api, "one"), old);
    assert_eq!(replica.path.route(&old), None, "its successor is an hour old");
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
    assert!(matches!(error, Error::Shared(shared::Error::Foreign(_))), "{error:?}");
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

/// Checks a change of the authority, whatever its cause: old and new are trusted before the new one is used.
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
    // A leaf that is young when the authority is due for replacement.
    replica.leaf =
        Some(replica.shared.contents(start()).await.unwrap().authority.issue(&replica.names.dns(), due).unwrap());
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

/// The bundles and paths that were published to API servers, with their times.
struct Told {
    bundles: Vec<(Timestamp, String)>,
    paths: Vec<(Timestamp, String)>,
    now: Timestamp,
}

impl Told {
    fn hear(&mut self, now: Timestamp, bundle: String, path: String) {
        for (history, heard) in [(&mut self.bundles, bundle), (&mut self.paths, path)] {
            if history.last().is_none_or(|(_, last)| *last != heard) {
                history.push((now, heard));
            }
        }
    }

    /// The bundle and the path of an API server that reads slowly.
    fn late(&self) -> (String, String) {
        let known = |history: &[(Timestamp, String)]| {
            let noticed = history.iter().rev().find(|(since, _)| self.now.duration_since(*since) >= SETTLE);
            noticed.or(history.first()).unwrap().1.clone()
        };
        (known(&self.bundles), known(&self.paths))
    }
}

/// Two replicas behind live listeners. API servers call them continuously: some use the current content of a configuration, some an earlier
/// one.
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
        let servers =
            replicas.each_ref().map(|replica| Arc::new(Server::start_at(&replica.serving, None, replica.path())));
        let told = Arc::new(Mutex::new(Told { bundles: Vec::new(), paths: Vec::new(), now }));
        told.lock().unwrap().hear(now, published(&api), path(&api, "one"));
        let clients = servers.iter().flat_map(|server| {
            let current = [(MUTATING, "one"), (VALIDATING, "three")].map(|(configuration, webhook)| {
                let api = api.clone();
                Box::new(move || (bundle(&api, configuration), path(&api, webhook))) as Trust
            });
            let told = told.clone();
            let late = Box::new(move || told.lock().unwrap().late()) as Trust;
            current.into_iter().chain([late]).map(|trust| (server.clone(), trust))
        });
        let mut load = Load::start(clients);
        load.goes_on().await;
        Self { api, replicas, servers, told, load }
    }

    /// Runs a pass of both replicas at this time. Returns the certificates that they serve then.
    async fn pass(&mut self, now: Timestamp) -> [CertificateDer<'static>; 2] {
        {
            // No handshake lasts as long as the time that is skipped here.
            let _pause = self.load.pause().await;
            self.told.lock().unwrap().now = now;
        }
        let [one, two] = &mut self.replicas;
        let (first, second) = tokio::join!(one.pass(now), two.pass(now));
        first.and(second).unwrap();
        self.told.lock().unwrap().hear(now, published(&self.api), path(&self.api, "one"));
        self.load.goes_on().await;
        self.served().await
    }

    async fn served(&self) -> [CertificateDer<'static>; 2] {
        let (bundle, path) = (published(&self.api), path(&self.api, "one"));
        let [one, two] = self.servers.each_ref().map(|server| visit_at(server, client(&bundle, None), &path));
        let (one, two) = tokio::join!(one, two);
        [one.unwrap(), two.unwrap()]
    }

    /// After a change of the Secret: both replicas switch to a new authority, but not too early.
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
    // Clients use the real time, and a leaf is valid from an hour before its creation until a week after.
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
    let path = path(&rehearsal.api, "one");
    for server in &rehearsal.servers {
        assert!(visit_at(server, client(newest, None), &path).await.is_ok());
        let error = visit_at(server, client(&bundles[1], None), &path).await;
        assert!(error.is_err(), "predecessors are trusted, not in use");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_api_server_is_turned_away_while_paths_are_rotated() {
    const HOURS: i64 = 3;
    let start = Timestamp::now() - SignedDuration::from_hours(HOURS + 1);
    let mut rehearsal = Rehearsal::start(start).await;
    for hour in 1..=HOURS {
        let due = start + SignedDuration::from_hours(hour);
        let before = path(&rehearsal.api, "one");
        for after in [0, 60, 120, 179].map(SignedDuration::from_secs) {
            rehearsal.pass(due + after).await;
            assert_eq!(path(&rehearsal.api, "one"), before, "not every replica may know the successor yet");
        }
        for after in [SignedDuration::ZERO, SETTLE, SETTLE * 5, SETTLE * 20] {
            rehearsal.pass(due + PUBLISHED_AFTER + after).await;
            assert_ne!(path(&rehearsal.api, "one"), before);
        }
    }
    let paths: Vec<_> = rehearsal.told.lock().unwrap().paths.iter().map(|(_, path)| path.clone()).collect();
    assert_eq!(paths.len(), 1 + usize::try_from(HOURS).unwrap());
    let bundle = published(&rehearsal.api);
    for server in &rehearsal.servers {
        for (index, path) in paths.iter().rev().enumerate() {
            let answer = visit_at(server, client(&bundle, None), path).await;
            assert_eq!(answer.is_ok(), index == 0, "the older ones are not accepted for ever: {answer:?}");
        }
        assert!(visit(server, client(&bundle, None)).await.is_err(), "nor is a path without a segment");
    }
}
