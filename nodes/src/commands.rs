//! What each command does: open the zone, call the steps, say what came of it.

mod backup;
mod check;
mod dfs;
mod forget;
mod keys;
mod look;
mod make;
mod mount;
mod node;
mod node_out;
mod prune;
mod quorum;
mod recover;
mod restore;
mod rollback;
pub(crate) mod schedule;
mod sector;
mod source;
mod status;
mod target_code;
mod target_ls;
mod target_serve;
mod target_test;
mod target_token;
mod things;
mod token;
mod trial;
mod up;
mod user;
mod user_export;
mod user_import;

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use clap::CommandFactory;
use zoneward_actors::errors::ZoneError;
use zoneward_actors::home::HomeError;
use zoneward_actors::zone::Zone;
use zoneward_consensus::model::State;
use zoneward_sectors::ids::NodeId;

use crate::cli::{Cli, Command, Global, TargetCommand};
use crate::daemon::client::Client;
use crate::errors::{Failure, exit};
use crate::kit::file::Settled;
use crate::output::Out;

pub(crate) use forget::hold_text;
pub(crate) use node::SILENT_MS;

/// What to do about a pattern that cannot be used.
const PATTERNS: &str = "docs/cli.md shows what patterns may hold; nothing was changed";

/// Threads for heavy work: as many as the machine has, bounded.
pub(crate) fn threads() -> usize {
    std::thread::available_parallelism().map_or(2, |n| n.get()).min(16)
}

/// The home: flag, environment, `~/.zoneward`.
pub(crate) fn home(g: &Global) -> Result<PathBuf, Failure> {
    if let Some(h) = &g.home {
        return Ok(h.clone());
    }
    match std::env::var_os("HOME") {
        Some(h) if !h.is_empty() => Ok(PathBuf::from(h).join(".zoneward")),
        _ => {
            Err(Failure::new(1006, exit::USAGE, "there is no home folder").help("give --home DIR or set ZONEWARD_HOME"))
        }
    }
}

/// Opens the zone: by way of the daemon that serves the home, if one does, else itself.
pub(crate) fn open(g: &Global) -> Result<Zone, Failure> {
    with_owner(g, open_home(g)?)
}

fn open_home(g: &Global) -> Result<Zone, Failure> {
    let dir = home(g)?;
    match Zone::open(&dir) {
        Err(ZoneError::Home(HomeError::Busy { .. })) if serving(g).is_some() => {
            let client = Client::connect(&dir).map_err(node::client_failed)?;
            let (home, authority) = client.authority().map_err(node::client_failed)?;
            Ok(Zone::shared(home, authority)?)
        }
        Err(ZoneError::Unfinished) if dir.join("introduction.json").exists() => {
            Err(Failure::new(1005, exit::FAILED, "this home joined a zone and has not met it yet")
                .help("start it, so that it gets the zone's state: zoneward up"))
        }
        opened => {
            let zone = opened?;
            // A change of keys may have been cut. What a kit lies on must not keep the zone from its work.
            let said = match crate::kit::file::settle(&zone.home, true) {
                Ok(None) => None,
                Ok(Some(Settled::InPlace)) => Some(
                    "a change of keys was cut after it took effect: the new recovery kit is in its place, the one before \
                     lies beside it, with .old at its end"
                        .to_owned(),
                ),
                Ok(Some(Settled::Dropped)) => {
                    Some("a change of keys was cut before it took effect: the keys and the kit are as before".to_owned())
                }
                Err(e) => Some(format!("{}, and a change of keys waits for it: {}", e.what, e.why.unwrap_or_default())),
            };
            said.into_iter().for_each(|s| Out::new(g).warn(s));
            Ok(zone)
        }
    }
}

/// With the owner's keys, if they are asked for.
fn with_owner(g: &Global, mut zone: Zone) -> Result<Zone, Failure> {
    if g.with_owner_key {
        let unlocked = keys::unlock(g, &zone)?;
        zone.use_owner_keys(unlocked.keys);
    }
    Ok(zone)
}

/// The daemon that serves the home, if one does.
pub(crate) fn serving(g: &Global) -> Option<Client> {
    Client::connect(&home(g).ok()?).ok()
}

/// A node by its name, id, or the beginning of its id.
pub(crate) fn node_by_name(state: &State, text: &str) -> Result<NodeId, Failure> {
    if let Some(n) = state.nodes.values().find(|n| n.name == text) {
        return Ok(n.id);
    }
    let mut fits = state.nodes.keys().filter(|id| text.len() >= 4 && id.to_string().starts_with(&text.to_lowercase()));
    match (fits.next(), fits.next()) {
        (Some(id), None) => Ok(*id),
        _ => {
            Err(Failure::new(2001, exit::FAILED, format!("no node is called {text:?}"))
                .help("zoneward node ls lists them"))
        }
    }
}

/// Runs a command; answers the exit code.
pub fn run(cli: Cli) -> Result<i32, Failure> {
    let (g, out) = (&cli.global, Out::new(&cli.global));
    match cli.command {
        Command::Init(a) => make::init(g, out, &a),
        Command::Backup(a) => backup::backup(g, out, &a),
        Command::Checkpoints(a) => look::checkpoints(g, out, &a),
        Command::Ls(a) => look::ls(g, out, &a),
        Command::Find(a) => look::find(g, out, &a),
        Command::Diff(a) => look::diff(g, out, &a),
        Command::Cat(a) => look::cat(g, &a),
        Command::Restore(a) => restore::restore(g, out, &a),
        Command::Rollback(a) => rollback::rollback(g, out, &a),
        Command::Mount(a) => mount::mount(g, out, &a),
        Command::Recover(a) => recover::recover(g, out, &a),
        Command::Check(a) => check::check(g, out, &a),
        Command::Forget(a) => forget::forget(g, out, &a),
        Command::Undelete(a) => forget::undelete(g, out, &a),
        Command::Retention(c) => forget::retention(g, out, c),
        Command::Prune(a) => prune::prune(g, out, &a),
        Command::Tag(a) => forget::tag(g, out, &a),
        Command::Status => status::status(g, out),
        Command::Top => status::top(g, out),
        Command::Up(a) => up::up(g, out, &a),
        Command::Join(a) => up::join(g, out, &a),
        Command::Zone(c) => quorum::zone(g, out, c),
        Command::Node(c) => node::node(g, out, c),
        Command::Sector(c) => sector::sector(g, out, c),
        Command::Source(c) => source::source(g, out, c),
        Command::Dfs(c) => dfs::dfs(g, out, c),
        Command::Target(TargetCommand::Serve(a)) => target_serve::serve(out, &a),
        Command::Target(TargetCommand::Token(c)) => target_token::token(out, c),
        Command::Target(c) => things::target(g, out, c),
        Command::Schedule(c) => schedule::schedule(g, out, c),
        Command::Key(c) => keys::key(g, out, c),
        Command::User(c) => user::user(g, out, c),
        Command::Token(c) => token::token(g, out, c),
        Command::Try(a) => trial::trial(g, out, &a),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "zoneward", &mut script);
            let script = String::from_utf8_lossy(&script);
            out.json(
                &serde_json::json!({"schema": "zoneward.completions/1", "shell": shell.to_string(), "script": script}),
            );
            out.answer(script.trim_end());
            Ok(0)
        }
        Command::Man { dir } => make::man(out, dir.as_deref()),
    }
}

/// `zoneward` alone: the first steps, not the alphabet.
pub fn first_steps() -> i32 {
    crate::output::tell(
        "Zoneward: encrypted backups of a zone, on targets you need not trust

First steps
  zoneward try ~/Documents                    see it work, in a folder of its own
  zoneward init --target file:///mnt/backup   make a zone and its first target
  zoneward backup ~/Documents                 back up; the zone remembers the source
  zoneward checkpoints                        what there is
  zoneward restore latest --to ~/restored     get it back

Look      status · checkpoints · ls · find · diff · cat
Keep      backup · check · source · target · sector · user · forget · prune · retention
Recover   restore · rollback · mount · recover · key
Programs  token (the REST API of zoneward up)
Other     completions · man · --help

zoneward COMMAND --help says more.",
    );
    exit::USAGE
}

/// Words that hands know from other tools.
const HINTS: [(&str, &str); 6] = [
    ("list", "zoneward checkpoints"),
    ("repo-list", "zoneward checkpoints"),
    ("create", "zoneward backup"),
    ("extract", "zoneward restore"),
    ("verify", "zoneward check"),
    ("unlock", "there are no locks: a command that is in the way is named when another one finds it"),
];

pub fn usage_error(e: &clap::Error, args: &[std::ffi::OsString]) -> i32 {
    let code = e.exit_code();
    if code == 0 {
        let _ = e.print();
        return code;
    }
    if args.iter().any(|a| a == "--json") {
        // A program that reads JSON gets the first paragraph in it; the rest is for people.
        let text = e.to_string();
        let what = text.split("\n\n").next().unwrap_or_default().trim_start_matches("error: ");
        let what = what.split_whitespace().collect::<Vec<_>>().join(" ");
        Failure::new(1703, code, what).help("zoneward COMMAND --help lists what there is").put();
    }
    crate::output::tell(numbered(&e.render().to_string()).trim_end());
    if let Some((_, hint)) = args.get(1).and_then(|w| HINTS.iter().find(|(k, _)| w == k)) {
        crate::output::tell(&format!("hint: {hint}"));
    }
    code
}

/// What clap says of a command line, with the number under which it is explained.
fn numbered(text: &str) -> String {
    match text.strip_prefix("error: ") {
        Some(rest) => format!("error[ZW-1703] {rest}"),
        // A command without what it needs shows its help, which is no error's text.
        None => text.to_owned(),
    }
}

/// A path from the root, without looking at links; a dfs name as it is.
pub(crate) fn absolute(path: &std::path::Path) -> Result<PathBuf, Failure> {
    if path.as_os_str().as_encoded_bytes().starts_with(zoneward_consensus::names::SCHEME.as_bytes()) {
        return Ok(path.to_owned());
    }
    std::path::absolute(path)
        .map_err(|e| Failure::new(1404, exit::USAGE, format!("{} is not a path", path.display())).why(e.to_string()))
}

/// A path as checkpoints spell it: from the root, without `.`, `..` and slashes at the end. Links in it are not looked
/// at: they may be gone.
pub(crate) fn as_stored(path: &std::path::Path) -> Result<PathBuf, Failure> {
    use std::path::Component;
    let (mut plain, path) = (PathBuf::new(), absolute(path)?);
    if path.as_os_str().as_encoded_bytes().starts_with(zoneward_consensus::names::SCHEME.as_bytes()) {
        return Ok(PathBuf::from(OsString::from_vec(zoneward_consensus::names::one_form(path.as_os_str().as_bytes()))));
    }
    for part in path.components() {
        match part {
            Component::ParentDir => {
                plain.pop();
            }
            Component::CurDir => {}
            part => plain.push(part),
        }
    }
    Ok(plain)
}
