//! Keys that the zone forgets, and copies that are made without them ([`crate::keyless`]).

use std::collections::BTreeSet;

use zoneward_sectors::ids::{Digest, SectorId, SourceId};

use super::{Applied, Change, Refusal, Row};
use crate::command::Command;
use crate::keyless::{copies_of, may_forget};
use crate::limits::FORGET_KEYS_MAX;
use crate::model::RawSector;

pub fn forget(c: &mut Change<'_>, sectors: &[SectorId]) -> Applied {
    if sectors.len() > FORGET_KEYS_MAX {
        return Err(Refusal::Range("the number of sectors"));
    }
    let sectors: BTreeSet<SectorId> = sectors.iter().copied().collect();
    let all = copies_of(c.state, &sectors);
    for id in &sectors {
        // One that has left meanwhile has no keys either.
        let Some(s) = c.state.sectors.get(id) else { continue };
        if !may_forget(c.state, s, all.get(id).map_or(&[], Vec::as_slice)) {
            return Err(Refusal::State("the sector"));
        }
    }
    for k in c.state.copies.values_mut().filter(|k| sectors.contains(&k.sector) && !k.is_keyless()) {
        k.sealed_dek.clear();
        // The keys of its challenges came from it.
        k.stripes = None;
        c.rows.insert(Row::Copy(k.id));
    }
    Ok(())
}

pub fn set(c: &mut Change<'_>, source: SourceId, write_only: bool, older: bool) -> Applied {
    let s = c.state.sources.get_mut(&source).ok_or(Refusal::Unknown("the source"))?;
    if older && !write_only {
        return Err(Refusal::Differs("what is to be forgotten of a source that the zone can read"));
    }
    s.write_only = write_only;
    c.rows.insert(Row::Source(source));
    if !older {
        return Ok(());
    }
    let mut marked = c.state.older_of(source);
    // Earlier system data holds their keys, sealed to the zone.
    marked.extend(c.state.sectors.values().filter(|s| s.system && s.is_sealed()).map(|s| s.id));
    for id in marked {
        if let Some(s) = c.state.sectors.get_mut(&id).filter(|s| !s.write_only) {
            s.write_only = true;
            c.rows.insert(Row::Sector(id));
        }
    }
    Ok(())
}

/// Whether a copy may be opened as it is asked for: with a key as long as the zone has keys of its sector, without one only
/// as the same bytes as another copy, of which the state knows by what they are known. Answers that.
pub fn may_open(c: &Change<'_>, command: &Command) -> Result<Option<Digest>, Refusal> {
    let Command::OpenCopy { sector, header, header_hash, sealed_dek, relayed, .. } = command else {
        return Err(Refusal::Unknown("the command"));
    };
    match relayed {
        None if sealed_dek.is_empty() => Err(Refusal::Range("the copy's key")),
        // Whoever made it had not heard that the keys are forgotten.
        None if c.state.is_keyless(*sector) && has_copies(c, *sector) => Err(Refusal::State("the sector's keys")),
        None => Ok(None),
        Some(_) if !sealed_dek.is_empty() || !c.state.sectors.get(sector).is_some_and(RawSector::is_sealed) => {
            Err(Refusal::State("the sector's keys"))
        }
        Some(from) => {
            let same = |k: &&crate::model::Copy| {
                k.sector == *sector
                    && k.named() == *from
                    && k.header_hash == *header_hash
                    && k.header == *header
                    && k.stored_id.is_some()
            };
            let found = c.state.copies.values().find(same).ok_or(Refusal::Differs("the copy that is relayed"))?;
            Ok(found.stored_id)
        }
    }
}

fn has_copies(c: &Change<'_>, sector: SectorId) -> bool {
    c.state.copies.values().any(|k| k.sector == sector)
}

#[cfg(test)]
mod tests {
    use crate::apply::{Outcome, apply};
    use crate::command::Command;
    use crate::effect::took_effect;
    use crate::export::{export_state, import_state};
    use crate::keyless::{due, with_keys};
    use crate::model::{CheckpointKind, CopyState, Relayed, State};
    use crate::samples as s;
    use crate::work::Work;

    fn say(state: &mut State, command: Command) -> Outcome {
        let index = state.revision + 1;
        let done = apply(state, index, 1000, s::node(), &command).0;
        assert!(
            done != Outcome::Done
                || took_effect(state, s::node(), &command)
                || matches!(command, Command::SetWriteOnly { .. })
        );
        done
    }

    fn write_only(source: u8, older: bool) -> Command {
        Command::SetWriteOnly { source: s::source(source), write_only: true, older }
    }

    /// Copies `source` relays: the second is of the same bytes as the first.
    fn relay(copy: u8, target: u8, from: u8, from_target: u8) -> Command {
        let Command::OpenCopy { copy, sector, target, alias, header, .. } = s::open_copy(copy, 1, target) else {
            unreachable!()
        };
        let Command::OpenCopy { copy: of, alias: at, header_hash, .. } = s::open_copy(from, 1, from_target) else {
            unreachable!()
        };
        let relayed = Some(Relayed { copy: of, alias: at });
        Command::OpenCopy { copy, sector, target, alias, header, header_hash, sealed_dek: String::new(), relayed }
    }

    fn store(copy: u8, id: u8) -> Command {
        Command::StoreCopy { copy: s::copy(copy), stored_len: 9000, stored_id: Some(s::digest(id)) }
    }

    /// A write-only sector with one copy of two; the checkpoint runs on.
    fn begun() -> State {
        let mut v = s::begin();
        v.extend(s::backup(1, CheckpointKind::Full, 1, true));
        for c in &mut v {
            if let Command::OpenSector { write_only, .. } = c {
                *write_only = true;
            }
        }
        v.truncate(v.len() - 2);
        let mut state = State::default();
        s::all_done(&mut state, &v);
        state
    }

    #[test]
    fn keys_are_forgotten_when_all_copies_are_made_and_not_before() {
        let mut state = begun();
        let mut steps = vec![s::finish_task(1, 1), s::store(1), s::open_copy(2, 1, 2)];
        steps.push(store(2, 2));
        for command in steps {
            assert_eq!(due(&state), [], "before {command:?}");
            assert_eq!(say(&mut state, command), Outcome::Done);
        }
        assert_eq!(due(&state), [s::sector(1)]);
        let forget = Command::ForgetKeys { sectors: vec![s::sector(1), s::sector(9)] };
        assert_eq!(say(&mut state, forget.clone()), Outcome::Done);
        assert_eq!((due(&state), with_keys(&state).count()), (vec![], 0));
        assert!(state.is_keyless(s::sector(1)) && state.keyless().contains(&s::sector(1)));
        assert_eq!(say(&mut state, forget), Outcome::Done, "said again, it changes nothing");
        // Who did not hear of it makes no copy with a key.
        state.copies.get_mut(&s::copy(2)).unwrap().state = CopyState::Lost;
        assert!(matches!(say(&mut state, s::open_copy(3, 1, 2)), Outcome::Refused(_)));
    }

    #[test]
    fn what_is_under_way_or_cannot_be_known_by_its_bytes_keeps_its_keys() {
        let mut state = begun();
        s::all_done(&mut state, &[s::finish_task(1, 1), s::store(1)]);
        let forget = Command::ForgetKeys { sectors: vec![s::sector(1)] };
        let copy = Work::Copy { sector: s::sector(1), target: s::target(2) };
        let mut held = state.clone();
        s::all_done(&mut held, &[Command::StartNode { incarnation: 1, version: "0".into() }]);
        assert_eq!(say(&mut held, Command::Claim { incarnation: 1, work: vec![copy] }), Outcome::Done);
        assert!(matches!(say(&mut held, forget.clone()), Outcome::Refused(_)));
        let mut open = state.clone();
        s::all_done(&mut open, &[s::open_copy(2, 1, 2)]);
        assert!(matches!(say(&mut open, forget.clone()), Outcome::Refused(_)));
        let mut unknown = state.clone();
        unknown.copies.get_mut(&s::copy(1)).unwrap().stored_id = None;
        assert!(matches!(say(&mut unknown, forget.clone()), Outcome::Refused(_)));
        let mut readable = state.clone();
        readable.sectors.get_mut(&s::sector(1)).unwrap().write_only = false;
        assert!(matches!(say(&mut readable, forget.clone()), Outcome::Refused(_)));
        assert_eq!(say(&mut state, forget), Outcome::Done);
    }

    #[test]
    fn a_relayed_copy_is_the_same_bytes_or_it_is_none() {
        let mut state = begun();
        s::all_done(&mut state, &[s::finish_task(1, 1), s::store(1)]);
        assert_eq!(say(&mut state, Command::ForgetKeys { sectors: vec![s::sector(1)] }), Outcome::Done);
        // Of a copy that there is not, with another header, or with a key.
        let wrong = [
            relay(2, 2, 7, 1),
            relay(2, 2, 1, 2),
            match relay(2, 2, 1, 1) {
                Command::OpenCopy { copy, sector, target, alias, header, header_hash, relayed, .. } => {
                    let sealed_dek = "ZGVr".into();
                    Command::OpenCopy { copy, sector, target, alias, header, header_hash, sealed_dek, relayed }
                }
                other => other,
            },
        ];
        for command in wrong {
            assert!(matches!(say(&mut state, command.clone()), Outcome::Refused(_)), "{command:?}");
        }
        assert_eq!(say(&mut state, relay(2, 2, 1, 1)), Outcome::Done);
        assert!(matches!(say(&mut state, store(2, 9)), Outcome::Refused(_)), "other bytes");
        assert_eq!(say(&mut state, store(2, 1)), Outcome::Done);
        let made = &state.copies[&s::copy(2)];
        assert!(made.is_keyless() && made.named().copy == s::copy(1));
        // A copy of the copy names the first one too.
        state.copies.get_mut(&s::copy(1)).unwrap().state = CopyState::Lost;
        assert_eq!(say(&mut state, relay(3, 1, 1, 1)), Outcome::Done);
    }

    #[test]
    fn system_data_never_holds_keys_of_write_only_sectors() {
        let mut state = begun();
        let mut text = Vec::new();
        export_state(&state, &mut text).unwrap();
        assert!(!String::from_utf8(text.clone()).unwrap().contains("ZGVr"));
        assert_eq!(state.copies[&s::copy(1)].sealed_dek, "ZGVr", "here it is still needed");
        state.copies.get_mut(&s::copy(1)).unwrap().sealed_dek.clear();
        assert_eq!(import_state(&text[..]).unwrap(), state);
    }

    #[test]
    fn of_older_sectors_those_go_that_no_readable_source_needs() {
        let mut v = s::begin();
        v.extend(s::backup(1, CheckpointKind::Full, 1, true));
        v.extend(s::backup(2, CheckpointKind::Full, 2, true));
        v.extend(s::backup(3, CheckpointKind::Incremental, 1, false));
        let mut state = State::default();
        s::all_done(&mut state, &v);
        // Source 2 names content in the first sector of source 1.
        state.layers.get_mut(&s::layer(2)).unwrap().refs = Some([s::sector(1)].into());
        assert!(matches!(
            say(&mut state, Command::SetWriteOnly { source: s::source(1), write_only: false, older: true }),
            Outcome::Refused(_)
        ));
        assert_eq!(say(&mut state, write_only(1, false)), Outcome::Done);
        assert!(state.sectors.values().all(|s| !s.write_only));
        assert_eq!(say(&mut state, write_only(1, true)), Outcome::Done);
        let marked = |state: &State| state.sectors.values().filter(|s| s.write_only).map(|s| s.id).collect::<Vec<_>>();
        assert_eq!(marked(&state), [s::sector(3)]);
        // Where it was not recorded what a readable source needs, everything stays readable.
        let mut unknown = state.clone();
        unknown.layers.get_mut(&s::layer(2)).unwrap().refs = None;
        unknown.sectors.get_mut(&s::sector(3)).unwrap().write_only = false;
        assert_eq!(say(&mut unknown, write_only(1, true)), Outcome::Done);
        assert_eq!(marked(&unknown), []);
        assert_eq!(say(&mut state, write_only(2, true)), Outcome::Done);
        assert_eq!(marked(&state), [s::sector(1), s::sector(2), s::sector(3)]);
    }
}
