//! Certificates of a TLS server.

/// Makes aws-lc-rs the TLS provider of the process; the first line of every `main`.
pub fn install_provider() {
    // An error means that one is installed already, and this tree has only one.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}
