//! Checks of beginning, writing, resuming and sealing.

use std::sync::atomic::{AtomicUsize, Ordering};

use zoneward_sectors::ids::CopyId;

use super::{Checks, Done, Stop, Store, bytes, join, refused, same, want};
use crate::errors::TargetError;

pub(super) const CHECKS: Checks = &[
    ("write, seal, read back", write_seal_read),
    ("a sector of no bytes", no_bytes),
    ("a resumed sector goes on at its offset", resume),
    ("parallel writes at many offsets", parallel_writes),
    ("threads that each take the next stretch", ordered_writes),
    ("a wrong length is refused and incoming is kept", wrong_length),
    ("sealing twice changes nothing", seal_twice),
    ("a sealed sector of another length stays", seal_over_other_length),
    ("the second writer of a sector is told it is busy", two_writers),
    ("a sector in a writer's hands is not discarded", discard_busy),
    ("discard throws incoming away", discard),
    ("abandon throws incoming away", abandon),
    ("an absurd offset is refused", absurd_offset),
];

fn write_seal_read(s: &Store) -> Done {
    for len in [1usize, 4095, 4096, 1_000_003] {
        let (copy, data) = (CopyId::random(), bytes(len as u64, len));
        s.put(copy, &data)?;
        s.holds(copy, &data)?;
    }
    Ok(())
}

fn no_bytes(s: &Store) -> Done {
    let copy = CopyId::random();
    s.begin(copy)?.seal(0)?;
    s.holds(copy, b"")?;
    same("list", s.target.list(s.alias)?.sectors, vec![(copy, 0)])?;
    let truncated = |e: &TargetError| matches!(e, TargetError::Truncated { have: 0, .. });
    refused("one byte of none", s.target.read_at(s.alias, copy, 0, &mut [0]), truncated)
}

fn resume(s: &Store) -> Done {
    let (copy, data) = (CopyId::random(), bytes(1, 300_000));
    let (first, rest) = data.split_at(123_457);
    let incoming = s.begin(copy)?;
    same("offset of a new sector", incoming.offset(), 0)?;
    incoming.write_at(0, first)?;
    drop(incoming);
    let incoming = s.again().open(s.alias, copy)?;
    if !s.target.capabilities().resume {
        same("offset where nothing is resumed", incoming.offset(), 0)?;
        return Err(Stop::Skipped("the target keeps no unfinished sectors".to_owned()));
    }
    same("offset after an interruption", incoming.offset(), first.len() as u64)?;
    incoming.write_at(first.len() as u64, rest)?;
    incoming.seal(data.len() as u64)?;
    s.holds(copy, &data)
}

fn parallel_writes(s: &Store) -> Done {
    const PIECE: usize = 10_007;
    if !s.target.capabilities().direct_write {
        return Err(Stop::Skipped("the target takes no writes at many offsets".to_owned()));
    }
    let (copy, data) = (CopyId::random(), bytes(2, 1_500_000));
    let incoming = s.begin(copy)?;
    let writer = incoming.as_ref();
    let pieces: Vec<(u64, &[u8])> = data.chunks(PIECE).enumerate().map(|(i, p)| ((i * PIECE) as u64, p)).collect();
    std::thread::scope(|scope| -> Done {
        let write = |lane: usize| {
            // Backwards, so that later offsets come first.
            let mut mine = pieces.iter().rev().skip(lane).step_by(8);
            mine.try_for_each(|(offset, piece)| writer.write_at(*offset, piece))
        };
        let lanes: Vec<_> = (0..8).map(|lane| scope.spawn(move || write(lane))).collect();
        lanes.into_iter().try_for_each(|lane| Ok(join(lane)??))
    })?;
    incoming.seal(data.len() as u64)?;
    s.holds(copy, &data)
}

fn ordered_writes(s: &Store) -> Done {
    const PIECE: usize = 10_007;
    if !s.target.capabilities().ordered_write {
        return Err(Stop::Skipped("the target takes writes of one thread alone".to_owned()));
    }
    let (copy, data) = (CopyId::random(), bytes(9, 1_500_000));
    let incoming = s.begin(copy)?;
    let (writer, next) = (incoming.as_ref(), AtomicUsize::new(0));
    let lane = || -> Result<(), TargetError> {
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed) * PIECE;
            let Some(rest) = data.get(at..).filter(|r| !r.is_empty()) else { return Ok(()) };
            writer.write_at(at as u64, &rest[..rest.len().min(PIECE)])?;
        }
    };
    std::thread::scope(|scope| -> Done {
        let lanes: Vec<_> = (0..8).map(|_| scope.spawn(lane)).collect();
        lanes.into_iter().try_for_each(|lane| Ok(join(lane)??))
    })?;
    incoming.seal(data.len() as u64)?;
    s.holds(copy, &data)
}

fn wrong_length(s: &Store) -> Done {
    let (copy, data) = (CopyId::random(), bytes(3, 5000));
    let incoming = s.begin(copy)?;
    incoming.write_at(0, &data)?;
    drop(incoming);
    for expected in [0, 4999, 5001] {
        let incoming = s.begin(copy)?;
        if !s.target.capabilities().resume {
            incoming.write_at(0, &data)?;
        }
        let fits =
            |e: &TargetError| matches!(e, TargetError::WrongLength { expected: x, found: 5000, .. } if *x == expected);
        refused("sealing with a wrong length", incoming.seal(expected), fits)?;
        same("len of what was not sealed", s.target.len(s.alias, copy)?, None)?;
    }
    if !s.target.capabilities().resume {
        return Ok(());
    }
    let incoming = s.begin(copy)?;
    same("offset after a refused seal", incoming.offset(), 5000)?;
    incoming.seal(5000)?;
    s.holds(copy, &data)
}

fn seal_twice(s: &Store) -> Done {
    let (copy, data) = (CopyId::random(), bytes(4, 70_000));
    s.put(copy, &data)?;
    // As after a crash between the seal and its report: once without sending anything again, once with all of it.
    s.begin(copy)?.seal(70_000)?;
    s.holds(copy, &data)?;
    s.put(copy, &data)?;
    s.holds(copy, &data)?;
    same("incoming after the seal", s.target.list_incoming(s.alias)?, vec![])
}

fn seal_over_other_length(s: &Store) -> Done {
    let (copy, data) = (CopyId::random(), bytes(5, 9000));
    s.put(copy, &data)?;
    let incoming = s.begin(copy)?;
    incoming.write_at(0, b"short")?;
    let fits = |e: &TargetError| matches!(e, TargetError::WrongLength { expected: 5, found: 9000, .. });
    refused("sealing over a sealed sector of another length", incoming.seal(5), fits)?;
    s.holds(copy, &data)
}

fn two_writers(s: &Store) -> Done {
    let copy = CopyId::random();
    let busy = |e: &TargetError| matches!(e, TargetError::Busy { .. });
    let first = s.begin(copy)?;
    first.write_at(0, b"first")?;
    refused("a second writer through the same handle", s.begin(copy), busy)?;
    refused("a second writer through another handle", s.again().open(s.alias, copy), busy)?;
    // Another sector, and the same copy id in another zone, are free.
    drop(s.begin(CopyId::random())?);
    let other = zoneward_sectors::ids::ZoneAlias::random();
    s.target.open(other, copy)?.abandon()?;
    first.seal(5)?;
    s.holds(copy, b"first")?;
    // The seal let go of it.
    s.begin(copy)?.abandon()?;
    s.holds(copy, b"first")
}

fn discard_busy(s: &Store) -> Done {
    let copy = CopyId::random();
    let writer = s.begin(copy)?;
    writer.write_at(0, b"kept")?;
    let busy = |e: &TargetError| matches!(e, TargetError::Busy { .. });
    refused("discarding under a writer", s.again().discard_incoming(s.alias, copy), busy)?;
    writer.seal(4)?;
    s.holds(copy, b"kept")
}

fn discard(s: &Store) -> Done {
    let copy = CopyId::random();
    s.target.discard_incoming(s.alias, copy)?;
    let writer = s.begin(copy)?;
    writer.write_at(0, b"old bytes")?;
    drop(writer);
    s.target.discard_incoming(s.alias, copy)?;
    same("incoming after a discard", s.target.list_incoming(s.alias)?, vec![])?;
    let writer = s.begin(copy)?;
    same("offset after a discard", writer.offset(), 0)?;
    writer.write_at(0, b"new")?;
    writer.seal(3)?;
    // Discarding never touches what is sealed.
    s.target.discard_incoming(s.alias, copy)?;
    s.holds(copy, b"new")
}

fn abandon(s: &Store) -> Done {
    let copy = CopyId::random();
    let writer = s.begin(copy)?;
    writer.write_at(0, b"bytes")?;
    writer.abandon()?;
    same("incoming after abandoning", s.target.list_incoming(s.alias)?, vec![])?;
    same("len after abandoning", s.target.len(s.alias, copy)?, None)?;
    let offset = s.begin(copy)?.offset();
    want(offset == 0, || format!("offset {offset} after abandoning"))
}

fn absurd_offset(s: &Store) -> Done {
    let copy = CopyId::random();
    let writer = s.begin(copy)?;
    writer.write_at(0, b"ok")?;
    let large = |e: &TargetError| matches!(e, TargetError::TooLarge { .. });
    for offset in [u64::MAX, u64::MAX - 1, i64::MAX as u64, crate::limits::SECTOR_LEN_MAX] {
        refused("writing far beyond any sector", writer.write_at(offset, b"x"), large)?;
    }
    // A refused argument is no failure of the store.
    writer.seal(2)?;
    s.holds(copy, b"ok")
}
