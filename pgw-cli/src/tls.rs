//! TLS of the libraries that report to elsewhere and choose no provider themselves.

/// Makes ring the provider of whoever does not bring their own.
pub(crate) fn install() {
    // It fails when there is one already, which is this one.
    let _ = rustls::crypto::ring::default_provider().install_default();
}
