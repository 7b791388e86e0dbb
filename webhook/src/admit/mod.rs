//! Admission handlers, one for each kind: each reads the review, has `gather` read the facts, and has `common` decide.

mod beside;
pub mod carry_over;
pub mod claim;
pub mod data_volume;
pub mod object_transfer;
