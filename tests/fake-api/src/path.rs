//! Paths of the API: `/api/v1/…` and `/apis/GROUP/VERSION/…`, with or without a namespace, a name and a subresource.

/// The path of a collection, of an object, or of a subresource of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path {
    /// `/api/v1` or `/apis/GROUP/VERSION`.
    api: String,
    /// The namespace, where the path has one.
    pub namespace: Option<String>,
    /// The plural of the kind.
    pub plural: String,
    /// The name; none for a collection.
    pub name: Option<String>,
    /// The subresource.
    pub subresource: Option<String>,
}

impl Path {
    /// Reads a path; nothing, if the API has no such path.
    pub fn parse(path: &str) -> Option<Self> {
        let segments: Vec<_> = path.trim_matches('/').split('/').collect();
        let (api, rest) = segments.split_at_checked(if segments[0] == "api" { 2 } else { 3 })?;
        // `/api/v1/namespaces/NAME/status` is a subresource of a namespace.
        let namespaced = rest.len() >= 3 && rest[0] == "namespaces" && rest[2] != "status";
        let (namespace, rest) = if namespaced { (Some(rest[1]), &rest[2..]) } else { (None, rest) };
        let text = |segment: Option<&&str>| segment.map(|text| (*text).to_owned());
        Some(Self {
            api: format!("/{}", api.join("/")),
            namespace: namespace.map(str::to_owned),
            plural: text(rest.first())?,
            name: text(rest.get(1)),
            subresource: text(rest.get(2)),
        })
    }

    /// The path of the object, without the subresource.
    pub fn object(&self) -> String {
        let namespace = self.namespace.as_ref().map(|namespace| format!("/namespaces/{namespace}")).unwrap_or_default();
        let name = self.name.as_ref().map(|name| format!("/{name}")).unwrap_or_default();
        format!("{}{namespace}/{}{name}", self.api, self.plural)
    }

    /// The path of the object `name` of this collection.
    pub fn with_name(&self, name: &str) -> Self {
        Self { name: Some(name.to_owned()), ..self.clone() }
    }

    /// True if the object at `path` is in this collection. A collection without a namespace holds the objects of all namespaces.
    pub fn contains(&self, path: &str) -> bool {
        Self::parse(path).is_some_and(|object| {
            object.api == self.api
                && object.plural == self.plural
                && (self.namespace.is_none() || object.namespace == self.namespace)
        })
    }
}
