//! Users: whose sources are whose, what each may ask for, and the public half of the key that is his own. Plain values;
//! who may type a command is not decided here: a user is no login.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use zoneward_sectors::ids::{Digest, SourceId, UserId};

use crate::limits::{COPIES_MAX, USER_FILE_LEN_MAX, USER_PUBLIC_LEN_MAX, USER_SIGNER_LEN_MAX};
use crate::model::{Source, State, default_copies};

/// Somebody whose sources the zone backs up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    pub id: UserId,
    pub name: String,
    #[serde(default)]
    pub added_ms: u64,
    /// What is his, also what is no longer backed up and that checkpoints hold. No source has two users.
    #[serde(default)]
    pub sources: BTreeSet<SourceId>,
    #[serde(default)]
    pub rights: Rights,
    /// Nothing of his is changed, exported or imported; backups go on.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub locked: bool,
    /// His own key, once he has one. It is set by [`SetUserKey`](crate::command::Command::SetUserKey) alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<UserKey>,
}

/// What a user may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rights {
    /// The highest priority of a source of his.
    pub priority_max: i32,
    /// The most copies of a source of his.
    pub copies_max: u8,
    /// Bytes that all of his sources may hold; any number if not given. An import is held to it; a backup tells of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota_bytes: Option<u64>,
}

impl Default for Rights {
    fn default() -> Self {
        Self { priority_max: 0, copies_max: COPIES_MAX, quota_bytes: None }
    }
}

/// A user's own key as the zone knows it. The zone writes exports for him with it, and cannot open them with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UserKey {
    /// SHA-256 of the public key's SubjectPublicKeyInfo (DER).
    pub fingerprint: Digest,
    /// Base64 of that.
    pub public: String,
    /// Base64 of his Ed25519 public key.
    pub sign_public: String,
    /// Base64 of the file that holds both private halves, sealed under what he alone has.
    pub file: String,
    /// What signs his exports, certified by him, sealed under the zone's secret; base64.
    pub signer: String,
}

impl UserKey {
    /// What is wrong with it, if something is.
    pub fn fault(&self) -> Option<&'static str> {
        let bounded = self.public.len() <= USER_PUBLIC_LEN_MAX
            && self.sign_public.len() <= USER_PUBLIC_LEN_MAX
            && self.file.len() <= USER_FILE_LEN_MAX
            && self.signer.len() <= USER_SIGNER_LEN_MAX;
        if bounded { None } else { Some("the user's key") }
    }
}

impl Rights {
    /// What is wrong with them, if something is.
    pub fn fault(&self) -> Option<&'static str> {
        if !(-50..=50).contains(&self.priority_max) {
            return Some("the highest priority");
        }
        if !(1..=COPIES_MAX).contains(&self.copies_max) {
            return Some("the number of copies");
        }
        None
    }

    /// Whether they let a user do all that `other` lets him do.
    pub fn cover(&self, other: &Self) -> bool {
        let room = match (self.quota_bytes, other.quota_bytes) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(own), Some(other)) => own >= other,
        };
        self.priority_max >= other.priority_max && self.copies_max >= other.copies_max && room
    }

    /// What lets a user do all that one of them does.
    pub fn and(&self, other: &Self) -> Self {
        Self {
            priority_max: self.priority_max.max(other.priority_max),
            copies_max: self.copies_max.max(other.copies_max),
            quota_bytes: self.quota_bytes.zip(other.quota_bytes).map(|(a, b)| a.max(b)),
        }
    }

    /// A source as they allow it.
    pub fn lowered(&self, source: Source) -> Source {
        let priority = source.priority.min(self.priority_max);
        let wanted = source.copies.unwrap_or_else(|| default_copies(priority)).max(1);
        let copies = if wanted > self.copies_max { Some(self.copies_max) } else { source.copies };
        Source { priority, copies, ..source }
    }

    /// What of a source is beyond them.
    pub fn exceeded(&self, state: &State, source: &Source) -> Option<&'static str> {
        if source.priority > self.priority_max {
            return Some("the priority, for the source's user");
        }
        if state.copies_wanted(source) > self.copies_max {
            return Some("the number of copies, for the source's user");
        }
        None
    }
}

impl State {
    /// Whose source it is.
    pub fn user_of(&self, source: SourceId) -> Option<&User> {
        self.users.values().find(|u| u.sources.contains(&source))
    }

    /// Bytes that the sources of a user held when each was last backed up.
    pub fn used_by(&self, user: &User) -> u64 {
        let complete = self.complete();
        let held = |id: &SourceId| {
            let mut tasks = complete.iter().rev().filter_map(|c| c.tasks.iter().find(|t| t.source == *id));
            tasks.next().map_or(0, |t| t.stats.bytes)
        };
        user.sources.iter().filter(|id| self.sources.contains_key(id)).map(held).fold(0, u64::saturating_add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rights_cover_others_only_where_each_of_them_does() {
        let r = |priority_max, copies_max, quota_bytes| Rights { priority_max, copies_max, quota_bytes };
        for (own, other, covers) in [
            (r(0, 2, None), r(0, 2, None), true),
            (r(5, 3, None), r(0, 2, Some(9)), true),
            (r(0, 2, Some(9)), r(0, 2, Some(9)), true),
            (r(0, 2, Some(8)), r(0, 2, Some(9)), false),
            (r(0, 2, Some(9)), r(0, 2, None), false),
            (r(-1, 3, None), r(0, 2, None), false),
            (r(0, 1, None), r(0, 2, None), false),
        ] {
            assert_eq!(own.cover(&other), covers, "{own:?} {other:?}");
            let both = own.and(&other);
            assert!(both.cover(&own) && both.cover(&other), "{both:?}");
        }
        assert_eq!(r(0, 1, Some(3)).and(&r(2, 1, Some(2))), r(2, 1, Some(3)));
        assert!(r(51, 1, None).fault().is_some() && r(0, 0, None).fault().is_some() && r(0, 4, None).fault().is_some());
        assert_eq!(Rights::default().fault(), None);
    }
}
