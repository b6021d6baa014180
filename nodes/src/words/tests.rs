use clap::CommandFactory;
use zoneward_consensus::levels::{About, Finding};
use zoneward_consensus::model::Standing;

use super::*;
use crate::cli::Cli;

/// One of each cause, and of those whose advice differs by what they carry.
fn causes() -> Vec<Cause> {
    let source = || About { path: b"/home/ann/my files".to_vec(), others: 2 };
    let node = || "nas".to_owned();
    let target = || "usb disk".to_owned();
    let mut all = vec![
        Cause::AllSurvives,
        Cause::NoSources,
        Cause::NoTargets,
        Cause::NeverStored { source: source() },
        Cause::StoredInPart { source: source() },
        Cause::Stale { source: source(), age_ms: 90_000_000 },
        Cause::OneDisk { source: source(), target: target() },
        Cause::OneDevice { source: source(), device: node() },
        Cause::OneSite { source: source() },
        Cause::Unread { source: source(), paths: 2, first: "a: permission denied".into() },
        Cause::Lost { source: source() },
        Cause::AllLost,
        Cause::CopiesMissing { copies: 1, short: false },
        Cause::CopiesMissing { copies: 2, short: true },
        Cause::CopiesDamaged { copies: 3, targets: vec![target(), "nas".into()] },
        Cause::Unaudited { copies: 1, target: target() },
        Cause::OlderDamaged { sectors: 1 },
        Cause::OriginalGone { source: source(), node: node() },
        Cause::Refused { source: source(), code: 1402, why: "not mounted".into() },
        Cause::WrongTarget { target: target() },
        Cause::AllWorks,
        Cause::OneNode,
        Cause::FewNodes { voters: 2, working: 2 },
        Cause::FewNodes { voters: 3, working: 1 },
        Cause::Electing,
        Cause::NoDaemon,
        Cause::NobodyWorks { node: node() },
        Cause::AllPaused { target: target() },
        Cause::TargetAway { target: target(), all: true },
        Cause::TargetAway { target: target(), all: false },
        Cause::Unreadable { source: source(), target: Some(target()), gone: false },
        Cause::Unreadable { source: source(), target: None, gone: false },
        Cause::Unreadable { source: source(), target: None, gone: true },
        Cause::SourceWaits { source: source(), node: node(), standing: None },
    ];
    for standing in [Standing::Member, Standing::Draining, Standing::Faulty, Standing::Witness, Standing::Standby] {
        all.push(Cause::NodeDown { node: node(), standing });
        all.push(Cause::NoMajority { heard: 1, voters: 3, node: node(), standing });
        all.push(Cause::NothingWorks { node: node(), standing });
        all.push(Cause::SourceWaits { source: source(), node: node(), standing: Some(standing) });
    }
    all
}

/// A number for each kind of cause: a new kind does not compile until it has one, and fails until it is in the list.
fn number(c: &Cause) -> usize {
    match c {
        Cause::AllSurvives => 0,
        Cause::NoSources => 1,
        Cause::NoTargets => 2,
        Cause::NeverStored { .. } => 3,
        Cause::StoredInPart { .. } => 4,
        Cause::Stale { .. } => 5,
        Cause::OneDisk { .. } => 6,
        Cause::OneDevice { .. } => 7,
        Cause::OneSite { .. } => 8,
        Cause::Unread { .. } => 9,
        Cause::Lost { .. } => 10,
        Cause::AllLost => 11,
        Cause::CopiesMissing { .. } => 12,
        Cause::CopiesDamaged { .. } => 13,
        Cause::OlderDamaged { .. } => 14,
        Cause::OriginalGone { .. } => 15,
        Cause::Refused { .. } => 16,
        Cause::WrongTarget { .. } => 17,
        Cause::AllWorks => 18,
        Cause::OneNode => 19,
        Cause::FewNodes { .. } => 20,
        Cause::NodeDown { .. } => 21,
        Cause::SourceWaits { .. } => 22,
        Cause::Electing => 23,
        Cause::NoDaemon => 24,
        Cause::NobodyWorks { .. } => 25,
        Cause::NoMajority { .. } => 26,
        Cause::AllPaused { .. } => 27,
        Cause::TargetAway { .. } => 28,
        Cause::Unreadable { .. } => 29,
        Cause::NothingWorks { .. } => 30,
        Cause::Unaudited { .. } => 31,
    }
}

/// The words of a command line; quotes and backslashes as a shell reads them.
fn words(line: &str) -> Vec<String> {
    let (mut all, mut word, mut quoted) = (Vec::new(), String::new(), false);
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            '\'' => quoted = !quoted,
            '\\' if !quoted => word.extend(chars.next()),
            ' ' if !quoted => all.push(std::mem::take(&mut word)),
            c => word.push(c),
        }
    }
    assert!(!quoted, "{line}");
    all.push(word);
    all
}

#[test]
fn every_advice_is_a_command_that_the_program_takes() {
    let known: std::collections::BTreeSet<usize> = causes().iter().map(number).collect();
    assert_eq!(known, (0..32).collect());
    for c in causes() {
        let commands = next::commands(&c.next());
        assert!(!commands.is_empty(), "{c:?}");
        for line in commands {
            let words = words(&line);
            let mut at = Cli::command();
            for w in words.iter().skip(1) {
                if at.get_subcommands().next().is_none() {
                    break;
                }
                let found = at.find_subcommand(w).cloned();
                at = found.unwrap_or_else(|| panic!("{line}: there is no {w} (for {c:?})"));
            }
            assert!(!at.is_hide_set(), "{line}");
            let parsed = <Cli as clap::Parser>::try_parse_from(&words);
            assert!(parsed.is_ok(), "{line}: {}", parsed.unwrap_err());
        }
    }
}

#[test]
fn names_of_sources_and_targets_stay_one_word() {
    assert_eq!(words("zoneward backup '/a b'"), ["zoneward", "backup", "/a b"]);
    let mend = |path: &[u8]| next::commands(&Next::MendPaths { path: path.to_vec() }).remove(0);
    assert_eq!(words(&mend(b"/it's")), ["zoneward", "backup", "/it's"].map(str::to_owned));
    assert_eq!(mend("/照片/夏".as_bytes()), "zoneward backup /照片/夏");
    assert!(!mend(b"/a\x1b[2Jb\n").contains(['\x1b', '\n']));
}

#[test]
fn every_level_and_cause_has_words_in_both_languages() {
    let is_chinese = |t: &str| t.chars().any(|c| ('\u{4e00}'..='\u{9fff}').contains(&c));
    for ladder in [Ladder::Reliability, Ladder::Availability] {
        for n in 1..=7 {
            let (en, zh) = (rung(Lang::En, ladder, n), rung(Lang::Zh, ladder, n));
            assert!(!en.consequence.is_empty() && !is_chinese(en.name) && !is_chinese(en.consequence));
            assert!(is_chinese(zh.name) && is_chinese(zh.consequence));
            for c in causes() {
                let level = Level { number: n, reason: c.clone(), also: vec![Finding { number: 1, cause: c.clone() }] };
                for lang in [Lang::En, Lang::Zh] {
                    let lines = lines(lang, ladder, &level);
                    assert_eq!(lines.len(), 4);
                    let head = &lines[0];
                    assert!(
                        head.contains(&n.to_string()) && head.contains(rung(lang, ladder, n).consequence),
                        "{head}"
                    );
                    assert!(lines[2].contains("zoneward ") && lines[3].contains("zoneward "), "{lines:?}");
                }
                assert!(is_chinese(&cause(Lang::Zh, &c)) && is_chinese(super::next(Lang::Zh, &c.next())), "{c:?}");
                let json = json(ladder, &level);
                assert_eq!(json["number"], n);
                assert!(!is_chinese(&json.to_string()), "{json}");
                for key in ["name", "consequence", "reason", "next_action"] {
                    assert!(json[key].as_str().is_some_and(|t| !t.is_empty()), "{key}: {json}");
                }
            }
        }
    }
}

#[test]
fn the_pages_list_every_level_as_it_is_shown() {
    let pages =
        [(Lang::En, include_str!("../../../docs/levels.md")), (Lang::Zh, include_str!("../../../docs/levels.zh.md"))];
    for (lang, page) in pages {
        for (ladder, letter) in [(Ladder::Reliability, 'R'), (Ladder::Availability, 'A')] {
            for n in 1..=7 {
                let r = rung(lang, ladder, n);
                let row = format!("| {letter}{n} | {} | {} |", r.name, r.consequence);
                assert!(page.contains(&row), "{row}");
            }
        }
        for c in causes() {
            // What does not depend on names stands in the page to the letter.
            let act = super::next(lang, &c.next());
            assert!(page.contains(act), "{act}");
        }
    }
}

#[test]
fn a_language_is_read_from_what_people_and_systems_write() {
    for (text, lang) in
        [("en", Lang::En), ("zh", Lang::Zh), ("zh-CN", Lang::Zh), ("zh_CN.UTF-8", Lang::Zh), ("EN_us", Lang::En)]
    {
        assert_eq!(Lang::parse(text), Ok(lang), "{text}");
    }
    for bad in ["", "C", "POSIX", "fr", "zhx"] {
        assert!(Lang::parse(bad).is_err(), "{bad}");
    }
    assert_eq!(Lang::chosen(Some(Lang::Zh)), Lang::Zh);
}
