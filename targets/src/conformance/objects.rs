//! Checks of the objects beside the sectors: the head and the owner key.

use std::sync::atomic::{AtomicBool, Ordering};

use super::{Checks, Done, Store, bytes, join, refused, same, want};
use crate::errors::TargetError;
use crate::limits::OBJECT_LEN_MAX;
use crate::target::ObjectName;

pub(super) const CHECKS: Checks = &[
    ("objects are put, replaced and found again", put_get),
    ("objects longer than the limit are refused", limits),
    ("an object is replaced whole", replaced_whole),
    ("two writers of an object leave one whole", two_writers),
];

fn put_get(s: &Store) -> Done {
    for name in ObjectName::ALL {
        refused("an object never put", s.target.get_object(s.alias, name, 100), TargetError::is_not_found)?;
    }
    for (i, name) in ObjectName::ALL.into_iter().enumerate() {
        for len in [1000usize, 10, 0, 5000] {
            let data = bytes((i * 10_000 + len) as u64, len);
            s.target.put_object(s.alias, name, &data)?;
            let found = s.again().get_object(s.alias, name, 5000)?;
            want(found == data, || format!("{name:?}: {len} bytes put, {} other bytes got", found.len()))?;
        }
    }
    let first = s.target.get_object(s.alias, ObjectName::Pointer, 5000)?;
    want(first == bytes(5000, 5000), || "putting one object changed the other".to_owned())?;
    // They are not taken for sectors.
    let list = s.target.list(s.alias)?;
    want(list.sectors.is_empty() && list.foreign == 0, || format!("objects are listed as sectors: {list:?}"))?;
    same("incoming", s.target.list_incoming(s.alias)?, vec![])
}

fn limits(s: &Store) -> Done {
    let name = ObjectName::Pointer;
    let large = |e: &TargetError| matches!(e, TargetError::TooLarge { .. });
    s.target.put_object(s.alias, name, &bytes(1, 200))?;
    refused("getting 200 bytes with a limit of 199", s.target.get_object(s.alias, name, 199), large)?;
    same("bytes at the limit", s.target.get_object(s.alias, name, 200)?.len(), 200)?;
    let most = vec![7u8; OBJECT_LEN_MAX as usize + 1];
    refused("putting more than the limit", s.target.put_object(s.alias, name, &most), large)?;
    let found = s.target.get_object(s.alias, name, 200)?;
    want(found == bytes(1, 200), || "a refused put changed the object".to_owned())?;
    s.target.put_object(s.alias, name, most.get(1..).unwrap_or_default())?;
    same("bytes of the largest", s.target.get_object(s.alias, name, OBJECT_LEN_MAX)?.len() as u64, OBJECT_LEN_MAX)
}

/// The versions that the writers below put: each of one repeated byte and of its own length.
fn version(i: usize) -> Vec<u8> {
    vec![i as u8; 1000 + 997 * (i % 7)]
}

fn whole(found: &[u8]) -> Done {
    let first = found.first().copied().unwrap_or(0);
    want(found == version(usize::from(first)), || format!("a torn object of {} bytes", found.len()))
}

fn replaced_whole(s: &Store) -> Done {
    let name = ObjectName::Pointer;
    s.target.put_object(s.alias, name, &version(1))?;
    let ended = AtomicBool::new(false);
    let reader = s.again();
    std::thread::scope(|scope| -> Done {
        let (reader, ended, alias) = (reader.as_ref(), &ended, s.alias);
        let watch = scope.spawn(move || -> Done {
            while !ended.load(Ordering::SeqCst) {
                whole(&reader.get_object(alias, name, OBJECT_LEN_MAX)?)?;
            }
            Ok(())
        });
        let put = (2..60).try_for_each(|i| s.target.put_object(s.alias, name, &version(i)));
        ended.store(true, Ordering::SeqCst);
        join(watch)??;
        Ok(put?)
    })?;
    want(s.target.get_object(s.alias, name, OBJECT_LEN_MAX)? == version(59), || "the last put is not there".to_owned())
}

fn two_writers(s: &Store) -> Done {
    let name = ObjectName::OwnerKey;
    let (other, alias) = (s.again(), s.alias);
    let handles = [s.target.as_ref(), s.target.as_ref(), other.as_ref()];
    let puts = std::thread::scope(|scope| -> Result<usize, super::Stop> {
        let put = |lane: usize, target: &dyn crate::Target| -> Result<usize, TargetError> {
            let mut done = 0;
            for i in (lane..60).step_by(3) {
                match target.put_object(alias, name, &version(i)) {
                    Ok(()) => done += 1,
                    // Another process may be putting it; the caller tries again later.
                    Err(TargetError::Busy { .. }) => {}
                    Err(e) => return Err(e),
                }
            }
            Ok(done)
        };
        let lanes: Vec<_> = handles.into_iter().enumerate().map(|(i, t)| scope.spawn(move || put(i, t))).collect();
        let mut done = 0;
        for lane in lanes {
            done += join(lane)??;
        }
        Ok(done)
    })?;
    want(puts > 0, || "no put succeeded".to_owned())?;
    whole(&s.target.get_object(s.alias, name, OBJECT_LEN_MAX)?)
}
