//! Mistakes that the simulator plants into this crate, one at a time, to see that its invariants find them.
//!
//! A mistake is in force while a [`Planted`] lives, on its thread alone. Only the simulator can make one; a program built
//! without the simulator has neither the switch nor the branches behind it.

/// A mistake, named by what the program then does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(not(any(test, feature = "sim")), allow(dead_code))]
pub enum Bug {
    /// Entries are acknowledged before they are synced.
    AckBeforeSync,
    /// A vote is given before it is synced.
    VoteForgotten,
    /// A command under a lease counts though the lease has ended, or is another node's.
    LeaseUnchecked,
    /// Work that is held is granted again.
    GrantedTwice,
    /// A report on work counts whoever makes it.
    ReportUnfenced,
    /// A copy counts though its sector is not sealed.
    CopyBeforeSeal,
    /// What any node has applied is given as a linearizable read.
    FollowerRead,
    /// A leader that was started again reads at the commit that it last knew.
    RestoredRead,
    /// A command whose outcome is unknown is proposed again.
    RetriedBlindly,
    /// Applying takes the time from the node's own clock.
    LocalClock,
    /// What was applied before a crash is applied again onto its own result.
    AppliedTwice,
    /// Leases are left out of snapshots.
    SnapshotWithoutLeases,
    /// An entry of a newer release is skipped.
    UnknownSkipped,
    /// An earlier start of a node may claim.
    OldStartClaims,
    /// A node that was removed may claim.
    RemovedClaims,
    /// A node whose disk was lost comes back under its old name.
    WipedReturns,
    /// A lease ends, and its sealed layers are forgotten with the empty ones.
    SealedForgotten,
    /// A sector that its packer left open goes to the next one.
    OpenHandedOn,
}

#[cfg(any(test, feature = "sim"))]
impl Bug {
    /// All of them.
    pub const ALL: [Self; 18] = [
        Self::AckBeforeSync,
        Self::VoteForgotten,
        Self::LeaseUnchecked,
        Self::GrantedTwice,
        Self::ReportUnfenced,
        Self::CopyBeforeSeal,
        Self::FollowerRead,
        Self::RestoredRead,
        Self::RetriedBlindly,
        Self::LocalClock,
        Self::AppliedTwice,
        Self::SnapshotWithoutLeases,
        Self::UnknownSkipped,
        Self::OldStartClaims,
        Self::RemovedClaims,
        Self::WipedReturns,
        Self::SealedForgotten,
        Self::OpenHandedOn,
    ];
}

#[cfg(any(test, feature = "sim"))]
mod switch {
    use std::cell::Cell;

    use super::Bug;

    thread_local! {
        static PLANTED: Cell<Option<Bug>> = const { Cell::new(None) };
    }

    /// Keeps a mistake in force.
    #[derive(Debug)]
    pub struct Planted(());

    impl Planted {
        pub(crate) fn new(bug: Option<Bug>) -> Self {
            PLANTED.set(bug);
            Self(())
        }
    }

    impl Drop for Planted {
        fn drop(&mut self) {
            PLANTED.set(None);
        }
    }

    /// Whether a mistake is in force on this thread.
    pub(crate) fn planted(bug: Bug) -> bool {
        PLANTED.get() == Some(bug)
    }
}

#[cfg(any(test, feature = "sim"))]
pub(crate) use switch::{Planted, planted};

/// Never: this program was built without the simulator.
#[cfg(not(any(test, feature = "sim")))]
pub(crate) const fn planted(_: Bug) -> bool {
    false
}
