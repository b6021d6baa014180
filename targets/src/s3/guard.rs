//! Keeps a zone's objects in a bucket with versions: those that live are locked and to be seen, the others go.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{SystemTime, UNIX_EPOCH};

use zoneward_sectors::ids::{CopyId, ZoneAlias};

use super::client::{Client, of_wire};
use super::lock::{Version, Versions};
use super::sector_key;
use crate::errors::{Op, TargetError};
use crate::limits::{GUARD_MAX, MARKS_MAX};
use crate::net::WireError;
use crate::net::place;
use crate::target::{Guarded, ObjectName};

/// All that the bucket has under one name.
#[derive(Default)]
struct Name<'v> {
    /// The newest first.
    versions: Vec<&'v Version>,
    markers: Vec<&'v Version>,
}

impl Name<'_> {
    fn is_hidden(&self) -> bool {
        self.markers.iter().any(|m| m.latest)
    }
}

fn by_key(all: &Versions) -> BTreeMap<&str, Name<'_>> {
    let mut names: BTreeMap<&str, Name<'_>> = BTreeMap::new();
    all.versions.iter().for_each(|v| names.entry(&v.key).or_default().versions.push(v));
    all.markers.iter().for_each(|m| names.entry(&m.key).or_default().markers.push(m));
    names
}

fn refused(e: &WireError) -> bool {
    matches!(e, WireError::Status { code, .. } if code == "AccessDenied")
}

pub(super) async fn guard(
    c: &Client,
    alias: ZoneAlias,
    living: &BTreeSet<CopyId>,
    purge: bool,
) -> Result<Guarded, TargetError> {
    let op = Op::Ask;
    let (mut out, fail) = (Guarded::default(), |what: &str, e: &WireError| of_wire(op, what, e));
    let p = c.guards(op, c.url()).await?;
    if p.versions != Some(true) {
        return Ok(out);
    }
    let all = match c.versions(op, c.url(), &format!("{}/", place::sectors(alias))).await {
        // It may not even look.
        Err(TargetError::Denied { .. }) => return Ok(Guarded { unlocked: living.len() as u64 + 1, ..out }),
        all => all?,
    };
    let sectors = by_key(&all);
    // What lies beside the sectors is never removed by us: whatever hides it was put there by somebody else.
    let mut beside = vec![place::MARKER.to_owned()];
    beside.extend(ObjectName::ALL.map(|name| place::object(alias, name)));
    let mut to_lock = Vec::new();
    for key in &beside {
        let all = c.versions(op, key, key).await?;
        if let Some(name) = by_key(&all).get(key.as_str())
            && let Some(newest) = name.versions.first()
        {
            let marks = marks(name);
            if name.is_hidden() && !c.show(newest, &marks).await.map_err(|e| fail(key, &e))? {
                out.unlocked += 1;
            }
            to_lock.push(key.clone());
        }
    }
    for copy in living {
        let key = sector_key(alias, *copy);
        let Some(name) = sectors.get(key.as_str()) else { continue };
        let Some(newest) = name.versions.first() else { continue };
        if name.is_hidden() {
            match c.show(newest, &marks(name)).await.map_err(|e| fail(&key, &e))? {
                true => out.brought_back.push(*copy),
                false => {
                    // The bytes at least are to stay.
                    let _ = c.lengthen(&key, Some(&newest.id)).await;
                    out.hidden.push(*copy);
                    continue;
                }
            }
        }
        to_lock.push(key);
    }
    if p.locks == Some(true) {
        for key in in_turn(&to_lock) {
            match c.lengthen(key, None).await {
                Ok(longer) => out.extended += u64::from(longer),
                Err(e) if refused(&e) => out.unlocked += 1,
                // It went meanwhile.
                Err(WireError::Status { status, .. }) if status.as_u16() == 404 => {}
                Err(e) => return Err(fail(key, &e)),
            }
        }
    }
    // Only what lies behind a mark: what is to be seen may be on its way into the state.
    let gone: Vec<&Name> =
        sectors.iter().filter(|(key, n)| n.is_hidden() && !lives(alias, key, living)).map(|(_, n)| n).collect();
    out.kept = gone.iter().map(|n| n.versions.len() as u64).sum();
    for name in in_turn(&gone).filter(|_| purge) {
        let mut left = name.versions.len();
        for v in &name.versions {
            match c.remove_version(v).await {
                Ok(()) => {
                    left -= 1;
                    out.purged += 1;
                    out.kept -= 1;
                }
                Err(e) if refused(&e) => break,
                Err(e) => return Err(fail(&v.key, &e)),
            }
        }
        // The marks go last: without them, what is left would be seen again.
        for mark in marks(name).into_iter().take(MARKS_MAX).filter(|_| left == 0) {
            // One that stays hides nothing.
            let _ = c.remove_version(mark).await;
        }
    }
    Ok(out)
}

fn lives(alias: ZoneAlias, key: &str, living: &BTreeSet<CopyId>) -> bool {
    let prefix = format!("{}/", place::sectors(alias));
    // What is no sector of ours is left alone.
    key.strip_prefix(&prefix).and_then(place::sector_of).is_none_or(|copy| living.contains(&copy))
}

/// Its delete markers, the newest last: as long as that is there, an older version does not show.
fn marks<'v>(name: &Name<'v>) -> Vec<&'v Version> {
    name.markers.iter().rev().copied().collect()
}

/// A bounded number of them, others each hour. So that rounds once a day come to all of them too, the number of
/// hours after which it begins anew has no factor in common with a day's.
fn in_turn<T>(all: &[T]) -> impl Iterator<Item = &T> {
    let hour = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs() / 3600) as usize;
    let rounds = rounds(all.len());
    all.iter().skip(hour % rounds).step_by(rounds)
}

fn rounds(len: usize) -> usize {
    let least = len.div_ceil(GUARD_MAX).max(1);
    (least..).find(|n| n % 2 != 0 && n % 3 != 0).unwrap_or(least)
}

#[cfg(test)]
mod checks {
    use super::*;

    #[test]
    fn rounds_once_an_hour_or_once_a_day_come_to_everything() {
        for (len, wanted) in
            [(0, 1), (1, 1), (GUARD_MAX, 1), (GUARD_MAX + 1, 5), (6 * GUARD_MAX, 7), (8 * GUARD_MAX, 11)]
        {
            let n = rounds(len);
            assert_eq!(n, wanted, "{len}");
            assert!(len.div_ceil(n) <= GUARD_MAX);
            for step in [1, 24] {
                let seen: BTreeSet<usize> = (0..n).map(|i| 1000 + i * step).map(|hour| hour % n).collect();
                assert_eq!(seen.len(), n, "{len} {step}");
            }
        }
    }
}
