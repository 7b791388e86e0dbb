//! The VolumePopulator of smartclone's kind `CloneRequest`: tells Kubernetes' data source validator, where it is installed, that claims of
//! this kind have a populator. Without it, that validator warns of every clone.

use std::time::Duration;

use common::{
    keys::{APP, APP_LABEL, CONTROLLER_MANAGER},
    rebind,
};
use config::shutdown::Shutdown;
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, GroupVersionKind, ObjectMeta, PostParams},
};
use serde_json::json;
use tracing::info;

use crate::{
    periodic::{self, RESYNC, Trigger},
    write::{is_conflict, is_forbidden, is_gone},
};

/// The API group of the kind, and of the right to create it.
pub const GROUP: &str = "populator.storage.k8s.io";

/// The name of the object.
const NAME: &str = "smartclone";

/// Creates the object where its kind is installed, which may be later.
pub async fn run(client: Client, shutdown: Shutdown) {
    periodic::run(Trigger::default(), shutdown, || {
        let client = client.clone();
        async move { reconcile(client).await }
    })
    .await;
}

/// Returns the time until the next attempt.
async fn reconcile(client: Client) -> Duration {
    let kind = ApiResource::from_gvk_with_plural(
        &GroupVersionKind::gvk(GROUP, "v1beta1", "VolumePopulator"),
        "volumepopulators",
    );
    let object = DynamicObject {
        types: Some(kube::api::TypeMeta { api_version: kind.api_version.clone(), kind: kind.kind.clone() }),
        metadata: ObjectMeta {
            name: Some(NAME.to_owned()),
            labels: Some([(APP_LABEL.to_owned(), APP.to_owned())].into()),
            ..ObjectMeta::default()
        },
        data: json!({"sourceKind": {"group": rebind::GROUP, "kind": rebind::CLONE_REQUEST}}),
    };
    let params = PostParams { field_manager: Some(CONTROLLER_MANAGER.to_owned()), ..PostParams::default() };
    let result = match Api::<DynamicObject>::all_with(client, &kind).create(&params, &object).await {
        Ok(_) => {
            info!("created the VolumePopulator");
            Ok(RESYNC)
        }
        // It exists, its kind does not, or the admin does not want it.
        Err(error) if is_conflict(&error) || is_gone(&error) || is_forbidden(&error) => Ok(RESYNC),
        Err(error) => Err(error),
    };
    periodic::again(result, "the VolumePopulator could not be created")
}

#[cfg(test)]
mod tests {
    use fake_api::FakeApi;
    use rstest::rstest;

    use super::*;
    use crate::fixture::{answer, lines};

    const PATH: &str = "/apis/populator.storage.k8s.io/v1beta1/volumepopulators";

    /// The code of the answer, and whether there is nothing to try again soon.
    #[rstest]
    #[case::created(None, true)]
    #[case::exists(Some(409), true)]
    #[case::no_such_kind(Some(404), true)]
    #[case::no_right(Some(403), true)]
    #[case::failed(Some(500), false)]
    #[case::no_connection(Some(0), false)]
    #[tokio::test(start_paused = true)]
    async fn it_is_created_where_its_kind_is(#[case] code: Option<u16>, #[case] settled: bool) {
        let api = FakeApi::default();
        if let Some(code) = code {
            api.answer_next("POST", PATH, answer(code));
        }
        assert_eq!(reconcile(api.client()).await == RESYNC, settled);
        assert_eq!(lines(&api.take_writes()), [format!("POST {PATH}")]);
        if code.is_none() {
            let made = api.get_at(&format!("{PATH}/{NAME}")).unwrap();
            assert_eq!(made["sourceKind"], json!({"group": "smartclone.dev", "kind": "CloneRequest"}));
        }
    }
}
