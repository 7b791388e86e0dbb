//! The source of a clone according to the caches: a claim with its volume, or a snapshot with its content and the volume that it was taken
//! of.

use std::sync::Arc;

use common::{
    api::{
        Phase,
        snapshot::{VolumeSnapshot, VolumeSnapshotContent},
    },
    clone::{
        facts::{
            Source, driver_of,
            sizes::{self, Origin, capacity_of},
        },
        request::Request,
    },
    lookup::Lookup,
    object::{self, ObjectName, SourceKind},
    quantity::Bytes,
    storage::volume_handle::VolumeHandle,
};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::ResourceExt;

use super::Reconciler;

/// The source that `request` names. `recorded` is the source as it was when the clone was decided.
pub(super) fn source(request: &Request, recorded: Option<&Source>, ctx: &Reconciler) -> Lookup<Source> {
    let ObjectName { namespace, name } = &request.source.object;
    let caches = &ctx.context.caches;
    match request.source.kind {
        SourceKind::Claim => caches.claims.get(Some(namespace), name).map(|claim| {
            let volume = volume_of(&claim, ctx);
            let volume = volume.as_ref().map(AsRef::as_ref);
            let uid = claim.metadata.uid.as_ref();
            Source::of(&claim, capacity_of(uid, volume.present().copied()), driver_of(uid, volume))
        }),
        SourceKind::Snapshot => caches.snapshots.get(Some(namespace), name).map(|snapshot| {
            let recorded = recorded.filter(|recorded| snapshot.metadata.uid.as_ref() == Some(&recorded.uid));
            // A recorded size that does not exceed the requested one says nothing about the volume.
            let on_record = recorded.and_then(|recorded| recorded.capacity).filter(|size| Some(*size) > request.size);
            of_snapshot(&snapshot, on_record, ctx)
        }),
    }
}

fn of_snapshot(snapshot: &VolumeSnapshot, on_record: Option<Bytes>, ctx: &Reconciler) -> Source {
    let status = snapshot.status.as_ref();
    let bound = status.and_then(|status| status.bound_volume_snapshot_content_name.as_deref());
    let content = bound.map_or(Lookup::Absent, |name| content(name, ctx));
    let volume = content.present().and_then(|content| taken_of(content, ctx));
    let claim = volume.as_ref().and_then(|volume| claim_of(volume, ctx));
    let volume = Lookup::from(volume.as_deref());
    Source::of_snapshot(snapshot, &content, &Origin { volume, claim: claim.as_deref(), on_record })
}

/// The volume of which the snapshot with this content was taken; the largest, if there is more than one PersistentVolume for it. The cache
/// of volumes is complete before the first pass, and the snapshot is younger than its volume: a volume that is not in the cache is gone.
fn taken_of(content: &VolumeSnapshotContent, ctx: &Reconciler) -> Option<Arc<PersistentVolume>> {
    let handle = VolumeHandle::of_origin(content)?;
    let names = ctx.indexes.volumes_by_handle.of(&handle);
    let volumes = names.iter().filter_map(|name| ctx.context.caches.volumes.get(None, name).present().cloned());
    volumes
        .filter(|volume| VolumeHandle::of(volume).as_ref() == Some(&handle))
        .max_by_key(|volume| sizes::capacity(volume))
}

/// The claim that a volume names.
fn claim_of(volume: &PersistentVolume, ctx: &Reconciler) -> Option<Arc<PersistentVolumeClaim>> {
    let claim = volume.spec.as_ref()?.claim_ref.as_ref()?;
    ctx.context.caches.claims.get(claim.namespace.as_deref(), claim.name.as_deref()?).present().cloned()
}

/// The content of a snapshot. Both kinds are watched separately, so a content that is named and not in the cache is unknown.
fn content(name: &str, ctx: &Reconciler) -> Lookup<VolumeSnapshotContent> {
    match ctx.context.caches.contents.get(None, name) {
        Lookup::Present(content) => Lookup::Present((*content).clone()),
        Lookup::Absent => Lookup::Unknown(format!("VolumeSnapshotContent {name:?} has not been seen yet")),
        Lookup::Unknown(why) => Lookup::Unknown(why),
    }
}

/// The volume of a bound claim. Both kinds are watched separately, so a volume that is named and not in the cache is unknown.
pub fn volume_of(claim: &PersistentVolumeClaim, ctx: &Reconciler) -> Lookup<Arc<PersistentVolume>> {
    let Some(name) = claim.spec.as_ref().and_then(|s| s.volume_name.as_deref()).filter(|n| !n.is_empty()) else {
        return Lookup::Absent;
    };
    match ctx.context.caches.volumes.get(None, name) {
        Lookup::Absent => Lookup::Unknown(format!("PersistentVolume {name:?} has not been seen yet")),
        seen => seen,
    }
}

/// True if the DataVolume that populates `claim` has succeeded; `None` if there is no such DataVolume.
pub fn populated(claim: &PersistentVolumeClaim, ctx: &Reconciler) -> Option<bool> {
    let owner = object::controller(&claim.metadata).filter(|owner| owner.kind == "DataVolume")?;
    let volume = ctx.context.caches.data_volumes.get(claim.namespace().as_deref(), &owner.name);
    let volume = volume.present().filter(|v| v.uid().as_deref() == Some(&owner.uid))?;
    Some(volume.status.as_ref().is_some_and(|s| s.phase == Phase::Succeeded))
}

#[cfg(test)]
mod tests {
    use common::{
        api::DataVolume,
        clone::{note::SourceFacts, request::Parsed},
    };
    use fake_api::FakeApi;
    use rstest::rstest;
    use serde_json::json;

    use super::*;
    use crate::fixture::Fixture;

    const GIB: Bytes = Bytes(1 << 30);

    /// A snapshot of the claim `disk` and the volume `h`, whose driver reports almost no size. The volume has `of_volume` and belongs to
    /// `claim`; the claim with the name in the snapshot is a different one. `recorded` is the recorded size.
    #[rstest]
    #[case::of_its_claim(Some("1Gi"), "moved", None, Some(GIB))]
    #[case::of_its_claim_whose_status_is_newer(Some("512Mi"), "moved", None, Some(GIB))]
    #[case::released(Some("1Gi"), "gone", None, Some(GIB))]
    #[case::gone(None, "gone", None, None)]
    #[case::gone_since_it_was_decided(None, "gone", Some(GIB), Some(GIB))]
    #[case::on_record_is_the_wish(None, "gone", Some(Bytes(1 << 20)), None)]
    #[tokio::test(start_paused = true)]
    async fn a_snapshot_has_the_size_of_its_volume(
        #[case] of_volume: Option<&str>,
        #[case] claim: &str,
        #[case] recorded: Option<Bytes>,
        #[case] expected: Option<Bytes>,
    ) {
        let api = FakeApi::default();
        let claim_of = |name: &str, capacity: &str| {
            json!({
                "metadata": {"namespace": "gold", "name": name, "uid": name}, "spec": {},
                "status": {"phase": "Bound", "capacity": {"storage": capacity}},
            })
        };
        api.put::<PersistentVolumeClaim>(&claim_of("disk", "9Gi"));
        api.put::<PersistentVolumeClaim>(&claim_of("moved", "1Gi"));
        let volume = |name: &str, handle: &str, claim: &str, size: &str| {
            json!({"metadata": {"name": name}, "spec": {
                "capacity": {"storage": size}, "claimRef": {"namespace": "gold", "name": claim, "uid": claim},
                "csi": {"driver": "d", "volumeHandle": handle},
            }})
        };
        api.put::<PersistentVolume>(&volume("other", "another", "disk", "9Gi"));
        if let Some(size) = of_volume {
            api.put::<PersistentVolume>(&volume("pv", "h", claim, size));
        }
        api.put::<VolumeSnapshot>(&json!({
            "metadata": {"namespace": "gold", "name": "snap", "uid": "s"},
            "spec": {"source": {"persistentVolumeClaimName": "disk"}},
            "status": {"readyToUse": true, "restoreSize": "1805", "boundVolumeSnapshotContentName": "content"},
        }));
        api.put::<VolumeSnapshotContent>(&json!({"metadata": {"name": "content"}, "spec": {
            "volumeSnapshotRef": {"namespace": "gold", "name": "snap", "uid": "s"},
            "driver": "d", "deletionPolicy": "Delete", "source": {"volumeHandle": "h"},
        }}));
        let fixture = Fixture::start(&api).await;
        let wanted: DataVolume = serde_json::from_value(json!({
            "metadata": {"namespace": "gold", "name": "clone", "uid": "dv"},
            "spec": {
                "source": {"snapshot": {"namespace": "gold", "name": "snap"}},
                "storage": {"storageClassName": "cow", "resources": {"requests": {"storage": "1Mi"}}},
            },
        }))
        .unwrap();
        let Parsed::Clone(request) = Request::parse(&wanted) else { panic!("no clone") };
        let recorded = recorded.map(|size| {
            let facts = SourceFacts {
                class: String::new(),
                driver: "d".into(),
                volume_mode: None,
                access_modes: Vec::new(),
                request: size.0,
                capacity: size.0,
            };
            Source::on_record("s".into(), &facts)
        });
        let found = source(&request, recorded.as_ref(), &fixture.reconciler);
        assert_eq!(found.present().and_then(|source| source.capacity), expected);
    }
}
