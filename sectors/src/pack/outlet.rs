//! Where the first stage hands its pieces over: numbered, and no more at once than there are permits.

use std::sync::atomic::Ordering;

use crossbeam_channel::{Receiver, Sender};

use super::work::{Piece, PieceBody};
use super::{PackError, Shared};

/// Ends quietly: the stages behind are gone, and they know why.
pub(super) struct Behind;

pub(super) struct Outlet<'a> {
    shared: &'a Shared<'a>,
    permits: &'a Receiver<()>,
    out: &'a Sender<Piece>,
    seq: u64,
}

impl<'a> Outlet<'a> {
    pub fn new(shared: &'a Shared<'a>, permits: &'a Receiver<()>, out: &'a Sender<Piece>) -> Self {
        Self { shared, permits, out, seq: 0 }
    }

    pub fn is_stopped(&self) -> bool {
        self.shared.progress.stop.load(Ordering::Relaxed)
    }

    /// Why nothing more could be sent. If the stages behind are gone, they say why themselves.
    pub fn ended(&self) -> Result<(), PackError> {
        if self.is_stopped() { Err(PackError::Interrupted) } else { Ok(()) }
    }

    pub fn send(&mut self, body: PieceBody, tar_bound: u64) -> Result<(), Behind> {
        if self.is_stopped() {
            return Err(Behind);
        }
        self.permits.recv().map_err(|_| Behind)?;
        self.shared.fed.fetch_add(tar_bound, Ordering::SeqCst);
        let piece = Piece { seq: self.seq, tar_bound, body };
        self.seq += 1;
        self.out.send(piece).map_err(|_| Behind)
    }
}
