//! Passphrases: from a file, the environment, or a prompt; never from an argument.

use std::io::{IsTerminal, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

use crate::errors::{Failure, exit};
use crate::output::show;

fn first_line(path: &Path) -> Result<Zeroizing<String>, Failure> {
    let fail = |why: String| {
        Failure::new(1102, exit::FAILED, format!("the passphrase file {} cannot be used", path.display()))
            .why(why)
            .help("give a file whose first line is the passphrase")
    };
    if let Ok(meta) = std::fs::metadata(path)
        && meta.is_file()
        && meta.mode() & 0o077 != 0
    {
        let path = path.display();
        crate::output::tell(&format!("warning: others can read the passphrase file {path}: chmod 600 {path}"));
    }
    let bytes = zoneward_sectors::fsx::read_limited(path, 4096).map(Zeroizing::new).map_err(|e| fail(e.to_string()))?;
    let line = bytes.split(|b| *b == b'\n').next().unwrap_or_default();
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let text = std::str::from_utf8(line).map_err(|_| fail("it is not UTF-8".into()))?;
    Ok(Zeroizing::new(text.to_owned()))
}

/// Longest passphrase that is read from a terminal, in bytes.
const TYPED_MAX: usize = 4096;

/// A terminal that shows nothing of what is typed, until this is dropped. It hands every key over, Ctrl-C too: a process
/// that a signal ends would leave a terminal behind that shows nothing for ever.
struct Silent {
    stdin: std::io::Stdin,
    before: Termios,
}

impl Silent {
    fn new(stdin: std::io::Stdin) -> std::io::Result<Self> {
        let before = tcgetattr(&stdin)?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG | LocalModes::IEXTEN);
        silent.special_codes[SpecialCodeIndex::VMIN] = 1;
        silent.special_codes[SpecialCodeIndex::VTIME] = 0;
        // What was typed before the question was not meant as its answer.
        tcsetattr(&stdin, OptionalActions::Flush, &silent)?;
        Ok(Self { stdin, before })
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        let _ = tcsetattr(&self.stdin, OptionalActions::Now, &self.before);
    }
}

/// What typed keys make of a line.
enum Typed {
    More,
    Done,
    Interrupted,
}

fn key(line: &mut Zeroizing<Vec<u8>>, key: u8) -> Typed {
    match key {
        b'\n' | b'\r' => return Typed::Done,
        // Ctrl-D ends what was typed, or all, as in a shell.
        4 => return if line.is_empty() { Typed::Interrupted } else { Typed::Done },
        3 | 28 => return Typed::Interrupted,
        // Backspace takes a whole character.
        8 | 127 => while line.pop().is_some_and(|b| b & 0xC0 == 0x80) {},
        // Ctrl-U: all.
        21 => line.clear(),
        _ if line.len() < TYPED_MAX => line.push(key),
        _ => {}
    }
    Typed::More
}

/// Reads a line from the terminal without showing it.
fn prompt(question: &str) -> Result<Zeroizing<String>, Failure> {
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        return Err(Failure::new(1101, exit::USAGE, "a passphrase is needed")
            .why("there is no terminal to ask on")
            .help("set ZONEWARD_PASSPHRASE or give --passphrase-file FILE"));
    }
    let fail = |e: std::io::Error| Failure::new(1101, exit::FAILED, "the passphrase cannot be read").why(e.to_string());
    show(&format!("{question}: "));
    let silent = Silent::new(stdin).map_err(fail)?;
    // Room for all of it at once: a line that grows leaves its pieces in memory.
    let mut line = Zeroizing::new(Vec::with_capacity(TYPED_MAX));
    let end = loop {
        let mut byte = [0];
        match silent.stdin.lock().read(&mut byte) {
            Ok(0) => break Ok(Typed::Done),
            Ok(_) => match key(&mut line, byte[0]) {
                Typed::More => {}
                end => break Ok(end),
            },
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => break Err(e),
        }
    };
    drop(silent);
    show("\n");
    if let Typed::Interrupted = end.map_err(fail)? {
        return Err(Failure::new(1902, exit::INTERRUPTED, "no passphrase was given").help("nothing was changed"));
    }
    let text =
        std::str::from_utf8(&line).map_err(|_| Failure::new(1102, exit::USAGE, "the passphrase is not UTF-8"))?;
    Ok(Zeroizing::new(text.to_owned()))
}

fn not_empty(text: Zeroizing<String>) -> Result<Zeroizing<String>, Failure> {
    if text.is_empty() {
        return Err(Failure::new(1103, exit::USAGE, "the passphrase is empty"));
    }
    Ok(text)
}

/// The passphrase: file, environment, prompt.
pub fn get(file: Option<&Path>, variable: &str, question: &str) -> Result<Zeroizing<String>, Failure> {
    if let Some(path) = file {
        return not_empty(first_line(path)?);
    }
    if let Some(text) = std::env::var_os(variable) {
        let text =
            text.into_string().map_err(|_| Failure::new(1102, exit::USAGE, format!("{variable} is not UTF-8")))?;
        return not_empty(Zeroizing::new(text));
    }
    not_empty(prompt(question)?)
}

/// A new passphrase: a prompt asks twice.
pub fn get_new(file: Option<&Path>, variable: &str, question: &str) -> Result<Zeroizing<String>, Failure> {
    let first = get(file, variable, question)?;
    if file.is_none() && std::env::var_os(variable).is_none() {
        let again = prompt("once more")?;
        if *first != *again {
            return Err(Failure::new(1104, exit::USAGE, "the two passphrases differ").help("try again"));
        }
    }
    Ok(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(keys: &[u8]) -> (String, bool) {
        let mut line = Zeroizing::new(Vec::new());
        for k in keys {
            match key(&mut line, *k) {
                Typed::More => {}
                Typed::Done => break,
                Typed::Interrupted => return (String::new(), false),
            }
        }
        (String::from_utf8(line.to_vec()).unwrap(), true)
    }

    #[test]
    fn keys_edit_the_line_as_in_a_shell() {
        assert_eq!(typed(b"secret\rmore"), ("secret".into(), true));
        assert_eq!(typed("a\u{e9}\x7fb\x08c\n".as_bytes()), ("ac".into(), true));
        assert_eq!(typed(b"\x7f\x7fok\x04"), ("ok".into(), true));
        assert_eq!(typed(b"wrong\x15right\n"), ("right".into(), true));
        for stop in [&b"sec\x03"[..], b"\x04", b"x\x1c"] {
            assert!(!typed(stop).1);
        }
        assert_eq!(typed(&[b'a'; TYPED_MAX + 9]).0.len(), TYPED_MAX);
    }
}
