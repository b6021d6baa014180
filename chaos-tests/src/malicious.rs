//! A malicious target against the real program: what it does is noticed, named and survived.
//!
//! Each case has a zone of its own with two targets, an honest directory and a server that turns malicious. First those
//! look who must notice: a backup, a check, a recovery on a new machine, a daemon's audits. Each must end as it should, name
//! this target and no other, and do so in bounded time and memory. Then everything must go on: a backup, a restore while
//! the server still lies, a restore from the honest target alone, and, when the server is honest again, a backup and a check
//! after which everything is whole.
//!
//! An honest server goes through the same looks, and nobody may say anything against it.

mod cases;
mod proxy;
mod stage;
mod tricks;

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use zoneward_sectors::stripes::Span;
use zoneward_targets::protocol::Challenge;
use zoneward_targets::{Credentials, ServerTarget, Target};

use cases::{Case, Expect, Look};
use proxy::{Door, honest};
pub use stage::{PEAK, peak_kib};
use stage::{Ran, Stage, Template};

/// A run of the product, with what deadlines of the protocol add up to.
const FAST: Duration = Duration::from_secs(60);
const SLOW: Duration = Duration::from_secs(240);
/// Quick cases at a time.
const AT_ONCE: usize = 4;
/// Characters of what was said that the table shows.
const SHOWN: usize = 76;

/// What a case came to.
struct Row {
    name: &'static str,
    /// Who noticed it, how that ended, what was said.
    noticed: Vec<(String, i32, String)>,
    survived: Result<()>,
    seconds: f64,
    peak_mib: u64,
}

pub fn run(only: Option<&str>) -> Result<bool> {
    let begun = Instant::now();
    let dir = Folder::new()?;
    let template = Template::make(&dir.0.join("template"))?;
    let mut cases = cases::all();
    cases.retain(|c| only.is_none_or(|o| c.name.contains(o)));
    ensure!(!cases.is_empty(), "no case has such a name");
    let (slow, fast): (Vec<_>, Vec<_>) = cases.into_iter().enumerate().partition(|(_, c)| c.slow);
    let (rows, fast) = (Mutex::new(Vec::new()), Mutex::new(VecDeque::from(fast)));
    let play = |(i, case): (usize, Case)| {
        let row = play(&case, &template, &dir.0.join(format!("case-{i}")));
        rows.lock().unwrap_or_else(PoisonError::into_inner).push((i, row));
    };
    std::thread::scope(|scope| {
        for case in slow {
            scope.spawn(|| play(case));
        }
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let next = fast.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                    let Some(case) = next else { return };
                    play(case);
                }
            });
        }
    });
    let mut rows = rows.into_inner().unwrap_or_else(PoisonError::into_inner);
    rows.sort_by_key(|(i, _)| *i);
    let failed = rows.iter().filter(|(_, r)| r.survived.is_err()).count();
    show(rows.iter().map(|(_, r)| r));
    println!("{} cases, {failed} failed; {:.0} s in all", rows.len(), begun.elapsed().as_secs_f64());
    Ok(failed == 0)
}

/// The folder of all cases, removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Result<Self> {
        let base = Path::new("/dev/shm");
        let base = if base.is_dir() { base.to_owned() } else { std::env::temp_dir() };
        let dir = base.join(format!("zoneward-malicious-{}", std::process::id()));
        std::fs::create_dir_all(dir.join("template"))?;
        Ok(Self(dir))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn play(case: &Case, template: &Template, dir: &Path) -> Row {
    let begun = Instant::now();
    let mut row = Row { name: case.name, noticed: Vec::new(), survived: Ok(()), seconds: 0.0, peak_mib: 0 };
    row.survived = story(case, template, dir, &mut row);
    row.seconds = begun.elapsed().as_secs_f64();
    let _ = std::fs::remove_dir_all(dir);
    row
}

fn story(case: &Case, template: &Template, dir: &Path, row: &mut Row) -> Result<()> {
    let limit = if case.slow { SLOW } else { FAST };
    let mut stage = template.stage(dir, case.holds).context("the place could not be made")?;
    stage.mallory.play(case.door, case.trick.clone());
    for e in &case.looks {
        let name = format!("{:?}", e.look);
        let ran = look(&mut stage, e, limit).with_context(|| name.clone())?;
        row.peak_mib = row.peak_mib.max(ran.peak_mib);
        let said = judge(&ran, e, case.two_named).with_context(|| name.clone())?;
        row.noticed.push((name.to_lowercase(), ran.code, said));
    }
    let mut keep = |ran: Ran| row.peak_mib = row.peak_mib.max(ran.peak_mib);
    if !case.looks.iter().any(|e| e.look == Look::Backup) {
        let ran = stage.backup(&[], limit).context("a backup meanwhile")?;
        ensure!(case.backup.contains(&ran.code), "a backup meanwhile ended with {}: {}", ran.code, ran.said);
        keep(ran);
    }
    keep(stage.restore(limit).context("a restore meanwhile")?);
    stage.mallory.play(Door::Shut, honest());
    keep(stage.restore(FAST).context("a restore from the honest target")?);
    stage.mallory.play(Door::Open, honest());
    let go_on: &[&str] = if case.two_named { &["--allow-older-home"] } else { &[] };
    keep(stage.backup(go_on, FAST).context("a backup afterwards")?);
    let mut ran = stage.check(FAST).context("a check afterwards")?;
    if ran.code == 5 {
        // What it acknowledged meanwhile and did not keep is found out now, and made anew.
        keep(stage.backup(&[], FAST).context("a second backup afterwards")?);
        ran = stage.check(FAST).context("a second check afterwards")?;
    }
    ensure!(ran.code == 0, "not whole afterwards: {}", ran.said);
    keep(ran);
    Ok(())
}

fn look(stage: &mut Stage<'_>, e: &Expect, limit: Duration) -> Result<Ran> {
    match e.look {
        Look::Backup => stage.backup(&[], limit),
        Look::Check => stage.check(limit),
        Look::RecoverThere => stage.recover(true, limit),
        Look::RecoverHere => stage.recover(false, limit),
        Look::Restore => stage.restore(limit),
        Look::Audit(state) => audit(stage, state, e.says.is_none()),
        Look::Challenge => challenge(stage, e.says, limit),
        Look::Prove => prove(stage),
    }
}

/// What was said, if it is what had to be.
fn judge(ran: &Ran, e: &Expect, two_named: bool) -> Result<String> {
    ensure!(ran.code == e.code, "it ended with {}, not {}: {}", ran.code, e.code, ran.said);
    ensure!(two_named || !ran.said.contains("honest"), "the honest target is accused: {}", ran.said);
    match e.says {
        Some(words) => Ok(ran
            .naming(words)
            .with_context(|| format!("nothing like {words:?} is said of the target: {}", ran.said))?
            .to_owned()),
        None => {
            ensure!(!ran.said.contains("mallory") && !ran.said.contains("warning"), "something is said: {}", ran.said);
            Ok("nothing".to_owned())
        }
    }
}

/// Lets a daemon look at all copies until one of the malicious target is in this state; or, if nothing is to be noticed,
/// until it has looked at all of them.
fn audit(stage: &mut Stage<'_>, state: &str, quiet: bool) -> Result<Ran> {
    let begun = Instant::now();
    let daemon = stage.up()?;
    let often =
        ["schedule", "audits", "--every", "2s", "--read-all", "never", "--read-all-s3", "never", "--silence", "4s"];
    let ran = stage.run(&often, FAST)?;
    ensure!(ran.code == 0, "{}", ran.said);
    loop {
        let copies = stage.copies()?;
        let accused = copies.iter().find(|c| c.target == "honest" && (c.state != "stored" || !c.trouble.is_empty()));
        ensure!(accused.is_none(), "an honest copy is accused: {accused:?}");
        let of_mallory: Vec<_> = copies.iter().filter(|c| c.target == "mallory").collect();
        let found = match quiet {
            true => {
                let bad = of_mallory.iter().find(|c| c.state != state || !c.trouble.is_empty());
                ensure!(bad.is_none(), "a copy of a right server is accused: {bad:?}");
                copies.iter().all(|c| c.audited).then(String::new)
            }
            false => {
                of_mallory.iter().find(|c| c.state == state).map(|c| format!("{}: mallory: {}", c.state, c.trouble))
            }
        };
        if let Some(said) = found {
            return Ok(Ran { code: 0, said, peak_mib: daemon.peak_mib()? });
        }
        ensure!(begun.elapsed() < FAST, "the audits find nothing: {copies:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Lets a daemon ask about all of a large copy until these words are said of one of the malicious target; or, if nothing is to
/// be noticed, until it has asked.
fn challenge(stage: &mut Stage<'_>, says: Option<&str>, limit: Duration) -> Result<Ran> {
    let begun = Instant::now();
    let ran = stage.backup_much(FAST)?;
    ensure!(ran.code == 0, "the backup of much ended with {}: {}", ran.code, ran.said);
    let daemon = stage.up()?;
    let ran =
        stage.run(&["schedule", "audits", "--every", "2s", "--read-all", "never", "--read-all-s3", "never"], FAST)?;
    ensure!(ran.code == 0, "{}", ran.said);
    loop {
        let copies = stage.copies()?;
        let bad = copies.iter().find(|c| c.state != "stored" || (c.target == "honest" && !c.trouble.is_empty()));
        ensure!(bad.is_none(), "every byte is right, and yet: {bad:?}");
        let mut of_mallory = copies.iter().filter(|c| c.target == "mallory");
        let said = match says {
            // It has been told a second key: the first answer was taken, or waited for until its deadline, and parts of the
            // copy were read.
            None => {
                of_mallory.any(|c| c.told.is_some_and(|n| n > 1) && c.trouble.is_empty() && c.audited).then(String::new)
            }
            Some(words) => {
                of_mallory.find(|c| c.trouble.contains(words)).map(|c| format!("{}: mallory: {}", c.state, c.trouble))
            }
        };
        if let Some(said) = said {
            return Ok(Ran { code: 0, said, peak_mib: daemon.peak_mib()? });
        }
        ensure!(begun.elapsed() < limit, "nothing comes of the challenges: {copies:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Asks for proofs of a sector, and compares them with its bytes on the disk behind: the adapter's own view. What a zone makes
/// of wrong ones is an audit's.
fn prove(stage: &Stage<'_>) -> Result<Ran> {
    let token: serde_json::Value = serde_json::from_slice(&std::fs::read(stage.dir.join("mallory.json"))?)?;
    let token = token["token"].as_str().context("no token")?.to_owned();
    let url = match stage.mallory.url.parse()? {
        zoneward_targets::Url::Server(url) => url,
        other => bail!("{other} is no target server"),
    };
    let asked = ServerTarget::open(&url, None, Some(&Credentials::of([("token", token.as_str())])))?;
    let truth = zoneward_targets::DirectoryTarget::open(&stage.dir.join("server"), None)?;
    let alias = *truth.list_zones()?.first().context("no zone")?;
    let (copy, len) = *truth.list(alias)?.sectors.first().context("no sector")?;
    let reader = truth.reader(alias, copy)?;
    let mut wrong = 0;
    for n in 1..=3u8 {
        let key = zoneward_sectors::crypto::Secret32([n; 32]);
        let span = Span { offset: 0, len, stride: 1 << 20 };
        let challenge = Challenge::new(&key, &[span], 0, span.windows());
        wrong += usize::from(asked.prove(alias, copy, &challenge)? != Some(challenge.answer(copy, reader.as_ref())?));
    }
    let said = if wrong > 0 { format!("{wrong} of 3 proofs of mallory are wrong") } else { String::new() };
    Ok(Ran { code: 0, said, peak_mib: 0 })
}

fn show<'a>(rows: impl Iterator<Item = &'a Row>) {
    println!(
        "| case | noticed by | exit | said | survived | seconds | MiB |\n| --- | --- | --- | --- | --- | --- | --- |"
    );
    for r in rows {
        let all = |f: &dyn Fn(&(String, i32, String)) -> String| r.noticed.iter().map(f).collect::<Vec<_>>().join(", ");
        let said = r.noticed.iter().map(|n| n.2.as_str()).find(|s| *s != "nothing").unwrap_or("nothing");
        let said: String = said.trim().chars().take(SHOWN).collect();
        let survived = if r.survived.is_ok() { "yes" } else { "FAILED" };
        println!(
            "| {} | {} | {} | {} | {survived} | {:.1} | {} |",
            r.name,
            all(&|n| n.0.clone()),
            all(&|n| n.1.to_string()),
            said.replace('|', "/"),
            r.seconds,
            r.peak_mib
        );
        if let Err(e) = &r.survived {
            println!("  FAILED {}: {e:#}", r.name);
        }
    }
}
