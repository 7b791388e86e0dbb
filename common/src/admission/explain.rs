//! The decision as warnings for the user, one line each.

use std::time::Duration;

use jiff::SignedDuration;

use crate::{
    api::CloneStrategy,
    cdi_config,
    clone::{
        Decision, Facts, Undecided,
        note::ChosenBy,
        reconcile::{fallback::time_limit, pending::in_the_way},
        request::Request,
        wait::{kept_by, named},
    },
    keys,
    object::SourceKind,
    pods::User,
};

/// The warning that the clone waits for pods that may write to its source; `None` if it does not wait. Names pods only within the clone's
/// namespace; for another namespace it gives their number, as the requester may not be allowed to read them.
pub fn in_use(request: &Request, strategy: CloneStrategy, users: &[User]) -> Option<String> {
    let pods = in_the_way(request, strategy, users);
    let otherwise = if strategy.spec().takes_snapshot {
        format!(" (or asks for {}: CrashConsistent)", keys::CONSISTENCY)
    } else {
        String::new()
    };
    let until = match (request.crosses(), pods.len()) {
        (_, 0) => return None,
        (false, _) => format!("{} no longer uses", named(&pods)),
        (true, 1) => "1 pod no longer uses".to_owned(),
        (true, count) => format!("{count} pods no longer use"),
    };
    Some(format!("smartclone: the clone waits until {until} the source{otherwise}"))
}

/// The warning that the requester's deadline exceeds the admin's limit and is shortened.
fn shortened(request: &Request, facts: &Facts) -> Option<String> {
    let (asked, counts) = (request.deadline?, time_limit(request, facts));
    (counts < asked).then(|| {
        let whole = |time: Duration| SignedDuration::try_from(time).unwrap_or(SignedDuration::MAX);
        format!(
            "smartclone: {} {:#} is longer than allowed, {:#} counts; admins allow more with {} on CDIConfig {:?}",
            keys::DEADLINE,
            whole(asked),
            whole(counts),
            keys::MAX_DEADLINE,
            cdi_config::NAME,
        )
    })
}

/// The warnings of a decision: the strategy, the reason against a cheaper one, and the condition to wait for.
pub fn warnings(request: &Request, decision: &Decision, facts: &Facts) -> Vec<String> {
    let mut lines = Vec::from_iter(shortened(request, facts));
    match decision {
        Decision::Rejected(_) => {}
        Decision::Undecided(Undecided::SourceMissing) => lines.push(format!(
            "smartclone: the source {} does not exist yet; the strategy is decided when it appears",
            request.source
        )),
        Decision::Undecided(Undecided::SourceDeleting { finalizers }) => lines.push(format!(
            "smartclone: the source {} is being deleted{} and can't be cloned any more; the clone starts when another one of this name appears",
            request.source,
            kept_by(finalizers),
        )),
        Decision::Undecided(Undecided::SourceNotReady { .. }) => lines.push(format!(
            "smartclone: the source {} {}; the strategy is decided then",
            request.source,
            match request.source.kind {
                SourceKind::Claim => "has no volume yet",
                SourceKind::Snapshot => "is not ready to be restored yet",
            }
        )),
        Decision::Undecided(Undecided::NoStorageClass(error)) => {
            lines.push(format!("smartclone: {error}; the clone is admitted, and starts when the StorageClass exists"));
        }
        Decision::Undecided(Undecided::Unknown(why)) => {
            lines.push(format!("smartclone: the strategy could not be decided yet: {why}"));
        }
        Decision::Chosen(chosen) => {
            if let Some(reason) = &chosen.fallback {
                lines.push(format!("smartclone: {reason}"));
            }
            let how = match chosen.strategy {
                CloneStrategy::Snapshot if request.source.kind == SourceKind::Snapshot => {
                    "by restoring the snapshot".to_owned()
                }
                CloneStrategy::Snapshot => {
                    format!(
                        "by snapshot, with VolumeSnapshotClass {:?}",
                        chosen.snapshot_class.as_deref().unwrap_or_default()
                    )
                }
                CloneStrategy::CsiClone => "by a clone of the storage driver".to_owned(),
                CloneStrategy::Copy => {
                    let size = facts.source.present().and_then(|s| s.capacity).unwrap_or_default();
                    format!("by a full copy of {size}")
                }
            };
            let by = match (chosen.by, &chosen.fallback) {
                (ChosenBy::Default | ChosenBy::Pinned, _) | (_, Some(_)) => String::new(),
                (by, None) => format!(" (wanted by {by})"),
            };
            lines.push(format!("smartclone: cloned {how}{by}"));
            if chosen.waits_for_consumer {
                lines.push(format!(
                    "smartclone: it begins when a pod uses the clone's claim, as StorageClass {:?} wants (with the annotation {}, at once)",
                    chosen.class,
                    keys::IMMEDIATE_BINDING,
                ));
            }
            if chosen.sizes.finally > request.size.unwrap_or(chosen.sizes.finally) {
                lines
                    .push(format!("smartclone: the clone gets {}, which is what the source has", chosen.sizes.finally));
            }
            if let Some(source) = facts.source.present().filter(|source| source.doubt.is_some())
                && request.size.is_none()
            {
                lines.push(format!(
                    "smartclone: it isn't known how large the volume of {} was; the driver names {}, which may be too small: if it refuses that, give the size in {}",
                    request.source,
                    source.capacity.unwrap_or_default(),
                    request.form.size_path(),
                ));
            }
            if facts.target_class.present().is_some_and(|class| {
                class.strategy.as_deref().is_some_and(|text| text.parse::<CloneStrategy>().is_err())
            }) {
                lines.push(format!(
                    "smartclone: StorageClass {:?} asks for an unknown clone strategy in its annotation; it is ignored",
                    chosen.class
                ));
            }
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::clone::{fixtures::volume, request::Parsed};

    fn user(pod: &str, writes: bool) -> User {
        User { pod: pod.into(), scheduled: true, started: None, writes }
    }

    #[rstest]
    #[case::nobody(&[], None, None)]
    #[case::a_reader(&[user("a", false)], None, None)]
    #[case::one(&[user("a", true)], Some("pod \"a\" no longer uses"), Some("1 pod no longer uses"))]
    #[case::two(
        &[user("a", true), user("b", true), user("c", false)],
        Some("pod \"a\", pod \"b\" no longer uses"),
        Some("2 pods no longer use")
    )]
    fn pods_have_names_within_their_namespace_only(
        #[case] users: &[User],
        #[case] near: Option<&str>,
        #[case] far: Option<&str>,
    ) {
        let Parsed::Clone(mut request) = Request::parse_new(&volume(|_| {})) else { panic!("no clone") };
        for (namespace, expected) in [(request.target.namespace.clone(), near), ("elsewhere".to_owned(), far)] {
            request.source.object.namespace = namespace;
            for strategy in [CloneStrategy::Snapshot, CloneStrategy::Copy] {
                let told = in_use(&request, strategy, users);
                let expected = expected.map(|until| format!("the clone waits until {until} the source"));
                let as_expected = match (&told, &expected) {
                    (Some(told), Some(expected)) => told.contains(expected.as_str()),
                    (told, expected) => told.is_none() && expected.is_none(),
                };
                assert!(as_expected, "{told:?} instead of {expected:?}");
                assert!(!request.crosses() || !told.unwrap_or_default().contains('"'), "a name");
            }
        }
    }
}
