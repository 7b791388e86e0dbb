//! Remedies for requests that the API server refused, because its messages name the object and the rule but no remedy. The messages are
//! those of Kubernetes' admission plugins and of its validation, which are no API but have been stable for years; unknown ones get no
//! remedy.

/// Texts that a message has to contain, all of them, and the remedy. The first matching row counts.
const CURES: [(&[&str], &str); 12] = [
    (
        &["exceeded quota"],
        "delete what is not needed in the namespace, or raise the quota (kubectl describe resourcequota)",
    ),
    (&["insufficient quota"], "give the namespace a ResourceQuota that permits this (kubectl describe resourcequota)"),
    (
        &["failed quota", "must specify"],
        "state the resource in spec.config.podResourceRequirements of the CDI object, or leave it out of the quota",
    ),
    (
        &["usage per PersistentVolumeClaim is"],
        "ask for a size that the LimitRange of the namespace permits, or change that (kubectl describe limitrange)",
    ),
    (
        &["usage per Container is"],
        "change spec.config.podResourceRequirements of the CDI object, or the LimitRange of the namespace (kubectl describe limitrange)",
    ),
    (
        &["usage per Pod is"],
        "change spec.config.podResourceRequirements of the CDI object, or the LimitRange of the namespace (kubectl describe limitrange)",
    ),
    (
        &["limit to request ratio per"],
        "change spec.config.podResourceRequirements of the CDI object, or the LimitRange of the namespace (kubectl describe limitrange)",
    ),
    (
        &["must be less than or equal to", "limit"],
        "correct spec.config.podResourceRequirements of the CDI object: no request may be larger than its limit",
    ),
    (
        &["violates PodSecurity"],
        "a pod that copies fits the level restricted, and with smartclone.dev/file-owners: Keep the level baseline; leave the annotation out, \
         or let the admin label the namespace pod-security.kubernetes.io/enforce: baseline",
    ),
    (
        &["ValidatingAdmissionPolicy '"],
        "let the admin exempt objects with the label app: smartclone from the policy, or change what the policy asks for",
    ),
    (
        &["admission webhook", "denied the request"],
        "let the admin exempt objects with the label app: smartclone from the webhook, or change what the webhook asks for",
    ),
    (
        &["no PriorityClass with name"],
        "create the PriorityClass, or leave spec.priorityClassName out of a new DataVolume (kubectl get priorityclass)",
    ),
];

/// Returns the message of the API server, with the remedy if it is known.
pub fn explained(words: &str) -> String {
    match cure(words) {
        Some(cure) => format!("{words}; {cure}"),
        None => words.to_owned(),
    }
}

/// Returns the remedy for a message.
fn cure(words: &str) -> Option<&'static str> {
    CURES.iter().find(|(parts, _)| parts.iter().all(|part| words.contains(part))).map(|(_, cure)| *cure)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    /// Messages of an API server of Kubernetes 1.35, and a part of the remedy.
    #[rstest]
    #[case::quota(
        "pods \"smartclone-mover-1\" is forbidden: exceeded quota: q, requested: limits.cpu=750m, used: limits.cpu=0, limited: limits.cpu=500m",
        Some("raise the quota")
    )]
    #[case::count_of_pods(
        "pods \"smartclone-mover-1\" is forbidden: exceeded quota: q, requested: count/pods=1, used: count/pods=0, limited: count/pods=0",
        Some("raise the quota")
    )]
    #[case::claims(
        "persistentvolumeclaims \"clone\" is forbidden: exceeded quota: q, requested: requests.storage=2Gi, used: requests.storage=0, limited: requests.storage=1Gi",
        Some("raise the quota")
    )]
    #[case::unstated(
        "pods \"smartclone-mover-1\" is forbidden: failed quota: q: must specify limits.cpu for: mover",
        Some("podResourceRequirements")
    )]
    #[case::without_a_quota(
        "pods \"smartclone-mover-1\" is forbidden: insufficient quota to match these scopes: [{PriorityClass In [fast]}]",
        Some("ResourceQuota that permits")
    )]
    #[case::maximum(
        "pods \"smartclone-mover-1\" is forbidden: maximum memory usage per Container is 256Mi, but limit is 600M",
        Some("podResourceRequirements")
    )]
    #[case::minimum(
        "pods \"smartclone-mover-1\" is forbidden: minimum cpu usage per Container is 200m, but request is 100m",
        Some("podResourceRequirements")
    )]
    #[case::of_the_pod(
        "pods \"smartclone-mover-1\" is forbidden: maximum cpu usage per Pod is 500m, but limit is 750m",
        Some("kubectl describe limitrange")
    )]
    #[case::ratio(
        "pods \"smartclone-mover-1\" is forbidden: cpu max limit to request ratio per Container is 2, but provided ratio is 7.500000",
        Some("kubectl describe limitrange")
    )]
    #[case::size_of_a_claim(
        "persistentvolumeclaims \"clone\" is forbidden: maximum storage usage per PersistentVolumeClaim is 1Gi, but request is 2Gi",
        Some("ask for a size")
    )]
    #[case::request_above_its_limit(
        "Pod \"smartclone-mover-1\" is invalid: spec.containers[0].resources.requests: Invalid value: \"200m\": must be less than or equal to cpu limit of 100m",
        Some("no request may be larger")
    )]
    #[case::pod_security(
        "pods \"smartclone-mover-1\" is forbidden: violates PodSecurity \"restricted:latest\": runAsUser=0 (pod must not set runAsUser=0)",
        Some("pod-security.kubernetes.io/enforce")
    )]
    #[case::policy(
        "pods \"smartclone-mover-1\" is forbidden: ValidatingAdmissionPolicy 'images.example.com' with binding 'all' denied request: not our registry",
        Some("exempt objects with the label app: smartclone from the policy")
    )]
    #[case::webhook(
        "admission webhook \"validate.kyverno.svc-fail\" denied the request: not our registry",
        Some("exempt objects with the label app: smartclone from the webhook")
    )]
    #[case::priority(
        "pods \"smartclone-mover-1\" is forbidden: no PriorityClass with name fast was found",
        Some("leave spec.priorityClassName out")
    )]
    #[case::right(
        "pods is forbidden: User \"system:serviceaccount:smartclone:smartclone-controller\" cannot create resource",
        None
    )]
    #[case::ending(
        "pods \"smartclone-mover-1\" is forbidden: unable to create new content in namespace n because it is being terminated",
        None
    )]
    fn a_refusal_is_told_with_its_cure(#[case] words: &str, #[case] expected: Option<&str>) {
        let told = explained(words);
        assert!(told.starts_with(words), "{told}");
        assert_eq!(told.len() > words.len(), expected.is_some(), "{told}");
        assert!(told[words.len()..].contains(expected.unwrap_or_default()), "{told}");
    }

    /// No row is hidden by an earlier one.
    #[test]
    fn every_row_is_reached() {
        for (parts, expected) in CURES {
            assert_eq!(cure(&parts.join(" … ")), Some(expected), "{parts:?}");
        }
    }
}
