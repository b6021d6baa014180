//! Every number that the program can show has its row in `docs/errors.md`, and no row speaks of a number that is gone.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn sources(dir: &Path, out: &mut Vec<PathBuf>) {
    for e in fs::read_dir(dir).unwrap() {
        let path = e.unwrap().path();
        match path.is_dir() {
            true => sources(&path, out),
            false => out.push(path),
        }
    }
}

/// Numbers that follow `marker` in a text.
fn numbers(text: &str, marker: &str) -> BTreeSet<u16> {
    let four = |s: &str| s.get(..4).and_then(|d| d.parse().ok());
    text.split(marker).skip(1).filter_map(|rest| four(rest.trim_start())).collect()
}

#[test]
fn every_error_has_a_page_and_every_page_an_error() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    sources(&root.join("src"), &mut files);
    let mut shown = BTreeSet::new();
    for f in files {
        let text = fs::read_to_string(&f).unwrap();
        shown.extend(numbers(&text, "Failure::new("));
        // A target's trouble takes its number from a match.
        if f.ends_with("translate.rs") {
            shown.extend(numbers(&text, "=> ").into_iter().filter(|n| *n > 1000));
        }
    }
    let explained = numbers(&fs::read_to_string(root.join("../docs/errors.md")).unwrap(), "| ZW-");
    assert!(shown.len() > 40, "the search finds no numbers any more: {shown:?}");
    assert_eq!(shown, explained);
}
