//! The owner's sealed keys on each node: who changed them on one node finds them changed on all. The zone's state has the
//! hashes of the files that were in use, the newest last; a node whose own is an older one gets the newest over its links.
//!
//! A file that the zone does not know stays: it may be newer, of a change that was cut.

use std::sync::{Arc, Weak};
use std::time::Duration;

use zoneward_consensus::model::Zone as Record;
use zoneward_consensus::secrets::keepers;
use zoneward_sectors::crypto::sha256;
use zoneward_sectors::fsx;
use zoneward_sectors::ids::{Digest, NodeId};
use zoneward_sectors::keyfile::OwnerKeyFile;
use zoneward_transport::wire::Retry;
use zoneward_transport::{Boxed, Handler, Refusal, kind};

use crate::errors::ZoneError;
use crate::home::{Home, io_at};
use crate::node::Node;
use crate::serve::alive;

/// Bytes of such a file at most.
const FILE_LEN_MAX: u64 = 1 << 16;
/// How long another node may take to hand it over, ms.
const ASK_MS: u64 = 2_000;

fn read(home: &Home) -> Result<Vec<u8>, ZoneError> {
    let path = home.owner_key();
    Ok(fsx::read_limited(&path, FILE_LEN_MAX).map_err(io_at("read", &path))?)
}

/// What the zone is to know: this home's file took the place of another one.
pub fn replaced(before: &[u8], now: &[u8]) -> zoneward_consensus::command::Command {
    zoneward_consensus::command::Command::SetOwnerFile { before: sha256(&[before]), now: sha256(&[now]) }
}

/// The file that a node should get in place of its own: it knows that its own is an older one.
fn newer(zone: &Record, own: Digest) -> Option<Digest> {
    let (newest, older) = zone.owner_files.split_last()?;
    (own != *newest && older.contains(&own)).then_some(*newest)
}

/// Hands the sealed keys to the nodes that keep the zone's data.
pub struct Hand(pub Weak<Node>);

impl Handler for Hand {
    fn handle(&self, from: NodeId, _: Vec<u8>) -> Boxed<'_, Result<Vec<u8>, Refusal>> {
        Box::pin(async move {
            let node = alive(&self.0)?;
            if !keepers(&node.cluster.view()).contains(&from) {
                return Err(Refusal::new(Retry::Operator, "only a node that keeps the zone's data is told"));
            }
            let home = node.parts.as_ref().map(|p| p.home.clone());
            let home = home.ok_or_else(|| Refusal::new(Retry::Never, "a witness has no keys"))?;
            let file = tokio::task::spawn_blocking(move || read(&home)).await;
            let file = file.map_err(|e| Refusal::new(Retry::Later, e.to_string()))?;
            file.map_err(|_| Refusal::new(Retry::Later, "the owner's key file cannot be read there"))
        })
    }
}

/// Gets the newest file, if this node's is known to be an older one.
pub(crate) fn step(node: &Arc<Node>) -> Result<(), ZoneError> {
    let Some(parts) = &node.parts else { return Ok(()) };
    let state = node.cluster.view();
    let Some(zone) = state.zone.as_ref().filter(|z| z.owner_files.len() > 1) else { return Ok(()) };
    let Some(wanted) = newer(zone, sha256(&[&read(&parts.home)?])) else { return Ok(()) };
    let others: Vec<NodeId> = keepers(&state).into_iter().filter(|id| *id != node.id()).collect();
    for (_, answer) in node.cluster.ask_all(&others, kind::OWNER_KEY, &[], Duration::from_millis(ASK_MS)) {
        let Ok(bytes) = answer else { continue };
        let right = sha256(&[&bytes]) == wanted
            && OwnerKeyFile::from_bytes(&bytes).is_ok_and(|f| f.public().sign_public() == parts.owner().sign_public());
        if right {
            let path = parts.home.owner_key();
            return Ok(fsx::write_durably(&path, &bytes, 0o600).map_err(io_at("write", &path))?);
        }
    }
    // Whoever has it is away: it is asked for again.
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_file_that_is_known_to_be_older_gives_way() {
        let d = |n| Digest([n; 32]);
        let mut state = zoneward_consensus::model::State::default();
        let create = zoneward_consensus::command::Command::CreateZone {
            zone: zoneward_sectors::ids::ZoneId([1; 16]),
            name: "home".into(),
            owner_fingerprint: d(0),
            owner_public: String::new(),
            owner_sign_public: String::new(),
            sector_min_log2: 20,
            sector_max_log2: 36,
            zstd_level: 3,
            secret_epoch: 1,
        };
        zoneward_consensus::apply::apply(&mut state, 1, 1, NodeId([1; 16]), &create);
        let mut zone = state.zone.unwrap();
        assert_eq!(newer(&zone, d(1)), None);
        zone.owner_files = vec![d(1), d(2), d(3)];
        assert_eq!((newer(&zone, d(1)), newer(&zone, d(2))), (Some(d(3)), Some(d(3))));
        assert_eq!((newer(&zone, d(3)), newer(&zone, d(4))), (None, None), "one that is unknown may be newer still");
    }
}
