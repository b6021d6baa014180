//! Node certificate: the owner's signed word that a node may mint sectors for the zone (`docs/format.md` §2).

use crate::crypto::{Signer, verify_ed25519};
use crate::ids::NodeId;

/// Bytes of a node certificate.
pub const CERT_LEN: usize = 152;
const VERSION: u16 = 1;
const SIGNED_LEN: usize = 88;

/// Why a certificate is refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum CertError {
    #[error("a node certificate has {CERT_LEN} bytes, not {0}")]
    Length(usize),
    #[error("the node certificate has version {0}, this program knows version {VERSION}: use a newer zoneward")]
    Version(u16),
    #[error("the node certificate is damaged: reserved bytes are not zero")]
    Reserved,
    #[error("the certificate of node {0} is signed by another owner")]
    OtherOwner(NodeId),
    #[error("the signature on the certificate of node {0} is wrong: it was changed or forged")]
    Signature(NodeId),
}

/// What the owner certifies about a node. Believe nothing of it before [`NodeCertificate::verify`].
#[derive(Clone, PartialEq, Eq)]
pub struct NodeCertificate {
    /// Signer epoch in which it was issued.
    pub epoch: u32,
    pub node: NodeId,
    /// The node's Ed25519 key.
    pub public_key: [u8; 32],
    /// The owner's Ed25519 key, under which the signature must verify.
    pub owner_sign_public: [u8; 32],
    pub signature: [u8; 64],
}

impl std::fmt::Debug for NodeCertificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "NodeCertificate({}, epoch {})", self.node, self.epoch)
    }
}

impl NodeCertificate {
    /// Certifies a node's key with the owner's signing key.
    pub fn issue(owner: &dyn Signer, epoch: u32, node: NodeId, public_key: [u8; 32]) -> Self {
        let mut cert = Self { epoch, node, public_key, owner_sign_public: owner.public_key(), signature: [0; 64] };
        cert.signature = owner.sign(&cert.message());
        cert
    }

    /// The 152 bytes.
    pub fn to_bytes(&self) -> [u8; CERT_LEN] {
        let mut b = [0u8; CERT_LEN];
        b[0..2].copy_from_slice(&VERSION.to_le_bytes());
        b[4..8].copy_from_slice(&self.epoch.to_le_bytes());
        b[8..24].copy_from_slice(&self.node.0);
        b[24..56].copy_from_slice(&self.public_key);
        b[56..88].copy_from_slice(&self.owner_sign_public);
        b[SIGNED_LEN..].copy_from_slice(&self.signature);
        b
    }

    /// Reads the structure; checks no signature.
    pub fn parse(bytes: &[u8]) -> Result<Self, CertError> {
        let b: &[u8; CERT_LEN] = bytes.try_into().map_err(|_| CertError::Length(bytes.len()))?;
        let version = u16::from_le_bytes([b[0], b[1]]);
        if version != VERSION {
            return Err(CertError::Version(version));
        }
        if b[2] != 0 || b[3] != 0 {
            return Err(CertError::Reserved);
        }
        let mut cert = Self {
            epoch: u32::from_le_bytes([b[4], b[5], b[6], b[7]]),
            node: NodeId([0; 16]),
            public_key: [0; 32],
            owner_sign_public: [0; 32],
            signature: [0; 64],
        };
        cert.node.0.copy_from_slice(&b[8..24]);
        cert.public_key.copy_from_slice(&b[24..56]);
        cert.owner_sign_public.copy_from_slice(&b[56..88]);
        cert.signature.copy_from_slice(&b[SIGNED_LEN..]);
        Ok(cert)
    }

    /// Checks that the owner whose signing key is trusted issued this. The key inside the certificate counts for
    /// nothing by itself: anyone can sign with a key of his own.
    pub fn verify(&self, trusted_owner_sign_public: &[u8; 32]) -> Result<(), CertError> {
        if self.owner_sign_public != *trusted_owner_sign_public {
            return Err(CertError::OtherOwner(self.node));
        }
        if !verify_ed25519(trusted_owner_sign_public, &self.message(), &self.signature) {
            return Err(CertError::Signature(self.node));
        }
        Ok(())
    }

    fn message(&self) -> Vec<u8> {
        [b"zoneward/1 node certificate", &self.to_bytes()[..SIGNED_LEN]].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::{Secret32, SigningKey};

    fn owner() -> SigningKey {
        SigningKey::from_seed(&Secret32([1; 32]))
    }

    fn cert() -> NodeCertificate {
        NodeCertificate::issue(&owner(), 0x0403_0201, NodeId([0xaa; 16]), [0xbb; 32])
    }

    #[test]
    fn the_bytes_lie_where_the_format_says() {
        let b = cert().to_bytes();
        assert_eq!(b[..8], [1, 0, 0, 0, 1, 2, 3, 4]);
        assert_eq!(b[8..24], [0xaa; 16]);
        assert_eq!(b[24..56], [0xbb; 32]);
        assert_eq!(b[56..88], owner().public_key());
        let message = [b"zoneward/1 node certificate".as_slice(), &b[..88]].concat();
        assert!(verify_ed25519(&owner().public_key(), &message, &b[88..]));
        assert_eq!(NodeCertificate::parse(&b).unwrap(), cert());
        assert_eq!(cert().verify(&owner().public_key()), Ok(()));
    }

    #[test]
    fn every_changed_bit_is_refused() {
        let good = cert().to_bytes();
        for i in 0..CERT_LEN * 8 {
            let mut b = good;
            b[i / 8] ^= 1 << (i % 8);
            let refused = NodeCertificate::parse(&b).and_then(|c| c.verify(&owner().public_key()));
            match i / 8 {
                0 | 1 => assert!(matches!(refused, Err(CertError::Version(_))), "bit {i}"),
                2 | 3 => assert_eq!(refused, Err(CertError::Reserved), "bit {i}"),
                56..88 => assert!(matches!(refused, Err(CertError::OtherOwner(_))), "bit {i}"),
                _ => assert!(matches!(refused, Err(CertError::Signature(_))), "bit {i}"),
            }
        }
    }

    #[test]
    fn another_owners_certificate_and_other_lengths_are_refused() {
        let mallory = SigningKey::from_seed(&Secret32([2; 32]));
        let forged = NodeCertificate::issue(&mallory, 1, NodeId([3; 16]), [4; 32]);
        assert_eq!(forged.verify(&mallory.public_key()), Ok(()));
        assert_eq!(forged.verify(&owner().public_key()), Err(CertError::OtherOwner(NodeId([3; 16]))));
        let mut claimed = forged;
        claimed.owner_sign_public = owner().public_key();
        assert_eq!(claimed.verify(&owner().public_key()), Err(CertError::Signature(NodeId([3; 16]))));
        for len in [0, 1, 151, 153] {
            assert_eq!(NodeCertificate::parse(&vec![0; len]), Err(CertError::Length(len)));
        }
    }
}
