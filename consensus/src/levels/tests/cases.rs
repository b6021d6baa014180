//! The table: how a zone is built, both levels, why, and what else must be named.

use super::super::Answer;
use super::zone::{HOUR, Z};
use crate::model::{CheckpointKind, CopyState, Standing};
use crate::samples as s;

pub struct Case {
    pub name: &'static str,
    pub build: fn(&mut Z),
    pub r: u8,
    pub why_r: &'static str,
    pub a: u8,
    pub why_a: &'static str,
    pub also: &'static [&'static str],
}

macro_rules! cases {
    ($($name:literal: $r:literal $why_r:ident, $a:literal $why_a:ident, [$($also:ident),*], $build:expr;)*) => {
        pub const CASES: &[Case] = &[$(Case {
            name: $name,
            build: $build,
            r: $r,
            why_r: stringify!($why_r),
            a: $a,
            why_a: stringify!($why_a),
            also: &[$(stringify!($also)),*],
        }),*];
    };
}

cases! {
    // What is protected at all.
    "no target, no source": 3 NoTargets, 5 NoTargets, [], |_| ();
    "a target, no source": 3 NoSources, 3 OneNode, [], |z| z.target(1, "file", None);
    "a source that is in no checkpoint": 5 NeverStored, 3 OneNode, [], |z| z.small(None);
    "the same, of little importance": 4 NeverStored, 3 OneNode, [], |z| {
        z.target(1, "file", None);
        z.source(1, -20, &[1]);
    };
    "one of two sources is in no checkpoint": 5 NeverStored, 1 AllWorks, [], |z| {
        z.make_good();
        z.source(2, 0, &[1]);
    };
    "a source that was removed is nobody's any more": 3 NoSources, 1 AllWorks, [], |z| {
        z.make_good();
        z.send(crate::command::Command::RemoveSource { source: s::source(1) });
    };

    // Where copies lie.
    "one node, its own disk": 3 OneDevice, 3 OneNode, [], |z| {
        z.small(None);
        z.backup(&[1], &[1]);
    };
    "one node, a folder with a domain at the zone's place": 3 OneDevice, 3 OneNode, [], |z| {
        z.small(Some("site/nas"));
        z.backup(&[1], &[1]);
    };
    "one node, a named other place": 1 AllSurvives, 3 OneNode, [], |z| {
        z.small(Some("uncle"));
        z.backup(&[1], &[1]);
    };
    "one node, a store that is no folder": 1 AllSurvives, 3 OneNode, [], |z| {
        z.target(1, "s3", None);
        z.source(1, 0, &[1]);
        z.wanted = 1;
        z.backup(&[1], &[1]);
    };
    "one node, a store that is no folder but stands here": 2 OneSite, 3 OneNode, [], |z| {
        z.target(1, "sftp", Some("site"));
        z.source(1, 0, &[1]);
        z.wanted = 1;
        z.backup(&[1], &[1]);
    };
    "two copies wanted, one target": 3 OneDevice, 3 OneNode, [CopiesMissing], |z| {
        z.small(None);
        z.wanted = 2;
        z.backup(&[1], &[1]);
    };
    "the target hangs on the other node": 2 OneSite, 3 FewNodes, [], |z| {
        z.daemon();
        z.node(2, true);
        z.small(None);
        z.reach(2, &[1]);
        z.backup(&[1], &[1]);
    };
    "nobody said on which node the target hangs": 3 OneDevice, 3 FewNodes, [], |z| {
        z.daemon();
        z.node(2, true);
        z.small(None);
        z.backup(&[1], &[1]);
    };
    "a target that both nodes can use is a device of its own": 2 OneSite, 3 FewNodes, [], |z| {
        z.daemon();
        z.node(2, true);
        z.small(None);
        z.reach(1, &[1]);
        z.reach(2, &[1]);
        z.backup(&[1], &[1]);
    };
    "a shared mount and the disk of one node": 2 OneSite, 1 AllWorks, [], |z| {
        z.three();
        z.target(1, "file", None);
        z.reach(1, &[1]);
        z.source(1, 0, &[]);
        z.wanted = 1;
        z.backup(&[1], &[1]);
    };
    "three nodes, a copy here, a copy elsewhere": 1 AllSurvives, 1 AllWorks, [], Z::make_good;
    "one source elsewhere, one here only": 2 OneSite, 2 CopiesMissing, [], |z| {
        z.make_good();
        z.source(2, 0, &[1]);
        z.backup(&[2], &[1]);
    };
    "the last backup is not elsewhere yet, that of this morning is": 1 AllSurvives, 2 CopiesMissing, [], |z| {
        z.make_good();
        z.later(5);
        z.backup(&[1], &[1]);
    };
    "what is elsewhere is older than a day": 2 OneSite, 2 CopiesMissing, [], |z| {
        z.make_good();
        z.later(30);
        z.backup(&[1], &[1]);
    };

    // Age.
    "a day old": 1 AllSurvives, 1 AllWorks, [], |z| {
        z.make_good();
        z.later(24);
    };
    "older than a day": 3 Stale, 1 AllWorks, [], |z| {
        z.make_good();
        z.later(25);
    };
    "older than a week": 5 Stale, 1 AllWorks, [], |z| {
        z.make_good();
        z.later(8 * 24);
    };
    "older than a week, of little importance": 4 Stale, 1 AllWorks, [], |z| {
        z.make_good();
        z.source(1, -5, &[1]);
        z.later(8 * 24);
    };
    "old, but known to hold nothing new": 1 AllSurvives, 1 AllWorks, [], |z| {
        z.make_good();
        z.later(8 * 24);
        z.seen.unsaved.insert(s::source(1), 0);
    };
    "old, and known to hold something new": 3 Stale, 1 AllWorks, [], |z| {
        z.make_good();
        z.later(25);
        z.seen.unsaved.insert(s::source(1), 1);
    };
    "a backup that found nothing new is a new backup": 1 AllSurvives, 1 AllWorks, [], |z| {
        z.make_good();
        z.later(30);
        z.backup_unchanged(1, &[1, 2]);
    };
    "a backup of another source is none of this one": 3 Stale, 1 AllWorks, [], |z| {
        z.make_good();
        z.source(2, 0, &[1]);
        z.later(30);
        z.backup(&[2], &[1, 2]);
    };
    "a backup that is still running is none yet": 3 Stale, 1 AllWorks, [], |z| {
        z.make_good();
        z.later(30);
        z.send(s::open_checkpoint(99, CheckpointKind::Full, &[1]));
    };
    "this node's clock is behind the zone's": 3 Stale, 1 AllWorks, [], |z| {
        z.make_good();
        z.later(30);
        z.source(2, 0, &[1]);
        z.backup(&[2], &[1, 2]);
        z.now -= 29 * HOUR;
        z.hear_all();
    };

    // What could not be read.
    "a path that could not be read": 2 Unread, 1 AllWorks, [], |z| {
        z.make_good();
        z.unread = 1;
        z.backup(&[1], &[1, 2]);
    };
    "it is read again": 1 AllSurvives, 1 AllWorks, [], |z| {
        z.make_good();
        z.unread = 1;
        z.backup(&[1], &[1, 2]);
        z.unread = 0;
        z.backup(&[1], &[1, 2]);
    };
    "a path that could not be read beside worse": 5 NeverStored, 1 AllWorks, [Unread], |z| {
        z.make_good();
        z.unread = 1;
        z.backup(&[1], &[1, 2]);
        z.source(2, 0, &[1]);
    };
    "a source that could not be read, two copies": 1 AllSurvives, 1 AllWorks, [Refused], |z| {
        z.make_good();
        z.backup_but(&[], &[1, 2], &[1]);
    };
    "a source that could not be read, one copy": 5 OneDisk, 3 OneNode, [Refused], |z| {
        z.small(Some("uncle"));
        z.backup(&[1], &[1]);
        z.backup_but(&[], &[1], &[1]);
    };

    // Damage.
    "the copy here is damaged": 1 AllSurvives, 2 CopiesMissing, [CopiesDamaged], |z| {
        z.make_good();
        z.mark(0, 1, CopyState::Damaged);
    };
    "the copy elsewhere is lost": 2 OneSite, 2 CopiesMissing, [CopiesDamaged], |z| {
        z.make_good();
        z.mark(0, 2, CopyState::Lost);
    };
    "no copy is left": 5 StoredInPart, 6 Unreadable, [CopiesDamaged], |z| {
        z.make_good();
        z.mark(0, 1, CopyState::Damaged);
        z.mark(0, 2, CopyState::Lost);
    };
    "no copy is left of what a layer outside the chain brought": 3 StoredInPart, 6 Unreadable, [CopiesDamaged], |z| {
        z.make_good();
        z.kind = CheckpointKind::Differential;
        z.backup(&[1], &[1, 2]);
        z.backup(&[1], &[1, 2]);
        z.mark(1, 1, CopyState::Damaged);
        z.mark(1, 2, CopyState::Damaged);
    };
    "one sector holds two sources and is gone": 5 StoredInPart, 6 Unreadable, [], |z| {
        z.make_good();
        z.source(2, 0, &[1]);
        z.kind = CheckpointKind::Full;
        z.backup(&[1, 2], &[1]);
        z.mark(1, 1, CopyState::Damaged);
    };
    "it is made again": 1 AllSurvives, 1 AllWorks, [], |z| {
        z.make_good();
        z.mark(0, 1, CopyState::Damaged);
        let sector = z.sector(0);
        z.copy(sector, 1);
    };
    "it is there again": 1 AllSurvives, 1 AllWorks, [], |z| {
        z.make_good();
        z.mark(0, 1, CopyState::Lost);
        z.mark(0, 1, CopyState::Stored);
    };
    "everything was stored anew after it": 1 AllSurvives, 1 AllWorks, [OlderDamaged], |z| {
        z.make_good();
        z.mark(0, 1, CopyState::Damaged);
        z.mark(0, 2, CopyState::Damaged);
        z.kind = CheckpointKind::Full;
        z.backup(&[1], &[1, 2]);
    };
    "something else lies where the target elsewhere was": 2 OneSite, 1 AllWorks, [WrongTarget], |z| {
        z.make_good();
        z.answers(2, Answer::Wrong);
    };

    // What is gone.
    "the source's node is broken, two copies": 1 AllSurvives, 3 NodeDown, [OriginalGone, SourceWaits], |z| {
        z.make_good();
        z.standing(1, Standing::Faulty);
        z.seen.me = super::n(2);
    };
    "what is gone grows no older": 1 AllSurvives, 3 NodeDown, [OriginalGone], |z| {
        z.make_good();
        z.standing(1, Standing::Faulty);
        z.seen.me = super::n(2);
        z.later(30 * 24);
    };
    "the source's node is broken, one copy": 5 OneDisk, 3 NodeDown, [OriginalGone], |z| {
        z.three();
        z.small(Some("uncle"));
        z.backup(&[1], &[1]);
        z.standing(1, Standing::Faulty);
        z.seen.me = super::n(2);
    };
    "the source's node is broken, both copies on one other node": 3 OneDevice, 3 NodeDown, [], |z| {
        z.make_good();
        z.target(3, "file", None);
        z.reach(2, &[1, 3]);
        z.source(2, 0, &[3]);
        z.backup(&[2], &[1, 3]);
        z.standing(3, Standing::Faulty);
    };
    "a node is silent: that accuses nobody": 1 AllSurvives, 3 NodeDown, [SourceWaits], |z| {
        z.make_good();
        z.seen.me = super::n(2);
        z.silent(1);
    };
    "one of two sources is lost": 6 Lost, 6 Unreadable, [OriginalGone], |z| {
        z.make_good();
        z.source(2, 0, &[2]);
        z.backup(&[2], &[1, 2]);
        z.mark(0, 1, CopyState::Damaged);
        z.mark(0, 2, CopyState::Damaged);
        z.standing(1, Standing::Faulty);
        z.seen.me = super::n(2);
    };
    "what is gone lost its newest content, not what was there this morning": 6 Lost, 6 Unreadable, [OriginalGone], |z| {
        z.make_good();
        z.later(5);
        z.backup(&[1], &[1]);
        z.mark(1, 1, CopyState::Damaged);
        z.standing(1, Standing::Faulty);
        z.seen.me = super::n(2);
    };
    "all is lost": 7 AllLost, 6 Unreadable, [Lost], |z| {
        z.make_good();
        z.mark(0, 1, CopyState::Damaged);
        z.mark(0, 2, CopyState::Damaged);
        z.standing(1, Standing::Faulty);
        z.seen.me = super::n(2);
    };

    // Votes.
    "one of three voters is down": 1 AllSurvives, 3 NodeDown, [], |z| {
        z.make_good();
        z.silent(3);
    };
    "two voters": 1 AllSurvives, 3 FewNodes, [], |z| {
        z.daemon();
        z.node(2, true);
        z.small(Some("uncle"));
        z.backup(&[1], &[1]);
    };
    "a voter and a learner": 1 AllSurvives, 3 FewNodes, [], |z| {
        z.daemon();
        z.node(2, false);
        z.small(Some("uncle"));
        z.backup(&[1], &[1]);
    };
    "one of five voters is down": 1 AllSurvives, 1 AllWorks, [NodeDown], |z| {
        z.make_good();
        z.node(4, true);
        z.node(5, true);
        z.silent(5);
    };
    "a learner is down": 1 AllSurvives, 1 AllWorks, [NodeDown], |z| {
        z.make_good();
        z.node(4, false);
        z.silent(4);
    };
    "a learner that alone reads a source is down": 1 AllSurvives, 3 SourceWaits, [NodeDown], |z| {
        z.make_good();
        z.node(4, false);
        z.source(2, 0, &[4]);
        z.backup(&[2], &[1, 2]);
        z.silent(4);
    };
    "a drained learner is down": 1 AllSurvives, 1 AllWorks, [NodeDown], |z| {
        z.make_good();
        z.node(4, false);
        z.standing(4, Standing::Draining);
        z.silent(4);
    };
    "a drained voter is down": 1 AllSurvives, 3 NodeDown, [], |z| {
        z.make_good();
        z.standing(3, Standing::Draining);
        z.silent(3);
    };
    "a drained voter that is heard still votes": 1 AllSurvives, 1 AllWorks, [], |z| {
        z.make_good();
        z.standing(3, Standing::Draining);
    };
    "a broken voter does not count, heard or not": 1 AllSurvives, 3 NodeDown, [], |z| {
        z.make_good();
        z.standing(3, Standing::Faulty);
    };
    "a broken learner": 1 AllSurvives, 1 AllWorks, [NodeDown], |z| {
        z.make_good();
        z.node(4, false);
        z.standing(4, Standing::Faulty);
    };
    "two nodes and a witness": 1 AllSurvives, 1 AllWorks, [], |z| {
        z.make_good();
        z.standing(3, Standing::Witness);
    };
    "their witness is down": 1 AllSurvives, 3 NodeDown, [], |z| {
        z.make_good();
        z.standing(3, Standing::Witness);
        z.silent(3);
    };
    "one node and two witnesses cannot spare the node": 1 AllSurvives, 3 FewNodes, [], |z| {
        z.make_good();
        z.standing(2, Standing::Witness);
        z.standing(3, Standing::Witness);
    };
    "the source's node is drained": 1 AllSurvives, 3 SourceWaits, [], |z| {
        z.make_good();
        z.standing(1, Standing::Draining);
    };
    "every node is drained": 1 AllSurvives, 5 NobodyWorks, [SourceWaits], |z| {
        z.make_good();
        (1..=3).for_each(|k| z.standing(k, Standing::Draining));
    };
    "a leader is being chosen": 1 AllSurvives, 4 Electing, [], |z| {
        z.make_good();
        z.cluster().leader = None;
    };
    "no majority": 1 AllSurvives, 5 NoMajority, [], |z| {
        z.make_good();
        z.cluster().leader = None;
        z.silent(2);
        z.silent(3);
    };
    "no majority and no target": 1 AllSurvives, 7 NothingWorks, [NoMajority, TargetAway, Unreadable], |z| {
        z.make_good();
        z.silent(2);
        z.silent(3);
        z.answers(1, Answer::Away);
        z.answers(2, Answer::Away);
    };
    "several nodes and no daemon here": 1 AllSurvives, 5 NoDaemon, [], |z| {
        z.make_good();
        z.seen.cluster = None;
    };

    // Targets.
    "one of two targets is away": 1 AllSurvives, 1 AllWorks, [TargetAway], |z| {
        z.make_good();
        z.answers(1, Answer::Away);
    };
    "the only target is away": 1 AllSurvives, 6 Unreadable, [TargetAway], |z| {
        z.small(Some("uncle"));
        z.backup(&[1], &[1]);
        z.answers(1, Answer::Away);
    };
    "the only target is away, and nothing was stored yet": 5 NeverStored, 5 TargetAway, [], |z| {
        z.small(None);
        z.answers(1, Answer::Away);
    };
    "the only target that takes sectors is away": 1 AllSurvives, 5 TargetAway, [], |z| {
        z.make_good();
        z.paused(2);
        z.answers(1, Answer::Away);
    };
    "every target is paused": 1 AllSurvives, 5 AllPaused, [], |z| {
        z.make_good();
        z.paused(1);
        z.paused(2);
    };
    "a paused target is away": 1 AllSurvives, 1 AllWorks, [TargetAway], |z| {
        z.make_good();
        z.paused(1);
        z.answers(1, Answer::Away);
    };
    "some of it lies on the target that is away": 2 OneSite, 6 Unreadable, [CopiesMissing, TargetAway], |z| {
        z.make_good();
        z.source(2, 0, &[1]);
        z.backup(&[2], &[1]);
        z.answers(1, Answer::Away);
    };
    "the target is away, and a node holds what it has": 1 AllSurvives, 5 TargetAway, [], |z| {
        z.daemon();
        z.small(Some("uncle"));
        z.backup(&[1], &[1]);
        let sector = z.sector(0);
        let copy = z.state.copies.values().find(|c| c.sector == sector).map(|c| c.id).unwrap();
        z.send(crate::command::Command::Staged { sector, copy });
        z.answers(1, Answer::Away);
    };
}
