//! Adapters and checks as one table: every check is run, against real servers.
//!
//! `cargo test -p zoneward-targets conformance_table -- --nocapture` prints it. With `ZONEWARD_ALL_SERVERS=1` a server that is
//! not installed is a failure.

use super::{CheckResult, Outcome};
use crate::{directory, s3, server, sftp, webdav};

type Run = fn() -> Option<Vec<CheckResult>>;

const ADAPTERS: [(&str, Run); 5] = [
    ("directory", || Some(directory::tests::conformance_results())),
    ("target server", || Some(server::tests::conformance_results())),
    ("S3 (s3s)", || Some(s3::tests::conformance_results())),
    ("WebDAV (Apache)", webdav::tests::conformance_results),
    ("SFTP (OpenSSH)", sftp::tests::conformance_results),
];

#[test]
fn conformance_table() {
    let columns: Vec<_> = ADAPTERS.iter().map(|(name, run)| (*name, run())).collect();
    let names: Vec<&str> = columns[0].1.iter().flatten().map(|r| r.name).collect();
    let (mut failed, mut notes) = (Vec::new(), Vec::new());
    println!("| check | {} |", columns.iter().map(|(n, _)| *n).collect::<Vec<_>>().join(" | "));
    println!("| --- |{}", " --- |".repeat(columns.len()));
    for name in &names {
        let mut line = format!("| {name} |");
        for (adapter, results) in &columns {
            let found = results.as_ref().map(|all| all.iter().filter(|r| r.name == *name).collect::<Vec<_>>());
            line += match found.as_deref() {
                None => " not run |",
                Some([CheckResult { outcome: Outcome::Passed, .. }]) => " passed |",
                Some([CheckResult { outcome: Outcome::Skipped(why), .. }]) => {
                    notes.push(format!("{adapter}: {name}: {why}"));
                    " not for it |"
                }
                other => {
                    failed.push(format!("{adapter}: {name}: {other:?}"));
                    " FAILED |"
                }
            };
        }
        println!("{line}");
    }
    notes.iter().for_each(|n| println!("not for it: {n}"));
    let ran = columns.iter().filter(|(_, r)| r.is_some());
    println!("{} checks, {} adapters, {} failed", names.len(), ran.clone().count(), failed.len());
    assert!(failed.is_empty(), "{failed:#?}");
    // What an adapter says that it cannot do is known here: nothing is skipped unseen.
    assert_eq!(notes.len(), 1, "{notes:#?}");
    assert!(ran.clone().all(|(_, r)| r.as_ref().is_some_and(|r| r.len() == names.len())));
    if std::env::var_os("ZONEWARD_ALL_SERVERS").is_some() {
        assert_eq!(ran.count(), ADAPTERS.len(), "a server is not installed");
    }
}
