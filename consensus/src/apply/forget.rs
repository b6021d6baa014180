//! Forgetting: marks, what they free, and the clock they wait on.

use std::collections::BTreeSet;

use zoneward_sectors::ids::{CheckpointId, LayerId, SourceId};

use super::{Applied, Change, Refusal, Row, sectors};
use crate::keep::{self, Rules};
use crate::limits::{FORGET_MAX, GRACE_S_MAX, TAG_LEN_MAX, TAGS_MAX};
use crate::model::{Checkpoint, Forgotten, Node, Standing};
use crate::owner::{Act, OwnerWord, allows};

/// Refuses what is not the owner's word. It is used up by [`used_word`] once all else is right.
pub(super) fn owner_says(c: &Change<'_>, act: Act<'_>, word: &OwnerWord) -> Applied {
    let zone = c.state.zone.as_ref().ok_or(Refusal::NoZone)?;
    if allows(zone, act, word, c.now) { Ok(()) } else { Err(Refusal::Signature) }
}

pub(super) fn used_word(c: &mut Change<'_>) {
    if let Some(zone) = c.state.zone.as_mut() {
        zone.owner_words += 1;
        c.rows.insert(Row::Zone);
    }
}

pub fn forget(c: &mut Change<'_>, ids: &[CheckpointId], now: bool, owner: Option<&OwnerWord>) -> Applied {
    let distinct: BTreeSet<&CheckpointId> = ids.iter().collect();
    if ids.is_empty() || ids.len() > FORGET_MAX || distinct.len() != ids.len() {
        return Err(Refusal::Range("the checkpoints"));
    }
    for id in ids {
        let x = c.state.checkpoints.get(id).ok_or(Refusal::Unknown("the checkpoint"))?;
        // One that waits already may be told not to wait.
        if !x.is_complete() || x.forgotten.is_some_and(|f| f.now || !now) {
            return Err(Refusal::State("the checkpoint"));
        }
    }
    // The next backup builds on it, and a restore begins with it.
    if c.state.complete().last().is_some_and(|newest| ids.contains(&newest.id)) {
        return Err(Refusal::State("the newest checkpoint"));
    }
    match owner {
        Some(word) => owner_says(c, Act::Forget { checkpoints: ids, now }, word)?,
        None if now || keep::held_back(c.state, ids).is_some() => return Err(Refusal::Owner),
        None => {}
    }
    let mark = Forgotten { at_ms: c.now, credit_ms: c.state.zone.as_ref().map_or(0, |z| z.credit_ms), now };
    for id in ids {
        if let Some(x) = c.state.checkpoints.get_mut(id) {
            x.forgotten = Some(mark);
            c.rows.insert(Row::Checkpoint(*id));
        }
    }
    if owner.is_some() {
        used_word(c);
    }
    Ok(())
}

pub fn remember(c: &mut Change<'_>, ids: &[CheckpointId]) -> Applied {
    for id in ids {
        let x = c.state.checkpoints.get(id).ok_or(Refusal::Unknown("the checkpoint"))?;
        if x.forgotten.is_none() {
            return Err(Refusal::State("the checkpoint"));
        }
    }
    for id in ids {
        if let Some(x) = c.state.checkpoints.get_mut(id) {
            x.forgotten = None;
            c.rows.insert(Row::Checkpoint(*id));
        }
    }
    Ok(())
}

fn tags_ok(tags: &BTreeSet<String>) -> Applied {
    let ok =
        |t: &String| !t.is_empty() && t.len() <= TAG_LEN_MAX && !t.chars().any(char::is_control) && !t.contains(',');
    if tags.len() <= TAGS_MAX && tags.iter().all(ok) { Ok(()) } else { Err(Refusal::Range("a tag")) }
}

pub fn set_tags(c: &mut Change<'_>, id: CheckpointId, tags: &BTreeSet<String>) -> Applied {
    tags_ok(tags)?;
    let x = c.state.checkpoints.get_mut(&id).ok_or(Refusal::Unknown("the checkpoint"))?;
    x.tags.clone_from(tags);
    c.rows.insert(Row::Checkpoint(id));
    Ok(())
}

pub fn set_retention(c: &mut Change<'_>, rules: Option<&Rules>) -> Applied {
    if let Some(rules) = rules {
        tags_ok(&rules.tags)?;
        if !rules.keep_something() {
            return Err(Refusal::Range("rules that keep nothing"));
        }
    }
    c.state.policy.retention = rules.cloned();
    c.rows.insert(Row::Policy);
    Ok(())
}

pub fn set_grace(c: &mut Change<'_>, grace_s: u32, owner: Option<&OwnerWord>) -> Applied {
    if grace_s > GRACE_S_MAX {
        return Err(Refusal::Range("the grace"));
    }
    match owner {
        Some(word) => owner_says(c, Act::Grace { grace_s }, word)?,
        None if grace_s < c.state.policy.grace_s => return Err(Refusal::Owner),
        None => {}
    }
    c.state.policy.grace_s = grace_s;
    c.rows.insert(Row::Policy);
    if owner.is_some() {
        used_word(c);
    }
    Ok(())
}

/// A node says how much time it saw pass. The zone believes what a majority of those that do work says; a witness has no
/// home to remember time in.
pub fn credit(c: &mut Change<'_>, credit_ms: u64) -> Applied {
    let node = c.state.nodes.get_mut(&c.node).ok_or(Refusal::Unknown("the node"))?;
    if credit_ms <= node.credit_ms {
        return Err(Refusal::Range("the time that passed"));
    }
    node.credit_ms = credit_ms;
    c.rows.insert(Row::Node(c.node));
    let tells = |n: &&Node| matches!(n.standing, Standing::Member | Standing::Draining);
    let mut seen: Vec<u64> = c.state.nodes.values().filter(tells).map(|n| n.credit_ms).collect();
    seen.sort_unstable_by(|a, b| b.cmp(a));
    let believed = seen.get(seen.len() / 2).copied().unwrap_or(0);
    if let Some(zone) = c.state.zone.as_mut().filter(|z| z.credit_ms < believed) {
        zone.credit_ms = believed;
        c.rows.insert(Row::Zone);
    }
    Ok(())
}

/// What the forgotten checkpoints held leaves the state together with the storing of this one; the files follow when
/// targets show a head that no longer speaks of them.
pub(super) fn collect(c: &mut Change<'_>, stored: CheckpointId) {
    let Some(seq) = c.state.checkpoints.get(&stored).map(|x| x.seq) else { return };
    for id in keep::over(c.state) {
        c.state.checkpoints.remove(&id);
        c.rows.insert(Row::Checkpoint(id));
    }
    let needed = keep::needed(c.state, keep::live(c.state));
    let layers: Vec<LayerId> = c.state.layers.keys().copied().filter(|l| !needed.layers.contains(l)).collect();
    for l in layers {
        c.state.layers.remove(&l);
        c.rows.insert(Row::Layer(l));
    }
    let held = |x: &Checkpoint| x.tasks.iter().map(|t| t.source).collect::<Vec<_>>();
    let held: BTreeSet<SourceId> = c.state.checkpoints.values().flat_map(held).collect();
    let gone: Vec<SourceId> = c.state.former.keys().copied().filter(|s| !held.contains(s)).collect();
    for s in gone {
        c.state.former.remove(&s);
        c.rows.insert(Row::Former(s));
        super::users::forget_source(c, s);
    }
    for s in keep::unneeded(c.state) {
        let copies = super::checkpoints::copies_of(c, s);
        sectors::give_up(c, s);
        for k in copies {
            if let Some(k) = c.state.copies.get_mut(&k) {
                k.unneeded = Some(seq);
            }
        }
    }
}

#[cfg(test)]
mod tests;
