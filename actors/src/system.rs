//! System sectors and heads: how a zone is found again from one target and the owner's key.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zoneward_consensus::command::Command;
use zoneward_consensus::export::export_state;
use zoneward_consensus::heads::{Electorate, Handover, HeadSignature, head_message, is_majority, signers, speakers};
use zoneward_consensus::limits::HANDOVERS_MAX;
use zoneward_consensus::model::{Head, State};
use zoneward_sectors::crypto::sha256;
use zoneward_sectors::frames::FrameWriter;
use zoneward_sectors::fsx;
use zoneward_sectors::ids::{CheckpointId, CopyId, Digest, NodeId, SectorId, TargetId};
use zoneward_sectors::keyfile::OwnerKeyFile;
use zoneward_sectors::pack::{IndexJson, IndexSystem};
use zoneward_sectors::pax;
use zoneward_sectors::sector_writer::{Finished, SectorFacts, SectorWriter};
use zoneward_sectors::stream::stored_id;
use zoneward_targets::{ObjectName, Target, TargetError};

use crate::clock::now_ms;
use crate::errors::ZoneError;
use crate::freshness::{older_home, unknown_head};
use crate::headchain::{Chain, HeadCopy, HeadPayload, Pointer};
use crate::mint::{mint_copy, record_stripes};
use crate::provide::first_target;
use crate::zone::Zone;

/// The priority of system data: above all else.
const SYSTEM_PRIORITY: i32 = 50;

/// Packs the zone's state into a system sector on the first target.
pub(crate) fn write_system(zone: &mut Zone, checkpoint: CheckpointId) -> Result<(), ZoneError> {
    crate::secrets::demand_newest(zone)?;
    let mut state = Vec::new();
    export_state(zone.state(), &mut state).map_err(crate::home::io_at("export", &zone.home.state()))?;
    let secret = zone.keys().secrets().to_json();
    let mut tar = Vec::with_capacity(state.len() + 8192);
    let state_at = add_member(&mut tar, ".zoneward/system/state.json", &state);
    let secret_at = add_member(&mut tar, ".zoneward/system/zone-secret.json", &secret);
    let target = first_target(zone)?;
    let sector = SectorId::random();
    let min = zone.state().zone.as_ref().map_or(31, |z| z.sector_min_log2);
    let class_log2 = min.max((tar.len() as u64 + (64 << 10)).next_power_of_two().trailing_zeros() as u8);
    let copies = zone.state().targets.len().clamp(1, 255) as u8;
    fsx::point("system:before");
    zone.propose(Command::OpenSector {
        sector,
        checkpoint,
        class_log2,
        system: true,
        copies_wanted: copies,
        min_priority: SYSTEM_PRIORITY,
        write_only: false,
    })?;
    let minted = mint_copy(zone, sector, class_log2, target)?;
    let facts = SectorFacts {
        zone: zone.keys().zone(),
        sector,
        checkpoint,
        packer: zone.node(),
        epoch: zone.keys().epoch(),
        system: true,
        created_ms: now_ms(),
    };
    let write = || -> Result<Finished, ZoneError> {
        let mut frames = FrameWriter::new(3).map_err(zoneward_sectors::sector_writer::SectorWriteError::Io)?;
        let mut w = SectorWriter::begin(facts, &minted.header, minted.keys, minted.out.clone(), None)?;
        w.add_tar(&mut frames, &tar)?;
        let system = Some(IndexSystem { state: state_at, secret: secret_at });
        let index = IndexJson { format: 1, sector, catalogs: Vec::new(), system };
        let json = serde_json::to_vec(&index).map_err(|_| ZoneError::State { what: "the index cannot be written" })?;
        let done = w.finish(&mut frames, &json)?;
        fsx::point("system-seal:before");
        minted.out.seal(done.file_len)?;
        fsx::point("system-seal:after");
        Ok(done)
    };
    let done = match write() {
        Ok(d) => d,
        Err(e) => {
            minted.out.abandon();
            zone.propose(Command::AbandonSector { sector })?;
            return Err(e);
        }
    };
    zone.propose(Command::SealSector {
        sector,
        raw_id: done.raw_id,
        raw_len: done.raw_len,
        tar_len: done.tar_len,
        index: done.index,
        seek_table: done.seek_table,
        entries: 0,
        parts: Vec::new(),
        refs: BTreeMap::new(),
        copy: minted.copy,
        stored_len: done.file_len,
        stored_id: Some(stored_id(&done.pieces)),
    })?;
    record_stripes(zone, minted.copy, &minted.out, done.file_len)?;
    fsx::point("system:after");
    Ok(())
}

/// Adds a member and answers where its content lies.
fn add_member(tar: &mut Vec<u8>, name: &str, content: &[u8]) -> (u64, u64) {
    pax::append_simple(tar, name, content.len() as u64);
    let at = tar.len() as u64;
    tar.extend_from_slice(content);
    tar.resize(tar.len() + pax::padding(content.len() as u64), 0);
    (at, content.len() as u64)
}

/// The newest system sector that is sealed.
fn newest_system(state: &State) -> Option<(SectorId, Digest, CheckpointId)> {
    let systems = state.sectors.values().filter(|s| s.system && s.is_sealed());
    let newest = systems.max_by_key(|s| (state.checkpoints.get(&s.checkpoint).map_or(0, |c| c.seq), s.created_ms))?;
    Some((newest.id, newest.raw_id?, newest.checkpoint))
}

/// Publishes the newest head on one target, making the head first if it does not exist yet.
pub(crate) fn publish(zone: &mut Zone, target: TargetId) -> Result<(), ZoneError> {
    let (sector, raw_id, checkpoint) =
        newest_system(zone.state()).ok_or_else(|| ZoneError::Sector("there is no system sector yet".into()))?;
    let voters = zone.voters();
    if is_behind(zone.state(), sector, &voters) {
        let left = zone.left_behind().map(|l| (l.n, l.payload_hash));
        zone.propose(next_head(zone.state(), (sector, raw_id, checkpoint), voters, left)?)?;
    }
    let head = zone.state().head.clone().ok_or(ZoneError::State { what: "the head is missing" })?;
    let pointer = signed(zone, &head)?;
    let bytes = serde_json::to_vec(&pointer).map_err(|_| ZoneError::State { what: "the head cannot be written" })?;
    let alias = zone.keys().alias(target);
    let t = zone.target(target).cloned().ok_or_else(|| ZoneError::NoTarget("it is not reachable".into()))?;
    let left = zone.left_behind().map_or(0, |l| l.n);
    if let Some(theirs) = unknown_head(zone, target, t.as_ref()).filter(|h| h.n > left) {
        return Err(older_home(zone, target, theirs));
    }
    t.lock_for(crate::guard::lock_s(zone.state()));
    put_back_owner_key(zone, target, t.as_ref())?;
    fsx::point("publish:before");
    t.put_object(alias, ObjectName::Pointer, &bytes)?;
    fsx::point("publish:after");
    zone.propose(Command::PublishedPointer { target, n: head.n, hash: sha256(&[&bytes]) })?;
    Ok(())
}

/// Puts the owner's sealed key back where it is gone or changed, or was not replaced when the owner changed it: without
/// it, words and target no longer open anything. What cannot be read now is left alone, and so is a target whose key this
/// home does not have; a check names both.
fn put_back_owner_key(zone: &mut Zone, id: TargetId, target: &dyn Target) -> Result<(), ZoneError> {
    let Some(wanted) = zone.state().targets.get(&id).and_then(|t| t.owner_key_hash) else { return Ok(()) };
    let alias = zone.keys().alias(id);
    let (right, with_passphrase) = match target.get_object(alias, ObjectName::OwnerKey, 1 << 16) {
        Ok(bytes) => {
            let with = OwnerKeyFile::from_bytes(&bytes).is_ok_and(|f| f.has_passphrase());
            (sha256(&[&bytes]) == wanted, with)
        }
        Err(TargetError::NotFound { .. } | TargetError::TooLarge { .. }) => (false, false),
        Err(_) => return Ok(()),
    };
    let Ok(kept) = fsx::read_limited(&zone.home.owner_key(), 1 << 16) else { return Ok(()) };
    let Ok(file) = OwnerKeyFile::from_bytes(&kept) else { return Ok(()) };
    let forms = [file.without_passphrase().to_bytes(), file.to_bytes()];
    match forms.iter().find(|b| sha256(&[b]) == wanted) {
        Some(_) if right => {}
        Some(bytes) => target.put_object(alias, ObjectName::OwnerKey, bytes)?,
        // In a zone of one node nobody else can have changed the keys: this home holds the newest.
        None if zone.state().nodes.len() == 1 => {
            let bytes = &forms[usize::from(with_passphrase)];
            target.put_object(alias, ObjectName::OwnerKey, bytes)?;
            let owner_key_hash = Some(sha256(&[bytes]));
            zone.propose(Command::SetTarget { target: id, paused: None, owner_key_hash })?;
        }
        None => {}
    }
    Ok(())
}

/// Whether the newest head speaks of another system sector, or in the name of others than those who vote now.
fn is_behind(state: &State, sector: SectorId, voters: &BTreeSet<NodeId>) -> bool {
    let generation = state.zone.as_ref().map_or(0, |z| z.generation);
    let right = |h: &Head| {
        let said = Electorate::of(&h.payload);
        h.sector == sector && said.is_some_and(|e| e.generation == generation && e.voters == *voters)
    };
    !state.head.as_ref().is_some_and(right)
}

/// The head after the newest, in the name of these voters. What was left behind (its number and hash) has its numbers.
fn next_head(
    state: &State,
    (sector, raw_id, checkpoint): (SectorId, Digest, CheckpointId),
    voters: BTreeSet<NodeId>,
    left: Option<(u64, Digest)>,
) -> Result<Command, ZoneError> {
    let copies = state.copies.values().filter(|c| c.sector == sector && c.is_stored());
    let own = state.head.as_ref().map(|h| (h.n, h.payload_hash));
    let last = own.max(left);
    let n = last.map_or(0, |l| l.0).checked_add(1);
    let n = n.ok_or(ZoneError::State { what: "there is no number left for a head" })?;
    let payload = HeadPayload {
        n,
        previous: last.map_or(Digest([0; 32]), |l| l.1),
        sector,
        raw_id,
        copies: copies.map(|c| HeadCopy { target: c.target, copy: c.id, header_hash: c.header_hash }).collect(),
        checkpoint,
        time_ms: now_ms(),
        generation: state.zone.as_ref().map_or(0, |z| z.generation),
        voters,
    };
    let text = serde_json::to_string(&payload);
    let payload = text.map_err(|_| ZoneError::State { what: "the head cannot be written" })?;
    Ok(Command::PublishHead { n, payload_hash: sha256(&[payload.as_bytes()]), payload, sector, checkpoint })
}

/// What the leader says when the voters have changed since the newest head: the next one, of the same system data, so that
/// those who spoke for the zone before can hand over while they are there.
pub(crate) fn handover(state: &State, voters: &BTreeSet<NodeId>) -> Option<Command> {
    let head = state.head.as_ref()?;
    let sector = state.sectors.get(&head.sector)?;
    let newest = newest_system(state)?;
    // A newer system sector brings a head of its own.
    if newest.0 != head.sector || !is_behind(state, head.sector, voters) {
        return None;
    }
    next_head(state, (head.sector, sector.raw_id?, head.checkpoint), voters.clone(), None).ok()
}

fn handovers_of(state: &State) -> &[Handover] {
    state.head.as_ref().map_or(&[], |h| &h.handovers)
}

/// The head with the signatures of a majority of its voters; if those are others than before, of those too.
fn signed(zone: &mut Zone, head: &Head) -> Result<Pointer, ZoneError> {
    let own = STANDARD.encode(zone.signer().sign(&head_message(&head.payload)));
    let mut signatures = vec![(zone.node(), own)];
    let before = speakers(zone.state());
    let said = Electorate::of(&head.payload).ok_or(ZoneError::State { what: "the head" })?;
    let asked: BTreeSet<NodeId> = before.iter().flatten().chain(&said.voters).copied().collect();
    let others: Vec<NodeId> = asked.into_iter().filter(|id| *id != zone.node()).collect();
    signatures.extend(zone.cosigned(&others, head));
    let by = signers(zone.state(), &head.payload, &signatures);
    signatures.retain(|(node, _)| by.contains(node));
    if !is_majority(&said.voters, &by) {
        return Err(ZoneError::Unsigned { n: head.n, by: by.len(), of: said.voters.len() });
    }
    // If those who spoke before are too few by now, the head has no more than its signatures until they are back, or until the
    // owner vouches anew.
    let handed_over = match &before {
        Some(before) if *before == said.voters => true,
        // What no pointer has room for is not recorded; backups go on.
        Some(before) if is_majority(before, &by) && handovers_of(zone.state()).len() < HANDOVERS_MAX => {
            zone.propose(Command::HandOver { n: head.n, signatures: signatures.clone() })?;
            true
        }
        _ => false,
    };
    let state = zone.state();
    let named = |(node, signature): &(NodeId, String)| {
        let certificate = state.nodes.get(node)?.certificate.clone();
        Some(HeadSignature { certificate, signature: signature.clone() })
    };
    let record = state.zone.as_ref().and_then(|z| Some((z.id, z.vouched.as_ref()?)));
    let handovers = handovers_of(state);
    Ok(Pointer {
        format: 2,
        payload: head.payload.clone(),
        signatures: signatures.iter().filter_map(named).collect(),
        vouched: record.filter(|_| handed_over).map(|(id, word)| Chain::of(id, word, handovers)),
    })
}

/// Removes what a given-up copy left on its target, sealed or not, and forgets the copy.
pub(crate) fn remove_abandoned(zone: &mut Zone, target: TargetId, copy: CopyId) -> Result<(), ZoneError> {
    let alias = zone.keys().alias(target);
    if let Some(t) = zone.target(target).cloned() {
        match t.discard_incoming(alias, copy) {
            Ok(()) | Err(TargetError::NotFound { .. }) => {}
            Err(e) => return Err(e.into()),
        }
        t.remove(alias, copy)?;
    } else {
        return Err(ZoneError::NoTarget("it is not reachable".into()));
    }
    zone.propose(Command::AbandonCopy { copy })?;
    Ok(())
}
