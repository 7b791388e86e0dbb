//! Admission of DataVolumes: HTTP in, decision out.
