//! Words in the languages that people are spoken to in. JSON and errors stay English: programs and searches rely on them.

mod en;
pub mod next;
mod zh;

use zoneward_consensus::levels::{Cause, Level, Next};

/// A language.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Lang {
    #[default]
    En,
    Zh,
}

impl Lang {
    /// Reads `en`, `zh`, `zh-CN`, `zh_CN.UTF-8`.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text.split(['-', '_', '.', '@']).next().unwrap_or_default().to_ascii_lowercase().as_str() {
            "en" => Ok(Self::En),
            "zh" => Ok(Self::Zh),
            _ => Err(format!("{text:?} is not a language that this release speaks: en, zh-CN")),
        }
    }

    /// The one asked for, or that of the environment: `LC_ALL`, `LC_MESSAGES`, `LANG`, the first that is set.
    pub fn chosen(asked: Option<Self>) -> Self {
        let set = |name| std::env::var(name).ok().filter(|v| !v.is_empty());
        asked.unwrap_or_else(|| {
            let named = ["LC_ALL", "LC_MESSAGES", "LANG"].into_iter().find_map(set);
            named.and_then(|v| Self::parse(&v).ok()).unwrap_or_default()
        })
    }
}

/// Which of the two levels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ladder {
    Reliability,
    Availability,
}

/// A level's name and what it means for the data, by number: always shown together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rung {
    pub name: &'static str,
    pub consequence: &'static str,
}

/// The rung of this number, 1 to 7.
pub fn rung(lang: Lang, ladder: Ladder, number: u8) -> Rung {
    let all = match (lang, ladder) {
        (Lang::En, Ladder::Reliability) => &en::RELIABILITY,
        (Lang::En, Ladder::Availability) => &en::AVAILABILITY,
        (Lang::Zh, Ladder::Reliability) => &zh::RELIABILITY,
        (Lang::Zh, Ladder::Availability) => &zh::AVAILABILITY,
    };
    let [.., last] = all;
    let &(name, consequence) = all.get(usize::from(number).saturating_sub(1)).unwrap_or(last);
    Rung { name, consequence }
}

/// Why, in words.
pub fn cause(lang: Lang, cause: &Cause) -> String {
    match lang {
        Lang::En => en::cause(cause),
        Lang::Zh => zh::cause(cause),
    }
}

/// What to do, in words; the commands to type come after it.
pub fn next(lang: Lang, next: &Next) -> &'static str {
    match lang {
        Lang::En => en::next(next),
        Lang::Zh => zh::next(next),
    }
}

/// What to do, with the commands to type.
fn advice(lang: Lang, what: &Next) -> String {
    let (colon, between) = match lang {
        Lang::En => (": ", ", then "),
        Lang::Zh => ("：", "，然后 "),
    };
    format!("{}{colon}{}", next(lang, what), next::commands(what).join(between))
}

/// A level as lines for a person: number and consequence, why, what to do, what else there is.
pub fn lines(lang: Lang, ladder: Ladder, level: &Level) -> Vec<String> {
    let r = rung(lang, ladder, level.number);
    let colon = if lang == Lang::Zh { "：" } else { ": " };
    let (title, of, why, act, also) = match (lang, ladder) {
        (Lang::En, Ladder::Reliability) => ("reliability", " of 7", "why ", "do  ", "also"),
        (Lang::En, Ladder::Availability) => ("availability", " of 7", "why ", "do  ", "also"),
        (Lang::Zh, Ladder::Reliability) => ("可靠性", "/7", "原因", "处理", "另外"),
        (Lang::Zh, Ladder::Availability) => ("可用性", "/7", "原因", "处理", "另外"),
    };
    let mut out = vec![
        format!("{title} {}{of}  {}{colon}{}", level.number, r.name, r.consequence),
        format!("  {why}  {}", cause(lang, &level.reason)),
        format!("  {act}  {}", advice(lang, &level.reason.next())),
    ];
    for f in &level.also {
        out.push(format!("  {also}  {} → {}", cause(lang, &f.cause), advice(lang, &f.cause.next())));
    }
    out
}

/// A level as JSON; English, as all JSON.
pub fn json(ladder: Ladder, level: &Level) -> serde_json::Value {
    let r = rung(Lang::En, ladder, level.number);
    let act = |c: &Cause| next(Lang::En, &c.next());
    let also = level.also.iter().map(|f| {
        serde_json::json!({
            "number": f.number, "reason": cause(Lang::En, &f.cause), "next_action": act(&f.cause),
            "commands": next::commands(&f.cause.next()),
        })
    });
    serde_json::json!({
        "number": level.number, "name": r.name, "consequence": r.consequence, "reason": cause(Lang::En, &level.reason),
        "next_action": act(&level.reason), "commands": next::commands(&level.reason.next()),
        "also": also.collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests;
