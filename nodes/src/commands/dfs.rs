//! `dfs`: names that lie at different places on different nodes.

use std::path::Path;

use zoneward_consensus::command::Command;
use zoneward_consensus::model::State;
use zoneward_consensus::names::{SCHEME, is_name, is_place};

use super::{absolute, node_by_name, open};
use crate::cli::{DfsCommand, Global};
use crate::errors::{Failure, exit};
use crate::output::Out;

pub fn dfs(g: &Global, out: Out, command: DfsCommand) -> Result<i32, Failure> {
    let mut zone = open(g)?;
    let one = |state: &State, node: &Option<String>| node.as_deref().map(|n| node_by_name(state, n)).transpose();
    let said = match command {
        DfsCommand::Ls => None,
        DfsCommand::Map { name, path, node } => {
            let name = plain(&name)?;
            let node = one(zone.state(), &node)?;
            let path = place(&path)?;
            zone.propose(Command::MapName { name: name.clone(), node, path: Some(path.clone()) })?;
            Some(format!("{SCHEME}{name} lies at {path} {}", if node.is_some() { "there" } else { "on all nodes" }))
        }
        DfsCommand::Unmap { name, node } => {
            let name = plain(&name)?;
            let node = one(zone.state(), &node)?;
            zone.propose(Command::MapName { name: name.clone(), node, path: None })?;
            Some(format!(
                "{SCHEME}{name} is forgotten {}",
                if node.is_some() { "there" } else { "where no node is named" }
            ))
        }
    };
    if let Some(said) = said {
        out.say(said);
        if !out.json {
            return Ok(0);
        }
    }
    list(out, zone.state());
    Ok(0)
}

fn list(out: Out, state: &State) {
    let node = |id| state.nodes.get(id).map_or_else(|| format!("{id}"), |n| n.name.clone());
    let names = &state.policy.names;
    out.json(&serde_json::json!({"schema": "zoneward.names/1", "names": names.iter().map(|(name, m)| serde_json::json!({
        "name": name, "everywhere": m.everywhere,
        "nodes": m.nodes.iter().map(|(id, path)| serde_json::json!({"node": id, "name": node(id), "path": path})).collect::<Vec<_>>(),
    })).collect::<Vec<_>>()}));
    for (name, m) in names {
        if let Some(path) = &m.everywhere {
            out.answer(format!("{SCHEME}{name:<12} {path}"));
        }
        for (id, path) in &m.nodes {
            out.answer(format!("{SCHEME}{name:<12} {path}  on {}", node(id)));
        }
    }
}

/// A name, with or without the scheme.
fn plain(text: &str) -> Result<String, Failure> {
    let name = text.strip_prefix(SCHEME).unwrap_or(text).trim_end_matches('/');
    if is_name(name) {
        return Ok(name.to_owned());
    }
    Err(Failure::new(1414, exit::USAGE, format!("{text:?} is no dfs name")).why("letters, digits and -_. make one"))
}

/// A place as it is kept. It need not be there now, nor on this node.
fn place(path: &Path) -> Result<String, Failure> {
    let path = absolute(path)?;
    let text = path.components().collect::<std::path::PathBuf>().to_str().map(str::to_owned);
    text.filter(|t| is_place(t)).ok_or_else(|| {
        Failure::new(1404, exit::USAGE, format!("{} is no place for a dfs name", path.display()))
            .why("an absolute path of UTF-8, without .., is one")
    })
}
