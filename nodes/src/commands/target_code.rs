//! `target qr`, and what `target add` takes in: a URL, or the text of another device's `target qr`.

use std::io::Read;
use std::path::Path;

use zeroize::Zeroizing;
use zoneward_actors::init::{Place, credentials_of};
use zoneward_actors::zone::Zone;
use zoneward_targets::Url;
use zoneward_targets::code::{CodeError, TargetCode, is_code};
use zoneward_targets::limits::CODE_TEXT_MAX;

use super::make::{parse_url, place, read_credentials};
use super::things::find_target;
use crate::errors::{Failure, exit};
use crate::output::Out;
use crate::qr;

/// What stands for standard input.
const STDIN: &str = "-";

/// Shows a target's code.
pub fn show(zone: &Zone, out: Out, name: &str, with_credentials: bool) -> Result<i32, Failure> {
    let id = find_target(zone.state(), name)?;
    let known = zone.state().targets.get(&id).map(|t| t.url.clone()).unwrap_or_default();
    let url = parse_url(&known)?;
    let credentials = credentials_of(zone, id)?;
    let code = match (&credentials, with_credentials) {
        (_, false) => TargetCode::plain(&url, credentials.as_ref()),
        (Some(c), true) => TargetCode::with_credentials(&url, c),
        (None, true) => {
            return Err(Failure::new(1664, exit::USAGE, format!("target {name} has no credentials"))
                .help("zoneward target qr without --with-credentials"));
        }
    };
    let text = code.to_text();
    out.json(&serde_json::json!({
        "schema": "zoneward.target-code/1", "name": name, "url": code.url.to_string(), "code": *text,
        "with_credentials": code.secret,
    }));
    out.answer(text.as_str());
    if !out.quiet && !out.json {
        // Capitals make a smaller code, and mean the same.
        let capitals = Zeroizing::new(text.to_uppercase());
        match qr::terminal(&capitals) {
            Some(picture) => out.say(Zeroizing::new(picture).as_str()),
            None => out.say("It is too long for a QR code: copy the text."),
        }
        out.say(format!("It names {}", code.url));
    }
    if code.secret {
        out.warn(format!(
            "whoever has this text can do on target {name} what this zone can, but read its backups: show it to nobody \
             else; zoneward target credentials takes what is in it back, once its server no longer lets it in"
        ));
        out.say("on the other device: zoneward target add -   (then paste the text, and end with Ctrl-D)");
    } else {
        if matches!(code.url, Url::File(_)) {
            out.warn(format!("{} is a folder of this machine: elsewhere it may be another, or none", code.url));
        }
        out.say(match credentials {
            Some(_) => format!("on the other device: zoneward target add {:.12}… --credentials-file FILE", *text),
            None => format!("on the other device: zoneward target add {:.12}…", *text),
        });
    }
    Ok(0)
}

/// What `target add` was given.
#[derive(Debug)]
pub struct Given {
    pub place: Place,
    /// It came as a code: whoever showed it wants the target to be used by others too.
    pub shared: bool,
}

/// The place that `target add` was given: a path, a URL, a code, or `-` for one of them on standard input.
pub fn given(text: &str, file: Option<&Path>) -> Result<Given, Failure> {
    let read = if text == STDIN { Some(read_stdin()?) } else { None };
    let text = read.as_ref().map_or(text, |t| t.trim());
    if !is_code(text) {
        return Ok(Given { place: place(parse_url(text)?, file)?, shared: false });
    }
    let code = TargetCode::parse(text).map_err(|e| refused(&e))?;
    if code.secret && read.is_none() {
        return Err(Failure::new(
            1662,
            exit::USAGE,
            "this text carries credentials, and arguments can be seen by others",
        )
        .why("other users of this machine may have read it by now, and the shell may have kept it")
        .help("zoneward target add - reads it from standard input; make new credentials if others use this machine"));
    }
    let TargetCode { url, credentials, secret } = code;
    if matches!(url, Url::File(_)) || (!secret && file.is_none()) {
        return Ok(Given { place: place(url, file)?, shared: true });
    }
    let own = file.map(read_credentials).transpose()?.unwrap_or_default();
    Ok(Given { place: Place { url, credentials: Some(own.or(&credentials)) }, shared: true })
}

fn read_stdin() -> Result<Zeroizing<String>, Failure> {
    let fail = |why: &str| {
        Failure::new(1663, exit::USAGE, "no target can be read from standard input")
            .why(why)
            .help("zoneward target add - < FILE, or paste the text and end with Ctrl-D")
    };
    // Room for all of it at once: a text that grows leaves copies behind.
    let mut text = Zeroizing::new(String::with_capacity(CODE_TEXT_MAX + 1));
    let input = std::io::stdin().lock().take(CODE_TEXT_MAX as u64 + 1).read_to_string(&mut text);
    match input {
        Err(e) => Err(fail(&e.to_string())),
        Ok(n) if n > CODE_TEXT_MAX => Err(fail("it is too long")),
        Ok(_) if text.trim().is_empty() => Err(fail("there is none")),
        Ok(_) => Ok(text),
    }
}

fn refused(e: &CodeError) -> Failure {
    Failure::new(1661, exit::USAGE, "this is not the code of a target").why(e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use zoneward_targets::Credentials;

    fn code(secret: bool) -> Zeroizing<String> {
        let url: Url = "sftp://nas/~/zone".parse().unwrap();
        let all = Credentials::of([("user", "ann"), ("host_key", "ssh-ed25519 AAAA"), ("private_key", "hunter2")]);
        if secret { TargetCode::with_credentials(&url, &all) } else { TargetCode::plain(&url, Some(&all)) }.to_text()
    }

    #[test]
    fn what_lets_somebody_in_is_not_taken_from_the_arguments() {
        let e = given(&code(true), None).unwrap_err();
        assert_eq!((e.code, e.exit), (1662, exit::USAGE));
        assert!(!format!("{e:?}").contains("hunter2") && !format!("{e:?}").contains(&code(true)[..]));
        assert_eq!(given(&code(false), None).unwrap_err().code, 1320, "it still needs credentials");
        let mut bent = code(false).to_string();
        let last = bent.pop().unwrap();
        bent.push(if last == 'a' { 'b' } else { 'a' });
        assert_eq!(given(&bent, None).unwrap_err().code, 1661);
    }

    #[test]
    fn credentials_of_ones_own_come_beside_what_the_code_knows_the_server_by() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("c");
        std::fs::write(&file, r#"{"user":"bob","private_key":"own"}"#).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        let Given { place, shared } = given(&code(false), Some(&file)).unwrap();
        assert!(shared);
        let c = place.credentials.unwrap();
        assert_eq!((c.get("user"), c.get("host_key")), (Some("bob"), Some("ssh-ed25519 AAAA")));
        assert_eq!(c.get("private_key"), Some("own"));
        assert_eq!(place.url.to_string(), "sftp://nas/~/zone");
    }
}
