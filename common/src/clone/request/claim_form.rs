//! The description of the clone's claim, in `spec.pvc` or `spec.storage`.

use std::collections::BTreeMap;

use k8s_openapi::{api::core::v1::VolumeResourceRequirements, apimachinery::pkg::api::resource::Quantity};

use super::Form;
use crate::{field::FieldError, object::VolumeMode, quantity::Bytes};

const ACCESS_MODES: [&str; 4] = ["ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany", "ReadWriteOncePod"];

/// The only resource of a claim.
const STORAGE: &str = "storage";

/// The fields that `spec.pvc` and `spec.storage` share.
pub(crate) struct ClaimForm<'a> {
    pub(super) resources: Option<&'a VolumeResourceRequirements>,
    pub(super) class: Option<&'a String>,
    pub(super) attributes_class: Option<&'a str>,
    pub(super) mode: Option<&'a str>,
    pub(super) access_modes: &'a [String],
}

impl ClaimForm<'_> {
    pub(super) fn size(&self, form: Form, errors: &mut Vec<FieldError>) -> Option<Bytes> {
        let path = form.size_path();
        let requested: Option<&Quantity> =
            self.resources.and_then(|r| r.requests.as_ref()).and_then(|requests| requests.get(STORAGE));
        let Some(quantity) = requested else {
            if form == Form::Pvc {
                errors.push(FieldError::required(
                    path,
                    "the size of the clone; leave it out only in spec.storage, where the source's size is taken",
                ));
            }
            return None;
        };
        match Bytes::of(quantity) {
            Err(error) => errors.push(FieldError::invalid(path, &quantity.0, error.to_string())),
            Ok(size) if size < Bytes::MIB => {
                errors.push(FieldError::invalid(path, &quantity.0, "must be at least 1Mi"));
            }
            Ok(size) => return Some(size),
        }
        None
    }

    /// The maximum size of the volume. Only the decision enforces it.
    pub(super) fn limit(&self, form: Form, size: Option<Bytes>, errors: &mut Vec<FieldError>) -> Option<Bytes> {
        let path = form.limit_path();
        let quantity = self.resources?.limits.as_ref()?.get(STORAGE)?;
        match (Bytes::of(quantity), size) {
            (Err(error), _) => errors.push(FieldError::invalid(path, &quantity.0, error.to_string())),
            (Ok(limit), Some(size)) if limit < size => {
                let cure = format!("less than the size that is asked for ({size}); raise it or leave it out");
                errors.push(FieldError::invalid(path, &quantity.0, cure));
            }
            (Ok(limit), _) => return Some(limit),
        }
        None
    }

    /// Errors for resources that a claim doesn't have.
    pub(super) fn other_resources(&self, form: Form) -> Vec<FieldError> {
        let Some(resources) = self.resources else { return Vec::new() };
        let of = |kind: &'static str, amounts: Option<&BTreeMap<String, Quantity>>| {
            let others = amounts.into_iter().flat_map(BTreeMap::keys).filter(|name| *name != STORAGE);
            let path = format!("{}.resources.{kind}", form.path());
            let error = |name: &String| {
                FieldError::not_supported(
                    format!("{path}[{name}]"),
                    name,
                    "a claim has \"storage\" and no other resource",
                )
            };
            others.map(error).collect::<Vec<_>>()
        };
        [of("requests", resources.requests.as_ref()), of("limits", resources.limits.as_ref())].concat()
    }

    pub(super) fn volume_mode(&self, form: Form, errors: &mut Vec<FieldError>) -> Option<VolumeMode> {
        // CDI's value for an omitted volume mode.
        let text = self.mode.filter(|mode| *mode != "FromStorageProfile" || form == Form::Pvc)?;
        let mode = text.parse().ok();
        if mode.is_none() {
            let path = format!("{}.volumeMode", form.path());
            errors.push(FieldError::not_supported(path, text, "supported values: \"Block\", \"Filesystem\""));
        }
        mode
    }

    pub(super) fn access_modes(&self, form: Form, errors: &mut Vec<FieldError>) -> Vec<String> {
        let path = format!("{}.accessModes", form.path());
        if form == Form::Pvc && self.access_modes.is_empty() {
            errors.push(FieldError::required(path.as_str(), "at least one access mode, such as ReadWriteOnce"));
        }
        for (at, mode) in self.access_modes.iter().enumerate().filter(|(_, m)| !ACCESS_MODES.contains(&m.as_str())) {
            let supported =
                "supported values: \"ReadWriteOnce\", \"ReadOnlyMany\", \"ReadWriteMany\", \"ReadWriteOncePod\"";
            errors.push(FieldError::not_supported(format!("{path}[{at}]"), mode, supported));
        }
        self.access_modes.to_vec()
    }
}
