//! Heads and who signed them (`docs/format.md` §8): what a target shows is believed as far as the owner's word reaches.
//!
//! The owner vouches for the first voter of a generation. From there on voters hand over to the next with a head that a
//! majority of both signs, and each head is signed by a majority of its voters. Whoever has the owner's key can follow that.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use zoneward_consensus::heads::{Electorate, Handover, HeadSignature, Vouched, head_message, is_majority};
use zoneward_consensus::limits::HANDOVERS_MAX;
use zoneward_consensus::quorum;
use zoneward_sectors::cert::NodeCertificate;
use zoneward_sectors::crypto::verify_ed25519;
use zoneward_sectors::ids::{CheckpointId, CopyId, Digest, NodeId, SectorId, TargetId, ZoneId};

/// Signatures that are looked at: a zone has seven nodes at most.
const SIGNATURES_MAX: usize = 16;

/// `pointer.json`, as it is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pointer {
    pub format: u32,
    pub payload: String,
    pub signatures: Vec<HeadSignature>,
    /// What the owner said, and how voters handed over since; none: the head has only its signatures.
    pub vouched: Option<Chain>,
}

/// From the owner's word to the voters of a head.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Chain {
    pub zone: ZoneId,
    pub generation: u32,
    pub node: NodeId,
    pub signature: String,
    pub handovers: Vec<Handover>,
}

impl Chain {
    pub fn of(zone: ZoneId, word: &Vouched, handovers: &[Handover]) -> Self {
        let Vouched { generation, node, signature } = word.clone();
        Self { zone, generation, node, signature, handovers: handovers.to_vec() }
    }
}

/// The form of before: one signature.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Pointer1 {
    format: u32,
    payload: String,
    certificate: String,
    signature: String,
}

/// What a head says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeadPayload {
    pub n: u64,
    pub previous: Digest,
    pub sector: SectorId,
    pub raw_id: Digest,
    pub copies: Vec<HeadCopy>,
    pub checkpoint: CheckpointId,
    pub time_ms: u64,
    /// The zone's generation and who votes in it; heads of before do not tell.
    #[serde(default)]
    pub generation: u32,
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub voters: BTreeSet<NodeId>,
}

/// One copy of the system sector.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeadCopy {
    pub target: TargetId,
    pub copy: CopyId,
    pub header_hash: Digest,
}

/// A head that at least one node signed whose key the owner certified.
#[derive(Debug)]
pub struct SignedHead {
    /// A node that signed it.
    pub certificate: NodeCertificate,
    /// Its exact text.
    pub text: String,
    pub payload: HeadPayload,
    /// How voters handed over until it was made, if the owner's word reaches it.
    pub standing: Option<Standing>,
}

/// How the owner's word reaches a head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    pub generation: u32,
    /// Numbers and texts of the heads with which the voters changed.
    handovers: Vec<(u64, String)>,
}

/// How two heads stand to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Against {
    Same,
    /// The other one is older.
    Older,
    /// The other one is newer.
    Newer,
    /// The other one was signed by nodes that had handed over before, or in a generation that the owner ended.
    Overruled,
    /// This one was.
    Overrules,
    /// Neither follows from the other.
    Forked,
    /// The owner's word reaches this one, and not the other one, which is newer by its number.
    Unvouched,
}

impl SignedHead {
    /// How `other` stands to this one.
    pub fn against(&self, other: &SignedHead) -> Against {
        if self.text == other.text {
            return Against::Same;
        }
        let by_number = match other.payload.n.cmp(&self.payload.n) {
            Ordering::Less => Against::Older,
            Ordering::Equal => Against::Forked,
            Ordering::Greater => Against::Newer,
        };
        match (&self.standing, &other.standing) {
            (None, None) => by_number,
            (Some(_), None) if by_number == Against::Older => Against::Older,
            (Some(_), None) => Against::Unvouched,
            (None, Some(_)) if by_number == Against::Newer => Against::Newer,
            // What has the owner's word stands before what has not; who compares the other way round hears of it.
            (None, Some(_)) => Against::Overrules,
            (Some(mine), Some(theirs)) => mine.against(theirs, (self.payload.n, other.payload.n), by_number),
        }
    }
}

impl Standing {
    fn against(&self, other: &Self, (mine, theirs): (u64, u64), by_number: Against) -> Against {
        match other.generation.cmp(&self.generation) {
            Ordering::Less if theirs >= mine => return Against::Overruled,
            Ordering::Less => return Against::Older,
            Ordering::Greater if mine >= theirs => return Against::Overrules,
            Ordering::Greater => return Against::Newer,
            Ordering::Equal => {}
        }
        if self.handovers.iter().zip(&other.handovers).any(|(a, b)| a != b) {
            return Against::Forked;
        }
        // The first handover that the other one does not know of ended its voters' word.
        let ended = |of: &Self, by: &Self, n: u64| by.handovers.get(of.handovers.len()).is_some_and(|(at, _)| n >= *at);
        if ended(other, self, theirs) {
            Against::Overruled
        } else if ended(self, other, mine) {
            Against::Overrules
        } else {
            by_number
        }
    }
}

/// Reads the bytes of a `pointer.json`. What is damaged or forged tells nothing.
pub fn signed_head(bytes: &[u8], owner_sign_public: &[u8; 32]) -> Option<SignedHead> {
    let pointer = match serde_json::from_slice::<Pointer>(bytes) {
        Ok(p) if p.format == 2 => p,
        Ok(_) => return None,
        Err(_) => {
            let old: Pointer1 = serde_json::from_slice(bytes).ok().filter(|p: &Pointer1| p.format == 1)?;
            let signatures = vec![HeadSignature { certificate: old.certificate, signature: old.signature }];
            Pointer { format: 2, payload: old.payload, signatures, vouched: None }
        }
    };
    let signed = signed_by(&pointer.payload, &pointer.signatures, owner_sign_public);
    let certificate = signed.first()?.clone();
    let payload: HeadPayload = serde_json::from_str(&pointer.payload).ok()?;
    let signers: BTreeSet<NodeId> = signed.iter().map(|c| c.node).collect();
    let standing = match &pointer.vouched {
        // What claims the owner's word and does not have it is no head at all.
        Some(chain) => Some(standing(chain, &payload, &signers, owner_sign_public)?),
        None => None,
    };
    Some(SignedHead { certificate, text: pointer.payload, payload, standing })
}

/// The certified nodes whose signature of a head is right.
fn signed_by(payload: &str, signatures: &[HeadSignature], owner_sign_public: &[u8; 32]) -> Vec<NodeCertificate> {
    let message = head_message(payload);
    let right = |s: &HeadSignature| {
        let certificate = NodeCertificate::parse(&STANDARD.decode(&s.certificate).ok()?).ok()?;
        certificate.verify(owner_sign_public).ok()?;
        let signature = STANDARD.decode(&s.signature).ok()?;
        verify_ed25519(&certificate.public_key, &message, &signature).then_some(certificate)
    };
    signatures.iter().take(SIGNATURES_MAX).filter_map(right).collect()
}

/// Follows the voters from the owner's word to a head.
fn standing(
    chain: &Chain,
    head: &HeadPayload,
    signers: &BTreeSet<NodeId>,
    owner_sign_public: &[u8; 32],
) -> Option<Standing> {
    let word = quorum::message(chain.zone, chain.generation, chain.node);
    let signature = STANDARD.decode(&chain.signature).ok()?;
    if !verify_ed25519(owner_sign_public, &word, &signature) || chain.handovers.len() > HANDOVERS_MAX {
        return None;
    }
    let mut speak = BTreeSet::from([chain.node]);
    let mut handovers = Vec::new();
    let mut last = 0;
    for h in &chain.handovers {
        let said = Electorate::of(&h.payload).filter(|e| e.generation == chain.generation && e.n > last)?;
        let signed = signed_by(&h.payload, &h.signatures, owner_sign_public);
        let signers: BTreeSet<NodeId> = signed.iter().map(|c| c.node).collect();
        if !is_majority(&speak, &signers) || !is_majority(&said.voters, &signers) {
            return None;
        }
        last = said.n;
        speak = said.voters;
        handovers.push((last, h.payload.clone()));
    }
    let in_time = head.generation == chain.generation && head.n >= last && head.voters == speak;
    (in_time && is_majority(&speak, signers)).then_some(Standing { generation: chain.generation, handovers })
}

#[cfg(test)]
mod tests;
