//! A node's identity on its own disk: its Ed25519 key and the owner's certificate for it.
//!
//! Both lie in one file, so that a crash leaves either all of it or nothing. The key never leaves the node. The file is
//! local to the node and no part of the formats on targets:
//!
//! | offset | bytes | field |
//! | --- | --- | --- |
//! | 0 | 6 | `zwnode` |
//! | 6 | 2 | version = 1 |
//! | 8 | 32 | seed of the key |
//! | 40 | 152 | node certificate (`docs/format.md` §2), which names the node |

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;
use zoneward_sectors::cert::{CERT_LEN, CertError, NodeCertificate};
use zoneward_sectors::crypto::{Secret32, Signer, SigningKey};
use zoneward_sectors::fsx;
use zoneward_sectors::ids::NodeId;

/// Name of the file in the directory for secrets.
pub const FILE_NAME: &str = "node-identity";
const MAGIC: [u8; 6] = *b"zwnode";
const VERSION: u16 = 1;
const SEED_AT: usize = 8;
const CERT_AT: usize = 40;
const FILE_LEN: usize = CERT_AT + CERT_LEN;

/// Why an identity could not be made or read.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("this node has an identity already, {}: it is never replaced", path.display())]
    Exists { path: PathBuf },
    #[error("this node has no identity: {} is missing", path.display())]
    Missing { path: PathBuf },
    #[error("{what} the node's identity {} failed", path.display())]
    Io { what: &'static str, path: PathBuf, source: io::Error },
    #[error(
        "others may read the node's secret key (mode {mode:o}); \
         if nobody has, close it to them: chmod 600 {}",
        shell_quote(path)
    )]
    Readable { path: PathBuf, mode: u32 },
    #[error("the node's identity {} is damaged: {what}", path.display())]
    Damaged { path: PathBuf, what: &'static str },
    #[error("the node's identity {} has version {version}, this program knows version {VERSION}", path.display())]
    Version { path: PathBuf, version: u16 },
    #[error("the certificate is for another key or node ({got}) than the one that joins ({node}): join again")]
    OtherCertificate { node: NodeId, got: NodeId },
    #[error("the certificate in the node's identity {} is refused", path.display())]
    Certificate { path: PathBuf, source: CertError },
}

/// Who a node is: its key, wiped when dropped and never printed, and the owner's certificate for it.
pub struct NodeIdentity {
    key: SigningKey,
    certificate: NodeCertificate,
}

impl std::fmt::Debug for NodeIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "NodeIdentity({})", self.certificate.node)
    }
}

impl NodeIdentity {
    /// Makes a key, has the owner certify it for `node` in signer epoch `epoch`, and writes both durably into `dir`
    /// (which must exist), readable by this user only. An identity that is already there is never replaced.
    pub fn create(dir: &Path, node: NodeId, epoch: u32, owner: &dyn Signer) -> Result<Self, IdentityError> {
        let path = dir.join(FILE_NAME);
        let new = NewNode::random(node);
        let certificate = NodeCertificate::issue(owner, epoch, node, new.public_key());
        new.write(path, certificate)
    }

    /// An identity that is written nowhere yet: the bytes of its file, which the caller keeps sealed.
    pub fn issue(node: NodeId, epoch: u32, owner: &dyn Signer) -> Zeroizing<Vec<u8>> {
        let new = NewNode::random(node);
        let certificate = NodeCertificate::issue(owner, epoch, node, new.public_key());
        Zeroizing::new(new.file(&certificate).to_vec())
    }

    /// Writes an identity that was issued before into `dir`, as [`Self::create`] does, if its certificate stands under
    /// the owner's signing key that is trusted.
    pub fn put(dir: &Path, issued: &[u8], trusted_owner_sign_public: &[u8; 32]) -> Result<Self, IdentityError> {
        let path = dir.join(FILE_NAME);
        let Ok(bytes) = <&[u8; FILE_LEN]>::try_from(issued) else {
            return Err(IdentityError::Damaged { path, what: "it has the wrong length" });
        };
        let identity = Self::decode(&path, bytes, trusted_owner_sign_public)?;
        write_once(&path, bytes)?;
        Ok(identity)
    }

    /// Reads the identity from `dir`. The certificate must stand under the owner's signing key that the zone trusts.
    pub fn load(dir: &Path, trusted_owner_sign_public: &[u8; 32]) -> Result<Self, IdentityError> {
        let path = dir.join(FILE_NAME);
        let bytes = read_private(&path)?;
        Self::decode(&path, &bytes, trusted_owner_sign_public)
    }

    fn decode(path: &Path, bytes: &[u8; FILE_LEN], trusted: &[u8; 32]) -> Result<Self, IdentityError> {
        let damaged = |what| IdentityError::Damaged { path: path.to_owned(), what };
        let refused = |source| IdentityError::Certificate { path: path.to_owned(), source };
        if bytes[..6] != MAGIC {
            return Err(damaged("it does not start with the right bytes"));
        }
        let version = u16::from_le_bytes([bytes[6], bytes[7]]);
        if version != VERSION {
            return Err(IdentityError::Version { path: path.to_owned(), version });
        }
        let mut seed = Secret32([0; 32]);
        seed.0.copy_from_slice(&bytes[SEED_AT..CERT_AT]);
        let certificate = NodeCertificate::parse(&bytes[CERT_AT..]).map_err(refused)?;
        certificate.verify(trusted).map_err(refused)?;
        let key = SigningKey::from_seed(&seed);
        if key.public_key() != certificate.public_key {
            return Err(damaged("the certificate is for another key"));
        }
        Ok(Self { key, certificate })
    }

    /// The node.
    pub fn node(&self) -> NodeId {
        self.certificate.node
    }

    /// The owner's certificate for this node's key.
    pub fn certificate(&self) -> &NodeCertificate {
        &self.certificate
    }
}

/// A node that has a key and no certificate yet: what joins a zone. The key is in memory only, so a node that stops
/// before it is certified begins anew.
pub struct NewNode {
    node: NodeId,
    seed: Secret32,
    key: SigningKey,
}

impl std::fmt::Debug for NewNode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "NewNode({})", self.node)
    }
}

impl NewNode {
    /// A fresh key for `node`.
    pub fn random(node: NodeId) -> Self {
        let seed = Secret32::random();
        let key = SigningKey::from_seed(&seed);
        Self { node, seed, key }
    }

    /// The node.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// Takes the certificate that the zone handed over, if it is for this key and node and of the owner whose signing
    /// key is trusted, and writes both durably into `dir`, as [`NodeIdentity::create`] does.
    pub fn certified(
        &self,
        dir: &Path,
        certificate: NodeCertificate,
        trusted_owner_sign_public: &[u8; 32],
    ) -> Result<NodeIdentity, IdentityError> {
        let path = dir.join(FILE_NAME);
        if let Err(source) = certificate.verify(trusted_owner_sign_public) {
            return Err(IdentityError::Certificate { path, source });
        }
        if (certificate.node, certificate.public_key) != (self.node, self.key.public_key()) {
            return Err(IdentityError::OtherCertificate { node: self.node, got: certificate.node });
        }
        self.write(path, certificate)
    }

    fn write(&self, path: PathBuf, certificate: NodeCertificate) -> Result<NodeIdentity, IdentityError> {
        write_once(&path, &*self.file(&certificate))?;
        Ok(NodeIdentity { key: SigningKey::from_seed(&self.seed), certificate })
    }

    fn file(&self, certificate: &NodeCertificate) -> Zeroizing<[u8; FILE_LEN]> {
        let mut bytes = Zeroizing::new([0u8; FILE_LEN]);
        bytes[..6].copy_from_slice(&MAGIC);
        bytes[6..SEED_AT].copy_from_slice(&VERSION.to_le_bytes());
        bytes[SEED_AT..CERT_AT].copy_from_slice(&self.seed.0);
        bytes[CERT_AT..].copy_from_slice(&certificate.to_bytes());
        bytes
    }
}

fn write_once(path: &Path, bytes: &[u8]) -> Result<(), IdentityError> {
    let io = |what| move |source| IdentityError::Io { what, path: path.to_owned(), source };
    if fsx::size(path).map_err(io("looking for"))?.is_some() {
        return Err(IdentityError::Exists { path: path.to_owned() });
    }
    fsx::write_durably(path, bytes, 0o600).map_err(io("writing"))
}

impl Signer for NewNode {
    fn public_key(&self) -> [u8; 32] {
        self.key.public_key()
    }

    fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.key.sign(message)
    }
}

impl Signer for NodeIdentity {
    fn public_key(&self) -> [u8; 32] {
        self.key.public_key()
    }

    fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.key.sign(message)
    }
}

/// Reads the file if nobody else may. Mode and content are asked of the same open file.
fn read_private(path: &Path) -> Result<Zeroizing<[u8; FILE_LEN]>, IdentityError> {
    let failed = |source| IdentityError::Io { what: "reading", path: path.to_owned(), source };
    let file = match fsx::open_read(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return Err(IdentityError::Missing { path: path.to_owned() });
        }
        opened => opened.map_err(failed)?,
    };
    let meta = file.metadata().map_err(failed)?;
    if meta.mode() & 0o077 != 0 {
        return Err(IdentityError::Readable { path: path.to_owned(), mode: meta.mode() & 0o7777 });
    }
    if !meta.is_file() || meta.len() != FILE_LEN as u64 {
        return Err(IdentityError::Damaged { path: path.to_owned(), what: "it has the wrong length" });
    }
    let mut bytes = Zeroizing::new([0u8; FILE_LEN]);
    fsx::read_exact_at(&file, &mut *bytes, 0).map_err(failed)?;
    Ok(bytes)
}

/// The path as a shell takes it.
fn shell_quote(path: &Path) -> String {
    let text = path.to_string_lossy();
    let plain = |c: char| c.is_alphanumeric() || "/._-+@:,".contains(c);
    if text.chars().all(plain) { text.into_owned() } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use zoneward_sectors::crypto::verify_ed25519;

    const NODE: NodeId = NodeId([7; 16]);

    fn owner() -> SigningKey {
        SigningKey::from_seed(&Secret32([1; 32]))
    }

    fn trusted() -> [u8; 32] {
        owner().public_key()
    }

    fn made() -> (tempfile::TempDir, PathBuf, NodeIdentity) {
        let dir = tempfile::tempdir().unwrap();
        let id = NodeIdentity::create(dir.path(), NODE, 3, &owner()).unwrap();
        let path = dir.path().join(FILE_NAME);
        (dir, path, id)
    }

    #[test]
    fn an_identity_that_was_issued_before_is_put_where_it_is_needed() {
        let (dir, bytes) = (tempfile::tempdir().unwrap(), NodeIdentity::issue(NODE, 3, &owner()));
        assert!(matches!(NodeIdentity::put(dir.path(), &bytes, &[9; 32]), Err(IdentityError::Certificate { .. })));
        assert!(matches!(NodeIdentity::put(dir.path(), &bytes[1..], &trusted()), Err(IdentityError::Damaged { .. })));
        let put = NodeIdentity::put(dir.path(), &bytes, &trusted()).unwrap();
        let back = NodeIdentity::load(dir.path(), &trusted()).unwrap();
        assert_eq!((put.node(), put.public_key()), (NODE, back.public_key()));
        assert!(matches!(NodeIdentity::put(dir.path(), &bytes, &trusted()), Err(IdentityError::Exists { .. })));
    }

    #[test]
    fn an_identity_is_written_once_for_this_user_only_and_read_back() {
        let (dir, path, id) = made();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        let back = NodeIdentity::load(dir.path(), &trusted()).unwrap();
        assert_eq!((back.node(), back.public_key(), back.certificate()), (NODE, id.public_key(), id.certificate()));
        assert_eq!(back.certificate().epoch, 3);
        assert!(verify_ed25519(&back.certificate().public_key, b"text", &back.sign(b"text")));
        let before = fs::read(&path).unwrap();
        let e = NodeIdentity::create(dir.path(), NODE, 3, &owner()).unwrap_err();
        assert!(matches!(e, IdentityError::Exists { .. }));
        assert_eq!(fs::read(&path).unwrap(), before);
    }

    #[test]
    fn a_new_node_takes_only_its_own_certificate() {
        let dir = tempfile::tempdir().unwrap();
        let new = NewNode::random(NODE);
        let mallory = SigningKey::from_seed(&Secret32([2; 32]));
        let wrong = [
            NodeCertificate::issue(&owner(), 1, NODE, [9; 32]),
            NodeCertificate::issue(&owner(), 1, NodeId([8; 16]), new.public_key()),
            NodeCertificate::issue(&mallory, 1, NODE, new.public_key()),
        ];
        for certificate in wrong {
            new.certified(dir.path(), certificate, &trusted()).unwrap_err();
        }
        let good = NodeCertificate::issue(&owner(), 1, NODE, new.public_key());
        let id = new.certified(dir.path(), good, &trusted()).unwrap();
        let back = NodeIdentity::load(dir.path(), &trusted()).unwrap();
        assert_eq!((back.node(), back.public_key()), (new.node(), id.public_key()));
        assert_eq!(format!("{new:?}"), format!("NewNode({NODE})"));
    }

    #[test]
    fn two_identities_have_two_keys() {
        assert_ne!(made().2.public_key(), made().2.public_key());
    }

    #[test]
    fn what_a_crash_left_behind_does_not_matter() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(format!(".new-{FILE_NAME}")), b"half").unwrap();
        assert!(matches!(NodeIdentity::load(dir.path(), &trusted()), Err(IdentityError::Missing { .. })));
        NodeIdentity::create(dir.path(), NODE, 1, &owner()).unwrap();
        NodeIdentity::load(dir.path(), &trusted()).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_key_that_others_may_read_is_refused_with_the_cure() {
        let (dir, path, _) = made();
        for mode in [0o640, 0o604, 0o620, 0o601] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let e = NodeIdentity::load(dir.path(), &trusted()).unwrap_err();
            assert!(matches!(e, IdentityError::Readable { mode: m, .. } if m == mode));
            assert!(e.to_string().ends_with(&format!("chmod 600 {}", path.display())), "{e}");
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        NodeIdentity::load(dir.path(), &trusted()).unwrap();
        assert_eq!(shell_quote(Path::new("/a b/it's")), r"'/a b/it'\''s'");
    }

    #[test]
    fn every_changed_byte_is_refused() {
        let (_dir, path, _) = made();
        let good: [u8; FILE_LEN] = fs::read(&path).unwrap().try_into().unwrap();
        NodeIdentity::decode(&path, &good, &trusted()).unwrap();
        for i in 0..FILE_LEN {
            let mut bent = good;
            bent[i] ^= 1;
            let e = NodeIdentity::decode(&path, &bent, &trusted()).unwrap_err();
            match i {
                0..6 | SEED_AT..CERT_AT => assert!(matches!(e, IdentityError::Damaged { .. }), "byte {i}: {e}"),
                6 | 7 => assert!(matches!(e, IdentityError::Version { .. }), "byte {i}: {e}"),
                _ => assert!(matches!(e, IdentityError::Certificate { .. }), "byte {i}: {e}"),
            }
        }
    }

    #[test]
    fn other_owners_lengths_and_kinds_of_file_are_refused() {
        let (dir, path, _) = made();
        let e = NodeIdentity::load(dir.path(), &[9; 32]).unwrap_err();
        assert!(matches!(e, IdentityError::Certificate { source: CertError::OtherOwner(NODE), .. }));
        let good = fs::read(&path).unwrap();
        for bytes in [&good[..0], &good[..FILE_LEN - 1], &[&good[..], &[0]].concat()] {
            fs::write(&path, bytes).unwrap();
            let e = NodeIdentity::load(dir.path(), &trusted()).unwrap_err();
            assert!(matches!(e, IdentityError::Damaged { .. }), "{e}");
        }
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
        assert!(matches!(NodeIdentity::load(dir.path(), &trusted()), Err(IdentityError::Damaged { .. })));
    }

    #[test]
    fn a_directory_that_is_not_there_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let e = NodeIdentity::create(&dir.path().join("none"), NODE, 1, &owner()).unwrap_err();
        assert!(matches!(e, IdentityError::Io { what: "writing", .. }), "{e}");
    }

    #[test]
    fn the_key_is_not_printed() {
        assert_eq!(format!("{:?}", made().2), format!("NodeIdentity({NODE})"));
    }
}
