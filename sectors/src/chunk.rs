//! Content-defined chunks of large files (`docs/format.md` §4.2).

use fastcdc::v2020::{MASKS, cut_gear};

use crate::limits::{CHUNK_AVG, CHUNK_MAX, CHUNK_MIN};

/// Cuts with the zone's own gear table, so that chunk sizes tell an outsider nothing.
pub struct Chunker {
    gear: [u64; 256],
    gear_ls: [u64; 256],
    mask_s: u64,
    mask_l: u64,
}

impl std::fmt::Debug for Chunker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Chunker")
    }
}

impl Chunker {
    pub fn new(gear: &[u64; 256]) -> Self {
        let bits = CHUNK_AVG.trailing_zeros() as usize;
        // Normalisation 1: one bit harder before the average, one bit easier after it.
        Self { gear: *gear, gear_ls: gear.map(|g| g << 1), mask_s: MASKS[bits + 1], mask_l: MASKS[bits - 1] }
    }

    /// Length of the first chunk of `data`, or `None` if more data is needed to tell (never when `at_end`).
    pub fn cut(&self, data: &[u8], at_end: bool) -> Option<usize> {
        if data.is_empty() || (!at_end && data.len() <= CHUNK_MIN) {
            return None;
        }
        if data.len() <= CHUNK_MIN {
            return Some(data.len());
        }
        let (_, n) = cut_gear(
            data,
            CHUNK_MIN,
            CHUNK_AVG,
            CHUNK_MAX,
            self.mask_s,
            self.mask_l,
            self.mask_s << 1,
            self.mask_l << 1,
            &self.gear,
            &self.gear_ls,
        );
        // A cut found inside stands whatever follows; one at the end of what is seen may only be that end.
        (at_end || n < data.len() || n == CHUNK_MAX).then_some(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gear(seed: u8) -> [u64; 256] {
        std::array::from_fn(|i| {
            let h = blake3::hash(&[seed, i as u8]);
            u64::from_le_bytes(h.as_bytes()[..8].try_into().unwrap())
        })
    }

    fn cuts(c: &Chunker, data: &[u8]) -> Vec<usize> {
        let (mut out, mut at) = (Vec::new(), 0);
        while let Some(n) = c.cut(&data[at..], true) {
            out.push(n);
            at += n;
        }
        out
    }

    fn noise(len: usize) -> Vec<u8> {
        let mut v = vec![0u8; len];
        blake3::Hasher::new().finalize_xof().fill(&mut v);
        v
    }

    #[test]
    fn chunks_have_their_sizes_and_survive_an_insertion() {
        let data = noise(40 << 20);
        let c = Chunker::new(&gear(1));
        let a = cuts(&c, &data);
        assert_eq!(a.iter().sum::<usize>(), data.len());
        assert!(a[..a.len() - 1].iter().all(|n| (CHUNK_MIN..=CHUNK_MAX).contains(n)));
        let mean = data.len() / a.len();
        assert!((800 << 10..1500 << 10).contains(&mean), "{mean}");
        let moved = [&data[..1000], b"inserted", &data[1000..]].concat();
        let b = cuts(&c, &moved);
        let common = a.iter().rev().zip(b.iter().rev()).take_while(|(x, y)| x == y).count();
        assert!(common + 4 >= a.len(), "{common} of {}", a.len());
        assert_ne!(cuts(&Chunker::new(&gear(2)), &data), a);
    }

    #[test]
    fn cutting_does_not_depend_on_how_much_is_seen() {
        let data = noise(12 << 20);
        let c = Chunker::new(&gear(1));
        let whole = cuts(&c, &data);
        let mut at = 0;
        for n in whole {
            let rest = &data[at..];
            assert_eq!(c.cut(&rest[..rest.len().min(CHUNK_MAX)], rest.len() <= CHUNK_MAX), Some(n));
            for seen in (CHUNK_MIN / 2..rest.len().min(CHUNK_MAX)).step_by(77_777).chain([n - 1, n, n + 1]) {
                let answer = c.cut(&rest[..seen.min(rest.len())], false);
                assert!(answer.is_none() || answer == Some(n), "{seen}: {answer:?}, {n}");
                assert!(seen <= n + 1 || seen >= rest.len() || answer == Some(n), "{seen}: undecided, {n}");
            }
            at += n;
        }
    }
}
