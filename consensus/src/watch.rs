//! Where the simulator looks on. A program built without it has nothing here.

#[cfg(any(test, feature = "sim"))]
pub(crate) use crate::raft::sim::eyes::{applied, installed};

#[cfg(not(any(test, feature = "sim")))]
mod nobody {
    use zoneward_sectors::ids::NodeId;

    use crate::model::State;
    use crate::raft::{LogEntry, Reply};

    #[inline]
    pub(crate) fn applied(_: Option<NodeId>, _: &[LogEntry], _: &[Reply], _: &State) {}

    #[inline]
    pub(crate) fn installed(_: Option<NodeId>, _: &State) {}
}

#[cfg(not(any(test, feature = "sim")))]
pub(crate) use nobody::{applied, installed};
