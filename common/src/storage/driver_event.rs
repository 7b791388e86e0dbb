//! Events about a claim: selects those of the components that provision it.
//!
//! Anyone who may create Events in a namespace may set all their fields. So an Event counts only for the claim that it names in full, and a
//! refusal learned from it never counts for another namespace (see [`refusals`](super::refusals)).

use k8s_openapi::api::core::v1::{Event, PersistentVolumeClaim};

/// Components that report about claims under a fixed name: the PersistentVolume controller and the expand controller of
/// kube-controller-manager (`pkg/controller/volume/persistentvolume`, `pkg/controller/volume/expand`).
const COMPONENTS: [&str; 2] = ["persistentvolume-controller", "volume_expand"];

/// The message of the newest warning about `claim`, whose volume `provisioner` creates.
pub fn newest_warning<'a>(
    events: impl IntoIterator<Item = &'a Event>,
    claim: &PersistentVolumeClaim,
    provisioner: &str,
) -> Option<String> {
    let about = events.into_iter().filter(|event| is_about(event, claim) && reported_by(event, provisioner));
    let newest = about.max_by_key(|e| e.last_timestamp.as_ref().map(|t| t.0).or(e.event_time.as_ref().map(|t| t.0)));
    newest.and_then(|event| event.message.clone())
}

/// True if the event is in the claim's namespace and its `involvedObject` has kind, namespace, name and UID of the claim.
fn is_about(event: &Event, claim: &PersistentVolumeClaim) -> bool {
    let (about, meta) = (&event.involved_object, &claim.metadata);
    about.kind.as_deref() == Some("PersistentVolumeClaim")
        && meta.uid.is_some()
        && about.uid == meta.uid
        && about.name == meta.name
        && about.namespace == meta.namespace
        && event.metadata.namespace == meta.namespace
}

/// True if the reporter is a component that handles claims of this provisioner. Reporter names: external-provisioner `<driver>_<identity>`
/// (sig-storage-lib-external-provisioner), external-resizer `external-resizer <driver>`.
fn reported_by(event: &Event, provisioner: &str) -> bool {
    let source = event.source.as_ref().and_then(|source| source.component.as_deref());
    let Some(component) = source.filter(|name| !name.is_empty()).or(event.reporting_component.as_deref()) else {
        return false;
    };
    let of_driver = |rest: Option<&str>| rest.is_some_and(|rest| !provisioner.is_empty() && rest == provisioner);
    COMPONENTS.contains(&component)
        || of_driver(component.split_once('_').map(|(driver, _)| driver))
        || of_driver(component.strip_prefix("external-resizer "))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;

    const DRIVER: &str = "csi.example.com";

    fn claim() -> PersistentVolumeClaim {
        serde_json::from_value(json!({"metadata": {"namespace": "n", "name": "c", "uid": "u"}})).unwrap()
    }

    fn event(change: impl FnOnce(&mut Value)) -> Event {
        let mut event = json!({
            "metadata": {"namespace": "n", "name": "e"}, "type": "Warning", "message": "no",
            "involvedObject": {"kind": "PersistentVolumeClaim", "namespace": "n", "name": "c", "uid": "u"},
            "source": {"component": format!("{DRIVER}_pod-0_0b5e")}, "lastTimestamp": "2026-01-01T00:00:00Z",
        });
        change(&mut event);
        serde_json::from_value(event).unwrap()
    }

    #[rstest]
    #[case::by_the_provisioner(|_: &mut Value| {}, true)]
    #[case::by_the_resizer(|e: &mut Value| e["source"]["component"] = json!(format!("external-resizer {DRIVER}")), true)]
    #[case::by_the_volume_controller(|e: &mut Value| e["source"]["component"] = json!("persistentvolume-controller"), true)]
    #[case::only_the_new_field(|e: &mut Value| { e["source"] = json!({}); e["reportingComponent"] = json!(format!("{DRIVER}_0")); }, true)]
    #[case::by_another_driver(|e: &mut Value| e["source"]["component"] = json!("other.example.com_0"), false)]
    #[case::by_a_user(|e: &mut Value| e["source"]["component"] = json!("kubectl"), false)]
    #[case::by_nobody(|e: &mut Value| e["source"] = json!({}), false)]
    #[case::in_another_namespace(|e: &mut Value| { e["metadata"]["namespace"] = json!("m"); e["involvedObject"]["namespace"] = json!("m"); }, false)]
    #[case::about_another_namespace(|e: &mut Value| e["involvedObject"]["namespace"] = json!("m"), false)]
    #[case::about_another_name(|e: &mut Value| e["involvedObject"]["name"] = json!("d"), false)]
    #[case::about_an_earlier_claim(|e: &mut Value| e["involvedObject"]["uid"] = json!("v"), false)]
    #[case::about_any_claim(|e: &mut Value| e["involvedObject"]["uid"] = json!(null), false)]
    #[case::about_another_kind(|e: &mut Value| e["involvedObject"]["kind"] = json!("Pod"), false)]
    fn counts(#[case] change: fn(&mut Value), #[case] expected: bool) {
        assert_eq!(newest_warning([&event(change)], &claim(), DRIVER).is_some(), expected);
    }

    #[test]
    fn the_newest_counts() {
        let at = |day: u8, text: &str| {
            event(|e| {
                e["lastTimestamp"] = json!(format!("2026-01-{day:02}T00:00:00Z"));
                e["message"] = json!(text);
            })
        };
        let events = [at(2, "b"), at(3, "c"), at(1, "a")];
        assert_eq!(newest_warning(&events, &claim(), DRIVER).as_deref(), Some("c"));
    }
}
