//! The checks that every adapter must pass.
//!
//! [`run`] is given a way to make handles of one and the same store, as two processes would have them. It works under
//! fresh zone aliases, so it can run against a store that is in use; what it wrote it removes, where removing works.
//! Some checks depend on what the target says it can do, and are skipped by name otherwise: never silently.

mod objects;
mod reading;
#[cfg(test)]
mod table;
#[cfg(test)]
mod tests;
mod writing;

use zoneward_sectors::ids::{CopyId, ZoneAlias};

use crate::errors::TargetError;
use crate::target::{Incoming, Target};

/// How a check ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Passed,
    /// What was seen and what was wanted.
    Failed(String),
    /// What the target says it cannot do.
    Skipped(String),
}

/// One check and its outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckResult {
    pub name: &'static str,
    pub outcome: Outcome,
}

/// Runs every check. `make` gives a new handle of the same store at each call.
pub fn run(make: &dyn Fn() -> Box<dyn Target>) -> Vec<CheckResult> {
    let lists = [writing::CHECKS, reading::CHECKS, objects::CHECKS];
    lists.iter().copied().flatten().map(|(name, check)| run_one(make, name, *check)).collect()
}

fn run_one(make: &dyn Fn() -> Box<dyn Target>, name: &'static str, check: Check) -> CheckResult {
    let store = Store { make, target: make(), alias: ZoneAlias::random() };
    let outcome = match check(&store) {
        Ok(()) => Outcome::Passed,
        Err(Stop::Failed(why)) => Outcome::Failed(why),
        Err(Stop::Skipped(why)) => Outcome::Skipped(why),
    };
    store.clean();
    CheckResult { name, outcome }
}

/// What failed or was skipped, one line each; empty if all passed.
pub fn report(results: &[CheckResult]) -> String {
    let line = |r: &CheckResult| match &r.outcome {
        Outcome::Passed => None,
        Outcome::Failed(why) => Some(format!("FAILED {}: {why}\n", r.name)),
        Outcome::Skipped(why) => Some(format!("skipped {}: {why}\n", r.name)),
    };
    results.iter().filter_map(line).collect()
}

type Check = fn(&Store) -> Done;
type Done = Result<(), Stop>;
type Checks = &'static [(&'static str, Check)];

enum Stop {
    Failed(String),
    Skipped(String),
}

impl From<TargetError> for Stop {
    fn from(e: TargetError) -> Self {
        Stop::Failed(format!("unexpected error: {e} ({e:?})"))
    }
}

/// The store under test, and a zone of its own for each check.
struct Store<'a> {
    make: &'a dyn Fn() -> Box<dyn Target>,
    target: Box<dyn Target>,
    alias: ZoneAlias,
}

impl Store<'_> {
    /// Another handle of the same store.
    fn again(&self) -> Box<dyn Target> {
        (self.make)()
    }

    fn begin(&self, copy: CopyId) -> Result<Box<dyn Incoming>, TargetError> {
        self.target.open(self.alias, copy)
    }

    /// Begins a sector, writes it in order and seals it.
    fn put(&self, copy: CopyId, bytes: &[u8]) -> Done {
        let incoming = self.begin(copy)?;
        incoming.write_at(0, bytes)?;
        Ok(incoming.seal(bytes.len() as u64)?)
    }

    /// The whole of a sealed sector, through a fresh handle.
    fn read_all(&self, copy: CopyId) -> Result<Vec<u8>, Stop> {
        let reader = self.again().reader(self.alias, copy)?;
        let mut bytes = vec![0u8; reader.len() as usize];
        reader.read_at(&mut bytes, 0)?;
        Ok(bytes)
    }

    /// Fails unless the sealed sector holds exactly these bytes.
    fn holds(&self, copy: CopyId, bytes: &[u8]) -> Done {
        let found = self.read_all(copy)?;
        want(found == bytes, || format!("{} bytes were written, {} other bytes are read", bytes.len(), found.len()))?;
        let len = self.target.len(self.alias, copy)?;
        want(len == Some(bytes.len() as u64), || format!("len is {len:?} for {} bytes", bytes.len()))
    }

    /// Best effort: what cannot be removed is another check's finding.
    fn clean(&self) {
        for (copy, _) in self.target.list(self.alias).unwrap_or_default().sectors {
            let _ = self.target.remove(self.alias, copy);
        }
        for copy in self.target.list_incoming(self.alias).unwrap_or_default() {
            let _ = self.target.discard_incoming(self.alias, copy);
        }
    }
}

fn want(holds: bool, otherwise: impl FnOnce() -> String) -> Done {
    if holds { Ok(()) } else { Err(Stop::Failed(otherwise())) }
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, found: T, expected: T) -> Done {
    want(found == expected, || format!("{what}: {found:?} instead of {expected:?}"))
}

/// Fails unless the call failed in the way that `fits`.
fn refused<T>(what: &str, result: Result<T, TargetError>, fits: impl Fn(&TargetError) -> bool) -> Done {
    match result {
        Err(e) if fits(&e) => Ok(()),
        Err(e) => Err(Stop::Failed(format!("{what}: the wrong error: {e:?}"))),
        Ok(_) => Err(Stop::Failed(format!("{what}: it succeeded"))),
    }
}

/// Bytes that differ at every offset and for every seed, and do not compress.
fn bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut step = || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        (x >> 32) as u8
    };
    (0..len).map(|_| step()).collect()
}

fn join<T>(handle: std::thread::ScopedJoinHandle<'_, T>) -> Result<T, Stop> {
    handle.join().map_err(|_| Stop::Failed("a thread panicked".to_owned()))
}
