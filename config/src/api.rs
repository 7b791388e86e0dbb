//! Single requests to the API server: the only place where URL paths are built and answers are decoded.
//!
//! kube's `Api` puts a name into the path unescaped. It fails with the whole list, or with a write that succeeded, when one object of the
//! answer can't be decoded. Users control both names and objects. Here an invalid name or namespace never becomes a path, and answers are
//! decoded object by object; see [`common::decode`].

use std::{fmt, marker::PhantomData};

use common::{
    decode::{Decoded, Unreadable},
    field::NameRule,
};
use http::Request as HttpRequest;
use k8s_openapi::{
    ClusterResourceScope, NamespaceResourceScope,
    apimachinery::pkg::apis::meta::v1::{ListMeta, ObjectMeta},
};
use kube::{
    Client, Error, Resource,
    api::{DeleteParams, GetParams, ListParams, Patch, PatchParams, PostParams, Request},
    core::{PartialObjectMeta, request},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned, de::Error as _};
use tracing::warn;

use crate::metrics;

/// The objects of one kind in one namespace, or in the cluster for a kind without namespaces.
pub struct Objects<K> {
    client: Client,
    /// `None` if the name of the namespace is invalid.
    place: Option<Request>,
    kind: PhantomData<fn() -> K>,
}

/// The contents of a list.
#[derive(Debug)]
pub struct Listed<K> {
    /// The objects that can be read.
    pub items: Vec<K>,
    /// The objects that exist and can't be read.
    pub unreadable: Vec<Unreadable>,
}

/// The list as the API server sends it.
#[derive(Deserialize)]
#[serde(bound = "K: DeserializeOwned")]
struct Page<K> {
    #[serde(default)]
    metadata: ListMeta,
    items: Option<Vec<Decoded<K>>>,
}

impl<K: Resource<DynamicType = (), Scope = ClusterResourceScope>> Objects<K> {
    /// All objects in the cluster.
    pub fn all(client: Client) -> Self {
        Self { client, place: Some(Request::new(K::url_path(&(), None))), kind: PhantomData }
    }
}

impl<K: Resource<DynamicType = (), Scope = NamespaceResourceScope>> Objects<K> {
    /// The objects of a namespace. There are none if the name of the namespace is invalid.
    pub fn namespaced(client: Client, namespace: &str) -> Self {
        let place = NameRule::Label.permits(namespace).then(|| Request::new(K::url_path(&(), Some(namespace))));
        Self { client, place, kind: PhantomData }
    }
}

impl<K: Resource<DynamicType = ()> + DeserializeOwned> Objects<K> {
    /// The current object of this name, if there is one.
    pub async fn get_opt(&self, name: &str) -> kube::Result<Option<K>> {
        self.get_with(name, &GetParams::default()).await
    }

    /// The object of this name from the API server's cache: faster, and possibly older than the last write.
    pub async fn get_cached_opt(&self, name: &str) -> kube::Result<Option<K>> {
        self.get_with(name, &GetParams::any()).await
    }

    async fn get_with(&self, name: &str, params: &GetParams) -> kube::Result<Option<K>> {
        let Some(place) = self.place_of(name) else { return Ok(None) };
        let text = self.send(place.get(name, params)).await;
        let Some(text) = found(text)? else { return Ok(None) };
        Decoded::from_json(&text).0.map(Some).map_err(|unreadable| {
            report::<K>(&unreadable);
            unread::<K>(name)
        })
    }

    /// The metadata of the object of this name, which can be decoded whatever the rest of the object is.
    pub async fn metadata(&self, name: &str) -> kube::Result<Option<ObjectMeta>> {
        let Some(place) = self.place_of(name) else { return Ok(None) };
        let text = self.send(place.get_metadata(name, &GetParams::default())).await;
        let Some(text) = found(text)? else { return Ok(None) };
        let mut object: Decoded<PartialObjectMeta<K>> = Decoded::from_json(&text);
        Ok(Some(std::mem::take(object.meta_mut())))
    }

    /// All objects.
    pub async fn list(&self) -> kube::Result<Listed<K>> {
        let mut params = ListParams::default();
        let mut listed = Listed { items: Vec::new(), unreadable: Vec::new() };
        loop {
            let next = self.list_page(&params, &mut listed).await?;
            match next {
                Some(token) => params.continue_token = Some(token),
                None => return Ok(listed),
            }
        }
    }

    /// The first objects, at most `limit`.
    pub async fn list_first(&self, limit: u32) -> kube::Result<Listed<K>> {
        let mut listed = Listed { items: Vec::new(), unreadable: Vec::new() };
        self.list_page(&ListParams::default().limit(limit), &mut listed).await?;
        Ok(listed)
    }

    /// Adds a page; returns the token of the next one.
    async fn list_page(&self, params: &ListParams, listed: &mut Listed<K>) -> kube::Result<Option<String>> {
        let Some(place) = &self.place else { return Ok(None) };
        let text = self.send(place.list(params)).await?;
        let page: Page<K> = serde_json::from_str(&text).map_err(Error::SerdeError)?;
        for item in page.items.unwrap_or_default() {
            match item.0 {
                Ok(item) => listed.items.push(item),
                Err(unreadable) => {
                    report::<K>(&unreadable);
                    listed.unreadable.push(unreadable);
                }
            }
        }
        Ok(page.metadata.continue_.filter(|token| !token.is_empty()))
    }

    /// Creates an object. An answer that can't be decoded is not a failure of the write, here and below.
    pub async fn create(&self, params: &PostParams, object: &K) -> kube::Result<Decoded<K>>
    where
        K: Serialize,
    {
        let body = serde_json::to_vec(object).map_err(Error::SerdeError)?;
        let place = self.place.as_ref().ok_or_else(impossible)?;
        self.write(place.create(params, body)).await
    }

    /// Patches an object.
    pub async fn patch<P: Serialize + fmt::Debug>(
        &self,
        name: &str,
        params: &PatchParams,
        patch: &Patch<P>,
    ) -> kube::Result<Decoded<K>> {
        self.write(self.place_of(name).ok_or_else(impossible)?.patch(name, params, patch)).await
    }

    /// Replaces the status of an object.
    pub async fn replace_status(&self, name: &str, params: &PostParams, object: &K) -> kube::Result<Decoded<K>>
    where
        K: Serialize,
    {
        let body = serde_json::to_vec(object).map_err(Error::SerdeError)?;
        let place = self.place_of(name).ok_or_else(impossible)?;
        self.write(place.replace_subresource("status", name, params, body)).await
    }

    /// Deletes an object.
    pub async fn delete(&self, name: &str, params: &DeleteParams) -> kube::Result<()> {
        self.send(self.place_of(name).ok_or_else(impossible)?.delete(name, params)).await.map(drop)
    }

    async fn write(&self, request: Result<HttpRequest<Vec<u8>>, request::Error>) -> kube::Result<Decoded<K>> {
        self.send(request).await.map(|text| Decoded::from_json(&text))
    }

    /// The answer as text: kube's own decoding would log the text if it fails.
    async fn send(&self, request: Result<HttpRequest<Vec<u8>>, request::Error>) -> kube::Result<String> {
        self.client.request_text(request.map_err(Error::BuildRequest)?).await
    }

    fn place_of(&self, name: &str) -> Option<&Request> {
        self.place.as_ref().filter(|_| NameRule::Subdomain.permits(name))
    }
}

/// The text of the answer; `None` if there is no such object.
fn found(text: kube::Result<String>) -> kube::Result<Option<String>> {
    match text {
        Err(Error::Api(status)) if status.is_not_found() => Ok(None),
        text => text.map(Some),
    }
}

fn impossible() -> Error {
    Error::BuildRequest(request::Error::Validation("no object can have this name and namespace".to_owned()))
}

/// The error may be shown to a user who may not read the object, so it discloses nothing of the content.
fn unread<K: Resource<DynamicType = ()>>(name: &str) -> Error {
    let text = format!("{} {name} exists and can't be read; see smartclone's log", K::kind(&()));
    Error::SerdeError(serde_json::Error::custom(text))
}

/// Logs and counts an unreadable object.
pub(crate) fn report<K: Resource<DynamicType = ()>>(unreadable: &Unreadable) {
    let ObjectMeta { namespace, name, .. } = &*unreadable.metadata;
    let kind = K::kind(&());
    warn!(kind = %kind, namespace, name, error = %unreadable, "an object can't be read and is left out");
    metrics::count_unreadable(&kind);
}

#[cfg(test)]
mod tests {
    use std::{
        convert::Infallible,
        sync::{Arc, Mutex},
    };

    use common::lookup::Lookup;
    use http::Response;
    use k8s_openapi::api::{core::v1::ConfigMap, storage::v1::StorageClass};
    use kube::{ResourceExt, client::Body};
    use proptest::prelude::*;
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;
    use crate::cache::{ask, ask_all, ask_cached};

    /// Answers every request with `answer` and records the paths with their queries.
    fn api_server(answer: &str) -> (Client, Arc<Mutex<Vec<String>>>) {
        let (answer, paths) = (answer.to_owned(), Arc::new(Mutex::new(Vec::new())));
        let asked = Arc::clone(&paths);
        let service = tower::service_fn(move |request: HttpRequest<Body>| {
            asked.lock().unwrap().push(request.uri().to_string());
            let answer = Response::new(Body::from(answer.clone().into_bytes()));
            async move { Ok::<_, Infallible>(answer) }
        });
        (Client::new(service, "default"), paths)
    }

    /// Sends every request that takes a namespace or a name.
    async fn ask_everything(client: &Client, namespace: &str, name: &str) {
        let maps = Objects::<ConfigMap>::namespaced(client.clone(), namespace);
        let classes = Objects::<StorageClass>::all(client.clone());
        let (patch, map) = (Patch::Merge(json!({})), ConfigMap::default());
        let (post, change, delete) = (PostParams::default(), PatchParams::default(), DeleteParams::default());
        let _ = tokio::join!(
            maps.get_opt(name),
            maps.get_cached_opt(name),
            maps.metadata(name),
            maps.list(),
            maps.create(&post, &map),
            maps.patch(name, &change, &patch),
            maps.replace_status(name, &post, &map),
            maps.delete(name, &delete),
            classes.get_opt(name),
            classes.patch(name, &change, &patch),
        );
    }

    fn paths_of(namespace: &str, name: &str) -> Vec<String> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            // A client works in the runtime in which it was created only.
            let (client, paths) = api_server("{}");
            Box::pin(ask_everything(&client, namespace, name)).await;
            paths.lock().unwrap().clone()
        })
    }

    fn expected(namespace: &str, name: &str) -> Vec<String> {
        let maps = format!("/api/v1/namespaces/{namespace}/configmaps");
        let class = format!("/apis/storage.k8s.io/v1/storageclasses/{name}");
        let mut paths = Vec::new();
        if NameRule::Label.permits(namespace) {
            paths.extend([format!("{maps}?"), format!("{maps}?")]);
            if NameRule::Subdomain.permits(name) {
                let map = format!("{maps}/{name}");
                paths.extend([map.clone(), format!("{map}?&resourceVersion=0"), map.clone()]);
                paths.extend([format!("{map}?"), format!("{map}/status?"), format!("{map}?")]);
            }
        }
        if NameRule::Subdomain.permits(name) {
            paths.extend([class.clone(), format!("{class}?")]);
        }
        paths.sort();
        paths
    }

    proptest! {
        /// Whatever is given as a name, the path has the expected number of segments, or no request is sent.
        #[test]
        fn a_name_is_one_segment_of_a_path(
            namespace in "([a-z0-9]{1,5}|[a-z0-9./%?#&=:;\\\\ ä-]{0,12}|.{0,6})",
            name in "([a-z0-9.-]{1,5}|[a-z0-9./%?#&=:;\\\\ ä-]{0,12}|.{0,6})",
        ) {
            let mut paths = paths_of(&namespace, &name);
            paths.sort();
            prop_assert_eq!(&paths, &expected(&namespace, &name));
        }
    }

    #[rstest]
    #[case::none("")]
    #[case::here(".")]
    #[case::parent("..")]
    #[case::parents("../../secrets/x")]
    #[case::path("a/b")]
    #[case::query("a?watch=true")]
    #[case::fragment("a#b")]
    #[case::encoded("%2e%2e")]
    #[case::encoded_slash("a%2fb")]
    #[case::control("a\0")]
    #[case::upper_case("A")]
    #[case::letters_of_others("ä")]
    #[case::too_long(&"a".repeat(254))]
    #[tokio::test]
    async fn what_is_no_name_is_absent_and_never_asked_for(#[case] text: &str) {
        let (client, paths) = api_server("{}");
        Box::pin(ask_everything(&client, text, text)).await;
        for maps in [Objects::<ConfigMap>::namespaced(client.clone(), text), Objects::namespaced(client.clone(), "n")] {
            assert_eq!(ask(&maps, text).await, Lookup::Absent);
            assert_eq!(ask_cached(&maps, text).await, Lookup::Absent);
        }
        assert_eq!(*paths.lock().unwrap(), Vec::<String>::new());
    }

    const ODD: &str = r#"{"metadata": {"name": "odd", "resourceVersion": "7", "uid": "u"}, "data": ["no map"]}"#;

    #[tokio::test]
    async fn an_object_that_cannot_be_read_is_not_absent() {
        let maps = Objects::<ConfigMap>::namespaced(api_server(ODD).0, "n");
        let Lookup::Unknown(why) = ask(&maps, "odd").await else { panic!("it is told as known") };
        assert!(why.contains("exists and can't be read") && !why.contains("no map"), "{why}");
        assert_eq!(maps.metadata("odd").await.unwrap().unwrap().uid.as_deref(), Some("u"));
    }

    #[rstest]
    #[case::odd(ODD, Some("7"))]
    #[case::no_object("[]", None)]
    #[case::no_json("<html>", None)]
    #[case::nothing("", None)]
    #[tokio::test]
    async fn a_write_has_succeeded_whatever_its_answer_looks_like(#[case] answer: &str, #[case] version: Option<&str>) {
        let maps = Objects::<ConfigMap>::namespaced(api_server(answer).0, "n");
        let patched = maps.patch("odd", &PatchParams::default(), &Patch::Merge(json!({}))).await.unwrap();
        assert_eq!(patched.resource_version().as_deref(), version);
        let map = ConfigMap::default();
        maps.create(&PostParams::default(), &map).await.unwrap();
        maps.replace_status("odd", &PostParams::default(), &map).await.unwrap();
        maps.delete("odd", &DeleteParams::default()).await.unwrap();
    }

    #[tokio::test]
    async fn one_odd_object_is_left_out_of_a_list() {
        let class = |name: &str| json!({"metadata": {"name": name}, "provisioner": "p"});
        let odd = json!({"metadata": {"name": "odd"}, "provisioner": 1});
        let answer: Value = json!({"metadata": {}, "items": [class("a"), odd, class("b")]});
        let classes = Objects::<StorageClass>::all(api_server(&answer.to_string()).0);
        let listed = classes.list().await.unwrap();
        assert_eq!(listed.items.iter().map(ResourceExt::name_any).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(listed.unreadable[0].metadata.name.as_deref(), Some("odd"));
        let Lookup::Present(all) = ask_all(classes).await else { panic!("the list failed") };
        assert_eq!(all.len(), 2);
    }
}
