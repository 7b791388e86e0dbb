//! The volume of a temporary restore whose StorageClass retains volumes.

use super::*;
use crate::object::SourceKind;

/// A copy of a snapshot with its temporary restore.
fn copying_a_snapshot(mover: Option<MoverState>, change: impl FnOnce(&mut Claim)) -> Observed {
    let mut facts = facts();
    if let Lookup::Present(source) = &mut facts.source {
        source.kind = SourceKind::Snapshot;
    }
    let volume = volume(|object| {
        object["spec"]["source"] = serde_json::json!({"snapshot": {"namespace": "here", "name": "monday"}});
        annotated(keys::PLAN, r#"{"chosenBy": "Default", "sourceUid": "source"}"#)(object);
        annotated(keys::CLONE_TYPE, "copy")(object);
        annotated(keys::OWNERSHIP_KEY, "key")(object);
    });
    let mut restored = claim("smartclone-source-pvc-dv", Content::Snapshot("monday".into()));
    change(&mut restored);
    Observed {
        mover: mover.map_or(Lookup::Absent, |state| copying(state).mover),
        claim: Lookup::Present(Claim { phase: ClaimPhase::Pending, ..claim("clone", Content::HeldBack) }),
        temporary: Lookup::Present(claim("smartclone-pvc-dv", Content::Blank)),
        restored: Lookup::Present(restored),
        ..observed(&volume, facts)
    }
}

fn retained(claim: &mut Claim) {
    claim.retained = Some(exact("pv"));
}

/// The data mover, the restored claim, and the expected writes.
#[rstest]
#[case::before_the_pod(None, retained, &["discard_volume", "create_pod"])]
#[case::it_starts(Some(MoverState::Starting(None)), retained, &["discard_volume"])]
#[case::it_copies(Some(MoverState::Running), retained, &["discard_volume"])]
#[case::goes_with_its_claim(Some(MoverState::Running), |_: &mut Claim| {}, &[])]
#[case::bound_late(Some(MoverState::Starting(None)), |c: &mut Claim| c.phase = ClaimPhase::Pending, &[])]
#[case::replaced(Some(MoverState::Running), |c: &mut Claim| { retained(c); c.trusted = false; }, &[])]
fn what_is_restored_goes_completely_whoever_deletes_it(
    #[case] mover: Option<MoverState>,
    #[case] change: fn(&mut Claim),
    #[case] expected: &[&str],
) {
    let seen = copying_a_snapshot(mover, change);
    let plan = step(&seen).unwrap();
    assert_eq!(plan.actions.iter().map(Write::verb).collect::<Vec<_>>(), expected, "{plan:?}");
    assert_eq!(crate::clone::check::violations(&seen, &plan), vec![]);
}
