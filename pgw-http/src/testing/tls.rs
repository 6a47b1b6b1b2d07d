//! The certificates of a receiver on an `https` address: made for it when it starts, gone with it.

use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

use crate::testing::{Behaviour, HostileReceiver};

/// What a receiver needs to speak TLS, and what a sender needs to trust it.
pub(super) struct Tls {
    pub(super) acceptor: TlsAcceptor,
    /// The authority's certificate; a certificate that signs itself has none.
    pub(super) root: Option<CertificateDer<'static>>,
}

impl Tls {
    /// The set-up of a receiver; `None` if it speaks no TLS.
    pub(super) fn of(behaviour: Behaviour) -> io::Result<Option<Self>> {
        let mut leaf = match behaviour {
            Behaviour::WrongName => names(&["other.example"])?,
            Behaviour::WellBehavedTls | Behaviour::SelfSigned | Behaviour::Expired => {
                names(&[&Ipv4Addr::LOCALHOST.to_string(), HostileReceiver::NAME])?
            }
            _ => return Ok(None),
        };
        if behaviour == Behaviour::Expired {
            leaf.not_after = rcgen::date_time_ymd(2000, 1, 1);
        }
        let key = KeyPair::generate().map_err(io::Error::other)?;
        let (certificate, root) = if behaviour == Behaviour::SelfSigned {
            (leaf.self_signed(&key).map_err(io::Error::other)?, None)
        } else {
            let authority = authority()?;
            let signed = leaf.signed_by(&key, &authority).map_err(io::Error::other)?;
            (signed, Some(authority.der().clone()))
        };
        let key = PrivateKeyDer::try_from(key.serialize_der()).map_err(io::Error::other)?;
        // The provider is named, as in the transport: the process-wide one is the host's.
        let config =
            ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .with_safe_default_protocol_versions()
                .map_err(io::Error::other)?
                .with_no_client_auth()
                .with_single_cert(vec![certificate.into()], key)
                .map_err(io::Error::other)?;
        Ok(Some(Self { acceptor: TlsAcceptor::from(Arc::new(config)), root }))
    }
}

fn authority() -> io::Result<CertifiedIssuer<'static, KeyPair>> {
    let mut params = names(&[])?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "authority of a hostile receiver");
    let key = KeyPair::generate().map_err(io::Error::other)?;
    CertifiedIssuer::self_signed(params, key).map_err(io::Error::other)
}

fn names(names: &[&str]) -> io::Result<CertificateParams> {
    let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    CertificateParams::new(names).map_err(io::Error::other)
}
