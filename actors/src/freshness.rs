//! Whether this home is the zone's newest: a home that was put back from an older copy must not write over what the zone
//! did since.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zoneward_consensus::command::Command;
use zoneward_consensus::model::State;
use zoneward_sectors::crypto::sha256;
use zoneward_sectors::ids::{Digest, TargetId};
use zoneward_targets::{ObjectName, Target, TargetError};

use crate::errors::ZoneError;
use crate::headchain::signed_head;
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

/// What a target shows in place of the head that the zone last wrote there, if that is older or none at all. A newer one may
/// be on its way into the state, or tells that this home is old: that is found out elsewhere.
pub(crate) fn misshown(state: &State, id: TargetId, target: &dyn Target) -> Option<Command> {
    let t = state.targets.get(&id)?;
    let wrote = t.pointer?;
    let owner = STANDARD.decode(&state.zone.as_ref()?.owner_sign_public).ok()?;
    let what = match target.get_object(t.alias, ObjectName::Pointer, POINTER_LEN_MAX) {
        Ok(bytes) => match signed_head(&bytes, owner.as_slice().try_into().ok()?) {
            Some(head) if head.payload.n >= wrote.n => return None,
            Some(head) => format!("head {}, older than the head {} that was written there", head.payload.n, wrote.n),
            None => format!("something that is no head of the zone, in place of head {}", wrote.n),
        },
        Err(e) if e.is_not_found() => format!("no head, in place of head {}", wrote.n),
        Err(TargetError::TooLarge { .. }) => format!("something too large for a head, in place of head {}", wrote.n),
        // No answer says nothing.
        Err(_) => return None,
    };
    Some(Command::Misshown { target: id, wrote: wrote.hash, what })
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
