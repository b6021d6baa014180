//! The zone's secrets on this node (`docs/decisions/0033-a-new-secret-when-a-node-goes.md`): the leader makes the next one
//! when a node that knew the last was removed, the others get it over their links, and all use it once a majority holds it.
//!
//! A secret is on this node's disk before the zone hears that it is, and a file that is there is only ever added to.

use std::sync::{Arc, Weak};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;
use zoneward_consensus::command::Command;
use zoneward_consensus::model::State;
use zoneward_consensus::raft::Role;
use zoneward_consensus::secrets::{Want, holders, keepers, want};
use zoneward_sectors::fsx;
use zoneward_sectors::ids::{Digest, NodeId};
use zoneward_sectors::zonekeys::{ZoneKeys, ZoneSecret, ZoneSecrets};
use zoneward_transport::wire::Retry;
use zoneward_transport::{Boxed, Handler, Refusal, kind};

use crate::cluster::CommandError;
use crate::errors::ZoneError;
use crate::home::{Home, io_at};
use crate::node::Node;
use crate::serve::{alive, question};
use crate::zone::Zone;

/// How long another node may take to hand a secret over.
const ASK_MS: u64 = 2_000;

/// Which secret is asked for.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Which {
    epoch: u32,
    check: Digest,
}

/// Hands secrets to the nodes that keep the zone's data.
pub struct Hand(pub Weak<Node>);

impl Handler for Hand {
    fn handle(&self, from: NodeId, body: Vec<u8>) -> Boxed<'_, Result<Vec<u8>, Refusal>> {
        Box::pin(async move {
            let (node, which) = (alive(&self.0)?, question::<Which>(&body, "the question for a secret")?);
            if !keepers(&node.cluster.view()).contains(&from) {
                return Err(Refusal::new(Retry::Operator, "only a node that keeps the zone's data is told its secret"));
            }
            let secret = node.parts.as_ref().and_then(|p| held(&p.keys, which.epoch, which.check));
            let secret = secret.ok_or_else(|| Refusal::new(Retry::Later, "this node does not hold that secret"))?;
            Ok(ZoneSecrets::from(secret).to_json().to_vec())
        })
    }
}

/// The secret of an epoch, if it is the one that is meant.
fn held(keys: &ZoneKeys, epoch: u32, check: Digest) -> Option<ZoneSecret> {
    keys.secrets().get(epoch).filter(|s| s.check(keys.zone()) == check).cloned()
}

/// Keeps a secret: it is on disk when this returns.
fn keep(home: &Home, keys: &ZoneKeys, secret: ZoneSecret) -> Result<(), ZoneError> {
    let mut all = keys.secrets();
    all.put(secret)?;
    let path = home.zone_secret();
    fsx::write_durably(&path, &all.to_json(), 0o600).map_err(io_at("write", &path))?;
    keys.learn(all);
    Ok(())
}

/// A secret of an epoch that this zone never had, kept.
fn make(home: &Home, keys: &ZoneKeys, state: &State) -> Result<Command, ZoneError> {
    let newest = keys.secrets().newest().max(state.zone.as_ref().map_or(0, |z| z.secret_epoch));
    let secret = ZoneSecret::generate(newest.saturating_add(1));
    let (epoch, check) = (secret.epoch, secret.check(keys.zone()));
    keep(home, keys, secret)?;
    Ok(Command::OfferSecret { epoch, check })
}

/// Uses the zone's secret of now, and does what this node has to do for the next one.
pub(crate) fn step(node: &Arc<Node>) -> Result<(), ZoneError> {
    let Some(parts) = &node.parts else { return Ok(()) };
    let (state, me) = (node.cluster.view(), node.id());
    let leads = node.cluster.metrics().role == Role::Leader;
    let wanted = want(&state, me, leads, &|epoch, check| held(&parts.keys, epoch, check).is_some());
    let command = match wanted {
        Want::Nothing => None,
        Want::Tell { epoch, check } => Some(Command::HoldSecret { epoch, check }),
        Want::Fetch { epoch, check } => {
            let secret = fetch(node, &state, Which { epoch, check })?;
            keep(&parts.home, &parts.keys, secret)?;
            None
        }
        Want::Make => {
            // What was offered before is known by now, so that the zone is not offered two.
            let now = node.cluster.linearizable().map_err(ZoneError::from)?;
            match want(&now, me, leads, &|epoch, check| held(&parts.keys, epoch, check).is_some()) {
                Want::Make => Some(make(&parts.home, &parts.keys, &now)?),
                _ => None,
            }
        }
    };
    if let Some(command) = command {
        match node.cluster.propose(&command) {
            // The zone moved on meanwhile.
            Ok(_) | Err(CommandError::Refused { .. }) => {}
            Err(e) => return Err(e.into()),
        }
    }
    use_newest(&parts.keys, &node.cluster.view());
    Ok(())
}

/// Seals under the secret that the zone uses.
fn use_newest(keys: &ZoneKeys, state: &State) {
    if let Some(zone) = &state.zone {
        keys.activate(zone.secret_epoch);
    }
}

fn fetch(node: &Arc<Node>, state: &State, which: Which) -> Result<ZoneSecret, ZoneError> {
    let parts = node.parts.as_ref().ok_or(ZoneError::Witness)?;
    let body = serde_json::to_vec(&which).map_err(|_| ZoneError::State { what: "the question for a secret" })?;
    let from = holders(state, node.id(), which.epoch);
    let answers = node.cluster.ask_all(&from, kind::SECRET, &body, Duration::from_millis(ASK_MS));
    for (_, answer) in answers {
        let Ok(answer) = answer.map(Zeroizing::new) else { continue };
        let Ok(secrets) = ZoneSecrets::from_json(&answer) else { continue };
        let it = secrets.first();
        if it.epoch == which.epoch && it.check(parts.keys.zone()) == which.check {
            return Ok(it.clone());
        }
    }
    Err(ZoneError::SecretAway { epoch: which.epoch })
}

/// The same for a zone that no daemon serves: its one node makes a new secret and uses it.
pub fn renew(zone: &mut Zone) -> Result<(), ZoneError> {
    // Of several nodes none decides alone: their daemons do it.
    if zone.is_shared() || zone.state().nodes.len() > 1 {
        return Ok(());
    }
    let (home, keys) = (zone.home.clone(), zone.keys().clone());
    let wanted = want(zone.state(), zone.node(), true, &|epoch, check| held(&keys, epoch, check).is_some());
    match wanted {
        Want::Make => {
            let command = make(&home, &keys, zone.state())?;
            zone.propose(command)?;
        }
        Want::Tell { epoch, check } => zone.propose(Command::HoldSecret { epoch, check })?,
        // What others hold they hand over when daemons run.
        Want::Fetch { .. } | Want::Nothing => {}
    }
    use_newest(&keys, zone.state());
    Ok(())
}

/// Refuses to go on without the secret that the zone uses: what is written now would not open what is sealed under it.
pub(crate) fn demand_newest(zone: &Zone) -> Result<(), ZoneError> {
    let Some(z) = &zone.state().zone else { return Ok(()) };
    let here = z.secret_check.is_none_or(|check| held(zone.keys(), z.secret_epoch, check).is_some());
    if here { Ok(()) } else { Err(ZoneError::SecretAway { epoch: z.secret_epoch }) }
}
