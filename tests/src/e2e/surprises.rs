//! What storage drivers surprise clones with, and which tests show what becomes of it.

use std::collections::BTreeMap;

use super::{Ending, Outcome};

/// One surprise.
#[derive(Debug, Clone, Copy)]
pub struct Surprise {
    /// What drivers do.
    pub what: &'static str,
    /// The tests, by their names after `e2e::`.
    pub tests: &'static [&'static str],
}

/// All that the reference driver can be made to do, and what Kubernetes' own parts do.
pub const ALL: [Surprise; 16] = [
    Surprise {
        what: "a volume of the other mode would hold a disk that doesn't boot: it is converted by a copy",
        tests: &[
            "convert::a_device_becomes_an_image_in_a_file_system",
            "convert::an_image_in_a_file_system_becomes_a_device",
        ],
    },
    Surprise {
        what: "a larger restore grows the volume, but not its file system",
        tests: &["trouble::a_file_system_that_did_not_grow_with_its_volume_grows_when_it_is_used"],
    },
    Surprise {
        what: "a larger restore is refused, and the StorageClass says so",
        tests: &[
            "snapshot::a_file_system_is_restored_at_its_size_where_the_driver_wants_that_and_grows_then",
            "snapshot::a_device_is_restored_at_its_size_where_the_driver_wants_that_and_grows_then",
        ],
    },
    Surprise {
        what: "a larger restore is refused, and nobody has said so",
        tests: &[
            "replan::a_refused_restore_becomes_a_copy",
            "replan::what_is_refused_in_another_namespace_becomes_a_copy",
        ],
    },
    Surprise {
        what: "a larger restore is accepted, and has the old size",
        tests: &["replan::a_driver_that_gives_less_than_it_was_asked_for_is_not_believed"],
    },
    Surprise {
        what: "restoreSize is absent or 0",
        tests: &["snapshot::a_snapshot_of_unknown_size_is_restored_at_the_source_s"],
    },
    Surprise {
        what: "restoreSize is odd",
        tests: &["snapshot::a_snapshot_that_claims_to_need_less_is_restored_at_the_source_s"],
    },
    Surprise {
        what: "a snapshot is ready long after it was taken, or never",
        tests: &[
            "snapshot::a_snapshot_that_takes_its_time_is_waited_for",
            "replan::what_takes_too_long_becomes_a_copy",
        ],
    },
    Surprise {
        what: "status.error of a snapshot, and complaints about a claim, may pass",
        tests: &[
            "trouble::a_driver_s_trouble_with_a_snapshot_is_told_and_overcome",
            "trouble::a_driver_s_trouble_with_a_volume_is_told_and_overcome",
        ],
    },
    Surprise {
        what: "the same provisioner is not enough to clone between two classes",
        tests: &[
            "copy::other_parameters_can_only_be_copied_to_unless_an_admin_vouches",
            "replan::a_refused_clone_of_the_storage_becomes_a_copy",
        ],
    },
    Surprise {
        what: "there are no snapshots on this storage",
        tests: &["replan::a_refused_snapshot_becomes_a_copy_and_similar_clones_need_not_find_out"],
    },
    Surprise {
        what: "deleting a snapshot while it is restored leaves finalizers and volumes behind",
        tests: &[
            "deletion::nothing_is_left_while_the_volume_is_restored",
            "namespaces::nothing_is_left_of_one_that_is_deleted_while_its_volume_is_restored",
        ],
    },
    Surprise {
        what: "a call takes longer than the sidecar waits, and is asked for again",
        tests: &["trouble::a_driver_that_is_still_at_it_is_waited_for"],
    },
    Surprise {
        what: "a volume may have few snapshots only",
        tests: &["group::a_limit_of_three_snapshots_is_respected_without_a_failure"],
    },
    Surprise {
        what: "snapshots are taken slowly, one after the other",
        tests: &["group::twenty_clones_of_one_source_need_few_snapshots"],
    },
    Surprise {
        what: "a snapshot is never deleted",
        tests: &["trouble::a_snapshot_that_is_never_deleted_keeps_nobody_waiting"],
    },
];

/// The table: one line for each surprise whose tests were all run.
pub fn table(outcomes: &[Outcome]) -> Vec<String> {
    let ran = outcomes.iter().filter(|it| !matches!(it.ending, Ending::Ignored(_)));
    let ended: BTreeMap<_, _> = ran.map(|it| (it.name, matches!(it.ending, Ending::Passed))).collect();
    let line = |surprise: &Surprise| {
        let results: Option<Vec<bool>> =
            surprise.tests.iter().map(|test| ended.get(format!("e2e::{test}").as_str()).copied()).collect();
        let word = if results?.into_iter().all(|passed| passed) { "ok" } else { "FAILED" };
        Some(format!("{word:>8}  {} ({} tests)", surprise.what, surprise.tests.len()))
    };
    ALL.iter().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_surprise_names_tests_that_there_are() {
        let all: Vec<_> = super::super::all().iter().map(|test| test.name).collect();
        for test in ALL.iter().flat_map(|surprise| surprise.tests) {
            assert!(all.contains(&format!("e2e::{test}").as_str()), "{test}");
        }
    }
}
