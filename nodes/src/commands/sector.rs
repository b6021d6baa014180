//! `sector ls` and `sector cat`: raw sectors as they are.

use std::io::{Read, Write};
use std::sync::Arc;

use zoneward_actors::errors::ZoneError;
use zoneward_actors::zone::Zone;
use zoneward_consensus::model::RawSector;
use zoneward_sectors::frames::FrameReader;
use zoneward_sectors::limits::SEGMENT_LEN;
use zoneward_sectors::pax::Reader;
use zoneward_sectors::sector_reader::SectorReader;

use super::open;
use crate::cli::{Global, SectorCommand};
use crate::errors::{Failure, exit};
use crate::output::Out;
use crate::units::{bytes, local_time, show_path, utc_time};

fn find<'a>(zone: &'a Zone, text: &str) -> Result<&'a RawSector, Failure> {
    let fits: Vec<_> =
        zone.state().sectors.values().filter(|s| s.is_sealed() && s.id.to_string().starts_with(text)).collect();
    match fits[..] {
        [one] => Ok(one),
        [] => Err(Failure::new(1604, exit::FAILED, format!("no sector is called {text:?}"))
            .help("zoneward sector ls lists them")),
        _ => Err(Failure::new(1604, exit::FAILED, format!("{text:?} fits several sectors: give more of its id"))),
    }
}

fn reader(zone: &Zone, s: &RawSector) -> Result<Arc<SectorReader>, Failure> {
    Ok(zone.opener().sector(zone.table().number(s.id)).map_err(ZoneError::from)?)
}

pub fn sector(g: &Global, out: Out, command: SectorCommand) -> Result<i32, Failure> {
    let zone = open(g)?;
    match command {
        SectorCommand::Ls { id: None } => list(&zone, out),
        SectorCommand::Ls { id: Some(id) } => members(&zone, out, &id),
        SectorCommand::Cat { id } => cat(&zone, &id),
    }
}

fn list(zone: &Zone, out: Out) -> Result<i32, Failure> {
    let mut all: Vec<_> = zone.state().sectors.values().filter(|s| s.is_sealed()).collect();
    all.sort_by_key(|s| (s.created_ms, s.id));
    let target = |id| zone.state().targets.get(id).map_or_else(String::new, |t| t.name.clone());
    let (keyless, mut rows) = (zone.state().keyless(), Vec::new());
    for s in all {
        let copies: Vec<_> = zone.state().copies.values().filter(|c| c.sector == s.id && !c.is_open()).collect();
        rows.push(serde_json::json!({
            "id": s.id, "raw_id": s.raw_id, "class_bytes": 1u64 << s.class_log2, "raw_bytes": s.raw_len, "tar_bytes": s.tar_len,
            "system": s.system, "keyless": keyless.contains(&s.id), "checkpoint": s.checkpoint, "created": utc_time(s.created_ms), "copies_wanted": s.copies_wanted,
            "copies": copies.iter().map(|c| serde_json::json!({
                "id": c.id, "target": target(&c.target), "state": c.state, "bytes": c.stored_len,
                "verified": c.verified_ms.map(utc_time), "audited": c.audited_ms.map(utc_time),
                "read": c.read_ms.map(utc_time), "trouble": c.trouble, "relayed": c.relayed.map(|r| r.copy),
                "challenges": c.stripes.as_ref().map(|s| serde_json::json!({"told": s.next, "left": s.left()})),
            })).collect::<Vec<_>>(),
        }));
        let on: Vec<String> =
            copies.iter().map(|c| format!("{} ({:?})", target(&c.target), c.state).to_lowercase()).collect();
        let kind = match (s.system, keyless.contains(&s.id)) {
            (true, _) => "system",
            (false, true) => "data, write-only",
            (false, false) => "data",
        };
        out.answer(format!(
            "{}  {kind:<6}  {:>8} of {:>8}  {}  {}",
            s.id,
            bytes(s.raw_len),
            bytes(1 << s.class_log2),
            local_time(s.created_ms),
            on.join(", ")
        ));
        for c in copies.iter().filter(|c| c.trouble.is_some()) {
            let why = c.trouble.as_deref().unwrap_or_default();
            out.answer(format!("    {}: {why}", target(&c.target)));
        }
    }
    out.json(&serde_json::json!({"schema": "zoneward.sectors/1", "sectors": rows}));
    Ok(0)
}

/// The tar stream of a sector, frame by frame.
struct TarStream {
    reader: Arc<SectorReader>,
    frames: FrameReader,
    next: usize,
    current: Vec<u8>,
    at: usize,
}

impl Read for TarStream {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        if self.at == self.current.len() {
            if self.next == self.reader.table().frames() {
                return Ok(0);
            }
            self.current = self.reader.read_frame(self.next, &mut self.frames).map_err(std::io::Error::other)?;
            self.next += 1;
            self.at = 0;
        }
        let n = buf.len().min(self.current.len() - self.at);
        buf[..n].copy_from_slice(&self.current[self.at..self.at + n]);
        self.at += n;
        Ok(n)
    }
}

fn members(zone: &Zone, out: Out, id: &str) -> Result<i32, Failure> {
    let s = find(zone, id)?;
    let damaged = |e: &dyn std::error::Error| {
        Failure::new(1501, exit::DAMAGE, format!("sector {} cannot be read", s.id)).why(crate::errors::chain(e))
    };
    let frames = FrameReader::new().map_err(|e| damaged(&e))?;
    let stream = TarStream { reader: reader(zone, s)?, frames, next: 0, current: Vec::new(), at: 0 };
    let mut tar = Reader::new(stream);
    let mut n = 0u64;
    while let Some(m) = tar.next_member().map_err(|e| damaged(&e))? {
        n += 1;
        out.json(
            &serde_json::json!({"type": "item", "name": show_path(&m.name), "size": m.size, "offset": m.data_offset}),
        );
        out.answer(format!("{:>12}  {}", m.size, show_path(&m.name)));
    }
    out.json(&serde_json::json!({"type": "summary", "schema": "zoneward.sector/1", "members": n}));
    Ok(0)
}

fn cat(zone: &Zone, id: &str) -> Result<i32, Failure> {
    let s = find(zone, id)?;
    let reader = reader(zone, s)?;
    let mut out = std::io::stdout().lock();
    let (mut scratch, mut plain) = (Vec::new(), Vec::with_capacity(SEGMENT_LEN));
    for i in 0..reader.layout().segments() {
        plain.resize(reader.layout().segment_len(i), 0);
        reader.read_segment(i, &mut scratch, &mut plain).map_err(|e| {
            Failure::new(1501, exit::DAMAGE, format!("sector {} cannot be read", s.id)).why(crate::errors::chain(&e))
        })?;
        if out.write_all(&plain).is_err() {
            return Ok(0); // Whoever read has enough.
        }
    }
    Ok(0)
}
