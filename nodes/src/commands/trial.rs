//! `try`: the whole tale on a person's own directory, in a folder of its own.

use std::path::{Path, PathBuf};
use std::time::Instant;

use zoneward_actors::backup::BackupRequest;
use zoneward_actors::check::Depth;
use zoneward_actors::home::real;
use zoneward_actors::init::{NewZone, Place, init};
use zoneward_actors::restore::{RestoreRequest, sources_of};
use zoneward_actors::zone::Zone;
use zoneward_consensus::model::CheckpointKind;
use zoneward_sectors::owner::RsaSize;
use zoneward_targets::Url;

use super::make::{host_name, write_kit};
use super::threads;
use crate::cli::{Global, SourceArgs, TryArgs};
use crate::errors::{Failure, exit};
use crate::output::Out;
use crate::units::{bytes, duration, plural, show_path};

fn failed(what: &str, e: impl std::fmt::Display) -> Failure {
    Failure::new(1801, exit::FAILED, what.to_owned()).why(e.to_string())
}

/// A new folder to work in, outside of what is backed up.
fn work_folder(a: &TryArgs, source: &Path) -> Result<PathBuf, Failure> {
    let dir = match &a.work {
        Some(d) => d.clone(),
        None => {
            let id = zoneward_sectors::ids::ZoneId::random().to_string();
            std::env::temp_dir().join(format!("zoneward-try-{}", id.chars().take(8).collect::<String>()))
        }
    };
    if real(&dir).starts_with(source) {
        return Err(Failure::new(1803, exit::USAGE, format!("{} lies inside what is backed up", dir.display()))
            .help("give another --work DIR"));
    }
    if dir.read_dir().is_ok_and(|mut d| d.next().is_some()) {
        return Err(Failure::new(1802, exit::REFUSED, format!("{} is not empty", dir.display()))
            .help("give another --work DIR"));
    }
    zoneward_sectors::fsx::create_dir_all(&dir, 0o700)
        .map_err(|e| failed("the folder to work in cannot be made", e))?;
    std::fs::canonicalize(&dir).map_err(|e| failed("the folder to work in cannot be used", e))
}

pub fn trial(g: &Global, out: Out, a: &TryArgs) -> Result<i32, Failure> {
    let path = a.path.clone().unwrap_or_else(|| PathBuf::from("."));
    let source = std::fs::canonicalize(&path).map_err(|e| failed(&format!("{} cannot be read", path.display()), e))?;
    let work = work_folder(a, &source)?;
    let (home, target, restored) = (work.join("zone"), work.join("target"), work.join("restored"));
    let passphrase: zeroize::Zeroizing<String> =
        zeroize::Zeroizing::new(zoneward_sectors::ids::ZoneId::random().to_string());
    out.say(format!("working in {}", work.display()));
    let url = Url::from_path(&target).map_err(|e| failed("the target's path", e))?;
    let new = NewZone {
        name: "try".into(),
        node_name: host_name(),
        targets: vec![Place { url, credentials: None }],
        sector_min_log2: 31,
        zstd_level: 2,
        rsa: RsaSize::Rsa3072,
        passphrase_on_targets: false,
    };
    let mut zone = init(&home, &new, &passphrase, |zone, words| write_kit(zone, words, &zone.home.recovery_kit()))?;
    let pass_file = work.join("passphrase");
    zoneward_sectors::fsx::write_durably(&pass_file, format!("{}\n", *passphrase).as_bytes(), 0o600)
        .map_err(|e| failed("the passphrase cannot be kept", e))?;
    out.say("1. a one-node zone with its own keys, and a local target");
    let code = run(g, out, &mut zone, &source, &restored)?;
    out.say("");
    out.say(format!("the zone is in {}; its passphrase in {}", home.display(), pass_file.display()));
    out.say(format!("what the target sees: ls -lR {}", target.display()));
    out.say(format!("look around:          zoneward --home {} status", home.display()));
    out.say("make your own:        zoneward init --target file:///where/backups/go");
    out.say(format!("clean up:             rm -r {}", work.display()));
    out.json(&serde_json::json!({"type": "summary", "schema": "zoneward.try/1", "work": crate::units::shown(&work), "home": crate::units::shown(&home), "restored": crate::units::shown(&restored), "same": code == 0}));
    Ok(code)
}

fn rate(n: u64, seconds: f64) -> String {
    format!("{} in {} ({}/s)", bytes(n), duration(seconds), bytes((n as f64 / seconds.max(0.001)) as u64))
}

fn run(g: &Global, out: Out, zone: &mut Zone, source: &Path, restored: &Path) -> Result<i32, Failure> {
    let args = SourceArgs {
        path: source.to_owned(),
        priority: None,
        copies: Some(1),
        exclude: Vec::new(),
        exclude_caches: false,
        one_file_system: false,
        shared: false,
        node: Vec::new(),
        write_only: false,
        zone_readable: false,
        reading: Default::default(),
    };
    let id = super::source::remember(zone, &args, Vec::new())?.id;
    let request = BackupRequest {
        sources: vec![id],
        kind: CheckpointKind::Incremental,
        dry_run: false,
        allow_empty: false,
        allow_older_home: false,
        threads: threads(),
    };
    let t = Instant::now();
    let report = super::backup::with_progress(g, zone, &request)?;
    let total: u64 = report.sources.iter().map(|s| s.counts.bytes).sum();
    let files: u64 = report.sources.iter().map(|s| s.counts.files).sum();
    let incomplete: u64 = report.sources.iter().map(|s| s.unread() + s.packed.unsteady_count).sum();
    out.say(format!(
        "2. backed up {}: {}; {} on the target",
        plural(files, "file", "files"),
        rate(total, t.elapsed().as_secs_f64()),
        bytes(report.stored_bytes)
    ));
    let t = Instant::now();
    let check = super::check::run(g, zone, Depth::Everything)?;
    out.say(format!(
        "3. read back and checked every stored byte: {}",
        rate(check.bytes_read, t.elapsed().as_secs_f64())
    ));
    if !check.is_clean() {
        return Ok(super::check::tell(out, zone, &check, 0.0));
    }
    let Some(checkpoint) = report.checkpoint else { return Ok(exit::FAILED) };
    let t = Instant::now();
    let all = |_: &[u8], _: bool| true;
    let to =
        RestoreRequest { checkpoint, to: Some(restored.to_owned()), wanted: &all, verify: false, threads: threads() };
    let r = super::restore::run(g, zone, &to)?;
    out.say(format!("4. restored to {}: {}", restored.display(), rate(r.bytes, t.elapsed().as_secs_f64())));
    if r.failed_count + r.warnings_count > 0 {
        super::restore::tell(out, &r, Some(restored), t.elapsed().as_secs_f64());
    }
    compare(out, zone, checkpoint, restored, incomplete)
}

/// Compares what was restored with the source, by scanning it against the very catalog, then byte for byte.
fn compare(
    out: Out,
    zone: &Zone,
    checkpoint: zoneward_sectors::ids::CheckpointId,
    restored: &Path,
    incomplete: u64,
) -> Result<i32, Failure> {
    use std::os::unix::ffi::OsStrExt;
    let t = Instant::now();
    let (mut same, mut differ) = (0u64, Vec::new());
    let opener = zone.opener();
    for held in sources_of(zone, checkpoint) {
        let entries = zone.catalogs(&opener).entries(&held.layers).map_err(zoneward_actors::errors::ZoneError::from)?;
        for entry in entries {
            let entry = entry.map_err(|e| zoneward_actors::errors::ZoneError::Catalogs(e.into()))?;
            let original = zoneward_actors::restore::absolute(&held.path, &entry.path);
            let inside = original.strip_prefix(b"/").unwrap_or(&original);
            let copy = restored.join(std::ffi::OsStr::from_bytes(inside));
            match is_same(Path::new(std::ffi::OsStr::from_bytes(&original)), &copy) {
                true => same += 1,
                false => differ.push(original),
            }
        }
    }
    out.say(format!(
        "5. compared with the original: {} the same, {} different, in {}",
        plural(same, "entry", "entries"),
        differ.len(),
        duration(t.elapsed().as_secs_f64())
    ));
    for path in differ.iter().take(20) {
        out.warn(format!("differs (or changed meanwhile): {}", show_path(path)));
    }
    Ok(match (differ.is_empty(), incomplete) {
        (true, 0) => 0,
        _ => exit::INCOMPLETE,
    })
}

/// Same type, mode, owner, time and content.
fn is_same(a: &Path, b: &Path) -> bool {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    let (Ok(x), Ok(y)) = (a.symlink_metadata(), b.symlink_metadata()) else { return false };
    let meta = |m: &std::fs::Metadata| (m.mode(), m.uid(), m.gid(), m.mtime(), m.mtime_nsec());
    if meta(&x) != meta(&y) {
        return false;
    }
    let kind = x.file_type();
    if kind.is_symlink() {
        return std::fs::read_link(a).ok() == std::fs::read_link(b).ok();
    }
    if kind.is_file() {
        return x.len() == y.len() && same_content(a, b);
    }
    !kind.is_char_device() && !kind.is_block_device() || x.rdev() == y.rdev()
}

fn same_content(a: &Path, b: &Path) -> bool {
    use zoneward_sectors::fsx::{open_read, read_full_at};
    let (Ok(x), Ok(y)) = (open_read(a), open_read(b)) else { return false };
    let (mut p, mut q, mut at) = (vec![0u8; 1 << 20], vec![0u8; 1 << 20], 0);
    loop {
        match (read_full_at(&x, &mut p, at), read_full_at(&y, &mut q, at)) {
            (Ok(0), Ok(0)) => return true,
            (Ok(n), Ok(m)) if n == m && p[..n] == q[..n] => at += n as u64,
            _ => return false,
        }
    }
}
