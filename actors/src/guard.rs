//! Targets that keep what is removed: locks that are made longer in time, and what somebody hid and is brought back.
//!
//! Nothing of it is remembered: each round looks at what the target shows. A lock lasts for twice the zone's grace and is
//! made longer when a third of it is over, so whatever happens to the nodes, what lives now stays for more than the grace.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use zoneward_consensus::model::{CopyState, State};
use zoneward_sectors::ids::{CopyId, TargetId};
use zoneward_targets::{Guarded, Target, TargetError};

/// Seconds for which what is put is locked.
pub(crate) fn lock_s(state: &State) -> u64 {
    u64::from(state.policy.grace_s) * 2
}

/// How a target keeps what is removed, as a person sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Guard {
    /// Removing only hides; `None`: it does not let us ask.
    pub versions: Option<bool>,
    /// It refuses to remove what is locked.
    pub locks: Option<bool>,
    /// Days that it keeps what is removed by itself.
    #[serde(default)]
    pub kept_days: Option<u32>,
    /// Things that could not be locked.
    pub unlocked: u64,
    /// Sectors that are hidden, and could not be brought back.
    pub hidden: u64,
    /// Sectors that were hidden and were brought back since this was first looked at.
    pub brought_back: u64,
    /// Things that the zone removed and the target still keeps.
    pub kept: u64,
}

impl Guard {
    /// Nothing is to be said of a target that just removes.
    pub fn is_plain(&self) -> bool {
        *self == Guard { versions: Some(false), locks: Some(false), ..Guard::default() }
    }

    /// What somebody else did there, for people.
    pub fn alarms(&self) -> Vec<String> {
        let mut out = Vec::new();
        if self.hidden > 0 {
            out.push(format!(
                "{} of its sectors are hidden by delete markers and still there: they are read, but the marks have to be \
                 removed by whoever may (s3:DeleteObjectVersion)",
                self.hidden
            ));
        }
        if self.brought_back > 0 {
            out.push(format!(
                "{} of its sectors were hidden by delete markers and were brought back: somebody else uses its credentials",
                self.brought_back
            ));
        }
        out
    }

    /// What is not as it should be, for people.
    pub fn concerns(&self) -> Vec<String> {
        let mut out = self.alarms();
        if self.unlocked > 0 {
            out.push(format!(
                "{} things there could not be guarded: these credentials need s3:ListBucketVersions, s3:GetObjectRetention and s3:PutObjectRetention",
                self.unlocked
            ));
        }
        out
    }

    fn take(&mut self, found: &Guarded) {
        self.unlocked = found.unlocked;
        self.hidden = found.hidden.len() as u64;
        self.brought_back += found.brought_back.len() as u64;
        self.kept = found.kept;
    }
}

/// What a target says of itself alone.
pub fn known(target: &dyn Target) -> Result<Guard, TargetError> {
    let p = target.protection()?;
    Ok(Guard { versions: p.versions, locks: p.locks, kept_days: p.kept_days, ..Guard::default() })
}

/// One round at one target; answers what it showed, and which sectors are hidden. `before` is what earlier rounds found.
pub(crate) fn guard(
    state: &State,
    id: TargetId,
    target: &dyn Target,
    purge: bool,
    before: Option<Guard>,
) -> Result<(Guard, Vec<CopyId>), TargetError> {
    let Some(t) = state.targets.get(&id) else { return Ok(Default::default()) };
    let asked = known(target)?;
    let mut guard = Guard {
        versions: asked.versions,
        locks: asked.locks,
        kept_days: asked.kept_days,
        ..before.unwrap_or_default()
    };
    target.lock_for(lock_s(state));
    // Of what is abandoned or needed no more, nothing is to come back.
    let lives = |c: &&zoneward_consensus::model::Copy| {
        c.target == id && c.state != CopyState::Abandoned && c.unneeded.is_none()
    };
    let living: BTreeSet<CopyId> = state.copies.values().filter(lives).map(|c| c.id).collect();
    let found = target.guard(t.alias, &living, purge)?;
    guard.take(&found);
    Ok((guard, found.hidden))
}
