//! English.

use zoneward_consensus::levels::{About, Cause, Next};
use zoneward_consensus::model::Standing;

use crate::units::{count, duration, plural, show_path};

/// Name and consequence, by number.
pub const RELIABILITY: [(&str, &str); 7] = [
    ("safe", "even the loss of the whole site, as by fire, loses nothing older than a day"),
    ("partly safe", "the loss of the whole site would lose some data; one device may fail"),
    ("exposed", "the loss of one device would lose data"),
    ("at risk", "the loss of one disk would lose data, but none that is important"),
    ("warning", "the loss of one disk would lose important data"),
    ("data lost", "some data is lost; what is left can be saved"),
    ("failed", "all data is lost as far as the zone knows: it cannot mend itself"),
];

/// Name and consequence, by number.
pub const AVAILABILITY: [(&str, &str); 7] = [
    ("normal", "everything works, and goes on if any node fails"),
    ("normal, settling", "everything works; what was backed up last still gets its further copies"),
    ("write risk", "everything that is stored can be had; if one more node fails, backups stop or wait"),
    ("mending", "nothing new is decided for a moment; it mends itself"),
    ("read-only", "no backup can be taken until somebody acts; what is stored can be restored"),
    ("partly readable", "some of what is stored cannot be restored now"),
    ("down", "nothing can be decided and nothing restored"),
];

fn source(s: &About) -> String {
    match s.others {
        0 => show_path(&s.path),
        n => format!("{} and {}", show_path(&s.path), plural(n as u64, "other source", "other sources")),
    }
}

/// `is` or `are`.
fn is(s: &About) -> &'static str {
    if s.others == 0 { "is" } else { "are" }
}

fn age(ms: u64) -> String {
    duration(ms as f64 / 1000.0)
}

fn down(node: &str, standing: Standing) -> String {
    match standing {
        Standing::Faulty => format!("node {node} is marked faulty and still belongs to the zone"),
        Standing::Witness => format!("witness {node} is not heard"),
        Standing::Draining => format!("node {node}, which takes no new work, is not heard"),
        Standing::Standby => format!("node {node}, which is on standby, is not heard"),
        Standing::Member => format!("node {node} is not heard"),
    }
}

pub fn cause(c: &Cause) -> String {
    match c {
        Cause::AllSurvives => "every source has a whole copy outside the site, not older than a day".into(),
        Cause::NoSources => "no source is backed up".into(),
        Cause::NoTargets => "there is no target for backups".into(),
        Cause::NeverStored { source: s } => format!("{} {} in no checkpoint yet", source(s), is(s)),
        Cause::StoredInPart { source: s } => {
            format!("what is stored of {} is not whole: copies are damaged or lost", source(s))
        }
        Cause::Stale { source: s, age_ms } => {
            format!("the newest whole checkpoint of {} is {} old", source(s), age(*age_ms))
        }
        Cause::OneDisk { source: s, target } => {
            format!("{} cannot be read, and all copies lie on target {target}", source(s))
        }
        Cause::OneDevice { source: s, device } => {
            format!("{} and all copies of what it held within a day lie in one device: {device}", source(s))
        }
        Cause::OneSite { source: s } => format!("no target outside the site has all of {}", source(s)),
        Cause::Unread { source: s, paths, first } => {
            let paths = plural(*paths, "path", "paths");
            format!("{paths} of {} could not be read and so cannot be restored as now: {first}", source(s))
        }
        Cause::Lost { source: s } => {
            format!("{} {} gone with its node, and what is stored is not whole", source(s), is(s))
        }
        Cause::AllLost => "all sources are gone, and of none a whole checkpoint is left".into(),
        Cause::CopiesMissing { copies, short: false } => {
            format!("{} still to be made", plural(*copies, "copy is", "copies are"))
        }
        Cause::CopiesMissing { copies, short: true } => {
            format!("{} missing, and there are too few targets for them", plural(*copies, "copy is", "copies are"))
        }
        Cause::CopiesDamaged { copies, targets } => format!(
            "{} damaged or lost and not made anew yet; on {}",
            plural(*copies, "copy is", "copies are"),
            targets.join(", ")
        ),
        Cause::Unaudited { copies, target } => format!(
            "{} not been looked at for long, on {target} for longest",
            plural(*copies, "copy has", "copies have")
        ),
        Cause::OlderDamaged { sectors } => format!(
            "older checkpoints cannot be restored in full: no copy is left of {}",
            plural(*sectors, "sector", "sectors")
        ),
        Cause::OriginalGone { source: s, node } => {
            format!("node {node} is gone, and with it {}: what is stored is all there is", source(s))
        }
        Cause::Refused { source: s, code, why } => {
            format!("{} {} left as stored by the last backup (ZW-{code}): {why}", source(s), is(s))
        }
        Cause::WrongTarget { target } => {
            format!("something else lies where target {target} was: its copies do not count")
        }
        Cause::AllWorks => "all that is needed answers, and one node more than that".into(),
        Cause::OneNode => "one node does it all".into(),
        Cause::FewNodes { working: 1, .. } => "only one node takes work".into(),
        Cause::FewNodes { voters, .. } => {
            format!("{}: too few to go on without one", plural(*voters as u64, "node votes", "nodes vote"))
        }
        Cause::NodeDown { node, standing } => down(node, *standing),
        Cause::SourceWaits { source: s, node, standing } => match standing {
            Some(Standing::Standby) => format!("{} waits: node {node}, which reads it, is on standby", source(s)),
            Some(Standing::Draining) => format!("{} waits: node {node}, which reads it, takes no work", source(s)),
            Some(Standing::Member) => format!("{} waits: node {node}, which reads it, is not heard", source(s)),
            _ => format!("{} waits: no node that may read it is left ({node})", source(s)),
        },
        Cause::Electing => "the nodes are choosing a leader".into(),
        Cause::NoDaemon => "the zone has several nodes, and no daemon runs on this one: this may be old".into(),
        Cause::NobodyWorks { node } => format!("no node takes work: {node} was told not to"),
        Cause::NoMajority { heard, voters, node, standing } => {
            format!(
                "{} of {} are heard: no majority; {}",
                count(*heard as u64),
                plural(*voters as u64, "voting node", "voting nodes"),
                down(node, *standing)
            )
        }
        Cause::AllPaused { target } => format!("all targets are paused, {target} too"),
        Cause::TargetAway { target, all: true } => format!("no target that takes backups answers, {target} neither"),
        Cause::TargetAway { target, all: false } => format!("target {target} does not answer"),
        Cause::Unreadable { source: s, target: Some(t), .. } => {
            format!("{} cannot be restored in full while target {t} does not answer", source(s))
        }
        Cause::Unreadable { source: s, target: None, .. } => {
            format!("{} cannot be restored in full: no copy is left of a part", source(s))
        }
        Cause::NothingWorks { node, standing } => {
            format!("no majority of the nodes is heard, and no target answers; {}", down(node, *standing))
        }
    }
}

pub fn next(n: &Next) -> &'static str {
    match n {
        Next::Prove => "nothing; now and then prove that all of it can be read",
        Next::Wait => "wait a moment and look again",
        Next::AddSource => "say what is to be backed up",
        Next::AddTarget => "add a target",
        Next::AddTargetElsewhere => "add a target at another place and name the place",
        Next::AddTargetOnOtherDevice => "add a target that does not hang on this device",
        Next::ResumeTarget { .. } => "let the target take sectors again",
        Next::AttachTarget { .. } => "attach its disk or bring back its network, and look",
        Next::ReplaceTarget { .. } => "mount the right disk; if it is gone, go on without it",
        Next::Backup => "back up now",
        Next::MakeCopies => "a running daemon makes them by itself; without one a backup does",
        Next::StoreAnew => "store anew what its source still holds; a running daemon does that by itself",
        Next::MendPaths { .. } => "let the node read these paths, or exclude them, and back up again",
        Next::MendSource { .. } => "mend what it says, then back it up",
        Next::LookAtCopies => "read a part of every copy; a running daemon does that by itself",
        Next::NameDamage => "see which files of which checkpoints that means; today's data is not concerned",
        Next::Restore { .. } => "bring it back to a healthy disk, and back that up",
        Next::SaveWhatIsLeft { .. } => {
            "bring the node back if you can; else see what is lost, save what is left, and forget the source"
        }
        Next::SaveAllThatIsLeft => "see what can still be read, and save it; then ask somebody who recovers disks",
        Next::StartDaemon => "run the daemon",
        Next::InviteNode => "add a node, or a witness (--witness): three that vote can spare one",
        Next::StartNode { .. } => "start it there; if it is broken, say so",
        Next::StartVoter { .. } => {
            "start it there; if more than half of the votes are lost for good, the owner goes on without them"
        }
        Next::StartWitness { .. } => "start it there; if it is broken, take it out and invite another",
        Next::ReplaceNode { .. } => "put a new node in its place",
        Next::Undrain { .. } => "let it take work again, or have its sources read by another node",
        Next::ChangeReader { .. } => "name a node that can read it, on that node",
    }
}
