//! What only the owner may say: that history goes before its time, or that it can be taken back for a shorter time.
//!
//! The owner's signing key signs the act, the zone and its generation, how many such words were used before, and until when
//! this one counts: it counts once, here, now.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use zoneward_sectors::crypto::verify_ed25519;
use zoneward_sectors::ids::CheckpointId;

use crate::model::Zone;

/// A word of the owner, valid until a time of the zone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OwnerWord {
    pub expires_ms: u64,
    /// Base64 of the signature over [`message`].
    pub signature: String,
}

/// What the owner allows.
#[derive(Clone, Copy, Debug)]
pub enum Act<'a> {
    /// These checkpoints are marked; with `now` they go without grace.
    Forget { checkpoints: &'a [CheckpointId], now: bool },
    /// What was forgotten can be taken back for so long.
    Grace { grace_s: u32 },
    /// Content is dropped, however much of it is dead.
    Prune { checkpoint: CheckpointId },
}

/// What is signed (`docs/state.md`).
pub fn message(zone: &Zone, act: Act<'_>, expires_ms: u64) -> Vec<u8> {
    let mut out = b"zoneward/1 owner word".to_vec();
    out.extend_from_slice(&zone.id.0);
    out.extend_from_slice(&zone.generation.to_le_bytes());
    out.extend_from_slice(&zone.owner_words.to_le_bytes());
    out.extend_from_slice(&expires_ms.to_le_bytes());
    match act {
        Act::Forget { checkpoints, now } => {
            out.extend_from_slice(&[1, u8::from(now)]);
            checkpoints.iter().for_each(|c| out.extend_from_slice(&c.0));
        }
        Act::Grace { grace_s } => {
            out.push(2);
            out.extend_from_slice(&grace_s.to_le_bytes());
        }
        Act::Prune { checkpoint } => {
            out.push(3);
            out.extend_from_slice(&checkpoint.0);
        }
    }
    out
}

/// Whether this is the owner's word for this act, now.
pub fn allows(zone: &Zone, act: Act<'_>, word: &OwnerWord, now_ms: u64) -> bool {
    let owner = STANDARD.decode(&zone.owner_sign_public).ok().and_then(|k| <[u8; 32]>::try_from(k).ok());
    let Ok(signature) = STANDARD.decode(&word.signature) else { return false };
    let message = message(zone, act, word.expires_ms);
    now_ms < word.expires_ms && owner.is_some_and(|key| verify_ed25519(&key, &message, &signature))
}
