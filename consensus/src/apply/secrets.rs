//! The zone's secret: a new one when a node that knew it is removed. It is used once a majority of the nodes that keep data
//! hold it, so that no loss that the zone survives takes it along. The secret itself never comes here.

use std::collections::BTreeSet;

use zoneward_sectors::ids::Digest;

use super::{Applied, Change, Refusal, Row};
use crate::model::{NextSecret, Zone};
use crate::secrets::{enough, keepers};

/// Somebody who knew the secret, and perhaps the next one, is gone.
pub fn renew(c: &mut Change<'_>) {
    if let Some(zone) = c.state.zone.as_mut() {
        (zone.secret_stale, zone.secret_next) = (true, None);
        c.rows.insert(Row::Zone);
    }
}

pub fn offer(c: &mut Change<'_>, epoch: u32, check: Digest) -> Applied {
    let zone = keepers_zone(c)?;
    if !zone.secret_stale {
        return Err(Refusal::State("the zone's secret, which is not to be replaced,"));
    }
    // Who holds the next one may make it anew: it would know if it had lost it.
    let others =
        |n: &&NextSecret| !n.holders.contains(&c.node) && n.holders.iter().any(|h| c.state.nodes.contains_key(h));
    if zone.secret_next.as_ref().is_some_and(|n| others(&n)) {
        return Err(Refusal::Exists("the next secret"));
    }
    if epoch <= zone.secret_epoch {
        return Err(Refusal::Range("the epoch of the secret"));
    }
    hold_by(c, NextSecret { epoch, check, holders: BTreeSet::new() })
}

pub fn hold(c: &mut Change<'_>, epoch: u32, check: Digest) -> Applied {
    let next = keepers_zone(c)?.secret_next.clone().ok_or(Refusal::Unknown("the next secret"))?;
    if (next.epoch, next.check) != (epoch, check) {
        return Err(Refusal::Differs("the next secret"));
    }
    hold_by(c, next)
}

/// The zone, if the sender is one of those who keep its secrets.
fn keepers_zone<'a>(c: &'a Change<'_>) -> Result<&'a Zone, Refusal> {
    if !keepers(c.state).contains(&c.node) {
        return Err(Refusal::State("a node that keeps no data"));
    }
    c.state.zone.as_ref().ok_or(Refusal::NoZone)
}

fn hold_by(c: &mut Change<'_>, mut next: NextSecret) -> Applied {
    next.holders.insert(c.node);
    let enough = enough(c.state, &next);
    let zone = c.state.zone.as_mut().ok_or(Refusal::NoZone)?;
    if enough {
        (zone.secret_epoch, zone.secret_check) = (next.epoch, Some(next.check));
        (zone.secret_stale, zone.secret_next) = (false, None);
    } else {
        zone.secret_next = Some(next);
    }
    c.rows.insert(Row::Zone);
    Ok(())
}

#[cfg(test)]
mod tests;
