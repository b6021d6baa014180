//! Staging: this node takes the stored bytes of a sector that only one other node can read, so that copying and
//! rebuilding go on if that node dies.
//!
//! The bytes are sealed, so nothing is decrypted on the way. They are written in order; a cut transfer goes on where it
//! ended, and what is there in the end must open with the copy's key before the zone is told of it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use zoneward_consensus::command::Command;
use zoneward_sectors::fsx;
use zoneward_sectors::ids::SectorId;
use zoneward_sectors::limits::SEGMENT_LEN;
use zoneward_transport::kind;

use crate::board::Running;
use crate::errors::ZoneError;
use crate::home::io_at;
use crate::keyless::{Reading, Sealed};
use crate::node::Node;
use crate::open::chain;
use crate::serve::{READ_LEN_MAX, ReadCopy};
use crate::zone::Zone;

/// How long one range may take, ms: slow lines at home.
const RANGE_MS: u64 = 30_000;

/// Takes a sector.
pub(super) fn stage(zone: &mut Zone, node: &Arc<Node>, sector: SectorId, running: &Running) -> Result<(), ZoneError> {
    let state = zone.state();
    let readable = |c: &&zoneward_consensus::model::Copy| c.sector == sector && c.is_stored();
    let found = state.copies.values().filter(readable).find_map(|c| {
        let readers = &state.targets.get(&c.target)?.reached_by;
        Some((c.clone(), readers.iter().copied().find(|id| *id != node.id())?))
    });
    let (copy, from) = found.ok_or_else(|| ZoneError::Sector(format!("no node can read sector {sector}")))?;
    let name = state.nodes.get(&from).map_or_else(|| from.to_string(), |n| n.name.clone());
    running.say(format!("sector {:.8} from {name}", sector.to_string()));
    running.total.store(copy.stored_len, Ordering::Relaxed);
    let (path, part) = (zone.home.staged(copy.id), zone.home.staged(copy.id).with_extension("part"));
    fsx::create_dir_all(&zone.home.spool(), 0o700).map_err(io_at("make", &zone.home.spool()))?;
    let file = fsx::open_rw(&part, 0o600).map_err(io_at("open", &part))?;
    let mut at = fsx::size(&part).map_err(io_at("look at", &part))?.unwrap_or(0).min(copy.stored_len);
    while at < copy.stored_len {
        if running.stop.load(Ordering::Relaxed) {
            return Err(ZoneError::Interrupted);
        }
        let len = (copy.stored_len - at).min(u64::from(READ_LEN_MAX)) as u32;
        let ask = serde_json::to_vec(&ReadCopy { copy: copy.id, offset: at, len });
        let ask = ask.map_err(|_| ZoneError::State { what: "a range" })?;
        let answer = node.cluster.ask(from, kind::READ, &ask, Duration::from_millis(RANGE_MS));
        let bytes = answer.map_err(|e| ZoneError::NoTarget(format!("{name} does not send it: {}", chain(&e))))?;
        if bytes.len() != len as usize {
            return Err(ZoneError::Sector(format!("{name} sent {} bytes instead of {len}", bytes.len())));
        }
        fsx::write_all_at(&file, &bytes, at).map_err(io_at("write", &part))?;
        at += u64::from(len);
        running.done.store(at, Ordering::Relaxed);
    }
    fsx::sync(&file).map_err(io_at("sync", &part))?;
    fsx::rename(&part, &path).and_then(|()| fsx::sync_dir(&zone.home.spool())).map_err(io_at("finish", &path))?;
    if let Err(e) = verify(zone, &copy, running) {
        // What is wrong is not kept: the next attempt begins anew.
        fsx::remove_file(&path).map_err(io_at("remove", &path))?;
        return Err(e);
    }
    zone.propose(Command::Staged { sector, copy: copy.id })
}

/// Opens every segment of what was received; where there is no key, its bytes must be those that were sealed.
fn verify(zone: &Zone, copy: &zoneward_consensus::model::Copy, running: &Running) -> Result<(), ZoneError> {
    if copy.is_keyless() {
        let sealed = Sealed::of(&zone.opener(), copy)?;
        let how = Reading { done: None, stop: Some(&running.stop) };
        return match sealed.read_all(&mut Vec::new(), &how)? {
            Some(_) => Ok(()),
            None => Err(ZoneError::Interrupted),
        };
    }
    let (_, reader) = zone.opener().copy(copy)?;
    let layout = reader.layout();
    let (mut scratch, mut buf) = (Vec::new(), Vec::with_capacity(SEGMENT_LEN));
    for i in 0..layout.segments() {
        if running.stop.load(Ordering::Relaxed) {
            return Err(ZoneError::Interrupted);
        }
        buf.resize(layout.segment_len(i), 0);
        reader.read_segment(i, &mut scratch, &mut buf)?;
    }
    Ok(())
}
