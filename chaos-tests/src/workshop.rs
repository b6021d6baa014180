//! What all subcommands share: the source tree in both states, prepared sites, failures and how they are told.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use chaos_tests::site::{Site, remove};
use chaos_tests::tree::{Tree, make_first, make_second};

/// Processes at work at the same time, each in its own site.
pub const WORKERS: usize = 2;
const SHOWN_MAX: usize = 20;

/// A directory in memory where there is one, removed at the end.
#[derive(Debug)]
pub struct Workshop {
    pub dir: PathBuf,
    /// The tree that checkpoint 1 holds, and the one that is backed up under faults.
    pub first: Tree,
    pub second: Tree,
}

impl Drop for Workshop {
    fn drop(&mut self) {
        // The process ends: what cannot be removed is all that is lost.
        let _ = remove(&self.dir);
    }
}

/// Memory where there is some: thousands of runs should not wait for a disk.
pub fn fast_dir() -> PathBuf {
    let memory = Path::new("/dev/shm");
    let base = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    base.join(format!("zoneward-chaos-{}", std::process::id()))
}

impl Workshop {
    /// Makes the source and, in each site a zone whose checkpoint 1 is the source's first state.
    pub fn open(sites: &[PathBuf]) -> Result<(Self, Vec<Site>)> {
        let dir = fast_dir();
        remove(&dir)?;
        let source = dir.join("source");
        std::fs::create_dir_all(&source).with_context(|| format!("making {}", source.display()))?;
        make_first(&source)?;
        let first = Tree::read(&source)?;
        let mut made = Vec::new();
        for site in sites {
            std::fs::create_dir_all(site)?;
            let site = Site::of_this_program(site, &source)?;
            site.init()?;
            site.expect(0, &["backup", site.source_text()?])?;
            site.keep()?;
            made.push(site);
        }
        make_second(&source)?;
        let second = Tree::read(&source)?;
        println!("source: {} entries, {} MiB", second.entries(), second.bytes() >> 20);
        Ok((Self { dir, first, second }, made))
    }
}

/// Prints what failed; true if nothing did.
pub fn tell(failures: &[String]) -> bool {
    for f in failures.iter().take(SHOWN_MAX) {
        println!("FAILED {f}");
    }
    if failures.len() > SHOWN_MAX {
        println!("FAILED and {} more", failures.len() - SHOWN_MAX);
    }
    failures.is_empty()
}
