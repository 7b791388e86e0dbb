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
use tracing::{info, warn};

use crate::{
    context::Context,
    periodic::{self, RETRY_NOT_SYNCED},
    write::{create_if_absent, is_forbidden},
};

/// The result of one attempt.
#[derive(Debug, PartialEq, Eq)]
enum Attempt {
    /// Nothing is left to do.
    Settled,
    /// The caches are not synced yet.
    NotSynced,
}

/// Creates the object unless there is a CDI object or CDI itself. After a failure it tries again after 1 s, doubled up to 1 min; a missing
/// right is none, because the installation beside CDI does not have it.
pub async fn run(ctx: Arc<Context>, shutdown: Shutdown) {
    let mut delay = Duration::from_secs(1);
    loop {
        let wait = match attempt(&ctx).await {
            Ok(Attempt::Settled) => break,
            Ok(Attempt::NotSynced) => RETRY_NOT_SYNCED,
            Err(error) => {
                warn!(error = %config::Chain(&error), "the CDI object could not be created");
                let wait = delay;
                delay = (delay * 2).min(Duration::from_mins(1));
                wait
            }
        };
        tokio::select! {
            () = shutdown.draining() => return,
            () = tokio::time::sleep(wait) => {}
        }
    }
    shutdown.draining().await;
}

async fn attempt(ctx: &Context) -> kube::Result<Attempt> {
    match periodic::mode(ctx) {
        Lookup::Present(Mode::Alone) => {}
        Lookup::Present(_) | Lookup::Absent => return Ok(Attempt::Settled),
        Lookup::Unknown(_) => return Ok(Attempt::NotSynced),
    }
    // An object of another name is as good: the settings of all are in force.
    if !ctx.caches.cdis.known_objects().is_empty() {
        return Ok(Attempt::Settled);
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
    Ok(Attempt::Settled)
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

    /// The CDI object that exists, the code of the answer to the creation, if one is sent, and whether the attempt is the last one.
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
        assert_eq!(attempt(fixture.context()).await.ok() == Some(Attempt::Settled), settled);
        let written: &[String] = &code.map(|_| format!("POST {CDIS}")).into_iter().collect::<Vec<_>>();
        assert_eq!(lines(&api.take_writes()), written);
    }
}
