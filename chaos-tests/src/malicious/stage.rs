//! A zone with an honest directory and a target server that turns malicious, and the product run on it.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use chaos_tests::site::{Site, copy_tree, remove};
use chaos_tests::tree::{Tree, noise};
use zoneward_targets::server::{NewToken, TokenFile};

use super::proxy::Mallory;

/// File to which a run of the product writes how much memory it took at most.
pub const PEAK: &str = "ZONEWARD_CHAOS_PEAK";
/// MiB that no run may take, whatever it is sent.
const PEAK_MIB_MAX: u64 = 200;
/// Bytes that a run may say: a target's words must not fill a screen.
const SAID_MAX: usize = 64 << 10;
const CREDENTIALS: &str = "mallory.json";

/// How a run ended.
#[derive(Debug, Clone)]
pub struct Ran {
    pub code: i32,
    pub said: String,
    pub peak_mib: u64,
}

impl Ran {
    /// The first line that says these words and names the malicious target: by its URL, where its name is not known.
    pub fn naming(&self, words: &str) -> Option<&str> {
        self.said.lines().find(|l| (l.contains("mallory") || l.contains("zoneward://")) && l.contains(words))
    }
}

/// What the server behind keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holds {
    Now,
    /// The same, at the address that the newest system data tells.
    Published,
    /// What a twin of the home wrote after the first checkpoint, at the address that both know.
    Fork,
}

/// What every case begins with: a home, its targets, older moments of the server.
#[derive(Debug)]
pub struct Template {
    dir: PathBuf,
    source: PathBuf,
    port: u16,
    pub words: String,
    /// What the newest checkpoint holds.
    pub want: Tree,
}

impl Template {
    pub fn make(dir: &Path) -> Result<Self> {
        let source = dir.join("source");
        fs::create_dir_all(source.join("sub"))?;
        let put = |name: &str, seed: u64, len: usize| fs::write(source.join(name), noise(seed, len));
        put("first", 1, 900_000)?;
        put("sub/second", 2, 700_000)?;
        put("empty", 3, 0)?;
        let server = dir.join("server");
        fs::create_dir(&server)?;
        let mallory = Mallory::start(&server, None, 0)?;
        let (token, _) = TokenFile::of(&server).add(&NewToken { account: "home".to_owned(), ..NewToken::default() })?;
        let credentials = dir.join(CREDENTIALS);
        fs::write(&credentials, serde_json::json!({"token": *token}).to_string())?;
        fs::set_permissions(&credentials, fs::Permissions::from_mode(0o600))?;
        let site = Site::of_this_program(dir, &source)?;
        let from = source.to_str().context("the folder's path is not UTF-8")?.to_owned();
        site.expect(0, &["init", "--target", "disk", "--sector-min", "1MiB"])?;
        site.expect(0, &["target", "set", "first", "--name", "honest"])?;
        site.expect(0, &["target", "add", &mallory.url, "--name", "mallory", "--credentials-file", CREDENTIALS])?;
        site.expect(0, &["backup", &from, "--copies", "2"])?;
        copy_tree(&server, &dir.join("then"))?;
        let twin = dir.join("twin");
        for name in ["home", "disk", "server"] {
            copy_tree(&dir.join(name), &twin.join(name))?;
        }
        put("sub/third", 4, 1_200_000)?;
        site.expect(0, &["backup"])?;
        let (words, want) = (words(&dir.join("home"))?, Tree::read(&source)?);
        // A twin of the home, which another person brought to life, goes on by itself.
        put("fork", 5, 300_000)?;
        let other = Mallory::start(&twin.join("server"), None, 0)?;
        let site = Site::of_this_program(&twin, &source)?;
        move_targets(&site, &other)?;
        site.expect(0, &["backup"])?;
        fs::rename(twin.join("server"), dir.join("fork"))?;
        remove(&source.join("fork"))?;
        Ok(Self { dir: dir.to_owned(), source, port: mallory.port, words, want })
    }

    /// A place of its own for a case.
    pub fn stage(&self, dir: &Path, holds: Holds) -> Result<Stage<'_>> {
        copy_tree(&self.dir.join("home"), &dir.join("home"))?;
        copy_tree(&self.dir.join("disk"), &dir.join("disk"))?;
        let (server, port) = match holds {
            Holds::Now | Holds::Published => ("server", 0),
            Holds::Fork => ("fork", self.port),
        };
        copy_tree(&self.dir.join(server), &dir.join("server"))?;
        copy_tree(&self.dir.join("then"), &dir.join("then"))?;
        fs::copy(self.dir.join(CREDENTIALS), dir.join(CREDENTIALS))?;
        fs::create_dir(dir.join("more"))?;
        let mallory = Mallory::start(&dir.join("server"), Some(&dir.join("then")), port)?;
        let site = Site::of_this_program(dir, &self.source)?;
        move_targets(&site, &mallory)?;
        let mut stage = Stage { template: self, dir: dir.to_owned(), site, mallory, runs: 0 };
        if holds == Holds::Published {
            let ran = stage.backup(&[], Duration::from_secs(60))?;
            ensure!(ran.code == 0, "the first backup ended with {}: {}", ran.code, ran.said);
        }
        Ok(stage)
    }
}

/// The same targets at their new places.
fn move_targets(site: &Site, mallory: &Mallory) -> Result<()> {
    site.expect(0, &["target", "set", "honest", "--url", "disk"])?;
    site.expect(0, &["target", "set", "mallory", "--url", &mallory.url])?;
    Ok(())
}

/// The 24 words, from the recovery kit.
fn words(home: &Path) -> Result<String> {
    let page = fs::read_to_string(home.join("recovery-kit.html"))?;
    let word = |w: &str| Some(w.split_once("</span>")?.1.split_once("</li>")?.0.to_owned());
    let words: Vec<String> = page.split("<li><span>").skip(1).take(24).filter_map(word).collect();
    ensure!(words.len() == 24, "the kit has {} words", words.len());
    Ok(words.join(" "))
}

/// One case's place to work in.
pub struct Stage<'a> {
    pub template: &'a Template,
    pub dir: PathBuf,
    site: Site,
    pub mallory: Mallory,
    runs: usize,
}

impl Stage<'_> {
    /// Runs the product. It must end in order, in this time, within its memory, and say no more than a person can read.
    pub fn run(&mut self, args: &[&str], limit: Duration) -> Result<Ran> {
        let command = self.site.command(args);
        self.run_command(command, args, limit)
    }

    fn run_command(&mut self, mut command: Command, args: &[&str], limit: Duration) -> Result<Ran> {
        self.runs += 1;
        let peak = self.dir.join(format!("peak-{}", self.runs));
        let begun = Instant::now();
        let mut child = command.env(PEAK, &peak).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let (out, err) = (drain(child.stdout.take()), drain(child.stderr.take()));
        let code = loop {
            if let Some(status) = child.try_wait()? {
                break status.code();
            }
            if begun.elapsed() > limit {
                child.kill()?;
                child.wait()?;
                break None;
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        let text =
            |t: std::thread::JoinHandle<Vec<u8>>| String::from_utf8_lossy(&t.join().unwrap_or_default()).into_owned();
        let said = format!("{}{}", text(out), text(err));
        let shown: String = said.chars().take(2000).collect();
        let code = code.with_context(|| format!("{args:?} was not done after {} s: {shown}", limit.as_secs()))?;
        ensure!((0..64).contains(&code) && !said.contains("panicked at"), "{args:?} ended with {code}: {shown}");
        ensure!(said.len() < SAID_MAX, "{args:?} said {} bytes: {shown}", said.len());
        ensure!(!said.chars().any(|c| c.is_control() && c != '\n'), "{args:?} said what a terminal obeys: {shown:?}");
        let peak_mib = fs::read_to_string(&peak).ok().and_then(|t| t.trim().parse::<u64>().ok());
        let peak_mib = peak_mib.with_context(|| format!("{args:?} did not tell what memory it took"))? / 1024;
        ensure!(peak_mib <= PEAK_MIB_MAX, "{args:?} took {peak_mib} MiB: {shown}");
        Ok(Ran { code, said, peak_mib })
    }

    /// Something new, so that there is something to back up.
    pub fn backup(&mut self, more: &[&str], limit: Duration) -> Result<Ran> {
        fs::write(self.dir.join(format!("more/{}", self.runs)), noise(100 + self.runs as u64, 300_000))?;
        self.run(&[&["backup", "more", "--copies", "2"], more].concat(), limit)
    }

    /// The same, with one sector that is too large to be read whole each time.
    pub fn backup_much(&mut self, limit: Duration) -> Result<Ran> {
        fs::write(self.dir.join("more/much"), noise(99, 36 << 20))?;
        self.backup(&[], limit)
    }

    pub fn check(&mut self, limit: Duration) -> Result<Ran> {
        self.run(&["check", "--read-data"], limit)
    }

    /// A new machine, with nothing but this target and what opens the zone.
    pub fn recover(&mut self, from_mallory: bool, limit: Duration) -> Result<Ran> {
        let (home, disk) = (self.dir.join(format!("lost-{}", self.runs)), self.dir.join("disk"));
        let (url, disk) = (self.mallory.url.clone(), disk.display().to_string());
        let there = ["recover", "--state-only", "--target", &url, "--credentials-file", CREDENTIALS];
        let here = ["recover", "--state-only", "--target", &disk];
        let args: &[&str] = if from_mallory { &there } else { &here };
        let mut command = self.site.command(args);
        command.env("ZONEWARD_HOME", home).env("ZONEWARD_PASSPHRASE", &self.template.words);
        self.run_command(command, args, limit)
    }

    /// Restores the newest state of the source and compares it.
    pub fn restore(&mut self, limit: Duration) -> Result<Ran> {
        let to = format!("out-{}", self.runs);
        // The newest that the template made, whatever was backed up since.
        let ran = self.run(&["restore", "2", "--to", &to, "--verify"], limit)?;
        ensure!(ran.code == 0, "the restore ended with {}: {}", ran.code, ran.said);
        self.site.same(&to, &self.template.want)?;
        remove(&self.dir.join(&to))?;
        Ok(ran)
    }

    /// Starts a daemon.
    pub fn up(&self) -> Result<Daemon> {
        let mut command = self.site.command(&["--json", "up", "--listen", "127.0.0.1:0", "--api", "off"]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let out = child.stdout.take().context("no output")?;
        let daemon = Daemon(child);
        BufReader::new(out).read_line(&mut String::new())?;
        Ok(daemon)
    }

    /// Copies of data, as the zone knows them.
    pub fn copies(&mut self) -> Result<Vec<Copy>> {
        let ran = self.run(&["--json", "sector", "ls"], Duration::from_secs(60))?;
        let all: serde_json::Value = serde_json::from_str(ran.said.lines().next().unwrap_or_default())?;
        let text = |v: &serde_json::Value| v.as_str().unwrap_or_default().to_owned();
        let sectors = all["sectors"].as_array().context("no sectors")?.iter().filter(|s| s["system"] == false);
        let copies = sectors.flat_map(|s| s["copies"].as_array().cloned().unwrap_or_default());
        let copy = |c: serde_json::Value| Copy {
            target: text(&c["target"]),
            state: text(&c["state"]),
            trouble: text(&c["trouble"]),
            audited: !c["audited"].is_null(),
            told: c["challenges"]["told"].as_u64(),
        };
        Ok(copies.map(copy).collect())
    }
}

/// A copy as `sector ls` tells of it.
#[derive(Debug)]
pub struct Copy {
    pub target: String,
    pub state: String,
    pub trouble: String,
    pub audited: bool,
    /// Challenges about all of it that its target got, if answers are known.
    pub told: Option<u64>,
}

/// A daemon that ends with its case.
pub struct Daemon(Child);

impl Daemon {
    /// MiB that it took at most.
    pub fn peak_mib(&self) -> Result<u64> {
        Ok(peak_kib(&fs::read_to_string(format!("/proc/{}/status", self.0.id()))?).context("odd /proc/PID/status")?
            / 1024)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The most memory that a process had, from its `/proc/PID/status`.
pub fn peak_kib(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse().ok()
}

fn drain(pipe: Option<impl Read + Send + 'static>) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut all = Vec::new();
        if let Some(mut pipe) = pipe {
            // What came before an error is shown.
            let _ = pipe.read_to_end(&mut all);
        }
        all
    })
}
