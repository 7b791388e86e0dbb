//! The object `cdi` of the kind CDI: created with an empty spec where there is no CDI object and no CDI, because admins are told to patch
//! it.

use std::{sync::Arc, time::Duration};

use common::{
    api::{Cdi, CdiSpec},
    lookup::Lookup,
    mode::Mode,
};
use config::{api::Objects, shutdown::Shutdown};
use kube::api::ObjectMeta;
use tracing::info;

use crate::{
    context::Context,
    periodic::{self, RESYNC, RETRY_NOT_SYNCED, Trigger},
    write::{create_if_absent, is_forbidden},
};

/// Creates the object unless there is a CDI object or CDI itself. `trigger` is notified when a CDI object has changed, as when CDI is
/// removed.
pub async fn run(ctx: Arc<Context>, trigger: Trigger, shutdown: Shutdown) {
    periodic::run(trigger, shutdown, || {
        let ctx = Arc::clone(&ctx);
        async move { reconcile(&ctx).await }
    })
    .await;
}

/// Returns the time until the next run. A missing right is no failure, because the installation beside CDI does not have it.
async fn reconcile(ctx: &Context) -> Duration {
    periodic::again(attempt(ctx).await, "the CDI object could not be created")
}

async fn attempt(ctx: &Context) -> kube::Result<Duration> {
    match periodic::mode(ctx) {
        Lookup::Present(Mode::Alone) => {}
        Lookup::Present(_) | Lookup::Absent => return Ok(RESYNC),
        Lookup::Unknown(_) => return Ok(RETRY_NOT_SYNCED),
    }
    // An object of another name is as good: the settings of all are in force.
    if !ctx.caches.cdis.known_objects().is_empty() {
        return Ok(RESYNC);
    }
    let object = Cdi {
        metadata: ObjectMeta { name: Some("cdi".to_owned()), ..ObjectMeta::default() },
        spec: CdiSpec::default(),
        status: None,
    };
    match create_if_absent(&Objects::<Cdi>::all(ctx.client.clone()), &object).await {
        Ok(true) => info!("created the CDI object"),
        Ok(false) => {}
        Err(error) if is_forbidden(&error) => info!("the CDI object is left to CDI: no right to create it"),
        Err(error) => return Err(error),
    }
    Ok(RESYNC)
}

#[cfg(test)]
mod tests {
    use fake_api::FakeApi;
    use rstest::rstest;
    use serde_json::json;

    use super::*;
    use crate::fixture::{Fixture, answer, lines};

    const CDIS: &str = "/apis/cdi.kubevirt.io/v1beta1/cdis";

    fn cdi(api: &FakeApi, name: &str, version: Option<&str>) {
        let status = version.map(|version| json!({"operatorVersion": version}));
        api.put::<Cdi>(&json!({"metadata": {"name": name}, "spec": {}, "status": status}));
    }

    struct There {
        name: &'static str,
        version: Option<&'static str>,
    }

    /// The CDI object that exists, the code of the answer to the creation, if one is sent, and whether nothing is left to do.
    #[rstest]
    #[case::created(None, Some(201), true)]
    #[case::created_by_another(None, Some(409), true)]
    #[case::no_right(None, Some(403), true)]
    #[case::failed(None, Some(500), false)]
    #[case::kind_is_not_there_yet(None, Some(404), false)]
    #[case::no_connection(None, Some(0), false)]
    #[case::exists(Some(There { name: "cdi", version: None }), None, true)]
    #[case::of_another_name(Some(There { name: "hyperconverged", version: None }), None, true)]
    #[case::of_cdi(Some(There { name: "cdi-kubevirt-hyperconverged", version: Some("v1.66.0") }), None, true)]
    #[case::of_an_old_cdi(Some(There { name: "cdi", version: Some("v1.50.0") }), None, true)]
    #[tokio::test(start_paused = true)]
    async fn one_object_is_enough(#[case] there: Option<There>, #[case] code: Option<u16>, #[case] settled: bool) {
        let api = FakeApi::default();
        if let Some(there) = there {
            cdi(&api, there.name, there.version);
        }
        let fixture = Fixture::start(&api).await;
        if let Some(code) = code.filter(|code| *code != 201) {
            api.answer_next("POST", CDIS, answer(code));
        }
        assert_eq!(reconcile(fixture.context()).await == RESYNC, settled);
        let written: &[String] = &code.map(|_| format!("POST {CDIS}")).into_iter().collect::<Vec<_>>();
        assert_eq!(lines(&api.take_writes()), written);
    }
}
