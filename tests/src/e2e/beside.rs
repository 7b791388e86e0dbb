//! Clones beside CDI, whose place a double takes that behaves as CDI's source and CDI's own clusters show (`tests/cdi`).

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use common::{
    api::{DataSource, DataVolume, Phase, VolumeCloneSource},
    keys,
    manifest::NAMESPACE,
};
use k8s_openapi::api::{
    admissionregistration::v1::MutatingWebhookConfiguration, apps::v1::Deployment, core::v1::PersistentVolumeClaim,
};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use reference_csi::behaviour::Behaviour;
use serde_json::{Value, json};

use crate::{
    harness::{
        CloneHandle, Disk, Named, Space,
        cdi::{self, CONTROLLER_ACCOUNT, Cdi},
        clone_by, clone_of, gi, mi,
        wait::{self, Look},
    },
    lab::command::until,
};

tests![
    clones_are_made_by_smartclone_and_reported_by_cdi,
    what_smartclone_does_not_take_is_cdi_s,
    a_requester_without_the_right_is_refused_by_cdi,
    a_data_source_that_goes_is_reported_around,
    what_a_user_writes_reaches_no_controller_of_cdi,
    a_mark_that_is_lost_is_put_back,
    a_mark_that_an_admin_removes_leaves_the_clone_to_cdi,
    claims_without_a_data_volume_are_filled_and_left_alone_by_cdi,
    a_clone_that_is_deleted_in_the_middle_leaves_nothing,
    late_binding_is_shown_as_cdi_does,
    a_wait_is_told_before_and_after_there_is_a_claim;
    alone:
    cdi_that_is_down_is_replaced_and_finds_nothing_to_do,
    without_the_controller_or_the_webhook_clones_are_cdi_s,
    what_was_cloned_is_plain_cdi_s_after_smartclone_is_removed,
    clones_in_flight_are_finished_when_cdi_is_installed,
];

/// The DataVolume bears the mark.
fn is_marked(clone: &CloneHandle) -> bool {
    clone.annotation(keys::PRE_POPULATED).as_deref() == Some(keys::SENTINEL)
}

/// The place of a phase in the order of CDI's clones.
fn rank(phase: Phase) -> usize {
    match phase {
        Phase::Unset => 0,
        Phase::Pending => 1,
        Phase::CloneScheduled | Phase::PendingPopulation => 2,
        Phase::SnapshotForSmartCloneInProgress | Phase::CsiCloneInProgress | Phase::CloneInProgress => 3,
        Phase::CloneFromSnapshotSourceInProgress => 4,
        Phase::RebindInProgress => 5,
        Phase::PrepClaimInProgress => 6,
        Phase::Succeeded => 7,
        _ => usize::MAX,
    }
}

/// It was made by smartclone and reported by CDI: with the bytes of the source, never backwards, without a finalizer or an object of CDI.
async fn is_taken(t: &Space, clone: &CloneHandle, disk: &Disk) -> Result<()> {
    clone.succeeds().await?.has_bytes_of(disk).await?;
    ensure!(is_marked(clone), "{:?}", clone.now().annotations());
    let ranks: Vec<_> = clone.phases().into_iter().map(rank).collect();
    ensure!(ranks.is_sorted(), "the phases went back: {:?}", clone.phases());
    ensure!(clone.now().finalizers().is_empty(), "{:?}", clone.now().finalizers());
    let sources: Api<VolumeCloneSource> = t.api();
    let of_cdi = format!("volume-clone-source-{}", clone.uid());
    ensure!(sources.get_opt(&of_cdi).await?.is_none(), "CDI has made a VolumeCloneSource");
    Ok(())
}

async fn clones_are_made_by_smartclone_and_reported_by_cdi(t: &Space) -> Result<()> {
    let gold = t.neighbour().await?;
    let (disk, golden) = (t.source("disk").filled(mi(24)).await?, gold.source("golden").filled(mi(24)).await?);
    let cdi = Cdi::of(t.lab()?)?;
    let mark = cdi.mark()?;
    let here = t.create(clone_of(&disk).named("here")).await?;
    let there = t.create(clone_of(&golden).from(&gold).named("there")).await?;
    let copied = t.create(clone_of(&disk).named("copied").annotate(keys::CLONE_TYPE, "copy").with_owners()).await?;
    let larger = t.create(clone_of(&disk).named("larger").size(gi(2))).await?;
    for (clone, source) in [(&here, &disk), (&there, &golden), (&copied, &disk), (&larger, &disk)] {
        is_taken(t, clone, source).await?;
        ensure!(clone.event("CloneSucceeded", "").await? == "Normal");
    }
    ensure!(t.capacity(&larger).await? >= Some(gi(2)), "{:?}", t.capacity(&larger).await?);
    t.nothing_left_but(&[&disk, &here, &there, &copied, &larger]).await?;
    gold.nothing_left_but(&[&golden]).await?;
    // The statuses are CDI's, and nothing else about the DataVolumes is written.
    let writes = cdi.writes_by_account(&mark, &[t.name(), gold.name()])?;
    for (account, counts) in &writes {
        let of_volumes: Vec<_> = counts.keys().filter(|what| what.contains(" datavolumes")).collect();
        let expected = match account.as_str() {
            CONTROLLER_ACCOUNT => of_volumes.iter().all(|what| what.ends_with("datavolumes/status")),
            account if account.contains("smartclone") => of_volumes.is_empty(),
            _ => of_volumes.iter().all(|what| *what == "create datavolumes"),
        };
        ensure!(expected, "{account} has written {counts:?}");
    }
    let of_cdi = writes.get(CONTROLLER_ACCOUNT).context("CDI has written nothing")?;
    ensure!(of_cdi.keys().all(|what| !what.contains("persistentvolumeclaims")), "CDI has written claims: {of_cdi:?}");
    Ok(())
}

/// CDI clones it: there is no mark, and CDI's own object was there.
async fn is_cdis(clone: &CloneHandle, disk: &Disk) -> Result<()> {
    clone.succeeds().await?.has_bytes_of(disk).await?;
    ensure!(!is_marked(clone), "{:?}", clone.now().annotations());
    let ours: Vec<_> = clone.now().annotations().keys().filter(|key| key.starts_with(keys::PREFIX)).cloned().collect();
    ensure!(ours.iter().all(|key| key == keys::BESIDE_CDI), "smartclone has annotated it: {ours:?}");
    Ok(())
}

async fn what_smartclone_does_not_take_is_cdi_s(t: &Space) -> Result<()> {
    let disk = t.source("disk").filled(mi(24)).await?;
    let opted_out = t.create(clone_of(&disk).named("opted-out").annotate(keys::BESIDE_CDI, "false")).await?;
    let early = t.create(clone_of("later").named("early")).await?;
    let blank = json!({
        "apiVersion": "cdi.kubevirt.io/v1beta1", "kind": "DataVolume", "metadata": {"name": "blank"},
        "spec": {"source": {"blank": {}}, "pvc": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}},
    });
    let blank = t.apply::<DataVolume>(&t.api(), "blank", &blank).await?;
    ensure!(blank.annotations().keys().all(|key| !key.starts_with(keys::PREFIX)), "{:?}", blank.annotations());
    ensure!(!is_marked(&early), "{:?}", early.now().annotations());
    is_cdis(&opted_out, &disk).await?;
    let later = t.source("later").with_content_of(&disk).await?;
    is_cdis(&early, &later).await
}

async fn a_requester_without_the_right_is_refused_by_cdi(t: &Space) -> Result<()> {
    let gold = t.neighbour().await?;
    let disk = gold.source("disk").filled(mi(24)).await?;
    let user = "tenant-beside";
    t.administered_by(user).await?;
    let denial = t.refuses(clone_of(&disk).from(&gold).by(user)).await?.by("datavolume-mutate.cdi.kubevirt.io")?;
    ensure!(!denial.text().contains("smartclone"), "{}", denial.text());
    gold.lets_clone(user, &disk).await?;
    let clone = t.create(clone_of(&disk).from(&gold).by(user)).await?;
    is_taken(t, &clone, &disk).await?;
    // A mark that arrives makes CDI lenient: then smartclone refuses.
    gold.forbids_cloning(user, &disk).await?;
    let forged = clone_of(&disk).from(&gold).by(user).named("forged").annotate(keys::PRE_POPULATED, keys::SENTINEL);
    t.refuses(forged).await?;
    Ok(())
}

async fn a_data_source_that_goes_is_reported_around(t: &Space) -> Result<()> {
    let class = t.class().behaving(slow()).made().await?;
    let disk = t.source("disk").class(&class).filled(mi(24)).await?;
    t.data_source("boot", json!({"pvc": {"namespace": t.name(), "name": "disk"}})).await?;
    let clone = t.create(clone_by("boot").as_claim(gi(1)).class(&class)).await?;
    ensure!(is_marked(&clone), "{:?}", clone.now().annotations());
    t.api::<DataSource>().delete("boot", &DeleteParams::default()).await?;
    clone.succeeds().await?.has_bytes_of(&disk).await?;
    clone.event("CloneSucceeded", "CDI has not reported it").await?;
    t.nothing_left_but(&[&disk, &clone]).await
}

/// A driver that takes a while for a snapshot.
fn slow() -> Behaviour {
    Behaviour { snapshot_ready_after_ms: Some(3000), ..Behaviour::default() }
}

async fn what_a_user_writes_reaches_no_controller_of_cdi(t: &Space) -> Result<()> {
    let disk = t.source("disk").filled(mi(24)).await?;
    let hostile = [
        ("k8s.io/CloneRequest", "other/claim"),
        ("cdi.kubevirt.io/storage.upload.target", ""),
        ("cdi.kubevirt.io/storage.import.endpoint", "http://example.com/disk.img"),
        ("cdi.kubevirt.io/storage.pod.phase", "Succeeded"),
        (keys::CLONE_PHASE, "Succeeded"),
        (keys::CREATED_FOR_DATA_VOLUME, "another"),
        (keys::CONDITION_BOUND, "false"),
        (keys::ALLOW_ADOPTION, "true"),
        (keys::USE_POPULATOR, "maybe"),
    ];
    let mut request = clone_of(&disk).label("cdi.kubevirt.io/OwnedByUID", "another");
    for (key, value) in hostile {
        request = request.annotate(key, value);
    }
    let clone = t.create(request).await?;
    is_taken(t, &clone, &disk).await?;
    let claim = t.bound(&clone).await?;
    for key in
        ["k8s.io/CloneRequest", "cdi.kubevirt.io/storage.upload.target", "cdi.kubevirt.io/storage.import.endpoint"]
    {
        ensure!(!claim.annotations().contains_key(key), "{:?}", claim.annotations());
    }
    ensure!(claim.annotations().get(keys::CREATED_FOR_DATA_VOLUME).map(String::as_str) == Some(clone.uid()));
    ensure!(!claim.labels().contains_key(keys::CDI_OWNED_BY_UID), "{:?}", claim.labels());
    // Without these CDI would report another phase.
    let api: Api<PersistentVolumeClaim> = t.api();
    let lost = json!({"metadata": {"annotations": {(keys::CLONE_PHASE): null, (keys::USE_POPULATOR): "false"}}});
    api.patch(clone.name(), &PatchParams::default(), &Patch::Merge(lost)).await?;
    wait::object(&api, clone.name(), "the claim to tell CDI of its end again", |claim| {
        let told = claim.map(|claim| claim.annotations().clone()).unwrap_or_default();
        let values = [keys::CLONE_PHASE, keys::USE_POPULATOR].map(|key| told.get(key).map(String::as_str));
        if values == [Some("Succeeded"), Some("true")] { Look::Break(()) } else { Look::Continue(format!("{told:?}")) }
    })
    .await?;
    let volumes: Api<DataVolume> = t.api();
    wait::object(&volumes, clone.name(), "the DataVolume to be Succeeded again", |volume| {
        match volume.and_then(|volume| volume.status.as_ref()).map(|status| status.phase) {
            Some(Phase::Succeeded) => Look::Break(()),
            phase => Look::Continue(format!("it is {phase:?}")),
        }
    })
    .await
}

async fn a_mark_that_is_lost_is_put_back(t: &Space) -> Result<()> {
    let disk = t.source("disk").filled(mi(24)).await?;
    let clone = t.create(clone_of(&disk)).await?;
    is_taken(t, &clone, &disk).await?;
    let before = clone.now();
    let object = clone_of(&disk).object(t.name());
    let file = tempfile::NamedTempFile::new()?;
    serde_json::to_writer(&file, &object)?;
    let path = file.path().display().to_string();
    // A client that does not know the annotations, in every way of sending an object again.
    for way in [
        &["apply", "--filename"][..],
        &["apply", "--server-side", "--force-conflicts", "--filename"],
        &["replace", "--filename"],
        &["apply", "--filename"],
        &["apply", "--server-side", "--force-conflicts", "--filename"],
    ] {
        let args: Vec<_> = way.iter().copied().chain([path.as_str()]).collect();
        t.kubectl(&args).await?;
    }
    let after = t.api::<DataVolume>().get(clone.name()).await?;
    for key in
        [keys::PRE_POPULATED, keys::USE_POPULATOR, keys::BESIDE_CDI, keys::PLAN, keys::REQUESTER, keys::CLONE_TOKEN]
    {
        ensure!(
            after.annotations().get(key) == before.annotations().get(key),
            "{key} was {:?} and is {:?}",
            before.annotations(),
            after.annotations()
        );
    }
    ensure!(after.status.as_ref().is_some_and(|status| status.phase == Phase::Succeeded), "{:?}", after.status);
    let sources = t.api::<VolumeCloneSource>().list(&ListParams::default()).await?;
    ensure!(sources.items.is_empty(), "CDI has begun to clone: {sources:?}");
    Ok(())
}

/// Removes the mark as a cluster admin does who leaves a clone to CDI.
async fn release(t: &Space, clone: &CloneHandle) -> Result<()> {
    let patch = json!({"metadata": {"annotations": {
        (keys::PRE_POPULATED): null, (keys::USE_POPULATOR): null, (keys::BESIDE_CDI): "false",
    }}});
    t.api::<DataVolume>().patch(clone.name(), &PatchParams::default(), &Patch::Merge(patch)).await?;
    Ok(())
}

async fn a_mark_that_an_admin_removes_leaves_the_clone_to_cdi(t: &Space) -> Result<()> {
    let class = t.class().behaving(slow()).made().await?;
    let disk = t.source("disk").class(&class).filled(mi(24)).await?;
    // A tenant may not.
    let user = "tenant-release";
    t.administered_by(user).await?;
    let begun = t.create(clone_of(&disk).class(&class).named("begun")).await?;
    t.claimed(&begun).await?;
    let tenant: Api<DataVolume> = Api::namespaced(t.lab()?.client_as(user)?, t.name());
    let patch = json!({"metadata": {"annotations": {(keys::PRE_POPULATED): null}}});
    let kept = tenant.patch(begun.name(), &PatchParams::default(), &Patch::Merge(patch)).await;
    ensure!(kept.is_err() || kept.is_ok_and(|kept| kept.annotations().contains_key(keys::PRE_POPULATED)));
    // Its claim is there: smartclone finishes it, and CDI fills nothing.
    release(t, &begun).await?;
    begun.succeeds().await?.has_bytes_of(&disk).await?;
    // There is no claim yet: CDI clones it.
    t.quota(gi(1)).await?;
    let waiting = t.create(clone_of(&disk).class(&class).named("waiting").size(gi(9))).await?;
    waiting.event("ErrExceededQuota", "").await?;
    release(t, &waiting).await?;
    waiting.event("LeftToCDI", "").await?;
    waiting.delete().await?;
    t.nothing_left_but(&[&disk, &begun]).await
}

async fn claims_without_a_data_volume_are_filled_and_left_alone_by_cdi(t: &Space) -> Result<()> {
    let gold = t.neighbour().await?;
    let (disk, golden) = (t.source("disk").filled(mi(24)).await?, gold.source("golden").filled(mi(24)).await?);
    t.clone_source("here", &disk).await?;
    gold.clone_source("there", &golden).await?;
    let here = t.claim_from("here").made().await?;
    let there = t.claim_from("there").from(&gold).named("across").made().await?;
    for (claim, source) in [(&here, &disk), (&there, &golden)] {
        let filled = t.bound(claim).await?;
        claim.has_bytes_of(source).await?;
        let phase = filled.annotations().get(keys::CLONE_PHASE).map(String::as_str);
        ensure!(phase == Some("Succeeded"), "{:?}", filled.annotations());
        ensure!(filled.finalizers().iter().all(|it| !it.contains("cdi")), "{:?}", filled.finalizers());
    }
    t.nothing_left_but(&[&disk, &here, &there]).await?;
    gold.nothing_left_but(&[&golden]).await
}

async fn a_clone_that_is_deleted_in_the_middle_leaves_nothing(t: &Space) -> Result<()> {
    let class = t.class().behaving(slow()).made().await?;
    let gold = t.neighbour().await?;
    let disk = gold.source("disk").class(&class).filled(mi(24)).await?;
    let clone = t.create(clone_of(&disk).from(&gold).class(&class)).await?;
    gold.snapshot_for(|members| members.contains_key(clone.uid())).await?;
    clone.delete().await?;
    t.nothing_left_but(&[]).await?;
    gold.nothing_left_but(&[&disk]).await
}

async fn late_binding_is_shown_as_cdi_does(t: &Space) -> Result<()> {
    let class = t.class().waiting_for_consumer().made().await?;
    let disk = t.source("disk").filled(mi(24)).await?;
    let clone = t.create(clone_of(&disk).class(&class).with_owners()).await?;
    clone.phase(Phase::PendingPopulation).await?;
    let at_once = clone_of(&disk).class(&class).with_owners().named("at-once").annotate(keys::IMMEDIATE_BINDING, "");
    let at_once = t.create(at_once).await?;
    is_taken(t, &at_once, &disk).await?;
    let pod = t.pod_without_volume(&clone).await?;
    is_taken(t, &clone, &disk).await?;
    pod.delete().await?;
    t.nothing_left_but(&[&disk, &clone, &at_once]).await
}

async fn a_wait_is_told_before_and_after_there_is_a_claim(t: &Space) -> Result<()> {
    let disk = t.source("disk").filled(mi(24)).await?;
    t.quota(gi(3)).await?;
    let large = t.create(clone_of(&disk).named("large").size(gi(5))).await?;
    large.event("ErrExceededQuota", "").await?;
    ensure!(large.status().clone.is_none(), "CDI's definition has no such field");
    large.delete().await?;
    // The source is in use: CDI shows what the claim says.
    let writer = t.pod_using(&disk).await?;
    let clone = t.create(clone_of(&disk).named("held-up")).await?;
    clone.condition("Bound", "False", "CloneSourceInUse", writer.name()).await?;
    let claim = t.api::<PersistentVolumeClaim>().get(clone.name()).await?;
    let record = claim.annotations().get(keys::STATUS).context("the claim has no record")?;
    let record: Value = serde_json::from_str(record)?;
    ensure!(record["clone"]["waitingFor"]["reason"] == "CloneSourceInUse", "{record}");
    ensure!(record["clone"]["plan"].is_array(), "{record}");
    writer.delete().await?;
    is_taken(t, &clone, &disk).await
}

async fn cdi_that_is_down_is_replaced_and_finds_nothing_to_do(t: &Space) -> Result<()> {
    let class = t.class().behaving(slow()).made().await?;
    let disk = t.source("disk").class(&class).filled(mi(24)).await?;
    let mut cdi = Cdi::of(t.lab()?)?;
    let begun = t.create(clone_of(&disk).class(&class).named("begun")).await?;
    t.claimed(&begun).await?;
    cdi.kill().await?;
    let later = t.create(clone_of(&disk).class(&class).named("later")).await?;
    for clone in [&begun, &later] {
        clone.succeeds().await?.has_bytes_of(&disk).await?;
        clone.event("CloneSucceeded", "CDI has not reported it").await?;
    }
    // The controller is killed, too; what is done is not done again, in either's absence.
    super::process::kill(t, keys::CONTROLLER).await?;
    let mark = cdi.mark()?;
    // It comes back as an older version, which writes statuses in another way.
    cdi.upgrade("1.62.0").await?;
    let next = t.create(clone_of(&disk).class(&class).named("next")).await?;
    is_taken(t, &next, &disk).await?;
    let versions = [&begun, &later].map(|clone| clone.versions().len());
    let of_cdi = cdi.writes_by_account(&mark, &[t.name()])?;
    ensure!([&begun, &later].iter().all(|clone| clone.status().phase == Phase::Succeeded), "{versions:?} {of_cdi:?}");
    ensure!([&begun, &later].map(|clone| clone.versions().len()) == versions);
    t.nothing_left_but(&[&disk, &begun, &later, &next]).await
}

/// Waits until clones are left to CDI: the webhook, and the API server, learn by watches that they are.
async fn are_left(t: &Space, disk: &Disk) -> Result<()> {
    until("clones to be left to CDI", Duration::from_secs(45), async || {
        let probe = t.dry_run(clone_of(disk).named("probe")).await?.0;
        let is_marked = probe.annotations().get(keys::PRE_POPULATED).is_some();
        Ok(if is_marked { Look::Continue("one is marked".to_owned()) } else { Look::Break(()) })
    })
    .await
}

async fn without_the_controller_or_the_webhook_clones_are_cdi_s(t: &Space) -> Result<()> {
    let disk = t.source("disk").filled(mi(24)).await?;
    let deployments: Api<Deployment> = Api::namespaced(t.client().clone(), NAMESPACE);
    let name = common::manifest::name(keys::CONTROLLER);
    let scale = async |replicas: i32| -> Result<()> {
        let patch = json!({"spec": {"replicas": replicas}});
        super::process::roll_out(t, keys::CONTROLLER, async {
            deployments.patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await?;
            Ok(())
        })
        .await
    };
    scale(0).await?;
    // Its Lease is given back, and the webhook takes no more clones.
    let left = are_left(t, &disk).await;
    let without_controller = t.create(clone_of(&disk).named("without-controller")).await;
    scale(1).await?;
    left?;
    is_cdis(&without_controller?, &disk).await?;
    // Without the webhook's configuration, CDI clones as ever.
    let configurations: Api<MutatingWebhookConfiguration> = Api::all(t.client().clone());
    configurations.delete(webhook::manifests::MUTATING, &DeleteParams::default()).await?;
    let left = are_left(t, &disk).await;
    let without_webhook = t.create(clone_of(&disk).named("without-webhook")).await;
    Box::pin(cdi::install_beside(t.lab()?)).await?;
    left?;
    is_cdis(&without_webhook?, &disk).await
}

/// The steps of the uninstallation in `docs/beside-cdi.md`.
async fn what_was_cloned_is_plain_cdi_s_after_smartclone_is_removed(t: &Space) -> Result<()> {
    let disk = t.source("disk").filled(mi(24)).await?;
    let taken = t.create(clone_of(&disk).named("taken")).await?;
    is_taken(t, &taken, &disk).await?;
    t.kubectl(&["delete", "mutatingwebhookconfiguration", webhook::manifests::MUTATING]).await?;
    are_left(t, &disk).await?;
    let removed = cdi::remove_smartclone(t.lab()?).await;
    let of = |key: &str| format!("{key}-");
    let (mark, populator, beside) = (of(keys::PRE_POPULATED), of(keys::USE_POPULATOR), of(keys::BESIDE_CDI));
    let released = t.kubectl(&["annotate", "datavolume", taken.name(), &mark, &populator, &beside]).await;
    let later = t.create(clone_of(&disk).named("later")).await;
    let done = async {
        removed?;
        released?;
        is_cdis(&later?, &disk).await?;
        ensure!(taken.status().phase == Phase::Succeeded, "{:?}", taken.phases());
        taken.has_bytes_of(&disk).await?;
        ensure!(!is_marked(&taken), "{:?}", taken.now().annotations());
        anyhow::Ok(())
    };
    let done = Box::pin(done).await;
    // The next test needs it.
    Box::pin(cdi::install_beside(t.lab()?)).await?;
    done
}

async fn clones_in_flight_are_finished_when_cdi_is_installed(t: &Space) -> Result<()> {
    let lab = t.lab()?;
    Box::pin(cdi::leave(lab)).await?;
    let slow = Behaviour { snapshot_ready_after_ms: Some(12_000), ..Behaviour::default() };
    let class = t.class().behaving(slow).made().await?;
    let gold = t.neighbour().await?;
    let (disk, golden) = (
        t.source("disk").class(&class).filled(mi(24)).await?,
        gold.source("golden").class(&class).filled(mi(24)).await?,
    );
    let done = t.create(clone_of(&disk).class(&class).named("done").annotate(keys::CLONE_TYPE, "csi-clone")).await?;
    done.succeeds().await?;
    let here = t.create(clone_of(&disk).class(&class).named("here")).await?;
    let there = t.create(clone_of(&golden).from(&gold).class(&class).named("there")).await?;
    t.snapshot_for(|members| members.contains_key(here.uid())).await?;
    gold.snapshot_for(|members| members.contains_key(there.uid())).await?;
    Box::pin(cdi::enter(lab)).await?;
    for (clone, source) in [(&here, &disk), (&there, &golden)] {
        clone.succeeds().await?.has_bytes_of(source).await?;
    }
    // What was complete stays so, and is declared populated to CDI.
    done.has_bytes_of(&disk).await?;
    let api: Api<PersistentVolumeClaim> = t.api();
    wait::object(&api, done.name(), "the finished claim to be declared populated", |claim| {
        let annotations = claim.map(|claim| claim.annotations().clone()).unwrap_or_default();
        match annotations.get(keys::POPULATED_FOR) {
            Some(_) => Look::Break(()),
            None => Look::Continue(format!("{annotations:?}")),
        }
    })
    .await?;
    t.nothing_left_but(&[&disk, &done, &here, &there]).await?;
    gold.nothing_left_but(&[&golden]).await
}
