//! What a node has to do about the zone's secrets. Pure.

use std::collections::BTreeSet;

use zoneward_sectors::ids::{Digest, NodeId};

use crate::model::{NextSecret, Standing, State};

/// What a node does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    Nothing,
    /// Make the next secret, keep it, and offer it.
    Make,
    /// Get this secret from a node that holds it, and keep it.
    Fetch {
        epoch: u32,
        check: Digest,
    },
    /// Say that it is held.
    Tell {
        epoch: u32,
        check: Digest,
    },
}

/// The nodes whose hold of a secret counts: a broken one will not hand it on, and a witness never gets it.
pub fn keepers(state: &State) -> BTreeSet<NodeId> {
    let keeps = |s| matches!(s, Standing::Member | Standing::Draining);
    state.nodes.values().filter(|n| keeps(n.standing)).map(|n| n.id).collect()
}

/// What the node `me` does next. `holds` answers whether it has the secret of an epoch that is known by a check.
pub fn want(state: &State, me: NodeId, leads: bool, holds: &dyn Fn(u32, Digest) -> bool) -> Want {
    let Some(zone) = state.zone.as_ref().filter(|_| keepers(state).contains(&me)) else { return Want::Nothing };
    let epoch = zone.secret_epoch;
    if let Some(check) = zone.secret_check.filter(|check| !holds(epoch, *check)) {
        return Want::Fetch { epoch, check };
    }
    match &zone.secret_next {
        Some(n) if n.holders.contains(&me) => match holds(n.epoch, n.check) {
            // Others were needed and no longer are.
            true if enough(state, n) => Want::Tell { epoch: n.epoch, check: n.check },
            true => Want::Nothing,
            false => Want::Make,
        },
        Some(n) if holds(n.epoch, n.check) => Want::Tell { epoch: n.epoch, check: n.check },
        Some(n) if n.holders.iter().any(|h| state.nodes.contains_key(h)) => {
            Want::Fetch { epoch: n.epoch, check: n.check }
        }
        _ if zone.secret_stale && leads => Want::Make,
        _ => Want::Nothing,
    }
}

/// Whether enough nodes hold a secret for it to be used.
pub fn enough(state: &State, next: &NextSecret) -> bool {
    let keepers = keepers(state);
    keepers.intersection(&next.holders).count() * 2 > keepers.len()
}

/// The nodes to ask for the secret of an epoch, the likeliest first.
pub fn holders(state: &State, me: NodeId, epoch: u32) -> Vec<NodeId> {
    let next = state.zone.as_ref().filter(|z| z.secret_epoch < epoch).and_then(|z| z.secret_next.as_ref());
    let mut others: Vec<NodeId> = keepers(state).into_iter().filter(|id| *id != me).collect();
    // Those that said so; for one that is in use already, anybody may have it.
    others.retain(|id| next.is_none_or(|n| n.holders.contains(id)));
    others
}
