//! What is told of single paths, in bounded length.

use zoneward_consensus::limits;
use zoneward_sectors::shown::show_path;

/// What is wrong with a path. A long path loses its middle, so that the reason is there.
pub(crate) fn told(path: &[u8], why: &str) -> String {
    let path = show_path(path);
    let room = limits::WARNING_LEN_MAX.saturating_sub(why.len() + 8);
    if path.len() <= room {
        return format!("{path}: {why}");
    }
    let from = (path.len() - room / 2..path.len()).find(|i| path.is_char_boundary(*i)).unwrap_or(path.len());
    let end = path.get(from..).unwrap_or_default().to_owned();
    format!("{}{end}: {why}", shorten(path, room / 2))
}

/// The beginning of a text, with a mark where it was cut.
pub(crate) fn shorten(mut text: String, max: usize) -> String {
    if text.len() > max {
        let end = (0..=max).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_path_loses_its_middle_and_never_the_reason() {
        assert_eq!(told(b"/a/b", "is gone"), "/a/b: is gone");
        let path = format!("/begin/{}/end", "\u{e4}b".repeat(5000));
        let text = told(path.as_bytes(), "cannot open it: permission denied");
        assert!(text.len() <= limits::WARNING_LEN_MAX && text.len() > limits::WARNING_LEN_MAX - 40, "{}", text.len());
        assert!(text.starts_with("/begin/") && text.contains('…'), "{text}");
        assert!(text.ends_with("/end: cannot open it: permission denied"), "{text}");
        // A reason that leaves no room is itself cut.
        assert!(told(path.as_bytes(), &"x".repeat(3000)).ends_with('x'));
    }
}
