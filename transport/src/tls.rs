//! TLS 1.3 with raw public keys (RFC 7250): a peer is its Ed25519 key and nothing else. There is no certificate to
//! parse, no authority to steal and no date that a wrong clock could fail.
//!
//! Off, on both sides: older versions, early data, and resumption (a resumed session would skip the look at the
//! peer's key).

use std::sync::Arc;

use quinn::crypto::rustls::{HandshakeData, QuicClientConfig, QuicServerConfig};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{AlwaysResolvesClientRawPublicKeys, Resumption};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{AlwaysResolvesServerRawPublicKeys, NoServerSessionStorage};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, PeerIncompatible, SignatureAlgorithm,
    SignatureScheme,
};
use zoneward_sectors::crypto::Signer;

use crate::members::MemberView;

/// Protocol between members.
pub(crate) const ALPN: &[u8] = b"zoneward/1";
/// Protocol of a node that wants to become a member.
pub(crate) const ALPN_JOIN: &[u8] = b"zoneward-join/1";
/// Stands where TLS wants a server's name; it is not sent and means nothing.
pub(crate) const SERVER_NAME: &str = "zoneward.invalid";

/// `SubjectPublicKeyInfo` of an Ed25519 key (RFC 8410) is this and the key's 32 bytes.
const SPKI_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
const SPKI_LEN: usize = SPKI_PREFIX.len() + 32;

/// What signs for this node. It signs other things too; TLS's messages begin with 64 spaces and a text of TLS, ours
/// with `zoneward/1`, so that none can be taken for the other.
pub(crate) type NodeKey = Arc<dyn Signer + Send + Sync>;

/// The TLS settings could not be made: the cryptographic library lacks something.
#[derive(Debug, thiserror::Error)]
#[error("setting up TLS 1.3 failed: {0}; this build of zoneward is broken, report it")]
pub struct TlsError(String);

fn provider() -> Arc<CryptoProvider> {
    let mut provider = aws_lc_rs::default_provider();
    provider.kx_groups = vec![aws_lc_rs::kx_group::X25519MLKEM768, aws_lc_rs::kx_group::X25519];
    Arc::new(provider)
}

/// Which servers a dialing node accepts.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Expect {
    /// Exactly the node with this key.
    Key([u8; 32]),
    /// Anyone for now: a joiner knows no member's key and asks for the owner's certificate next.
    AnyoneYet,
}

/// Settings to dial with.
pub(crate) fn client(key: &NodeKey, expect: Expect) -> Result<Arc<QuicClientConfig>, TlsError> {
    let failed = |e: &dyn std::fmt::Display| TlsError(e.to_string());
    let mut tls = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|e| failed(&e))?
        .dangerous() // The name of rustls for a verifier of one's own.
        .with_custom_certificate_verifier(Arc::new(Keys(Allowed::Server(expect))))
        .with_client_cert_resolver(Arc::new(AlwaysResolvesClientRawPublicKeys::new(certified(key))));
    tls.resumption = Resumption::disabled();
    tls.enable_early_data = false;
    tls.enable_sni = false;
    tls.alpn_protocols = vec![match expect {
        Expect::Key(_) => ALPN.to_vec(),
        Expect::AnyoneYet => ALPN_JOIN.to_vec(),
    }];
    Ok(Arc::new(QuicClientConfig::try_from(tls).map_err(|e| failed(&e))?))
}

/// Settings to be dialed with. With `joins`, strangers complete the handshake too: TLS judges the key before it
/// knows the protocol, so the caller must look at [`peer`] before it reads a byte.
pub(crate) fn server(key: &NodeKey, members: &MemberView, joins: bool) -> Result<Arc<QuicServerConfig>, TlsError> {
    let failed = |e: &dyn std::fmt::Display| TlsError(e.to_string());
    let allowed = if joins { Allowed::AnyClientYet } else { Allowed::Members(members.clone()) };
    let mut tls = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|e| failed(&e))?
        .with_client_cert_verifier(Arc::new(Keys(allowed)))
        .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(certified(key))));
    tls.session_storage = Arc::new(NoServerSessionStorage {});
    tls.send_tls13_tickets = 0;
    tls.max_early_data_size = 0;
    tls.alpn_protocols = vec![ALPN.to_vec()];
    if joins {
        tls.alpn_protocols.push(ALPN_JOIN.to_vec());
    }
    Ok(Arc::new(QuicServerConfig::try_from(tls).map_err(|e| failed(&e))?))
}

/// What a finished handshake proved: the protocol and the peer's key.
pub(crate) fn peer(connection: &quinn::Connection) -> Option<(Vec<u8>, [u8; 32])> {
    let protocol = connection.handshake_data()?.downcast::<HandshakeData>().ok()?.protocol?;
    let chain = connection.peer_identity()?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    let [only] = chain.as_slice() else { return None };
    Some((protocol, key_of(only)?))
}

fn certified(key: &NodeKey) -> Arc<CertifiedKey> {
    let spki = CertificateDer::from(spki_of(&key.public_key()));
    Arc::new(CertifiedKey::new(vec![spki], Arc::new(TlsKey(key.clone()))))
}

fn spki_of(key: &[u8; 32]) -> Vec<u8> {
    [&SPKI_PREFIX[..], key].concat()
}

/// The key, if these are the only bytes that encode an Ed25519 key.
fn key_of(spki: &[u8]) -> Option<[u8; 32]> {
    if spki.len() != SPKI_LEN {
        return None;
    }
    spki.strip_prefix(&SPKI_PREFIX)?.try_into().ok()
}

/// Whose keys are good.
#[derive(Debug)]
enum Allowed {
    Server(Expect),
    Members(MemberView),
    AnyClientYet,
}

#[derive(Debug)]
struct Keys(Allowed);

impl Keys {
    fn judge(&self, spki: &[u8], intermediates: &[CertificateDer<'_>]) -> Result<(), Error> {
        let refused = Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure);
        let key = key_of(spki).ok_or(Error::InvalidCertificate(CertificateError::BadEncoding))?;
        let good = intermediates.is_empty()
            && match &self.0 {
                Allowed::Server(Expect::Key(want)) => key == *want,
                Allowed::Members(view) => view.snapshot().node_of(&key).is_some(),
                Allowed::Server(Expect::AnyoneYet) | Allowed::AnyClientYet => true,
            };
        if good { Ok(()) } else { Err(refused) }
    }

    /// That the peer holds the key it showed: checked always, whoever is allowed.
    fn holds(message: &[u8], spki: &[u8], dss: &DigitallySignedStruct) -> Result<HandshakeSignatureValid, Error> {
        let spki = SubjectPublicKeyInfoDer::from(spki);
        verify_tls13_signature_with_raw_key(message, &spki, dss, &provider().signature_verification_algorithms)
    }
}

impl ServerCertVerifier for Keys {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.judge(end_entity, intermediates).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Self::holds(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

impl ClientCertVerifier for Keys {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn client_auth_mandatory(&self) -> bool {
        true
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.judge(end_entity, intermediates).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Self::holds(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

/// Lets TLS sign with the node's key without ever seeing it.
#[derive(Clone)]
struct TlsKey(NodeKey);

impl std::fmt::Debug for TlsKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TlsKey(…)")
    }
}

impl rustls::sign::SigningKey for TlsKey {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn rustls::sign::Signer>> {
        offered.contains(&SignatureScheme::ED25519).then(|| Box::new(self.clone()) as Box<dyn rustls::sign::Signer>)
    }

    fn public_key(&self) -> Option<SubjectPublicKeyInfoDer<'_>> {
        Some(SubjectPublicKeyInfoDer::from(spki_of(&self.0.public_key())))
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::ED25519
    }
}

impl rustls::sign::Signer for TlsKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        Ok(self.0.sign(message).to_vec())
    }

    fn scheme(&self) -> SignatureScheme {
        SignatureScheme::ED25519
    }
}

/// Settings of one who shows no key, or who offers the protocols of his choice.
#[cfg(test)]
pub(crate) fn odd_client(key: Option<&NodeKey>, protocols: &[&[u8]]) -> Arc<QuicClientConfig> {
    let tls = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Keys(Allowed::Server(Expect::AnyoneYet))));
    let mut tls = match key {
        None => tls.with_no_client_auth(),
        Some(key) => tls.with_client_cert_resolver(Arc::new(AlwaysResolvesClientRawPublicKeys::new(certified(key)))),
    };
    tls.alpn_protocols = protocols.iter().map(|p| p.to_vec()).collect();
    Arc::new(QuicClientConfig::try_from(tls).unwrap())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_one_encoding_of_a_key_is_a_key() {
        let good = spki_of(&[7; 32]);
        assert_eq!(key_of(&good), Some([7; 32]));
        assert_eq!(key_of(&good[..SPKI_LEN - 1]), None);
        assert_eq!(key_of(&[&good[..], &[0]].concat()), None);
        for i in 0..SPKI_PREFIX.len() {
            let mut bent = good.clone();
            bent[i] ^= 1;
            assert_eq!(key_of(&bent), None, "byte {i}");
        }
    }
}
