//! Admission of ObjectTransfers: rejects those that can never succeed. The controller waits for those that may.

use common::{
    api::{DataVolume, ObjectTransfer},
    field::FieldError,
    lookup::Lookup,
    object::ObjectName,
    object_transfer::{Move, Moved, changes, parse},
};
use json_patch::Patch;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;

use crate::{
    gather::{Stop, cluster::Cluster},
    object::{is_ending, read},
    review::{Answer, Operation, Request},
};

/// Checks a new or changed ObjectTransfer.
pub async fn validate(review: &Request, cluster: &Cluster) -> Result<Answer, Stop> {
    if !review.sub_resource.is_empty() {
        return Ok(Answer::untouched());
    }
    let answer = match review.operation {
        Operation::Create => validate_creation(review, cluster).await,
        Operation::Update => validate_update(review),
        Operation::Delete | Operation::Connect => Answer::untouched(),
    };
    if answer == Answer::untouched() {
        return Ok(answer);
    }
    if cluster.settings()?.is_beside_cdi {
        // CDI's controller serves it.
        return Err(Stop::ForeignOperator);
    }
    Ok(answer)
}

async fn validate_creation(review: &Request, cluster: &Cluster) -> Answer {
    let read = read(&review.object, review).map_err(|error| vec![error]);
    let wanted = match read.and_then(|transfer: Box<ObjectTransfer>| parse(&transfer.spec)) {
        Ok(wanted) => wanted,
        Err(errors) => return Answer::Invalid(errors),
    };
    let Move { kind, source, target, .. } = &wanted;
    let (claim, volume, old_claim, old_volume) = tokio::join!(
        cluster.object::<PersistentVolumeClaim>(target),
        cluster.object::<DataVolume>(target),
        cluster.object::<PersistentVolumeClaim>(source),
        cluster.object::<DataVolume>(source),
    );
    let mut errors = Vec::new();
    let mut warnings = Vec::new();
    free(&claim, "PersistentVolumeClaim", target, &mut errors, &mut warnings);
    free(&volume, "DataVolume", target, &mut errors, &mut warnings);
    let missing = match kind {
        Moved::Claim => matches!(old_claim, Lookup::Absent),
        Moved::DataVolume => matches!(old_volume, Lookup::Absent),
    };
    if missing {
        let kind = kind.as_str();
        warnings
            .push(format!("smartclone: the {kind} {source} does not exist yet; the transfer begins when it appears"));
    }
    if let (Moved::Claim, Lookup::Present(_)) = (kind, &old_volume) {
        errors.push(FieldError::invalid(
            "spec.source.kind",
            kind.as_str(),
            format!("PersistentVolumeClaim {source} belongs to a DataVolume of that name; move that one, with kind DataVolume"),
        ));
    }
    if errors.is_empty() { Answer::Allowed { patch: Patch::default(), warnings } } else { Answer::Invalid(errors) }
}

/// Checks that the name at the target is free. The controller checks again, and waits.
fn free<K>(
    there: &Lookup<K>,
    kind: &str,
    target: &ObjectName,
    errors: &mut Vec<FieldError>,
    warnings: &mut Vec<String>,
) {
    match there {
        Lookup::Absent => {}
        Lookup::Present(_) => errors.push(FieldError::invalid(
            "spec.target",
            &target.to_string(),
            format!("there is a {kind} of that name; name another target, or delete that one"),
        )),
        Lookup::Unknown(why) => {
            warnings.push(format!("smartclone: whether there is a {kind} {target} already could not be told: {why}"));
        }
    }
}

fn validate_update(review: &Request) -> Answer {
    if is_ending(&review.object) {
        return Answer::untouched();
    }
    match (read::<ObjectTransfer>(&review.old_object, review), read::<ObjectTransfer>(&review.object, review)) {
        (Ok(old), Ok(new)) => {
            let errors = changes(&old.spec, &new.spec);
            if errors.is_empty() { Answer::untouched() } else { Answer::Forbidden(errors) }
        }
        (_, Err(error)) | (Err(error), Ok(_)) => Answer::Invalid(vec![error]),
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::{Value, json};

    use crate::{
        fake_cluster::{CDIS, World},
        manifests::TRANSFER_PATH,
    };

    const CLAIM: &str = "/api/v1/namespaces/there/persistentvolumeclaims/source";
    const DATA_VOLUME: &str = "/apis/cdi.kubevirt.io/v1beta1/namespaces/there/datavolumes/source";
    const OWNER: &str = "/apis/cdi.kubevirt.io/v1beta1/namespaces/ns/datavolumes/source";

    fn spec(kind: &str, target: &Value) -> Value {
        json!({"source": {"kind": kind, "namespace": "ns", "name": "source"}, "target": target})
    }

    fn review(spec: &Value, old: Option<&Value>) -> Value {
        let object = |spec: &Value| json!({"apiVersion": "cdi.kubevirt.io/v1beta1", "kind": "ObjectTransfer", "metadata": {"name": "move"}, "spec": spec});
        json!({
            "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
            "request": {
                "uid": "review-uid",
                "kind": {"group": "cdi.kubevirt.io", "version": "v1beta1", "kind": "ObjectTransfer"},
                "name": "move", "operation": if old.is_some() { "UPDATE" } else { "CREATE" },
                "userInfo": {"username": "alice"}, "object": object(spec), "oldObject": old.map(object),
            },
        })
    }

    fn taken(world: World) -> World {
        let meta = json!({"metadata": {"name": "source", "namespace": "there"}, "spec": {}});
        world.object(CLAIM, meta.clone()).object(DATA_VOLUME, meta)
    }

    #[rstest]
    #[case::elsewhere(spec("PersistentVolumeClaim", &json!({"namespace": "there"})), |w: World| w, &[], "")]
    #[case::nowhere(spec("PersistentVolumeClaim", &json!({})), |w: World| w, &["spec.target"], "another namespace")]
    #[case::where_it_is(spec("PersistentVolumeClaim", &json!({"name": "source"})), |w: World| w, &["spec.target"], "there already")]
    #[case::a_pod(spec("Pod", &json!({})), |w: World| w, &["spec.source.kind", "spec.target"], "DataVolume")]
    #[case::no_kind(json!({"source": {"namespace": "ns", "name": "x"}, "target": {}}), |w: World| w, &["spec.source"], "kind")]
    #[case::taken(
        spec("PersistentVolumeClaim", &json!({"namespace": "there"})), taken, &["spec.target", "spec.target"], "delete that one"
    )]
    #[case::owned(
        spec("PersistentVolumeClaim", &json!({"namespace": "there"})),
        |w: World| w.object(OWNER, json!({"metadata": {"name": "source", "namespace": "ns"}, "spec": {}})),
        &["spec.source.kind"],
        "move that one"
    )]
    #[case::under_cdi(
        spec("Pod", &json!({})),
        |w: World| w.list(CDIS, &[json!({"metadata": {"name": "cdi"}, "spec": {}, "status": {"operatorVersion": "1.60"}})]),
        &[],
        ""
    )]
    #[tokio::test]
    async fn creations(
        #[case] spec: Value,
        #[case] setup: fn(World) -> World,
        #[case] fields: &[&str],
        #[case] words: &str,
    ) {
        let webhook = setup(World::new()).webhook().await;
        let judged = webhook.judged(TRANSFER_PATH, &review(&spec, None)).await;
        assert_eq!((judged.allowed, judged.fields()), (fields.is_empty(), fields.to_vec()), "{judged:?}");
        assert!(judged.message().contains(words), "{}", judged.message());
    }

    #[tokio::test]
    async fn a_source_to_come_is_warned_of() {
        let webhook = World::new().webhook().await;
        let judged =
            webhook.judged(TRANSFER_PATH, &review(&spec("DataVolume", &json!({"namespace": "there"})), None)).await;
        assert!(judged.allowed && judged.warnings[0].contains("does not exist yet"), "{judged:?}");
    }

    #[tokio::test]
    async fn the_spec_stays() {
        let webhook = World::new().webhook().await;
        let (here, there) = (spec("DataVolume", &json!({"name": "a"})), spec("DataVolume", &json!({"name": "b"})));
        assert!(webhook.judged(TRANSFER_PATH, &review(&here, Some(&here))).await.allowed);
        let judged = webhook.judged(TRANSFER_PATH, &review(&there, Some(&here))).await;
        assert_eq!((judged.allowed, judged.fields()), (false, vec!["spec"]));
    }
}
