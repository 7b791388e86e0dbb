use proptest::prelude::*;
use rstest::rstest;

use super::{Class::*, *};

const PROVISION: &str = "failed to provision volume with StorageClass \"fast\": rpc error: code = ";

#[rstest]
#[case::unimplemented("Unimplemented desc = cloning", Terminal, "Unimplemented")]
#[case::larger_restore("OutOfRange desc = snapshot size 1Gi, wanted 2Gi", Terminal, "OutOfRange")]
#[case::source_gone("NotFound desc = source volume vol-1 not found", Terminal, "NotFound")]
#[case::other_parameters("AlreadyExists desc = exists with another size", Terminal, "AlreadyExists")]
#[case::replicas("InvalidArgument desc = repl must match the parent", Terminal, "InvalidArgument")]
#[case::still_copying("Aborted desc = clone from snapshot is pending", Transient, "Aborted")]
#[case::slow("DeadlineExceeded desc = context deadline exceeded", Transient, "DeadlineExceeded")]
#[case::full_pool("ResourceExhausted desc = not enough space", Transient, "ResourceExhausted")]
#[case::broken("Internal desc = exit status 1", Transient, "Internal")]
#[case::internal_but_clear("Internal desc = Cloning is not supported by this pool", Terminal, "CloneNotSupported")]
#[case::quoted("Internal desc = backend: rpc error: code = InvalidArgument desc = no", Terminal, "InvalidArgument")]
#[case::quoted_vague("Unknown desc = rpc error: code = Internal desc = no", Transient, "Unknown")]
#[case::pool("Unknown desc = source and target are in different pool", Terminal, "OtherPool")]
#[case::not_yet("FailedPrecondition desc = snapshot is not ready", Transient, "SourceNotReady")]
#[case::never("FailedPrecondition desc = thick volumes have none", Terminal, "FailedPrecondition")]
#[case::limit(
    "FailedPrecondition desc = the maximum number of snapshots (3) is reached",
    Transient,
    "TooManySnapshots"
)]
#[case::a_code_outranks_its_words("Unavailable desc = snapshots are not supported now", Transient, "Unavailable")]
#[case::no_such_code("Nonsense desc = ?", Transient, "Unknown")]
fn driver_says(#[case] answer: &str, #[case] class: Class, #[case] code: &str) {
    let complaint = classify(&format!("{PROVISION}{answer}"));
    assert_eq!((complaint.class, complaint.code), (class, code));
}

#[rstest]
#[case::volume_mode(
    "requested volume gold/disk modifies the mode of the source volume but does not have permission to do so",
    Terminal,
    "VolumeModeChange"
)]
#[case::smaller("requested volume size 1 is less than the size 2 for the source snapshot s", Terminal, "SizeMismatch")]
#[case::larger(
    "requested volume size 2 is greater than the size 1 for the source snapshot s",
    Terminal,
    "SizeMismatch"
)]
#[case::clone_smaller(
    "error, new PVC request must be greater than or equal in size to the specified PVC data source",
    Terminal,
    "SizeMismatch"
)]
#[case::no_clones("CSI driver does not support clone operations", Terminal, "CloneNotSupported")]
#[case::no_snapshots("Snapshots are not supported on thick volumes", Terminal, "SnapshotNotSupported")]
#[case::waits(
    "error getting handle for DataSource Type VolumeSnapshot by Name s: snapshot s not Ready",
    Transient,
    "SourceNotReady"
)]
#[case::waits_for_claim("claim in dataSource not bound or invalid", Transient, "SourceNotReady")]
#[case::nobody_knows("something else", Transient, "Unknown")]
#[case::nothing("", Transient, "Unknown")]
fn sidecar_says(#[case] text: &str, #[case] class: Class, #[case] code: &str) {
    let complaint = classify(text);
    assert_eq!((complaint.class, complaint.code), (class, code));
}

#[rstest]
#[case::harmless("volume pvc-0b1c2d3e-0000-1111-2222-333344445555: code = Internal", None)]
#[case::name_of_a_secret("csi.storage.k8s.io/provisioner-secret-name: ceph", None)]
#[case::path("cannot open /var/lib/kubelet/plugins/kubernetes/csi/driver/globalmount/x", None)]
#[case::equals("login password=hunter2, user=me", Some("login password=***, user=me"))]
#[case::colon("userKey: abc", Some("userKey: ***"))]
#[case::spaced("token = abc end", Some("token = *** end"))]
#[case::json(r#"{"token":"ab cd","a":1}"#, Some(r#"{"token":"***","a":1}"#))]
#[case::escaped_json(r#"{\"secret\":\"abcd\"}"#, Some(r#"{\"secret\":\"***\"}"#))]
#[case::bearer("Authorization: Bearer abc.def", Some("Authorization: Bearer ***"))]
#[case::short_value("key=a", Some("key=*"))]
#[case::url("GET https://me:pw@storage:8080/x failed", Some("GET https://***@storage:8080/x failed"))]
#[case::pem("cert -----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY----- bad", Some("cert *** bad"))]
#[case::cut_pem("-----BEGIN CERTIFICATE-----\nMIIE", Some("***"))]
#[case::base64("got QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVphYmNkZWZnaGlq+/8= back", Some("got *** back"))]
#[case::web_token("eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJ4In0.c2ln-bmF0_dXJl, no", Some("***, no"))]
#[case::control("a\u{1b}[31mb\nc\u{202e}d", Some("a [31mb cd"))]
fn shows(#[case] text: &str, #[case] expected: Option<&str>) {
    assert_eq!(redact(text), expected.unwrap_or(text));
}

/// The scope of a refusal.
#[rstest]
#[case::thick_pool("FailedPrecondition desc = a thick pool", Scope::StorageClass)]
#[case::not_implemented("Unimplemented desc = cloning", Scope::StorageClass)]
#[case::no_snapshots("Internal desc = this pool does not support snapshots", Scope::StorageClass)]
#[case::size("OutOfRange desc = 900Ti is too large", Scope::Request)]
#[case::size_in_words("FailedPrecondition desc = size 2Gi does not match source 1Gi", Scope::Request)]
#[case::modes("InvalidArgument desc = access mode", Scope::Request)]
#[case::quota("ResourceExhausted desc = quota", Scope::Request)]
#[case::credentials("PermissionDenied desc = key", Scope::Request)]
#[case::anything_not_supported("Internal desc = this is not supported", Scope::Request)]
#[case::this_source("NotFound desc = vol-1", Scope::Object)]
#[case::this_name("AlreadyExists desc = another size", Scope::Object)]
fn depends_on(#[case] text: &str, #[case] scope: Scope) {
    assert_eq!(classify(&format!("{PROVISION}{text}")).scope, scope);
}

/// A transient error never has the scope StorageClass.
#[test]
fn only_what_is_terminal_is_about_the_class() {
    let codes = CODES.iter().map(|(_, class, scope)| (*class, *scope));
    let texts = TEXTS.iter().map(|(_, class, scope, _)| (*class, *scope));
    assert!(codes.chain(texts).all(|(class, scope)| class == Terminal || scope != Scope::StorageClass));
}

proptest! {
    /// For all messages: no panic, the text does not grow, and redacting it again changes nothing.
    #[test]
    fn only_ever_hides(text in hostile()) {
        let shown = redact(&text);
        prop_assert!(shown.len() <= text.len() && shown.chars().count() <= SHOWN);
        prop_assert!(!shown.chars().any(char::is_control));
        prop_assert_eq!(redact(&shown), shown);
        classify(&text);
    }

    /// A password is masked at every position.
    #[test]
    fn never_shows_a_password(before in ".{0,600}", after in "[ ,;]\\PC{0,40}") {
        let shown = redact(&format!("{before} password=Xq7Zp9 {after}"));
        prop_assert!(!shown.contains("Xq7Zp9"));
    }
}

/// Texts of relevant words and arbitrary characters, in any order.
fn hostile() -> impl Strategy<Value = String> {
    let words = prop::sample::select(vec![
        "password",
        "key",
        "=",
        ":",
        "\"",
        "\\\"",
        "Bearer ",
        "://",
        "@",
        "/",
        "-----BEGIN ",
        "-----END ",
        "-----",
        "eyJ",
        "code = ",
        "Internal",
        " ",
        "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVphYmNkZWZnaGlq",
        "…",
        "é",
        "\u{202e}",
    ]);
    prop::collection::vec(prop_oneof![words.prop_map(ToOwned::to_owned), "\\PC{0,80}", any::<String>()], 0..24)
        .prop_map(|parts| parts.concat())
}
