//! A sector on its way into a directory behind SSH.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use super::wire::Handle;
use super::{CREATE, Place, READ, WRITE};
use crate::errors::{Op, TargetError};
use crate::limits::SECTOR_LEN_MAX;
use crate::net::Held;
use crate::net::parts::Which;
use crate::net::place;
use crate::target::Incoming;

pub(super) struct SftpIncoming {
    place: Arc<Place>,
    which: Which,
    path: String,
    offset: u64,
    /// The file, open in the session of this number.
    open: Mutex<Option<(u64, Handle)>>,
    /// A write failed: what is there is unknown.
    failed: AtomicBool,
    _held: Held,
}

impl SftpIncoming {
    pub fn open(place: &Arc<Place>, which: Which) -> Result<Self, TargetError> {
        let (op, what) = (Op::Open, which.incoming());
        let held = Held::take(place.line.url(), which.alias, which.copy);
        let held = held.ok_or_else(|| TargetError::Busy { op, what: what.clone() })?;
        place.make(op, &what, &place::incoming(which.alias))?;
        let path = place.incoming(which);
        let (open, attrs) = place.line.with(op, &what, 0, |s, number| {
            let handle = s.open(&path, READ | WRITE | CREATE)?;
            let attrs = s.stat_open(&handle)?;
            Ok(((number, handle), attrs))
        })?;
        let (place, failed) = (place.clone(), AtomicBool::new(false));
        Ok(Self { place, which, path, offset: attrs.len, open: Mutex::new(Some(open)), failed, _held: held })
    }

    fn poisoned(&self, op: Op) -> TargetError {
        TargetError::Poisoned { op, what: self.which.incoming() }
    }

    /// A failed write, or one for which there was no room: the protocol does not tell the two apart.
    fn sort(&self, e: TargetError, len: u64) -> TargetError {
        let TargetError::Io { op, what, source } = e else { return e };
        let root = self.place.root.clone();
        match self.place.line.with(op, &what, 0, |s, _| s.free(&root)) {
            Ok(Some(free)) if free <= len => TargetError::Full { op, what, source },
            _ => TargetError::Io { op, what, source },
        }
    }
}

impl Incoming for SftpIncoming {
    fn offset(&self) -> u64 {
        self.offset
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), TargetError> {
        let (op, what, len) = (Op::Write, self.which.incoming(), bytes.len() as u64);
        let end = offset.saturating_add(len);
        if end > SECTOR_LEN_MAX {
            return Err(TargetError::TooLarge { op, what, len: end, limit: SECTOR_LEN_MAX });
        }
        let mut open = self.open.lock().unwrap_or_else(|e| e.into_inner());
        let written = self.place.line.with(op, &what, len, |s, number| {
            let handle = match &*open {
                Some((session, handle)) if *session == number => handle,
                // It must still be there: a file that was taken away is not begun again in the middle.
                _ => &open.insert((number, s.open(&self.path, READ | WRITE)?)).1,
            };
            s.write(handle, offset, bytes)
        });
        written.map_err(|e| {
            self.failed.store(true, Ordering::SeqCst);
            self.sort(e, len)
        })
    }

    fn seal(self: Box<Self>, len: u64) -> Result<(), TargetError> {
        let (op, what) = (Op::Seal, self.which.incoming());
        let (path, to) = (self.path.clone(), self.place.sector(self.which));
        match self.place.sealed_len(op, self.which)? {
            Some(found) if found == len => return self.place.line.with(op, &what, 0, |s, _| s.remove(&path)),
            Some(found) => {
                return Err(TargetError::WrongLength { op, what: self.which.sector(), expected: len, found });
            }
            None if self.failed.load(Ordering::SeqCst) => return Err(self.poisoned(op)),
            None => {}
        }
        let found = self.place.line.with(op, &what, 0, |s, _| s.stat(&path))?.map(|a| a.len);
        let found = found.ok_or_else(|| TargetError::NotFound { op, what: what.clone() })?;
        if found != len {
            return Err(TargetError::WrongLength { op, what, expected: len, found });
        }
        let folder = to.rsplit_once('/').map_or("", |(folder, _)| folder);
        let below = folder.strip_prefix(&format!("{}/", self.place.root)).unwrap_or(folder);
        self.place.make(op, &what, below)?;
        let sealed = self.place.line.with(op, &what, len, |s, _| {
            let handle = s.open(&path, READ | WRITE)?;
            s.sync(&handle)?;
            s.close(&handle)?;
            s.rename_new(&path, &to)
        });
        match (sealed, self.place.sealed_len(op, self.which)?) {
            // A lost answer is no failure; and what says it is sealed must be there.
            (_, Some(found)) if found == len => Ok(()),
            (Err(e), _) => Err(e),
            (Ok(()), found) => {
                let reason = format!("it sealed {len} bytes and shows {found:?}");
                Err(TargetError::Protocol { op, what, reason })
            }
        }
    }

    fn abandon(self: Box<Self>) -> Result<(), TargetError> {
        let path = self.path.clone();
        let done = self.place.line.with(Op::Abandon, &self.which.incoming(), 0, |s, _| s.remove(&path));
        done.or_else(|e| if e.is_not_found() { Ok(()) } else { Err(e) })
    }
}

impl Drop for SftpIncoming {
    fn drop(&mut self) {
        let open = self.open.get_mut().unwrap_or_else(|e| e.into_inner()).take();
        self.place.line.close(open);
    }
}
