//! Tests of the recovery kit: everything is on it, and nothing in it becomes markup.

use super::*;

const HAMSTER: &str = "hamster diagram private dutch cause delay private meat slide toddler razor book happy fancy \
                       gospel tennis maple dilemma loan word shrug inflict delay length";

fn kit<'a>(name: &'a str, words: &'a Words, targets: &'a [String]) -> KitInput<'a> {
    KitInput {
        zone_name: name,
        zone: ZoneId([0xab; 16]),
        fingerprint: Digest([0x1f; 32]),
        words,
        targets,
        date: "2026-11-20",
    }
}

fn words() -> Words {
    Words::parse(HAMSTER).unwrap()
}

fn urls(list: &[&str]) -> Vec<String> {
    list.iter().map(|u| (*u).to_owned()).collect()
}

#[test]
fn the_page_holds_all_that_a_recovery_needs() {
    let (words, targets) = (words(), urls(&["file:///mnt/backup disk", "file:///srv/two"]));
    let kit = kit("home", &words, &targets);
    let page = render_html(&kit);
    for (i, word) in HAMSTER.split(' ').enumerate() {
        assert!(page.contains(&format!("<li><span>{}</span>{word}</li>", i + 1)), "{word}");
    }
    assert!(page.contains(&qr_svg(HAMSTER)[..]));
    let address = format!(
        "zoneward recovery 1\nzone {}\nowner-key {}\ntarget file:///mnt/backup disk\ntarget file:///srv/two\n",
        "ab".repeat(16),
        "1f".repeat(32)
    );
    assert!(page.contains(&qr_svg(&address)[..]));
    assert_eq!(page.matches("<svg").count(), 2);
    for part in [
        &["1f1f"; 16].join(" "),
        &"ab".repeat(16),
        "<li>file:///mnt/backup disk</li><li>file:///srv/two</li>",
        "2026-11-20",
        "zoneward checkpoints\nzoneward restore latest --to NEW-FOLDER",
        "python3 rescue.py --target FOLDER --words --to NEW-FOLDER",
        "Second copy is kept at",
        "第二份存放于",
        "<meta charset=\"utf-8\">",
    ] {
        assert!(page.contains(part), "{part}");
    }
    assert!(!page.contains("{{") && !page.contains("}}") && !page.contains("<?xml"));
}

#[test]
fn the_page_asks_for_nothing_from_outside() {
    let (words, targets) = (words(), urls(&["file:///srv/two"]));
    let page = render_html(&kit("home", &words, &targets)).replace("http://www.w3.org/2000/svg", "");
    for outside in ["http:", "https:", "<script", "<link", "<img", "url(", "@import", " src=", " href="] {
        assert!(!page.contains(outside), "{outside}");
    }
    assert!(page.contains("default-src 'none'"));
}

#[test]
fn every_opened_element_is_closed() {
    let (words, targets) = (words(), urls(&["file:///srv/<b>"]));
    let page = render_html(&kit("<i>&\"'", &words, &targets));
    let mut open = Vec::new();
    for tag in page.split('<').skip(1) {
        let (tag, _) = tag.split_once('>').unwrap();
        let name = tag.split([' ', '/']).find(|n| !n.is_empty()).unwrap();
        if let Some(closed) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(closed));
        } else if !["!DOCTYPE", "meta"].contains(&name) && !tag.ends_with('/') {
            open.push(name);
        }
    }
    assert!(open.is_empty(), "{open:?}");
}

#[test]
fn hostile_names_and_urls_stay_text() {
    let words = words();
    let evil = "</title><script>alert(1)</script>{{words}}\"' onload=x \u{1b}[2J\u{202e}";
    let targets = urls(&["file:///x\"><script>evil()</script>\n\u{1b}[31m", "file:///a'; rm -rf ~ #{{words_qr}}"]);
    let kit = kit(evil, &words, &targets);
    let (page, text) = (render_html(&kit), render_text(&kit));
    assert!(!page.contains("<script") && page.contains("&lt;script&gt;"));
    assert!(page.contains("{{words}}"), "a name that looks like a place is left as it is");
    assert_eq!(page.matches("<svg").count(), 2);
    assert_eq!(page.matches("hamster</li>").count(), 1);
    for made in [&page, &text] {
        assert!(!made.chars().any(|c| (c.is_control() && c != '\n') || c == '\u{202e}'));
    }
    // A URL with a line break could forge lines of the code.
    assert!(!address_text(&kit).contains("evil"));
    // No command on the kit carries a name or a URL: nothing of a stranger's can be pasted into a shell.
    let mut one = kit;
    let odd = urls(&["file:///a'; rm -rf ~ #"]);
    one.targets = &odd;
    let commands = |t: &str| {
        t.lines().filter(|l| l.contains("rescue.py") || l.contains("zoneward ")).any(|l| l.contains("rm -rf"))
    };
    assert!(!commands(&render_text(&one)));
}

#[test]
fn what_does_not_fit_is_counted_not_cut() {
    let words = words();
    let long = format!("file:///{}", "x".repeat(880));
    let mut targets = vec![long.clone()];
    targets.extend((0..20).map(|i| format!("file:///target-number-{i}")));
    let name = "n".repeat(500);
    let kit = kit(&name, &words, &targets);
    let (list, more) = listed(&kit);
    assert_eq!((list.len() + more, list[0] == long), (21, true));
    assert!(list.iter().all(|u| targets.contains(u)));
    assert!(list.iter().map(String::len).sum::<usize>() <= LISTED_BYTES_MAX);
    let page = render_html(&kit);
    assert!(page.contains(&format!("and {more} more")));
    assert!(page.contains("python3 rescue.py --target FOLDER --words --list"));
    assert!(!page.contains(&"n".repeat(NAME_CHARS_MAX + 1)));
    assert!(address_text(&kit).len() < 700 && !address_text(&kit).contains("xxx"));
    assert!(render_text(&kit).contains(&format!("and {more} more: zoneward target ls")));
}

#[test]
fn a_kit_without_targets_says_so() {
    let words = words();
    let kit = kit("home", &words, &[]);
    assert!(render_html(&kit).contains("none yet"));
    let text = render_text(&kit);
    assert!(text.contains("none yet") && text.contains("python3 rescue.py --target FOLDER --words --list"));
}

#[test]
fn the_text_holds_the_same_in_80_columns() {
    let (words, targets) = (words(), urls(&["file:///srv/two"]));
    let text = render_text(&kit("home", &words, &targets));
    let numbers: Vec<(usize, &str)> = text
        .lines()
        .skip_while(|l| !l.starts_with("   1 "))
        .take(6)
        .flat_map(|l| {
            l.split_whitespace()
                .collect::<Vec<_>>()
                .chunks(2)
                .map(|c| (c[0].parse().unwrap(), c[1]))
                .collect::<Vec<_>>()
        })
        .collect();
    assert_eq!(numbers, (1..).zip(HAMSTER.split(' ')).collect::<Vec<_>>());
    let copied: String = text.lines().skip_while(|l| !l.starts_with("   1 ")).take(6).collect::<Vec<_>>().join("\n");
    assert_eq!(Words::parse(&copied).unwrap(), words, "the grid can be pasted back");
    for line in text.lines() {
        let columns: usize = line.chars().map(|c| if u32::from(c) >= 0x2e80 { 2 } else { 1 }).sum();
        assert!(columns <= 80, "{line}");
    }
    assert!(text.contains("ab".repeat(16).as_str()) && text.contains(&["1f1f"; 8].join(" ")));
}
