//! Raw sectors and their copies.

use std::collections::BTreeMap;

use zoneward_sectors::ids::{CopyId, Digest, LayerId, SectorId, TargetId};

use super::{Applied, Change, Refusal, Row, leases};
use crate::audits::{Audited, Found, SILENT_MAX};
use crate::command::Command;
use crate::limits::{COPIES_MAX, TROUBLE_LEN_MAX};
use crate::model::{CheckpointState, Copy, CopyState, Part, RawSector, SectorState, Silent};
use crate::planted::{Bug, planted};
use crate::work::Work;

pub fn open(c: &mut Change<'_>, command: &Command) -> Applied {
    let Command::OpenSector { sector, checkpoint, class_log2, system, copies_wanted, min_priority, write_only } =
        command
    else {
        return Err(Refusal::Unknown("the command"));
    };
    if c.state.sectors.contains_key(sector) {
        return Err(Refusal::Exists("the sector"));
    }
    let x = c.state.checkpoints.get(checkpoint).ok_or(Refusal::Unknown("the checkpoint"))?;
    let right = if *system { x.is_complete() } else { x.state == CheckpointState::Running };
    if !right {
        return Err(Refusal::State("the checkpoint"));
    }
    if !(12..=36).contains(class_log2) || *copies_wanted == 0 {
        return Err(Refusal::Range("the sector's class or number of copies"));
    }
    let record = RawSector {
        id: *sector,
        checkpoint: *checkpoint,
        class_log2: *class_log2,
        system: *system,
        state: SectorState::Open,
        raw_id: None,
        raw_len: 0,
        tar_len: 0,
        index: (0, 0),
        seek_table: (0, 0),
        entries: 0,
        min_priority: *min_priority,
        copies_wanted: *copies_wanted,
        created_ms: c.now,
        staged: BTreeMap::new(),
        lease: c.lease,
        write_only: *write_only,
    };
    c.state.sectors.insert(*sector, record);
    c.rows.insert(Row::Sector(*sector));
    Ok(())
}

pub fn open_copy(c: &mut Change<'_>, command: &Command) -> Applied {
    let Command::OpenCopy { copy, sector, target, alias, header, header_hash, sealed_dek, relayed } = command else {
        return Err(Refusal::Unknown("the command"));
    };
    if c.state.copies.contains_key(copy) {
        return Err(Refusal::Exists("the copy"));
    }
    let s = c.state.sectors.get(sector).ok_or(Refusal::Unknown("the sector"))?;
    // The first copy of a sector belongs to whoever packs it; a further one to whoever holds the work of copying.
    let owner = if s.is_sealed() {
        c.state.lease_of(&Work::Copy { sector: *sector, target: *target }).map(|l| l.epoch)
    } else {
        s.lease
    };
    leases::held(c, owner)?;
    c.state.targets.get(target).ok_or(Refusal::Unknown("the target"))?;
    place_free(c, *sector, *target, None)?;
    let stored_id = super::keyless::may_open(c, command)?;
    let record = Copy {
        id: *copy,
        sector: *sector,
        target: *target,
        alias: *alias,
        state: CopyState::Open,
        header: header.clone(),
        header_hash: *header_hash,
        sealed_dek: sealed_dek.clone(),
        stored_len: 0,
        stored_id,
        relayed: *relayed,
        opened_ms: c.now,
        stored_ms: 0,
        verified_ms: None,
        read_ms: None,
        audited_ms: None,
        silent: None,
        trouble: None,
        stripes: None,
        lease: c.lease,
        unneeded: None,
    };
    c.state.copies.insert(*copy, record);
    c.rows.insert(Row::Copy(*copy));
    Ok(())
}

/// Whether a sector may have a copy on a target: no other copy of it, but for `own`, shares target or failure domain.
pub(super) fn place_free(c: &Change<'_>, sector: SectorId, target: TargetId, own: Option<CopyId>) -> Applied {
    let domain = |id: &TargetId| c.state.targets.get(id).and_then(|t| t.domain.as_ref());
    let wanted = domain(&target);
    let clash = c
        .state
        .copies
        .values()
        .filter(|k| k.sector == sector && holds_room(k.state) && c.state.stays(k) && Some(k.id) != own)
        .any(|k| k.target == target || (wanted.is_some() && domain(&k.target) == wanted));
    if clash { Err(Refusal::SameTarget) } else { Ok(()) }
}

/// Whether a copy in this state stands for its target.
fn holds_room(state: CopyState) -> bool {
    matches!(state, CopyState::Open | CopyState::Stored)
}

pub fn seal(c: &mut Change<'_>, command: &Command) -> Applied {
    let Command::SealSector {
        sector,
        raw_id,
        raw_len,
        tar_len,
        index,
        seek_table,
        entries,
        parts,
        refs,
        copy,
        stored_len,
        stored_id,
    } = command
    else {
        return Err(Refusal::Unknown("the command"));
    };
    let s = c.state.sectors.get(sector).ok_or(Refusal::Unknown("the sector"))?;
    let k = c.state.copies.get(copy).ok_or(Refusal::Unknown("the copy"))?;
    if s.state != SectorState::Open || k.state != CopyState::Open {
        return Err(Refusal::State("the sector"));
    }
    if k.sector != *sector {
        return Err(Refusal::Differs("the copy's sector"));
    }
    leases::held(c, s.lease)?;
    if *raw_len > 1 << s.class_log2 {
        return Err(Refusal::Range("the sector's length"));
    }
    parts_fit(c, s, *tar_len, parts)?;
    if refs.keys().any(|l| parts.iter().all(|(of, _)| of != l)) {
        return Err(Refusal::Differs("a layer's content"));
    }
    let known = |id: &SectorId| *id == *sector || c.state.sectors.get(id).is_some_and(|s| s.is_sealed());
    if !refs.values().flatten().all(known) {
        return Err(Refusal::Unknown("a sector that holds content"));
    }
    for (layer, part) in parts {
        if let Some(l) = c.state.layers.get_mut(layer) {
            l.parts.push(*part);
            if let (Some(all), Some(more)) = (&mut l.refs, refs.get(layer)) {
                all.extend(more.iter().copied().filter(|s| s != sector));
            }
            c.rows.insert(Row::Layer(*layer));
        }
    }
    if let Some(s) = c.state.sectors.get_mut(sector) {
        s.state = SectorState::Sealed;
        s.raw_id = Some(*raw_id);
        s.raw_len = *raw_len;
        s.tar_len = *tar_len;
        s.index = *index;
        s.seek_table = *seek_table;
        s.entries = *entries;
        s.lease = None;
    }
    c.rows.insert(Row::Sector(*sector));
    stored(c, *copy, *stored_len, *stored_id);
    Ok(())
}

/// Whether parts continue their layers without a gap, lie in this sector, and belong to its checkpoint.
fn parts_fit(c: &Change<'_>, s: &RawSector, tar_len: u64, parts: &[(LayerId, Part)]) -> Applied {
    let mut next: BTreeMap<LayerId, usize> = BTreeMap::new();
    for (layer, part) in parts {
        let l = c.state.layers.get(layer).ok_or(Refusal::Unknown("a layer"))?;
        let number = next.entry(*layer).or_insert(l.parts.len());
        let right = part.sector == s.id && l.checkpoint == s.checkpoint;
        if !right || usize::try_from(part.part) != Ok(*number) {
            return Err(Refusal::Differs("a part of a layer"));
        }
        if part.offset.checked_add(part.length).is_none_or(|end| end > tar_len) {
            return Err(Refusal::Range("a part of a layer"));
        }
        *number += 1;
    }
    Ok(())
}

fn stored(c: &mut Change<'_>, copy: CopyId, stored_len: u64, stored_id: Option<Digest>) {
    if let Some(k) = c.state.copies.get_mut(&copy) {
        k.state = CopyState::Stored;
        k.stored_len = stored_len;
        k.stored_id = stored_id;
        k.stored_ms = c.now;
        k.lease = None;
        c.rows.insert(Row::Copy(copy));
    }
}

pub fn store_copy(c: &mut Change<'_>, copy: CopyId, stored_len: u64, stored_id: Option<Digest>) -> Applied {
    let k = c.state.copies.get(&copy).ok_or(Refusal::Unknown("the copy"))?;
    let sealed = c.state.sectors.get(&k.sector).is_some_and(RawSector::is_sealed);
    if k.state != CopyState::Open || !(sealed || planted(Bug::CopyBeforeSeal)) {
        return Err(Refusal::State("the copy"));
    }
    // What was relayed is what it was relayed from, to the byte.
    if k.relayed.is_some() && k.stored_id != stored_id {
        return Err(Refusal::Differs("the stored bytes of the copy"));
    }
    leases::held(c, k.lease)?;
    stored(c, copy, stored_len, stored_id);
    Ok(())
}

/// Forgets a sector; its copies wait until their files are removed.
pub(super) fn give_up(c: &mut Change<'_>, sector: SectorId) {
    for copy in super::checkpoints::copies_of(c, sector) {
        if let Some(k) = c.state.copies.get_mut(&copy) {
            k.state = CopyState::Abandoned;
            k.lease = None;
            // Nobody opens it any more.
            k.sealed_dek.clear();
            c.rows.insert(Row::Copy(copy));
        }
    }
    c.state.sectors.remove(&sector);
    c.rows.insert(Row::Sector(sector));
}

pub fn abandon(c: &mut Change<'_>, sector: SectorId) -> Applied {
    let s = c.state.sectors.get(&sector).ok_or(Refusal::Unknown("the sector"))?;
    if s.is_sealed() {
        return Err(Refusal::State("the sector"));
    }
    leases::held(c, s.lease)?;
    give_up(c, sector);
    Ok(())
}

pub fn abandon_copy(c: &mut Change<'_>, copy: CopyId) -> Applied {
    let lease = c.state.copies.get(&copy).ok_or(Refusal::Unknown("the copy"))?.lease;
    if lease.is_some() {
        leases::held(c, lease)?;
    }
    let k = c.state.copies.get_mut(&copy).ok_or(Refusal::Unknown("the copy"))?;
    match k.state {
        CopyState::Open => {
            k.state = CopyState::Abandoned;
            k.sealed_dek.clear();
        }
        CopyState::Abandoned => {
            c.state.copies.remove(&copy);
        }
        _ => return Err(Refusal::State("the copy")),
    }
    c.rows.insert(Row::Copy(copy));
    Ok(())
}

pub fn staged(c: &mut Change<'_>, sector: SectorId, copy: CopyId) -> Applied {
    leases::held(c, c.state.lease_of(&Work::Stage { sector }).map(|l| l.epoch))?;
    let k = c.state.copies.get(&copy).ok_or(Refusal::Unknown("the copy"))?;
    if k.sector != sector || !k.is_stored() {
        return Err(Refusal::State("the copy"));
    }
    let node = c.node;
    let s = c.state.sectors.get_mut(&sector).ok_or(Refusal::Unknown("the sector"))?;
    s.staged.insert(node, copy);
    c.rows.insert(Row::Sector(sector));
    Ok(())
}

pub fn unstaged(c: &mut Change<'_>, sector: SectorId) -> Applied {
    let node = c.node;
    let s = c.state.sectors.get_mut(&sector).ok_or(Refusal::Unknown("the sector"))?;
    if s.staged.remove(&node).is_some() {
        c.rows.insert(Row::Sector(sector));
    }
    Ok(())
}

pub fn mark(c: &mut Change<'_>, copy: CopyId, state: CopyState) -> Applied {
    let k = c.state.copies.get(&copy).ok_or(Refusal::Unknown("the copy"))?;
    let allowed = matches!(state, CopyState::Stored | CopyState::Damaged | CopyState::Lost);
    if k.is_open() || !allowed {
        return Err(Refusal::State("the copy"));
    }
    // Since it was given up for lost, another copy may have taken its place.
    if state == CopyState::Stored {
        place_free(c, k.sector, k.target, Some(copy))?;
    }
    if let Some(k) = c.state.copies.get_mut(&copy) {
        k.state = state;
        match state {
            CopyState::Stored => (k.silent, k.trouble) = (None, None),
            CopyState::Damaged => {
                k.trouble = k.trouble.take().or_else(|| Some("wrong bytes were read: it is damaged".into()))
            }
            _ => k.trouble = k.trouble.take().or_else(|| Some("its target does not list it".into())),
        }
        c.rows.insert(Row::Copy(copy));
    }
    Ok(())
}

pub fn raise_copies(c: &mut Change<'_>, sectors: &[SectorId], copies: u8) -> Applied {
    if copies > COPIES_MAX {
        return Err(Refusal::Range("the number of copies"));
    }
    for id in sectors {
        if let Some(s) = c.state.sectors.get_mut(id).filter(|s| s.copies_wanted < copies) {
            s.copies_wanted = copies;
            c.rows.insert(Row::Sector(*id));
        }
    }
    Ok(())
}

/// What looking at copies came to. Of a copy that is not stored any more nothing is to be learnt.
pub fn audited(c: &mut Change<'_>, results: &[Audited]) -> Applied {
    for r in results {
        let target = c.state.copies.get(&r.copy).ok_or(Refusal::Unknown("the copy"))?.target;
        leases::held(c, c.state.lease_of(&Work::Audit { target, copy: r.copy }).map(|l| l.epoch))?;
        if let Found::Misproved { why } | Found::Wrong { why } | Found::Gone { why } | Found::Silent { why } = &r.found
            && (why.len() > TROUBLE_LEN_MAX || why.chars().any(char::is_control))
        {
            return Err(Refusal::Range("what is wrong with a copy"));
        }
    }
    let (now, silence_ms) = (c.now, u64::from(c.state.policy.audits.silence_s) * 1000);
    for r in results {
        let Some(k) = c.state.copies.get_mut(&r.copy).filter(|k| k.is_stored()) else { continue };
        match &r.found {
            Found::Whole { all } => {
                (k.verified_ms, k.audited_ms, k.silent, k.trouble) = (Some(now), Some(now), None, None);
                k.read_ms = if *all { Some(now) } else { k.read_ms };
            }
            Found::Misproved { why } => {
                (k.verified_ms, k.audited_ms, k.read_ms, k.silent) = (Some(now), Some(now), Some(now), None);
                k.trouble = Some(why.clone());
            }
            Found::Wrong { why } => (k.state, k.trouble) = (CopyState::Damaged, Some(why.clone())),
            Found::Gone { why } => (k.state, k.trouble) = (CopyState::Lost, Some(why.clone())),
            Found::Silent { why } => {
                let before = k.silent.unwrap_or(Silent { tries: 0, first_ms: now, last_ms: now });
                let silent = Silent { tries: before.tries.saturating_add(1), last_ms: now, ..before };
                (k.silent, k.trouble) = (Some(silent), Some(why.clone()));
                if silent.tries >= SILENT_MAX && now.saturating_sub(silent.first_ms) >= silence_ms {
                    k.state = CopyState::Lost;
                }
            }
        }
        c.rows.insert(Row::Copy(r.copy));
    }
    Ok(())
}

pub fn verified(c: &mut Change<'_>, copies: &[CopyId], read: bool, sampled: bool) -> Applied {
    for copy in copies {
        if let Some(k) = c.state.copies.get_mut(copy).filter(|k| !k.is_open()) {
            k.verified_ms = Some(c.now);
            if read {
                k.read_ms = Some(c.now);
            }
            if read || sampled {
                (k.audited_ms, k.silent) = (Some(c.now), None);
            }
            c.rows.insert(Row::Copy(*copy));
        }
    }
    Ok(())
}
