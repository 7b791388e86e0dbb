//! What to do next. Every pass starts from the objects and derives again what is already done, so a restart is just another pass.

use jiff::{SignedDuration, Timestamp};

use super::{
    action::{Action, Kind},
    attempt::{Attempt, attempt, deadline, failed, reported},
    copy,
    decide::{Chosen, Decision, Route, Undecided, decide},
    group::{Group, Shared},
    note::pin_for,
    objects::{self, DataSource},
    plan::{Authorization, Claim, Content, Observed, Plan, User},
    request::{Consistency, MadeFor, ObjectName, Parsed, Request, SourceKind},
    rules::complaint,
    wait::{InUse, REFUSED, Waiting},
};
use crate::{
    api::{CloneStrategy, Phase},
    lookup::Lookup,
    meta, transfer,
};

/// Whether the requester may still read the source is asked again after this time, as long as something is beside the source.
const RIGHTS_RECHECK: SignedDuration = SignedDuration::from_secs(5);

/// A claim that others tripped over is touched after this time, plus some.
const PATIENCE: SignedDuration = SignedDuration::from_millis(500);

/// The next step of `seen`'s DataVolume; `None` when it is none of our business (no clone, or being deleted: what was made for it
/// beside it goes with it, and what was made elsewhere is swept).
pub fn step(seen: &Observed) -> Option<Plan> {
    if seen.volume.deleting || seen.parsed == Parsed::NotAClone {
        return None;
    }
    let passive = seen.another_controller.clone().map(Waiting::AnotherController);
    let mut plan = match &seen.parsed {
        // Two owners of one kind would fight.
        _ if passive.is_some() => Plan { waiting: passive, ..Plan::idle(seen, recorded(seen)) },
        Parsed::Wrong(errors) => Plan::wait(seen, Phase::Pending, Waiting::Invalid(errors.clone())),
        Parsed::Reference(name, _) => match &seen.claim {
            // What is there already needs no source.
            Lookup::Present(claim) if is_there(seen, claim) => finished(seen),
            Lookup::Present(claim) if !claim.ours && seen.volume.takes_over(claim) => taken_over(seen, claim),
            Lookup::Present(_) | Lookup::Absent | Lookup::Unknown(_) => {
                let unread = || {
                    let why = "it has not been looked at yet".to_owned();
                    Waiting::DataSource { name: name.clone(), why }
                };
                Plan::wait(seen, Phase::Pending, seen.unresolved.clone().unwrap_or_else(unread))
            }
        },
        Parsed::Clone(_) if seen.volume.status.phase == Phase::Failed => after_failure(seen),
        Parsed::Clone(request) => match &seen.claim {
            Lookup::Unknown(why) => Plan::wait(seen, recorded(seen), Waiting::CouldNotTell(why.clone())),
            Lookup::Present(claim) => with_claim(seen, request, claim),
            Lookup::Absent => without_claim(seen, request),
        },
        Parsed::NotAClone => return None,
    };
    // No watch tells that a right was taken away.
    if seen.request().is_some_and(Request::crosses) && is_beside_the_source(seen) && plan.phase != Phase::Succeeded {
        let recheck = seen.now.saturating_add(RIGHTS_RECHECK).ok();
        plan.look_again_at = [plan.look_again_at, recheck].into_iter().flatten().min();
    }
    if let Some(waiting) = &plan.waiting {
        let late = waiting_since(seen, waiting).saturating_add(waiting.expected()).ok();
        let late = late.filter(|late| *late > seen.now);
        plan.look_again_at = [plan.look_again_at, late].into_iter().flatten().min();
    }
    Some(plan)
}

/// Something was made for the clone beside the source.
fn is_beside_the_source(seen: &Observed) -> bool {
    let claims = [&seen.temporary, &seen.restored].into_iter().any(|claim| claim.present().is_some());
    let pods = [&seen.mover, &seen.consumer].into_iter().any(|pod| pod.present().is_some());
    claims || pods || seen.group.present().is_some_and(|group| group.of(&seen.volume.uid).is_some())
}

/// Since when the status says that this is waited for; now, if it doesn't say so yet.
pub(super) fn waiting_since(seen: &Observed, waiting: &Waiting) -> Timestamp {
    let recorded = seen.volume.status.clone.as_ref().and_then(|c| c.waiting_for.as_ref());
    recorded
        .filter(|recorded| recorded.reason.as_deref() == Some(waiting.reason()))
        .and_then(|recorded| recorded.since.as_ref())
        .map_or(seen.now, |since| since.0)
}

/// The phase as it stands, for passes that can't tell a newer one.
pub(super) fn recorded(seen: &Observed) -> Phase {
    match seen.volume.status.phase {
        Phase::Unset => Phase::Pending,
        phase => phase,
    }
}

/// Failed is for ever; only what is left over is removed. A claim that never got its volume is left over, too: the driver would try for ever.
fn after_failure(seen: &Observed) -> Plan {
    let mut plan = Plan::idle(seen, Phase::Failed);
    plan.failure = failure_on_record(seen);
    let empty = |claim: &&Claim| claim.ours && !claim.deleting && claim.phase == "Pending" && !claim.populated;
    let claim = seen.claim.present().filter(empty).filter(|_| seen.volume.kind == MadeFor::DataVolume);
    match leftover(seen).or(claim.map(removal)) {
        Some(action) => plan.and(action),
        None => plan,
    }
}

fn failure_on_record(seen: &Observed) -> Option<String> {
    let conditions = &seen.volume.status.conditions;
    conditions.iter().find(|c| c.type_ == crate::condition::types::READY).and_then(|c| c.message.clone())
}

/// A temporary object that is still there, and ours. Shared snapshots aren't among them: see [`super::group`].
fn leftover(seen: &Observed) -> Option<Action> {
    let mut claims = [&seen.temporary, &seen.restored].into_iter().filter_map(Lookup::present).filter(|c| c.ours);
    pod_to_remove(seen)
        .or_else(|| claims.find_map(|claim| if claim.deleting { release(claim) } else { Some(removal(claim)) }))
}

/// Lets a claim go that is being deleted and kept by our finalizer.
fn release(claim: &Claim) -> Option<Action> {
    claim.kept.clone().map(|rest| Action::Release { claim: claim.exact.clone(), rest })
}

/// A pod of ours that is still there.
fn pod_to_remove(seen: &Observed) -> Option<Action> {
    let pod = [&seen.mover, &seen.consumer].into_iter().filter_map(Lookup::present).find(|m| m.ours && !m.deleting);
    pod.map(|pod| Action::Delete { kind: Kind::Pod, what: pod.exact.clone() })
}

/// The decision in force. A pinned one that can no longer be had has already been replaced by the ladder.
pub(super) fn decided(seen: &Observed, request: &Request) -> Result<Box<Chosen>, Waiting> {
    match decide(request, &seen.volume.history, &seen.facts) {
        Decision::Chosen(chosen) => Ok(chosen),
        Decision::Rejected(errors) => Err(Waiting::Invalid(errors)),
        Decision::Undecided(Undecided::SourceMissing) => Err(Waiting::SourceMissing(request.source.clone())),
        Decision::Undecided(Undecided::SourceNotReady { driver_says }) => {
            let driver_says = driver_says.map(|text| complaint::redact(&text));
            Err(Waiting::SourceNotReady { source: request.source.clone(), driver_says })
        }
        Decision::Undecided(Undecided::Unknown(why)) => Err(Waiting::CouldNotTell(why)),
    }
}

/// Where the content is made: in the clone's claim itself, or in a temporary one beside the source.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Clone,
    Temporary,
}

/// Before there is a claim: decide, then make it, filled by the driver or held back.
fn without_claim(seen: &Observed, request: &Request) -> Plan {
    if request.made_for == MadeFor::Claim {
        return Plan::idle(seen, recorded(seen));
    }
    if request.pre_populated {
        return Plan::wait(seen, Phase::Pending, Waiting::PrePopulated(request.target.clone()));
    }
    if seen.volume.status.phase == Phase::Succeeded {
        return again(seen);
    }
    // Before anything about the source is looked at.
    if let Some(waiting) = unauthorized(seen, request) {
        return withdrawn(seen, Phase::Pending, waiting);
    }
    let chosen = match decided(seen, request) {
        Ok(chosen) => chosen,
        Err(waiting) => return Plan::wait(seen, Phase::Pending, waiting),
    };
    let phase = Phase::CloneScheduled;
    let mut plan = if is_unwritten(seen, request, &chosen) {
        // What is decided is written down before anything is made.
        Plan::act(seen, phase, Action::Pin(pin_for(seen, request, &chosen, &seen.volume.history.refused)))
    } else if chosen.route == Route::Transfer {
        // The claim is there from the start: quota is taken early, and the scheduler and KubeVirt see it.
        let claim = objects::claim(&seen.volume, &chosen, chosen.sizes.create_at, &DataSource::Later);
        Plan::act(seen, phase, Action::CreateClaim(Box::new(claim)))
    } else {
        begin(seen, request, &chosen, Place::Clone)
    };
    plan.chosen.get_or_insert(chosen);
    plan
}

/// The claim of a clone that has succeeded was deleted, and is made again, as CDI does. That is said before anything is made, or a crash
/// would leave a claim without content that is said to be complete. That the claim isn't there, or not bound, has been asked of the API
/// server: what a cache says may be old.
fn again(seen: &Observed) -> Plan {
    Plan::idle(seen, Phase::CloneScheduled)
}

/// The decision, or the key by which what is created for it is recognized, isn't on the object yet.
fn is_unwritten(seen: &Observed, request: &Request, chosen: &Chosen) -> bool {
    seen.volume.key.is_none()
        || seen.volume.history.pinned_for(&chosen.source_uid) != Some(chosen.strategy)
        || request.by_reference && seen.volume.source.as_ref() != Some(&request.source)
}

/// The right is missing, or was taken away: what was made beside the source goes, and nothing more is made or told.
fn withdrawn(seen: &Observed, phase: Phase, waiting: Waiting) -> Plan {
    let plan = Plan::wait(seen, phase, waiting);
    // Who could not be asked about isn't refused.
    if matches!(plan.waiting, Some(Waiting::CouldNotTell(_))) {
        return plan;
    }
    match leftover(seen) {
        Some(action) => plan.and(action),
        None => plan,
    }
}

/// Nobody gets at another namespace's data without the right to.
fn unauthorized(seen: &Observed, request: &Request) -> Option<Waiting> {
    if request.crosses() { missing_right(&seen.authorized) } else { None }
}

/// What is waited for without the right that was asked about.
pub fn missing_right(answer: &Lookup<Authorization>) -> Option<Waiting> {
    match answer {
        Lookup::Present(Authorization::Allowed) => None,
        Lookup::Present(Authorization::Denied(why)) => Some(Waiting::NotAuthorized(why.clone())),
        Lookup::Absent => Some(Waiting::NotAuthorized(format!(
            "nobody knows who asked for it, as the annotation {} is missing; create it again, with smartclone's webhook in place",
            meta::REQUESTER
        ))),
        Lookup::Unknown(why) => Some(Waiting::CouldNotTell(why.clone())),
    }
}

/// The first step towards the content in `place`.
fn begin(seen: &Observed, request: &Request, chosen: &Chosen, place: Place) -> Plan {
    let phase = Phase::CloneScheduled;
    // A snapshot that has been cut needs the source no more.
    let cut = seen.group.present().and_then(|group| group.of(&seen.volume.uid)).is_some_and(|snapshot| snapshot.ready);
    if let Some(waiting) = blocked_source(seen, request, chosen).filter(|_| !cut) {
        return Plan::wait(seen, phase, waiting);
    }
    if let Lookup::Present(claim) = &seen.restored
        && !claim.ours
    {
        return Plan::wait(seen, phase, foreign(claim));
    }
    match (chosen.strategy, request.source.kind) {
        (CloneStrategy::Snapshot, SourceKind::Claim) => by_snapshot(seen, request, chosen, place),
        (CloneStrategy::Snapshot, SourceKind::Snapshot) => {
            let from = DataSource::Snapshot(&request.source.object.name);
            create(seen, request, chosen, place, &from, Phase::CloneFromSnapshotSourceInProgress)
        }
        (CloneStrategy::CsiClone, _) => {
            let from = DataSource::Claim(&request.source.object.name);
            create(seen, request, chosen, place, &from, Phase::CsiCloneInProgress)
        }
        (CloneStrategy::Copy, SourceKind::Snapshot) if seen.restored == Lookup::Absent => {
            let claim = objects::restored(&seen.volume, request, chosen);
            Plan::act(seen, phase, Action::CreateClaim(Box::new(claim)))
        }
        (CloneStrategy::Copy, _) => create(seen, request, chosen, place, &DataSource::Blank, phase),
    }
}

/// Creates the claim in `place`, to be filled from `from`.
fn create(
    seen: &Observed,
    request: &Request,
    chosen: &Chosen,
    place: Place,
    from: &DataSource<'_>,
    phase: Phase,
) -> Plan {
    let size = chosen.sizes.create_at;
    let claim = match place {
        Place::Clone => objects::claim(&seen.volume, chosen, size, from),
        Place::Temporary => {
            let node = seen.claim.present().and_then(|claim| claim.selected_node.clone());
            objects::temporary(&seen.volume, request, chosen, size, from, node)
        }
    };
    Plan::act(seen, phase, Action::CreateClaim(Box::new(claim))).with_waiting(provisioning(seen, chosen, None))
}

/// Why the source can't be read now.
pub(super) fn blocked_source(seen: &Observed, request: &Request, chosen: &Chosen) -> Option<Waiting> {
    if request.source.kind == SourceKind::Snapshot {
        return None;
    }
    if seen.source_populated == Some(false) {
        return Some(Waiting::SourceNotPopulated(request.source.clone()));
    }
    let pods = in_the_way(request, chosen.strategy, &seen.source_users);
    (!pods.is_empty()).then_some(Waiting::SourceInUse(InUse { pods, elsewhere: request.crosses() }))
}

/// The pods that have to end before the source may be read.
pub fn in_the_way(request: &Request, strategy: CloneStrategy, users: &[User]) -> Vec<String> {
    let tolerated = request.consistency == Consistency::CrashConsistent && strategy == CloneStrategy::Snapshot;
    if tolerated { Vec::new() } else { writers(users, strategy == CloneStrategy::Copy) }
}

/// Who may be writing. A pod without a node isn't; but it may be at any moment, which is too soon for a copy that takes a while.
pub(super) fn writers(users: &[User], slow: bool) -> Vec<String> {
    users.iter().filter(|u| u.writes && (u.scheduled || slow)).map(|u| u.pod.clone()).collect()
}

/// Restores the snapshot that this clone shares; asks for one when it is its turn.
fn by_snapshot(seen: &Observed, request: &Request, chosen: &Chosen, place: Place) -> Plan {
    let phase = Phase::SnapshotForSmartCloneInProgress;
    let group = match &seen.group {
        Lookup::Present(group) => group,
        Lookup::Absent => {
            return Plan::wait(seen, phase, Waiting::CouldNotTell("the cluster has no snapshot API".to_owned()));
        }
        Lookup::Unknown(why) => return Plan::wait(seen, phase, Waiting::CouldNotTell(why.clone())),
    };
    let Some(snapshot) = group.of(&seen.volume.uid) else {
        let Some(members) = &group.turn else { return for_a_turn(seen, request, chosen, group) };
        let snapshot = objects::snapshot(&seen.volume, request, chosen.snapshot_class.as_deref(), members);
        return Plan::act(seen, phase, Action::CreateSnapshot(Box::new(snapshot)))
            .with_waiting(Waiting::SnapshotNotReady { driver_says: None });
    };
    // Restoring from a snapshot that isn't ready costs the provisioner a back-off of a second and more.
    if !snapshot.ready {
        return attempt(seen, request, chosen, &Attempt::to_snapshot(snapshot)).unwrap_or_else(|| {
            let waiting = Waiting::SnapshotNotReady { driver_says: snapshot.error.as_deref().map(complaint::redact) };
            Plan { look_again_at: deadline(seen, request, snapshot.created), ..Plan::wait(seen, phase, waiting) }
        });
    }
    if let Some(plan) = refused_too_long(seen, request, chosen, snapshot) {
        return plan;
    }
    let name = snapshot.exact.name.clone();
    match chosen.sizes_for(snapshot.restore_size) {
        Ok(sizes) => {
            let mut chosen = chosen.clone();
            chosen.sizes = sizes;
            let phase = Phase::CloneFromSnapshotSourceInProgress;
            create(seen, request, &chosen, place, &DataSource::Snapshot(&name), phase)
        }
        Err(error) => {
            let since = snapshot.created.unwrap_or(seen.now);
            let words = "the size that a restore of the snapshot needs is not possible";
            attempt(seen, request, chosen, &Attempt::to_go_on(chosen.strategy, since, words))
                .unwrap_or_else(|| Plan::wait(seen, phase, Waiting::CouldNotTell(error.to_string())))
        }
    }
}

/// Others are at the source's snapshots. For how long they are, depends on them: so a turn has a deadline, like everything else that one
/// strategy needs.
fn for_a_turn(seen: &Observed, request: &Request, chosen: &Chosen, group: &Group) -> Plan {
    let since = waiting_since(seen, &Waiting::SnapshotTurn);
    let turn = Attempt::to_go_on(chosen.strategy, since, "other clones of the source have all its temporary snapshots");
    attempt(seen, request, chosen, &turn).unwrap_or_else(|| {
        let look_again_at = [group.again_at, deadline(seen, request, Some(since))].into_iter().flatten().min();
        let wait = Plan::wait(seen, Phase::SnapshotForSmartCloneInProgress, Waiting::SnapshotTurn);
        Plan { wants_snapshot: true, look_again_at, ..wait }
    })
}

/// The API server refuses the claim that is to be restored (a quota, a policy), which is for people to cure. As long as the clone waits
/// for them it keeps a snapshot, of which a source has few: so that has the attempt's deadline, too.
fn refused_too_long(seen: &Observed, request: &Request, chosen: &Chosen, snapshot: &Shared) -> Option<Plan> {
    let waiting = seen.volume.status.clone.as_ref()?.waiting_for.as_ref()?;
    if !waiting.reason.as_deref().is_some_and(|reason| REFUSED.contains(&reason)) {
        return None;
    }
    let since = waiting.since.as_ref()?.0.max(snapshot.created?);
    let words = "the API server did not admit the claim that was to be restored from the snapshot";
    attempt(seen, request, chosen, &Attempt::to_go_on(chosen.strategy, since, words))
}

/// What an unbound claim waits for.
fn provisioning(seen: &Observed, chosen: &Chosen, claim: Option<&Claim>) -> Waiting {
    let conflict = |claim: &&Claim| claim.complaint.as_deref().is_some_and(complaint::is_conflict);
    let complaint = claim.filter(|claim| !conflict(claim)).and_then(|claim| reported(seen, claim));
    if chosen.waits_for_consumer && claim.is_none_or(|c| c.selected_node.is_none()) && !used(seen) {
        Waiting::FirstConsumer
    } else {
        Waiting::ClaimNotBound { driver_says: complaint }
    }
}

fn used(seen: &Observed) -> bool {
    seen.target_users.iter().any(|user| user.scheduled)
}

/// Once there is a claim: see that it is filled, that it grows, and that what was temporary goes.
fn with_claim(seen: &Observed, request: &Request, claim: &Claim) -> Plan {
    let name = seen.volume.name.clone();
    if claim.deleting {
        return Plan::wait(seen, recorded(seen), Waiting::BeingDeleted { kind: "PersistentVolumeClaim", name });
    }
    if !claim.ours {
        return taken_over(seen, claim);
    }
    if claim.phase == "Lost" {
        return failed(seen, format!("PersistentVolumeClaim {name:?} has lost its volume"));
    }
    if seen.volume.status.phase == Phase::Succeeded || claim.populated && claim.phase == "Bound" {
        // Complete; nothing that happens to the source, the classes or the wishes matters any more. Unless somebody has deleted the claim, and
        // this is the next one of its name.
        return if claim.phase == "Bound" { finished(seen) } else { again(seen) };
    }
    let bound = claim.phase == "Bound";
    match &claim.content {
        Content::Snapshot(_) | Content::Claim(_) if bound => grown(seen, request, claim),
        Content::HeldBack if bound && claim.handed_over => grown(seen, request, claim),
        Content::HeldBack if bound => {
            let why = "the clone's claim is bound to a volume that was not filled for it".to_owned();
            Plan::wait(seen, recorded(seen), Waiting::TransferImpossible(why))
        }
        Content::HeldBack => filled_elsewhere(seen, request, claim),
        content if given_up(seen, content) => {
            Plan::act(seen, Phase::CloneScheduled, removal(claim)).with_waiting(being_deleted(claim))
        }
        Content::Snapshot(_) | Content::Claim(_) => driver_fills(seen, request, claim),
        Content::Blank => {
            let why = "the clone's claim waits for nothing; delete it".to_owned();
            Plan::wait(seen, recorded(seen), Waiting::TransferImpossible(why))
        }
    }
}

/// Made for a strategy that the driver has refused. That is for ever, so even an old picture of the DataVolume doesn't say so of a claim that
/// is wanted; the strategy in force would, as it changes.
fn given_up(seen: &Observed, content: &Content) -> bool {
    seen.volume.history.refused.iter().any(|past| Some(past.strategy) == content.strategy())
}

fn removal(claim: &Claim) -> Action {
    Action::Delete { kind: Kind::PersistentVolumeClaim, what: claim.exact.clone() }
}

fn foreign(claim: &Claim) -> Waiting {
    Waiting::Foreign { kind: "PersistentVolumeClaim", name: claim.exact.name.clone() }
}

fn being_deleted(claim: &Claim) -> Waiting {
    Waiting::BeingDeleted { kind: "PersistentVolumeClaim", name: claim.exact.name.clone() }
}

/// A claim that was there before: taken over if somebody says that it is filled for us, else left alone.
fn taken_over(seen: &Observed, claim: &Claim) -> Plan {
    if !seen.volume.takes_over(claim) {
        return Plan::wait(seen, Phase::Pending, foreign(claim));
    }
    match claim.phase.as_str() {
        "Bound" => Plan::idle(seen, Phase::Succeeded).and(Action::Adopt(claim.exact.clone())),
        "Lost" => failed(seen, format!("PersistentVolumeClaim {:?} has lost its volume", claim.exact.name)),
        _ => {
            let name = ObjectName { namespace: seen.volume.namespace.clone(), name: claim.exact.name.clone() };
            Plan::wait(seen, Phase::Pending, Waiting::PrePopulated(name))
        }
    }
}

/// The claim is complete: by us, or since it was taken over. What is blank wasn't made by us.
fn is_there(seen: &Observed, claim: &Claim) -> bool {
    let taken_over = claim.populated || claim.content == Content::Blank && seen.volume.offers_to_take_over();
    let complete = seen.volume.status.phase == Phase::Succeeded || taken_over && claim.phase == "Bound";
    claim.ours && !claim.deleting && complete && claim.phase != "Lost"
}

/// The driver restores or clones into `claim`, which may be the clone's or the temporary one.
fn driver_fills(seen: &Observed, request: &Request, claim: &Claim) -> Plan {
    let phase = match claim.content {
        Content::Claim(_) => Phase::CsiCloneInProgress,
        _ => Phase::CloneFromSnapshotSourceInProgress,
    };
    let Ok(chosen) = decided(seen, request) else {
        return Plan::wait(seen, phase, Waiting::ClaimNotBound { driver_says: reported(seen, claim) });
    };
    // The strategy in force may be another one by now; it isn't that which the driver is at.
    let strategy = claim.content.strategy().unwrap_or(chosen.strategy);
    let waiting = provisioning(seen, &chosen, Some(claim));
    let mut plan = if waiting == Waiting::FirstConsumer {
        Plan::wait(seen, Phase::WaitForFirstConsumer, waiting)
    } else if let Some(plan) = attempt(seen, request, &chosen, &Attempt::to_fill(seen, claim, strategy)) {
        plan
    } else if let Some(plan) = nudged(seen, claim, phase, &waiting) {
        plan
    } else if chosen.binds_late && claim.selected_node.is_none() && seen.consumer == Lookup::Absent && !used(seen) {
        let pod = objects::consumer(&seen.volume, &claim.exact, chosen.mode, &seen.mover_settings);
        Plan::act(seen, phase, Action::CreatePod(Box::new(pod))).with_waiting(waiting)
    } else {
        Plan { look_again_at: deadline(seen, request, claim.created), ..Plan::wait(seen, phase, waiting) }
    };
    plan.chosen.get_or_insert(chosen);
    plan
}

/// Many restores of one snapshot at once trip over each other in the provisioner, which marks the snapshot for each of them: all but one
/// meet a newer version of it, wait twice as long, and meet again. Whoever is touched is looked at at once; each at another moment.
fn nudged(seen: &Observed, claim: &Claim, phase: Phase, waiting: &Waiting) -> Option<Plan> {
    claim.complaint.as_deref().filter(|text| complaint::is_conflict(text))?;
    let created = claim.created?;
    let last = claim.nudged_at.unwrap_or(created);
    let pause = (last.duration_since(created) / 2).clamp(PATIENCE, transfer::LONGEST_PAUSE);
    // Not random, but as good: it differs from claim to claim and from time to time.
    let odd = claim.exact.resource_version.bytes().chain(claim.exact.uid.bytes());
    let odd = odd.fold(0u16, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into())) % 1000;
    let at = last.checked_add(pause).ok()?.checked_add(SignedDuration::from_millis(odd.into())).ok()?;
    Some(if seen.now < at {
        Plan { look_again_at: Some(at), ..Plan::wait(seen, phase, waiting.clone()) }
    } else {
        Plan::act(seen, phase, Action::Nudge { claim: claim.exact.clone(), at: seen.now }).with_waiting(waiting.clone())
    })
}

/// The claim is held back; what it is to get is made in a temporary claim.
fn filled_elsewhere(seen: &Observed, request: &Request, claim: &Claim) -> Plan {
    let temporary = match &seen.temporary {
        Lookup::Unknown(why) => return Plan::wait(seen, recorded(seen), Waiting::CouldNotTell(why.clone())),
        Lookup::Absent if belongs(seen, claim) => return hand_over(seen, request),
        Lookup::Absent => return start(seen, request, claim),
        Lookup::Present(temporary) => temporary,
    };
    if belongs(seen, claim) {
        return hand_over(seen, request);
    }
    if !temporary.ours {
        return Plan::wait(seen, recorded(seen), foreign(temporary));
    }
    let name = &temporary.exact.name;
    // Claims and volumes are watched apart: the news of the volume are on their way.
    if temporary.phase == "Lost" && belongs(seen, temporary) {
        let why = format!("the volume of PersistentVolumeClaim {name:?} has changed since it was seen");
        return Plan::wait(seen, recorded(seen), Waiting::CouldNotTell(why));
    }
    if let Some(waiting) = unauthorized(seen, request) {
        return withdrawn(seen, Phase::CloneScheduled, waiting);
    }
    if temporary.deleting && !(temporary.trusted && temporary.kept.is_some() && temporary.is_filled()) {
        // A pod that uses it, be it one that has ended, would keep it for ever.
        let waiting = being_deleted(temporary);
        return match pod_to_remove(seen).or_else(|| release(temporary)) {
            Some(action) => Plan::act(seen, recorded(seen), action).with_waiting(waiting),
            None => Plan::wait(seen, recorded(seen), waiting),
        };
    }
    if !temporary.trusted {
        return Plan::act(seen, Phase::CloneScheduled, removal(temporary)).with_waiting(being_deleted(temporary));
    }
    match temporary.content.strategy() {
        // Its volume went somewhere else: with a claim of the same name that is gone now.
        _ if temporary.phase == "Lost" => {
            Plan::act(seen, Phase::CloneScheduled, removal(temporary)).with_waiting(being_deleted(temporary))
        }
        Some(_) if temporary.is_filled() => close_and_hand_over(seen, request, temporary),
        _ if given_up(seen, &temporary.content) => {
            Plan::act(seen, Phase::CloneScheduled, removal(temporary)).with_waiting(being_deleted(temporary))
        }
        Some(CloneStrategy::Copy) => copy::copy(seen, request, temporary),
        _ => driver_fills(seen, request, temporary),
    }
}

/// The temporary claim is filled. It is deleted first, so that no pod can start with it (our finalizer keeps it and its volume), and handed over
/// when nobody else has the volume.
fn close_and_hand_over(seen: &Observed, request: &Request, temporary: &Claim) -> Plan {
    let phase = Phase::RebindInProgress;
    if let Some(plan) = still_at_work(seen) {
        return plan;
    }
    if !temporary.deleting {
        let waiting = Waiting::HandOver("the temporary claim is being closed to other pods".to_owned());
        return Plan::act(seen, phase, removal(temporary)).with_waiting(waiting);
    }
    match &seen.holders {
        Lookup::Present(holders) if holders.is_empty() => hand_over(seen, request),
        Lookup::Present(holders) => {
            let waiting = Waiting::VolumeInUse(holders.clone());
            let over = deadline(seen, request, temporary.deleted_at);
            if over.is_some_and(|end| end <= seen.now) {
                return failed(seen, waiting.message());
            }
            Plan { look_again_at: over, ..Plan::wait(seen, phase, waiting) }
        }
        Lookup::Absent => Plan::wait(seen, phase, Waiting::CouldNotTell("nobody looked who has the volume".to_owned())),
        Lookup::Unknown(why) => Plan::wait(seen, phase, Waiting::CouldNotTell(why.clone())),
    }
}

/// A pod of ours that has not ended: a mover that was started by a pass that did not know yet that the copy is complete, or of which another
/// container runs, could write to a volume that is somebody else's; one that is to be started can't be any more once the claim is closed.
fn still_at_work(seen: &Observed) -> Option<Plan> {
    [&seen.mover, &seen.consumer].into_iter().find_map(|pod| {
        let pod = match pod {
            Lookup::Absent => return None,
            Lookup::Unknown(why) => return Some(Plan::wait(seen, recorded(seen), Waiting::CouldNotTell(why.clone()))),
            // One of somebody else is among the holders.
            Lookup::Present(pod) if !pod.ours || pod.over => return None,
            Lookup::Present(pod) => pod,
        };
        let waiting = Waiting::BeingDeleted { kind: "Pod", name: pod.exact.name.clone() };
        let delete = Action::Delete { kind: Kind::Pod, what: pod.exact.clone() };
        let wait = Plan::wait(seen, recorded(seen), waiting);
        Some(if pod.deleting { wait } else { wait.and(delete) })
    })
}

/// The volume that is on its way names `claim`.
fn belongs(seen: &Observed, claim: &Claim) -> bool {
    let owner = seen.transfer.volume.present().and_then(|volume| volume.claim_ref.as_ref());
    owner.is_some_and(|owner| owner.uid == claim.exact.uid)
}

/// The held-back claim is there; the content is not begun.
fn start(seen: &Observed, request: &Request, claim: &Claim) -> Plan {
    if let Some(waiting) = unauthorized(seen, request) {
        return withdrawn(seen, Phase::CloneScheduled, waiting);
    }
    let chosen = match decided(seen, request) {
        Ok(chosen) => chosen,
        Err(waiting) => return Plan::wait(seen, Phase::CloneScheduled, waiting),
    };
    let mut plan = if is_unwritten(seen, request, &chosen) {
        let pin = pin_for(seen, request, &chosen, &seen.volume.history.refused);
        Plan::act(seen, Phase::CloneScheduled, Action::Pin(pin))
    } else if chosen.waits_for_consumer && claim.selected_node.is_none() {
        Plan::wait(seen, Phase::PendingPopulation, Waiting::FirstConsumer)
    } else {
        begin(seen, request, &chosen, Place::Temporary)
    };
    plan.chosen.get_or_insert(chosen);
    plan
}

/// The temporary claim has the content; its volume goes to the clone's claim.
fn hand_over(seen: &Observed, request: &Request) -> Plan {
    let phase = Phase::RebindInProgress;
    match transfer::step(&seen.transfer) {
        transfer::Step::HandOver { volume, from, to, at } => match unauthorized(seen, request) {
            Some(waiting) => withdrawn(seen, phase, waiting),
            None => Plan::act(seen, phase, Action::HandOver { volume, from, to, at })
                .with_waiting(Waiting::HandOver("the volume is being handed over".to_owned())),
        },
        transfer::Step::Nudge { target, at, .. } => Plan::act(seen, phase, Action::Nudge { claim: target, at })
            .with_waiting(Waiting::HandOver("the clone's claim is being bound to the volume".to_owned())),
        transfer::Step::Wait { what, look_again_at } => {
            Plan { look_again_at, ..Plan::wait(seen, phase, Waiting::HandOver(what.to_string())) }
        }
        // The claim's own picture is behind; its event is on the way.
        transfer::Step::Moved => Plan::wait(seen, phase, Waiting::HandOver("the clone's claim is bound".to_owned())),
        transfer::Step::Impossible(why) => Plan::wait(seen, phase, Waiting::TransferImpossible(why.to_string())),
        transfer::Step::Unknown(why) => Plan::wait(seen, phase, Waiting::CouldNotTell(why)),
    }
}

/// The volume has its content. See that it has its size; then it is done. The source may be gone by now, so its size is not asked for:
/// what the requester asked for is in the DataVolume, and what the source had, the claim has had from the start.
fn grown(seen: &Observed, request: &Request, claim: &Claim) -> Plan {
    // A claim that somebody made himself has the size that he wants.
    let asked = if request.made_for == MadeFor::Claim { None } else { request.size };
    let on_record = seen.volume.status.clone.as_ref().and_then(|c| c.final_size.as_ref());
    let on_record = on_record.and_then(|size| crate::quantity::Bytes::of(size).ok());
    let wanted = on_record.or(asked).unwrap_or_default().max(claim.request);
    if claim.request < wanted {
        let grow = Action::GrowClaim { claim: claim.exact.clone(), to: wanted };
        return Plan::act(seen, Phase::ExpansionInProgress, grow).with_waiting(Waiting::NotExpanded);
    }
    if claim.capacity.is_none_or(|has| has < wanted) && !claim.file_system_grows_at_mount {
        return Plan::wait(seen, Phase::ExpansionInProgress, Waiting::NotExpanded);
    }
    finished(seen)
}

/// Deleting what is left is asked for, not waited for: with some drivers it takes for ever (trident#1134).
fn finished(seen: &Observed) -> Plan {
    let plan = Plan::idle(seen, Phase::Succeeded);
    match leftover(seen) {
        Some(action) => plan.and(action),
        None => plan,
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::{
        api::DataVolume,
        clone::{
            Exact,
            fixtures::{annotated, facts, gi, now, observed, volume},
            group::{Group, Shared},
            plan::{Mover, MoverState},
        },
        mover::Outcome,
    };

    fn exact(name: &str) -> Exact {
        let (namespace, resource_version) = ("here".to_owned(), "1".to_owned());
        Exact { namespace, name: name.to_owned(), uid: name.to_owned(), resource_version }
    }

    fn claim(name: &str, content: Content) -> Claim {
        Claim {
            exact: exact(name),
            ours: true,
            trusted: true,
            kept: name.starts_with("tmp-pvc").then(Vec::new),
            deleted_at: None,
            controlled: true,
            populated: false,
            deleting: false,
            created: Some(now()),
            phase: "Bound".to_owned(),
            content,
            selected_node: None,
            handed_over: false,
            request: gi(1),
            capacity: Some(gi(1)),
            file_system_grows_at_mount: false,
            copied: None,
            complaint: None,
            nudged_at: None,
        }
    }

    fn decided_volume(strategy: &'static str) -> DataVolume {
        volume(|object| {
            annotated(meta::PLAN, r#"{"chosenBy": "Default", "sourceUid": "source"}"#)(object);
            annotated(meta::CLONE_TYPE, strategy)(object);
            annotated(meta::OWNERSHIP_KEY, "key")(object);
        })
    }

    /// A copy whose mover is in `state`.
    fn copying(state: MoverState) -> Observed {
        Observed {
            claim: Lookup::Present(Claim { phase: "Pending".into(), ..claim("clone", Content::HeldBack) }),
            temporary: Lookup::Present(claim("tmp-pvc-dv", Content::Blank)),
            mover: Lookup::Present(Mover {
                exact: exact("clone-mover-dv"),
                ours: true,
                trusted: true,
                over: matches!(state, MoverState::Ended { .. }),
                deleting: false,
                fills: Some("tmp-pvc-dv".to_owned()),
                state,
            }),
            ..observed(&decided_volume("copy"), facts())
        }
    }

    /// A copy into another namespace that is complete, and has its temporary claim closed if `deleting`.
    fn copied(deleting: bool) -> Observed {
        let mut volume = decided_volume("copy");
        volume.spec.source.as_mut().unwrap().pvc.as_mut().unwrap().namespace = "gold".into();
        let temporary = Claim {
            copied: Some("digest".into()),
            deleting,
            deleted_at: deleting.then(now),
            ..claim("tmp-pvc-dv", Content::Blank)
        };
        let owner =
            |exact: Exact| transfer::ClaimIdentity { namespace: exact.namespace, name: exact.name, uid: exact.uid };
        let target = Claim { phase: "Pending".into(), ..claim("clone", Content::HeldBack) };
        let transfer = transfer::Transfer {
            source: Lookup::Present(transfer::SourceClaim {
                exact: temporary.exact.clone(),
                deleting,
                kept: true,
                phase: transfer::ClaimPhase::Bound,
                volume_name: Some("pv".into()),
            }),
            volume: Lookup::Present(transfer::Volume {
                exact: exact("pv"),
                deleting: false,
                claim_ref: Some(owner(temporary.exact.clone())),
                handed_over_at: None,
            }),
            target: Lookup::Present(transfer::TargetClaim {
                exact: target.exact.clone(),
                deleting: false,
                phase: transfer::ClaimPhase::Pending,
                volume_name: None,
                held_back: true,
                nudged_at: None,
            }),
            now: now(),
        };
        Observed {
            authorized: Lookup::Present(Authorization::Allowed),
            temporary: Lookup::Present(temporary),
            claim: Lookup::Present(target),
            mover: copying(done()).mover,
            transfer,
            ..observed(&volume, facts())
        }
    }

    fn held() -> Lookup<Vec<String>> {
        Lookup::Present(vec!["pod \"gold/lurk\"".to_owned()])
    }

    fn denied() -> Lookup<Authorization> {
        Lookup::Present(Authorization::Denied("no".to_owned()))
    }

    /// The temporary claim, changed.
    fn with_temporary(mut seen: Observed, change: impl FnOnce(&mut Claim)) -> Observed {
        if let Lookup::Present(claim) = &mut seen.temporary {
            change(claim);
        }
        seen
    }

    fn with_mover(mut seen: Observed, change: impl FnOnce(&mut Mover)) -> Observed {
        if let Lookup::Present(mover) = &mut seen.mover {
            change(mover);
        }
        seen
    }

    fn late(mut seen: Observed) -> Observed {
        seen.now = now() + SignedDuration::from_hours(24);
        seen
    }

    /// A complete volume changes hands when its claim is closed, nobody else has it, and the right is still there: the first write, and what is
    /// waited for.
    #[rstest]
    #[case::closed_first(copied(false), Some("delete_claim"), "RebindInProgress")]
    #[case::then_handed_over(copied(true), Some("hand_over"), "RebindInProgress")]
    #[case::somebody_has_it(Observed { holders: held(), ..copied(true) }, None, "CloneVolumeInUse")]
    #[case::nobody_could_look(Observed { holders: Lookup::Unknown("x".into()), ..copied(true) }, None, "CouldNotTell")]
    #[case::another_container_of_the_mover_runs(with_mover(copied(false), |mover| mover.over = false), Some("delete_pod"), "ErrResourceMarkedForDeletion")]
    #[case::the_consumer_has_not_started(
        Observed { consumer: with_mover(copied(false), |pod| pod.over = false).mover, ..copied(false) },
        Some("delete_pod"),
        "ErrResourceMarkedForDeletion"
    )]
    #[case::without_the_right(Observed { authorized: denied(), ..copied(true) }, Some("delete_pod"), "CloneNotAuthorized")]
    #[case::without_the_right_and_mover(Observed { authorized: denied(), mover: Lookup::Absent, ..copied(true) }, Some("release_claim"), "CloneNotAuthorized")]
    #[case::without_the_right_from_the_start(Observed { authorized: denied(), mover: Lookup::Absent, ..copied(false) }, Some("delete_claim"), "CloneNotAuthorized")]
    #[case::right_unknown(Observed { authorized: Lookup::Unknown("x".into()), ..copied(true) }, None, "CouldNotTell")]
    #[case::claim_of_somebody_else(with_temporary(copied(true), |claim| (claim.ours, claim.trusted) = (false, false)), None, "ErrResourceExists")]
    #[case::claim_that_took_the_place_of_ours(with_temporary(copied(false), |claim| claim.trusted = false), Some("delete_claim"), "ErrResourceMarkedForDeletion")]
    #[case::finalizer_gone(with_temporary(Observed { mover: Lookup::Absent, ..copied(true) }, |claim| claim.kept = None), None, "ErrResourceMarkedForDeletion")]
    #[case::deleted_before_it_is_complete(with_temporary(Observed { mover: Lookup::Absent, ..copied(true) }, |claim| claim.copied = None), Some("release_claim"), "ErrResourceMarkedForDeletion")]
    fn hand_overs(#[case] seen: Observed, #[case] does: Option<&str>, #[case] waits_for: &str) {
        let plan = step(&seen).unwrap();
        assert_eq!(plan.actions.first().map(Action::verb), does, "{plan:?}");
        assert_eq!(plan.waiting.as_ref().map(Waiting::reason), Some(waits_for), "{plan:?}");
        assert_eq!(crate::clone::check::violations(&seen, &plan), vec![]);
        // As long as something is beside the source, the right is asked for again.
        assert!(plan.look_again_at.unwrap() <= seen.now + RIGHTS_RECHECK);
    }

    #[test]
    fn a_volume_that_somebody_keeps_is_given_up_at_the_deadline() {
        let plan = step(&late(Observed { holders: held(), ..copied(true) })).unwrap();
        assert_eq!(plan.phase, Phase::Failed);
        assert!(plan.failure.unwrap().contains("gold/lurk"));
    }

    /// Nothing of a source elsewhere is told, decided or made without the right, whether it exists or not.
    #[test]
    fn without_the_right_nothing_depends_on_the_source() {
        let asked = |source| {
            let mut seen =
                Observed { authorized: denied(), claim: Lookup::Absent, temporary: Lookup::Absent, ..copied(false) };
            (seen.mover, seen.facts.source) = (Lookup::Absent, source);
            step(&seen).unwrap()
        };
        let (there, absent) = (asked(facts().source), asked(Lookup::Absent));
        assert_eq!(there, absent);
        assert_eq!((there.actions.len(), there.chosen), (0, None));
    }

    /// A report counts only if it is the report of the pod that was started.
    #[test]
    fn a_mover_that_took_the_place_of_ours_is_deleted() {
        let plan = step(&with_mover(copying(done()), |mover| mover.trusted = false)).unwrap();
        assert_eq!(plan.actions.iter().map(Action::verb).collect::<Vec<_>>(), ["delete_pod"]);
    }

    fn writer() -> User {
        User { pod: "writer".into(), scheduled: true, started: Some(now()), writes: true }
    }

    fn done() -> MoverState {
        MoverState::Ended {
            at: now(),
            outcome: Outcome::Copied { total: 1, written: 1, digest: "digest".into(), notes: vec![] },
        }
    }

    /// What becomes of a copy: the first word of what is done, and what is waited for.
    #[rstest]
    #[case::runs(copying(MoverState::Running), None, None)]
    #[case::done(copying(done()), Some("mark_copied"), None)]
    #[case::spoiled_while_it_runs(Observed { source_users: vec![writer()], ..copying(MoverState::Running) }, Some("delete_pod"), Some("CloneSourceInUse"))]
    #[case::spoiled_before_it_is_seen(Observed { source_users: vec![writer()], ..copying(done()) }, Some("delete_pod"), Some("CloneSourceInUse"))]
    #[case::of_another_claim_of_the_name(
        Observed { temporary: Lookup::Present(Claim { exact: Exact { uid: "next".into(), ..exact("tmp-pvc-dv") }, ..claim("", Content::Blank) }), ..copying(done()) },
        Some("delete_pod"),
        Some("ErrResourceMarkedForDeletion")
    )]
    #[case::started_once_more(
        Observed { temporary: Lookup::Present(Claim { copied: Some("digest".into()), ..claim("tmp-pvc-dv", Content::Blank) }), ..copying(MoverState::Running) },
        Some("delete_pod"),
        Some("ErrResourceMarkedForDeletion")
    )]
    fn copies(#[case] seen: Observed, #[case] does: Option<&str>, #[case] waits_for: Option<&str>) {
        let plan = step(&seen).unwrap();
        assert_eq!(plan.actions.first().map(Action::verb), does, "{plan:?}");
        assert_eq!(plan.waiting.map(|waiting| waiting.reason()), waits_for);
    }

    /// Another source of the same name is not what was decided about.
    #[test]
    fn another_source_of_the_same_name_needs_another_decision() {
        let mut seen = observed(&decided_volume("copy"), facts());
        assert_eq!(step(&seen).unwrap().actions.first().map(Action::verb), Some("create_claim"));
        let Lookup::Present(source) = &mut seen.facts.source else { panic!() };
        source.uid = "the next one".to_owned();
        let plan = step(&seen).unwrap();
        assert_eq!(plan.actions.first().map(Action::verb), Some("pin"));
        assert_eq!(plan.chosen.unwrap().strategy, CloneStrategy::Snapshot);
    }

    /// Sidecars that trip over each other are made to look once more, at a moment of the claim's own.
    #[test]
    fn a_claim_that_others_tripped_over_is_touched_after_a_while() {
        let mut seen = observed(&decided_volume("snapshot"), facts());
        let text = "Operation cannot be fulfilled on volumesnapshots.snapshot.storage.k8s.io \"s\": the object has been modified";
        let pending = claim("clone", Content::Snapshot("s".to_owned()));
        seen.claim = Lookup::Present(Claim { phase: "Pending".into(), complaint: Some(text.to_owned()), ..pending });
        let plan = step(&seen).unwrap();
        assert_eq!((plan.actions.len(), plan.waiting.as_ref().map(Waiting::reason)), (0, Some("ClaimNotBound")));
        seen.now = plan.look_again_at.unwrap();
        assert!(seen.now > now() && seen.now <= now() + SignedDuration::from_millis(1500));
        let plan = step(&seen).unwrap();
        assert_eq!(plan.actions.first().map(Action::verb), Some("nudge"));
    }

    /// One pod copies from one volume to the other; where no node can have both, that is told, and given up in the end.
    #[test]
    fn where_no_node_can_have_both_volumes_that_is_the_reason() {
        let unschedulable = "0/2 nodes are available: 2 node(s) had volume node affinity conflict.";
        let mut seen = copying(MoverState::Starting(Some(unschedulable.to_owned())));
        let plan = step(&seen).unwrap();
        assert_eq!((plan.actions.len(), plan.waiting.as_ref().map(Waiting::reason)), (0, Some("NoCommonNode")));
        seen.now = plan.look_again_at.unwrap();
        let plan = step(&seen).unwrap();
        assert_eq!((plan.phase, plan.actions.first().map(Action::verb)), (Phase::Failed, Some("delete_pod")));
        assert!(plan.failure.unwrap().contains("There is no node"));
    }

    /// What is told of a refusal is the new decision and why, not the old one.
    #[test]
    fn a_refused_snapshot_is_replaced_by_a_decision_that_tells_why() {
        let mut seen = observed(&decided_volume("snapshot"), facts());
        let refused = Shared {
            exact: exact("tmp-snapshot"),
            ours: true,
            deleting: false,
            created: Some(now()),
            members: [("dv".to_owned(), seen.request().unwrap().target.clone())].into(),
            ready: false,
            restore_size: None,
            error: Some("rpc error: code = FailedPrecondition desc = a thick pool".to_owned()),
        };
        seen.group = Lookup::Present(Group { snapshots: vec![refused], ..Group::default() });
        let plan = step(&seen).unwrap();
        assert_eq!(plan.actions.first().map(Action::verb), Some("pin"));
        let chosen = plan.chosen.unwrap();
        assert_eq!((chosen.strategy, chosen.fallback.unwrap().code), (CloneStrategy::Copy, "DriverRefused"));
        assert_eq!(plan.refused.unwrap().met.code, "FailedPrecondition");
    }

    /// A source that isn't there is waited for, by its name.
    #[test]
    fn a_source_that_vanishes_is_waited_for_by_name() {
        let mut seen = observed(&decided_volume("snapshot"), facts());
        seen.facts.source = Lookup::Absent;
        let plan = step(&seen).unwrap();
        assert_eq!(plan.actions, vec![]);
        let waiting = plan.waiting.unwrap();
        assert_eq!(waiting.reason(), "CloneWithoutSource");
        assert!(waiting.message().contains("here/disk"));
    }

    /// What isn't ours is neither adopted nor touched, whatever its name.
    #[test]
    fn a_strangers_objects_are_left_alone() {
        let mut seen = observed(&decided_volume("snapshot"), facts());
        seen.claim = Lookup::Present(Claim { ours: false, ..claim("clone", Content::Blank) });
        let plan = step(&seen).unwrap();
        assert_eq!((plan.actions, plan.waiting.map(|w| w.reason())), (vec![], Some("ErrResourceExists")));
        for (temporary, mover) in [(false, true), (true, false)] {
            let mut seen = copying(MoverState::Running);
            if let (Lookup::Present(claim), Lookup::Present(pod)) = (&mut seen.temporary, &mut seen.mover) {
                (claim.ours, pod.ours) = (temporary, mover);
                (claim.trusted, pod.trusted) = (temporary, mover);
            }
            let plan = step(&seen).unwrap();
            assert_eq!((plan.actions, plan.waiting.map(|w| w.reason())), (vec![], Some("ErrResourceExists")));
        }
    }

    /// A snapshot that isn't ours, or not for this clone, is nobody's turn and nothing to restore from.
    #[test]
    fn a_snapshot_that_was_not_taken_for_it_is_not_restored() {
        let mut seen = observed(&decided_volume("snapshot"), facts());
        let shared = |ours, member: &str| Shared {
            exact: exact("tmp-snapshot"),
            ours,
            deleting: false,
            created: None,
            members: [(member.to_owned(), seen.request().unwrap().target.clone())].into(),
            ready: true,
            restore_size: None,
            error: None,
        };
        let snapshots = vec![shared(false, "dv"), shared(true, "other")];
        seen.group = Lookup::Present(Group { snapshots, ..Group::default() });
        let plan = step(&seen).unwrap();
        assert!(plan.wants_snapshot && plan.actions.is_empty());
    }
}
