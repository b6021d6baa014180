//! `dfs://name/…`: paths that lie at different places on different nodes. A table of the zone says where each name lies; what is
//! stored of such a source is called by its dfs name, so that any node that has the name can pack it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use zoneward_sectors::ids::NodeId;

use crate::limits::{NAME_LEN_MAX, PATH_LEN_MAX};
use crate::model::{Source, State};

/// What such paths begin with.
pub const SCHEME: &str = "dfs://";

/// Where one name lies.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mapped {
    /// On every node that is not named.
    pub everywhere: Option<String>,
    pub nodes: BTreeMap<NodeId, String>,
}

impl Mapped {
    /// Where it lies on a node.
    pub fn at(&self, node: NodeId) -> Option<&str> {
        self.nodes.get(&node).or(self.everywhere.as_ref()).map(String::as_str)
    }

    pub fn is_empty(&self) -> bool {
        self.everywhere.is_none() && self.nodes.is_empty()
    }
}

/// Whether a name can be one.
pub fn is_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    !name.is_empty() && name.len() <= NAME_LEN_MAX && !name.starts_with('.') && name.chars().all(plain)
}

/// Whether a name may lie there: absolute, without `.` and `..`.
pub fn is_place(path: &str) -> bool {
    let parts = |p: &str| p.split('/').all(|c| !c.is_empty() && c != "." && c != "..");
    path.len() <= PATH_LEN_MAX && !path.contains('\0') && (path == "/" || path.strip_prefix('/').is_some_and(parts))
}

/// Name and rest of a dfs path; `None` for every other path.
fn split(path: &[u8]) -> Option<(&str, &[u8])> {
    let after = path.strip_prefix(SCHEME.as_bytes())?;
    let end = after.iter().position(|b| *b == b'/').unwrap_or(after.len());
    let (name, rest) = after.split_at_checked(end)?;
    Some((std::str::from_utf8(name).ok()?, rest.strip_prefix(b"/").unwrap_or(rest)))
}

/// The name in a dfs path.
pub fn name_of(path: &[u8]) -> Option<&str> {
    split(path).map(|(name, _)| name)
}

/// A dfs path without slashes at its end, and without doubled ones; every other path as it is.
pub fn one_form(path: &[u8]) -> Vec<u8> {
    let Some(rest) = path.strip_prefix(SCHEME.as_bytes()) else { return path.to_vec() };
    // A path without a name stays wrong.
    if rest.starts_with(b"/") {
        return path.to_vec();
    }
    let parts: Vec<&[u8]> = rest.split(|b| *b == b'/').filter(|p| !p.is_empty()).collect();
    [SCHEME.as_bytes(), &parts.join(&b'/')].concat()
}

/// Whether a source may have this path: absolute, or a dfs path in its one form.
pub fn is_source_path(path: &[u8]) -> bool {
    if path.contains(&0) || path.len() > PATH_LEN_MAX {
        return false;
    }
    if path.starts_with(b"/") {
        return true;
    }
    let good = |c: &[u8]| !c.is_empty() && c != b"." && c != b"..";
    split(path).is_some_and(|(name, rest)| {
        let slash = path.len() > SCHEME.len() + name.len();
        is_name(name) && (!slash || rest.split(|b| *b == b'/').all(good))
    })
}

/// A source's place in a tar, and below a directory that it is restored to: its path without what makes it absolute.
pub fn inside(path: &[u8]) -> Vec<u8> {
    match path.strip_prefix(SCHEME.as_bytes()) {
        Some(rest) => [b"dfs:/", rest].concat(),
        None => path.strip_prefix(b"/").unwrap_or(path).to_vec(),
    }
}

impl State {
    /// Where a path lies on a node; `None` if its dfs name lies nowhere there.
    pub fn place_on(&self, node: NodeId, path: &[u8]) -> Option<Vec<u8>> {
        let Some((name, rest)) = split(path) else { return Some(path.to_vec()) };
        let at = self.policy.names.get(name)?.at(node)?;
        let slash: &[u8] = if at.ends_with('/') || rest.is_empty() { b"" } else { b"/" };
        Some([at.as_bytes(), slash, rest].concat())
    }

    /// Whether a node has a place for a source's path.
    pub(crate) fn has_place(&self, node: NodeId, source: &Source) -> bool {
        name_of(&source.path).is_none_or(|n| self.policy.names.get(n).is_some_and(|m| m.at(node).is_some()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apply::{Outcome, Refusal, apply};
    use crate::command::Command;
    use crate::samples as s;

    #[test]
    fn paths_have_one_form() {
        for good in ["/", "/a b/c", "dfs://media", "dfs://media/photos", "dfs://m-1_x.y/a b/ü"] {
            assert!(is_source_path(good.as_bytes()), "{good}");
        }
        for bad in [
            "",
            "a",
            "dfs:/media",
            "dfs://",
            "dfs:///a",
            "dfs://media/",
            "dfs://media//a",
            "dfs://media/../a",
            "dfs://me dia",
            "dfs://.a",
            "dfs://media/.",
            "DFS://media",
            "/a\0b",
            "http://media",
        ] {
            assert!(!is_source_path(bad.as_bytes()), "{bad}");
        }
        for (given, one) in [
            ("dfs://media/", "dfs://media"),
            ("dfs://media//a///", "dfs://media/a"),
            ("dfs://media/../a/", "dfs://media/../a"),
            ("dfs:///a/", "dfs:///a/"),
            ("/a//b/", "/a//b/"),
        ] {
            assert_eq!(one_form(given.as_bytes()), one.as_bytes());
        }
        assert_eq!(inside(b"dfs://media/photos"), b"dfs:/media/photos");
        assert_eq!((inside(b"/a/b"), inside(b"/")), (b"a/b".to_vec(), Vec::new()));
        for (place, good) in
            [("/", true), ("/mnt/a", true), ("mnt", false), ("/mnt/", false), ("/a/../b", false), ("", false)]
        {
            assert_eq!(is_place(place), good, "{place}");
        }
    }

    fn say(state: &mut State, name: &str, node: Option<NodeId>, path: Option<&str>) -> Outcome {
        let command = Command::MapName { name: name.into(), node, path: path.map(str::to_owned) };
        let index = state.revision + 1;
        apply(state, index, 1, s::node(), &command).0
    }

    #[test]
    fn a_name_lies_where_each_node_has_it() {
        let mut state = s::state();
        let (me, other) = (s::node(), NodeId([9; 16]));
        let place = |state: &State, n, p: &str| state.place_on(n, p.as_bytes()).map(|p| String::from_utf8(p).unwrap());
        assert_eq!(place(&state, me, "/a"), Some("/a".into()));
        assert_eq!(place(&state, me, "dfs://share/a"), None);
        assert_eq!(say(&mut state, "share", Some(me), Some("/mnt/share")), Outcome::Done);
        assert_eq!(place(&state, me, "dfs://share/a"), Some("/mnt/share/a".into()));
        assert_eq!(place(&state, me, "dfs://share"), Some("/mnt/share".into()));
        assert_eq!(place(&state, other, "dfs://share"), None);
        s::done(&mut state, 900, &s::put_source(8, b"dfs://share/a", 1));
        let source = state.sources[&s::source(8)].clone();
        assert!(state.can_read(me, &source) && !state.can_read(other, &source));
        assert_eq!(say(&mut state, "share", None, Some("/")), Outcome::Done);
        assert_eq!(place(&state, other, "dfs://share/a"), Some("/a".into()));
        assert_eq!(place(&state, me, "dfs://share"), Some("/mnt/share".into()), "what is said of one node goes before");
        for (name, node, path) in [("a b", None, Some("/x")), ("x", None, Some("x"))] {
            assert!(matches!(say(&mut state, name, node, path), Outcome::Refused(Refusal::Range(_))), "{name}");
        }
        assert_eq!(say(&mut state, "x", Some(other), Some("/x")), Outcome::Refused(Refusal::Unknown("the node")));
        assert_eq!(say(&mut state, "x", None, None), Outcome::Refused(Refusal::Unknown("the name")));
        // A name that sources use is not taken from under them.
        assert_eq!(say(&mut state, "share", None, None), Outcome::Done);
        assert_eq!(
            say(&mut state, "share", Some(me), None),
            Outcome::Refused(Refusal::State("a name that a source uses"))
        );
        s::done(&mut state, 950, &Command::RemoveSource { source: s::source(8) });
        assert_eq!(say(&mut state, "share", Some(me), None), Outcome::Done);
        assert!(!state.policy.names.contains_key("share"));
    }
}
