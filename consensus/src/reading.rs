//! How a source is read: commands before and after, and a snapshot. Plain values; what a command does is for the node that
//! packs, and it runs only what was allowed on that node.

use serde::{Deserialize, Serialize};

use crate::limits::{HOOK_LEN_MAX, HOOK_S, HOOK_S_MAX};

/// How a source is read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Reading {
    /// Shell command that must succeed before the source is read.
    pub before: Option<String>,
    /// Shell command that runs whenever `before` was begun, or the source was read.
    pub after: Option<String>,
    /// Seconds that a command may take.
    pub limit_s: u32,
    pub snapshot: SnapshotKind,
    /// Shell command that prints the path to read, for [`SnapshotKind::Command`].
    pub snapshot_command: Option<String>,
}

impl Default for Reading {
    fn default() -> Self {
        Self { before: None, after: None, limit_s: HOOK_S, snapshot: SnapshotKind::Auto, snapshot_command: None }
    }
}

/// From what a source is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SnapshotKind {
    /// A btrfs or ZFS snapshot where it lies on one, else the live tree.
    #[default]
    Auto,
    /// The live tree.
    Off,
    Btrfs,
    Zfs,
    Lvm,
    /// The live tree, each file through a clone that shares its blocks.
    Reflink,
    /// The path that a command prints.
    Command,
}

impl SnapshotKind {
    pub const ALL: [Self; 7] = [Self::Auto, Self::Off, Self::Btrfs, Self::Zfs, Self::Lvm, Self::Reflink, Self::Command];

    /// As people write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Off => "off",
            Self::Btrfs => "btrfs",
            Self::Zfs => "zfs",
            Self::Lvm => "lvm",
            Self::Reflink => "reflink",
            Self::Command => "command",
        }
    }
}

impl Reading {
    /// Its commands, each with what it is for.
    pub fn commands(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let all = [("before", &self.before), ("after", &self.after), ("snapshot", &self.snapshot_command)];
        all.into_iter().filter_map(|(what, c)| Some((what, c.as_deref()?)))
    }

    /// What is wrong with it, if something is.
    pub fn fault(&self) -> Option<&'static str> {
        let bad = |c: &str| c.trim().is_empty() || c.len() > HOOK_LEN_MAX || c.contains('\0');
        if self.commands().any(|(_, c)| bad(c)) {
            return Some("a command of the source");
        }
        if !(1..=HOOK_S_MAX).contains(&self.limit_s) {
            return Some("the time limit of the source's commands");
        }
        if (self.snapshot == SnapshotKind::Command) != self.snapshot_command.is_some() {
            return Some("the snapshot's command");
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_said_is_as_it_was_before_there_was_this() {
        let old: Reading = serde_json::from_str("{}").unwrap();
        assert_eq!(old, Reading::default());
        assert_eq!(old.fault(), None);
        assert_eq!(old.commands().count(), 0);
    }

    #[test]
    fn commands_and_limits_are_bounded() {
        let with = |r: Reading| r.fault();
        let long = "x".repeat(HOOK_LEN_MAX + 1);
        for bad in ["", "  ", "a\0b", long.as_str()] {
            assert!(with(Reading { before: Some(bad.into()), ..Reading::default() }).is_some());
            assert!(with(Reading { after: Some(bad.into()), ..Reading::default() }).is_some());
        }
        assert!(with(Reading { limit_s: 0, ..Reading::default() }).is_some());
        assert!(with(Reading { limit_s: HOOK_S_MAX + 1, ..Reading::default() }).is_some());
        assert!(with(Reading { snapshot: SnapshotKind::Command, ..Reading::default() }).is_some());
        assert!(with(Reading { snapshot_command: Some("make".into()), ..Reading::default() }).is_some());
        let command = Reading {
            snapshot: SnapshotKind::Command,
            snapshot_command: Some("make".into()),
            limit_s: HOOK_S_MAX,
            ..Reading::default()
        };
        assert_eq!(with(command), None);
    }
}
