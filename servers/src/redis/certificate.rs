//! The certificate of a Redis that speaks TLS: made when it starts, gone with it.

use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

use crate::account::Account;
use crate::error::ServerError;

use super::configuration::{quoted, write_file};

/// Where the PEM files of a server are.
pub(super) struct Files {
    pub(super) authority: PathBuf,
    certificate: PathBuf,
    key: PathBuf,
}

impl Files {
    pub(super) fn in_directory(directory: &Path) -> Self {
        let [authority, certificate, key] =
            ["authority.pem", "certificate.pem", "key.pem"].map(|name| directory.join(name));
        Self { authority, certificate, key }
    }

    pub(super) fn directives(&self) -> [(&'static str, String); 3] {
        let path = |path: &Path| quoted(path.as_os_str().as_encoded_bytes());
        [
            ("tls-ca-cert-file", path(&self.authority)),
            ("tls-cert-file", path(&self.certificate)),
            ("tls-key-file", path(&self.key)),
        ]
    }
}

/// Makes an authority and a certificate by it, and writes them down with the certificate's key. The authority's own key
/// is forgotten.
pub(super) fn create(account: Account, directory: &Path) -> Result<(), ServerError> {
    let [authority, certificate, key] =
        certified().map_err(|error| ServerError::Certificate(error.into()))?;
    let files = Files::in_directory(directory);
    write_file(account, &files.authority, &authority)?;
    write_file(account, &files.certificate, &certificate)?;
    write_file(account, &files.key, &key)
}

/// The authority's certificate, the server's, and the server's key, as PEM.
fn certified() -> Result<[String; 3], rcgen::Error> {
    let mut authority = CertificateParams::new(Vec::new())?;
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.distinguished_name.push(DnType::CommonName, "authority of a test server");
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate()?)?;
    let key = KeyPair::generate()?;
    let names = ["127.0.0.1", "localhost"].map(str::to_owned);
    let certificate = CertificateParams::new(names)?.signed_by(&key, &authority)?;
    Ok([authority.pem(), certificate.pem(), key.serialize_pem()])
}
