//! The commands to type, the same in every language.

use zoneward_consensus::levels::Next;

use crate::units::show_path;

/// A word as a shell takes it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "/._-+:@%,=".contains(c);
    if !word.is_empty() && !word.starts_with('-') && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

fn path(bytes: &[u8]) -> String {
    // Control characters cannot be typed and must not reach the terminal; all else is as it is.
    let text = match std::str::from_utf8(bytes) {
        Ok(t) if show_path(bytes).replace("\\\\", "\\") == t => t.to_owned(),
        _ => show_path(bytes),
    };
    quoted(&text)
}

/// What to type, in order. Words in capitals are for the reader to fill in.
pub fn commands(next: &Next) -> Vec<String> {
    let one = |c: &str| vec![c.to_owned()];
    let on = |what: &str, name: &str, rest: &str| format!("zoneward {what} {}{rest}", quoted(name));
    match next {
        Next::Prove => one("zoneward check --read-data"),
        Next::Wait => one("zoneward status"),
        Next::AddSource => one("zoneward backup PATH"),
        Next::AddTarget => one("zoneward target add URL"),
        Next::AddTargetElsewhere => vec!["zoneward target add URL --domain PLACE".into(), "zoneward backup".into()],
        Next::AddTargetOnOtherDevice => vec!["zoneward target add URL".into(), "zoneward backup".into()],
        Next::ResumeTarget { target } => vec![on("target resume", target, "")],
        Next::AttachTarget { .. } => one("zoneward target ls"),
        Next::ReplaceTarget { target } => {
            let rest = ["zoneward target add URL".into(), "zoneward backup --full".into()];
            std::iter::once(on("target pause", target, "")).chain(rest).collect()
        }
        Next::Backup | Next::MakeCopies | Next::StoreAnew => one("zoneward backup"),
        Next::MendPaths { path: p } | Next::MendSource { path: p } => vec![format!("zoneward backup {}", path(p))],
        Next::LookAtCopies => one("zoneward check --read-data-subset 5%"),
        Next::NameDamage => one("zoneward check"),
        Next::Restore { path: p } => vec![format!("zoneward restore latest {} --to DIR", path(p))],
        Next::SaveWhatIsLeft { path: p } => vec![
            "zoneward check --read-data".into(),
            format!("zoneward restore latest {} --to DIR", path(p)),
            format!("zoneward source remove {}", path(p)),
        ],
        Next::SaveAllThatIsLeft => {
            vec!["zoneward check --read-data".into(), "zoneward restore latest --to DIR".into()]
        }
        Next::StartDaemon => one("zoneward up"),
        Next::InviteNode => one("zoneward node invite"),
        Next::StartNode { node } => vec!["zoneward up".into(), on("node mark-faulty", node, "")],
        Next::StartVoter { .. } => vec!["zoneward up".into(), "zoneward zone recover-quorum".into()],
        Next::StartWitness { node } => vec!["zoneward up".into(), on("node remove", node, "")],
        Next::ReplaceNode { node } => vec!["zoneward node invite".into(), on("node replace", node, " NEW")],
        Next::Undrain { node } => vec![on("node drain", node, " --undo")],
        Next::ChangeReader { path: p } => vec![format!("zoneward source add {} --node NODE", path(p))],
    }
}
