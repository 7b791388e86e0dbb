//! The labels that a DataVolume inherits when the controller decides its clone. The webhook writes them when it decides.

use common::{
    clone::{facts::Source, observed::Target},
    lookup::Lookup,
    machine_defaults::{self, Labels},
    object::{ObjectName, TargetKind},
};

use super::Reconciler;

/// The labels that `target` inherits: from the DataSource that it references, from the one that this references, and from its source. Only
/// for a clone whose requester may read all of them, in a pass that follows them.
pub fn labels(
    target: &Target,
    reference: Option<&ObjectName>,
    source: Option<&Lookup<Source>>,
    ctx: &Reconciler,
) -> Labels {
    let source = source.and_then(Lookup::present);
    // A decided clone has inherited the labels already. A label that its user has removed since stays removed.
    let Some(source) = source.filter(|_| target.kind == TargetKind::DataVolume && target.history.pinned.is_none())
    else {
        return Labels::new();
    };
    let data_source = |name: &ObjectName| {
        let found = ctx.context.caches.data_sources.get(Some(&name.namespace), &name.name);
        found.present().map(|found| (machine_defaults::of(&found.metadata), found.spec.source.data_source.clone()))
    };
    let mut all = Vec::new();
    if let Some((named, other)) = reference.and_then(data_source) {
        all.push(named);
        let other = other.zip(reference).map(|(other, named)| ObjectName { name: other.name, ..named.clone() });
        all.extend(other.as_ref().and_then(data_source).map(|(labels, _)| labels));
    }
    all.push(source.machine_defaults.clone());
    machine_defaults::inherited(Some(&target.labels), &all)
}

#[cfg(test)]
mod tests {
    use common::{
        api::{DataSource, DataVolume},
        keys::{self, DEFAULT_INSTANCE_TYPE as TYPE},
    };
    use fake_api::FakeApi;
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;
    use crate::fixture::Fixture;

    fn decided(volume: &mut Value) {
        volume["metadata"]["annotations"] = json!({
            (keys::PLAN): r#"{"chosenBy": "Default", "strategy": "snapshot"}"#,
        });
    }
    fn named(volume: &mut Value) {
        volume["metadata"]["labels"] = json!({(keys::DEFAULT_PREFERENCE): "mine"});
    }
    fn as_is(_: &mut Value) {}

    /// The labels of the DataSources `first` (which references `second`) and `second`, and true if the source is known.
    #[rstest]
    #[case::of_the_source(as_is, None, None, true, Some("source"))]
    #[case::of_the_data_source(as_is, Some("first"), Some("second"), true, Some("first"))]
    #[case::of_the_second_data_source(as_is, None, Some("second"), true, Some("second"))]
    #[case::one_of_its_own(named, Some("first"), None, true, None)]
    #[case::decided_before(decided, Some("first"), None, true, None)]
    #[case::of_an_unknown_source(as_is, Some("first"), None, false, None)]
    #[tokio::test(start_paused = true)]
    async fn a_clone_inherits(
        #[case] change: fn(&mut Value),
        #[case] first: Option<&str>,
        #[case] second: Option<&str>,
        #[case] known: bool,
        #[case] expected: Option<&str>,
    ) {
        let api = FakeApi::default();
        let other = json!({"dataSource": {"namespace": "gold", "name": "second"}});
        let claim = json!({"pvc": {"namespace": "gold", "name": "disk"}});
        for (name, label, source) in [("first", first, other), ("second", second, claim)] {
            let labels = label.map_or(json!({}), |label| json!({ TYPE: label }));
            let metadata = json!({"namespace": "gold", "name": name, "labels": labels});
            api.put::<DataSource>(&json!({"metadata": metadata, "spec": {"source": source}}));
        }
        let fixture = Fixture::start(&api).await;
        let mut volume = json!({
            "apiVersion": "cdi.kubevirt.io/v1beta1", "kind": "DataVolume",
            "metadata": {"namespace": "ns", "name": "clone", "uid": "1"}, "spec": {},
        });
        change(&mut volume);
        let volume: DataVolume = serde_json::from_value(volume).unwrap();
        let claim = json!({"metadata": {"labels": {TYPE: "source", "team": "x"}}, "spec": {}});
        let source = Source::of(&serde_json::from_value(claim).unwrap(), None, Lookup::Absent);
        let source = if known { Lookup::Present(source) } else { Lookup::Unknown("not yet".into()) };
        let reference = ObjectName { namespace: "gold".into(), name: "first".into() };
        let mut target = Target::of(&volume);
        let found = labels(&target, Some(&reference), Some(&source), &fixture.reconciler);
        assert_eq!(found.get(TYPE).map(String::as_str), expected);
        // A claim is its user's own object, and not one that is made for a machine.
        target.kind = TargetKind::Claim;
        assert!(labels(&target, Some(&reference), Some(&source), &fixture.reconciler).is_empty());
    }
}
