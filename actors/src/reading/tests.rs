use std::fs;

use zoneward_sectors::ids::SourceId;

use super::*;

struct Place {
    dir: tempfile::TempDir,
    source: Source,
}

impl Place {
    fn new(reading: Reading) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for d in ["home", "data"] {
            fs::create_dir(dir.path().join(d)).unwrap();
        }
        let source = Source {
            id: SourceId([7; 16]),
            path: dir.path().join("data").into_os_string().into_vec(),
            priority: 0,
            copies: None,
            excludes: Vec::new(),
            exclude_caches: false,
            one_file_system: false,
            added_ms: 0,
            grounds: Default::default(),
            last_entries: 0,
            nodes: Vec::new(),
            reading,
            write_only: false,
        };
        allowed::allow(&dir.path().join("home"), source.id, &source.reading).unwrap();
        Self { dir, source }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn ready(&self, stop: bool) -> Result<Ready, ZoneError> {
        let home = self.path("home");
        let here = Here { home: &home, node: "attic" };
        make_ready(here, &self.source, self.path("data"), &AtomicBool::new(stop))
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }
}

/// Commands that write down what they are told, in `log` beside the source.
fn hooks(before: &str) -> Reading {
    let log =
        r#"echo "$ZONEWARD_HOOK $ZONEWARD_OUTCOME $ZONEWARD_NODE $ZONEWARD_SOURCE_ID" >> "$ZONEWARD_SOURCE/../log""#;
    Reading {
        before: Some(format!("{log}; {before}")),
        after: Some(log.into()),
        snapshot: SnapshotKind::Off,
        ..Reading::default()
    }
}

const ID: &str = "07070707070707070707070707070707";

#[test]
fn a_source_is_read_between_its_commands() {
    let place = Place::new(hooks("true"));
    let mut ready = place.ready(false).unwrap();
    assert_eq!((ready.root.clone(), ready.clones), (place.path("data"), false));
    assert_eq!(place.log(), format!("before  attic {ID}\n"));
    ready.end(Outcome::Read);
    ready.end(Outcome::Failed);
    drop(ready);
    assert_eq!(place.log(), format!("before  attic {ID}\nafter read attic {ID}\n"), "once, whatever comes later");
}

#[test]
fn the_command_after_runs_whatever_happens() {
    let place = Place::new(hooks("echo no room >&2; exit 9"));
    let e = place.ready(false).unwrap_err();
    assert!(matches!(&e, ZoneError::Hook { what: "before", .. }), "{e:?}");
    assert!(e.to_string().ends_with("failed: it ended with exit code 9: no room"), "{e}");
    assert_eq!(place.log(), format!("before  attic {ID}\nafter failed attic {ID}\n"));
    // What reads the source panics or returns early.
    let place = Place::new(hooks("true"));
    drop(place.ready(false).unwrap());
    assert!(place.log().ends_with(&format!("after failed attic {ID}\n")));
    let place = Place::new(hooks("sleep 60"));
    assert!(matches!(place.ready(true), Err(ZoneError::Interrupted)));
    assert!(place.log().ends_with(&format!("after failed attic {ID}\n")));
    let limit = Place::new(Reading { limit_s: 1, ..hooks("sleep 60") });
    let e = limit.ready(false).unwrap_err();
    assert!(e.to_string().contains("took longer than 1 s"), "{e}");
    assert!(limit.log().ends_with(&format!("after failed attic {ID}\n")));
    let after = Place::new(Reading { after: Some("exit 3".into()), ..hooks("true") });
    let mut ready = after.ready(false).unwrap();
    ready.end(Outcome::Read);
    assert_eq!(ready.failed, 1);
    assert_eq!(ready.notes, ["the command after it failed: it ended with exit code 3"]);
}

#[test]
fn what_was_not_allowed_here_does_not_run() {
    let mut place = Place::new(hooks("true"));
    place.source.reading.after = Some("touch /tmp/never".into());
    let e = place.ready(false).unwrap_err();
    assert!(matches!(&e, ZoneError::NotAllowed { what: "after", .. }), "{e:?}");
    assert_eq!(place.log(), "", "not even the one before, which is allowed");
}

#[test]
fn a_command_names_what_is_read() {
    let of = |text: &str| {
        let place = Place::new(Reading {
            snapshot: SnapshotKind::Command,
            snapshot_command: Some(text.into()),
            ..hooks("true")
        });
        let ready = place.ready(false);
        (place, ready)
    };
    let (place, ready) =
        of(r#"cp -r "$ZONEWARD_SOURCE" "$ZONEWARD_SOURCE/../shot"; echo made; echo "$ZONEWARD_SOURCE/../shot""#);
    let mut ready = ready.unwrap();
    assert_eq!(ready.root, place.path("data/../shot"));
    // It is read until the end, and removing it is for the command after.
    assert!(!place.log().contains("after"));
    ready.end(Outcome::Read);
    assert!(place.log().contains("after read"));
    for bad in ["echo relative/path", "true", "exit 1"] {
        let (place, ready) = of(bad);
        assert!(matches!(ready, Err(ZoneError::Hook { .. })), "{bad}");
        assert!(place.log().contains("after failed"), "{bad}");
    }
}

#[test]
fn a_kind_that_was_asked_for_and_cannot_be_had_fails_the_source_and_auto_does_not() {
    // Where tests run there may be anything; `/proc` is neither of these.
    let here = |kind| {
        let mut place = Place::new(Reading { snapshot: kind, ..hooks("true") });
        place.source.one_file_system = true;
        let home = place.path("home");
        let here = Here { home: &home, node: "attic" };
        let ready = make_ready(here, &place.source, "/proc/sys".into(), &AtomicBool::new(false));
        ready.map(|mut r| {
            r.end(Outcome::Read);
            (r.notes.clone(), r.root.clone())
        })
    };
    assert_eq!(here(SnapshotKind::Auto).unwrap_or_default().1, PathBuf::from("/proc/sys"));
    for kind in [SnapshotKind::Btrfs, SnapshotKind::Zfs, SnapshotKind::Lvm, SnapshotKind::Reflink] {
        assert!(matches!(here(kind), Err(ZoneError::Snapshot { .. })), "{kind:?}");
    }
}
