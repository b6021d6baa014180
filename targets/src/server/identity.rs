//! The server's certificate, and its fingerprint: the SHA-256 of its `SubjectPublicKeyInfo`, which a renewal with the
//! same key keeps.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use zoneward_sectors::crypto::sha256;
use zoneward_sectors::fsx;
use zoneward_sectors::ids::Digest;

use super::ServeError;
use crate::limits::PEM_LEN_MAX;

/// Certificate and key files of the operator's own, in PEM.
#[derive(Clone, Debug)]
pub struct GivenCertificate {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// What the server shows in the handshake.
pub(crate) struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    pub fingerprint: Digest,
}

pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// The fingerprint of a certificate.
pub(crate) fn fingerprint(certificate: &CertificateDer<'_>) -> Result<Digest, String> {
    let parsed = webpki::EndEntityCert::try_from(certificate).map_err(|e| e.to_string())?;
    Ok(sha256(&[&parsed.subject_public_key_info()]))
}

impl Identity {
    /// Reads the given certificate, or the data directory's own, which is made first if there is none.
    pub fn open(own: &Path, given: Option<&GivenCertificate>) -> Result<Self, ServeError> {
        let (certificate, key) = match given {
            Some(g) => (g.certificate.clone(), g.key.clone()),
            None => (own.join("certificate.pem"), own.join("key.pem")),
        };
        if given.is_none() && fsx::size(&certificate).map_err(ServeError::at(&certificate))?.is_none() {
            make(&certificate, &key)?;
        }
        let bad = |path: &Path, why: String| ServeError::Certificate { path: path.display().to_string(), why };
        let pem = fsx::read_limited(&certificate, PEM_LEN_MAX).map_err(ServeError::at(&certificate))?;
        let chain: Vec<_> = CertificateDer::pem_slice_iter(&pem)
            .collect::<Result<_, _>>()
            .map_err(|e| bad(&certificate, format!("{e:?}")))?;
        let first = chain.first().ok_or_else(|| bad(&certificate, "it holds no certificate".into()))?;
        let fingerprint = fingerprint(first).map_err(|why| bad(&certificate, why))?;
        let pem = zeroize::Zeroizing::new(fsx::read_limited(&key, PEM_LEN_MAX).map_err(ServeError::at(&key))?);
        // What a parser says could quote the key.
        let key = PrivateKeyDer::from_pem_slice(&pem).map_err(|_| bad(&key, "it holds no private key".into()))?;
        Ok(Self { chain, key, fingerprint })
    }

    /// TLS 1.3 and nothing older, without resumption and early data.
    pub fn tls(&self) -> Result<rustls::ServerConfig, ServeError> {
        let mut tls = rustls::ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|e| ServeError::Tls(e.to_string()))?
            .with_no_client_auth()
            .with_single_cert(self.chain.clone(), self.key.clone_key())
            .map_err(|e| ServeError::Tls(e.to_string()))?;
        tls.max_early_data_size = 0;
        tls.send_tls13_tickets = 0;
        Ok(tls)
    }
}

/// Makes a key and a certificate for it. The key is durable before the certificate is there: a crash between leaves a
/// key that the next start replaces.
fn make(certificate: &Path, key: &Path) -> Result<(), ServeError> {
    let failed = |e: rcgen::Error| ServeError::Tls(e.to_string());
    let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(failed)?;
    let mut params = rcgen::CertificateParams::new(vec!["zoneward-target.invalid".to_owned()]).map_err(failed)?;
    params.distinguished_name.push(rcgen::DnType::CommonName, "Zoneward target server");
    let made = params.self_signed(&pair).map_err(failed)?;
    let secret = zeroize::Zeroizing::new(pair.serialize_pem());
    fsx::write_durably(key, secret.as_bytes(), 0o600).map_err(ServeError::at(key))?;
    fsx::write_durably(certificate, made.pem().as_bytes(), 0o644).map_err(ServeError::at(certificate))
}
