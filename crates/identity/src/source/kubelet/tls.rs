//! Whether it is the kubelet that answers.
//!
//! A kubelet's certificate is one of two kinds: signed by the cluster's authority, for the node's names and addresses; or made
//! by the kubelet itself, for the node's name only, in a file on this node's disk. Both are accepted, the second as the very
//! certificate in that file. So the usual cluster needs no switch that turns the check off.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use super::super::Failure;
use super::read;
use crate::settings::IdentitySettings;

/// The largest file with certificates, in bytes.
const MAX_PEM_BYTES: u64 = 4 << 20;
/// Where a kubelet keeps the certificate that it made for itself.
const OWN_CERTIFICATE: &str = "var/lib/kubelet/pki/kubelet.crt";

/// Whom to trust.
#[derive(Debug)]
pub(super) struct Trust {
    files: Vec<PathBuf>,
    /// What the certificate may be for, beside the address that is asked.
    names: Vec<ServerName<'static>>,
    insecure: bool,
}

impl Trust {
    pub(super) fn new(settings: &IdentitySettings, host: &str) -> Self {
        let files = match &settings.kubelet_ca {
            Some(file) => vec![file.clone()],
            None => vec![
                settings.token_file.parent().unwrap_or(Path::new("/")).join("ca.crt"),
                settings.host_root.join(OWN_CERTIFICATE),
            ],
        };
        let names = [settings.node_name.as_deref(), settings.node_ip.as_deref()];
        // Only of a node that is asked by its address or as "this one" are these the names.
        let names = if host.parse::<std::net::IpAddr>().is_ok() || host.starts_with('[') || host == "localhost" {
            names.into_iter().flatten().filter_map(|n| ServerName::try_from(n.to_owned()).ok()).collect()
        } else {
            Vec::new()
        };
        Self { files, names, insecure: settings.insecure_skip_verify }
    }

    pub(super) fn client_config(&self, tls: bool) -> Result<ClientConfig, Failure> {
        let failed = |e: Error| Failure::new("certificate", e);
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(failed)?;
        if !tls {
            return Ok(builder.with_root_certificates(RootCertStore::empty()).with_no_client_auth());
        }
        let verifier = if self.insecure {
            Verifier { chain: None, pinned: Vec::new(), names: Vec::new(), provider, insecure: true }
        } else {
            self.verifier(provider)?
        };
        Ok(builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier)).with_no_client_auth())
    }

    fn verifier(&self, provider: Arc<CryptoProvider>) -> Result<Verifier, Failure> {
        let mut roots = RootCertStore::empty();
        let mut pinned = Vec::new();
        let mut missing = Vec::new();
        for file in &self.files {
            match read(file, MAX_PEM_BYTES) {
                Ok(pem) => pinned.extend(CertificateDer::pem_slice_iter(&pem).flatten()),
                Err(e) => missing.push(format!("{}: {e}", file.display())),
            }
        }
        roots.add_parsable_certificates(pinned.iter().cloned());
        if pinned.is_empty() {
            let why = format!("no certificate to check the kubelet's against ({})", missing.join("; "));
            return Err(Failure::new("certificate", why));
        }
        let chain = if roots.is_empty() {
            None
        } else {
            let built = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build();
            Some(built.map_err(|e| Failure::new("certificate", e))?)
        };
        Ok(Verifier { chain, pinned, names: self.names.clone(), provider, insecure: false })
    }
}

#[derive(Debug)]
struct Verifier {
    chain: Option<Arc<WebPkiServerVerifier>>,
    pinned: Vec<CertificateDer<'static>>,
    names: Vec<ServerName<'static>>,
    provider: Arc<CryptoProvider>,
    insecure: bool,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        // The key behind it is proved by the handshake's signature, which is checked whatever is said here.
        if self.insecure || self.pinned.iter().any(|known| known == end_entity) {
            return Ok(ServerCertVerified::assertion());
        }
        let Some(chain) = &self.chain else {
            return Err(Error::InvalidCertificate(CertificateError::UnknownIssuer));
        };
        let mut answer = chain.verify_server_cert(end_entity, intermediates, server_name, ocsp, now);
        for name in &self.names {
            let for_others = matches!(
                answer,
                Err(Error::InvalidCertificate(
                    CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. }
                ))
            );
            if !for_others {
                break;
            }
            answer = chain.verify_server_cert(end_entity, intermediates, name, ocsp, now);
        }
        answer
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
