//! One place to work in: a home, a target, and a place to restore to, with the product run on them as a child process.

use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::tree::Tree;

/// First argument with which a runner acts as the product itself: so both always come from one build.
pub const AS_PRODUCT: &str = "as-zoneward";

const PASSPHRASE: &str = "correct horse battery staple";
/// Frees all that can be freed.
pub const PRUNE: [&str; 5] = ["prune", "--apply", "--owner", "--max-waste", "0"];
/// A run takes well under a second; one that takes this long hangs.
const RUN_TIME_MAX: Duration = Duration::from_secs(60);

/// How a run of the product ended.
#[derive(Debug)]
pub struct Ended {
    /// `None` if a signal ended it.
    pub code: Option<i32>,
    pub killed: bool,
    pub said: String,
    /// File calls that passed the gate, when it ended in order.
    pub calls: Option<u64>,
}

impl Ended {
    /// A hang, a panic or an abort is never an answer, whatever failed.
    pub fn in_order(&self) -> Result<()> {
        let panicked = self.said.contains("panicked at");
        let known = self.killed || self.code.is_some_and(|c| c < 64);
        ensure!(known && !panicked, "the run ended with {:?}: {}", self.code, self.said);
        Ok(())
    }
}

/// A home, a target and what belongs to them, all below one directory.
#[derive(Debug)]
pub struct Site {
    pub dir: PathBuf,
    pub source: PathBuf,
    program: PathBuf,
    /// Arguments before the product's own.
    before: Vec<String>,
}

impl Site {
    /// A site whose product is this very program.
    pub fn of_this_program(dir: &Path, source: &Path) -> Result<Self> {
        let program = std::env::current_exe().context("finding this program")?;
        Ok(Self::new(dir, source, &program, &[AS_PRODUCT]))
    }

    pub fn new(dir: &Path, source: &Path, program: &Path, before: &[&str]) -> Self {
        let before = before.iter().map(|s| (*s).to_owned()).collect();
        Self { dir: dir.to_owned(), source: source.to_owned(), program: program.to_owned(), before }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Where a restore below `to` puts the source.
    pub fn restored(&self, to: &str) -> PathBuf {
        self.path(to).join(self.source.strip_prefix("/").unwrap_or(&self.source))
    }

    /// The product with its home, ready to start.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut c = Command::new(&self.program);
        c.args(&self.before).args(args).current_dir(&self.dir).stdin(Stdio::null());
        c.env("ZONEWARD_HOME", self.path("home")).env("ZONEWARD_PASSPHRASE", PASSPHRASE);
        c
    }

    /// Runs the product to its end, whatever that is. A run that hangs is an error.
    pub fn run(&self, args: &[&str], env: &[(&str, &str)]) -> Result<Ended> {
        let counts = self.path("calls");
        remove(&counts)?;
        let mut command = self.command(args);
        command.envs(env.iter().copied()).env("ZONEWARD_FAULT_COUNT", &counts);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().context("starting the product")?;
        let pid = Pid::from_child(&child);
        let (done, waiting) = channel::<()>();
        let watch = std::thread::spawn(move || {
            let hangs = waiting.recv_timeout(RUN_TIME_MAX) == Err(RecvTimeoutError::Timeout);
            if hangs {
                // If it has ended meanwhile there is nobody to kill.
                let _ = kill_process(pid, Signal::KILL);
            }
            hangs
        });
        let output = child.wait_with_output().context("waiting for the product")?;
        drop(done);
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        ensure!(matches!(watch.join(), Ok(false)), "{args:?} hung: {said}");
        let calls = fs::read_to_string(&counts).ok().and_then(|t| t.trim().parse().ok());
        Ok(Ended { code: output.status.code(), killed: output.status.signal() == Some(9), said, calls })
    }

    /// Runs the product and expects this exit code; answers what it said.
    pub fn expect(&self, code: i32, args: &[&str]) -> Result<String> {
        let ended = self.run(args, &[])?;
        ensure!(ended.code == Some(code), "{args:?} ended with {:?}, not {code}: {}", ended.code, ended.said);
        Ok(ended.said)
    }

    /// Makes the zone and its target.
    pub fn init(&self) -> Result<()> {
        self.expect(0, &["init", "--target", "target", "--sector-min", "4MiB"]).map(drop)
    }

    pub fn source_text(&self) -> Result<&str> {
        self.source.to_str().context("the source's path is not UTF-8")
    }

    /// Keeps home and target as they are now, for [`begin_again`](Self::begin_again).
    pub fn keep(&self) -> Result<()> {
        for name in ["home", "target"] {
            remove(&self.path(&format!("kept/{name}")))?;
            copy_tree(&self.path(name), &self.path(&format!("kept/{name}")))?;
        }
        Ok(())
    }

    /// Brings back what was kept.
    pub fn begin_again(&self, names: &[&str]) -> Result<()> {
        for name in names {
            remove(&self.path(name))?;
            copy_tree(&self.path(&format!("kept/{name}")), &self.path(name))?;
        }
        Ok(())
    }

    /// Restores a checkpoint into a new directory and compares.
    pub fn restores_as(&self, checkpoint: &str, want: &Tree) -> Result<()> {
        remove(&self.path("out"))?;
        self.expect(0, &["restore", checkpoint, "--to", "out"])?;
        self.same("out", want).with_context(|| format!("checkpoint {checkpoint}"))
    }

    /// Whether what lies below `to` is the source.
    pub fn same(&self, to: &str, want: &Tree) -> Result<()> {
        let wrong = want.differences(&Tree::read(&self.restored(to))?);
        ensure!(wrong.is_empty(), "restored, but {}", wrong.join("; "));
        Ok(())
    }

    /// Every stored byte is right, and the target holds nothing that the zone does not know.
    pub fn is_whole(&self) -> Result<()> {
        let said = self.expect(0, &["--json", "check", "--read-data"])?;
        ensure!(said.contains("\"unknown_sectors\":0"), "the target holds unknown sectors: {said}");
        Ok(())
    }

    /// Nothing is left in `incoming/`.
    pub fn no_leftovers(&self) -> Result<()> {
        for zone in fs::read_dir(self.path("target/zones"))? {
            let incoming = zone?.path().join("incoming");
            if !incoming.exists() {
                continue;
            }
            if let Some(left) = fs::read_dir(&incoming)?.next() {
                bail!("{:?} is left in incoming/", left?.file_name());
            }
        }
        Ok(())
    }

    /// Backs the source up twice more, so that checkpoint 1 holds much that no other does, and forgets that one.
    pub fn ready_to_prune(&self) -> Result<()> {
        self.begin_again(&["home", "target"])?;
        self.expect(0, &["backup"])?;
        self.expect(0, &["backup"])?;
        self.expect(0, &["forget", "1", "--apply", "--now"])?;
        self.keep()
    }

    /// Backs the source up as it is now: a rollback to checkpoint 1 has a way back by checkpoint 2 too.
    pub fn ready_to_roll_back(&self) -> Result<()> {
        self.begin_again(&["home", "target"])?;
        self.expect(0, &["backup"])?;
        self.keep()
    }

    /// What must hold after a clean prune that follows whatever happened.
    pub fn is_pruned(&self, second: &Tree) -> Result<()> {
        self.is_whole()?;
        self.no_leftovers()?;
        let left = self.expect(0, &["--json", "prune"])?;
        ensure!(left.contains("\"unneeded_sectors\":0"), "something was left that nothing needs: {left}");
        let gone = self.run(&["restore", "1", "--to", "gone"], &[])?;
        ensure!(gone.code == Some(1), "checkpoint 1 is still there: {}", gone.said);
        self.restores_as("2", second)?;
        self.restores_as("latest", second)
    }

    /// What must hold after a clean backup that follows whatever happened.
    pub fn all_is_well(&self, first: &Tree, newest: &Tree) -> Result<()> {
        self.is_whole()?;
        self.no_leftovers()?;
        self.restores_as("latest", newest)?;
        self.restores_as("1", first)
    }
}

/// Removes a file or a tree; nothing there is fine.
pub fn remove(path: &Path) -> Result<()> {
    let r = match fs::symlink_metadata(path) {
        Ok(m) if m.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e),
    };
    r.with_context(|| format!("removing {}", path.display()))
}

/// Copies directories and files with their modes: all that a home and a target consist of.
pub fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    File::open(to)?.set_permissions(fs::metadata(from)?.permissions())?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_tree(&entry.path(), &to)?;
        } else {
            fs::copy(entry.path(), &to).with_context(|| format!("copying {}", entry.path().display()))?;
        }
    }
    Ok(())
}
