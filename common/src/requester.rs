//! Requester of a clone: the identity in the requester annotation, and the permissions that are checked.
//!
//! A user of a clone can read its data. So a clone of a source in another namespace requires a permission there. It is checked at
//! admission, for an immediate answer, and again when the clone is made, for clones that were admitted before their source was known.

use std::collections::BTreeMap;

use k8s_openapi::api::{
    authentication::v1::UserInfo,
    authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec},
};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{
    api,
    object::{ObjectName, SourceKind, SourceName},
};

/// Maximum length of the requester annotation in bytes. All annotations of an object together have 256 KiB.
const LIMIT: usize = 64 << 10;

/// A user as the API server knows it: the content of the annotation `smartclone.dev/requester`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Requester {
    /// The name.
    pub username: String,
    /// The UID, if the authenticator has one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// The groups.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    /// Additional information from the authenticator.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub extra: BTreeMap<String, Vec<String>>,
}

/// The reason why a user cannot be written to an annotation.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Unwritable {
    /// The review names no user, which no API server does.
    #[error("the review names no user, so nobody can be asked about; every user of an API server has a name")]
    Nameless,
    /// The annotation would be too long.
    #[error(
        "what is known about the user takes {bytes} bytes (most of them {most}), and no more than {LIMIT} can be written down; use an \
         account with fewer {most}"
    )]
    TooLong {
        /// The length of the annotation in bytes.
        bytes: usize,
        /// The longest part of it.
        most: &'static str,
    },
}

impl Requester {
    /// Reads the user of an admission review.
    pub fn of(user: &UserInfo) -> Self {
        let UserInfo { username, uid, groups, extra } = user.clone();
        Self {
            username: username.unwrap_or_default(),
            uid: uid.unwrap_or_default(),
            groups: groups.unwrap_or_default(),
            extra: extra.unwrap_or_default(),
        }
    }

    /// True for a service account, as the API server names them.
    pub fn is_service_account(&self) -> bool {
        self.username.starts_with("system:serviceaccount:")
    }

    /// Reads the user in an annotation; `None` if it is invalid or names no user. An anonymous user has a name, too.
    pub fn read(stamp: &str) -> Option<Self> {
        let requester: Self = serde_json::from_str(stamp).ok().filter(|_| stamp.len() <= LIMIT)?;
        (!requester.username.is_empty()).then_some(requester)
    }

    /// Returns the annotation.
    pub fn write(&self) -> Result<String, Unwritable> {
        if self.username.is_empty() {
            return Err(Unwritable::Nameless);
        }
        let stamp = serde_json::to_string(self).unwrap_or_default();
        if stamp.len() > LIMIT {
            let of_groups: usize = self.groups.iter().map(String::len).sum();
            let most = if of_groups > LIMIT / 2 { "groups" } else { "fields of extra" };
            return Err(Unwritable::TooLong { bytes: stamp.len(), most });
        }
        Ok(stamp)
    }

    /// Returns the SubjectAccessReview of this user for this access.
    pub fn may(&self, what: ResourceAttributes) -> SubjectAccessReview {
        let Self { username, uid, groups, extra } = self.clone();
        SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: Some(username),
                uid: Some(uid).filter(|uid| !uid.is_empty()),
                groups: Some(groups),
                extra: Some(extra),
                resource_attributes: Some(what),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        }
    }
}

/// Returns the permissions that a requester needs to clone `source`: all those of one of these lists. The rules are CDI's: the permission
/// for cloning, or those with which the data could be read anyway, by a pod that mounts the claim or a claim that is restored from the
/// snapshot.
pub fn questions(source: &SourceName) -> Vec<Vec<ResourceAttributes>> {
    let create = |group: &str, version: &str, resource: &str, subresource: Option<&str>| ResourceAttributes {
        verb: Some("create".to_owned()),
        group: Some(group.to_owned()),
        version: Some(version.to_owned()),
        resource: Some(resource.to_owned()),
        subresource: subresource.map(ToOwned::to_owned),
        namespace: Some(source.object.namespace.clone()),
        name: Some(source.object.name.clone()),
        ..ResourceAttributes::default()
    };
    let mut anyway = vec![create("", "v1", "pods", None)];
    if source.kind == SourceKind::Snapshot {
        anyway.push(create("", "v1", "persistentvolumeclaims", None));
    }
    vec![vec![create(api::GROUP, api::VERSION, "datavolumes", Some("source"))], anyway]
}

/// A kind of object that refers to a source, and that a user in another namespace may name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reference {
    /// A DataSource in `spec.sourceRef` of a DataVolume.
    DataSource,
    /// A VolumeCloneSource in `spec.dataSourceRef` of a claim, with the annotation `cdi.kubevirt.io/dataSourceNamespace`.
    VolumeCloneSource,
}

impl Reference {
    fn kind(self) -> &'static str {
        match self {
            Self::DataSource => "DataSource",
            Self::VolumeCloneSource => "VolumeCloneSource",
        }
    }

    fn resource(self) -> &'static str {
        match self {
            Self::DataSource => "datasources",
            Self::VolumeCloneSource => "volumeclonesources",
        }
    }
}

/// Returns the permission that a requester needs before a reference into another namespace is followed: `get` on that object. Nobody else
/// learns if the object exists or what it names.
pub fn reference_right(kind: Reference, name: &ObjectName) -> ResourceAttributes {
    ResourceAttributes {
        verb: Some("get".to_owned()),
        group: Some(api::GROUP.to_owned()),
        version: Some(api::VERSION.to_owned()),
        resource: Some(kind.resource().to_owned()),
        namespace: Some(name.namespace.clone()),
        name: Some(name.name.clone()),
        ..ResourceAttributes::default()
    }
}

/// Returns the message that `requester` may not follow the reference. It is the same for an existing and a missing object.
pub fn reference_denial(requester: &Requester, kind: Reference, name: &ObjectName) -> String {
    format!(
        "user {:?} may not read {} {name}: that takes the verb get on {} of the group {} in namespace {:?}, which an admin of that \
         namespace can give",
        requester.username,
        kind.kind(),
        kind.resource(),
        api::GROUP,
        name.namespace,
    )
}

/// Returns the message that `requester` may not clone `source`, with commands by which an admin of the namespace can permit it.
pub fn denial(requester: &Requester, source: &SourceName) -> String {
    let user = &requester.username;
    let SourceName { kind, object } = source;
    let anyway = match kind {
        SourceKind::Claim => "pods",
        SourceKind::Snapshot => "pods and persistentvolumeclaims",
    };
    let account = user.strip_prefix("system:serviceaccount:").filter(|account| account.split(':').count() == 2);
    let subject = match account {
        Some(account) => format!("--serviceaccount={}", quoted(account)),
        None => format!("--user={}", quoted(user)),
    };
    let (namespace, name) = (quoted(&object.namespace), quoted(&object.name));
    let role = quoted(&format!("clone-{}", object.name));
    let binding = quoted(&format!("clone-{}-{}", object.name, as_name(account.unwrap_or(user))));
    format!(
        "user {user:?} may not clone {source}: that takes the verb create on datavolumes/source of the group {} (or on {anyway}) in \
         namespace {:?}, which an admin of that namespace can give: kubectl create role {role} -n {namespace} --verb=create \
         --resource=datavolumes.{}/source --resource-name={name} && kubectl create rolebinding {binding} -n {namespace} \
         --role={role} {subject}",
        api::GROUP,
        object.namespace,
        api::GROUP,
    )
}

/// Quotes a word for a shell. Denied users choose the names of users and sources, and the commands are for admins.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._:@/=+-".contains(c);
    if word.chars().all(plain) {
        return word.to_owned();
    }
    let printable: String = word.chars().filter(|c| !c.is_control()).collect();
    format!("'{}'", printable.replace('\'', r"'\''"))
}

/// Returns the part of a user's name that is valid in the name of an object.
fn as_name(user: &str) -> String {
    user.to_lowercase().replace(|c: char| !c.is_ascii_alphanumeric(), "-").trim_matches('-').to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    fn requester(username: &str) -> Requester {
        Requester {
            username: username.into(),
            uid: "u1".into(),
            groups: vec!["devs".into()],
            extra: [("scopes.example.com/of".into(), vec!["a".into(), "b".into()])].into(),
        }
    }

    fn source(kind: SourceKind) -> SourceName {
        SourceName { kind, object: ObjectName { namespace: "gold".into(), name: "disk".into() } }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            username in ".{1,20}", uid in ".{0,10}", groups in prop::collection::vec(".{0,10}", 0..4),
            extra in prop::collection::btree_map(".{0,10}", prop::collection::vec(".{0,10}", 0..3), 0..3),
        ) {
            let requester = Requester { username, uid, groups, extra };
            prop_assert_eq!(Requester::read(&requester.write().unwrap()), Some(requester));
        }
    }

    #[rstest]
    #[case::nothing("")]
    #[case::no_json("alice")]
    #[case::no_name(r#"{"username":""}"#)]
    #[case::no_user(r#"{"groups":["system:masters"]}"#)]
    fn is_no_requester(#[case] stamp: &str) {
        assert_eq!(Requester::read(stamp), None);
    }

    #[rstest]
    #[case::groups(Requester { groups: vec!["g".repeat(64); 1100], ..requester("alice") }, "fewer groups")]
    #[case::extra(
        Requester { extra: [("of".into(), vec!["x".repeat(LIMIT)])].into(), ..requester("alice") },
        "fewer fields of extra"
    )]
    #[case::nobody(requester(""), "names no user")]
    fn a_stamp_has_its_limits(#[case] user: Requester, #[case] cure: &str) {
        let error = user.write().unwrap_err().to_string();
        assert!(error.contains(cure), "{error}");
        assert_eq!(Requester::read(&serde_json::to_string(&user).unwrap()), None);
    }

    #[test]
    fn the_question_is_about_the_whole_user() {
        let alice = requester("alice");
        let review = alice.may(ResourceAttributes::default()).spec;
        assert_eq!((review.user.as_deref(), review.uid.as_deref()), (Some("alice"), Some("u1")));
        assert_eq!((review.groups, review.extra), (Some(alice.groups), Some(alice.extra)));
    }

    #[rstest]
    #[case::claim(SourceKind::Claim, "datavolumes/source | pods")]
    #[case::snapshot(SourceKind::Snapshot, "datavolumes/source | pods & persistentvolumeclaims")]
    fn asks(#[case] kind: SourceKind, #[case] expected: &str) {
        let asked = questions(&source(kind));
        for question in asked.iter().flatten() {
            assert_eq!((question.namespace.as_deref(), question.name.as_deref()), (Some("gold"), Some("disk")));
            assert_eq!(question.verb.as_deref(), Some("create"));
            let ours = question.resource.as_deref() == Some("datavolumes");
            assert_eq!(question.group.as_deref(), Some(if ours { "cdi.kubevirt.io" } else { "" }));
        }
        let resource = |a: &ResourceAttributes| {
            [a.resource.as_deref(), a.subresource.as_deref()].into_iter().flatten().collect::<Vec<_>>().join("/")
        };
        let asked: Vec<_> = asked.iter().map(|all| all.iter().map(resource).collect::<Vec<_>>().join(" & ")).collect();
        assert_eq!(asked.join(" | "), expected);
    }

    #[rstest]
    #[case::data_source(Reference::DataSource, "datasources")]
    #[case::clone_source(Reference::VolumeCloneSource, "volumeclonesources")]
    fn a_reference_takes_the_right_to_get_that_very_object(#[case] kind: Reference, #[case] resource: &str) {
        let name = ObjectName { namespace: "gold".into(), name: "image".into() };
        let right = reference_right(kind, &name);
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let asked = [&right.verb, &right.group, &right.resource, &right.namespace, &right.name].map(text);
        assert_eq!(asked, ["get", "cdi.kubevirt.io", resource, "gold", "image"]);
        assert_eq!((right.subresource, right.field_selector, right.label_selector), (None, None, None));

        let denial = reference_denial(&requester("alice"), kind, &name);
        let cure = format!("takes the verb get on {resource} of the group cdi.kubevirt.io in namespace \"gold\"");
        assert!(denial.contains("user \"alice\" may not read ") && denial.contains(&cure), "{denial}");
        assert_eq!((denial.lines().count(), denial.matches("gold/image").count()), (1, 1), "{denial}");
    }

    #[rstest]
    #[case::user("alice", "clone-disk-alice", "--user=alice")]
    #[case::service_account("system:serviceaccount:ci:robot", "clone-disk-ci-robot", "--serviceaccount=ci:robot")]
    #[case::mail("Alice@example.com", "clone-disk-alice-example-com", "--user=Alice@example.com")]
    #[case::hostile("x; rm -rf ~ '\n", "clone-disk-x--rm--rf", r"--user='x; rm -rf ~ '\'''")]
    fn a_denial_says_what_to_do(#[case] user: &str, #[case] binding: &str, #[case] subject: &str) {
        let text = denial(&requester(user), &source(SourceKind::Claim));
        let cure = format!(
            "kubectl create role clone-disk -n gold --verb=create --resource=datavolumes.cdi.kubevirt.io/source \
             --resource-name=disk && kubectl create rolebinding {binding} -n gold --role=clone-disk {subject}"
        );
        assert!(text.ends_with(&cure), "{text}");
        let why = "may not clone PersistentVolumeClaim gold/disk: that takes the verb create on datavolumes/source of the group \
                   cdi.kubevirt.io (or on pods) in namespace \"gold\"";
        assert!(text.contains(why), "{text}");
        assert_eq!(text.lines().count(), 1);
    }
}
