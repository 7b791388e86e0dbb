//! The phase of expansion to the final size.

use crate::{
    api::Phase,
    clone::{
        claim::Claim, observed::Observed, plan::Plan, reconcile::finish::finished, request::Request, wait::Waiting,
        write::Write,
    },
    object::TargetKind,
    quantity::Bytes,
    storage::{
        driver_error,
        expansion::{Expansion, Part},
    },
};

/// Expands a populated claim to its final size, then finishes. The source may be deleted by now, so its size is not used: the requested
/// size is in the DataVolume, and the claim has had the source's size from the start.
pub(crate) fn grown(seen: &Observed, request: &Request, claim: &Claim) -> Plan {
    // A claim that a user created has the size that he wants.
    let asked = if request.made_for == TargetKind::Claim { None } else { request.size };
    let on_record = seen.volume.status.clone.as_ref().and_then(|c| c.final_size.as_ref());
    let on_record = on_record.and_then(|size| Bytes::of(size).ok());
    let wanted = on_record.or(asked).unwrap_or_default().max(claim.request);
    if claim.request < wanted {
        let grow = Write::GrowClaim { claim: claim.exact.clone(), to: wanted };
        return Plan::act(seen, Phase::ExpansionInProgress, grow).with_waiting(Waiting::NotExpanded { trouble: None });
    }
    if claim.capacity.is_none_or(|has| has < wanted) && !grows_at_mount(claim, wanted) {
        let trouble = claim.expansion.as_ref().and_then(|expansion| trouble(request, claim, expansion));
        return Plan::wait(seen, Phase::ExpansionInProgress, Waiting::NotExpanded { trouble });
    }
    finished(seen)
}

/// True if the volume has its final size, and its file system is expanded when kubelet mounts it. The condition may be about an earlier
/// expansion, so the volume's size, if known, must confirm it.
fn grows_at_mount(claim: &Claim, wanted: Bytes) -> bool {
    let has_grown = claim.volume_capacity.is_none_or(|has| has >= wanted);
    claim.expansion.as_ref().is_some_and(|expansion| expansion.grows_at_mount) && has_grown
}

/// The obstacle to the expansion with its cure; `None` while the volume is being expanded. The claim is the clone's own, so its users may
/// read the driver's message.
fn trouble(request: &Request, claim: &Claim, expansion: &Expansion) -> Option<String> {
    let reports = expansion.error.as_deref().map(driver_error::redact);
    if !expansion.is_infeasible && reports.is_none() {
        return None;
    }
    let has = claim.capacity.unwrap_or_default();
    let (who, what) = match expansion.part {
        Part::Controller => ("storage driver", "volume"),
        Part::Node => ("node", "file system of the volume"),
    };
    let reports = reports.unwrap_or_else(|| format!("nothing; see kubectl describe pvc {}", claim.exact.name));
    let wanted = claim.request;
    if !expansion.is_infeasible {
        return Some(format!(
            "The {who} has not expanded the {what} from {has} to {wanted} yet, tries again, and reports: {reports}"
        ));
    }
    let cure = match request.made_for {
        TargetKind::DataVolume => {
            let field = request.form.size_path();
            format!("create the DataVolume again with {field}: {has}, or with a StorageClass whose volumes can grow")
        }
        // A request may be lowered again, to more than the volume has (KEP-1790).
        TargetKind::Claim => format!("set spec.resources.requests.storage of the claim to less, and more than {has}"),
    };
    Some(format!("The {who} can't expand the {what} from {has} to {wanted} and reports: {reports}; {cure}"))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        clone::{
            claim::Content,
            fixtures::{facts, observed, request, sized, volume},
            ownership::Owner,
            wait::EndsBy,
        },
        lookup::Lookup,
    };

    /// The claim of a clone of 1Gi with a final size of 2Gi, its volume if known, and the words of the expected message: none if the clone
    /// is done, and true if someone has to act.
    #[rstest]
    #[case::has_it("2Gi", "2Gi", None, &[], None)]
    #[case::not_begun("1Gi", "1Gi", None, &[], Some(("is expanding", false)))]
    #[case::under_way("1Gi", "1Gi", Some("ControllerResizeInProgress"), &["Resizing"], Some(("is expanding", false)))]
    #[case::grows_at_mount("1Gi", "2Gi", Some("NodeResizePending"), &["FileSystemResizePending"], None)]
    #[case::grows_at_mount_in_an_old_cluster("1Gi", "2Gi", None, &["FileSystemResizePending"], None)]
    #[case::grew_less_before("1Gi", "1536Mi", None, &["FileSystemResizePending"], Some(("is expanding", false)))]
    #[case::grows_at_mount_and_the_volume_is_not_read("1Gi", "", None, &["FileSystemResizePending"], None)]
    #[case::fails("1Gi", "1Gi", Some("ControllerResizeInProgress"), &["ControllerResizeError"],
        Some(("storage driver has not expanded the volume from 1Gi to 2Gi yet, tries again, and reports: words", true)))]
    #[case::never("1Gi", "1Gi", Some("ControllerResizeInfeasible"), &["ControllerResizeError"],
        Some(("can't expand the volume from 1Gi to 2Gi and reports: words; create the DataVolume again with spec.pvc.resources.requests.storage: 1Gi", true)))]
    #[case::never_without_words("1Gi", "1Gi", Some("ControllerResizeInfeasible"), &[], Some(("reports: nothing; see kubectl describe pvc clone", true)))]
    #[case::node_fails("1Gi", "2Gi", Some("NodeResizeInProgress"), &["NodeResizeError"],
        Some(("node has not expanded the file system of the volume from 1Gi to 2Gi yet", true)))]
    #[case::node_never("1Gi", "2Gi", Some("NodeResizeInfeasible"), &["FileSystemResizePending", "NodeResizeError"],
        Some(("node can't expand the file system of the volume", true)))]
    fn what_an_expansion_waits_for_is_told(
        #[case] capacity: &str,
        #[case] of_volume: &str,
        #[case] word: Option<&str>,
        #[case] conditions: &[&str],
        #[case] expected: Option<(&str, bool)>,
    ) {
        let of = |made: Value| -> Claim {
            let volume = json!({"metadata": {"name": "pv"}, "spec": {"claimRef": {"uid": "c"}, "capacity": {"storage": of_volume}}});
            let volume = (!of_volume.is_empty()).then(|| serde_json::from_value(volume).unwrap());
            let claim = serde_json::from_value(made).unwrap();
            Claim::of(&claim, Owner::Ours, "dv", volume.as_ref(), None)
        };
        let conditions: Vec<_> =
            conditions.iter().map(|kind| json!({"type": kind, "status": "True", "message": "words"})).collect();
        let claim = of(json!({
            "metadata": {"name": "clone", "namespace": "here", "uid": "c"},
            "spec": {
                "resources": {"requests": {"storage": "2Gi"}},
                "dataSourceRef": {"apiGroup": "snapshot.storage.k8s.io", "kind": "VolumeSnapshot", "name": "s"},
            },
            "status": {
                "phase": "Bound", "capacity": {"storage": capacity}, "conditions": conditions,
                "allocatedResources": {"storage": "2Gi"},
                "allocatedResourceStatuses": word.map(|word| json!({"storage": word})),
            },
        }));
        assert_eq!(claim.content, Content::Snapshot("s".into()));
        let wanted = volume(sized("2Gi"));
        let seen = Observed { claim: Lookup::Present(claim.clone()), ..observed(&wanted, facts()) };
        let plan = grown(&seen, &request(&wanted), &claim);
        assert_eq!(plan.phase == Phase::Succeeded, expected.is_none(), "{plan:?}");
        let told = plan.waiting.as_ref().map(|waiting| (waiting.message(), waiting.ends_by() == EndsBy::Action));
        match (told, expected) {
            (Some((message, attention)), Some((words, needs))) => {
                assert!(message.contains(words), "{message}");
                assert_eq!(attention, needs);
                assert_eq!(plan.waiting.unwrap().reason(), "VolumeNotExpanded");
            }
            (told, expected) => assert_eq!((told, expected), (None, None)),
        }
    }

    /// The owner of a claim lowers its request; a DataVolume is created again.
    #[test]
    fn the_cure_is_that_of_the_object() {
        let wanted = volume(|_| ());
        let mut request = request(&wanted);
        request.made_for = TargetKind::Claim;
        let claim = serde_json::from_value(json!({
            "metadata": {"name": "clone"}, "spec": {"resources": {"requests": {"storage": "2Gi"}}},
            "status": {"capacity": {"storage": "1Gi"}, "allocatedResourceStatuses": {"storage": "ControllerResizeInfeasible"}},
        }));
        let claim = Claim::of(&claim.unwrap(), Owner::Ours, "dv", None, None);
        let text = trouble(&request, &claim, claim.expansion.as_ref().unwrap()).unwrap();
        assert!(
            text.ends_with("set spec.resources.requests.storage of the claim to less, and more than 1Gi"),
            "{text}"
        );
    }
}
