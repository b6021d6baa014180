//! The head code: the number of a head and six words of its hash, to be kept outside the zone (`docs/format.md` §8). Who has one
//! can tell whether a target shows this state, an older one, or another history.

use bip39::Language;

use crate::ids::Digest;

/// Words of the hash: 66 bits, too many to be met by trying.
const WORDS: usize = 6;
const WORD_BITS: usize = 11;

/// A head, as a person writes it down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadCode {
    pub n: u64,
    words: [u16; WORDS],
}

/// Why a text is no head code.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum HeadCodeError {
    #[error("a head code is a number and six words, as zoneward status shows it: 12-ocean-river-…")]
    Form,
    #[error("word {position} of the head code is none of the list")]
    Unknown { position: usize },
}

impl HeadCode {
    /// Of a head and the hash of what it says.
    pub fn of(n: u64, hash: &Digest) -> Self {
        let bit = |i: usize| u16::from(hash.0[i / 8] >> (7 - i % 8) & 1);
        let word = |w: usize| (0..WORD_BITS).fold(0, |acc, i| acc << 1 | bit(w * WORD_BITS + i));
        Self { n, words: std::array::from_fn(word) }
    }

    /// Reads a code: hyphens or spaces, in any case; four letters of a word are enough.
    pub fn parse(text: &str) -> Result<Self, HeadCodeError> {
        let mut parts = text.split(|c: char| c == '-' || c.is_whitespace()).filter(|p| !p.is_empty());
        let n = parts.next().and_then(|p| p.parse().ok()).ok_or(HeadCodeError::Form)?;
        let list = Language::English.word_list();
        let mut words = [0; WORDS];
        for (i, word) in words.iter_mut().enumerate() {
            let typed = parts.next().ok_or(HeadCodeError::Form)?.to_lowercase();
            let short = typed.len() >= 4;
            let found = list.iter().position(|w| *w == typed || (short && w.starts_with(&typed)));
            *word = found.ok_or(HeadCodeError::Unknown { position: i + 1 })? as u16;
        }
        if parts.next().is_some() { Err(HeadCodeError::Form) } else { Ok(Self { n, words }) }
    }
}

impl std::fmt::Display for HeadCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let list = Language::English.word_list();
        write!(f, "{}", self.n)?;
        self.words.iter().try_for_each(|w| write!(f, "-{}", list.get(usize::from(*w)).unwrap_or(&"")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::sha256;

    #[test]
    fn a_code_comes_back_however_it_is_typed() {
        let code = HeadCode::of(1841, &sha256(&[b"head"]));
        let text = code.to_string();
        assert_eq!(text, "1841-palace-inflict-erupt-eight-blood-inject");
        assert_eq!(HeadCode::parse(&text), Ok(code));
        assert_eq!(HeadCode::parse("  1841 PALACE inflict  erup-eigh bloo inje "), Ok(code));
        for bad in ["", "palace", "1841-palace", "1841-palace-inflict-erupt-eight-blood-inject-zoo"] {
            assert_eq!(HeadCode::parse(bad), Err(HeadCodeError::Form), "{bad}");
        }
        let wrong = HeadCode::parse("1841-palace-inflict-eru-eight-blood-inject");
        assert_eq!(wrong, Err(HeadCodeError::Unknown { position: 3 }));
    }

    #[test]
    fn another_hash_or_number_is_another_code() {
        let hash = sha256(&[b"head"]);
        let code = HeadCode::of(7, &hash);
        assert_ne!(code, HeadCode::of(8, &hash));
        for bit in 0..WORDS * WORD_BITS {
            let mut other = hash;
            other.0[bit / 8] ^= 0x80 >> (bit % 8);
            assert_ne!(code, HeadCode::of(7, &other), "bit {bit}");
        }
    }
}
