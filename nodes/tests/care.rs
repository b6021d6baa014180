//! What the program takes care of beside its main job: settings, secrets, terminals, other people's files.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod bench;
mod wait;

use std::fs;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::Stdio;

use bench::{Bench, PASSPHRASE};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, tcgetattr};

fn sources(b: &Bench) -> serde_json::Value {
    let o = b.run(&["--json", "source", "ls"]);
    serde_json::from_slice::<serde_json::Value>(&o.stdout).unwrap()["sources"].clone()
}

#[test]
fn what_was_only_tried_or_refused_changes_no_setting() {
    let b = Bench::new();
    fs::write(b.path("src/a"), b"a").unwrap();
    b.init();
    b.expect(0, &["backup", "--dry-run", "src"]);
    assert_eq!(sources(&b), serde_json::json!([]), "a try made a source");
    b.expect(0, &["backup", "src"]);
    let before = sources(&b);
    b.expect(0, &["backup", "-n", "src", "--exclude", "*.tmp", "--priority", "9"]);
    assert_eq!(sources(&b), before);
    fs::rename(b.path("src/a"), b.path("a")).unwrap();
    b.expect(4, &["backup", "src", "--exclude", "*.tmp"]);
    assert_eq!(sources(&b), before, "a refused backup changed a setting");
    // One of two is refused; the other keeps what was said of it.
    fs::create_dir(b.path("other")).unwrap();
    fs::write(b.path("other/o"), b"o").unwrap();
    b.expect(4, &["backup", "src", "other", "--priority", "7"]);
    let after = sources(&b);
    let of = |name: &str| {
        let mut all = after.as_array().unwrap().iter();
        all.find(|s| s["path"].as_str().unwrap().ends_with(name)).unwrap()["priority"].clone()
    };
    assert_eq!((of("src"), of("other")), (0.into(), 7.into()));
    fs::rename(b.path("a"), b.path("src/a")).unwrap();
    b.expect(0, &["backup", "src", "--exclude", "*.tmp"]);
    assert_eq!(sources(&b).to_string().matches("*.tmp").count(), 1);
}

#[test]
fn settings_without_a_path_are_a_slip() {
    let b = Bench::new();
    b.init();
    fs::write(b.path("src/a"), b"a").unwrap();
    b.expect(0, &["backup", "src"]);
    for option in [&["--exclude", "x"][..], &["--priority", "3"], &["--one-file-system"], &["--copies", "2"]] {
        let all = b.expect(2, &[&["backup"], option].concat());
        assert!(all.contains("PATH"), "{all}");
    }
}

#[test]
fn a_slip_of_the_hand_is_said_in_json_too() {
    let b = Bench::new();
    let o = b.run(&["--json", "restore"]);
    assert_eq!(o.status.code(), Some(2));
    let said: serde_json::Value = serde_json::from_slice(&o.stdout).unwrap();
    assert_eq!((&said["type"], &said["code"], &said["exit"]), (&"error".into(), &"ZW-1703".into(), &2.into()));
    b.init();
    let o = b.run(&["--json", "source", "ls"]);
    assert_eq!(serde_json::from_slice::<serde_json::Value>(&o.stdout).unwrap()["type"], "answer");
}

#[test]
fn one_path_that_is_not_there_keeps_no_other_from_its_backup() {
    let b = Bench::new();
    b.init();
    fs::write(b.path("src/a"), b"a").unwrap();
    let all = b.expect(1, &["backup", "nowhere"]);
    assert!(all.contains("ZW-1403") && all.contains("help:"), "{all}");
    let o = b.run(&["--json", "backup", "nowhere", "src"]);
    assert_eq!(o.status.code(), Some(3));
    let said = String::from_utf8(o.stdout).unwrap();
    let summary: serde_json::Value = serde_json::from_str(said.lines().last().unwrap()).unwrap();
    assert_eq!(summary["complete"], false);
    assert_eq!(summary["refused"][0]["code"], "ZW-1403");
    assert_eq!((&summary["seq"], &summary["sources"][0]["files"]), (&1.into(), &1.into()));
    b.expect(0, &["restore", "latest", "--to", "out"]);
    assert_eq!(fs::read(b.restored("out").join("a")).unwrap(), b"a");
}

#[test]
fn slips_are_numbered_and_say_what_helps() {
    let b = Bench::new();
    b.init();
    let all = b.expect(2, &["restore", "latest", "--tp", "out"]);
    assert!(all.starts_with("error[ZW-1703] unexpected argument '--tp'"), "{all}");
    for name in ["../x", "-x", "a b", ""] {
        let name = format!("--name={name}");
        assert!(b.expect(2, &["target", "add", "second", &name]).contains("ZW-1325"), "{name}");
    }
    assert!(!b.path("second").exists());
    b.expect(0, &["target", "add", "second", "--name", "disk-2"]);
    // A passphrase file is told of where others can read it, and where it is not there.
    fs::write(b.path("pass"), PASSPHRASE).unwrap();
    let sector = |file: &str| b.command(&["key", "show-recovery", "--passphrase-file", file]).output().unwrap();
    let told = |o: &std::process::Output| String::from_utf8_lossy(&o.stderr).contains("others can read");
    fs::set_permissions(b.path("pass"), fs::Permissions::from_mode(0o644)).unwrap();
    assert!(told(&sector("pass")));
    fs::set_permissions(b.path("pass"), fs::Permissions::from_mode(0o600)).unwrap();
    assert!(!told(&sector("pass")));
    let gone = String::from_utf8(sector("gone").stderr).unwrap();
    assert!(gone.contains("ZW-1102") && gone.contains("help:"), "{gone}");
}

#[test]
fn keys_are_kept_away_from_targets() {
    let b = Bench::new();
    let home = b.path("zone");
    let all = b.expect(4, &["init", "--target", home.parent().unwrap().to_str().unwrap()]);
    assert!(all.contains("ZW-1007"), "{all}");
    let all = b.expect(4, &["init", "--target", "target", "--kit", "target/kit.html"]);
    assert!(all.contains("ZW-1112"), "{all}");
    assert!(!home.exists() && !b.path("target").exists(), "a refused init left something");
    b.init();
    let kit = b.path("target/kit.html");
    let all = b.expect(4, &["key", "show-recovery", "--kit", kit.to_str().unwrap()]);
    assert!(all.contains("ZW-1112") && !kit.exists(), "{all}");
    let all = b.expect(4, &["target", "add", home.to_str().unwrap()]);
    assert!(all.contains("ZW-1007"), "{all}");
}

#[test]
fn a_check_looks_at_the_owners_files_at_home() {
    let b = Bench::new();
    b.init();
    fs::write(b.path("src/a"), b"a").unwrap();
    b.expect(0, &["backup", "src"]);
    b.expect(0, &["check"]);
    let kit = b.path("zone/recovery-kit.html");
    fs::set_permissions(&kit, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(b.expect(5, &["check"]).contains("chmod 600"));
    fs::remove_file(&kit).unwrap();
    b.expect(0, &["check"]);
    fs::remove_file(b.path("zone/owner-key.json")).unwrap();
    assert!(b.expect(5, &["check"]).contains("owner-key.json"));
}

#[test]
fn names_are_found_however_they_are_spelled() {
    let b = Bench::new();
    b.init();
    fs::create_dir(b.path("src/d")).unwrap();
    fs::write(b.path("src/d/a"), b"content").unwrap();
    b.expect(0, &["backup", "src"]);
    for name in ["src/d/a", "./src/./d//a", "src/d/../d/a"] {
        assert!(b.expect(0, &["ls", "latest", name]).contains("src/d/a"), "{name}");
        assert_eq!(b.expect(0, &["cat", "latest", name]), "content");
    }
    b.expect(0, &["restore", "latest", "src/d/", "--to", "out"]);
    assert_eq!(fs::read(b.restored("out").join("d/a")).unwrap(), b"content");
    b.expect(0, &["source", "remove", "src/d/.."]);
}

#[test]
fn further_names_of_a_file_outside_keep_their_mode() {
    let b = Bench::new();
    b.init();
    fs::write(b.path("src/a"), b"content").unwrap();
    fs::set_permissions(b.path("src/a"), fs::Permissions::from_mode(0o600)).unwrap();
    b.expect(0, &["backup", "src"]);
    b.expect(0, &["restore", "latest", "--to", "out"]);
    let (inside, outside) = (b.restored("out").join("a"), b.path("elsewhere"));
    fs::hard_link(&inside, &outside).unwrap();
    fs::set_permissions(&outside, fs::Permissions::from_mode(0o644)).unwrap();
    b.expect(0, &["restore", "latest", "--to", "out"]);
    let (i, o) = (fs::metadata(&inside).unwrap(), fs::metadata(&outside).unwrap());
    assert_eq!((i.mode() & 0o777, o.mode() & 0o777), (0o600, 0o644));
    assert_ne!(i.ino(), o.ino());
}

/// Types at a question on a terminal; answers the exit code and what the terminal showed.
fn typed(b: &Bench, args: &[&str], keys: &[u8]) -> (Option<i32>, String) {
    let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&terminal).unwrap();
    unlockpt(&terminal).unwrap();
    let name = ptsname(&terminal, Vec::new()).unwrap();
    let open = || fs::File::options().read(true).write(true).open(name.to_str().unwrap()).unwrap();
    let side = open();
    let mut child = b.command(args);
    child.env_remove("ZONEWARD_PASSPHRASE").stdin(open()).stdout(Stdio::null()).stderr(open());
    let mut child = child.spawn().unwrap();
    let mut terminal = fs::File::from(terminal);
    // Once it asks it has made the terminal silent, or is about to: keys that come before count for nothing.
    let (mut shown, mut buf) = (Vec::new(), [0u8; 1024]);
    let silent = || !tcgetattr(side.as_fd()).unwrap().local_modes.contains(LocalModes::ECHO);
    while !silent() {
        assert!(child.try_wait().unwrap().is_none(), "it ended without a question");
        std::thread::yield_now();
    }
    terminal.write_all(keys).unwrap();
    let code = child.wait().unwrap().code();
    assert!(!silent(), "the terminal no longer shows what is typed");
    while !shown.ends_with(b"\n") || shown.is_empty() {
        let n = terminal.read(&mut buf).unwrap();
        shown.extend_from_slice(&buf[..n]);
    }
    (code, String::from_utf8_lossy(&shown).into_owned())
}

#[test]
fn a_question_leaves_the_terminal_as_it_was() {
    let b = Bench::new();
    b.init();
    let kit = b.path("kit.html");
    let args = ["key", "show-recovery", "--kit", kit.to_str().unwrap()];
    let (code, shown) = typed(&b, &args, b"half a secr\x03");
    assert_eq!(code, Some(130), "{shown}");
    assert!(!shown.contains("secr") && !kit.exists());
    let (code, shown) = typed(&b, &args, format!("wrong\x15{PASSPHRASE}\r").as_bytes());
    assert_eq!(code, Some(0), "{shown}");
    assert!(!shown.contains(PASSPHRASE) && kit.exists());
}

#[test]
fn nobody_to_tell_is_no_reason_to_break_off() {
    let b = Bench::new();
    b.init();
    let full = || fs::File::options().write(true).open("/dev/full").unwrap();
    for args in [&[][..], &["no-such-command"], &["--json", "nonsense"], &["completions", "bash"]] {
        let code = b.command(args).stdout(Stdio::null()).stderr(full()).status().unwrap().code();
        assert!(matches!(code, Some(0 | 2)), "{args:?}: {code:?}");
    }
    let code = b.command(&["completions", "bash"]).stdout(full()).stderr(Stdio::null()).status().unwrap().code();
    assert_eq!(code, Some(1));
}

#[test]
fn a_source_that_is_no_longer_backed_up_stays_in_its_checkpoints() {
    let b = Bench::new();
    b.init();
    for name in ["one", "two"] {
        fs::create_dir(b.path(name)).unwrap();
        fs::write(b.path(name).join("file"), name).unwrap();
    }
    b.expect(0, &["backup", "one", "two"]);
    b.expect(0, &["source", "remove", "one"]);
    assert_eq!(sources(&b).as_array().unwrap().len(), 1);
    let file = b.path("one/file");
    let file = file.to_str().unwrap();
    assert!(b.expect(0, &["checkpoints"]).contains("one"));
    assert_eq!(b.expect(0, &["cat", "1", file]), "one");
    assert!(b.expect(0, &["find", "file"]).contains(file));
    fs::remove_dir_all(b.path("one")).unwrap();
    // The next checkpoint is without it; the one before still brings it back.
    b.expect(0, &["backup"]);
    b.expect(0, &["check", "--read-data"]);
    b.expect(0, &["restore", "1", "--to", "out"]);
    let back = b.path("out").join(file.trim_start_matches('/'));
    assert_eq!(fs::read(back).unwrap(), b"one");
    // A source of that name is a new one.
    fs::create_dir(b.path("one")).unwrap();
    fs::write(b.path("one/file"), b"again").unwrap();
    b.expect(0, &["backup", "one"]);
    assert_eq!(b.expect(0, &["cat", "1", file]), "one");
    assert_eq!(b.expect(0, &["cat", "latest", file]), "again");
}

#[test]
fn a_kit_may_have_a_bare_name_and_a_passphrase_may_come_through_a_pipe() {
    let b = Bench::new();
    b.expect(0, &["init", "--target", "target", "--sector-min", "1MiB", "--kit", "kit.html"]);
    assert!(b.path("kit.html").exists());
    let mut c = b.command(&["--passphrase-file", "/dev/stdin", "key", "show-recovery", "--kit", "kit2.html"]);
    let mut child = c.env_remove("ZONEWARD_PASSPHRASE").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(format!("{PASSPHRASE}\n").as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
    assert!(b.path("kit2.html").exists());
}

#[test]
fn keys_of_a_zone_are_never_made_over() {
    let b = Bench::new();
    b.init();
    let (state, key) = (b.path("zone/zone.redb"), b.path("zone/owner-key.json"));
    fs::write(b.path("src/a"), b"a").unwrap();
    b.expect(0, &["backup", "src"]);
    fs::rename(&state, b.path("moved")).unwrap();
    let before = fs::read(&key).unwrap();
    assert!(b.expect(4, &["init", "--target", "other"]).contains("ZW-1008"));
    assert_eq!(fs::read(&key).unwrap(), before);
    fs::rename(b.path("moved"), &state).unwrap();
    b.expect(0, &["check"]);
}

/// The copy that is read first is damaged, known to be so or not: the others serve, for further copies too.
#[test]
fn one_damaged_copy_holds_up_no_other() {
    for known in [false, true] {
        let b = Bench::new();
        b.expect(0, &["init", "--target", "target", "--target", "second", "--sector-min", "1MiB"]);
        fs::write(b.path("src/a"), bench::noise(1, 600_000)).unwrap();
        b.expect(0, &["backup", "--copies", "2", "src"]);
        for target in ["target", "second"] {
            let mut sectors = Vec::new();
            let mut todo = vec![b.path(target)];
            while let Some(dir) = todo.pop() {
                for e in fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()) {
                    if e.is_dir() {
                        todo.push(e);
                    } else if e.extension().is_some_and(|x| x == "zws") && fs::metadata(&e).unwrap().len() > 500_000 {
                        sectors.push(e);
                    }
                }
            }
            let [sector] = &sectors[..] else { panic!("{sectors:?}") };
            let mut bytes = fs::read(sector).unwrap();
            bytes[50_000] ^= 1;
            let whole = fs::read(sector).unwrap();
            fs::write(sector, &bytes).unwrap();
            if known {
                b.expect(5, &["check", "--read-data"]);
            }
            let name = format!("third-{target}");
            b.expect(0, &["target", "add", &name, "--name", &name]);
            b.expect(0, &["backup", "--copies", "3", "src"]);
            let out = format!("out-{target}");
            b.expect(0, &["restore", "latest", "--to", &out]);
            assert!(fs::read(b.restored(&out).join("a")).unwrap() == bench::noise(1, 600_000));
            // Only one is damaged at a time.
            fs::write(sector, &whole).unwrap();
        }
    }
}

/// The sectors of a target that hold files, not system data.
fn data_sectors(target: &std::path::Path) -> Vec<std::path::PathBuf> {
    let (mut out, mut todo) = (Vec::new(), vec![target.to_owned()]);
    while let Some(dir) = todo.pop() {
        for e in fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()) {
            if e.is_dir() {
                todo.push(e);
            } else if e.extension().is_some_and(|x| x == "zws") && fs::metadata(&e).unwrap().len() > 500_000 {
                out.push(e);
            }
        }
    }
    out
}

#[test]
fn what_nothing_is_left_of_is_stored_anew_by_the_next_backup() {
    let b = Bench::new();
    b.init();
    fs::write(b.path("src/a"), bench::noise(1, 600_000)).unwrap();
    wait::settled(&b.path("src/a"));
    b.expect(0, &["backup", "src"]);
    for sector in data_sectors(&b.path("target")) {
        fs::write(sector, b"").unwrap();
    }
    assert!(b.expect(5, &["check"]).contains("stores anew what is still in its source"));
    // The source has it still: it is read again, and that is said.
    let said = b.expect(0, &["backup"]);
    assert!(said.contains("no whole copy is left") && said.contains("stored again"), "{said}");
    assert!(said.contains("0 new, 0 changed, 0 gone"), "the files themselves are as they were: {said}");
    assert!(b.expect(5, &["check"]).contains("the newest checkpoint is not concerned"));
    b.expect(0, &["restore", "latest", "--to", "out", "--verify"]);
    assert_eq!(bench::tree(&b.path("src")), bench::tree(&b.restored("out")));
    assert!(!b.expect(0, &["backup"]).contains("no whole copy"));
    b.expect(5, &["restore", "1", "--to", "then"]);
}

#[test]
fn a_copy_that_its_target_has_anew_is_no_longer_looked_for() {
    let b = Bench::new();
    b.expect(0, &["init", "--target", "target", "--target", "second", "--sector-min", "1MiB"]);
    fs::write(b.path("src/a"), bench::noise(1, 600_000)).unwrap();
    b.expect(0, &["backup", "--copies", "2", "src"]);
    let sectors = data_sectors(&b.path("second"));
    fs::remove_file(&sectors[0]).unwrap();
    b.expect(5, &["check"]);
    b.expect(0, &["backup"]);
    assert_eq!(data_sectors(&b.path("second")).len(), 1);
    b.expect(0, &["check", "--read-data"]);
    b.expect(0, &["check", "--read-data-subset", "0.0001%"]);
}

#[test]
fn a_target_that_takes_nothing_gives_way_to_another() {
    let b = Bench::new();
    b.expect(0, &["init", "--target", "target", "--target", "second", "--sector-min", "1MiB"]);
    fs::write(b.path("src/a"), bench::noise(1, 600_000)).unwrap();
    b.expect(0, &["backup", "src"]);
    // A file in the place of the folder: whoever runs this, nothing can be begun there.
    for (n, target) in ["target", "second"].into_iter().enumerate() {
        let zone = fs::read_dir(b.path(target).join("zones")).unwrap().next().unwrap().unwrap().path();
        let (incoming, aside) = (zone.join("incoming"), zone.join("aside"));
        if incoming.exists() {
            fs::rename(&incoming, &aside).unwrap();
        }
        fs::write(&incoming, b"").unwrap();
        fs::write(b.path(&format!("src/{n}")), bench::noise(n as u64 + 7, 600_000)).unwrap();
        let said = b.expect(3, &["backup"]);
        assert!(said.contains("still to be made") || said.contains("incoming"), "{said}");
        let o = b.run(&["cat", "latest", b.path(&format!("src/{n}")).to_str().unwrap()]);
        assert!(o.status.success() && o.stdout == bench::noise(n as u64 + 7, 600_000));
        fs::remove_file(&incoming).unwrap();
        if aside.exists() {
            fs::rename(&aside, &incoming).unwrap();
        }
        b.expect(0, &["backup"]);
    }
}

#[test]
fn what_the_only_target_refuses_is_told_of_the_target() {
    let b = Bench::new();
    b.init();
    fs::write(b.path("src/a"), b"a").unwrap();
    b.expect(0, &["backup", "src"]);
    let zone = fs::read_dir(b.path("target/zones")).unwrap().next().unwrap().unwrap().path();
    let _ = fs::remove_dir(zone.join("incoming"));
    fs::write(zone.join("incoming"), b"").unwrap();
    fs::write(b.path("src/b"), b"b").unwrap();
    assert!(b.expect(4, &["backup"]).contains("ZW-1315"));
}

#[test]
fn an_init_that_was_cut_can_be_run_again_on_its_target() {
    let b = Bench::new();
    b.init();
    // As if it had been cut before the state got its name, with the owner's key on the target already.
    fs::rename(b.path("zone/zone.redb"), b.path("zone/zone.redb.new")).unwrap();
    let unfinished: Vec<_> = fs::read_dir(b.path("zone")).unwrap().map(|e| e.unwrap().file_name()).collect();
    fs::remove_file(b.path("zone/recovery-kit.html")).unwrap();
    b.expect(0, &["init", "--target", "target", "--sector-min", "1MiB"]);
    fs::write(b.path("src/a"), b"a").unwrap();
    b.expect(0, &["backup", "src"]);
    // A target that holds backups is never taken for one that was not used.
    assert!(b.expect(4, &["--home", "other", "init", "--target", "target"]).contains("ZW-1315"), "{unfinished:?}");
}

#[test]
fn a_path_that_neither_checkpoint_holds_is_an_error_of_diff_too() {
    let b = Bench::new();
    b.init();
    fs::write(b.path("src/a"), b"a").unwrap();
    b.expect(0, &["backup", "src"]);
    fs::write(b.path("src/a"), b"b").unwrap();
    b.expect(0, &["backup"]);
    assert!(b.expect(0, &["diff", "1", "2", "src/a"]).contains("1 changed"));
    assert!(b.expect(0, &["diff", "1", "2", "src"]).contains("1 changed"));
    for args in [&["diff", "1", "2", "src/typo"][..], &["ls", "1", "/typo"]] {
        let o = b.run(&[&["--json"], args].concat());
        assert_eq!(o.status.code(), Some(1));
        let lines = String::from_utf8(o.stdout).unwrap();
        assert_eq!(lines.lines().count(), 1, "{lines}");
        assert!(lines.contains("ZW-1602"), "{lines}");
    }
}

#[test]
fn pages_of_the_manual_show_what_is_typed() {
    let b = Bench::new();
    b.expect(0, &["man", "--dir", "man"]);
    let page = fs::read_to_string(b.path("man/zoneward-restore.1")).unwrap();
    assert!(page.contains("zoneward restore"), "{page}");
}

/// A restore works in windows of 49,152 entries.
#[test]
fn one_wrong_byte_in_the_only_copy_takes_its_neighbours_and_nothing_more() {
    let b = Bench::new();
    let n = 60_000;
    for d in 0..60 {
        fs::create_dir(b.path(&format!("src/{d:02}"))).unwrap();
        for f in 0..n / 60 {
            fs::write(b.path(&format!("src/{d:02}/{f:04}")), bench::noise(d * 1000 + f, 1000)).unwrap();
        }
    }
    b.expect(0, &["init", "--target", "target", "--sector-min", "256MiB"]);
    b.expect(0, &["backup", "src"]);
    b.damage_largest_sector();
    let o = b.run(&["--json", "restore", "latest", "--to", "out"]);
    assert_eq!(o.status.code(), Some(5), "{}", String::from_utf8_lossy(&o.stderr));
    let text = String::from_utf8_lossy(&o.stdout).into_owned();
    let summary: serde_json::Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    let damaged = summary["damaged"].as_u64().unwrap();
    // A segment holds 1 MiB of frames, and a frame some hundred of such files.
    assert!(damaged > 0 && damaged < n / 10, "{damaged} of {n} are called damaged");
    let there =
        (0..60).map(|d| fs::read_dir(b.restored("out").join(format!("{d:02}"))).unwrap().count() as u64).sum::<u64>();
    assert_eq!(there, n - damaged);
}
