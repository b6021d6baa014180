//! RFC 4648 base32 in small letters, without padding, for codes that people type: no letter is taken for a digit, and capitals make
//! a small QR code.

use zeroize::Zeroizing;

/// Why a text is not base32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Base32Error {
    #[error("character {at} is none of a–z and 2–7")]
    Character { at: usize },
    /// Bits are left over: the text was cut, or its last letter is another.
    #[error("the text does not end where a byte ends")]
    Rest,
}

/// Appends the text of these bytes.
pub fn encode(bytes: &[u8], out: &mut String) {
    const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let mut put = |bits: u32| out.extend(ALPHABET.get((bits & 31) as usize).copied().map(char::from));
    let (mut bits, mut have) = (0u32, 0u32);
    for b in bytes {
        bits = bits << 8 | u32::from(*b);
        have += 8;
        while have >= 5 {
            have -= 5;
            put(bits >> have);
        }
    }
    if have > 0 {
        put(bits << (5 - have));
    }
}

/// The bytes of a text; capitals count as small letters. Each text of bytes has one spelling: the bits that fill the last
/// letter are zero, and fewer than a letter.
pub fn decode(text: &str) -> Result<Zeroizing<Vec<u8>>, Base32Error> {
    let mut out = Zeroizing::new(Vec::with_capacity(text.len() * 5 / 8 + 1));
    let (mut bits, mut have) = (0u32, 0u32);
    for (at, c) in text.bytes().enumerate() {
        let value = match c.to_ascii_lowercase() {
            c @ b'a'..=b'z' => c - b'a',
            c @ b'2'..=b'7' => c - b'2' + 26,
            _ => return Err(Base32Error::Character { at }),
        };
        bits = bits << 5 | u32::from(value);
        have += 5;
        if have >= 8 {
            have -= 8;
            out.push((bits >> have & 255) as u8);
        }
    }
    if have >= 5 || bits & ((1 << have) - 1) != 0 {
        return Err(Base32Error::Rest);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(bytes: &[u8]) -> String {
        let mut out = String::new();
        encode(bytes, &mut out);
        out
    }

    #[test]
    fn the_examples_of_the_standard() {
        for (bytes, want) in [
            ("", ""),
            ("f", "my"),
            ("fo", "mzxq"),
            ("foo", "mzxw6"),
            ("foob", "mzxw6yq"),
            ("fooba", "mzxw6ytb"),
            ("foobar", "mzxw6ytboi"),
        ] {
            assert_eq!(text(bytes.as_bytes()), want);
            assert_eq!(**decode(&want.to_uppercase()).unwrap(), *bytes.as_bytes());
        }
        assert_eq!(decode("my="), Err(Base32Error::Character { at: 2 }));
        assert_eq!(decode("m1"), Err(Base32Error::Character { at: 1 }));
        for cut in ["m", "mz7", "mzx", "mzxw6y", "mz"] {
            assert_eq!(decode(cut), Err(Base32Error::Rest), "{cut}");
        }
    }

    #[test]
    fn every_text_comes_back_and_has_one_spelling() {
        for len in 0..12u8 {
            let bytes: Vec<u8> = (0..len).map(|i| i.wrapping_mul(89).wrapping_add(len.wrapping_mul(37))).collect();
            let t = text(&bytes);
            assert_eq!(**decode(&t).unwrap(), *bytes);
            for (at, letter) in (0..t.len()).flat_map(|at| (0..32u8).map(move |l| (at, l))) {
                let mut bent = t.clone();
                bent.replace_range(at..=at, &text(&[letter << 3])[..1]);
                if let Ok(other) = decode(&bent) {
                    assert_eq!(text(&other), bent);
                }
            }
        }
    }
}
