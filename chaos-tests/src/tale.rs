//! The tale: what a household lives through, as one command, with nobody's help where none is due.
//!
//! Three nodes keep three copies on a directory, a target server and an S3 server. Everything on the S3 server is destroyed,
//! and bytes are changed in a part of the sectors on the target server. The zone finds out by its audits and makes every copy
//! whole again. Then all nodes' disks are gone, and two of the targets. On a new machine, the 24 words and the target that
//! was destroyed before bring back every checkpoint without a difference.

#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#[path = "../../targets/src/s3/tests/server.rs"]
pub(crate) mod server;

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use zoneward_consensus::model::{CopyState, State};
use zoneward_consensus::plan::plan;

use crate::failover::fleet::Fleet;
use crate::failover::source::{Dice, Source};
use server::{KEY_ID, SECRET, Server};

/// How a run is set up.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub seed: u64,
    /// MiB of the source.
    pub size_mib: u64,
}

/// Checkpoints that are made: each adds sectors.
const CHECKPOINTS: u64 = 6;
/// A part of the source that is new in each: one in so many files.
const CHANGED: u64 = 8;
/// Seconds of an audit cycle.
const CYCLE_S: u64 = 30;
/// Nothing takes this long.
const HANG: Duration = Duration::from_secs(300);

/// A target server's process.
pub struct Serving(Child);

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub fn run(p: Plan) -> Result<bool> {
    let begun = Instant::now();
    let mut fleet = Fleet::open()?;
    let mut dice = Dice::new(p.seed);
    let mut source = Source::make(&fleet.dir.join("source"), p.size_mib, p.seed)?;
    let s3 = Server::start();
    let (data, directory) = (fleet.dir.join("server"), fleet.dir.join("directory"));
    let (serving, url, token) = serve(&fleet, &data)?;
    fleet.begin(&directory)?;
    add(&fleet, "server", &url, &serde_json::json!({"token": token}))?;
    add(&fleet, "s3", &s3.url("z"), &serde_json::json!({"access_key_id": KEY_ID, "secret_access_key": SECRET}))?;
    let words = fleet.words()?;
    fleet.join_all()?;
    fleet.add_source(&source, 3)?;
    println!("three nodes; a directory, a target server and an S3 server; {} MiB, seed {}", p.size_mib, p.seed);
    let mut kept = Vec::new();
    for seq in 1..=CHECKPOINTS {
        if seq > 1 {
            source.change(CHANGED, seq)?;
        }
        let folder = source.dir.display().to_string();
        fleet.expect(0, 0, &["backup", &folder])?;
        kept.push(source.clone());
    }
    fleet.settle(HANG)?;
    let state = fleet.any_state()?;
    let (sectors, copies) = whole(&state);
    ensure!(copies == 3 * sectors, "{copies} copies of {sectors} sectors are not three of each");
    println!("{CHECKPOINTS} checkpoints: {sectors} sectors in {copies} copies; {:.0} s", begun.elapsed().as_secs_f64());

    // What fire and age do.
    let destroyed = s3.files().len();
    for file in s3.files() {
        fs::remove_file(file)?;
    }
    let changed = damage(&state, &data, &mut dice)?;
    println!(
        "destroyed: all {destroyed} objects on the S3 server; changed: one byte in each of {changed} sectors on the target server"
    );
    let since = Instant::now();
    let every = format!("{CYCLE_S}s");
    fleet.expect(
        0,
        0,
        &["schedule", "audits", "--every", &every, "--read-all", &every, "--read-all-s3", &every, "--silence", "1h"],
    )?;
    let healed = heal(&fleet, sectors, changed)?;
    println!(
        "found and made anew by the zone alone: {healed} copies, {:.1} s (an audit cycle is {CYCLE_S} s)",
        since.elapsed().as_secs_f64()
    );
    fleet.expect(0, 0, &["check", "--read-data"])?;

    // The house burns.
    fleet.lose_all()?;
    drop(serving);
    fs::remove_dir_all(&data)?;
    fs::remove_dir_all(&directory)?;
    let again = Instant::now();
    let credentials = fleet.dir.join("s3.json");
    let to = fleet.dir.join("restored");
    fleet.recover(&words, &s3.url("z"), &credentials, &to)?;
    differs(kept.last().context("nothing was kept")?, &to)?;
    println!(
        "recovered from the S3 server alone, with 24 words, on a new machine: {:.1} s",
        again.elapsed().as_secs_f64()
    );
    for (i, source) in kept.iter().enumerate() {
        fs::remove_dir_all(&to)?;
        fleet.expect(0, 0, &["restore", &(i + 1).to_string(), "--to", &to.display().to_string()])?;
        differs(source, &to)?;
    }
    println!("{} checkpoints restored, 0 differences; {:.0} s in all", kept.len(), begun.elapsed().as_secs_f64());
    Ok(true)
}

fn differs(source: &Source, to: &Path) -> Result<()> {
    let what = source.differs(to)?;
    ensure!(what.is_none(), "a checkpoint came back different: {}", what.unwrap_or_default());
    Ok(())
}

/// Sealed sectors and their stored copies.
fn whole(state: &State) -> (usize, usize) {
    let replaced = state.replaced_systems();
    let sectors = state.sectors.values().filter(|s| s.is_sealed() && !replaced.contains(&s.id)).count();
    let copies = state.copies.values().filter(|c| c.is_stored() && !replaced.contains(&c.sector)).count();
    (sectors, copies)
}

/// Starts a target server; answers its URL and a token for it.
pub fn serve(fleet: &Fleet, data: &Path) -> Result<(Serving, String, String)> {
    let folder = data.display().to_string();
    let said = fleet.expect(0, 0, &["--json", "target", "token", "add", "--data", &folder, "--account", "home"])?;
    let token: serde_json::Value = serde_json::from_str(said.lines().next().unwrap_or_default())?;
    let mut child = fleet
        .command(
            0,
            &["--json", "target", "serve", "--data", &folder, "--listen", "127.0.0.1:0", "--host", "127.0.0.1"],
        )?
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let mut line = String::new();
    BufReader::new(child.stdout.take().context("no output")?).read_line(&mut line)?;
    let said: serde_json::Value = serde_json::from_str(&line).with_context(|| format!("the server said {line:?}"))?;
    let text =
        |v: &serde_json::Value, key: &str| v[key].as_str().map(str::to_owned).with_context(|| format!("no {key}"));
    Ok((Serving(child), text(&said, "url")?, text(&token, "token")?))
}

pub fn add(fleet: &Fleet, name: &str, url: &str, credentials: &serde_json::Value) -> Result<()> {
    let file = fleet.dir.join(format!("{name}.json"));
    fs::write(&file, credentials.to_string())?;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600))?;
    let file = file.display().to_string();
    fleet.expect(0, 0, &["target", "add", url, "--name", name, "--credentials-file", &file])?;
    Ok(())
}

/// Changes a byte in one data sector of a hundred, and in at least one, of the target server's folder.
fn damage(state: &State, data: &Path, dice: &mut Dice) -> Result<usize> {
    let server = state.targets.values().find(|t| t.name == "server").map(|t| t.id).context("there is no server")?;
    let is_data = |s| state.sectors.get(s).is_some_and(|s: &zoneward_consensus::model::RawSector| !s.system);
    let copies = state.copies.values().filter(|c| c.target == server && c.is_stored() && is_data(&c.sector));
    let names: Vec<String> = copies.map(|c| format!("{}.zws", c.id)).collect();
    let mut all = Vec::new();
    sectors_in(data, &mut all)?;
    all.retain(|p| p.file_name().is_some_and(|n| names.iter().any(|x| n == x.as_str())));
    all.sort();
    ensure!(all.len() == names.len(), "{} of {} sectors are found in the server's folder", all.len(), names.len());
    let n = all.len().div_ceil(100);
    for _ in 0..n {
        let path = all.swap_remove(dice.below(all.len() as u64) as usize);
        let mut bytes = fs::read(&path)?;
        let at = dice.below(bytes.len() as u64) as usize;
        bytes[at] ^= 1;
        fs::write(&path, bytes)?;
    }
    Ok(n)
}

fn sectors_in(dir: &Path, out: &mut Vec<PathBuf>) -> Result<()> {
    for e in fs::read_dir(dir)? {
        let path = e?.path();
        if path.is_dir() {
            sectors_in(&path, out)?;
        } else if path.extension().is_some_and(|x| x == "zws") {
            out.push(path);
        }
    }
    Ok(())
}

/// Waits until every sector has three stored copies again, and all that was destroyed was found out. Answers how many
/// copies were made anew.
fn heal(fleet: &Fleet, sectors: usize, changed: usize) -> Result<usize> {
    let begun = Instant::now();
    loop {
        let state = fleet.any_state()?;
        let replaced = state.replaced_systems();
        let bad = state.copies.values().filter(|c| matches!(c.state, CopyState::Lost | CopyState::Damaged));
        let bad = bad.filter(|c| !replaced.contains(&c.sector)).count();
        let (now, copies) = whole(&state);
        ensure!(now == sectors, "{now} sectors instead of {sectors}: something was backed up meanwhile");
        if bad >= sectors + changed && copies == 3 * sectors && plan(&state, 0).is_empty() {
            return Ok(bad);
        }
        ensure!(
            begun.elapsed() < HANG,
            "the zone does not heal: {bad} bad copies known, {copies} of {} stored",
            3 * sectors
        );
        std::thread::sleep(Duration::from_millis(100));
    }
}
