//! Passphrases: from a file, the environment, or a prompt; never from an argument.

use std::io::{BufRead, IsTerminal, Write};
use std::path::Path;

use zeroize::Zeroizing;

use crate::errors::{Failure, exit};

fn first_line(path: &Path) -> Result<Zeroizing<String>, Failure> {
    let fail = |why: String| {
        Failure::new(1102, exit::FAILED, format!("the passphrase file {} cannot be used", path.display())).why(why)
    };
    let bytes = zoneward_sectors::fsx::read_limited(path, 4096).map(Zeroizing::new).map_err(|e| fail(e.to_string()))?;
    let line = bytes.split(|b| *b == b'\n').next().unwrap_or_default();
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let text = std::str::from_utf8(line).map_err(|_| fail("it is not UTF-8".into()))?;
    Ok(Zeroizing::new(text.to_owned()))
}

/// Reads a line from the terminal without showing it.
fn prompt(question: &str) -> Result<Zeroizing<String>, Failure> {
    use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        return Err(Failure::new(1101, exit::USAGE, "a passphrase is needed")
            .why("there is no terminal to ask on")
            .help("set ZONEWARD_PASSPHRASE or give --passphrase-file FILE"));
    }
    eprint!("{question}: ");
    let _ = std::io::stderr().flush();
    let before = tcgetattr(&stdin).ok();
    if let Some(t) = &before {
        let mut silent = t.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        let _ = tcsetattr(&stdin, OptionalActions::Now, &silent);
    }
    let mut line = Zeroizing::new(String::new());
    let read = stdin.lock().read_line(&mut line);
    if let Some(t) = &before {
        let _ = tcsetattr(&stdin, OptionalActions::Now, t);
    }
    eprintln!();
    read.map_err(|e| Failure::new(1101, exit::FAILED, "the passphrase cannot be read").why(e.to_string()))?;
    Ok(Zeroizing::new(line.trim_end_matches(['\n', '\r']).to_owned()))
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
