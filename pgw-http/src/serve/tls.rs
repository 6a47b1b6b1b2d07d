//! The certificate of a server, which can be replaced while it serves.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use rustls::ServerConfig;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

/// A certificate chain with its private key. Clones are the same one: [`reload`](Self::reload) replaces it in all of them, for
/// handshakes from then on.
///
/// ```no_run
/// use pgw_http::serve::{Certificate, Server};
///
/// let read = || -> std::io::Result<_> { Ok((std::fs::read("chain.pem")?, std::fs::read("key.pem")?)) };
/// let (chain, key) = read()?;
/// let certificate = Certificate::from_pem(&chain, &key)?;
/// let server = Server::new().with_certificate(certificate.clone());
/// // … and when it was renewed:
/// let (chain, key) = read()?;
/// certificate.reload(&chain, &key)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Certificate(Arc<Current>);

struct Current(RwLock<Arc<CertifiedKey>>);

impl Certificate {
    /// Reads a chain, the server's own certificate first, and its private key, both PEM.
    ///
    /// # Errors
    /// [`CertificateError`].
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, CertificateError> {
        Ok(Self(Arc::new(Current(RwLock::new(Arc::new(read(chain, key)?))))))
    }

    /// Replaces both. On an error the old ones stay.
    ///
    /// # Errors
    /// [`CertificateError`].
    pub fn reload(&self, chain: &[u8], key: &[u8]) -> Result<(), CertificateError> {
        let next = Arc::new(read(chain, key)?);
        *self.0.0.write().unwrap_or_else(PoisonError::into_inner) = next;
        Ok(())
    }

    pub(super) fn config(&self) -> Arc<ServerConfig> {
        // The provider is named, as in the transport: the process-wide one is the host's.
        let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .expect("ring has the cipher suites of TLS 1.2 and 1.3")
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&self.0) as _);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Arc::new(config)
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Certificate(…)")
    }
}

impl ResolvesServerCert for Current {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner)))
    }
}

impl fmt::Debug for Current {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Current(…)")
    }
}

/// Why a certificate cannot be used. Holds nothing of the key.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CertificateError {
    /// The chain is not PEM, or holds no certificate.
    #[error("the certificate chain cannot be read as PEM")]
    Chain,
    /// The key is not PEM, or of an unknown form.
    #[error("the private key cannot be read as PEM")]
    Key,
    /// The two do not go together, or are of a kind that is not supported.
    #[error("the certificate and the private key cannot be used together")]
    Mismatch(#[source] rustls::Error),
}

fn read(chain: &[u8], key: &[u8]) -> Result<CertifiedKey, CertificateError> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(chain).collect();
    let chain = chain.map_err(|_| CertificateError::Chain)?;
    if chain.is_empty() {
        return Err(CertificateError::Chain);
    }
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| CertificateError::Key)?;
    CertifiedKey::from_der(chain, key, &default_provider()).map_err(CertificateError::Mismatch)
}
