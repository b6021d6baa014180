//! Everything that can change a zone. A released command never changes its meaning; a change is a new command at a new
//! feature level.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use zoneward_sectors::ids::{
    CheckpointId, CopyId, Digest, LayerId, NodeId, SectorId, SourceId, TargetId, TokenId, UserId, ZoneAlias, ZoneId,
};

use crate::audits::{Audited, Audits};
use crate::heads::Vouched;
use crate::keep::Rules;
use crate::limits::COMMAND_LEN_MAX;
use crate::model::{
    CheckpointKind, CopyState, Ground, Part, Rebased, RefusedSource, Relayed, Scope, Source, Standing, TaskStats,
};
use crate::owner::OwnerWord;
use crate::policy::{Conditions, Limit, Schedule};
use crate::reading::Reading;
use crate::stripes::StripeSet;
use crate::terms::Terms;
use crate::users::{User, UserKey};
use crate::work::Work;

/// The highest feature level that this release speaks.
pub const LEVEL: u32 = 1;

/// One change, with what its proposer chose.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Command {
    CreateZone {
        zone: ZoneId,
        name: String,
        owner_fingerprint: Digest,
        owner_public: String,
        owner_sign_public: String,
        sector_min_log2: u8,
        sector_max_log2: u8,
        zstd_level: i32,
        secret_epoch: u32,
    },
    SetZone {
        name: Option<String>,
        sector_min_log2: Option<u8>,
        zstd_level: Option<i32>,
    },
    SetOwnerKey {
        fingerprint: Digest,
        public: String,
    },
    AddNode {
        node: NodeId,
        name: String,
        public_key: String,
        certificate: String,
    },
    AddTarget {
        target: TargetId,
        name: String,
        url: String,
        alias: ZoneAlias,
        domain: Option<String>,
        /// What opens it, sealed under the zone's secret; base64.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        credentials: Option<String>,
    },
    SetTarget {
        target: TargetId,
        paused: Option<bool>,
        owner_key_hash: Option<Digest>,
    },
    /// What a person changes of a target; an empty domain takes the domain away.
    EditTarget {
        target: TargetId,
        name: Option<String>,
        url: Option<String>,
        domain: Option<String>,
        leaving: Option<bool>,
    },
    /// Forgets a target and what it holds. Without `lose`, only if all that is needed lies elsewhere too.
    RemoveTarget {
        target: TargetId,
        lose: bool,
    },
    /// Other credentials for a target, sealed under the zone's secret; base64.
    SetCredentials {
        target: TargetId,
        credentials: String,
    },
    /// What a target costs, how much may lie there, until when it is paid for: all of it at once.
    SetTerms {
        target: TargetId,
        terms: Terms,
    },
    /// Adds a source, or changes the settings of one.
    PutSource {
        source: Source,
    },
    RemoveSource {
        source: SourceId,
    },
    /// How a source is read. [`Command::PutSource`] sets it for a new one only.
    SetReading {
        source: SourceId,
        reading: Reading,
    },
    /// Begins a checkpoint of these sources; all others are carried over.
    OpenCheckpoint {
        checkpoint: CheckpointId,
        checkpoint_kind: CheckpointKind,
        sources: Vec<SourceId>,
        /// Sources that held files and are empty now, or lie elsewhere, are taken as they are.
        #[serde(default)]
        allow_empty: bool,
    },
    /// Goes on with a checkpoint that was cut: what is not sealed is given up.
    ResumeCheckpoint {
        checkpoint: CheckpointId,
    },
    AbandonCheckpoint {
        checkpoint: CheckpointId,
    },
    /// Begins a synthetic checkpoint: what the newest one holds, made of what is stored. With `max_waste` what is mostly
    /// dead is written anew elsewhere; `owner` allows that much goes by it.
    OpenRewrite {
        checkpoint: CheckpointId,
        max_waste: Option<u8>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        owner: Option<OwnerWord>,
    },
    /// Chains that give way to others when the synthetic checkpoint is stored.
    Rebase {
        checkpoint: CheckpointId,
        chains: Vec<Rebased>,
    },
    /// Marks checkpoints: they go when the grace is over. With `now` it is over at once, which only the owner may say.
    Forget {
        checkpoints: Vec<CheckpointId>,
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        now: bool,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        owner: Option<OwnerWord>,
    },
    /// Takes marks back.
    Remember {
        checkpoints: Vec<CheckpointId>,
    },
    SetTags {
        checkpoint: CheckpointId,
        tags: BTreeSet<String>,
    },
    /// Which checkpoints the zone keeps by itself; without rules, all.
    SetRetention {
        rules: Option<Rules>,
    },
    /// How long what was forgotten can be taken back. Shorter only by the owner's word.
    SetGrace {
        grace_s: u32,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        owner: Option<OwnerWord>,
    },
    /// All the time that the sender's steady clock saw, ms.
    Credit {
        credit_ms: u64,
    },
    OpenLayer {
        layer: LayerId,
        checkpoint: CheckpointId,
        source: SourceId,
        full: bool,
    },
    OpenSector {
        sector: SectorId,
        checkpoint: CheckpointId,
        class_log2: u8,
        system: bool,
        copies_wanted: u8,
        min_priority: i32,
        /// Its keys are forgotten once its copies are made.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        write_only: bool,
    },
    /// Records a copy's header and sealed key, before its first byte is written. One that is relayed has the header of the
    /// copy whose bytes it repeats, and no key.
    OpenCopy {
        copy: CopyId,
        sector: SectorId,
        target: TargetId,
        alias: ZoneAlias,
        header: String,
        header_hash: Digest,
        sealed_dek: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        relayed: Option<Relayed>,
    },
    /// A raw sector is complete, and so is its first copy.
    SealSector {
        sector: SectorId,
        raw_id: Digest,
        raw_len: u64,
        tar_len: u64,
        index: (u64, u64),
        seek_table: (u64, u64),
        entries: u64,
        parts: Vec<(LayerId, Part)>,
        /// Sectors that hold content of the entries in these parts, by layer.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        refs: BTreeMap<LayerId, BTreeSet<SectorId>>,
        copy: CopyId,
        stored_len: u64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        stored_id: Option<Digest>,
    },
    AbandonSector {
        sector: SectorId,
    },
    StoreCopy {
        copy: CopyId,
        stored_len: u64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        stored_id: Option<Digest>,
    },
    /// The zone forgets the keys of these sectors' copies: from then on only the owner's key opens them.
    ForgetKeys {
        sectors: Vec<SectorId>,
    },
    /// Whether only the owner's key opens what is stored of a source from now on; with `older` also what was stored before,
    /// as far as no other source needs it.
    SetWriteOnly {
        source: SourceId,
        write_only: bool,
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        older: bool,
    },
    /// Gives up an open copy; said again once its file is gone, it forgets the copy.
    AbandonCopy {
        copy: CopyId,
    },
    MarkCopy {
        copy: CopyId,
        state: CopyState,
    },
    /// These copies were found whole: their metadata, and with `sampled` segments of them, with `read` all.
    Verified {
        copies: Vec<CopyId>,
        read: bool,
        #[serde(default)]
        sampled: bool,
    },
    /// What looking at copies came to, by who holds the work of looking at each.
    Audited {
        results: Vec<Audited>,
    },
    /// What the targets of these copies have to answer when they are asked about all of them.
    SetStripes {
        sets: Vec<StripeSet>,
    },
    /// One key of each of these copies is about to be told to its target, by who holds the work of looking at it.
    SpendStripes {
        copies: Vec<CopyId>,
    },
    SetAudits {
        audits: Audits,
    },
    /// Sectors that a source relies on by now are to have at least so many copies.
    RaiseCopies {
        sectors: Vec<SectorId>,
        copies: u8,
    },
    FinishTask {
        checkpoint: CheckpointId,
        source: SourceId,
        stats: TaskStats,
        warnings: Vec<String>,
        ground: Option<Ground>,
        entries: u64,
    },
    StoreCheckpoint {
        checkpoint: CheckpointId,
    },
    PublishHead {
        n: u64,
        payload: String,
        payload_hash: Digest,
        sector: SectorId,
        checkpoint: CheckpointId,
    },
    /// A target shows another head than the one it was given, whose bytes had this hash.
    Misshown {
        target: TargetId,
        wrote: Digest,
        what: String,
    },
    /// The owner's word for the first voter of the zone's generation.
    Vouch {
        word: Vouched,
    },
    /// The newest head has other voters than the last handover; it is signed by a majority of both. Base64.
    HandOver {
        n: u64,
        signatures: Vec<(NodeId, String)>,
    },
    PublishedPointer {
        target: TargetId,
        n: u64,
        hash: Digest,
    },
    FinishCheckpoint {
        checkpoint: CheckpointId,
    },
    /// A node started: its earlier starts hold nothing any more.
    StartNode {
        incarnation: u64,
        version: String,
    },
    SetNode {
        node: NodeId,
        name: Option<String>,
        standing: Option<Standing>,
    },
    /// A node on standby, or a broken one, is to delete what it has of the zone. It is not taken back.
    WipeNode {
        node: NodeId,
    },
    /// The sender deleted the zone's secret and what it kept.
    Wiped {},
    /// Forgets a node that is no longer in the membership.
    RemoveNode {
        node: NodeId,
    },
    /// The owner's sealed key file was replaced on the sender, and is to be on all nodes.
    SetOwnerFile {
        before: Digest,
        now: Digest,
    },
    /// The sender made the zone's next secret and holds it. Epochs only grow; some may be left out.
    OfferSecret {
        epoch: u32,
        check: Digest,
    },
    /// The sender holds the next secret too.
    HoldSecret {
        epoch: u32,
        check: Digest,
    },
    /// Lets somebody join the zone, once.
    OpenInvite {
        token: Digest,
        expires_ms: u64,
        witness: bool,
        name: Option<String>,
    },
    CloseInvite {
        token: Digest,
    },
    /// A node that proved an invite's secret joins; the owner has certified its key.
    UseInvite {
        token: Digest,
        node: NodeId,
        public_key: String,
        certificate: String,
    },
    /// Asks for work, all of it or none. The entry's number becomes the lease's epoch.
    Claim {
        incarnation: u64,
        work: Vec<Work>,
    },
    /// Ends a lease: its holder is done, or the leader no longer hears it. What was not sealed is given up.
    EndLease {
        epoch: u64,
    },
    /// A command that counts only while its sender holds this lease.
    Under {
        epoch: u64,
        command: Box<Command>,
    },
    /// The targets that the sender can use now, all of them.
    Reach {
        targets: Vec<TargetId>,
    },
    /// The sender holds the stored bytes of this copy.
    Staged {
        sector: SectorId,
        copy: CopyId,
    },
    /// The sender no longer holds what it staged of a sector.
    Unstaged {
        sector: SectorId,
    },
    /// A source cannot be backed up now: it keeps what the checkpoint before holds of it.
    RefuseTask {
        checkpoint: CheckpointId,
        refused: RefusedSource,
    },
    /// The sender cannot read a source now: another node may.
    PassTask {
        checkpoint: CheckpointId,
        refused: RefusedSource,
    },
    /// The owner goes on with the sender alone, because the majority of the zone is lost for good.
    RecoverQuorum {
        generation: u32,
        /// Base64 of the owner's signature over [`crate::quorum::message`].
        signature: String,
    },
    /// Adds a schedule, or changes one.
    PutSchedule {
        name: String,
        schedule: Schedule,
    },
    RemoveSchedule {
        name: String,
    },
    SetConditions {
        conditions: Conditions,
    },
    /// All limits by hour.
    SetLimits {
        limits: Vec<Limit>,
    },
    /// Says where a dfs name lies, on one node or on all that are not named; without a path it lies there no more.
    MapName {
        name: String,
        node: Option<NodeId>,
        path: Option<String>,
    },
    /// Begins what a schedule asks for at this moment of its calendar; without a checkpoint it only counts as begun.
    RunSchedule {
        name: String,
        /// What the schedule began last, as the proposer saw it.
        after_ms: u64,
        due_ms: u64,
        checkpoint: Option<CheckpointId>,
        /// Of its sources those that can be backed up now.
        sources: Vec<SourceId>,
    },
    /// The sender changes its sources: no checkpoint begins until it says that it is done, without a reason.
    SetMaintenance {
        reason: Option<String>,
    },
    /// Lets a program use the REST API. The zone learns a hash of the secret, never the secret.
    PutToken {
        token: TokenId,
        hash: Digest,
        label: String,
        scopes: BTreeSet<Scope>,
        expires_ms: u64,
    },
    RemoveToken {
        token: TokenId,
    },
    /// Adds a user, or changes what is set of one; his key has a command of its own.
    PutUser {
        user: User,
    },
    /// Gives a user a key of his own, or another one.
    SetUserKey {
        user: UserId,
        key: UserKey,
    },
    /// Forgets a user; his sources stay.
    RemoveUser {
        user: UserId,
    },
    /// A change that counts only while its record is as its sender saw it ([`crate::seen`]).
    IfSeen {
        seen: Digest,
        command: Box<Command>,
    },
}

/// A command on its way into the log: the body stays opaque until it is applied.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    pub level: u32,
    pub time_ms: u64,
    pub node: NodeId,
    pub body: Box<serde_json::value::RawValue>,
}

/// Why an entry cannot be applied by this release.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    #[error("an entry has feature level {0}, this zoneward speaks up to {LEVEL}: use a newer one")]
    Level(u32),
    #[error("an entry of the log cannot be understood: {0}: is this zoneward older than the one that wrote it?")]
    Body(String),
    #[error("a command of {0} bytes is longer than the limit of {COMMAND_LEN_MAX}")]
    TooLong(usize),
}

impl Entry {
    pub fn new(time_ms: u64, node: NodeId, command: &Command) -> Result<Self, DecodeError> {
        let text = serde_json::to_string(command).map_err(|e| DecodeError::Body(e.to_string()))?;
        if text.len() > COMMAND_LEN_MAX {
            return Err(DecodeError::TooLong(text.len()));
        }
        let body = serde_json::value::RawValue::from_string(text).map_err(|e| DecodeError::Body(e.to_string()))?;
        Ok(Self { level: LEVEL, time_ms, node, body })
    }

    pub fn command(&self) -> Result<Command, DecodeError> {
        if self.level > LEVEL {
            return Err(DecodeError::Level(self.level));
        }
        serde_json::from_str(self.body.get()).map_err(|e| DecodeError::Body(e.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples;

    fn entry(level: u32, body: &str) -> Entry {
        let body = serde_json::value::RawValue::from_string(body.to_owned()).unwrap();
        Entry { level, time_ms: 1, node: samples::node(), body }
    }

    #[test]
    fn every_command_comes_back_from_its_entry() {
        let more = [Command::WipeNode { node: samples::node() }, Command::Wiped {}];
        for command in samples::story().into_iter().chain(more) {
            let bytes = serde_json::to_vec(&Entry::new(5, samples::node(), &command).unwrap()).unwrap();
            let entry: Entry = serde_json::from_slice(&bytes).unwrap();
            assert_eq!((entry.level, entry.time_ms, entry.node), (LEVEL, 5, samples::node()));
            assert_eq!(entry.command().unwrap(), command);
        }
    }

    #[test]
    fn what_is_not_known_is_an_error_and_never_skipped() {
        let body = r#"{"kind":"abandon_checkpoint","checkpoint":"00000000000000000000000000000001"}"#;
        assert!(entry(LEVEL, body).command().is_ok());
        assert!(matches!(entry(LEVEL + 1, body).command(), Err(DecodeError::Level(l)) if l == LEVEL + 1));
        for bad in [
            r#"{"kind":"invent_wheel"}"#,
            r#"{}"#,
            "null",
            r#"{"kind":"abandon_checkpoint","checkpoint":"1"}"#,
            r#"{"kind":"abandon_checkpoint","checkpoint":"00000000000000000000000000000001","more":1}"#,
        ] {
            assert!(matches!(entry(LEVEL, bad).command(), Err(DecodeError::Body(_))), "{bad}");
        }
    }

    #[test]
    fn a_command_has_a_limit() {
        let name = "x".repeat(COMMAND_LEN_MAX);
        let command = Command::SetZone { name: Some(name), sector_min_log2: None, zstd_level: None };
        assert!(matches!(Entry::new(1, samples::node(), &command), Err(DecodeError::TooLong(_))));
    }
}
