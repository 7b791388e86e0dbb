//! The request of a DataVolume: parsed once, with all errors reported together; later code does not read the raw object.

mod claim_form;
mod options;

use std::time::Duration;

use self::{claim_form::ClaimForm, options::Options};
use super::note::PlanNote;

use crate::{
    api::{CloneStrategy, DataVolume, Phase},
    effect,
    field::{FieldError, Kind, NameRule},
    keys,
    object::{self, ContentType, ObjectName, SourceKind, SourceName, TargetKind, VolumeMode},
    quantity::Bytes,
};

/// The handling of pods that may write to the source (`smartclone.dev/consistency`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Consistency {
    /// Wait until no pod can write.
    #[default]
    Offline,
    /// Take the snapshot now; the clone is as after a power failure.
    CrashConsistent,
}

/// A parsed request for a clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The target: name and namespace of the DataVolume.
    pub target: ObjectName,
    /// The kind of the target.
    pub made_for: TargetKind,
    /// The source, all references resolved.
    pub source: SourceName,
    /// True if a DataSource names the source.
    pub by_reference: bool,
    /// The form of the target, `spec.pvc` or `spec.storage`; determines the path of errors, and the defaults.
    pub form: Form,
    /// The requested size, if any.
    pub size: Option<Bytes>,
    /// The maximum size, if any.
    pub limit: Option<Bytes>,
    /// The requested StorageClass, if any; an empty name is kept (it means "no class").
    pub storage_class: Option<String>,
    /// The requested VolumeAttributesClass, if any.
    pub attributes_class: Option<String>,
    /// The requested volume mode, if any.
    pub volume_mode: Option<VolumeMode>,
    /// The requested access modes, possibly none.
    pub access_modes: Vec<String>,
    /// The strategy that the requester asked for (`cdi.kubevirt.io/cloneType` at creation).
    pub wish: Option<CloneStrategy>,
    /// True if a more expensive strategy than the wanted one is acceptable (`smartclone.dev/fallback`).
    pub fallback_allowed: bool,
    /// See [`Consistency`].
    pub consistency: Consistency,
    /// See [`ContentType`].
    pub content: ContentType,
    /// True if owners of files must be preserved, for which the copying pod runs as root (`smartclone.dev/file-owners: Keep`).
    pub keep_owners: bool,
    /// True if the volume is requested at once, even if the StorageClass waits for a first consumer.
    pub immediate: bool,
    /// The requester's time limit for one strategy, if any (`smartclone.dev/deadline`).
    pub deadline: Option<Duration>,
    /// True if the claim of this name is populated already, for example by a backup; it is adopted and nothing is copied.
    pub pre_populated: bool,
}

impl Request {
    /// True if the source is in another namespace than the clone.
    pub fn crosses(&self) -> bool {
        self.source.object.namespace != self.target.namespace
    }
}

/// The form in which the target is described.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// `spec.pvc`: used as it is; a missing value is an error.
    Pvc,
    /// `spec.storage`: a missing value is taken from the source.
    Storage,
}

impl Form {
    /// The field's path.
    pub fn path(self) -> &'static str {
        match self {
            Self::Pvc => "spec.pvc",
            Self::Storage => "spec.storage",
        }
    }

    /// The path of the size.
    pub fn size_path(self) -> String {
        format!("{}.resources.requests.storage", self.path())
    }

    /// The path of the maximum size.
    pub fn limit_path(self) -> String {
        format!("{}.resources.limits.storage", self.path())
    }
}

/// The kind of DataVolume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Parsed {
    /// A clone.
    Clone(Box<Request>),
    /// A clone of the source of this DataSource, which must be looked up: see [`Request::resolved`]. The request is complete but for its
    /// source.
    Reference(ObjectName, Box<Request>),
    /// An invalid clone, with all errors.
    Wrong(Vec<FieldError>),
    /// An import, an upload or a blank disk, which smartclone does not serve.
    NotAClone,
}

impl Parsed {
    /// The request of a clone whose source is known.
    pub fn request(&self) -> Option<&Request> {
        match self {
            Self::Clone(request) => Some(request),
            Self::Wrong(_) | Self::NotAClone | Self::Reference(..) => None,
        }
    }
}

impl From<Result<Box<Request>, Vec<FieldError>>> for Parsed {
    fn from(read: Result<Box<Request>, Vec<FieldError>>) -> Self {
        read.map_or_else(Self::Wrong, Self::Clone)
    }
}

/// Shorter deadlines are rejected as a mistake: drivers take seconds.
pub(crate) const SHORTEST_DEADLINE: Duration = Duration::from_secs(10);

impl Request {
    /// Reads a DataVolume. Its `wish` is the annotation's, unless a recorded decision there did not follow the requester's choice. A
    /// DataSource is resolved only once: the plan holds its source.
    pub fn parse(volume: &DataVolume) -> Parsed {
        match Self::parse_new(volume) {
            Parsed::Reference(name, request) => match followed(volume) {
                Some(source) => Self::resolved(volume, source).into(),
                None => Parsed::Reference(name, request),
            },
            parsed => parsed,
        }
    }

    /// Reads a DataVolume that doesn't exist yet. A recorded source of its DataSource is ignored: only smartclone writes it, and a new
    /// object has none.
    pub fn parse_new(volume: &DataVolume) -> Parsed {
        let spec = &volume.spec;
        let given = spec.source.as_ref().and_then(|source| match (&source.pvc, &source.snapshot) {
            (Some(pvc), _) => Some((SourceKind::Claim, &pvc.namespace, &pvc.name)),
            (None, Some(snapshot)) => Some((SourceKind::Snapshot, &snapshot.namespace, &snapshot.name)),
            (None, None) => None,
        });
        if let Some((kind, namespace, name)) = given {
            let object = ObjectName { namespace: namespace.clone(), name: name.clone() };
            return Self::resolved(volume, SourceName { kind, object }).into();
        }
        let Some(reference) = &spec.source_ref else { return Parsed::NotAClone };
        let mut errors = Vec::new();
        if reference.kind != "DataSource" {
            errors.push(FieldError::not_supported(
                "spec.sourceRef.kind",
                &reference.kind,
                "supported values: \"DataSource\"",
            ));
        }
        let named = |field, text, rule| FieldError::of_name(field, text, rule, "the name of the DataSource");
        errors.extend(named("spec.sourceRef.name", &reference.name, NameRule::Subdomain));
        let elsewhere = reference.namespace.as_deref().filter(|namespace| !namespace.is_empty());
        errors.extend(elsewhere.and_then(|text| named("spec.sourceRef.namespace", text, NameRule::Label)));
        let namespace = elsewhere.or(volume.metadata.namespace.as_deref()).unwrap_or_default();
        let name = ObjectName { namespace: namespace.to_owned(), name: reference.name.clone() };
        // Errors that don't depend on the source; no rule about claims forbids a snapshot.
        let any = || "any".to_owned();
        let anything = ObjectName { namespace: any(), name: any() };
        match Self::resolved(volume, SourceName { kind: SourceKind::Snapshot, object: anything }) {
            Ok(request) if errors.is_empty() => Parsed::Reference(name, request),
            Ok(_) => Parsed::Wrong(errors),
            Err(others) => {
                errors.extend(others);
                Parsed::Wrong(errors)
            }
        }
    }

    /// Reads a DataVolume with a known `source`. The error lists all mistakes.
    pub fn resolved(volume: &DataVolume, source: SourceName) -> Result<Box<Self>, Vec<FieldError>> {
        let spec = &volume.spec;
        let mut errors = Vec::new();
        let target = ObjectName {
            namespace: volume.metadata.namespace.clone().unwrap_or_default(),
            name: volume.metadata.name.clone().unwrap_or_default(),
        };
        let path = match (&spec.source_ref, source.kind) {
            (Some(_), _) => "spec.sourceRef",
            (None, SourceKind::Claim) => "spec.source.pvc",
            (None, SourceKind::Snapshot) => "spec.source.snapshot",
        };
        let what = source.kind.as_str();
        // Errors in the target of a DataSource are for its owner to correct; the clone waits.
        let named = |part, text: &str, rule| {
            let missing = format_args!("the {part} of the {what} to clone");
            FieldError::of_name(format_args!("{path}.{part}"), text, rule, missing)
                .filter(|error| spec.source_ref.is_none() || error.kind == Kind::FieldValueRequired)
        };
        errors.extend(named("name", &source.object.name, NameRule::Subdomain));
        errors.extend(named("namespace", &source.object.namespace, NameRule::Label));
        if source.kind == SourceKind::Claim && source.object == target {
            errors.push(FieldError::invalid(
                format!("{path}.name"),
                &source.object.name,
                "the clone's claim gets the DataVolume's name, so a claim can't be cloned onto itself; rename the DataVolume",
            ));
        }

        let (form, claim) = match (&spec.pvc, &spec.storage) {
            (Some(pvc), None) => (
                Form::Pvc,
                ClaimForm {
                    resources: pvc.resources.as_ref(),
                    class: pvc.storage_class_name.as_ref(),
                    attributes_class: pvc.volume_attributes_class_name.as_deref(),
                    mode: pvc.volume_mode.as_deref(),
                    access_modes: pvc.access_modes.as_deref().unwrap_or_default(),
                },
            ),
            (None, Some(storage)) => (
                Form::Storage,
                ClaimForm {
                    resources: storage.resources.as_ref(),
                    class: storage.storage_class_name.as_ref(),
                    attributes_class: None,
                    mode: storage.volume_mode.as_deref(),
                    access_modes: storage.access_modes.as_deref().unwrap_or_default(),
                },
            ),
            (Some(_), Some(_)) => {
                errors.push(FieldError::forbidden("spec.storage", "give either spec.pvc or spec.storage, not both"));
                return Err(errors);
            }
            (None, None) => {
                errors.push(FieldError::required("spec.storage", "describe the clone in spec.storage (or spec.pvc)"));
                return Err(errors);
            }
        };
        let size = claim.size(form, &mut errors);
        // A clone that an earlier version, or CDI, has admitted and started is not stopped.
        let mut new_errors = effect::refusals(volume);
        new_errors.extend(claim.other_resources(form));
        let limit = claim.limit(form, size, &mut new_errors);
        if !is_begun(volume) {
            errors.append(&mut new_errors);
        }
        let volume_mode = claim.volume_mode(form, &mut errors);
        let access_modes = claim.access_modes(form, &mut errors);
        let options = Options::read(volume.metadata.annotations.as_ref(), &mut errors);
        let content = match spec.content_type.as_deref() {
            None | Some("" | "kubevirt") => ContentType::KubeVirt,
            Some("archive") => ContentType::Archive,
            Some(other) => {
                let supported = "supported values: \"kubevirt\", \"archive\"";
                errors.push(FieldError::not_supported("spec.contentType", other, supported));
                ContentType::KubeVirt
            }
        };
        if content == ContentType::Archive && volume_mode == Some(VolumeMode::Block) {
            let path = format!("{}.volumeMode", form.path());
            errors.push(FieldError::invalid(
                path,
                "Block",
                "contentType archive is files, which need volumeMode Filesystem",
            ));
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        Ok(Box::new(Self {
            target,
            made_for: TargetKind::DataVolume,
            source,
            by_reference: spec.source_ref.is_some(),
            form,
            size,
            limit,
            storage_class: claim.class.cloned(),
            attributes_class: claim.attributes_class.filter(|name| !name.is_empty()).map(str::to_owned),
            volume_mode,
            access_modes,
            wish: options.wish,
            fallback_allowed: options.fallback_allowed,
            consistency: options.consistency,
            content,
            keep_owners: options.keep_owners,
            immediate: options.immediate,
            deadline: options.deadline,
            pre_populated: options.pre_populated,
        }))
    }
}

/// True if the status, which no user writes, shows that the controller has started `volume`. A clone that is [Pending](Phase::Pending) may
/// wait for the correction of its errors.
fn is_begun(volume: &DataVolume) -> bool {
    volume.status.as_ref().is_some_and(|status| !matches!(status.phase, Phase::Unset | Phase::Pending))
}

/// The recorded source of the DataSource, from the plan.
pub(crate) fn followed(volume: &DataVolume) -> Option<SourceName> {
    PlanNote::read(object::annotation(&volume.metadata, keys::PLAN)?)?.source
}
