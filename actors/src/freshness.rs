//! Whether this home is the zone's newest: a home that was put back from an older copy must not write over what the zone
//! did since.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zoneward_sectors::cert::NodeCertificate;
use zoneward_sectors::crypto::{sha256, verify_ed25519};
use zoneward_sectors::ids::{Digest, TargetId};
use zoneward_targets::{ObjectName, Target};

use crate::errors::ZoneError;
use crate::system::{HeadPayload, Pointer};
use crate::zone::Zone;

/// Bytes of a pointer at most.
pub(crate) const POINTER_LEN_MAX: u64 = 1 << 20;

/// A head that this zone published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Published {
    pub n: u64,
    pub payload_hash: Digest,
    pub time_ms: u64,
}

/// A head that a node signed whose key the owner certified.
#[derive(Debug)]
pub(crate) struct SignedHead {
    pub certificate: NodeCertificate,
    /// Its exact text.
    pub text: String,
    pub payload: HeadPayload,
}

/// Reads the bytes of a `pointer.json`. What is damaged or forged tells nothing.
pub(crate) fn signed_head(bytes: &[u8], owner_sign_public: &[u8; 32]) -> Option<SignedHead> {
    let pointer: Pointer = serde_json::from_slice(bytes).ok()?;
    let certificate = NodeCertificate::parse(&STANDARD.decode(&pointer.certificate).ok()?).ok()?;
    certificate.verify(owner_sign_public).ok()?;
    let message = [b"zoneward/1 head", pointer.payload.as_bytes()].concat();
    let signature = STANDARD.decode(&pointer.signature).ok()?;
    if !verify_ed25519(&certificate.public_key, &message, &signature) {
        return None;
    }
    let payload = serde_json::from_str(&pointer.payload).ok()?;
    Some(SignedHead { certificate, text: pointer.payload, payload })
}

/// The head that a target shows, if a node of this zone signed it. What cannot be read tells nothing.
fn shown(zone: &Zone, id: TargetId, target: &dyn Target) -> Option<(Published, String)> {
    let bytes = target.get_object(zone.keys().alias(id), ObjectName::Pointer, POINTER_LEN_MAX).ok()?;
    let head = signed_head(&bytes, zone.owner().sign_public())?;
    // Of a node that this home knows under another key it is not. One that it never heard of may have joined since.
    let known = zone.state().nodes.get(&head.certificate.node);
    if known.is_some_and(|n| n.public_key != STANDARD.encode(head.certificate.public_key)) {
        return None;
    }
    let payload_hash = sha256(&[head.text.as_bytes()]);
    Some((Published { n: head.payload.n, payload_hash, time_ms: head.payload.time_ms }, head.text))
}

/// A head on this target that this home does not know: newer than its own, or another of the same number.
pub(crate) fn unknown_head(zone: &Zone, id: TargetId, target: &dyn Target) -> Option<Published> {
    let (head, text) = shown(zone, id, target)?;
    let own = zone.state().head.as_ref();
    let newer = head.n > own.map_or(0, |h| h.n);
    (newer || own.is_some_and(|h| h.n == head.n && h.payload != text)).then_some(head)
}

/// Refuses to go on where a target shows that the zone went on without this home. `go_on` is the owner's word that the home
/// is the right one: what it does not know is then left behind.
pub(crate) fn refuse_older_home(zone: &mut Zone, go_on: bool) -> Result<(), ZoneError> {
    let targets: Vec<_> = zone.targets().iter().map(|(id, t)| (*id, t.clone())).collect();
    for (id, target) in targets {
        if let Some(head) = unknown_head(zone, id, target.as_ref()) {
            if !go_on {
                return Err(older_home(zone, id, head));
            }
            zone.leave_behind(head);
        }
    }
    Ok(())
}

pub(crate) fn older_home(zone: &Zone, id: TargetId, head: Published) -> ZoneError {
    let target = zone.state().targets.get(&id).map_or_else(|| id.to_string(), |t| t.name.clone());
    let own = zone.state().head.as_ref().map_or(0, |h| h.n);
    ZoneError::OlderHome { target, theirs: head.n, own }
}
