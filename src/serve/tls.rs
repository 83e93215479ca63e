//! TLS from PEM files: the server's certificate, and who may be a client.
//!
//! Invariant: every error names the file at fault. Certificates are read once, at the start.

use std::path::Path;
use std::sync::Arc;

use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::server::danger::ClientCertVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

use super::config::TlsFiles;
use crate::error::{Error, Result};

/// What turns a connection into a TLS connection.
///
/// # Errors
///
/// [`Error::Io`] if a file cannot be read, [`Error::InvalidArgument`] if it does not hold what it
/// should, or if certificate and key are not of one pair.
pub(super) fn acceptor(files: &TlsFiles) -> Result<TlsAcceptor> {
    let certificates = certificates(&files.cert)?;
    let key = PrivateKeyDer::from_pem_file(&files.key)
        .map_err(|error| unusable("private key", &files.key, error))?;
    let builder = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring has all default versions");
    let builder = match &files.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => builder.with_client_cert_verifier(verifier(path, files)?),
    };
    let mut config = builder.with_single_cert(certificates, key).map_err(|error| {
        let (cert, key) = (files.cert.display(), files.key.display());
        Error::InvalidArgument(format!("cannot use the certificate {cert} with {key}: {error}"))
    })?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn verifier(path: &Path, files: &TlsFiles) -> Result<Arc<dyn ClientCertVerifier>> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|error| bad("authority", path, &error.to_string()))?;
    }
    let provider = Arc::new(default_provider());
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    let builder =
        if files.client_auth_required { builder } else { builder.allow_unauthenticated() };
    builder.build().map_err(|error| bad("authority", path, &error.to_string()))
}

/// All certificates of a file; at least one.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    let certificates: Vec<_> = read.map_err(|error| unusable("certificate", path, error))?;
    if certificates.is_empty() {
        return Err(bad("certificate", path, "no CERTIFICATE section in it"));
    }
    Ok(certificates)
}

fn unusable(what: &str, path: &Path, error: pem::Error) -> Error {
    match error {
        pem::Error::Io(error) => Error::io(format!("read the {what} {}", path.display()))(error),
        error => bad(what, path, &error.to_string()),
    }
}

fn bad(what: &str, path: &Path, reason: &str) -> Error {
    Error::InvalidArgument(format!("cannot use the {what} {}: {reason}", path.display()))
}
