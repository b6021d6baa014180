//! Reading catalog parts, from anyone: every line is checked before it is believed.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, BufRead, Read};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde::Deserialize;
use serde::de::{self, Deserializer, SeqAccess, Visitor};

use super::SectorTable;
use crate::entry::{Entry, Extent, Kind, Meta, Stamp, Xattrs, path_cmp};
use crate::ids::{LayerId, SectorId, SourceId};
use crate::limits::{
    CATALOG_LINE_MAX, CATALOG_PART_MAX, EXTENTS_PER_LINE, FRAME_TAR_MAX, PATH_LEN_MAX, XATTRS_LEN_MAX,
};

/// Why a catalog is refused.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    #[error("a catalog cannot be read")]
    Io(#[from] io::Error),
    #[error("line {line} of a catalog part is damaged: {what}")]
    Damaged { line: u64, what: &'static str },
    #[error("line {line} of a catalog part is not the JSON it should be: {detail}")]
    Json { line: u64, detail: String },
    #[error("a catalog part belongs to another source or layer than expected")]
    Other,
}

impl CatalogError {
    /// True if the bytes are wrong, not merely out of reach.
    pub fn is_damage(&self) -> bool {
        use io::ErrorKind::{InvalidData, NotFound, UnexpectedEof};
        match self {
            Self::Io(e) => matches!(e.kind(), InvalidData | NotFound | UnexpectedEof),
            _ => true,
        }
    }
}

/// One thing a layer says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    Entry(Entry),
    Gone(Vec<u8>),
}

impl Line {
    pub fn path(&self) -> &[u8] {
        match self {
            Line::Entry(e) => &e.path,
            Line::Gone(p) => p,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct First {
    catalog: u32,
    source: SourceId,
    layer: LayerId,
    part: u32,
}

/// (k, offset, length, fingerprint) or (length).
struct RawExtent {
    a: u64,
    data: Option<(u64, u64, [u8; 32])>,
}

impl<'de> Deserialize<'de> for RawExtent {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = RawExtent;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("[length] or [sector, offset, length, fingerprint]")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut s: A) -> Result<RawExtent, A::Error> {
                let short = || de::Error::custom("an extent is too short");
                let a: u64 = s.next_element()?.ok_or_else(short)?;
                let Some(offset) = s.next_element::<u64>()? else {
                    return Ok(RawExtent { a, data: None });
                };
                let len: u64 = s.next_element()?.ok_or_else(short)?;
                let fp: Cow<'de, str> = s.next_element()?.ok_or_else(short)?;
                let mut b = [0u8; 32];
                match URL_SAFE_NO_PAD.decode_slice(fp.as_bytes(), &mut b) {
                    Ok(32) => Ok(RawExtent { a, data: Some((offset, len, b)) }),
                    _ => Err(de::Error::custom("a fingerprint is not 32 bytes")),
                }
            }
        }
        d.deserialize_seq(V)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw<'a> {
    #[serde(borrow, default)]
    p: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    p64: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    t: Option<Cow<'a, str>>,
    m: Option<u32>,
    u: Option<u32>,
    g: Option<u32>,
    mt: Option<(i64, u32)>,
    ct: Option<(i64, u32)>,
    i: Option<u64>,
    n: Option<u32>,
    x: Option<BTreeMap<String, String>>,
    x64: Option<BTreeMap<String, String>>,
    #[serde(borrow, default)]
    l: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    l64: Option<Cow<'a, str>>,
    r: Option<(u32, u32)>,
    s: Option<u64>,
    e: Option<Vec<RawExtent>>,
    w: Option<u8>,
    k: Option<u32>,
    sector: Option<SectorId>,
    #[serde(rename = "+")]
    more: Option<Vec<RawExtent>>,
}

/// Reads the lines of one part.
pub struct PartReader<R> {
    input: io::Take<R>,
    buf: Vec<u8>,
    line: u64,
    table: SectorTable,
    /// Number within the part to process-wide number.
    sectors: Vec<u32>,
    /// The line that was read ahead while looking for continuations.
    ahead: Option<Line>,
    last_path: Option<Vec<u8>>,
    done: bool,
}

impl<R> fmt::Debug for PartReader<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PartReader(line {})", self.line)
    }
}

fn bytes_of(text: Option<Cow<'_, str>>, b64: Option<Cow<'_, str>>) -> Result<Option<Vec<u8>>, &'static str> {
    let v = match (text, b64) {
        (Some(t), None) => t.into_owned().into_bytes(),
        (None, Some(b)) => STANDARD.decode(b.as_bytes()).map_err(|_| "base64")?,
        (None, None) => return Ok(None),
        (Some(_), Some(_)) => return Err("a text is given twice"),
    };
    if v.len() > PATH_LEN_MAX { Err("a path is too long") } else { Ok(Some(v)) }
}

/// Whether a path from a catalog names something inside its source: no empty, `.` or `..` component, no NUL.
pub fn path_is_inside(path: &[u8]) -> bool {
    path.is_empty()
        || (!path.contains(&0) && path.split(|b| *b == b'/').all(|c| !c.is_empty() && c != b"." && c != b".."))
}

impl<R: BufRead> PartReader<R> {
    /// Begins to read a part of this source and layer that lies in the sector `own`.
    pub fn new(
        input: R,
        table: &SectorTable,
        own: SectorId,
        source: SourceId,
        layer: LayerId,
        part: u32,
    ) -> Result<Self, CatalogError> {
        let mut r = Self {
            input: input.take(CATALOG_PART_MAX),
            buf: Vec::new(),
            line: 0,
            table: table.clone(),
            sectors: vec![table.number(own)],
            ahead: None,
            last_path: None,
            done: false,
        };
        if !r.fill()? {
            return Err(CatalogError::Damaged { line: 1, what: "the part is empty" });
        }
        let first: First = serde_json::from_slice(&r.buf).map_err(|e| r.json(&e))?;
        if first.catalog != 1 {
            return Err(CatalogError::Damaged { line: 1, what: "unknown version of the catalog" });
        }
        if (first.source, first.layer, first.part) != (source, layer, part) {
            return Err(CatalogError::Other);
        }
        Ok(r)
    }

    fn json(&self, e: &serde_json::Error) -> CatalogError {
        CatalogError::Json { line: self.line, detail: e.to_string() }
    }

    fn bad(&self, what: &'static str) -> CatalogError {
        CatalogError::Damaged { line: self.line, what }
    }

    /// Reads the next line into the buffer; false at the end.
    fn fill(&mut self) -> Result<bool, CatalogError> {
        self.buf.clear();
        self.line += 1;
        let n = (&mut self.input).take(CATALOG_LINE_MAX as u64 + 1).read_until(b'\n', &mut self.buf)?;
        if n == 0 {
            return Ok(false);
        }
        if n > CATALOG_LINE_MAX {
            return Err(self.bad("the line is too long"));
        }
        if self.buf.last() != Some(&b'\n') {
            return Err(self.bad("the part ends in the middle of a line"));
        }
        Ok(true)
    }

    fn extents(&self, raw: Vec<RawExtent>, out: &mut Vec<Extent>) -> Result<(), CatalogError> {
        if raw.len() > EXTENTS_PER_LINE {
            return Err(self.bad("too many extents in a line"));
        }
        for x in raw {
            // Holes side by side are one, and no bytes are none: else a part could make an entry many times its size.
            if let (None, Some(Extent::Hole(n))) = (&x.data, out.last_mut()) {
                *n = n.checked_add(x.a).ok_or_else(|| self.bad("a hole's length"))?;
                continue;
            }
            out.push(match x.data {
                None if x.a == 0 => continue,
                None => Extent::Hole(x.a),
                Some((offset, len, fingerprint)) => {
                    let sector = *usize::try_from(x.a)
                        .ok()
                        .and_then(|k| self.sectors.get(k))
                        .ok_or_else(|| self.bad("an extent names an unknown sector"))?;
                    if len == 0 || len > FRAME_TAR_MAX as u64 || offset.checked_add(len).is_none() {
                        return Err(self.bad("an extent's range"));
                    }
                    Extent::Data { sector, offset, len, fingerprint }
                }
            });
        }
        Ok(())
    }

    /// Takes what the buffer holds: a line, or `None` if it was a definition, or more extents for `open`.
    fn take(&mut self, open: Option<&mut Line>) -> Result<Option<Line>, CatalogError> {
        let buf = std::mem::take(&mut self.buf);
        let raw: Raw<'_> = serde_json::from_slice(&buf).map_err(|e| self.json(&e))?;
        let line = self.understand(raw, open);
        self.buf = buf;
        line
    }

    fn understand(&mut self, raw: Raw<'_>, open: Option<&mut Line>) -> Result<Option<Line>, CatalogError> {
        if let Some(more) = raw.more {
            return match open {
                Some(Line::Entry(e)) if e.meta.kind == Kind::File => {
                    self.extents(more, &mut e.extents)?;
                    Ok(None)
                }
                _ => Err(self.bad("extents without a file")),
            };
        }
        if let (Some(k), Some(sector)) = (raw.k, raw.sector) {
            if k as usize != self.sectors.len() {
                return Err(self.bad("sector numbers must rise by one"));
            }
            self.sectors.push(self.table.number(sector));
            return Ok(None);
        }
        let path = bytes_of(raw.p, raw.p64).map_err(|w| self.bad(w))?.ok_or_else(|| self.bad("no path"))?;
        if !path_is_inside(&path) {
            return Err(self.bad("a path leads outside the source"));
        }
        if self.last_path.as_ref().is_some_and(|l| path_cmp(l, &path).is_ge()) {
            return Err(self.bad("entries are out of order"));
        }
        self.last_path = Some(path.clone());
        let kind = match raw.t.as_deref() {
            Some("-") => return Ok(Some(Line::Gone(path))),
            Some("f") => Kind::File,
            Some("d") => Kind::Dir,
            Some("l") => Kind::Symlink,
            Some("h") => Kind::HardLink,
            Some("p") => Kind::Fifo,
            Some("c") => Kind::CharDevice,
            Some("b") => Kind::BlockDevice,
            _ => return Err(self.bad("unknown type of entry")),
        };
        let stamp = |v: Option<(i64, u32)>| match v {
            Some((secs, nanos)) if nanos < 1_000_000_000 => Ok(Stamp { secs, nanos }),
            _ => Err(self.bad("a time")),
        };
        let meta = Meta {
            kind,
            mode: raw.m.filter(|m| *m <= 0o7777).ok_or_else(|| self.bad("the mode"))?,
            uid: raw.u.ok_or_else(|| self.bad("the owner"))?,
            gid: raw.g.ok_or_else(|| self.bad("the group"))?,
            mtime: stamp(raw.mt)?,
            ctime: stamp(raw.ct)?,
            ino: raw.i.ok_or_else(|| self.bad("the inode"))?,
            nlink: raw.n.unwrap_or(1),
            size: raw.s.unwrap_or(0),
            rdev: raw.r.unwrap_or((0, 0)),
        };
        let link = bytes_of(raw.l, raw.l64).map_err(|w| self.bad(w))?.unwrap_or_default();
        match kind {
            Kind::HardLink if !path_is_inside(&link) => return Err(self.bad("a hard link leads outside the source")),
            Kind::Symlink | Kind::HardLink if link.is_empty() => return Err(self.bad("a link without a target")),
            Kind::CharDevice | Kind::BlockDevice if raw.r.is_none() => return Err(self.bad("a device without numbers")),
            Kind::File | Kind::HardLink if raw.s.is_none() => return Err(self.bad("a file without a size")),
            _ => {}
        }
        let is = |kinds: &[Kind]| kinds.contains(&kind);
        let foreign = (raw.s.is_some() && !is(&[Kind::File, Kind::HardLink]))
            || (!link.is_empty() && !is(&[Kind::Symlink, Kind::HardLink]))
            || (raw.r.is_some() && !is(&[Kind::CharDevice, Kind::BlockDevice]))
            || (raw.n.is_some() && is(&[Kind::Dir]))
            || ((raw.e.is_some() || raw.w.is_some()) && !is(&[Kind::File]));
        if foreign {
            return Err(self.bad("a field that this type of entry does not have"));
        }
        let xattrs = self.xattrs(raw.x, raw.x64)?;
        let mut extents = Vec::new();
        self.extents(raw.e.unwrap_or_default(), &mut extents)?;
        let unsteady = raw.w.unwrap_or(0) != 0;
        Ok(Some(Line::Entry(Entry { path, meta, xattrs, link, extents, unsteady })))
    }

    fn xattrs(
        &self,
        x: Option<BTreeMap<String, String>>,
        x64: Option<BTreeMap<String, String>>,
    ) -> Result<Xattrs, CatalogError> {
        let mut out = Xattrs::new();
        let decode = |s: &str| STANDARD.decode(s).map_err(|_| self.bad("an extended attribute"));
        for (n, v) in x.into_iter().flatten() {
            out.push((n.into_bytes(), decode(&v)?));
        }
        for (n, v) in x64.into_iter().flatten() {
            out.push((decode(&n)?, decode(&v)?));
        }
        if out.iter().any(|(n, _)| n.is_empty() || n.contains(&0)) {
            return Err(self.bad("the name of an extended attribute"));
        }
        if out.iter().map(|(n, v)| n.len() + v.len()).sum::<usize>() > XATTRS_LEN_MAX {
            return Err(self.bad("extended attributes are too long"));
        }
        out.sort();
        if out.windows(2).any(|pair| pair[0].0 == pair[1].0) {
            return Err(self.bad("an extended attribute twice"));
        }
        Ok(out)
    }

    /// Checks a file that is now complete.
    fn complete(&self, line: Line) -> Result<Line, CatalogError> {
        if let Line::Entry(e) = &line
            && e.meta.kind == Kind::File
        {
            let sum = e.extents.iter().try_fold(0u64, |a, x| a.checked_add(x.len()));
            if sum != Some(e.meta.size) {
                return Err(self.bad("the extents do not add up to the file's size"));
            }
        }
        Ok(line)
    }

    fn next_line(&mut self) -> Result<Option<Line>, CatalogError> {
        let mut current = self.ahead.take();
        loop {
            if self.done || !self.fill()? {
                self.done = true;
                return current.map(|l| self.complete(l)).transpose();
            }
            if let Some(next) = self.take(current.as_mut())? {
                match current {
                    None => current = Some(next),
                    Some(l) => {
                        self.ahead = Some(next);
                        return self.complete(l).map(Some);
                    }
                }
            }
        }
    }
}

impl<R: BufRead> Iterator for PartReader<R> {
    type Item = Result<Line, CatalogError>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.next_line() {
            Ok(l) => l.map(Ok),
            Err(e) => {
                self.done = true;
                self.ahead = None;
                Some(Err(e))
            }
        }
    }
}
