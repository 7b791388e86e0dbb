use common::api::Phase;
use common::keys::{
    ALLOW_ADOPTION, CLONE_TYPE, CREATED_FOR_DATA_VOLUME, DATA_VOLUME_FINALIZER, POPULATED_FOR, PRE_POPULATED,
};
use kube::ResourceExt as _;
use rstest::rstest;
use serde_json::{Value, json};

use super::*;
use crate::{
    fixtures::{self, NOW},
    keys::{CLONE_TOKEN, EXTENDED_CLONE_TOKEN, USE_POPULATOR},
    token::TOKEN_LIFE,
};

/// A world with one DataVolume.
struct World {
    data_volume: DataVolume,
    claim: Option<PersistentVolumeClaim>,
    clone_source: Option<VolumeCloneSource>,
    source: Source,
    settings: Settings,
    tokens: Tokens,
}

impl World {
    fn new(annotations: &Value, phase: &str) -> Self {
        let mut all = json!({USE_POPULATOR: "true"});
        json_patch::merge(&mut all, annotations);
        Self {
            data_volume: fixtures::data_volume(&all, phase),
            claim: None,
            clone_source: None,
            source: fixtures::source(),
            settings: fixtures::settings("1.66.0"),
            tokens: Tokens::new("s"),
        }
    }

    fn with_token(mut self) -> Self {
        let token = self.tokens.issue(&self.source, "n", NOW + TOKEN_LIFE);
        self.data_volume.annotations_mut().insert(CLONE_TOKEN.to_owned(), token);
        self
    }

    fn with_claim(mut self, annotations: &Value, phase: &str) -> Self {
        self.claim = Some(fixtures::claim(annotations, phase, "now", true));
        self
    }

    fn pass(&self) -> Pass {
        let object = SourceObject { labels: BTreeMap::new(), size: None, ready: true };
        let observed = Observed {
            data_volume: &self.data_volume,
            claim: self.claim.as_ref(),
            source: &self.source,
            source_object: Some(&object),
            clone_source: self.clone_source.as_ref(),
            settings: &self.settings,
            now: NOW,
        };
        reconcile(&observed, &self.tokens)
    }

    fn words(&self) -> Vec<&'static str> {
        let word = |write: &Write| match write {
            Write::DataVolume(_) => "put",
            Write::Claim(_) => "claim",
            Write::CreateClaim(_) => "create claim",
            Write::CreateCloneSource(_) => "create source",
            Write::DeleteCloneSource { .. } => "delete source",
        };
        self.pass().writes.iter().map(word).collect()
    }
}

fn ours() -> Value {
    json!({USE_POPULATOR: "true", CREATED_FOR_DATA_VOLUME: "dv", CLONE_TYPE: "snapshot"})
}

#[test]
fn hands_off_means_no_write_at_all() {
    let world = World::new(&json!({PRE_POPULATED: "smartclone.dev"}), "").with_token();
    assert_eq!((world.words(), world.pass().status.phase), (vec![], Phase::Pending));
    let filled = world.with_claim(&ours(), "Pending");
    assert_eq!((filled.words(), filled.pass().status.phase), (vec![], Phase::CloneScheduled));
}

#[test]
fn without_the_sentinel_it_clones() {
    let world = World::new(&json!({}), "").with_token();
    assert_eq!(world.words(), ["put", "put", "create claim", "create source"]);
    let Some(Write::CreateClaim(claim)) = world.pass().writes.into_iter().nth(2) else { panic!("no claim") };
    let annotations = claim.annotations();
    assert!(annotations.contains_key(EXTENDED_CLONE_TOKEN) && !annotations.contains_key(CLONE_TOKEN));
    assert_eq!(annotations[CREATED_FOR_DATA_VOLUME], "dv");
    assert!(crate::claim::clone_source(&claim).is_some());
}

#[test]
fn in_one_namespace_neither_token_nor_finalizer_is_needed() {
    let mut world = World::new(&json!({}), "");
    world.source.namespace = "n".to_owned();
    assert_eq!(world.words(), ["create claim", "create source"]);
}

/// Our claim is there, the sentinel has gone: no data work, but everything else.
#[test]
fn our_claim_without_the_sentinel_gets_a_clone_source() {
    let world = World::new(&json!({}), "Pending").with_token().with_claim(&ours(), "Pending");
    assert_eq!(world.words(), ["put", "put", "claim", "create source", "put"]);
}

#[rstest]
#[case::missing(false, 0, "clone token missing")]
#[case::expired(true, 6, "token expired")]
fn a_clone_from_another_namespace_needs_a_fresh_token(
    #[case] token: bool,
    #[case] minutes: i64,
    #[case] message: &str,
) {
    let mut world = World::new(&json!({}), "");
    if token {
        let expires = NOW + TOKEN_LIFE - jiff::SignedDuration::from_mins(minutes);
        let token = world.tokens.issue(&world.source, "n", expires);
        world.data_volume.annotations_mut().insert(CLONE_TOKEN.to_owned(), token);
    }
    let pass = world.pass();
    assert_eq!(pass.error, Some(SyncError::Logged(message.to_owned())));
    assert_eq!((pass.writes, pass.status.phase), (vec![], Phase::Pending));
}

#[test]
fn a_finished_data_volume_is_cleaned_up_and_then_quiet() {
    let mut world = World::new(&json!({CLONE_TYPE: "snapshot"}), "Succeeded").with_token();
    world.data_volume.annotations_mut().insert(EXTENDED_CLONE_TOKEN.to_owned(), "t".to_owned());
    let mut annotations = ours();
    annotations[EXTENDED_CLONE_TOKEN] = json!("t");
    let mut world = world.with_claim(&annotations, "Bound");
    world.data_volume.finalizers_mut().push(DATA_VOLUME_FINALIZER.to_owned());
    let spec = common::api::VolumeCloneSourceSpec::default();
    world.clone_source = Some(VolumeCloneSource::new("volume-clone-source-dv", spec));
    assert_eq!(world.words(), ["delete source", "put"]);
    world.clone_source = None;
    world.data_volume.finalizers_mut().clear();
    assert_eq!(world.words(), Vec::<&str>::new());
}

/// A claim that is deleted after its DataVolume has succeeded.
#[rstest]
#[case::cdi(json!({}), vec!["put", "create claim"], Phase::Succeeded)]
#[case::hands_off(json!({PRE_POPULATED: "smartclone.dev"}), vec![], Phase::Pending)]
fn a_claim_is_deleted_later(#[case] annotations: Value, #[case] words: Vec<&str>, #[case] phase: Phase) {
    let world = World::new(&annotations, "Succeeded").with_token();
    assert_eq!((world.words(), world.pass().status.phase), (words, phase));
}

#[test]
fn a_data_volume_in_deletion_loses_the_finalizer_only() {
    let mut world = World::new(&json!({}), "").with_token();
    world.data_volume.finalizers_mut().push(DATA_VOLUME_FINALIZER.to_owned());
    let deleted = k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(NOW);
    world.data_volume.metadata.deletion_timestamp = Some(deleted);
    assert_eq!(world.words(), ["put"]);
}

/// The reason of the Warning, and the phase.
fn warned(world: &World) -> (String, Phase) {
    let pass = world.pass();
    let reasons: Vec<_> = pass.events.iter().filter(|it| it.warning).map(|it| it.reason.as_str()).collect();
    assert_eq!(pass.error.is_some(), !reasons.is_empty());
    (reasons.join(" "), pass.status.phase)
}

#[test]
fn a_spec_that_cannot_be_rendered_has_an_empty_phase_until_there_is_a_claim() {
    let mut world = World::new(&json!({PRE_POPULATED: "smartclone.dev"}), "");
    world.data_volume.spec.storage.as_mut().unwrap().access_modes = None;
    assert_eq!(warned(&world), ("ErrClaimNotValid".to_owned(), Phase::Unset));
    assert_eq!(warned(&world.with_claim(&ours(), "Pending")), (String::new(), Phase::CloneScheduled));
}

#[test]
fn a_claim_in_deletion_is_waited_for() {
    let mut world = World::new(&json!({PRE_POPULATED: "smartclone.dev"}), "").with_claim(&ours(), "Bound");
    let deleted = k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(NOW);
    world.claim.as_mut().unwrap().metadata.deletion_timestamp = Some(deleted);
    assert_eq!(warned(&world), ("ErrResourceMarkedForDeletion".to_owned(), Phase::Unset));
}

#[test]
fn a_strangers_claim_is_refused_or_adopted() {
    let mut world = World::new(&json!({}), "").with_claim(&json!({}), "Bound");
    world.claim.as_mut().unwrap().metadata.owner_references = None;
    assert_eq!(warned(&world).0, "ErrResourceExists");
    world.data_volume.annotations_mut().insert(ALLOW_ADOPTION.to_owned(), "true".to_owned());
    assert_eq!((world.words(), world.pass().status.phase), (vec!["claim"], Phase::Succeeded));
}

/// The seal: the sentinel becomes the name of the claim.
#[test]
fn a_claim_that_is_populated_for_the_data_volume_replaces_the_sentinel() {
    let mut annotations = ours();
    annotations[POPULATED_FOR] = json!("d");
    let world = World::new(&json!({PRE_POPULATED: "smartclone.dev"}), "Succeeded").with_claim(&annotations, "Bound");
    assert_eq!((world.words(), world.pass().status.phase), (vec!["put"], Phase::Succeeded));
    let Some(Write::DataVolume(edit)) = world.pass().writes.into_iter().next() else { panic!("no put") };
    let mut meta = world.data_volume.metadata;
    edit.apply(&mut meta);
    assert_eq!(meta.annotations.unwrap()[PRE_POPULATED], "d");
}

#[rstest]
#[case::absent(None, vec!["put"], false)]
#[case::false_is_left(Some("false"), vec![], false)]
#[case::maybe(Some("maybe"), vec![], true)]
fn the_mark_for_the_populator(#[case] value: Option<&str>, #[case] words: Vec<&str>, #[case] fails: bool) {
    let mut world = World::new(&json!({PRE_POPULATED: "smartclone.dev"}), "Pending");
    world.data_volume.annotations_mut().remove(USE_POPULATOR);
    if let Some(value) = value {
        world.data_volume.annotations_mut().insert(USE_POPULATOR.to_owned(), value.to_owned());
    }
    assert_eq!((world.words(), world.pass().error.is_some()), (words, fails));
}
