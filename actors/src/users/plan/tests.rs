use super::*;
use zoneward_consensus::model::CheckpointKind;
use zoneward_consensus::users::UserKey;

fn source(n: u8, path: &Path, priority: i32, copies: Option<u8>) -> Source {
    Source {
        id: SourceId([n; 16]),
        path: path.as_os_str().as_encoded_bytes().to_vec(),
        priority,
        copies,
        excludes: vec!["*.tmp".into()],
        exclude_caches: true,
        one_file_system: false,
        added_ms: 9,
        grounds: Default::default(),
        last_entries: 9,
        nodes: vec![NodeId([9; 16])],
        reading: Reading { before: Some("evil".into()), ..Reading::default() },
        write_only: false,
    }
}

fn user(name: &str, rights: Rights) -> User {
    let sources = Default::default();
    User { id: UserId([1; 16]), name: name.into(), added_ms: 1, sources, rights, locked: false, key: None }
}

fn schedule(sources: &[u8]) -> Schedule {
    Schedule {
        cron: "0 3 * * *".into(),
        time_zone: None,
        window: None,
        sources: sources.iter().map(|n| SourceId([*n; 16])).collect(),
        checkpoint_kind: CheckpointKind::Incremental,
        idle_wait_min: 0,
        paused: false,
        since_ms: 5,
        begun_ms: 5,
    }
}

const HAD: Rights = Rights { priority_max: 20, copies_max: 3, quota_bytes: None };

/// What somebody brings who had much: a folder and a share.
fn brought(dir: &Path) -> Offer {
    let offered = |source| Offered { source, files: 2, bytes: 1000 };
    Offer {
        zone: ZoneId([3; 16]),
        user: user("ann", HAD),
        fingerprint: Digest([3; 32]),
        checkpoint: CheckpointId([4; 16]),
        tags: Default::default(),
        sources: vec![
            offered(source(1, &dir.join("docs"), 15, None)),
            offered(source(2, Path::new("dfs://media/ann"), -20, Some(2))),
        ],
        schedules: BTreeMap::from([("nightly".to_owned(), schedule(&[1, 2]))]),
    }
}

fn asked(dir: &Path) -> Asked {
    Asked { at: BTreeMap::from([(b"dfs://media/ann".to_vec(), dir.join("media"))]), ..Asked::default() }
}

const NODE: NodeId = NodeId([7; 16]);

#[test]
fn with_the_same_rights_everything_comes_as_it_was_but_what_belongs_to_the_other_machine() {
    let dir = tempfile::tempdir().unwrap();
    let here = dir.path().canonicalize().unwrap();
    let asked = Asked { grant: true, ..asked(&here) };
    let (plan, said) = plan(&State::default(), NODE, &brought(&here), &asked);
    assert_eq!((&said.clashes, &said.fewer), (&vec![], &vec![]));
    assert!(plan.new && plan.granted.cover(&HAD));
    let [docs, media] = &plan.sources[..] else { panic!() };
    assert_eq!((docs.place(), media.place()), (here.join("docs"), here.join("media")));
    for (coming, was) in [(docs, 15), (media, -20)] {
        let s = &coming.source;
        assert_eq!((s.priority, &s.nodes, s.last_entries), (was, &vec![NODE], 0));
        assert!(s.exclude_caches && s.excludes == ["*.tmp"] && s.id != coming.held);
        assert_eq!(s.reading, Reading::default(), "commands of another machine are not taken");
    }
    assert_eq!(plan.schedules["nightly"].sources, [docs.source.id, media.source.id]);
}

#[test]
fn fewer_rights_are_told_and_settings_lowered_to_them() {
    let dir = tempfile::tempdir().unwrap();
    let mut state = State::default();
    let few = Rights { priority_max: 3, copies_max: 1, quota_bytes: Some(1 << 20) };
    state.users.insert(UserId([1; 16]), user("ann", few));
    let (got, said) = plan(&state, NODE, &brought(dir.path()), &asked(dir.path()));
    assert_eq!((got.granted, got.new), (few, false));
    let all = said.fewer.join("; ");
    for part in [
        "up to 3: he had up to 20",
        "1 copies: he had",
        "1048576 bytes: he had any",
        "priority 15 becomes 3",
        "2 copies become 1",
    ] {
        assert!(all.contains(part), "{part}: {all}");
    }
    assert_eq!(said.clashes, Vec::<String>::new());
    for s in &got.sources {
        assert_eq!(few.exceeded(&state, &s.source), None);
    }
    // More room than there is for his data is no matter of settings.
    state.users.get_mut(&UserId([1; 16])).unwrap().rights.quota_bytes = Some(1999);
    let (_, said) = plan(&state, NODE, &brought(dir.path()), &asked(dir.path()));
    assert!(said.clashes[0].contains("2000 bytes"), "{said:?}");
}

#[test]
fn all_that_stands_in_the_way_is_named_before_anything_is_done() {
    let dir = tempfile::tempdir().unwrap();
    let here = dir.path().canonicalize().unwrap();
    let mut state = State::default();
    let key = UserKey {
        fingerprint: Digest([8; 32]),
        public: String::new(),
        sign_public: String::new(),
        file: String::new(),
        signer: String::new(),
    };
    state.users.insert(UserId([1; 16]), User { locked: true, key: Some(key), ..user("ann", HAD) });
    state.policy.schedules.insert("nightly".into(), schedule(&[]));
    std::fs::write(here.join("docs"), "mine").unwrap();
    let mut offer = brought(&here);
    offer.sources.push(Offered { source: source(5, &here.join("none/x"), 0, None), files: 0, bytes: 0 });
    offer.sources.push(Offered { source: source(6, &here.join("a"), 0, None), files: 0, bytes: 0 });
    offer.sources.push(Offered { source: source(7, &here.join("b"), 0, None), files: 0, bytes: 0 });
    offer.sources[4].source.excludes = vec!["[".into()];
    let at = [("b", "a/in"), ("unknown", "c")];
    let at = at.map(|(was, to)| (here.join(was).into_os_string().into_vec(), here.join(to)));
    let (got, said) = plan(&state, NODE, &offer, &Asked { at: at.into(), ..Asked::default() });
    let all = said.clashes.join("\n");
    for part in [
        "is locked here",
        "has another key",
        "something is at",
        "needs a place here: --at dfs://media/ann=PATH",
        "there is no folder",
        "would lie in one another",
        "holds no source",
        "pattern",
    ] {
        assert!(all.contains(part), "{part}: {all}");
    }
    assert_eq!(got.schedules.keys().collect::<Vec<_>>(), ["nightly-ann"]);
    assert!(said.notes.iter().any(|n| n.contains("nightly-ann")), "{said:?}");
    // Another name is another person.
    let (got, said) = plan(&state, NODE, &offer, &Asked { name: Some("ann2".into()), ..Asked::default() });
    assert!(got.new && !said.clashes.join("\n").contains("locked"));
}
