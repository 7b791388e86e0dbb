//! Deletions of the clone's own claim, which the admission policy for smartclone's account allows only while the claim has our annotation
//! and no volume.

use super::*;

const PAST: &str =
    r#"{"chosenBy": "Default", "sourceUid": "source", "refused": [{"strategy": "snapshot", "message": "no"}]}"#;

/// A clone in progress or failed, whose claim was created for a refused strategy: the expected writes, and the reason to wait.
#[rstest]
#[case::given_up(Phase::Unset, true, &["delete_claim"], Some("ErrResourceMarkedForDeletion"))]
#[case::given_up_without_our_annotation(Phase::Unset, false, &[], Some("CloneTransferFailed"))]
#[case::failed(Phase::Failed, true, &["delete_claim"], None)]
#[case::failed_without_our_annotation(Phase::Failed, false, &[], None)]
fn no_deletion_is_asked_for_that_would_be_refused(
    #[case] phase: Phase,
    #[case] deletable: bool,
    #[case] writes: &[&str],
    #[case] waits: Option<&str>,
) {
    let volume = volume(|object| {
        annotated(keys::PLAN, PAST)(object);
        annotated(keys::CLONE_TYPE, "copy")(object);
        annotated(keys::OWNERSHIP_KEY, "key")(object);
    });
    let mut seen = observed(&volume, facts());
    seen.volume.status.phase = phase;
    let content = Content::Snapshot("smartclone-snapshot-dv".into());
    seen.claim = Lookup::Present(Claim { phase: ClaimPhase::Pending, deletable, ..claim("clone", content) });
    let plan = step(&seen).unwrap();
    assert_eq!(plan.actions.iter().map(Write::verb).collect::<Vec<_>>(), writes, "{plan:?}");
    assert_eq!(plan.waiting.as_ref().map(Waiting::reason), waits);
    assert_eq!(crate::clone::check::violations(&seen, &plan), vec![]);
    // The invariant reports it, too.
    if let [Write::Delete { what, .. }] = &plan.actions[..] {
        let name = what.name.clone();
        seen.claim = seen.claim.map(|claim| Claim { deletable: false, ..claim });
        let found = crate::clone::check::violations(&seen, &plan);
        assert_eq!(found, [crate::clone::check::Violation::RefusedByPolicy(name)]);
    }
}
