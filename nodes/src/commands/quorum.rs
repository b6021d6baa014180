//! `zone recover-quorum`: the owner goes on with one node when the majority is lost for good.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zoneward_consensus::command::Command;
use zoneward_consensus::quorum;
use zoneward_sectors::crypto::Signer;

use super::keys::unlock;
use super::{open, serving};
use crate::cli::{Global, ZoneCommand};
use crate::errors::{Failure, exit};
use crate::output::Out;

pub fn zone(g: &Global, out: Out, command: ZoneCommand) -> Result<i32, Failure> {
    match command {
        ZoneCommand::RecoverQuorum { confirm } => recover_quorum(g, out, confirm.as_deref()),
    }
}

fn recover_quorum(g: &Global, out: Out, confirm: Option<&str>) -> Result<i32, Failure> {
    if serving(g).is_some() {
        return Err(Failure::new(2051, exit::REFUSED, "a daemon runs on this home, and it may still find the others")
            .help("stop it first; then this command again"));
    }
    let mut zone = open(g)?;
    let me = zone.node();
    let record = zone.state().zone.clone().ok_or_else(|| Failure::new(1005, exit::FAILED, "this home has no zone"))?;
    let others: Vec<String> = zone.state().nodes.values().filter(|n| n.id != me).map(|n| n.name.clone()).collect();
    if others.is_empty() {
        return Err(Failure::new(2052, exit::REFUSED, "this node is the zone's only one, and decides alone already")
            .help("zoneward status says what it waits for"));
    }
    if confirm != Some(record.name.as_str()) {
        return Err(Failure::new(
            2053,
            exit::REFUSED,
            format!("this takes {} for lost for good and goes on with this node alone", others.join(", ")),
        )
        .why(
            "if they still run somewhere, they go on as a zone of their own, and neither side knows what the other does"
                .to_owned(),
        )
        .help(format!(
            "switch them off first; then: zoneward zone recover-quorum --confirm {}; never start them again with their \
             old homes",
            record.name
        )));
    }
    let unlocked = unlock(g, &zone)?;
    let generation = record.generation + 1;
    let signature = unlocked.keys.signing_key().sign(&quorum::message(record.id, generation, me));
    zone.recover_quorum(Command::RecoverQuorum { generation, signature: STANDARD.encode(signature) })?;
    out.json(&serde_json::json!({
        "schema": "zoneward.recover-quorum/1", "zone": record.id, "node": me, "generation": generation, "lost": others,
    }));
    out.say(format!("the zone goes on with this node alone; {} count as broken", others.join(", ")));
    out.say("next: zoneward up; zoneward node invite for each new device; zoneward node replace OLD NEW");
    Ok(0)
}
