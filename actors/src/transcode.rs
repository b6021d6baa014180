//! Further copies: each segment of a stored copy is opened, checked against its leaf hash and sealed under the new
//! copy's own key while it is sent; nothing is kept on the way.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use zoneward_consensus::command::Command;
use zoneward_sectors::fsx;
use zoneward_sectors::ids::{SectorId, TargetId};
use zoneward_sectors::limits::SEGMENT_LEN;
use zoneward_sectors::sector_reader::{SectorReadError, SectorReader};
use zoneward_sectors::sector_writer::SectorOut;
use zoneward_sectors::stream::{Layout, Leaf};

use crate::errors::ZoneError;
use crate::mint::{Minted, mint_copy};
use crate::zone::Zone;

/// Makes one more copy of a sector on `target`. Answers the bytes sent.
pub(crate) fn copy_sector(
    zone: &mut Zone,
    sector: SectorId,
    target: TargetId,
    threads: usize,
) -> Result<u64, ZoneError> {
    let opener = zone.opener();
    let number = zone.table().number(sector);
    let reader = opener.sector(number)?;
    let leaves = reader.leaves()?;
    let class = zone.state().sectors.get(&sector).map_or(36, |s| s.class_log2);
    let minted = mint_copy(zone, sector, class, target)?;
    if let Err(e) = send(&reader, &leaves, &minted, threads) {
        minted.out.abandon();
        zone.propose(Command::AbandonCopy { copy: minted.copy })?;
        return Err(e);
    }
    let len = reader.layout().file_len();
    fsx::point("copy-seal:before");
    minted.out.seal(len)?;
    fsx::point("copy-seal:after");
    zone.propose(Command::StoreCopy { copy: minted.copy, stored_len: len })?;
    fsx::point("copy-recorded:after");
    Ok(len)
}

fn send(reader: &SectorReader, leaves: &[Leaf], minted: &Minted, threads: usize) -> Result<(), ZoneError> {
    let layout = reader.layout();
    minted.out.write_at(0, minted.header.bytes()).map_err(write_error)?;
    let next = AtomicU64::new(0);
    let failed: Mutex<Option<ZoneError>> = Mutex::new(None);
    let work = || {
        let (mut scratch, mut buf) = (Vec::new(), Vec::with_capacity(SEGMENT_LEN + 16));
        loop {
            let i = next.fetch_add(1, Ordering::SeqCst);
            if i >= layout.segments() {
                return;
            }
            if let Err(e) = one(reader, leaves, minted, i, &mut scratch, &mut buf) {
                next.store(u64::MAX / 2, Ordering::SeqCst);
                failed.lock().unwrap_or_else(|e| e.into_inner()).get_or_insert(e);
                return;
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads.max(1) {
            scope.spawn(work);
        }
        work();
    });
    if let Some(e) = failed.into_inner().unwrap_or_else(|e| e.into_inner()) {
        return Err(e);
    }
    minted.out.write_at(layout.leaves_at(), &minted.keys.seal_leaves(leaves)).map_err(write_error)?;
    let trailer = minted.keys.seal_trailer(reader.trailer()).map_err(SectorReadError::from)?;
    minted.out.write_at(layout.trailer_at(), &trailer).map_err(write_error)
}

fn write_error(e: std::io::Error) -> ZoneError {
    ZoneError::Write(e.into())
}

fn one(
    reader: &SectorReader,
    leaves: &[Leaf],
    minted: &Minted,
    i: u64,
    scratch: &mut Vec<u8>,
    buf: &mut Vec<u8>,
) -> Result<(), ZoneError> {
    let layout = reader.layout();
    buf.resize(layout.segment_len(i), 0);
    reader.read_segment(i, scratch, buf)?;
    // A second plaintext under one key and nonce would break the cipher: what does not match its leaf is never sealed.
    if leaves.get(i as usize) != Some(blake3::hash(buf).as_bytes()) {
        return Err(SectorReadError::Leaf(i).into());
    }
    minted.keys.seal_segment(i as u32, layout.is_last(i), buf);
    minted.out.write_at(Layout::segment_at(i), buf).map_err(write_error)
}
