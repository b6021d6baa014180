//! Stripes: answers about all of a stored sector that are known beforehand (`docs/format.md` §3.5). A target that is asked
//! must read 4 KiB out of every MiB to answer, and none of it travels.
//!
//! Whoever writes a sector, or reads all of it, computes a set of answers on the way: one for each of [`ROUNDS`] keys that come
//! from the copy's data key. A key is told to the target once, when it is asked, and never used again.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use crate::crypto::{Secret32, hkdf32, keyed_fingerprint};
use crate::header::Header;
use crate::ids::{CopyId, Digest};
use crate::limits::{HEADER_LEN, SEGMENT_LEN};
use crate::stream::Layout;

/// Answers of one set.
pub const ROUNDS: u32 = 64;
/// Bytes of an answer.
pub const ANSWER_LEN: usize = 16;
/// Bytes read of each window.
pub const BLOCK_LEN: usize = 4096;
/// Windows that one question covers at most.
pub const PART_WINDOWS: u64 = 4096;
/// Windows that wait for those before them at most: writers are never further apart.
const WAITING_MAX: usize = 256;

/// The answer to one key.
pub type Answer = [u8; ANSWER_LEN];

/// A stretch of a stored sector that is cut into windows of `stride` bytes, the last one maybe shorter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    pub offset: u64,
    pub len: u64,
    pub stride: u64,
}

impl Span {
    /// Windows in it.
    pub fn windows(&self) -> u64 {
        self.len.div_ceil(self.stride.max(1))
    }

    /// Offset and length of its window `w`, which must be in it.
    pub fn window(&self, w: u64) -> (u64, u64) {
        (self.offset + w * self.stride, self.stride.min(self.len - w * self.stride))
    }
}

/// The spans of a sector, in order and without a gap: header, segments, leaf table, trailer. Each record is a window.
pub fn spans(layout: &Layout) -> [Span; 4] {
    let whole = |offset, len| Span { offset, len, stride: len };
    let segments = layout.leaves_at() - Layout::segment_at(0);
    [
        whole(0, HEADER_LEN as u64),
        Span { offset: Layout::segment_at(0), len: segments, stride: Layout::segment_at(1) - Layout::segment_at(0) },
        whole(layout.leaves_at(), layout.leaves_len() as u64),
        whole(layout.trailer_at(), HEADER_LEN as u64),
    ]
}

/// What the keys of a copy's stripes come from.
pub fn audit_root(dek: &Secret32, header: &Header) -> Secret32 {
    hkdf32(&dek.0, &header.hash().0, &[b"zoneward/1 audit root"])
}

/// Key number `j`.
pub fn stripe_key(root: &Secret32, j: u32) -> Secret32 {
    hkdf32(&root.0, &[], &[b"zoneward/1 stripe", &j.to_be_bytes()])
}

/// Where in the window that begins at `offset` the block lies that this key asks for, and how long it is.
pub fn block_of(key: &Secret32, offset: u64, len: u64) -> (u64, usize) {
    let room = len.saturating_sub(BLOCK_LEN as u64);
    let drawn = keyed_fingerprint(&key.0, &offset.to_be_bytes());
    let [a, b, c, d, e, f, g, h, ..] = drawn;
    (u64::from_le_bytes([a, b, c, d, e, f, g, h]) % (room + 1), len.min(BLOCK_LEN as u64) as usize)
}

/// The tag of a block.
pub fn tag_of(key: &Secret32, block: &[u8]) -> [u8; 32] {
    keyed_fingerprint(&key.0, block)
}

/// The digest of consecutive windows, at most [`PART_WINDOWS`], from their tags: what a target answers.
#[derive(Debug)]
pub struct Part(Box<blake3::Hasher>);

impl Part {
    /// Begins with window number `first` of the sector.
    pub fn new(key: &Secret32, copy: CopyId, first: u64) -> Self {
        let mut hash = Box::new(blake3::Hasher::new_keyed(&key.0));
        hash.update(&copy.0).update(&first.to_be_bytes());
        Self(hash)
    }

    pub fn add(&mut self, tag: &[u8; 32]) {
        self.0.update(tag);
    }

    pub fn digest(&self) -> Digest {
        Digest(*self.0.finalize().as_bytes())
    }
}

/// The answer, from the number of windows and the digests of all parts in order.
pub fn answer_of(key: &Secret32, copy: CopyId, windows: u64, parts: &[Digest]) -> Answer {
    let mut hash = blake3::Hasher::new_keyed(&key.0);
    hash.update(&copy.0).update(&windows.to_be_bytes());
    for p in parts {
        hash.update(&p.0);
    }
    let mut out = [0; ANSWER_LEN];
    out.copy_from_slice(&hash.finalize().as_bytes()[..ANSWER_LEN]);
    out
}

/// Computes a set of answers while a sector passes, in any order and on any number of threads.
#[derive(Debug)]
pub struct Stripes {
    copy: CopyId,
    first: u32,
    keys: Vec<Secret32>,
    passed: Mutex<Passed>,
}

#[derive(Debug)]
struct Passed {
    /// Where the next window begins that has its place.
    next: u64,
    windows: u64,
    rounds: Vec<Round>,
    /// By offset: length and tags of windows whose place is not known yet.
    waiting: BTreeMap<u64, (u64, Vec<[u8; 32]>)>,
    /// Too many windows wait, or one came twice: there will be no answers.
    broken: bool,
}

#[derive(Debug)]
struct Round {
    part: Part,
    parts: Vec<Digest>,
}

impl Stripes {
    /// A set for the keys from number `first` on.
    pub fn new(root: &Secret32, copy: CopyId, first: u32) -> Self {
        let keys: Vec<_> = (0..ROUNDS).map(|j| stripe_key(root, first.saturating_add(j))).collect();
        let rounds = keys.iter().map(|k| Round { part: Part::new(k, copy, 0), parts: Vec::new() }).collect();
        let passed = Passed { next: 0, windows: 0, rounds, waiting: BTreeMap::new(), broken: false };
        Self { copy, first, keys, passed: Mutex::new(passed) }
    }

    /// The number of its first key.
    pub fn first(&self) -> u32 {
        self.first
    }

    /// One record of the sector, as it is stored at `offset`.
    pub fn pass(&self, offset: u64, bytes: &[u8]) {
        let len = bytes.len() as u64;
        let tag = |key| {
            let (at, n) = block_of(key, offset, len);
            tag_of(key, bytes.get(at as usize..).and_then(|b| b.get(..n)).unwrap_or_default())
        };
        let tags: Vec<_> = self.keys.iter().map(tag).collect();
        let mut passed = self.passed.lock().unwrap_or_else(PoisonError::into_inner);
        let passed = &mut *passed;
        passed.broken |= offset < passed.next || passed.waiting.insert(offset, (len, tags)).is_some();
        while let Some((len, tags)) = passed.waiting.remove(&passed.next) {
            passed.next += len.max(1);
            passed.windows += 1;
            for ((round, tag), key) in passed.rounds.iter_mut().zip(&tags).zip(&self.keys) {
                round.part.add(tag);
                if passed.windows.is_multiple_of(PART_WINDOWS) {
                    let begun = std::mem::replace(&mut round.part, Part::new(key, self.copy, passed.windows));
                    round.parts.push(begun.digest());
                }
            }
        }
        passed.broken |= passed.waiting.len() > WAITING_MAX;
        if passed.broken {
            passed.waiting.clear();
        }
    }

    /// The answers in the order of their keys; `None` if not all `len` bytes of the sector passed once.
    pub fn answers(&self, len: u64) -> Option<Vec<Answer>> {
        let passed = self.passed.lock().unwrap_or_else(PoisonError::into_inner);
        if passed.broken || passed.next != len || !passed.waiting.is_empty() {
            return None;
        }
        let rest = !passed.windows.is_multiple_of(PART_WINDOWS);
        let all = passed.rounds.iter().zip(&self.keys).map(|(round, key)| {
            let mut parts = round.parts.clone();
            parts.extend(rest.then(|| round.part.digest()));
            answer_of(key, self.copy, passed.windows, &parts)
        });
        Some(all.collect())
    }
}

const _: () = assert!(BLOCK_LEN <= SEGMENT_LEN && BLOCK_LEN <= HEADER_LEN);

#[cfg(test)]
mod tests {
    use super::*;

    const COPY: CopyId = CopyId([7; 16]);

    fn bytes(n: usize) -> Vec<u8> {
        (0..n).map(|i| (i * 7 + i / 251 * 13) as u8).collect()
    }

    /// A sector's records, cut as the spans say.
    fn records(layout: &Layout) -> Vec<(u64, u64)> {
        spans(layout).iter().flat_map(|s| (0..s.windows()).map(|w| s.window(w))).collect()
    }

    /// The answer as one writes it down from the page, without parts in between.
    fn by_hand(root: &Secret32, j: u32, sector: &[u8], records: &[(u64, u64)]) -> Answer {
        let key = stripe_key(root, j);
        let tags: Vec<[u8; 32]> = records
            .iter()
            .map(|(offset, len)| {
                let drawn = blake3::keyed_hash(&key.0, &offset.to_be_bytes());
                let room = len.saturating_sub(4096) + 1;
                let at = offset + u64::from_le_bytes(drawn.as_bytes()[..8].try_into().unwrap()) % room;
                *blake3::keyed_hash(&key.0, &sector[at as usize..][..4096.min(*len as usize)]).as_bytes()
            })
            .collect();
        let mut outer = [COPY.0.as_slice(), &(records.len() as u64).to_be_bytes()].concat();
        for (p, part) in tags.chunks(4096).enumerate() {
            let inner = [COPY.0.as_slice(), &(p as u64 * 4096).to_be_bytes(), part.as_flattened()].concat();
            outer.extend_from_slice(blake3::keyed_hash(&key.0, &inner).as_bytes());
        }
        blake3::keyed_hash(&key.0, &outer).as_bytes()[..16].try_into().unwrap()
    }

    #[test]
    fn the_spans_cover_every_byte_once() {
        for raw in [1, 1 << 20, (1 << 20) + 1, 5 << 20] {
            let layout = Layout::of_raw(raw).unwrap();
            let mut at = 0;
            for (offset, len) in records(&layout) {
                assert_eq!(offset, at);
                assert!(len > 0);
                at += len;
            }
            assert_eq!(at, layout.file_len());
            assert_eq!(records(&layout).len() as u64, layout.segments() + 3);
        }
    }

    #[test]
    fn answers_are_those_of_the_page_in_whatever_order_the_records_come() {
        let root = Secret32([3; 32]);
        let layout = Layout::of_raw((3 << 20) + 100).unwrap();
        let sector = bytes(layout.file_len() as usize);
        let all = records(&layout);
        let straight = Stripes::new(&root, COPY, 5);
        let mixed = Stripes::new(&root, COPY, 5);
        let piece = |(offset, len): (u64, u64)| &sector[offset as usize..][..len as usize];
        all.iter().for_each(|r| straight.pass(r.0, piece(*r)));
        for i in [3, 0, 5, 1, 2, 6, 4] {
            assert_eq!(mixed.answers(layout.file_len()), None, "not all of it has passed");
            mixed.pass(all[i].0, piece(all[i]));
        }
        let answers = straight.answers(layout.file_len()).unwrap();
        assert_eq!(mixed.answers(layout.file_len()).unwrap(), answers);
        assert_eq!(answers.len(), ROUNDS as usize);
        for j in [0, 1, 63] {
            assert_eq!(answers[j], by_hand(&root, 5 + j as u32, &sector, &all), "key {j}");
        }
        assert_eq!(straight.answers(layout.file_len() - 1), None, "another length");
        // A record that comes twice, or a hole, gives no answers rather than wrong ones.
        straight.pass(all[1].0, piece(all[1]));
        assert_eq!(straight.answers(layout.file_len()), None);
    }

    #[test]
    fn what_is_longer_than_a_part_is_answered_part_by_part() {
        let root = Secret32([9; 32]);
        // Small windows stand for a sector of four GiB.
        let sector = bytes(16 * 4098);
        let cut: Vec<(u64, u64)> = (0..4098).map(|w| (w * 16, 16)).collect();
        for n in [4095, 4096, 4097, 4098] {
            let stripes = Stripes::new(&root, COPY, 0);
            cut[..n].iter().for_each(|(o, l)| stripes.pass(*o, &sector[*o as usize..][..*l as usize]));
            let answers = stripes.answers(n as u64 * 16).unwrap();
            assert_eq!(answers[2], by_hand(&root, 2, &sector, &cut[..n]), "{n} windows");
        }
    }

    #[test]
    fn every_key_looks_elsewhere_and_inside() {
        let root = Secret32([1; 32]);
        let places: std::collections::BTreeSet<u64> = (0..64)
            .map(|j| {
                let (at, n) = block_of(&stripe_key(&root, j), 4096, 1_048_592);
                assert!(n == 4096 && at + 4096 <= 1_048_592);
                at
            })
            .collect();
        assert!(places.len() > 60);
        assert_eq!(block_of(&stripe_key(&root, 0), 0, 4096), (0, 4096));
        assert_eq!(block_of(&stripe_key(&root, 0), 0, 1), (0, 1));
    }
}
