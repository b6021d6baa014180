//! Ranges of a sealed sector.

use std::sync::Arc;

use hyper::{Method, StatusCode};
use zoneward_sectors::ids::{CopyId, ZoneAlias};

use super::link::{Ask, Got};
use super::{Shared, sector};
use crate::errors::{Op, TargetError};
use crate::limits::{ANSWER_LEN_MAX, RANGE_LEN_MAX};
use crate::protocol::ROOT;
use crate::target::{SectorReader, in_range};

pub(super) struct ServerReader {
    shared: Arc<Shared>,
    path: String,
    what: String,
    len: u64,
}

impl ServerReader {
    pub fn new(shared: &Arc<Shared>, alias: ZoneAlias, copy: CopyId, len: u64) -> Self {
        let path = format!("{ROOT}/zones/{alias}/sectors/{copy}");
        Self { shared: shared.clone(), path, what: sector(copy), len }
    }

    /// One range, which must come exactly as it was asked for.
    fn range(&self, buf: &mut [u8], offset: u64) -> Result<(), TargetError> {
        let (op, wanted) = (Op::Read, buf.len() as u64);
        let last = offset + wanted - 1;
        let ask = Ask::new(Method::GET, self.path.clone())
            .field("range", format!("bytes={offset}-{last}"))
            .limit(wanted.max(ANSWER_LEN_MAX))
            .carries(wanted);
        let got = self.shared.link.ask(ask).map_err(|e| e.named(op, &self.what))?;
        let wrong = |how: String| Got::misbehaves(op, &self.what, how);
        match got.status {
            StatusCode::PARTIAL_CONTENT => {}
            StatusCode::RANGE_NOT_SATISFIABLE => {
                return Err(wrong(format!("it had {} bytes and now says they are fewer", self.len)));
            }
            status if status.is_success() => return Err(wrong(format!("status {} for a range", status.as_u16()))),
            _ => return Err(got.refusal(op, &self.what)),
        }
        let told = got.headers.get("content-range").and_then(|v| v.to_str().ok()).unwrap_or_default();
        if told != format!("bytes {offset}-{last}/{}", self.len) {
            let told: String = told.chars().filter(|c| !c.is_control()).take(80).collect();
            return Err(wrong(format!("it sends the range {told:?} for bytes {offset}-{last}/{}", self.len)));
        }
        if got.len() != wanted {
            return Err(wrong(format!("it sends {} bytes for {wanted}", got.len())));
        }
        let mut rest = buf;
        for frame in &got.frames {
            let (now, later) = rest.split_at_mut(frame.len());
            now.copy_from_slice(frame);
            rest = later;
        }
        Ok(())
    }
}

impl SectorReader for ServerReader {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<(), TargetError> {
        let wanted = buf.len() as u64;
        in_range(&self.what, offset, wanted, self.len)?;
        let mut at = offset;
        for piece in buf.chunks_mut(RANGE_LEN_MAX as usize) {
            self.range(piece, at)?;
            at += piece.len() as u64;
        }
        Ok(())
    }
}
