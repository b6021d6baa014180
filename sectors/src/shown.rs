//! How bytes of a path are shown to people.

/// Bytes of a path for a terminal: UTF-8 as it is, everything that could steer the terminal escaped.
pub fn show_path(path: &[u8]) -> String {
    let mut out = String::new();
    for chunk in path.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\\' => out.push_str("\\\\"),
                c if c.is_control()
                    || ('\u{202a}'..='\u{202e}').contains(&c)
                    || ('\u{2066}'..='\u{2069}').contains(&c) =>
                {
                    out.extend(c.escape_default());
                }
                c => out.push(c),
            }
        }
        for b in chunk.invalid() {
            out.push_str(&format!("\\x{b:02x}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_cannot_steer_the_terminal() {
        assert_eq!(show_path(b"a\x1b[2Jb\n\xff\\"), "a\\u{1b}[2Jb\\n\\xff\\\\");
        assert_eq!(show_path("汉字🙂".as_bytes()), "汉字🙂");
        assert_eq!(show_path("a\u{202e}b".as_bytes()), "a\\u{202e}b");
    }
}
