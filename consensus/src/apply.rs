//! Applying commands: pure, total, deterministic. A refusal is an outcome and changes nothing.

mod checkpoints;
mod forget;
mod keyless;
pub(crate) mod leases;
mod nodes;
mod policy;
mod secrets;
mod sectors;
mod targets;
mod tokens;
mod users;

use std::collections::BTreeSet;

use zoneward_sectors::ids::{
    CheckpointId, CopyId, Digest, LayerId, NodeId, SectorId, SourceId, TargetId, TokenId, UserId,
};

use crate::command::Command;
use crate::limits::{COPIES_MAX, NAME_LEN_MAX};
use crate::model::{Pointer, State, Zone};

/// What a command came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Done,
    Refused(Refusal),
}

/// Why a command was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("there is no zone yet")]
    NoZone,
    #[error("there is a zone already")]
    ZoneExists,
    #[error("{0} is unknown")]
    Unknown(&'static str),
    #[error("{0} exists already")]
    Exists(&'static str),
    #[error("{0} is not in the state that this needs")]
    State(&'static str),
    #[error("{0} is out of range")]
    Range(&'static str),
    #[error("{0} differs from what is recorded")]
    Differs(&'static str),
    #[error("two copies of one sector must not lie on one target, nor in one failure domain")]
    SameTarget,
    #[error("another node holds this work")]
    Held,
    #[error("the lease has ended: another node may do this work by now")]
    Lease,
    #[error("the signature is not the owner's")]
    Signature,
    #[error("only the owner may say this")]
    Owner,
    #[error("the zone is in maintenance: a node puts its sources back to an earlier state")]
    Maintenance,
}

impl Refusal {
    /// One word for each kind: what programs compare, and what travels between nodes.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NoZone => "no_zone",
            Self::ZoneExists => "zone_exists",
            Self::Unknown(_) => "unknown",
            Self::Exists(_) => "exists",
            Self::State(_) => "state",
            Self::Range(_) => "range",
            Self::Differs(_) => "differs",
            Self::SameTarget => "same_target",
            Self::Held => "held",
            Self::Lease => "lease",
            Self::Signature => "signature",
            Self::Owner => "owner",
            Self::Maintenance => "maintenance",
        }
    }
}

/// A record that a command touched: what the store has to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Row {
    Zone,
    Head,
    Node(NodeId),
    Target(TargetId),
    Source(SourceId),
    /// A source that was removed.
    Former(SourceId),
    Checkpoint(CheckpointId),
    Layer(LayerId),
    Sector(SectorId),
    Copy(CopyId),
    Lease(u64),
    Invite(Digest),
    Policy,
    Token(TokenId),
    User(UserId),
}

/// A state under change: the record of what was touched goes with it.
pub(crate) struct Change<'a> {
    pub state: &'a mut State,
    pub rows: &'a mut BTreeSet<Row>,
    pub now: u64,
    pub node: NodeId,
    /// Number of the entry.
    pub index: u64,
    /// The lease that the command counts under.
    pub lease: Option<u64>,
}

pub(crate) type Applied = Result<(), Refusal>;

fn name_ok(name: &str) -> Applied {
    let ok = !name.is_empty() && name.len() <= NAME_LEN_MAX && !name.chars().any(char::is_control);
    if ok { Ok(()) } else { Err(Refusal::Range("the name")) }
}

/// Applies one command that was logged at `index`. Answers what came of it and which records changed.
///
/// Every handler checks first and changes after, so that a refusal leaves everything as it was.
pub fn apply(state: &mut State, index: u64, time_ms: u64, node: NodeId, command: &Command) -> (Outcome, BTreeSet<Row>) {
    let mut rows = BTreeSet::new();
    let now = time_ms.max(state.last_time_ms);
    let mut change = Change { state, rows: &mut rows, now, node, index, lease: None };
    let done = dispatch(&mut change, command);
    state.revision = index;
    state.last_time_ms = now;
    match done {
        Ok(()) => (Outcome::Done, rows),
        Err(refusal) => {
            debug_assert!(rows.is_empty(), "a refusal must not touch anything");
            (Outcome::Refused(refusal), rows)
        }
    }
}

fn dispatch(c: &mut Change<'_>, command: &Command) -> Applied {
    if c.state.zone.is_none() && !matches!(command, Command::CreateZone { .. }) {
        return Err(Refusal::NoZone);
    }
    match command {
        Command::CreateZone { .. } => create_zone(c, command),
        Command::SetZone { name, sector_min_log2, zstd_level } => set_zone(c, name, *sector_min_log2, *zstd_level),
        Command::SetOwnerKey { fingerprint, public } => {
            let zone = c.state.zone.as_mut().ok_or(Refusal::NoZone)?;
            zone.owner_fingerprint = *fingerprint;
            zone.owner_public.clone_from(public);
            c.rows.insert(Row::Zone);
            Ok(())
        }
        Command::AddNode { node, name, public_key, certificate } => nodes::add(c, *node, name, public_key, certificate),
        Command::StartNode { incarnation, version } => nodes::start(c, *incarnation, version),
        Command::SetNode { node, name, standing } => nodes::set(c, *node, name.as_deref(), *standing),
        Command::WipeNode { node } => nodes::wipe(c, *node),
        Command::Wiped {} => nodes::wiped(c),
        Command::RemoveNode { node } => nodes::remove(c, *node),
        Command::SetOwnerFile { before, now } => {
            let (node, nodes) = (c.node, &c.state.nodes);
            let zone = c.state.zone.as_mut().ok_or(Refusal::NoZone)?;
            let newest = zone.owner_files.last();
            if newest == Some(now) {
                return Ok(());
            }
            // Somebody else's change came first, unless that one was cut by the same node or its node is gone.
            let open = |by: zoneward_sectors::ids::NodeId| by != node && nodes.contains_key(&by);
            if newest.is_some_and(|n| n != before) && zone.owner_file_by.is_some_and(open) {
                return Err(Refusal::Differs("the file of the owner's keys that this one is to replace"));
            }
            zone.owner_file_by = Some(node);
            // The newest is the last, and each is there once.
            zone.owner_files.retain(|f| f != now && f != before);
            zone.owner_files.extend([*before, *now]);
            let over = zone.owner_files.len().saturating_sub(crate::limits::OWNER_FILES_MAX);
            zone.owner_files.drain(..over);
            c.rows.insert(Row::Zone);
            Ok(())
        }
        Command::OfferSecret { epoch, check } => secrets::offer(c, *epoch, *check),
        Command::HoldSecret { epoch, check } => secrets::hold(c, *epoch, *check),
        Command::OpenInvite { token, expires_ms, witness, name } => {
            nodes::open_invite(c, *token, *expires_ms, *witness, name.as_deref())
        }
        Command::CloseInvite { token } => nodes::close_invite(c, *token),
        Command::UseInvite { token, node, public_key, certificate } => {
            nodes::use_invite(c, *token, *node, public_key, certificate)
        }
        Command::Claim { incarnation, work } => leases::claim(c, *incarnation, work),
        Command::EndLease { epoch } => leases::end(c, *epoch),
        Command::Under { epoch, command } => leases::under(c, *epoch, command),
        Command::Reach { targets } => nodes::reach(c, targets),
        Command::Staged { sector, copy } => sectors::staged(c, *sector, *copy),
        Command::Unstaged { sector } => sectors::unstaged(c, *sector),
        Command::RefuseTask { checkpoint, refused } => checkpoints::refuse_task(c, *checkpoint, refused),
        Command::PassTask { checkpoint, refused } => checkpoints::pass_task(c, *checkpoint, refused),
        Command::RecoverQuorum { generation, signature } => nodes::recover_quorum(c, *generation, signature),
        Command::PutSchedule { name, schedule } => policy::put_schedule(c, name, schedule),
        Command::RemoveSchedule { name } => policy::remove_schedule(c, name),
        Command::SetConditions { conditions } => policy::set_conditions(c, *conditions),
        Command::SetAudits { audits } => policy::set_audits(c, *audits),
        Command::SetLimits { limits } => policy::set_limits(c, limits),
        Command::MapName { name, node, path } => policy::map_name(c, name, *node, path.as_deref()),
        Command::RunSchedule { .. } => policy::run(c, command),
        Command::SetMaintenance { reason } => policy::set_maintenance(c, reason.as_deref()),
        Command::PutToken { token, hash, label, scopes, expires_ms } => {
            tokens::put(c, *token, *hash, label, scopes, *expires_ms)
        }
        Command::RemoveToken { token } => tokens::remove(c, *token),
        Command::PutUser { user } => users::put(c, user),
        Command::SetUserKey { user, key } => users::set_key(c, *user, key),
        Command::RemoveUser { user } => users::remove(c, *user),
        Command::IfSeen { seen, command } => match crate::seen::before(c.state, command) {
            Some(now) if now == *seen => dispatch(c, command),
            Some(_) => Err(Refusal::Differs("the record")),
            None => Err(Refusal::Unknown("the record")),
        },
        Command::AddTarget { .. } => targets::add(c, command),
        Command::EditTarget { .. } => targets::edit(c, command),
        Command::RemoveTarget { target, lose } => targets::remove(c, *target, *lose),
        Command::SetCredentials { target, credentials } => {
            credentials_ok(credentials)?;
            let t = c.state.targets.get_mut(target).ok_or(Refusal::Unknown("the target"))?;
            t.credentials = Some(credentials.clone());
            c.rows.insert(Row::Target(*target));
            Ok(())
        }
        Command::SetTerms { target, terms } => targets::set_terms(c, *target, terms),
        Command::SetTarget { target, paused, owner_key_hash } => {
            let t = c.state.targets.get_mut(target).ok_or(Refusal::Unknown("the target"))?;
            t.paused = paused.unwrap_or(t.paused);
            t.owner_key_hash = owner_key_hash.or(t.owner_key_hash);
            c.rows.insert(Row::Target(*target));
            Ok(())
        }
        Command::PutSource { source } => put_source(c, source),
        Command::SetReading { source, reading } => {
            users::unlocked(c, *source)?;
            let s = c.state.sources.get_mut(source).ok_or(Refusal::Unknown("the source"))?;
            if let Some(what) = reading.fault() {
                return Err(Refusal::Range(what));
            }
            s.reading.clone_from(reading);
            c.rows.insert(Row::Source(*source));
            Ok(())
        }
        Command::RemoveSource { source } => {
            users::unlocked(c, *source)?;
            let old = c.state.sources.remove(source).ok_or(Refusal::Unknown("the source"))?;
            c.rows.insert(Row::Source(*source));
            // What is stored of it stays, and is found by its path.
            if c.state.checkpoints.values().any(|x| x.tasks.iter().any(|t| t.source == *source)) {
                c.state.former.insert(*source, old);
                c.rows.insert(Row::Former(*source));
            } else {
                users::forget_source(c, *source);
            }
            policy::forget_source(c, *source);
            Ok(())
        }
        Command::OpenCheckpoint { checkpoint, checkpoint_kind, sources, allow_empty } => {
            checkpoints::open(c, *checkpoint, *checkpoint_kind, sources, *allow_empty)
        }
        Command::ResumeCheckpoint { checkpoint } => checkpoints::resume(c, *checkpoint),
        Command::AbandonCheckpoint { checkpoint } => checkpoints::abandon(c, *checkpoint),
        Command::OpenRewrite { checkpoint, max_waste, owner } => {
            checkpoints::open_rewrite(c, *checkpoint, *max_waste, owner.as_ref())
        }
        Command::Rebase { checkpoint, chains } => checkpoints::rebase(c, *checkpoint, chains),
        Command::Forget { checkpoints, now, owner } => forget::forget(c, checkpoints, *now, owner.as_ref()),
        Command::Remember { checkpoints } => forget::remember(c, checkpoints),
        Command::SetTags { checkpoint, tags } => forget::set_tags(c, *checkpoint, tags),
        Command::SetRetention { rules } => forget::set_retention(c, rules.as_ref()),
        Command::SetGrace { grace_s, owner } => forget::set_grace(c, *grace_s, owner.as_ref()),
        Command::Credit { credit_ms } => forget::credit(c, *credit_ms),
        Command::OpenLayer { layer, checkpoint, source, full } => {
            checkpoints::open_layer(c, *layer, *checkpoint, *source, *full)
        }
        Command::FinishTask { .. } => checkpoints::finish_task(c, command),
        Command::StoreCheckpoint { checkpoint } => checkpoints::store(c, *checkpoint),
        Command::FinishCheckpoint { checkpoint } => checkpoints::finish(c, *checkpoint),
        Command::PublishHead { .. } => checkpoints::publish_head(c, command),
        Command::Misshown { target, wrote, what } => targets::misshown(c, *target, *wrote, what),
        Command::Vouch { word } => crate::heads::vouch(c, word),
        Command::HandOver { n, signatures } => crate::heads::hand_over(c, *n, signatures),
        Command::PublishedPointer { target, n, hash } => {
            let head = c.state.head.as_ref().ok_or(Refusal::Unknown("the head"))?;
            if *n > head.n {
                return Err(Refusal::Range("the head's number"));
            }
            let t = c.state.targets.get_mut(target).ok_or(Refusal::Unknown("the target"))?;
            t.pointer = Some(Pointer { n: *n, hash: *hash });
            c.rows.insert(Row::Target(*target));
            Ok(())
        }
        Command::OpenSector { .. } => sectors::open(c, command),
        Command::OpenCopy { .. } => sectors::open_copy(c, command),
        Command::SealSector { .. } => sectors::seal(c, command),
        Command::AbandonSector { sector } => sectors::abandon(c, *sector),
        Command::StoreCopy { copy, stored_len, stored_id } => sectors::store_copy(c, *copy, *stored_len, *stored_id),
        Command::ForgetKeys { sectors } => keyless::forget(c, sectors),
        Command::SetWriteOnly { source, write_only, older } => keyless::set(c, *source, *write_only, *older),
        Command::AbandonCopy { copy } => sectors::abandon_copy(c, *copy),
        Command::MarkCopy { copy, state } => sectors::mark(c, *copy, *state),
        Command::Verified { copies, read, sampled } => sectors::verified(c, copies, *read, *sampled),
        Command::Audited { results } => sectors::audited(c, results),
        Command::SetStripes { sets } => crate::stripes::set(c, sets),
        Command::SpendStripes { copies } => crate::stripes::spend(c, copies),
        Command::RaiseCopies { sectors, copies } => sectors::raise_copies(c, sectors, *copies),
    }
}

fn create_zone(c: &mut Change<'_>, command: &Command) -> Applied {
    let Command::CreateZone {
        zone,
        name,
        owner_fingerprint,
        owner_public,
        owner_sign_public,
        sector_min_log2,
        sector_max_log2,
        zstd_level,
        secret_epoch,
    } = command
    else {
        return Err(Refusal::Unknown("the command"));
    };
    if c.state.zone.is_some() {
        return Err(Refusal::ZoneExists);
    }
    name_ok(name)?;
    classes_ok(*sector_min_log2, *sector_max_log2)?;
    level_ok(*zstd_level)?;
    c.state.zone = Some(Zone {
        id: *zone,
        name: name.clone(),
        created_ms: c.now,
        owner_fingerprint: *owner_fingerprint,
        owner_public: owner_public.clone(),
        owner_sign_public: owner_sign_public.clone(),
        sector_min_log2: *sector_min_log2,
        sector_max_log2: *sector_max_log2,
        zstd_level: *zstd_level,
        feature_level: crate::command::LEVEL,
        secret_epoch: *secret_epoch,
        secret_check: None,
        secret_stale: false,
        secret_next: None,
        owner_files: Vec::new(),
        owner_file_by: None,
        generation: 0,
        vouched: None,
        credit_ms: 0,
        owner_words: 0,
    });
    c.rows.insert(Row::Zone);
    Ok(())
}

fn classes_ok(min: u8, max: u8) -> Applied {
    if (12..=36).contains(&min) && min <= max && max <= 36 { Ok(()) } else { Err(Refusal::Range("the sector class")) }
}

fn level_ok(level: i32) -> Applied {
    if (1..=19).contains(&level) { Ok(()) } else { Err(Refusal::Range("the compression level")) }
}

fn set_zone(c: &mut Change<'_>, name: &Option<String>, min: Option<u8>, level: Option<i32>) -> Applied {
    let zone = c.state.zone.as_mut().ok_or(Refusal::NoZone)?;
    if let Some(name) = name {
        name_ok(name)?;
    }
    classes_ok(min.unwrap_or(zone.sector_min_log2), zone.sector_max_log2)?;
    level.map_or(Ok(()), level_ok)?;
    zone.name = name.clone().unwrap_or_else(|| zone.name.clone());
    zone.sector_min_log2 = min.unwrap_or(zone.sector_min_log2);
    zone.zstd_level = level.unwrap_or(zone.zstd_level);
    c.rows.insert(Row::Zone);
    Ok(())
}

/// Sealed credentials are opaque here; how long they are is not.
pub(crate) fn credentials_ok(sealed: &str) -> Applied {
    if sealed.len() > crate::limits::CREDENTIALS_LEN_MAX {
        return Err(Refusal::Range("the credentials"));
    }
    Ok(())
}

fn put_source(c: &mut Change<'_>, source: &crate::model::Source) -> Applied {
    if !crate::names::is_source_path(&source.path) {
        return Err(Refusal::Range("the source's path"));
    }
    if !(-50..=50).contains(&source.priority) {
        return Err(Refusal::Range("the priority"));
    }
    if source.copies.is_some_and(|n| !(1..=COPIES_MAX).contains(&n)) {
        return Err(Refusal::Range("the number of copies"));
    }
    if c.state.source_at(&source.path).is_some_and(|s| s.id != source.id) {
        return Err(Refusal::Exists("a source of this path"));
    }
    if source.nodes.len() > crate::limits::NODES_MAX || source.nodes.iter().any(|n| !c.state.nodes.contains_key(n)) {
        return Err(Refusal::Unknown("a node that is to read the source"));
    }
    if let Some(what) = source.reading.fault() {
        return Err(Refusal::Range(what));
    }
    users::may_be(c, source)?;
    let mut record = source.clone();
    if let Some(old) = c.state.sources.get(&source.id) {
        if old.path != source.path {
            return Err(Refusal::Differs("the source's path"));
        }
        // What backups learned is not for a setting to change.
        record.grounds.clone_from(&old.grounds);
        record.last_entries = old.last_entries;
        // It has a command of its own, so that an older node that does not know it cannot lose it.
        record.reading.clone_from(&old.reading);
        record.write_only = old.write_only;
        record.added_ms = old.added_ms;
    } else {
        record.added_ms = c.now;
    }
    c.state.sources.insert(source.id, record);
    c.rows.insert(Row::Source(source.id));
    if c.state.former.remove(&source.id).is_some() {
        c.rows.insert(Row::Former(source.id));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
