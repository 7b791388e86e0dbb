//! Admission of DataVolumes, as CDI's two webhooks decide it.

pub mod mutate;
pub mod review;
pub mod validate;

pub use self::{
    mutate::mutate,
    review::{Decision, Operation, Request},
    validate::validate,
};
