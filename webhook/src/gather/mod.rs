//! The facts of a decision: what the cluster says about a review, from caches or from the API server.

pub mod access;
pub mod cluster;
pub mod read_cache;
