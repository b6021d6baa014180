//! Exclude rules: which entries a scan leaves out, by the pattern rules of restic's `--exclude`.
//!
//! A pattern is a path in which some characters stand for others. It must fit the end of an entry's absolute path,
//! component by component:
//!
//! | pattern | fits |
//! | --- | --- |
//! | `*.tmp` | any entry with such a name, at any depth |
//! | `foo/bar` | `bar` in a directory `foo`, at any depth |
//! | `/home/*/cache` | from the root of the file system on, not from the source's |
//! | `foo/**/bar` | `**`, alone between slashes, is any number of components, also none |
//! | `foo/**` | everything below `foo`, but not `foo` itself |
//! | `target/` | directories only |
//!
//! In a component `*` is any run of bytes, `?` one character, `[a-z]` one of these, `[!a-z]` or `[^a-z]` one of all
//! others; `\` takes the next character as it is. No wildcard crosses a slash; case matters; a leading dot is like any
//! other character; braces mean themselves. Names are bytes: where they are UTF-8 a character is one of Unicode,
//! elsewhere one byte.
//!
//! Whoever walks the tree leaves out what fits with all that lies below it. The source's own root is never left out:
//! an exclude rule must not turn a source into an empty one. There is no negation: a rule that brings back what
//! another one takes away makes it hard to tell what is backed up, so `!` is refused by name.

use std::fmt;
use std::iter::Peekable;
use std::str::Chars;

/// Patterns in one set.
pub const PATTERNS_MAX: usize = 10_000;
/// Bytes of one pattern: as long as any path the kernel takes.
pub const PATTERN_LEN_MAX: usize = 4096;

/// What the first bytes of a `CACHEDIR.TAG` file must be (<https://bford.info/cachedir/>).
const CACHEDIR_SIGNATURE: &[u8] = b"Signature: 8a477f597d28d172789f06886806bc55";

/// Whether the content of a file named `CACHEDIR.TAG` marks its directory as a cache. The first 43 bytes are enough.
pub fn is_cachedir_tag(content: &[u8]) -> bool {
    content.starts_with(CACHEDIR_SIGNATURE)
}

/// What is wrong with a pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternProblem {
    #[error("is empty")]
    Empty,
    #[error("is longer than {PATTERN_LEN_MAX} bytes")]
    TooLong,
    #[error("is one of more than {PATTERNS_MAX} patterns")]
    TooMany,
    #[error(
        "begins with !: nothing can be excepted from an exclude; write narrower patterns, or \\! for a name with !"
    )]
    Negation,
    #[error("begins with ~, which is not replaced here: write the whole path of the home directory")]
    Home,
    #[error("has an empty component: two slashes follow each other, or it is nothing but slashes")]
    EmptyComponent,
    #[error("has a component . or .., which no path that is compared ever has")]
    DotComponent,
    #[error("has ** beside other characters: ** must stand alone between slashes")]
    StarStar,
    #[error("ends in a \\ that has nothing to protect")]
    DanglingEscape,
    #[error("has a [ without its ]; write \\[ for a name with [")]
    UnclosedClass,
    #[error("has a range in [ ] whose end comes before its start")]
    BackwardRange,
    #[error("has a zero byte")]
    ZeroByte,
}

/// A pattern that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PatternError {
    /// The line of the patterns file, from 1.
    pub line: Option<usize>,
    /// The pattern, cut at 200 characters.
    pub pattern: String,
    pub problem: PatternProblem,
}

impl std::error::Error for PatternError {}

impl fmt::Display for PatternError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line {
            write!(f, "line {line}: ")?;
        }
        write!(f, "the pattern {:?} {}", self.pattern, self.problem)
    }
}

/// A set of exclude rules.
#[derive(Clone, Debug, Default)]
pub struct Excludes {
    patterns: Vec<Pattern>,
    caches: bool,
}

impl Excludes {
    /// Compiles patterns. `caches`: directories with a valid `CACHEDIR.TAG` are left out too (see
    /// [`Excludes::caches`]).
    pub fn new(patterns: &[String], caches: bool) -> Result<Excludes, PatternError> {
        if let Some(extra) = patterns.get(PATTERNS_MAX) {
            return Err(named(None, extra, PatternProblem::TooMany));
        }
        let compiled = patterns.iter().map(|p| Pattern::new(p).map_err(|problem| named(None, p, problem)));
        Ok(Excludes { patterns: compiled.collect::<Result<_, _>>()?, caches })
    }

    /// Whether the walker shall look for `CACHEDIR.TAG` in every directory and, where [`is_cachedir_tag`] holds,
    /// keep the directory and the tag and leave out all else in it.
    pub fn caches(&self) -> bool {
        self.caches
    }

    /// True if there is no rule at all.
    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty() && !self.caches
    }

    /// Whether an entry is left out, with all that lies below it. `rel_path` is its path inside the source (empty for
    /// the source's root, which is never left out), `abs_path` the absolute path; both without trailing slash. The
    /// walker prunes: what lies below an excluded directory is not asked for, and would not always fit by itself.
    pub fn matches(&self, rel_path: &[u8], abs_path: &[u8], is_dir: bool) -> bool {
        if rel_path.is_empty() || self.patterns.is_empty() {
            return false;
        }
        let path: Vec<&[u8]> = abs_path.split(|b| *b == b'/').filter(|c| !c.is_empty()).collect();
        self.patterns.iter().any(|p| (is_dir || !p.dirs_only) && p.fits(&path))
    }
}

/// Reads a patterns file: one pattern a line; blank lines and lines that begin with `#` are left out, white space
/// around a pattern is dropped. Every pattern is checked, so that an error can name its line. `\#` begins a pattern
/// with `#`, and `[ ]` stands for a space at an end.
pub fn parse_patterns_file(text: &str) -> Result<Vec<String>, PatternError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut out = Vec::new();
    for (i, line) in text.lines().enumerate() {
        let pattern = line.trim();
        if pattern.is_empty() || pattern.starts_with('#') {
            continue;
        }
        if out.len() == PATTERNS_MAX {
            return Err(named(Some(i + 1), pattern, PatternProblem::TooMany));
        }
        Pattern::new(pattern).map_err(|problem| named(Some(i + 1), pattern, problem))?;
        out.push(pattern.to_owned());
    }
    Ok(out)
}

fn named(line: Option<usize>, pattern: &str, problem: PatternProblem) -> PatternError {
    PatternError { line, pattern: pattern.chars().take(200).collect(), problem }
}

#[derive(Clone, Debug)]
struct Pattern {
    /// Never empty; an unanchored one begins with [`Component::Any`].
    components: Vec<Component>,
    dirs_only: bool,
}

#[derive(Clone, Debug, PartialEq)]
enum Component {
    /// `**`: any number of components.
    Any,
    /// A name without wildcards.
    Name(Vec<u8>),
    Glob(Vec<Token>),
}

#[derive(Clone, Debug, PartialEq)]
enum Token {
    Char(char),
    /// `?`: one character.
    One,
    /// `*`: any run of bytes.
    Star,
    Class {
        negated: bool,
        ranges: Vec<(char, char)>,
    },
}

impl Pattern {
    fn new(text: &str) -> Result<Pattern, PatternProblem> {
        if text.is_empty() {
            return Err(PatternProblem::Empty);
        }
        if text.len() > PATTERN_LEN_MAX {
            return Err(PatternProblem::TooLong);
        }
        if text.starts_with('!') {
            return Err(PatternProblem::Negation);
        }
        if text == "~" || text.starts_with("~/") {
            return Err(PatternProblem::Home);
        }
        if text.contains('\0') {
            return Err(PatternProblem::ZeroByte);
        }
        let (body, dirs_only) = match text.strip_suffix('/') {
            Some(body) => (body, true),
            None => (text, false),
        };
        let (body, anchored) = match body.strip_prefix('/') {
            Some(body) => (body, true),
            None => (body, false),
        };
        let mut components = if anchored { Vec::new() } else { vec![Component::Any] };
        for part in body.split('/') {
            let component = Component::new(part)?;
            // `**/**` is `**`, but at the end it asks for one component more: see below.
            if component != Component::Any || components.last() != Some(&Component::Any) {
                components.push(component);
            }
        }
        if components.last() == Some(&Component::Any) {
            // `foo/**` is what lies below `foo`: at least one component.
            components.push(Component::Glob(vec![Token::Star]));
        }
        Ok(Pattern { components, dirs_only })
    }

    /// Whether the pattern fits the whole path.
    fn fits(&self, path: &[&[u8]]) -> bool {
        // The commonest patterns are one name: no need to look at more than the last component.
        if let ([Component::Any, only], Some(name)) = (self.components.as_slice(), path.last()) {
            return only.fits(name);
        }
        spread(
            &self.components,
            path,
            |c| *c == Component::Any,
            |path| path.split_first().map(|(_, rest)| rest),
            |c, path| path.split_first().filter(|(name, _)| c.fits(name)).map(|(_, rest)| rest),
        )
    }
}

impl Component {
    fn new(text: &str) -> Result<Component, PatternProblem> {
        match text {
            "" => return Err(PatternProblem::EmptyComponent),
            "." | ".." => return Err(PatternProblem::DotComponent),
            "**" => return Ok(Component::Any),
            _ => {}
        }
        let tokens = tokens(text)?;
        let plain: Option<String> =
            tokens.iter().map(|t| if let Token::Char(c) = t { Some(*c) } else { None }).collect();
        Ok(plain.map_or(Component::Glob(tokens), |name| Component::Name(name.into_bytes())))
    }

    fn fits(&self, name: &[u8]) -> bool {
        match self {
            Component::Any => true,
            Component::Name(bytes) => bytes == name,
            Component::Glob(tokens) => {
                spread(tokens, name, |t| *t == Token::Star, |text| first_char(text).map(|(_, rest)| rest), Token::eat)
            }
        }
    }
}

impl Token {
    /// What is left of the text after this token took its part; `None` if it does not fit.
    fn eat<'a>(&self, text: &'a [u8]) -> Option<&'a [u8]> {
        match self {
            Token::Char(want) => first_char(text).filter(|(c, _)| *c == Some(*want)).map(|(_, rest)| rest),
            Token::One => first_char(text).map(|(_, rest)| rest),
            Token::Class { negated, ranges } => {
                let (c, rest) = first_char(text)?;
                // A byte that is no character is in no range, so only a negated class takes it.
                let within = c.is_some_and(|c| ranges.iter().any(|(a, b)| (*a..=*b).contains(&c)));
                (within != *negated).then_some(rest)
            }
            Token::Star => None,
        }
    }
}

/// The first character of a text, or its first byte where it is not UTF-8 (then `None` for the character).
fn first_char(text: &[u8]) -> Option<(Option<char>, &[u8])> {
    let head = text.get(..4).unwrap_or(text);
    let valid = match std::str::from_utf8(head) {
        Ok(s) => s,
        Err(e) => std::str::from_utf8(head.get(..e.valid_up_to())?).ok()?,
    };
    match valid.chars().next() {
        Some(c) => Some((Some(c), text.get(c.len_utf8()..)?)),
        None => Some((None, text.split_first()?.1)),
    }
}

/// Fits items to a whole text, where a `wild` item takes any stretch of it and every other item exactly one unit
/// (`skip` passes over one). Only the last wild item is ever tried again, one unit further each time: that finds a fit
/// if there is one, in time of items × text, whatever the pattern.
fn spread<I, T>(
    mut items: &[I],
    mut text: &[T],
    wild: impl Fn(&I) -> bool,
    skip: impl for<'a> Fn(&'a [T]) -> Option<&'a [T]>,
    eat: impl for<'a> Fn(&I, &'a [T]) -> Option<&'a [T]>,
) -> bool {
    let mut last_wild = None;
    loop {
        match items.split_first() {
            None if text.is_empty() => return true,
            None => {}
            Some((item, rest)) if wild(item) => {
                last_wild = Some((rest, text));
                items = rest;
                continue;
            }
            Some((item, rest)) => {
                if let Some(left) = eat(item, text) {
                    (items, text) = (rest, left);
                    continue;
                }
            }
        }
        let Some((after, longer)) = last_wild.and_then(|(after, from)| Some((after, skip(from)?))) else {
            return false;
        };
        last_wild = Some((after, longer));
        (items, text) = (after, longer);
    }
}

/// The tokens of one component.
fn tokens(text: &str) -> Result<Vec<Token>, PatternProblem> {
    let mut out = Vec::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        out.push(match c {
            '*' if out.last() == Some(&Token::Star) => return Err(PatternProblem::StarStar),
            '*' => Token::Star,
            '?' => Token::One,
            '[' => class(&mut chars)?,
            '\\' => Token::Char(chars.next().ok_or(PatternProblem::DanglingEscape)?),
            c => Token::Char(c),
        });
    }
    Ok(out)
}

/// The rest of a class, after its `[`. A `]` that comes first stands for itself, as does a `-` at either end.
fn class(chars: &mut Peekable<Chars<'_>>) -> Result<Token, PatternProblem> {
    const UNCLOSED: PatternProblem = PatternProblem::UnclosedClass;
    let escaped = |c: char, chars: &mut Peekable<Chars<'_>>| if c == '\\' { chars.next() } else { Some(c) };
    let negated = chars.next_if(|c| matches!(c, '!' | '^')).is_some();
    let mut ranges = Vec::new();
    loop {
        let c = chars.next().ok_or(UNCLOSED)?;
        if c == ']' && !ranges.is_empty() {
            return Ok(Token::Class { negated, ranges });
        }
        let from = escaped(c, chars).ok_or(UNCLOSED)?;
        let mut ahead = chars.clone();
        let to = match (ahead.next(), ahead.next()) {
            (Some('-'), Some(end)) if end != ']' => {
                *chars = ahead;
                escaped(end, chars).ok_or(UNCLOSED)?
            }
            _ => from,
        };
        if to < from {
            return Err(PatternProblem::BackwardRange);
        }
        ranges.push((from, to));
    }
}

#[cfg(test)]
mod tests;
