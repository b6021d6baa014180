//! The 24 recovery words: 256 random bits as BIP-39 English words.

use bip39::{Language, Mnemonic};
use zeroize::Zeroizing;

use crate::crypto::Secret32;

/// Number of recovery words.
pub const WORD_COUNT: usize = 24;

/// Why a text is not a set of recovery words. Never holds any of the words.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum WordsError {
    #[error("there are {WORD_COUNT} recovery words, not {0}")]
    Count(usize),
    #[error("word {position} is not a recovery word: compare its spelling with the recovery kit")]
    Unknown {
        /// From 1.
        position: usize,
    },
    #[error("each word is known, but together they do not fit: a word is wrong or two are swapped")]
    Checksum,
}

/// The recovery words: wiped when dropped, never printed by `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct Words(Mnemonic);

impl std::fmt::Debug for Words {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Words(…)")
    }
}

impl Words {
    /// Fresh words.
    #[allow(clippy::expect_used)] // 32 bytes are always a valid amount.
    pub fn generate() -> Self {
        let entropy = Secret32::random();
        Self(Mnemonic::from_entropy_in(Language::English, &entropy.0).expect("32 bytes"))
    }

    /// Reads words as people type or copy them: upper or lower case, any white space between them, and also with the
    /// numbers of the recovery kit's grid (`1. abandon 2. ability`) or commas.
    pub fn parse(text: &str) -> Result<Self, WordsError> {
        // Room for all of it at once: a text that grows leaves copies behind.
        let mut plain = Zeroizing::new(String::with_capacity(2 * text.len() + WORD_COUNT));
        let mut count = 0usize;
        for token in text.split(|c: char| c.is_whitespace() || c == ',') {
            let token = token.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.' || c == ')');
            if token.is_empty() {
                continue;
            }
            if count > 0 {
                plain.push(' ');
            }
            plain.extend(token.chars().map(|c| c.to_ascii_lowercase()));
            count += 1;
        }
        if count != WORD_COUNT {
            return Err(WordsError::Count(count));
        }
        match Mnemonic::parse_in_normalized(Language::English, &plain) {
            Ok(mnemonic) => Ok(Self(mnemonic)),
            Err(bip39::Error::UnknownWord(index)) => Err(WordsError::Unknown { position: index + 1 }),
            Err(_) => Err(WordsError::Checksum),
        }
    }

    /// The words in order.
    pub fn iter(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.0.words()
    }

    /// The words joined by single spaces: what the key file's key is made from.
    pub fn text(&self) -> Zeroizing<String> {
        let mut out = Zeroizing::new(String::with_capacity(WORD_COUNT * 9)); // No word has more than 8 letters.
        for (i, word) in self.iter().enumerate() {
            if i > 0 {
                out.push(' ');
            }
            out.push_str(word);
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From the BIP-39 test vectors: entropy ff × 32, and 68a79eac….
    const ZOO: &str =
        "zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo vote";
    const HAMSTER: &str = "hamster diagram private dutch cause delay private meat slide toddler razor book happy fancy \
                           gospel tennis maple dilemma loan word shrug inflict delay length";

    #[test]
    fn known_words_are_read_in_any_dress() {
        let words = Words::parse(HAMSTER).unwrap();
        assert_eq!(words.text().as_str(), HAMSTER);
        assert_eq!(words.iter().count(), WORD_COUNT);
        assert_eq!(Words::parse(ZOO).unwrap().text().as_str(), ZOO);
        let numbered: String = HAMSTER.split(' ').enumerate().map(|(i, w)| format!("{}. {w}\r\n", i + 1)).collect();
        let glued: String = HAMSTER.split(' ').enumerate().map(|(i, w)| format!("{}){w}, ", i + 1)).collect();
        let spaced = format!("\u{3000}\n {}\t\n", HAMSTER.replace(' ', " \n\t "));
        for dress in [HAMSTER.to_uppercase(), numbered, glued, spaced] {
            assert_eq!(Words::parse(&dress).unwrap(), words, "{dress}");
        }
    }

    #[test]
    fn faults_are_told_apart_and_name_no_word() {
        for (text, count) in [("", 0), ("  \n1. 2. 3.", 0), ("zoo", 1), (&ZOO[4..], 23), (&format!("{ZOO} zoo"), 25)] {
            assert_eq!(Words::parse(text), Err(WordsError::Count(count)));
        }
        let wrong = HAMSTER.replace("book", "boook");
        let e = Words::parse(&wrong).unwrap_err();
        assert_eq!(e, WordsError::Unknown { position: 12 });
        assert!(!e.to_string().contains("boook"));
        for not_a_word in ["bo\u{f6}k", "\u{4e66}", "book-", "<b>"] {
            let e = Words::parse(&HAMSTER.replace("book", not_a_word)).unwrap_err();
            assert_eq!(e, WordsError::Unknown { position: 12 });
        }
        assert_eq!(Words::parse(&ZOO.replace("vote", "zoo")), Err(WordsError::Checksum));
        let swapped = HAMSTER.replace("hamster diagram", "diagram hamster");
        assert_eq!(Words::parse(&swapped), Err(WordsError::Checksum));
    }

    #[test]
    fn fresh_words_differ_read_back_and_are_not_printed() {
        let (a, b) = (Words::generate(), Words::generate());
        assert_ne!(a, b);
        assert_eq!(Words::parse(&a.text()).unwrap(), a);
        assert_eq!(format!("{a:?}"), "Words(…)");
    }
}
