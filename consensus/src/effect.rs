//! Whether a command has already taken effect: for a proposer that never heard what became of it. Proposers choose ids at
//! random, so what is found under an id is what that proposer asked for.

use zoneward_sectors::ids::NodeId;

use crate::audits::Found;
use crate::command::Command;
use crate::model::{Checkpoint, CheckpointState, CopyState, NextSecret, State, Task, TaskState, Wipe};
use crate::policy::Schedule;
use crate::users::User;

/// True if the state has in it what `command`, sent by `node`, asks for. Where a command leaves no trace of its own, the
/// answer is what matters to its sender: whether sending it again is needed.
pub fn took_effect(state: &State, node: NodeId, command: &Command) -> bool {
    match command {
        Command::CreateZone { zone, .. } => state.zone.as_ref().is_some_and(|z| z.id == *zone),
        Command::SetZone { name, sector_min_log2, zstd_level } => state.zone.as_ref().is_some_and(|z| {
            name.as_ref().is_none_or(|n| *n == z.name)
                && sector_min_log2.is_none_or(|m| m == z.sector_min_log2)
                && zstd_level.is_none_or(|l| l == z.zstd_level)
        }),
        Command::SetOwnerKey { fingerprint, .. } => {
            state.zone.as_ref().is_some_and(|z| z.owner_fingerprint == *fingerprint)
        }
        Command::AddNode { node, public_key, .. } => state.nodes.get(node).is_some_and(|n| n.public_key == *public_key),
        Command::AddTarget { target, .. } => state.targets.contains_key(target),
        Command::SetTarget { target, paused, owner_key_hash } => state.targets.get(target).is_some_and(|t| {
            paused.is_none_or(|p| p == t.paused) && owner_key_hash.is_none_or(|h| t.owner_key_hash == Some(h))
        }),
        Command::EditTarget { target, name, url, domain, leaving } => state.targets.get(target).is_some_and(|t| {
            name.as_ref().is_none_or(|n| *n == t.name)
                && url.as_ref().is_none_or(|u| *u == t.url)
                && domain.as_deref().is_none_or(|d| d == t.domain.as_deref().unwrap_or_default())
                && leaving.is_none_or(|l| l == t.leaving)
        }),
        Command::RemoveTarget { target, .. } => !state.targets.contains_key(target),
        Command::SetCredentials { target, credentials } => {
            state.targets.get(target).is_some_and(|t| t.credentials.as_ref() == Some(credentials))
        }
        Command::SetTerms { target, terms } => state.targets.get(target).is_some_and(|t| t.terms == *terms),
        Command::PutSource { source } => state.sources.get(&source.id).is_some_and(|s| {
            let learned = |s: &crate::model::Source| crate::model::Source {
                grounds: Default::default(),
                last_entries: 0,
                added_ms: 0,
                // Of a source that was there already, these stay.
                reading: crate::reading::Reading::default(),
                write_only: false,
                ..s.clone()
            };
            learned(s) == learned(source)
        }),
        Command::SetReading { source, reading } => state.sources.get(source).is_some_and(|s| s.reading == *reading),
        Command::MapName { name, node, path } => {
            let mapped = state.policy.names.get(name);
            let now = mapped.and_then(|m| node.map_or(m.everywhere.as_ref(), |n| m.nodes.get(&n)));
            now == path.as_ref()
        }
        Command::RemoveSource { source } => !state.sources.contains_key(source),
        Command::OpenCheckpoint { checkpoint, .. } => state.checkpoints.contains_key(checkpoint),
        // Said again, it changes nothing more.
        Command::ResumeCheckpoint { .. } => false,
        Command::AbandonCheckpoint { checkpoint } => {
            state.checkpoints.get(checkpoint).is_some_and(|c| c.state == CheckpointState::Abandoned)
        }
        Command::OpenRewrite { checkpoint, .. } => state.checkpoints.contains_key(checkpoint),
        Command::Rebase { checkpoint, chains } => state
            .checkpoints
            .get(checkpoint)
            .and_then(|c| c.rewrite.as_ref())
            .is_some_and(|w| chains.iter().all(|r| w.chains.contains(r))),
        Command::Forget { checkpoints, now, .. } => checkpoints
            .iter()
            .all(|id| state.checkpoints.get(id).is_none_or(|c| c.forgotten.is_some_and(|f| f.now >= *now))),
        Command::Remember { checkpoints } => {
            checkpoints.iter().all(|id| state.checkpoints.get(id).is_some_and(|c| c.forgotten.is_none()))
        }
        Command::SetTags { checkpoint, tags } => state.checkpoints.get(checkpoint).is_some_and(|c| c.tags == *tags),
        Command::SetRetention { rules } => state.policy.retention == *rules,
        Command::SetGrace { grace_s, .. } => state.policy.grace_s == *grace_s,
        Command::Credit { credit_ms } => state.nodes.get(&node).is_some_and(|n| n.credit_ms >= *credit_ms),
        Command::OpenLayer { layer, .. } => state.layers.contains_key(layer),
        Command::OpenSector { sector, .. } => state.sectors.contains_key(sector),
        Command::OpenCopy { copy, header_hash, .. } => {
            state.copies.get(copy).is_some_and(|c| c.header_hash == *header_hash)
        }
        Command::SealSector { sector, raw_id, .. } => {
            state.sectors.get(sector).is_some_and(|s| s.is_sealed() && s.raw_id == Some(*raw_id))
        }
        Command::AbandonSector { sector } => !state.sectors.contains_key(sector),
        Command::ForgetKeys { sectors } => {
            !state.copies.values().any(|c| sectors.contains(&c.sector) && !c.is_keyless())
        }
        // With the older ones: said again, it does the same.
        Command::SetWriteOnly { source, write_only, older } => {
            !older && state.sources.get(source).is_some_and(|s| s.write_only == *write_only)
        }
        Command::StoreCopy { copy, stored_len, .. } => {
            state.copies.get(copy).is_some_and(|c| c.is_stored() && c.stored_len == *stored_len)
        }
        Command::AbandonCopy { copy } => state.copies.get(copy).is_none_or(|c| c.state == CopyState::Abandoned),
        Command::MarkCopy { copy, state: s } => state.copies.get(copy).is_some_and(|c| c.state == *s),
        Command::Verified { .. } => false,
        Command::Audited { results } => results.iter().all(|r| {
            state.copies.get(&r.copy).is_none_or(|k| match &r.found {
                // Said again, it says the same of the same copy.
                Found::Whole { .. } | Found::Misproved { .. } => {
                    k.is_stored() && k.silent.is_none() && k.audited_ms.is_some()
                }
                Found::Wrong { .. } => k.state == CopyState::Damaged,
                Found::Gone { .. } => k.state == CopyState::Lost,
                Found::Silent { .. } => k.state == CopyState::Lost || k.silent.is_some(),
            })
        }),
        Command::SetStripes { sets } => sets.iter().all(|s| {
            let now = state.copies.get(&s.copy).and_then(|k| k.stripes.as_ref());
            now.is_some_and(|n| n.first == s.first && n.answers == s.answers)
        }),
        // Said again, it costs another key.
        Command::SpendStripes { .. } => false,
        Command::SetAudits { audits } => state.policy.audits == *audits,
        Command::RaiseCopies { sectors, copies } => {
            sectors.iter().all(|s| state.sectors.get(s).is_none_or(|s| s.copies_wanted >= *copies))
        }
        Command::FinishTask { checkpoint, source, .. } => state
            .checkpoints
            .get(checkpoint)
            .is_some_and(|c| c.tasks.iter().any(|t| t.source == *source && is_over(c, t))),
        Command::StoreCheckpoint { checkpoint } => state.checkpoints.get(checkpoint).is_some_and(|c| c.is_complete()),
        Command::PublishHead { n, payload_hash, .. } => {
            state.head.as_ref().is_some_and(|h| h.n == *n && h.payload_hash == *payload_hash)
        }
        Command::Misshown { target, wrote, .. } => {
            state.targets.get(target).is_none_or(|t| t.pointer.is_none_or(|p| p.hash != *wrote))
        }
        Command::Vouch { word } => state.zone.as_ref().is_some_and(|z| z.vouched.as_ref() == Some(word)),
        Command::HandOver { n, .. } => state.head.as_ref().is_some_and(|h| {
            let handed = h.handovers.iter().filter_map(|o| crate::heads::Electorate::of(&o.payload));
            handed.into_iter().any(|e| e.n == *n)
        }),
        Command::PublishedPointer { target, n, hash } => {
            state.targets.get(target).and_then(|t| t.pointer).is_some_and(|p| p.n == *n && p.hash == *hash)
        }
        Command::FinishCheckpoint { checkpoint } => {
            state.checkpoints.get(checkpoint).is_some_and(|c| c.state == CheckpointState::Published)
        }
        Command::StartNode { incarnation, .. } => state.nodes.get(&node).is_some_and(|n| n.incarnation == *incarnation),
        Command::SetNode { node, name, standing } => state
            .nodes
            .get(node)
            .is_some_and(|n| name.as_ref().is_none_or(|x| *x == n.name) && standing.is_none_or(|s| s == n.standing)),
        Command::WipeNode { node } => state.nodes.get(node).is_none_or(|n| n.wipe.is_some()),
        Command::Wiped {} => state.nodes.get(&node).is_none_or(|n| n.wipe == Some(Wipe::Done)),
        Command::RemoveNode { node } => !state.nodes.contains_key(node),
        Command::SetOwnerFile { now, .. } => state.zone.as_ref().is_some_and(|z| z.owner_files.last() == Some(now)),
        Command::OfferSecret { epoch, check } | Command::HoldSecret { epoch, check } => {
            state.zone.as_ref().is_some_and(|z| {
                let held = |n: &NextSecret| (n.epoch, n.check) == (*epoch, *check) && n.holders.contains(&node);
                (z.secret_epoch, z.secret_check) == (*epoch, Some(*check)) || z.secret_next.as_ref().is_some_and(held)
            })
        }
        Command::OpenInvite { token, .. } => state.invites.contains_key(token),
        Command::CloseInvite { token } => !state.invites.contains_key(token),
        Command::UseInvite { token, node, .. } => {
            state.invites.get(token).is_some_and(|i| i.used_by == Some(*node)) && state.nodes.contains_key(node)
        }
        Command::Claim { incarnation, work } => {
            state.leases.values().any(|l| l.node == node && l.incarnation == *incarnation && l.work == *work)
        }
        Command::EndLease { epoch } => !state.leases.contains_key(epoch),
        Command::Under { command, .. } => took_effect(state, node, command),
        Command::Reach { targets } => {
            state.targets.values().all(|t| t.reached_by.contains(&node) == targets.contains(&t.id))
        }
        Command::Staged { sector, copy } => {
            state.sectors.get(sector).is_some_and(|s| s.staged.get(&node) == Some(copy))
        }
        Command::Unstaged { sector } => state.sectors.get(sector).is_none_or(|s| !s.staged.contains_key(&node)),
        Command::RecoverQuorum { generation, .. } => state.zone.as_ref().is_some_and(|z| z.generation == *generation),
        Command::PutSchedule { name, schedule } => {
            let asked = |s: &Schedule| Schedule { since_ms: 0, begun_ms: 0, ..s.clone() };
            state.policy.schedules.get(name).is_some_and(|s| asked(s) == asked(schedule))
        }
        Command::RemoveSchedule { name } => !state.policy.schedules.contains_key(name),
        Command::SetConditions { conditions } => state.policy.conditions == *conditions,
        Command::SetLimits { limits } => state.policy.limits == *limits,
        Command::RunSchedule { name, due_ms, checkpoint, .. } => {
            checkpoint.is_none_or(|id| state.checkpoints.contains_key(&id))
                && state.policy.schedules.get(name).is_some_and(|s| s.begun_ms >= *due_ms)
        }
        Command::SetMaintenance { reason } => state.policy.maintenance.get(&node).map(|m| &m.reason) == reason.as_ref(),
        Command::PutToken { token, hash, .. } => state.tokens.get(token).is_some_and(|t| t.hash == *hash),
        Command::RemoveToken { token } => !state.tokens.contains_key(token),
        Command::PutUser { user } => {
            let set = |u: &User| User { added_ms: 0, key: None, ..u.clone() };
            state.users.get(&user.id).is_some_and(|u| set(u) == set(user))
        }
        Command::SetUserKey { user, key } => state.users.get(user).is_some_and(|u| u.key.as_ref() == Some(key)),
        Command::RemoveUser { user } => !state.users.contains_key(user),
        Command::IfSeen { command, .. } => took_effect(state, node, command),
        Command::RefuseTask { checkpoint, refused } => {
            state.checkpoints.get(checkpoint).is_some_and(|c| c.refused.contains(refused))
        }
        Command::PassTask { checkpoint, refused } => state
            .checkpoints
            .get(checkpoint)
            .is_some_and(|c| c.tasks.iter().any(|t| t.source == refused.source && t.passed.contains_key(&node))),
    }
}

/// Whether a task was finished. Of a synthetic checkpoint it then counts as carried over.
fn is_over(c: &Checkpoint, t: &Task) -> bool {
    t.state == TaskState::Done || (c.rewrite.is_some() && t.state == TaskState::Carried)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples::{self as s, done};

    /// Those that say the same thing twice, and cannot be told from their trace.
    fn leaves_no_trace(c: &Command) -> bool {
        matches!(c, Command::ResumeCheckpoint { .. } | Command::Verified { .. } | Command::SpendStripes { .. })
    }

    #[test]
    fn each_command_of_a_story_is_seen_after_it_and_mostly_not_before() {
        let mut state = State::default();
        let mut unseen = 0;
        for (i, command) in s::story().iter().enumerate() {
            unseen += u32::from(!took_effect(&state, s::node(), command));
            done(&mut state, i as u64 + 1, command);
            assert!(took_effect(&state, s::node(), command) || leaves_no_trace(command), "{command:?}");
        }
        assert!(unseen as usize >= s::story().len() - 2, "{unseen}");
    }
}
