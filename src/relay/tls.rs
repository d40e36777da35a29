//! Whom we trust, and what a failed TLS handshake means for people.

use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{CertificateError, ClientConfig, Error, RootCertStore};

use super::printable::printable;
use super::{RelayError, RelayUrl};

/// The client side of TLS: the system's certificate authorities (the built-in ones of Mozilla if
/// the system has none), plus those of `ca_file` (PEM, one or more).
///
/// It carries its own crypto provider (ring), so none needs to be installed for the process.
///
/// # Errors
/// [`RelayError::CaFile`] if the file can't be read or holds no usable certificate.
pub fn tls_config(ca_file: Option<&Path>) -> Result<Arc<ClientConfig>, RelayError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    if let Some(path) = ca_file {
        add_file(&mut roots, path)?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

fn add_file(roots: &mut RootCertStore, path: &Path) -> Result<(), RelayError> {
    let refuse = |reason: String| RelayError::CaFile {
        path: path.to_owned(),
        reason,
    };
    let certificates: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|error| refuse(error.to_string()))?;
    if certificates.is_empty() {
        return Err(refuse("it holds no PEM certificate".to_owned()));
    }
    for certificate in certificates {
        roots
            .add(certificate)
            .map_err(|error| refuse(error.to_string()))?;
    }
    Ok(())
}

/// What a failed handshake with `relay` means, and the way out where there is one.
pub(super) fn explain(relay: &RelayUrl, error: &io::Error) -> String {
    let cause = printable(&error.to_string());
    let inner = error.get_ref().and_then(|e| e.downcast_ref::<Error>());
    match inner {
        Some(Error::InvalidCertificate(
            CertificateError::UnknownIssuer
            | CertificateError::BadSignature
            | CertificateError::Other(_),
        )) => format!(
            "the certificate of {} is signed by no authority known here ({cause}); if the \
             authority is your own, name its PEM file in net.ca_file",
            relay.host()
        ),
        Some(Error::InvalidMessage(_)) => format!(
            "{} does not answer with TLS ({cause}); for a relay without TLS write ws://",
            relay.host()
        ),
        _ => cause,
    }
}
