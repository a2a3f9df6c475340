//! Whom to trust and who we are, from PEM files.
//!
//! **In**: files that the user named. **Out**: settings for both transports. **Limits**: files of at most
//! [`MAX_PEM_BYTES`].

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use tonic::transport::{Certificate, ClientTlsConfig, Identity};

use super::super::DeliveryError;
use super::super::settings::OtlpSettings;

/// The largest certificate or key file.
const MAX_PEM_BYTES: u64 = 4 << 20;

/// The files' contents.
struct Pem {
    ca: Option<Vec<u8>>,
    client: Option<(Vec<u8>, Vec<u8>)>,
}

impl Pem {
    fn read(settings: &OtlpSettings) -> Result<Self, DeliveryError> {
        let ca = settings.ca.as_deref().map(read).transpose()?;
        let client = match (&settings.client_certificate, &settings.client_key) {
            (Some(certificate), Some(key)) => Some((read(certificate)?, read(key)?)),
            (None, None) => None,
            (Some(only), None) => return Err(tls(only, "needs the client's private key too")),
            (None, Some(only)) => return Err(tls(only, "needs the client's certificate too")),
        };
        Ok(Self { ca, client })
    }
}

fn read(path: &Path) -> Result<Vec<u8>, DeliveryError> {
    let err = |source| DeliveryError::File { path: path.to_owned(), source };
    let mut out = Vec::new();
    File::open(path).map_err(err)?.take(MAX_PEM_BYTES).read_to_end(&mut out).map_err(err)?;
    Ok(out)
}

fn tls(path: &Path, why: &str) -> DeliveryError {
    DeliveryError::Tls { what: path.display().to_string(), why: why.to_owned() }
}

fn certificates(pem: &[u8], path: Option<&Path>) -> Result<Vec<CertificateDer<'static>>, DeliveryError> {
    let path = path.unwrap_or(Path::new(""));
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let found = found.map_err(|e| tls(path, &e.to_string()))?;
    if found.is_empty() { Err(tls(path, "holds no certificate")) } else { Ok(found) }
}

fn private_key(pem: &[u8], path: Option<&Path>) -> Result<PrivateKeyDer<'static>, DeliveryError> {
    PrivateKeyDer::from_pem_slice(pem).map_err(|e| tls(path.unwrap_or(Path::new("")), &e.to_string()))
}

/// For HTTP: everything that rustls needs.
pub(crate) fn for_http(settings: &OtlpSettings) -> Result<ClientConfig, DeliveryError> {
    let pem = Pem::read(settings)?;
    let mut roots = RootCertStore::empty();
    if let Some(ca) = &pem.ca {
        for certificate in certificates(ca, settings.ca.as_deref())? {
            let path = settings.ca.as_deref().unwrap_or(Path::new(""));
            roots.add(certificate).map_err(|e| tls(path, &e.to_string()))?;
        }
    } else {
        // One broken certificate among the system's is not ours to complain about.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if roots.is_empty() {
            return Err(no_authorities());
        }
    }
    let broken = |e: rustls::Error| DeliveryError::Tls { what: "TLS".into(), why: e.to_string() };
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(broken)?
        .with_root_certificates(roots);
    Ok(match &pem.client {
        None => config.with_no_client_auth(),
        Some((certificate, key)) => config
            .with_client_auth_cert(
                certificates(certificate, settings.client_certificate.as_deref())?,
                private_key(key, settings.client_key.as_deref())?,
            )
            .map_err(broken)?,
    })
}

/// For no TLS at all: nobody is trusted, nothing is read.
pub(crate) fn for_plain_http() -> Result<ClientConfig, DeliveryError> {
    let broken = |e: rustls::Error| DeliveryError::Tls { what: "TLS".into(), why: e.to_string() };
    Ok(ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(broken)?
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth())
}

/// For gRPC. The files are checked here: tonic speaks of "transport error" for whatever is wrong with them.
pub(crate) fn for_grpc(settings: &OtlpSettings) -> Result<ClientTlsConfig, DeliveryError> {
    let pem = Pem::read(settings)?;
    let mut config = ClientTlsConfig::new();
    if let Some(ca) = pem.ca {
        certificates(&ca, settings.ca.as_deref())?;
        config = config.ca_certificate(Certificate::from_pem(ca));
    } else {
        if rustls_native_certs::load_native_certs().certs.is_empty() {
            return Err(no_authorities());
        }
        config = config.with_native_roots();
    }
    if let Some((certificate, key)) = pem.client {
        certificates(&certificate, settings.client_certificate.as_deref())?;
        private_key(&key, settings.client_key.as_deref())?;
        config = config.identity(Identity::from_pem(certificate, key));
    }
    Ok(config)
}

fn no_authorities() -> DeliveryError {
    DeliveryError::Tls {
        what: "the system".into(),
        why: "has no certificate authorities; install ca-certificates, or name a file with OTEL_EXPORTER_OTLP_CERTIFICATE"
            .into(),
    }
}
