//! Model-based test of an ObjectTransfer. Its objects are JSON behind an API server that checks preconditions. Kubernetes' controllers of
//! claims, volumes and owner references, and one of DataVolumes, are modelled in a minimal form; pods start and end. The production step
//! runs against it with stale views, interrupted before or after its write, and with a second read before an irreversible write, as in the
//! controller.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use proptest::prelude::*;
use rstest::rstest;

use super::{ready::BUSY, *};
use crate::{
    api::ObjectTransfer,
    confinement::may_delete,
    lookup::Lookup::{Absent, Present, Unknown},
};

fn start() -> Timestamp {
    "2026-01-01T00:00:00Z".parse().unwrap()
}

#[derive(Debug, Clone)]
struct World {
    transfer: Option<Value>,
    source: Option<Value>,
    target: Option<Value>,
    volume: Option<Value>,
    old: Option<Value>,
    new: Option<Value>,
    pod: bool,
    version: u64,
    seconds: i64,
    /// True if somebody else deleted the claim that had the volume, before the transfer was over or later.
    vandalised: bool,
    thrown_away: bool,
    /// True if the source is in the queue of Kubernetes' controller.
    queued: bool,
}

fn get<'a>(object: Option<&'a Value>, path: &str) -> &'a str {
    object.and_then(|o| o.pointer(path)).and_then(Value::as_str).unwrap_or_default()
}

fn merge(object: &mut Value, patch: &Value) {
    let Some(patch) = patch.as_object() else { return *object = patch.clone() };
    if !object.is_object() {
        *object = json!({});
    }
    for (key, value) in patch {
        if value.is_null() {
            drop(object.as_object_mut().unwrap().remove(key));
        } else {
            merge(&mut object[key], value);
        }
    }
}

fn read<K: serde::de::DeserializeOwned>(object: Option<&Value>) -> Lookup<K> {
    object.map(|object| serde_json::from_value(object.clone()).unwrap()).into()
}

fn claim(namespace: &str, name: &str, uid: &str) -> Value {
    json!({
        "metadata": {"namespace": namespace, "name": name, "uid": uid, "resourceVersion": "1", "annotations": {"mine": "x"}},
        "spec": {
            "accessModes": ["ReadWriteOnce"], "storageClassName": "cow", "volumeName": "pv",
            "resources": {"requests": {"storage": "1Gi"}},
        },
        "status": {"phase": "Bound", "capacity": {"storage": "2Gi"}},
    })
}

impl World {
    fn new(kind: &str) -> Self {
        let mut world = Self {
            transfer: Some(json!({
                "metadata": {"name": "move", "uid": "ot", "resourceVersion": "1"},
                "spec": {
                    "source": {"kind": kind, "namespace": "here", "name": "disk"},
                    "target": {"namespace": "there", "name": "moved"},
                },
            })),
            source: Some(claim("here", "disk", "s")),
            target: None,
            volume: Some(json!({
                "metadata": {"name": "pv", "uid": "v", "resourceVersion": "1"},
                "spec": {
                    "claimRef": {"namespace": "here", "name": "disk", "uid": "s", "resourceVersion": "7"},
                    "persistentVolumeReclaimPolicy": "Delete",
                },
            })),
            old: None,
            new: None,
            pod: false,
            version: 1,
            seconds: 0,
            vandalised: false,
            thrown_away: false,
            queued: false,
        };
        if kind == "DataVolume" {
            world.old = Some(json!({
                "metadata": {"namespace": "here", "name": "disk", "uid": "dv", "resourceVersion": "1"},
                "spec": {"source": {"pvc": {"namespace": "gone", "name": "gone"}}, "storage": {}},
                "status": {"phase": "Succeeded"},
            }));
            world.source.as_mut().unwrap()["metadata"]["ownerReferences"] = json!([
                {"apiVersion": "cdi.kubevirt.io/v1beta1", "kind": "DataVolume", "name": "disk", "uid": "dv", "controller": true}
            ]);
        }
        world
    }

    fn view(&self) -> Observed {
        let transfer: ObjectTransfer =
            serde_json::from_value(self.transfer.clone().unwrap_or_default()).unwrap_or_default();
        let transfer = Subject::of(&transfer);
        let source = read(self.source.as_ref());
        let volume = Observed::volume_name(transfer.record.as_ref(), &source);
        Observed {
            now: start() + SignedDuration::from_secs(self.seconds),
            since: start(),
            wanted: parse(&spec(self)),
            volume: volume.map_or(Absent, |_| read(self.volume.as_ref())),
            target: read(self.target.as_ref()),
            source_volume: read(self.old.as_ref()),
            target_volume: read(self.new.as_ref()),
            users: Present(if self.pod { vec!["vm".to_owned()] } else { vec![] }),
            another_controller: None,
            source,
            transfer,
        }
    }

    fn next(&mut self) -> Value {
        self.version += 1;
        json!(self.version.to_string())
    }

    fn touch(&mut self, which: fn(&mut Self) -> &mut Option<Value>, change: impl FnOnce(&mut Value)) {
        let version = self.next();
        if let Some(object) = which(self) {
            change(object);
            object["metadata"]["resourceVersion"] = version;
        }
    }

    /// Applies a merge patch if the preconditions in it hold.
    fn patch(&mut self, which: fn(&mut Self) -> &mut Option<Value>, patch: &Value) {
        let there = which(self).clone();
        let same =
            |path: &str| get(there.as_ref(), path) == patch.pointer(path).and_then(Value::as_str).unwrap_or_default();
        if same("/metadata/uid") && same("/metadata/resourceVersion") {
            self.touch(which, |object| merge(object, patch));
        }
    }

    fn delete(&mut self, which: fn(&mut Self) -> &mut Option<Value>, what: &ObjectVersion) -> bool {
        let there = which(self).clone();
        let same = get(there.as_ref(), "/metadata/uid") == what.uid
            && get(there.as_ref(), "/metadata/resourceVersion") == what.resource_version;
        if same {
            *which(self) = None;
        }
        same
    }

    fn write(&mut self, seen: &Observed, action: &Write) -> Result<(), TestCaseError> {
        let version = self.next();
        let transfer = |world: &mut Self, finalizers: Value| {
            world.touch(|w| &mut w.transfer, |t| t["metadata"]["finalizers"] = finalizers);
        };
        match action {
            Write::Guard => transfer(self, json!([keys::TRANSFER_FINALIZER])),
            Write::Release => {
                transfer(self, json!([]));
                if seen.transfer.deleting.is_some() {
                    self.transfer = None;
                }
            }
            Write::CreateClaim(claim) if self.target.is_none() => {
                let mut claim = serde_json::to_value(claim).unwrap();
                claim["metadata"]["uid"] = json!(format!("t{version}"));
                claim["metadata"]["resourceVersion"] = version;
                claim["status"] = json!({"phase": "Pending"});
                self.target = Some(claim);
            }
            Write::HandOver { volume, to, policy, at } => {
                prop_assert!(!self.pod, "moved while it is used");
                self.patch(|w| &mut w.volume, &hand_over(volume, to, policy.as_deref(), *at));
                prop_assert_eq!(get(self.volume.as_ref(), "/spec/claimRef/resourceVersion"), "");
            }
            Write::Nudge { claim, at } => {
                let nudge = crate::rebind::nudge(claim, *at);
                self.patch(|w| &mut w.target, &nudge);
                self.patch(|w| &mut w.source, &nudge);
                self.queued = true;
            }
            Write::RestorePolicy { volume, policy } => self.patch(|w| &mut w.volume, &restore_policy(volume, policy)),
            Write::CreateDataVolume(volume) if self.new.is_none() => {
                let mut volume = serde_json::to_value(volume).unwrap();
                volume["metadata"]["uid"] = json!("dv2");
                volume["metadata"]["resourceVersion"] = version;
                self.new = Some(volume);
            }
            Write::CreateClaim(_) | Write::CreateDataVolume(_) => {}
            Write::DeleteDataVolume(what) => {
                if self.delete(|w| &mut w.old, what) {
                    prop_assert!(self.bound(), "the old DataVolume goes before the data is safe");
                }
            }
            Write::DeleteClaim(what) => {
                // The policy is evaluated as in the API server: on the current claim, if the preconditions hold.
                for claim in [&self.source, &self.target].map(|claim| read::<PersistentVolumeClaim>(claim.as_ref())) {
                    if let Some(claim) = claim.present().filter(|claim| exact(&claim.metadata) == *what) {
                        prop_assert!(may_delete(claim), "the policy refuses to delete {:?}", claim);
                    }
                }
                if self.delete(|w| &mut w.source, what) {
                    prop_assert!(self.bound(), "the source goes before the data is safe");
                }
                if self.delete(|w| &mut w.target, what) {
                    prop_assert_ne!(get(self.volume.as_ref(), "/spec/claimRef/uid"), what.uid.as_str());
                }
            }
        }
        Ok(())
    }

    /// True if the volume refers to the target claim, and the claim is bound.
    fn bound(&self) -> bool {
        let uid = get(self.target.as_ref(), "/metadata/uid");
        !uid.is_empty()
            && get(self.volume.as_ref(), "/spec/claimRef/uid") == uid
            && get(self.target.as_ref(), "/status/phase") == "Bound"
    }

    fn at_home(&self) -> bool {
        get(self.source.as_ref(), "/status/phase") == "Bound" && get(self.volume.as_ref(), "/spec/claimRef/uid") == "s"
    }

    /// Runs Kubernetes' controllers, and that of DataVolumes.
    fn sync(&mut self) {
        if get(self.source.as_ref(), "/metadata/ownerReferences/0/uid") == "dv" && self.old.is_none() {
            self.source = None;
        }
        let owner = get(self.volume.as_ref(), "/spec/claimRef/uid").to_owned();
        // A rebind changes the volume, and not the claim that had it.
        if std::mem::take(&mut self.queued)
            && get(self.source.as_ref(), "/metadata/uid") != owner
            && get(self.source.as_ref(), "/status/phase") == "Bound"
        {
            self.touch(|w| &mut w.source, |claim| claim["status"]["phase"] = json!("Lost"));
        }
        if get(self.target.as_ref(), "/metadata/uid") == owner
            && get(self.target.as_ref(), "/status/phase") == "Pending"
        {
            self.touch(
                |w| &mut w.target,
                |claim| {
                    claim["spec"]["volumeName"] = json!("pv");
                    claim["status"] = json!({"phase": "Bound", "capacity": {"storage": "2Gi"}});
                },
            );
        }
        let living: BTreeSet<_> =
            [&self.source, &self.target].map(|claim| get(claim.as_ref(), "/metadata/uid").to_owned()).into();
        if self.volume.is_some()
            && !living.contains(&owner)
            && get(self.volume.as_ref(), "/spec/persistentVolumeReclaimPolicy") == "Delete"
        {
            self.volume = None;
        }
        let filled = get(self.new.as_ref(), "/metadata/annotations/cdi.kubevirt.io~1storage.prePopulated") == "moved"
            && get(self.target.as_ref(), "/metadata/annotations/cdi.kubevirt.io~1storage.populatedFor") == "moved";
        if filled && get(self.new.as_ref(), "/status/phase").is_empty() {
            self.touch(|w| &mut w.new, |volume| volume["status"] = json!({"phase": "Succeeded"}));
        }
    }

    fn happens(&mut self, event: Event) {
        match event {
            Event::Sync => self.sync(),
            Event::Resync => {
                self.queued = true;
                self.sync();
            }
            Event::TimePasses => self.seconds += 1,
            Event::PodStarts => self.pod = self.at_home(),
            Event::PodEnds => self.pod = false,
            Event::TransferDeleted => {
                let at = start() + SignedDuration::from_secs(self.seconds);
                let guarded = self
                    .transfer
                    .as_ref()
                    .is_some_and(|t| t["metadata"]["finalizers"] == json!([keys::TRANSFER_FINALIZER]));
                if guarded {
                    self.touch(|w| &mut w.transfer, |t| t["metadata"]["deletionTimestamp"] = json!(at.to_string()));
                } else {
                    self.transfer = None;
                }
            }
            Event::TargetDeleted => {
                let owner = get(self.volume.as_ref(), "/spec/claimRef/uid").to_owned();
                let held = self.target.is_some() && get(self.target.as_ref(), "/metadata/uid") == owner;
                let kept = get(self.volume.as_ref(), "/spec/persistentVolumeReclaimPolicy") == "Retain";
                self.vandalised |= held;
                self.thrown_away |= held && !kept;
                self.target = None;
            }
        }
    }

    /// Runs a pass over a view, as the controller does. Returns true if there was nothing to write.
    fn pass(&mut self, seen: &Observed, acts: bool, reports: bool) -> Result<bool, TestCaseError> {
        let (mut seen, Some(mut plan)) = (seen.clone(), step(seen)) else { return Ok(true) };
        if self.transfer.is_none() {
            return Ok(true);
        }
        if plan.is_irreversible() {
            seen = self.view();
            let Some(again) = step(&seen) else { return Ok(true) };
            plan = again;
        }
        prop_assert_eq!(violations(&seen, &plan), vec![]);
        let version = get(self.transfer.as_ref(), "/metadata/resourceVersion").to_owned();
        if let (Some(action), true) = (&plan.action, acts) {
            self.write(&seen, action)?;
        }
        let next = status(&seen, &plan);
        let silent = plan.action.is_none() && next == seen.transfer.status;
        let ours =
            plan.action == Some(Write::Guard) || version == get(self.transfer.as_ref(), "/metadata/resourceVersion");
        let fresh = seen.transfer.status == self.view().transfer.status;
        if acts && reports && ours && fresh && next != seen.transfer.status {
            self.touch(|w| &mut w.transfer, |t| t["status"] = serde_json::to_value(next).unwrap());
        }
        Ok(silent)
    }

    fn settle(&mut self) -> Result<(), TestCaseError> {
        self.happens(Event::PodEnds);
        for _ in 0..60 {
            self.happens(Event::Sync);
            self.happens(Event::TimePasses);
            let silent = self.pass(&self.view(), true, true)?;
            let over = self.transfer.is_none() || self.view().transfer.phase().is_final();
            if silent && over {
                return Ok(());
            }
        }
        Err(TestCaseError::fail(format!("never settles: {self:#?}")))
    }

    fn phase(&self) -> Phase {
        self.view().transfer.phase()
    }
}

fn spec(world: &World) -> crate::api::ObjectTransferSpec {
    let object: Option<ObjectTransfer> = world.transfer.clone().and_then(|t| serde_json::from_value(t).ok());
    object.unwrap_or_default().spec
}

#[derive(Debug, Clone, Copy)]
enum Event {
    Sync,
    /// The resync of Kubernetes' controller, every 15 seconds.
    Resync,
    TimePasses,
    PodStarts,
    PodEnds,
    TransferDeleted,
    TargetDeleted,
}

fn events() -> impl Strategy<Value = Event> {
    prop_oneof![
        8 => Just(Event::Sync),
        1 => Just(Event::Resync),
        4 => Just(Event::TimePasses),
        1 => Just(Event::PodStarts),
        2 => Just(Event::PodEnds),
        1 => Just(Event::TransferDeleted),
        1 => Just(Event::TargetDeleted),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    /// After any events, stale views and interruptions, and any deletion of the ObjectTransfer, the data is in exactly one claim, nothing
    /// else is left, and no rebind is in progress. The volume is never moved while it is in use.
    #[test]
    fn the_data_is_in_one_place(
        kind in prop_oneof![Just("PersistentVolumeClaim"), Just("DataVolume")],
        road in proptest::collection::vec((events(), 0usize..4, any::<bool>(), any::<bool>()), 0..32),
    ) {
        let mut world = World::new(kind);
        let mut views = vec![world.view()];
        for (event, lag, acts, reports) in road {
            world.happens(event);
            views.push(world.view());
            let seen = views[views.len().saturating_sub(1 + lag)].clone();
            world.pass(&seen, acts, reports)?;
            views.push(world.view());
            prop_assert!(world.volume.is_some() || world.thrown_away, "the data is gone: {:#?}", world);
        }
        world.settle()?;
        prop_assert!(world.volume.is_some() || world.thrown_away, "the data is gone: {:#?}", world);
        if world.vandalised {
            return Ok(());
        }
        prop_assert!(world.at_home() != world.bound(), "{:#?}", world);
        prop_assert_eq!(get(world.volume.as_ref(), "/spec/persistentVolumeReclaimPolicy"), "Delete", "{:#?}", world);
        prop_assert_eq!(get(world.volume.as_ref(), "/metadata/annotations/smartclone.dev~1reclaim-policy"), "");
        if world.bound() {
            prop_assert!(world.source.is_none() && world.old.is_none(), "{:#?}", world);
            prop_assert_eq!(world.new.is_some(), kind == "DataVolume");
        } else {
            prop_assert!(world.target.is_none() && world.new.is_none(), "{:#?}", world);
            prop_assert!(world.transfer.is_none(), "not deleted and not moved: {:#?}", world);
        }
    }
}

#[rstest]
#[case("PersistentVolumeClaim")]
#[case("DataVolume")]
fn it_moves(#[case] kind: &str) {
    let mut world = World::new(kind);
    world.settle().unwrap();
    assert_eq!(world.phase(), Phase::Complete, "{world:#?}");
    assert!(world.bound() && world.source.is_none());
    let target: PersistentVolumeClaim = read(world.target.as_ref()).present().cloned().unwrap();
    // The size of the volume, not the requested one. A user's annotations do not move to another namespace.
    assert_eq!(target.spec.unwrap().resources.unwrap().requests.unwrap()["storage"].0, "2Gi");
    assert!(!target.metadata.annotations.unwrap().contains_key("mine"));
}

fn seen(kind: &str, change: impl FnOnce(&mut World)) -> Observed {
    let mut world = World::new(kind);
    change(&mut world);
    world.view()
}

fn changed(path: &'static str, value: Value) -> impl FnOnce(&mut World) {
    move |world| {
        let source = world.source.as_mut().unwrap();
        *source.pointer_mut(path).unwrap() = value;
    }
}

const CLAIM: &str = "PersistentVolumeClaim";

#[rstest]
#[case::no_source(seen(CLAIM, |w| w.source = None), "SourceMissing", "here/disk")]
#[case::unbound(seen(CLAIM, changed("/status/phase", json!("Pending"))), "SourceNotBound", "here/disk")]
#[case::volume_of_another(
    seen(CLAIM, |w| w.volume.as_mut().unwrap()["spec"]["claimRef"]["uid"] = json!("x")), "SourceNotBound", "here/disk"
)]
#[case::used(seen(CLAIM, |w| w.pod = true), "SourceInUse", "pod \"vm\"")]
#[case::snapshot_is_taken(
    seen(CLAIM, |w| w.source.as_mut().unwrap()["metadata"]["finalizers"] = json!(BUSY)), "SourceBusy", "snapshot"
)]
#[case::leaving(
    seen(CLAIM, |w| w.source.as_mut().unwrap()["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z")),
    "ErrResourceMarkedForDeletion",
    "being deleted"
)]
#[case::grows(
    seen(CLAIM, |w| w.source.as_mut().unwrap()["status"]["conditions"] =
        json!([{"type": "FileSystemResizePending", "status": "True"}])),
    "SourceResizing",
    "start one"
)]
#[case::lacks_annotation(
    seen(CLAIM, |w| w.transfer.as_mut().unwrap()["spec"]["source"]["requiredAnnotations"] = json!({"ready": "yes"})),
    "RequiredAnnotations",
    "ready=yes"
)]
#[case::target_exists(seen(CLAIM, |w| w.target = Some(claim("there", "moved", "x"))), "TargetExists", "there/moved")]
#[case::of_a_data_volume(seen("DataVolume", |w| {
    w.transfer.as_mut().unwrap()["spec"]["source"]["kind"] = json!(CLAIM);
}), "SourceOwned", "kind DataVolume")]
#[case::data_volume_not_done(
    seen("DataVolume", |w| w.old.as_mut().unwrap()["status"]["phase"] = json!("CloneInProgress")),
    "SourceNotReady",
    "CloneInProgress"
)]
#[case::data_volume_of_a_machine(seen("DataVolume", |w| {
    w.old.as_mut().unwrap()["metadata"]["ownerReferences"] =
        json!([{"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "name": "vm", "uid": "u", "controller": true}]);
}), "SourceOwned", "VirtualMachine \"vm\"")]
#[case::unknown_pods(Observed { users: Unknown("why".into()), ..seen(CLAIM, |_| {}) }, "CouldNotTell", "why")]
#[case::unknown_target(Observed { target: Unknown("why".into()), ..seen(CLAIM, |_| {}) }, "CouldNotTell", "why")]
#[case::cdi_itself(
    Observed { another_controller: Some("CDI's own operator".into()), ..seen(CLAIM, |_| {}) }, "AnotherController", "removed"
)]
fn waits(#[case] seen: Observed, #[case] reason: &str, #[case] words: &str) {
    let plan = step(&seen).unwrap();
    assert_eq!((plan.phase, plan.action, plan.record, plan.why.reason), (Phase::Pending, None, None, reason));
    assert!(plan.why.message.contains(words), "{}", plan.why.message);
    let condition = &status(&seen, &step(&seen).unwrap()).conditions[0];
    assert_eq!((condition.type_.as_str(), condition.status.as_str()), ("Complete", "False"));
}

/// The finalizer keeps an ObjectTransfer for at most a minute, even if nothing can be read.
#[test]
fn nothing_needs_to_be_known_to_let_go() {
    let mut world = World::new(CLAIM);
    for _ in 0..3 {
        world.pass(&world.view(), true, true).unwrap();
    }
    world.happens(Event::TransferDeleted);
    let blind = |seen: Observed| Observed {
        source: Unknown("?".into()),
        target: Unknown("?".into()),
        volume: Unknown("?".into()),
        source_volume: Unknown("?".into()),
        target_volume: Unknown("?".into()),
        users: Unknown("?".into()),
        ..seen
    };
    assert_eq!(step(&blind(world.view())).unwrap().action, None);
    world.seconds += 61;
    assert_eq!(step(&blind(world.view())).unwrap().action, Some(Write::Release));
    let restarted = Observed { since: world.view().now, ..blind(world.view()) };
    assert_eq!(step(&restarted).unwrap().action, None, "who has just begun to look looks first");
}

#[rstest]
#[case::nowhere(json!({"target": {}}), &["spec.target"])]
#[case::itself(json!({"target": {"namespace": "here", "name": "disk"}}), &["spec.target"])]
#[case::another_kind(json!({"source": {"kind": "Pod"}}), &["spec.source.kind"])]
#[case::another_version(json!({"source": {"apiVersion": "v2"}}), &["spec.source.apiVersion"])]
#[case::no_name(json!({"target": {"name": "Not A Name"}}), &["spec.target.name"])]
#[case::everything(
    json!({"source": {"kind": "", "namespace": "", "name": "x_y"}, "target": {}}),
    &["spec.source.kind", "spec.source.namespace", "spec.source.name", "spec.target"]
)]
fn mistakes(#[case] change: Value, #[case] fields: &[&str]) {
    let mut spec = json!({"source": {"kind": CLAIM, "namespace": "here", "name": "disk"}, "target": {"name": "moved"}});
    for (key, value) in change.as_object().unwrap() {
        match value.as_object() {
            Some(map) if map.is_empty() => spec[key] = value.clone(),
            _ => merge(&mut spec[key], value),
        }
    }
    let errors = parse(&serde_json::from_value(spec).unwrap()).unwrap_err();
    assert_eq!(errors.iter().map(|e| e.field.as_str()).collect::<Vec<_>>(), fields);
}
