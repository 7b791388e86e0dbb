//! The labels about virtual machines that a clone inherits from its DataSource and its source.

use common::keys::{DEFAULT_INSTANCE_TYPE as TYPE, DEFAULT_PREFERENCE as PREFERENCE};

use super::{
    sources::{GOLD_IMAGE, IMAGE, OTHER, by_reference, by_reference_to_gold, data_source, from_gold, of_snapshot},
    *,
};
use crate::fake_cluster::{GET_DATA_SOURCES, GOLD_CLAIM};

/// The world with these labels on the object at this path.
fn labelled(world: World, path: &'static str, labels: &Value) -> World {
    world.changed(path, |object| object["metadata"]["labels"] = labels.clone())
}
fn source(world: World) -> World {
    labelled(world, SOURCE, &json!({TYPE: "u1", PREFERENCE: "fedora", "team": "x"}))
}
fn gold(world: World) -> World {
    labelled(world, GOLD_CLAIM, &json!({TYPE: "u1"}))
}
fn snapshot(world: World) -> World {
    labelled(world, SNAPSHOT, &json!({PREFERENCE: "fedora"}))
}
fn image(world: World) -> World {
    let world = source(world).object(IMAGE, data_source("pvc", "ns", "source"));
    labelled(world, IMAGE, &json!({TYPE: "u2"}))
}
fn bare_image(world: World) -> World {
    source(world).object(IMAGE, data_source("pvc", "ns", "source"))
}
fn image_of_image(world: World) -> World {
    let world = source(world).object(IMAGE, data_source("dataSource", "ns", "other"));
    labelled(world.object(OTHER, data_source("pvc", "ns", "source")), OTHER, &json!({TYPE: "u3"}))
}
fn gold_image(world: World) -> World {
    let world = gold(world).object(GOLD_IMAGE, data_source("pvc", "gold", "source"));
    labelled(world, GOLD_IMAGE, &json!({PREFERENCE: "rhel"}))
}
fn own_type(object: &mut Value) {
    object["metadata"]["labels"] = json!({TYPE: "mine"});
}
fn own_preference(object: &mut Value) {
    object["metadata"]["labels"] = json!({PREFERENCE: "mine", "a": "b"});
}
fn no_labels(object: &mut Value) {
    object["metadata"].as_object_mut().unwrap().remove("labels");
}

/// `null`: it is not admitted, and nothing is disclosed.
#[rstest]
#[case::nothing(as_is, usual, json!({"unknown/to-us": "kept"}))]
#[case::of_the_claim(as_is, source, json!({"unknown/to-us": "kept", TYPE: "u1", PREFERENCE: "fedora"}))]
#[case::without_labels(no_labels, source, json!({TYPE: "u1", PREFERENCE: "fedora"}))]
#[case::of_the_snapshot(of_snapshot, snapshot, json!({"unknown/to-us": "kept", PREFERENCE: "fedora"}))]
#[case::of_the_data_source(by_reference, image, json!({"unknown/to-us": "kept", TYPE: "u2"}))]
#[case::through_the_data_source(by_reference, bare_image, json!({"unknown/to-us": "kept", TYPE: "u1", PREFERENCE: "fedora"}))]
#[case::of_the_second_data_source(by_reference, image_of_image, json!({"unknown/to-us": "kept", TYPE: "u3"}))]
#[case::one_of_its_own(own_type, source, json!({TYPE: "mine"}))]
#[case::another_of_its_own(own_preference, source, json!({PREFERENCE: "mine", "a": "b"}))]
#[case::elsewhere(from_gold, |w: World| gold(w).allowing(&["datavolumes/source"]), json!({"unknown/to-us": "kept", TYPE: "u1"}))]
#[case::data_source_elsewhere(by_reference_to_gold, |w: World| gold_image(w).allowing(&[GET_DATA_SOURCES, "datavolumes/source"]), json!({"unknown/to-us": "kept", PREFERENCE: "rhel"}))]
#[case::without_a_right(from_gold, gold, Value::Null)]
#[case::without_a_right_to_the_data_source(by_reference_to_gold, gold_image, Value::Null)]
#[tokio::test]
async fn a_clone_inherits(#[case] change: Change, #[case] setup: Setup, #[case] expected: Value) {
    let webhook = setup(World::new()).webhook().await;
    let object = clone(change);
    let judged = webhook.mutate(&object).await;
    assert_eq!(judged.allowed, !expected.is_null(), "{judged:?}");
    if !judged.allowed {
        assert!(!format!("{judged:?}").contains("instancetype"), "{judged:?}");
        return;
    }
    let admitted = judged.on(&object);
    assert_eq!(admitted["metadata"]["labels"], expected);
    assert!(webhook.validate(&admitted).await.allowed);
    // Reinvoked, the webhook adds nothing.
    assert_eq!(webhook.mutate(&admitted).await.on(&admitted)["metadata"]["labels"], expected);
}

/// Both webhooks warn of a field without effect, and refuse one that can't be honoured.
#[rstest]
#[case::without_effect("preallocation", json!(true), None)]
#[case::refused("selector", json!({"matchLabels": {"tier": "a"}}), Some("spec.pvc.selector"))]
#[tokio::test]
async fn a_field_is_told_or_refused(#[case] field: &str, #[case] value: Value, #[case] refused: Option<&str>) {
    let webhook = World::new().webhook().await;
    let mut object = clone(as_is);
    let place = if refused.is_some() { &mut object["spec"]["pvc"] } else { &mut object["spec"] };
    place[field] = value;
    let judged = webhook.mutate(&object).await;
    assert_eq!(judged.allowed, refused.is_none());
    match refused {
        Some(path) => assert_eq!(judged.fields(), [path]),
        None => assert!(judged.warnings.iter().any(|line| line.contains("spec.preallocation")), "{judged:?}"),
    }
    assert_eq!(webhook.validate(&judged.on(&object)).await.allowed, refused.is_none());
}
