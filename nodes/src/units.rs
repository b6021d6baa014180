//! Sizes, times and percentages as people write and read them.

pub use zoneward_sectors::shown::show_path;

/// Bytes in binary units, three figures: `31.0 GiB`.
pub fn bytes(n: u64) -> String {
    const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut value = n as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    match (unit, value) {
        (0, _) => format!("{n} B"),
        (_, v) if v < 10.0 => format!("{v:.2} {}", UNITS[unit]),
        (_, v) if v < 100.0 => format!("{v:.1} {}", UNITS[unit]),
        (_, v) => format!("{v:.0} {}", UNITS[unit]),
    }
}

/// A number with thin groups: `58,123`.
pub fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}

/// `1 file`, `2 files`.
pub fn plural(n: u64, one: &str, many: &str) -> String {
    format!("{} {}", count(n), if n == 1 { one } else { many })
}

/// A duration for people: `0.4 s`, `12 s`, `6 min`, `2 h 5 min`, `3 d 4 h`.
pub fn duration(seconds: f64) -> String {
    let s = seconds.max(0.0);
    match s as u64 {
        0..=9 => format!("{s:.1} s"),
        10..=119 => format!("{s:.0} s"),
        n @ 120..=7199 => format!("{} min", n / 60),
        n @ 7200..=172_799 => format!("{} h {} min", n / 3600, n % 3600 / 60),
        n => format!("{} d {} h", n / 86400, n % 86400 / 3600),
    }
}

/// A moment in local time: `2026-11-20 22:18:03`.
pub fn local_time(ms: u64) -> String {
    match jiff::Timestamp::from_millisecond(ms as i64) {
        Ok(t) => t.to_zoned(jiff::tz::TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string(),
        Err(_) => "?".into(),
    }
}

/// A moment in local time, for names of files: `2026-11-20_221803`.
pub fn local_stamp(ms: u64) -> String {
    match jiff::Timestamp::from_millisecond(ms as i64) {
        Ok(t) => t.to_zoned(jiff::tz::TimeZone::system()).strftime("%Y-%m-%d_%H%M%S").to_string(),
        Err(_) => "unknown".into(),
    }
}

/// A moment as RFC 3339 in UTC, for JSON.
pub fn utc_time(ms: u64) -> String {
    jiff::Timestamp::from_millisecond(ms as i64).map_or_else(|_| String::new(), |t| t.to_string())
}

/// Reads `2GiB`, `512M`, `1048576`. Decimal letters mean binary units, as in restic.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let t = text.trim();
    let digits = t.find(|c: char| !c.is_ascii_digit()).unwrap_or(t.len());
    let (number, unit) = t.split_at(digits);
    let shift = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        other => return Err(format!("unknown unit {other:?}: use KiB, MiB, GiB or TiB")),
    };
    let n: u64 = number.parse().map_err(|_| format!("{text:?} is not a size, such as 2GiB"))?;
    n.checked_shl(shift).filter(|v| v >> shift == n).ok_or_else(|| format!("{text} is too large"))
}

/// A path for JSON: text where it is text, else with its odd bytes replaced.
pub fn shown(path: &std::path::Path) -> String {
    show_path(std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str()))
}

/// Reads a rate in bytes a second: `5MiB`, `5MiB/s`.
pub fn parse_rate(text: &str) -> Result<u64, String> {
    match parse_size(text.trim().trim_end_matches("/s"))? {
        0 => Err("a rate is above 0".into()),
        n => Ok(n),
    }
}

/// Reads a time of whole seconds: `7d`, `12h`, `30min`, `90s`.
pub fn parse_time(text: &str) -> Result<u32, String> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let seconds: u32 = match unit {
        "s" => 1,
        "min" => 60,
        "h" => 3600,
        "d" => 24 * 3600,
        _ => return Err("a number and one of s, min, h, d".into()),
    };
    let n: u32 = number.parse().map_err(|_| "a number and one of s, min, h, d")?;
    n.checked_mul(seconds).filter(|n| *n > 0).ok_or_else(|| "from 1s to ten years".into())
}

/// A time as people write it, in its largest whole unit.
pub fn span(seconds: u64) -> String {
    for (n, unit) in [(24 * 3600, "d"), (3600, "h"), (60, "min")] {
        if seconds > 0 && seconds.is_multiple_of(n) {
            return format!("{} {unit}", seconds / n);
        }
    }
    format!("{seconds} s")
}

/// The same, or `never`, which is 0.
pub fn parse_time_or_never(text: &str) -> Result<u32, String> {
    if text == "never" { Ok(0) } else { parse_time(text) }
}

/// Reads a price for a GiB and month: `EUR 0.004`.
pub fn parse_price(text: &str) -> Result<zoneward_targets::protocol::Price, String> {
    let (currency, gib_month) = text.split_once(' ').ok_or("a currency and a number, as in 'EUR 0.004'")?;
    let number = !gib_month.is_empty() && gib_month.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    if currency.len() != 3 || !currency.bytes().all(|b| b.is_ascii_uppercase()) || !number {
        return Err("a currency and a number, as in 'EUR 0.004'".into());
    }
    Ok(zoneward_targets::protocol::Price { currency: currency.to_owned(), gib_month: gib_month.to_owned() })
}

/// Reads a sector class: a power of two from 4 KiB to 64 GiB, as its log2.
pub fn parse_class(text: &str) -> Result<u8, String> {
    let n = parse_size(text)?;
    if !n.is_power_of_two() || !(12..=36).contains(&n.trailing_zeros()) {
        return Err("a sector class is a power of two from 4KiB to 64GiB".into());
    }
    Ok(n.trailing_zeros() as u8)
}

/// Reads `5%` or `5`.
pub fn parse_percent(text: &str) -> Result<f64, String> {
    let n: f64 =
        text.trim().trim_end_matches('%').trim().parse().map_err(|_| format!("{text:?} is not a percentage"))?;
    if n > 0.0 && n <= 100.0 { Ok(n) } else { Err("a percentage is above 0 and at most 100".into()) }
}

/// What a token permits.
pub fn parse_scope(text: &str) -> Result<zoneward_consensus::model::Scope, String> {
    use zoneward_consensus::model::Scope;
    let names = || Scope::ALL.map(Scope::name).join(", ");
    Scope::ALL.into_iter().find(|s| s.name() == text).ok_or_else(|| format!("it is one of {}", names()))
}

/// From what a source is read, by name.
pub fn parse_snapshot(text: &str) -> Result<zoneward_consensus::reading::SnapshotKind, String> {
    use zoneward_consensus::reading::SnapshotKind;
    let names = || SnapshotKind::ALL.map(SnapshotKind::name).join(", ");
    SnapshotKind::ALL.into_iter().find(|k| k.name() == text).ok_or_else(|| format!("it is one of {}", names()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_and_written() {
        assert_eq!(parse_size("2GiB"), Ok(2 << 30));
        assert_eq!(parse_size(" 512 k "), Ok(512 << 10));
        assert_eq!(parse_size("7"), Ok(7));
        for bad in ["", "x", "1.5G", "-1", "1 parsec", "99999999999T", "18446744073709551616"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
        assert_eq!(parse_class("1MiB"), Ok(20));
        assert!(parse_class("3MiB").is_err() && parse_class("128GiB").is_err() && parse_class("2KiB").is_err());
        assert_eq!(
            (bytes(0), bytes(1023), bytes(1024), bytes(33_285_996_544)),
            ("0 B".into(), "1023 B".into(), "1.00 KiB".into(), "31.0 GiB".into())
        );
        assert_eq!(
            (count(0), count(999), count(1000), count(1234567)),
            ("0".into(), "999".into(), "1,000".into(), "1,234,567".into())
        );
        assert_eq!(parse_percent("5%"), Ok(5.0));
        assert!(parse_percent("0").is_err() && parse_percent("101%").is_err() && parse_percent("nan").is_err());
    }
}
