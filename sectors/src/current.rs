//! What is worked on at this moment, for a display: nothing is copied unless somebody looks.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

/// The path of a file, told by those who work and asked by a display.
#[derive(Debug, Default)]
pub struct Current {
    wanted: AtomicBool,
    path: Mutex<Vec<u8>>,
}

impl Current {
    /// Work on this path begins.
    pub fn tell(&self, path: &[u8]) {
        if self.wanted.load(Ordering::Relaxed) && self.wanted.swap(false, Ordering::Relaxed) {
            let mut current = self.path.lock().unwrap_or_else(PoisonError::into_inner);
            current.clear();
            current.extend_from_slice(path);
        }
    }

    /// The path that was told since this was last asked, or before; empty if none was.
    pub fn ask(&self) -> Vec<u8> {
        self.wanted.store(true, Ordering::Relaxed);
        self.path.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_is_kept_only_for_who_asked() {
        let c = Current::default();
        c.tell(b"unseen");
        assert_eq!(c.ask(), b"");
        c.tell(b"a");
        c.tell(b"b");
        assert_eq!(c.ask(), b"a");
        c.tell(b"c");
        assert_eq!(c.ask(), b"c");
    }
}
