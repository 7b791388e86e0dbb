//! Expansion of a claim's volume: its pending part, and its error.
//!
//! Kubernetes expands in two parts. The controller expands the volume, and `spec.capacity` of the PersistentVolume follows at once. Then a
//! node expands the file system, if there is one, and only then `status.capacity` of the claim follows. Since KEP-1790 (recovery from
//! expansion failure) `status.allocatedResourceStatuses` names the part and if it is infeasible; older versions set conditions only.

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, PersistentVolumeClaimStatus};

/// The key of a volume's size in a resource list.
const STORAGE: &str = "storage";

/// The pending part of an expansion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The controller expands the volume.
    Controller,
    /// The volume is expanded, and a node expands its file system.
    Node,
}

/// An expansion that is not complete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expansion {
    /// The pending part.
    pub part: Part,
    /// True if it is not retried until another size is requested.
    pub is_infeasible: bool,
    /// True if the file system is expanded when kubelet mounts the volume.
    pub grows_at_mount: bool,
    /// The latest error.
    pub error: Option<String>,
}

impl Expansion {
    /// The expansion of this claim; `None` if there is none.
    pub fn of(claim: &PersistentVolumeClaim) -> Option<Self> {
        let status = claim.status.as_ref()?;
        let word = status.allocated_resource_statuses.as_ref().and_then(|all| all.get(STORAGE));
        let pending = condition(status, "FileSystemResizePending").is_some();
        let (part, is_infeasible) = match word.map(String::as_str) {
            Some("ControllerResizeInProgress") => (Part::Controller, false),
            // KEP-1790 renamed `Failed` to `Infeasible` before the feature was on by default.
            Some("ControllerResizeInfeasible" | "ControllerResizeFailed") => (Part::Controller, true),
            Some("NodeResizePending" | "NodeResizeInProgress") => (Part::Node, false),
            Some("NodeResizeInfeasible" | "NodeResizeFailed") => (Part::Node, true),
            // An unknown state is ignored.
            Some(_) | None if pending || condition(status, "NodeResizeError").is_some() => (Part::Node, false),
            Some(_) | None => {
                condition(status, "Resizing").or_else(|| condition(status, "ControllerResizeError"))?;
                (Part::Controller, false)
            }
        };
        let error = condition(
            status,
            match part {
                Part::Controller => "ControllerResizeError",
                Part::Node => "NodeResizeError",
            },
        );
        let grows_at_mount = pending && part == Part::Node && !is_infeasible;
        Some(Self { part, is_infeasible, grows_at_mount, error: error.filter(|text| !text.is_empty()) })
    }
}

/// The message of a condition whose status is `True`.
fn condition(status: &PersistentVolumeClaimStatus, kind: &str) -> Option<String> {
    let holds = status.conditions.iter().flatten().find(|it| it.type_ == kind && it.status == "True")?;
    Some(holds.message.clone().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    const NONE: Option<&str> = None;

    /// The state of KEP-1790, the conditions that are true, and the expected result: part, infeasible, grows at mount, has an error.
    #[rstest]
    #[case::nothing(NONE, &[], None)]
    #[case::old_controller(NONE, &["Resizing"], Some((Part::Controller, false, false, false)))]
    #[case::old_node(NONE, &["FileSystemResizePending"], Some((Part::Node, false, true, false)))]
    #[case::controller(Some("ControllerResizeInProgress"), &["Resizing"], Some((Part::Controller, false, false, false)))]
    #[case::controller_error(
        Some("ControllerResizeInProgress"), &["Resizing", "ControllerResizeError"], Some((Part::Controller, false, false, true))
    )]
    #[case::controller_error_alone(NONE, &["ControllerResizeError"], Some((Part::Controller, false, false, true)))]
    #[case::controller_never(Some("ControllerResizeInfeasible"), &["ControllerResizeError"], Some((Part::Controller, true, false, true)))]
    #[case::controller_never_without_words(Some("ControllerResizeInfeasible"), &[], Some((Part::Controller, true, false, false)))]
    #[case::controller_never_by_its_old_word(Some("ControllerResizeFailed"), &[], Some((Part::Controller, true, false, false)))]
    #[case::node_pending(Some("NodeResizePending"), &["FileSystemResizePending"], Some((Part::Node, false, true, false)))]
    #[case::node(Some("NodeResizeInProgress"), &["FileSystemResizePending"], Some((Part::Node, false, true, false)))]
    #[case::node_error(
        Some("NodeResizeInProgress"), &["FileSystemResizePending", "NodeResizeError"], Some((Part::Node, false, true, true))
    )]
    #[case::node_never(Some("NodeResizeInfeasible"), &["FileSystemResizePending", "NodeResizeError"], Some((Part::Node, true, false, true)))]
    #[case::another_part_s_error(Some("NodeResizePending"), &["ControllerResizeError"], Some((Part::Node, false, false, false)))]
    #[case::unknown_word(Some("Later"), &["Resizing"], Some((Part::Controller, false, false, false)))]
    #[case::unknown_word_alone(Some("Later"), &[], None)]
    fn expansions(
        #[case] word: Option<&str>,
        #[case] conditions: &[&str],
        #[case] expected: Option<(Part, bool, bool, bool)>,
    ) {
        let condition = |kind: &&str| json!({"type": kind, "status": "True", "message": if kind.ends_with("Error") { "words" } else { "" }});
        let conditions: Vec<_> =
            conditions.iter().map(condition).chain([json!({"type": "Resizing", "status": "False"})]).collect();
        let claim = json!({"status": {
            "conditions": conditions, "allocatedResourceStatuses": word.map(|word| json!({"storage": word})),
        }});
        let found = Expansion::of(&serde_json::from_value(claim).unwrap());
        assert!(found.as_ref().and_then(|it| it.error.as_deref()).is_none_or(|text| text == "words"));
        let found = found.map(|it| (it.part, it.is_infeasible, it.grows_at_mount, it.error.is_some()));
        assert_eq!(found, expected);
    }
}
