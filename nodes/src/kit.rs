//! The recovery kit: what the owner prints and keeps outside the zone. 24 words and one target URL bring all back.
//!
//! [`render_html`] makes one self-contained page, two A4 sheets in English and Chinese; [`render_text`] the same for a
//! terminal. Both hold the words in the clear: the caller writes them with mode 0600 and wipes what he need not keep.
//! Names and URLs may come from strangers; nothing in them becomes markup or moves a terminal's cursor.

pub mod file;

use qrcode::render::svg;
use qrcode::{EcLevel, QrCode};
use zeroize::Zeroizing;
use zoneward_sectors::ids::{Digest, ZoneId};
use zoneward_sectors::keyfile::Words;

const PAGE: &str = include_str!("kit/page.html");
const VERSION: &str = env!("CARGO_PKG_VERSION");
/// Letters of a zone's name that are shown.
const NAME_CHARS_MAX: usize = 80;
/// Targets that are listed, and bytes of all their URLs: more would not fit on the second sheet.
const LISTED_MAX: usize = 8;
const LISTED_BYTES_MAX: usize = 900;
/// Bytes of URLs in the code: with more, a phone cannot read it at the printed size.
const QR_BYTES_MAX: usize = 400;

/// What a recovery kit says.
#[derive(Clone, Copy, Debug)]
pub struct KitInput<'a> {
    pub zone_name: &'a str,
    pub zone: ZoneId,
    /// Fingerprint of the owner key.
    pub fingerprint: Digest,
    pub words: &'a Words,
    /// URLs of the targets, the best first. None yet is fine: there is room to write one down.
    pub targets: &'a [String],
    /// The day it was made, as it shall be shown.
    pub date: &'a str,
}

/// The printable page: HTML without anything from outside. Wiped when dropped.
pub fn render_html(kit: &KitInput<'_>) -> Zeroizing<String> {
    let name = escape(&shown(kit.zone_name, NAME_CHARS_MAX));
    let words_qr = qr_svg(&kit.words.text());
    let address_qr = qr_svg(&address_text(kit));
    let words = words_html(kit.words);
    fill(PAGE, |key| {
        Some(match key {
            "zone_name" => Zeroizing::new(name.clone()),
            "zone" => Zeroizing::new(kit.zone.to_string()),
            "date" => Zeroizing::new(escape(&shown(kit.date, NAME_CHARS_MAX))),
            "words" => words.clone(),
            "words_qr" => words_qr.clone(),
            "address_qr" => address_qr.clone(),
            "targets" => Zeroizing::new(targets_html(kit)),
            "fingerprint" => Zeroizing::new(grouped(&kit.fingerprint)),
            "with_zoneward" => Zeroizing::new(escape(&WITH_ZONEWARD.join("\n"))),
            "without_zoneward" => Zeroizing::new(escape(&WITHOUT_ZONEWARD.join("\n"))),
            "version" => Zeroizing::new(VERSION.to_owned()),
            _ => return None,
        })
    })
}

/// The kit for a terminal, at most 80 columns but for long URLs. Wiped when dropped.
pub fn render_text(kit: &KitInput<'_>) -> Zeroizing<String> {
    let mut out = Zeroizing::new(String::with_capacity(8_192));
    let mut line = |text: &str| {
        out.push_str(text);
        out.push('\n');
    };
    line(&format!("Recovery kit \u{6062}\u{590d}\u{5957}\u{4ef6}: {}", shown(kit.zone_name, NAME_CHARS_MAX)));
    line(&format!("zone         {}", kit.zone));
    line(&format!("made on      {}", shown(kit.date, NAME_CHARS_MAX)));
    line("");
    line("Whoever sees these words can read every backup of this zone.");
    line("谁看到这些单词，谁就能读取该区域的全部备份。");
    line("");
    let words: Vec<&str> = kit.words.iter().collect();
    for (row, four) in words.chunks(4).enumerate() {
        let mut cells = Zeroizing::new(String::with_capacity(80));
        for (column, word) in four.iter().enumerate() {
            let cell = Zeroizing::new(format!("  {:>2} {word:<12}", row * 4 + column + 1));
            cells.push_str(&cell);
        }
        line(cells.trim_end());
    }
    line("");
    line("owner key fingerprint 所有者密钥指纹");
    let groups = grouped(&kit.fingerprint);
    let (upper, lower) = groups.split_at(groups.len() / 2);
    line(&format!("  {}", upper.trim()));
    line(&format!("  {}", lower.trim()));
    line("");
    line("backup targets 备份目标");
    let (listed, more) = listed(kit);
    for url in listed {
        line(&format!("  {url}"));
    }
    match (more, kit.targets.is_empty()) {
        (_, true) => line("  none yet: zoneward target add <URL>"),
        (0, false) => {}
        (n, false) => line(&format!("  and {n} more: zoneward target ls")),
    }
    line("");
    line("Write the words on paper and keep them outside the zone, in two places.");
    line("Prove that they can be read:");
    line("把单词写在纸上，存放在区域之外的两个地方。确认单词可用：");
    line("  python3 rescue.py --target FOLDER --words --list");
    line("");
    line("Where a device of the zone still works 区域中仍有设备可用时:");
    for command in WITH_ZONEWARD {
        line(&format!("  {command}"));
    }
    line("From one target and the words alone (docs/rescue) 只有一个目标和单词时:");
    for command in WITHOUT_ZONEWARD {
        line(&format!("  {command}"));
    }
    out
}

const WITHOUT_ZONEWARD: [&str; 3] = [
    "pip install -r requirements.txt",
    "python3 rescue.py --target FOLDER --words --list",
    "python3 rescue.py --target FOLDER --words --to NEW-FOLDER",
];

/// The commands of a restore where a device of the zone still works.
const WITH_ZONEWARD: [&str; 2] = ["zoneward checkpoints", "zoneward restore latest --to NEW-FOLDER"];

/// The targets that fit, and how many do not.
fn listed(kit: &KitInput<'_>) -> (Vec<String>, usize) {
    let mut left = LISTED_BYTES_MAX;
    let mut out = Vec::new();
    for url in kit.targets.iter().take(LISTED_MAX) {
        let Some(rest) = left.checked_sub(url.len()) else { continue };
        left = rest;
        out.push(shown(url, LISTED_BYTES_MAX));
    }
    let more = kit.targets.len() - out.len();
    (out, more)
}

fn targets_html(kit: &KitInput<'_>) -> String {
    let (listed, more) = listed(kit);
    let mut out: String = listed.iter().map(|url| format!("<li>{}</li>", escape(url))).collect();
    if kit.targets.is_empty() {
        out.push_str(
            "<li>none yet: <code>zoneward target add URL</code>, then print again, or write it here \
             <span lang=\"zh-CN\">尚无目标：添加后重新打印，或手写于此</span>: ______________________________</li>",
        );
    } else if more > 0 {
        out.push_str(&format!(
            "<li>and {more} more <span lang=\"zh-CN\">另有 {more} 个</span>: <code>zoneward target ls</code></li>"
        ));
    }
    out
}

fn words_html(words: &Words) -> Zeroizing<String> {
    let mut out = Zeroizing::new(String::with_capacity(2_048));
    for (i, word) in words.iter().enumerate() {
        for piece in ["<li><span>", &(i + 1).to_string(), "</span>", word, "</li>"] {
            out.push_str(piece);
        }
    }
    out
}

/// What the second code holds: lines that a person can read too.
fn address_text(kit: &KitInput<'_>) -> String {
    let mut text = format!("zoneward recovery 1\nzone {}\nowner-key {}\n", kit.zone, kit.fingerprint);
    let mut left = QR_BYTES_MAX;
    for url in kit.targets {
        // A URL with a line break or the like would read as something else: it is left out.
        if let Some(rest) = left.checked_sub(url.len())
            && shown(url, QR_BYTES_MAX) == *url
        {
            left = rest;
            text.push_str(&format!("target {url}\n"));
        }
    }
    text
}

/// A QR code as an SVG element, with a fifth of it allowed to be illegible.
fn qr_svg(text: &str) -> Zeroizing<String> {
    // Fails above 2,331 bytes; both texts stay below 600.
    let Ok(code) = QrCode::with_error_correction_level(text, EcLevel::M) else { return Zeroizing::default() };
    let svg = Zeroizing::new(code.render::<svg::Color>().module_dimensions(1, 1).build());
    // Inside HTML there is no XML declaration.
    Zeroizing::new(svg.find("<svg").and_then(|at| svg.get(at..)).unwrap_or_default().to_owned())
}

/// The fingerprint in groups of four digits.
fn grouped(fingerprint: &Digest) -> String {
    let mut out = String::with_capacity(80);
    for (i, digit) in fingerprint.to_string().chars().enumerate() {
        if i > 0 && i % 4 == 0 {
            out.push(' ');
        }
        out.push(digit);
    }
    out
}

/// A text of strangers as one line: no control characters, none that turn the direction of writing or cannot be seen,
/// and at most `chars` of it.
fn shown(text: &str, chars: usize) -> String {
    let odd = |c: char| {
        c.is_control()
            || matches!(c, '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}')
            || matches!(c, '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{e0000}'..='\u{e007f}')
    };
    let mut out: String = text.chars().take(chars).map(|c| if odd(c) { '\u{fffd}' } else { c }).collect();
    if text.chars().nth(chars).is_some() {
        out.push('…');
    }
    out
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

/// Puts values in the places `{{key}}` of a template, in one pass: a value that looks like a place stays as it is.
/// Places without a value stay as they are too.
fn fill(template: &str, value: impl Fn(&str) -> Option<Zeroizing<String>>) -> Zeroizing<String> {
    // Room for all of it at once: a text that grows leaves copies behind.
    let mut out = Zeroizing::new(String::with_capacity(template.len() + 131_072));
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("{{") {
        out.push_str(before);
        match after.split_once("}}").and_then(|(key, tail)| Some((value(key)?, tail))) {
            Some((text, tail)) => {
                out.push_str(&text);
                rest = tail;
            }
            None => {
                out.push_str("{{");
                rest = after;
            }
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests;
