//! Objects that are replaced whole on a server that is not sure to replace a file whole.
//!
//! Each version is a file of its own, `<name>.<number>.<SHA-256>`: a reader takes the highest one whose bytes are those of
//! its name, so that one that is half there does not count. The last two are kept.

use bytes::Bytes;
use zoneward_sectors::crypto::sha256;
use zoneward_sectors::ids::ZoneAlias;

use super::client::Client;
use crate::errors::{Op, TargetError};
use crate::net::place;
use crate::target::ObjectName;

/// How often a reader looks again because what it found was replaced meanwhile.
const LOOKS_MAX: usize = 16;

/// Its number, and its whole name: in the order of versions.
type Version = (u64, String);

fn read_name(name: &str, file: &str) -> Option<Version> {
    let (number, hash) = name.strip_prefix(file)?.strip_prefix('.')?.split_once('.')?;
    let fits = number.len() == 20 && hash.len() == 64 && number.bytes().all(|b| b.is_ascii_digit());
    Some((number.parse().ok().filter(|_| fits)?, name.to_owned()))
}

/// All versions, the newest first.
async fn versions(client: &Client, op: Op, alias: ZoneAlias, name: ObjectName) -> Result<Vec<Version>, TargetError> {
    let entries = client.list(op, &place::zone(alias)).await?;
    let names = entries.iter().filter(|e| !e.folder).filter_map(|e| read_name(&e.name, name.file_name()));
    let mut all: Vec<Version> = names.collect();
    all.sort_unstable_by(|a, b| b.cmp(a));
    Ok(all)
}

pub(super) async fn put(client: &Client, alias: ZoneAlias, name: ObjectName, bytes: Bytes) -> Result<(), TargetError> {
    let (op, what, folder) = (Op::PutObject, place::object(alias, name), place::zone(alias));
    let before = versions(client, op, alias, name).await?;
    let number = before.first().map_or(1, |(n, _)| n.saturating_add(1));
    let path = format!("{folder}/{}.{number:020}.{}", name.file_name(), sha256(&[&bytes]));
    client.put(op, &what, &path, bytes).await?;
    for (_, old) in before.iter().skip(1) {
        // One that cannot be removed now is removed after the next put.
        let _ = client.delete(op, &what, &format!("{folder}/{old}")).await;
    }
    Ok(())
}

pub(super) async fn get(client: &Client, alias: ZoneAlias, name: ObjectName, limit: u64) -> Result<Bytes, TargetError> {
    let (op, what, folder) = (Op::GetObject, place::object(alias, name), place::zone(alias));
    let (mut torn, mut denied) = (false, None);
    for _ in 0..LOOKS_MAX {
        let all = versions(client, op, alias, name).await?;
        if all.is_empty() {
            return Err(TargetError::NotFound { op, what });
        }
        for (_, version) in all {
            match client.get(op, &what, &format!("{folder}/{version}"), limit).await {
                Ok(bytes) if version.ends_with(&sha256(&[&bytes]).to_string()) => return Ok(bytes),
                // On its way, or damaged: the one before it counts.
                Ok(_) => torn = true,
                Err(e) if e.is_not_found() => {}
                // Apache says so too of a file that went away after it had looked: it counts if it is still there.
                Err(TargetError::Denied { .. }) if denied.as_ref() != Some(&version) => {
                    denied = Some(version);
                    break;
                }
                Err(e) => return Err(e),
            }
        }
    }
    let reason = if torn { "no version of it is whole" } else { "its versions come and go" };
    Err(TargetError::Protocol { op, what, reason: reason.to_owned() })
}
