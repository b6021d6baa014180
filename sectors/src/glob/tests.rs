//! Exclude rules: what fits, what is refused, and what hostile input costs.

use super::*;

fn one(pattern: &str) -> Excludes {
    Excludes::new(&[pattern.to_owned()], false).unwrap()
}

/// Whether a pattern fits a file of the source `/home/ann`.
fn fits(pattern: &str, rel: &[u8]) -> bool {
    one(pattern).matches(rel, &[b"/home/ann/", rel].concat(), false)
}

fn problem(pattern: &str) -> PatternProblem {
    Excludes::new(&[pattern.to_owned()], false).unwrap_err().problem
}

#[test]
fn patterns_fit_as_documented() {
    for (pattern, yes, no) in [
        ("*.tmp", &["a.tmp", "x/y/.tmp"][..], &["a.tmp.x", "x.tmp/y", "a.TMP"][..]),
        ("foo", &["foo", "x/foo"], &["foo/x", "xfoo", "foox"]),
        ("foo/bar", &["foo/bar", "x/foo/bar", "foo/foo/bar"], &["bar", "foo/x/bar", "foo/bar/x", "xfoo/bar"]),
        ("ann/a.txt", &["a.txt"], &["x/a.txt"]),
        ("/home/ann/x", &["x"], &["y/home/ann/x", "x/x"]),
        ("/x", &[], &["x"]),
        ("/home/*/cache", &["cache"], &["a/cache", "cache/a"]),
        ("foo/**/bar", &["foo/bar", "foo/a/bar", "z/foo/a/b/c/bar"], &["foo", "bar", "foo/barx"]),
        ("foo/**", &["foo/a", "foo/a/b", "x/foo/a"], &["foo", "x/foo"]),
        ("**/foo", &["foo", "a/foo"], &["foo/a"]),
        ("/**/b", &["b", "a/b"], &["b/a"]),
        ("a/**/b/**/c", &["a/b/c", "a/x/b/b/c", "a/b/x/b/y/c"], &["a/c", "b/a/c"]),
        ("**", &["a", "a/b"], &[]),
        ("?", &["a", "é", "照"], &["ab", "aé"]),
        ("照?.jpg", &["照片.jpg"], &["照.jpg"]),
        ("[ä-ü]x", &["öx"], &["ax", "x"]),
        ("[!a-c]", &["d", "é"], &["a", "b", "dd"]),
        ("[^a-c]", &["d", "^"], &["b"]),
        ("*[!é]", &["a", "éa"], &["é", "aé"]),
        ("[]]", &["]"], &["["]),
        ("[a-]", &["a", "-"], &["b"]),
        ("[-a]", &["a", "-"], &["b"]),
        ("[\\]-\\]]x", &["]x"], &["\\x"]),
        ("\\*\\[\\!", &["*[!"], &["x[!"]),
        ("{a,b}", &["{a,b}"], &["a", "b"]),
        ("a*b*c", &["abc", "aXbXbc", "abcbc"], &["ab", "acb", "abcb"]),
        (".*", &[".x", "."], &["x"]),
        ("*", &["x", ".x", "a/b"], &[]),
        ("foo.", &["foo."], &["foo"]),
        ("a b", &["a b"], &["ab"]),
        ("x!", &["x!"], &["x"]),
    ] {
        for name in yes {
            assert!(fits(pattern, name.as_bytes()), "{pattern} should fit {name}");
        }
        for name in no {
            assert!(!fits(pattern, name.as_bytes()), "{pattern} should not fit {name}");
        }
    }
}

#[test]
fn names_are_bytes() {
    assert!(fits("a?c", b"a\xffc"));
    assert!(fits("*.tmp", b"\xfe\xff.tmp"));
    assert!(fits("[!a]", b"\xff"));
    assert!(!fits("[a-z]", b"\xff"));
    assert!(!fits("?", b"\xff\xfe"));
    assert!(!fits("?", b"\xe7\x85"), "half a character is two bytes");
    assert!(fits("a\u{301}", "a\u{301}".as_bytes()) && !fits("á", "a\u{301}".as_bytes()));
    assert!(fits("x\ny", b"x\ny"));
}

#[test]
fn a_trailing_slash_means_directories() {
    for pattern in ["target/", "x/target/", "/home/ann/x/target/", "x/**/target/"] {
        let e = one(pattern);
        assert!(e.matches(b"x/target", b"/home/ann/x/target", true), "{pattern}");
        assert!(!e.matches(b"x/target", b"/home/ann/x/target", false), "{pattern}");
    }
    assert!(one("target").matches(b"target", b"/target", true));
}

#[test]
fn the_root_of_a_source_is_never_left_out() {
    for pattern in ["*", "**", "ann", "/home/ann", "home/ann/"] {
        assert!(!one(pattern).matches(b"", b"/home/ann", true), "{pattern}");
    }
    assert!(!Excludes::default().matches(b"x", b"/x", false));
    assert!(one("x").matches(b"x", b"/x", false), "the root directory as a source");
}

#[test]
fn bad_patterns_are_refused_with_their_reason() {
    use PatternProblem::*;
    for (pattern, want) in [
        ("", Empty),
        ("!keep", Negation),
        ("~/x", Home),
        ("~", Home),
        ("/", EmptyComponent),
        ("//", EmptyComponent),
        ("//x", EmptyComponent),
        ("a//b", EmptyComponent),
        ("a//", EmptyComponent),
        ("./a", DotComponent),
        ("a/../b", DotComponent),
        ("a**", StarStar),
        ("***", StarStar),
        ("x/**y/z", StarStar),
        ("a\\", DanglingEscape),
        ("a\\/b", DanglingEscape),
        ("[a", UnclosedClass),
        ("[", UnclosedClass),
        ("[]", UnclosedClass),
        ("[!]", UnclosedClass),
        ("[a-", UnclosedClass),
        ("[a-\\", UnclosedClass),
        ("[a/b]", UnclosedClass),
        ("[z-a]", BackwardRange),
        ("a\0b", ZeroByte),
    ] {
        assert_eq!(problem(pattern), want, "{pattern:?}");
    }
    assert_eq!(problem(&"x".repeat(PATTERN_LEN_MAX + 1)), TooLong);
    one(&"x".repeat(PATTERN_LEN_MAX));
    assert!(fits("~x", b"~x") && fits("\\!a", b"!a") && fits("a~", b"a~"));
    let many = vec!["x".to_owned(); PATTERNS_MAX + 1];
    assert_eq!(Excludes::new(&many, false).unwrap_err().problem, TooMany);
}

#[test]
fn the_set_is_any_of_its_patterns() {
    let e = Excludes::new(&["*.o".to_owned(), "b/".to_owned()], true).unwrap();
    assert!(e.matches(b"x.o", b"/s/x.o", false) && e.matches(b"b", b"/s/b", true));
    assert!(!e.matches(b"b", b"/s/b", false) && !e.matches(b"x.c", b"/s/x.c", false));
    assert!(e.caches() && !e.is_empty());
    assert!(!Excludes::new(&[], true).unwrap().is_empty() && Excludes::new(&[], false).unwrap().is_empty());
}

#[test]
fn hostile_names_and_patterns_cost_little() {
    // With naive backtracking each of these takes longer than the universe lasts.
    let name = [&b"a".repeat(4000)[..], b"b"].concat();
    assert!(!fits(&"*a".repeat(200), &name));
    assert!(!fits(&("a/**/".repeat(200) + "x"), &b"a/".repeat(2000)));
    assert!(fits(&("*a".repeat(200) + "*"), &name));
}

#[test]
fn a_patterns_file_is_read_and_its_errors_name_the_line() {
    let text = "\u{feff}# caches\r\n\r\n  *.tmp \t\r\n/home/ann/a b\n   # indented\n\\#x\ny";
    assert_eq!(parse_patterns_file(text).unwrap(), ["*.tmp", "/home/ann/a b", "\\#x", "y"]);
    assert!(fits("\\#x", b"#x"));
    assert_eq!(parse_patterns_file(""), Ok(vec![]));
    let e = parse_patterns_file("# one\n\n*.tmp\n  !keep\n").unwrap_err();
    assert_eq!((e.line, e.pattern.as_str(), e.problem), (Some(4), "!keep", PatternProblem::Negation));
    let text = e.to_string();
    assert!(text.starts_with("line 4: the pattern \"!keep\" begins with !"), "{text}");
    let e = parse_patterns_file(&"x\n".repeat(PATTERNS_MAX + 1)).unwrap_err();
    assert_eq!((e.line, e.problem), (Some(PATTERNS_MAX + 1), PatternProblem::TooMany));
}

#[test]
fn messages_hold_no_terminal_escapes_and_little_text() {
    let e = Excludes::new(&[format!("!\x1b[2J{}", "é".repeat(2000))], false).unwrap_err();
    assert!(!e.to_string().contains('\x1b') && e.pattern.chars().count() == 200);
}

#[test]
fn cache_tags_are_told_by_their_signature() {
    assert!(is_cachedir_tag(b"Signature: 8a477f597d28d172789f06886806bc55"));
    assert!(is_cachedir_tag(b"Signature: 8a477f597d28d172789f06886806bc55\n# made by cargo\n"));
    for no in [&b""[..], b"Signature: 8a477f597d28d172789f06886806bc5", b" Signature: 8a477f597d28d172789f06886806bc55"]
    {
        assert!(!is_cachedir_tag(no));
    }
}

/// The definition of `*` and `?`, as slow as it is plain.
fn plainly(pattern: &[u8], name: &[u8]) -> bool {
    match pattern.split_first() {
        None => name.is_empty(),
        Some((b'*', rest)) => (0..=name.len()).any(|n| plainly(rest, &name[n..])),
        Some((b'?', rest)) => !name.is_empty() && plainly(rest, &name[1..]),
        Some((c, rest)) => name.first() == Some(c) && plainly(rest, &name[1..]),
    }
}

/// All texts of 1 to `max` letters.
fn texts(letters: &str, max: usize) -> Vec<String> {
    let mut all = vec![String::new()];
    let mut from = 0;
    for _ in 0..max {
        let to = all.len();
        for i in from..to {
            for c in letters.chars() {
                all.push(format!("{}{c}", all[i]));
            }
        }
        from = to;
    }
    all.split_off(1)
}

#[test]
fn every_short_pattern_agrees_with_the_plain_definition() {
    let names = texts("ab", 6);
    let mut compared = 0;
    for pattern in texts("ab*?", 5).iter().filter(|p| !p.contains("**")) {
        let e = one(pattern);
        for name in &names {
            let found = e.matches(name.as_bytes(), format!("/s/{name}").as_bytes(), false);
            assert_eq!(found, plainly(pattern.as_bytes(), name.as_bytes()), "{pattern} {name}");
            compared += 1;
        }
    }
    assert!(compared > 100_000);
}
