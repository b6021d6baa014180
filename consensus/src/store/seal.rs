//! Checksums of what the store keeps. redb checks the pages that it reads by itself only after a crash, and a stale page
//! has a right checksum; these are bound to the place of a row, and the tally notices a row that is missing or old.

use serde::{Deserialize, Serialize};
use zoneward_sectors::crypto::sha256;

/// Bytes of a checksum: enough against chance. It is no defence against someone who writes the file.
pub const SUM_LEN: usize = 16;

/// The checksum of one row: the first bytes of SHA-256 over table, key and value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sum([u8; SUM_LEN]);

impl Sum {
    fn of(table: &str, key: &[u8], value: &[u8]) -> Self {
        let lens = [table.len() as u64, key.len() as u64].map(u64::to_le_bytes);
        let digest = sha256(&[&lens[0], &lens[1], table.as_bytes(), key, value]);
        let mut sum = [0; SUM_LEN];
        sum.iter_mut().zip(digest.0).for_each(|(s, d)| *s = d);
        Self(sum)
    }

    /// The checksum that a stored row carries, whether right or wrong.
    pub fn carried(row: &[u8]) -> Option<Self> {
        row.first_chunk::<SUM_LEN>().copied().map(Self)
    }
}

/// A value with its checksum before it, as it is stored.
pub fn seal(table: &str, key: &[u8], value: &[u8]) -> (Vec<u8>, Sum) {
    let sum = Sum::of(table, key, value);
    ([&sum.0[..], value].concat(), sum)
}

/// The value of a stored row; `None` if it is not what was stored under this key.
pub fn unseal<'a>(table: &str, key: &[u8], row: &'a [u8]) -> Option<(&'a [u8], Sum)> {
    let (sum, value) = row.split_at_checked(SUM_LEN)?;
    let right = Sum::of(table, key, value);
    (sum == right.0).then_some((value, right))
}

/// How many rows a table has, and the XOR of their checksums, in any order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    rows: u64,
    sum: Sum,
}

impl Tally {
    pub fn add(&mut self, sum: Sum) {
        self.rows = self.rows.wrapping_add(1);
        self.mix(sum);
    }

    pub fn remove(&mut self, sum: Sum) {
        self.rows = self.rows.wrapping_sub(1);
        self.mix(sum);
    }

    fn mix(&mut self, sum: Sum) {
        self.sum.0.iter_mut().zip(sum.0).for_each(|(a, b)| *a ^= b);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_bound_to_its_table_key_and_value() {
        let (row, sum) = seal("rows", b"copy/1", b"{}");
        assert_eq!(unseal("rows", b"copy/1", &row), Some((&b"{}"[..], sum)));
        assert_eq!(Sum::carried(&row), Some(sum));
        assert_eq!(unseal("log", b"copy/1", &row), None);
        assert_eq!(unseal("rows", b"copy/2", &row), None);
        assert_eq!(unseal("row", b"scopy/1", &row), None);
        for bit in 0..row.len() * 8 {
            let mut bad = row.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(unseal("rows", b"copy/1", &bad), None, "bit {bit}");
        }
        for cut in 0..row.len() {
            assert_eq!(unseal("rows", b"copy/1", &row[..cut]), None, "cut at {cut}");
        }
        assert_eq!(Sum::carried(&row[..SUM_LEN - 1]), None);
    }

    #[test]
    fn a_tally_depends_on_its_rows_and_not_on_their_order() {
        let sums: Vec<Sum> = (0u8..4).map(|i| seal("rows", &[i], b"v").1).collect();
        let (mut a, mut b) = (Tally::default(), Tally::default());
        sums.iter().for_each(|s| a.add(*s));
        sums.iter().rev().for_each(|s| b.add(*s));
        assert_eq!(a, b);
        b.remove(sums[2]);
        assert_ne!(a, b, "a missing row");
        b.add(seal("rows", &[2], b"old").1);
        assert_eq!(b.rows, a.rows);
        assert_ne!(a, b, "an old row");
    }
}
