//! Checks of reading, listing and removing.

use zoneward_sectors::ids::{CopyId, ZoneAlias};

use super::{Checks, Done, Store, bytes, join, refused, same, want};
use crate::errors::TargetError;

pub(super) const CHECKS: Checks = &[
    ("the target's id and name are steady", steady_name),
    ("ranges are exact or refused", ranges),
    ("one reader serves many threads", many_threads),
    ("an open reader outlives the removal or refuses", reader_after_removal),
    ("what was never there is not found", never_there),
    ("listing tells sealed from incoming", listing),
    ("zones do not see each other", zones_apart),
    ("remove removes one sealed sector", remove),
];

fn truncated(e: &TargetError) -> bool {
    matches!(e, TargetError::Truncated { .. })
}

fn steady_name(s: &Store) -> Done {
    let other = s.again();
    same("id", other.id(), s.target.id())?;
    same("name", other.describe(), s.target.describe())?;
    want(s.target.describe().contains(":/"), || format!("the name is no URL: {}", s.target.describe()))?;
    let class = s.target.capabilities().max_class_log2;
    want((12..=36).contains(&class), || format!("largest class {class}"))
}

fn ranges(s: &Store) -> Done {
    const LEN: usize = 100_000;
    let (copy, data) = (CopyId::random(), bytes(10, LEN));
    s.put(copy, &data)?;
    let reader = s.target.reader(s.alias, copy)?;
    same("length", reader.len(), LEN as u64)?;
    for (offset, len) in [(0, LEN), (0, 1), (LEN - 1, 1), (4095, 2), (99_000, 1000), (50_000, 0), (LEN, 0)] {
        let mut buf = vec![0u8; len];
        reader.read_at(&mut buf, offset as u64)?;
        let right = data.get(offset..offset + len);
        want(right == Some(&buf[..]), || format!("wrong bytes at {offset}, {len} of them"))?;
        let mut again = vec![0u8; len];
        s.target.read_at(s.alias, copy, offset as u64, &mut again)?;
        want(again == buf, || format!("a single read at {offset} gives other bytes"))?;
    }
    for (offset, len) in [(0, LEN + 1), (LEN as u64 - 1, 2), (LEN as u64, 1), (1 << 40, 4), (u64::MAX, 1)] {
        let mut buf = vec![0u8; len];
        refused("a range across the end", reader.read_at(&mut buf, offset), truncated)?;
        refused("a single range across the end", s.target.read_at(s.alias, copy, offset, &mut buf), truncated)?;
    }
    Ok(())
}

fn many_threads(s: &Store) -> Done {
    const PIECE: usize = 4099;
    let (copy, data) = (CopyId::random(), bytes(11, 400_000));
    s.put(copy, &data)?;
    let reader = s.target.reader(s.alias, copy)?;
    let (reader, data) = (reader.as_ref(), &data);
    std::thread::scope(|scope| -> Done {
        let read = move |lane: usize| -> Result<bool, TargetError> {
            for (i, piece) in data.chunks(PIECE).enumerate().skip(lane) {
                let mut buf = vec![0u8; piece.len()];
                reader.read_at(&mut buf, (i * PIECE) as u64)?;
                if buf != piece {
                    return Ok(false);
                }
            }
            Ok(true)
        };
        let lanes: Vec<_> = (0..4).map(|lane| scope.spawn(move || read(lane))).collect();
        lanes.into_iter().try_for_each(|lane| want(join(lane)??, || "a thread read wrong bytes".to_owned()))
    })
}

fn reader_after_removal(s: &Store) -> Done {
    let (copy, data) = (CopyId::random(), bytes(12, 20_000));
    s.put(copy, &data)?;
    let reader = s.target.reader(s.alias, copy)?;
    s.again().remove(s.alias, copy)?;
    let mut buf = vec![0u8; data.len()];
    match reader.read_at(&mut buf, 0) {
        Ok(()) => want(buf == data, || "wrong bytes were read as good".to_owned()),
        Err(e) => want(e.is_not_found(), || format!("the wrong error: {e:?}")),
    }
}

fn never_there(s: &Store) -> Done {
    let copy = CopyId::random();
    let missing = |e: &TargetError| e.is_not_found();
    for round in ["in a zone never seen", "in a zone that is there"] {
        same(round, s.target.len(s.alias, copy)?, None)?;
        refused(round, s.target.reader(s.alias, copy), missing)?;
        refused(round, s.target.read_at(s.alias, copy, 0, &mut [0; 4]), missing)?;
        s.target.remove(s.alias, copy)?;
        s.target.discard_incoming(s.alias, copy)?;
        let begun = s.target.list_incoming(s.alias)?;
        want(begun.is_empty(), || format!("{round}: incoming {begun:?}"))?;
        if round == "in a zone never seen" {
            let list = s.target.list(s.alias)?;
            want(list.sectors.is_empty() && list.foreign == 0, || format!("{round}: {list:?}"))?;
            s.put(CopyId::random(), b"another")?;
        }
    }
    // Asking must not have made anything.
    same("sectors", s.target.list(s.alias)?.sectors.len(), 1)
}

fn listing(s: &Store) -> Done {
    let mut sealed: Vec<(CopyId, u64)> = (0..20).map(|i| (CopyId::random(), i * 7)).collect();
    for (copy, len) in &sealed {
        s.put(*copy, &bytes(20, *len as usize))?;
    }
    let mut begun: Vec<CopyId> = (0..5).map(|_| CopyId::random()).collect();
    let mut writers = Vec::new();
    for copy in &begun {
        let writer = s.begin(*copy)?;
        writer.write_at(0, b"not sealed")?;
        writers.push(writer);
    }
    sealed.sort_unstable();
    begun.sort_unstable();
    let other = s.again();
    for target in [s.target.as_ref(), other.as_ref()] {
        let list = target.list(s.alias)?;
        same("sealed", &list.sectors, &sealed)?;
        same("foreign", list.foreign, 0)?;
        if target.capabilities().resume {
            same("incoming", &target.list_incoming(s.alias)?, &begun)?;
        }
    }
    let missing = |e: &TargetError| e.is_not_found();
    for copy in &begun {
        same("len of an unsealed sector", s.target.len(s.alias, *copy)?, None)?;
        refused("reading an unsealed sector", s.target.reader(s.alias, *copy), missing)?;
    }
    writers.into_iter().try_for_each(|w| Ok(w.abandon()?))
}

fn zones_apart(s: &Store) -> Done {
    let copy = CopyId::random();
    s.put(copy, b"mine")?;
    let other = Store { make: s.make, target: s.again(), alias: ZoneAlias::random() };
    same("the other zone's view", other.target.len(other.alias, copy)?, None)?;
    let outcome = other.put(copy, b"theirs").and_then(|()| other.holds(copy, b"theirs"));
    let zones = s.target.list_zones();
    other.clean();
    outcome?;
    s.holds(copy, b"mine")?;
    let zones = zones?;
    want(zones.contains(&s.alias) && zones.contains(&other.alias), || "a zone is missing in the list".to_owned())?;
    want(zones.is_sorted(), || "the zones are not sorted".to_owned())
}

fn remove(s: &Store) -> Done {
    let (gone, kept) = (CopyId::random(), CopyId::random());
    s.put(gone, b"gone")?;
    s.put(kept, b"kept")?;
    s.target.remove(s.alias, gone)?;
    s.target.remove(s.alias, gone)?;
    same("len of what was removed", s.again().len(s.alias, gone)?, None)?;
    same("list", s.target.list(s.alias)?.sectors, vec![(kept, 4)])?;
    // A removed sector can be made again, with another length too.
    s.put(gone, b"back again")?;
    s.holds(gone, b"back again")?;
    s.holds(kept, b"kept")
}
