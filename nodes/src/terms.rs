//! What is known of targets' room, money and time: as people write it, read it, and as JSON.

use std::collections::BTreeMap;

use zoneward_actors::clock::now_ms;
use zoneward_actors::node::NodeReport;
use zoneward_actors::zone::Zone;
use zoneward_consensus::model::State;
use zoneward_consensus::terms::{Outlook, Per, Price, Told, decimal, outlook};
use zoneward_sectors::ids::{NodeId, TargetId};

use crate::daemon::local::Status;
use crate::units::{bytes, parse_size, plural, utc_time};

/// Places of an amount of money.
const PLACES: u32 = 6;
/// Millionths of a hundredth: amounts are shown so.
const CENT_MICROS: u64 = 10_000;

/// What a person sets; an empty text takes it away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said<T>(pub Option<T>);

/// Reads `4.99EUR/month` or `5.49EUR/TiB/month`.
pub fn parse_price(text: &str) -> Result<Said<Price>, String> {
    if text.is_empty() {
        return Ok(Said(None));
    }
    let wrong = || "an amount, a currency and for what it is, as in 4.99EUR/month or 5.49EUR/TiB/month".to_owned();
    let (money, per) = text.split_once('/').ok_or_else(wrong)?;
    let per = match per.to_ascii_lowercase().as_str() {
        "month" => Per::Month,
        "tib/month" => Per::TibMonth,
        _ => return Err(wrong()),
    };
    let at = money.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
    let (amount, currency) = money.split_at(at);
    let micros = decimal(amount, PLACES).ok_or_else(wrong)?;
    let price = Price { currency: currency.trim().to_ascii_uppercase(), micros, per };
    if price.is_valid() { Ok(Said(Some(price))) } else { Err(wrong()) }
}

/// Reads a day, `2027-03-01`: its first moment in UTC, ms since 1970.
pub fn parse_day(text: &str) -> Result<Said<u64>, String> {
    if text.is_empty() {
        return Ok(Said(None));
    }
    let wrong = |_| "a day, as in 2027-03-01".to_owned();
    let day: jiff::civil::Date = text.parse().map_err(wrong)?;
    let at = day.to_zoned(jiff::tz::TimeZone::UTC).map_err(wrong)?.timestamp().as_millisecond();
    let at = u64::try_from(at).ok().filter(|t| *t > 0);
    at.map(|t| Said(Some(t))).ok_or_else(|| "a day after 1970-01-01".into())
}

/// Reads a number of bytes, `2TiB`.
pub fn parse_quota(text: &str) -> Result<Said<u64>, String> {
    match text {
        "" => Ok(Said(None)),
        _ => match parse_size(text)? {
            0 => Err("a quota is above 0; target pause gives a target nothing new".into()),
            n => Ok(Said(Some(n))),
        },
    }
}

/// An amount with at least two places, and no more than it needs: `4.99`.
pub fn amount(micros: u64) -> String {
    let text = format!("{}.{:06}", micros / 1_000_000, micros % 1_000_000);
    let end = text.trim_end_matches('0').len().max(text.len() - 4);
    text.get(..end).unwrap_or(&text).to_owned()
}

/// What is to be paid, with two places, rounded up.
pub fn cost(micros: u64) -> String {
    amount(micros.div_ceil(CENT_MICROS).saturating_mul(CENT_MICROS))
}

/// For what a price is, as people write it.
pub fn per(p: &Price) -> &'static str {
    match p.per {
        Per::Month => "month",
        Per::TibMonth => "TiB/month",
    }
}

/// The day of a moment, in UTC: as people gave it.
pub fn day(ms: u64) -> String {
    utc_time(ms).split('T').next().unwrap_or_default().to_owned()
}

/// What nodes heard of a target last.
pub fn heard(reports: &BTreeMap<NodeId, NodeReport>, target: TargetId) -> Option<&Told> {
    let of = reports.values().filter_map(|r| Some((r.at_ms, r.told.get(&target)?)));
    of.max_by_key(|(at, _)| *at).map(|(_, told)| told)
}

/// All targets, as the nodes that report see them.
pub fn of_reports(state: &State, reports: &BTreeMap<NodeId, NodeReport>, now_ms: u64) -> BTreeMap<TargetId, Outlook> {
    state.targets.values().map(|t| (t.id, outlook(state, t, heard(reports, t.id), now_ms))).collect()
}

/// All targets, as the nodes saw them last; where none did, they are asked from here.
pub fn of_zone(zone: &Zone, status: Option<&Status>) -> BTreeMap<TargetId, Outlook> {
    let now = now_ms();
    let of = |t: &zoneward_consensus::model::Target| {
        let told = status.and_then(|s| heard(&s.reports, t.id)).cloned();
        let told = told.or_else(|| zone.target(t.id).map(|x| zoneward_actors::terms::told(&**x)));
        (t.id, outlook(zone.state(), t, told.as_ref(), now))
    };
    zone.state().targets.values().map(of).collect()
}

/// What a person is told of a target's growth, cost and time; nothing where nothing is known.
pub fn line(o: &Outlook) -> Option<String> {
    let mut all = Vec::new();
    if let Some(q) = o.quota_bytes {
        all.push(format!("quota {}", bytes(q)));
    }
    match (o.growth_bytes, o.full_in_days) {
        (Some(0) | None, _) => {}
        (Some(rate), None) => all.push(format!("grows {} a day", bytes(rate))),
        (Some(rate), Some(days)) => {
            all.push(format!("grows {} a day, full in about {} at this rate", bytes(rate), plural(days, "day", "days")))
        }
    }
    if let Some(p) = &o.price {
        let (said, of) = (amount(p.micros), per(p));
        all.push(match (p.per, o.cost_micros) {
            (Per::TibMonth, Some(now)) => {
                format!("{said} {}/{of}: {} {} a month at this size", p.currency, cost(now), p.currency)
            }
            _ => format!("{said} {}/{of}", p.currency),
        });
    }
    all.extend(until(o));
    (!all.is_empty()).then(|| all.join("; "))
}

/// Until when a target is paid for, and what to do.
fn until(o: &Outlook) -> Option<String> {
    let (at, left) = (day(o.paid_until_ms?), o.renew_in_days?);
    let (is, was) = match o.paid_is_said {
        true => ("paid until", "WAS PAID UNTIL"),
        false => ("lets us in until", "LET US IN UNTIL"),
    };
    Some(match left {
        0.. => format!("{is} {at}: renew in {}", plural(left.unsigned_abs(), "day", "days")),
        _ => format!("{was} {at}"),
    })
}

/// What is to be looked at: what ends soon, and what is full soon.
pub fn concerns(name: &str, o: &Outlook) -> Vec<String> {
    let mut all = Vec::new();
    if let (true, Some(at), Some(left)) = (o.ends_soon(), o.paid_until_ms, o.renew_in_days) {
        let (at, days) = (day(at), plural(left.unsigned_abs(), "day", "days"));
        let then = format!("then zoneward target set {name} --paid-until DATE");
        all.push(match (o.paid_is_said, left >= 0) {
            (true, true) => format!("target {name} is paid until {at}: renew it in {days}, {then}"),
            (true, false) => format!("target {name} was paid until {at}, {days} ago: renew it, {then}"),
            (false, true) => format!(
                "target {name} lets this zone in until {at}, {days} from now: ask its operator for a new token, then \
                 zoneward target credentials {name}"
            ),
            (false, false) => format!(
                "target {name} let this zone in until {at}: ask its operator for a new token, then zoneward target \
                 credentials {name}"
            ),
        });
    }
    if o.is_full_soon() {
        let more = "give it more room, zoneward prune what is not needed, or add another one";
        all.push(match (o.free_bytes, o.full_in_days) {
            (Some(0) | None, _) | (_, None) => format!("target {name} is full: {more}"),
            (Some(free), Some(days)) => format!(
                "target {name} is full in about {} at this rate, {} are left: {more}",
                plural(days, "day", "days"),
                bytes(free)
            ),
        });
    }
    all
}

/// A price as JSON has it: amounts are text, so that nothing is lost.
fn price_json(p: &Price) -> serde_json::Value {
    serde_json::json!({"amount": amount(p.micros), "currency": p.currency, "per": per(p)})
}

/// The fields that `target ls --json` has of it.
pub fn json(o: &Outlook) -> serde_json::Value {
    let cost = |p: &Price| serde_json::json!({"amount": cost(o.cost_micros.unwrap_or(0)), "currency": p.currency});
    serde_json::json!({
        "used_bytes": o.used_bytes, "free_bytes": o.free_bytes, "quota_bytes": o.quota_bytes,
        "growth_bytes_per_day": o.growth_bytes, "full_in_days": o.full_in_days,
        "price": o.price.as_ref().map(price_json), "cost_per_month": o.price.as_ref().map(cost),
        "paid_until": o.paid_until_ms.map(utc_time), "paid_until_from": o.paid_until_ms.map(|_| from(o)),
        "renew_in_days": o.renew_in_days,
    })
}

/// Who says until when a target is paid for.
pub fn from(o: &Outlook) -> &'static str {
    if o.paid_is_said { "person" } else { "target" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prices_days_and_quotas_are_read_and_an_empty_text_takes_them_away() {
        let price = |text: &str| parse_price(text).map(|s| s.0.map(|p| (p.micros, p.currency.clone(), per(&p))));
        assert_eq!(price("4.99EUR/month"), Ok(Some((4_990_000, "EUR".into(), "month"))));
        assert_eq!(price("5.49 eur/tib/month"), Ok(Some((5_490_000, "EUR".into(), "TiB/month"))));
        assert_eq!(price("0USD/month"), Ok(Some((0, "USD".into(), "month"))));
        assert_eq!(price(""), Ok(None));
        for bad in [
            "4.99",
            "4.99EUR",
            "EUR/month",
            "4.99EUR/year",
            "4,99EUR/month",
            "-1EUR/month",
            "4.99€/month",
            "4.99EURO/month",
            "4.9999999EUR/month",
            "1000001EUR/month",
            "4.99EUR/GiB/month",
            "nanEUR/month",
        ] {
            assert!(parse_price(bad).is_err(), "{bad}");
        }
        assert_eq!(parse_day("2027-03-01"), Ok(Said(Some(1_803_859_200_000))));
        assert_eq!((parse_day(""), day(1_803_859_200_000)), (Ok(Said(None)), "2027-03-01".into()));
        for bad in ["2027-02-30", "1970-01-01", "1969-12-31", "tomorrow", "01.03.2027", "2027"] {
            assert!(parse_day(bad).is_err(), "{bad}");
        }
        assert_eq!((parse_quota("2TiB"), parse_quota("")), (Ok(Said(Some(2 << 40))), Ok(Said(None))));
        assert!(parse_quota("0").is_err() && parse_quota("much").is_err());
    }

    #[test]
    fn amounts_are_written_as_money() {
        for (micros, exact, paid) in [
            (0, "0.00", "0.00"),
            (1, "0.000001", "0.01"),
            (4_990_000, "4.99", "4.99"),
            (4_096_000, "4.096", "4.10"),
            (500_000, "0.50", "0.50"),
            (1_000_000_000_000, "1000000.00", "1000000.00"),
        ] {
            assert_eq!((amount(micros).as_str(), cost(micros).as_str()), (exact, paid), "{micros}");
        }
    }

    fn outlook() -> Outlook {
        Outlook {
            copies: 2,
            used_bytes: 1 << 39,
            quota_bytes: Some(2 << 40),
            free_bytes: Some(10 << 30),
            growth_bytes: Some(1 << 30),
            full_in_days: Some(10),
            price: Some(Price { currency: "EUR".into(), micros: 5_490_000, per: Per::TibMonth }),
            cost_micros: Some(2_745_000),
            paid_until_ms: Some(1_803_859_200_000),
            paid_is_said: true,
            renew_in_days: Some(1),
        }
    }

    #[test]
    fn what_is_known_is_told_and_what_is_not_is_left_out() {
        let o = outlook();
        assert_eq!(
            line(&o).unwrap(),
            "quota 2.00 TiB; grows 1.00 GiB a day, full in about 10 days at this rate; \
             5.49 EUR/TiB/month: 2.75 EUR a month at this size; paid until 2027-03-01: renew in 1 day"
        );
        let told = concerns("cloud", &o);
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told[0].contains("paid until 2027-03-01: renew it in 1 day"), "{told:?}");
        assert!(told[1].contains("full in about 10 days") && told[1].contains("10.0 GiB are left"), "{told:?}");
        let over = Outlook { renew_in_days: Some(-3), full_in_days: Some(30), ..outlook() };
        assert!(line(&over).unwrap().ends_with("WAS PAID UNTIL 2027-03-01"));
        assert!(matches!(&concerns("x", &over)[..], [one] if one.contains("was paid until 2027-03-01, 3 days ago")));
        let later = Outlook { renew_in_days: Some(30), full_in_days: None, ..outlook() };
        assert!(concerns("x", &later).is_empty());
        let token = Outlook { paid_is_said: false, full_in_days: None, ..outlook() };
        assert!(matches!(&concerns("x", &token)[..], [one] if one.contains("target credentials x")));
        let full =
            Outlook { free_bytes: Some(0), full_in_days: None, growth_bytes: None, renew_in_days: None, ..outlook() };
        assert!(matches!(&concerns("x", &full)[..], [one] if one.contains("is full:")));
        let nothing = Outlook {
            quota_bytes: None,
            growth_bytes: Some(0),
            price: None,
            cost_micros: None,
            paid_until_ms: None,
            renew_in_days: None,
            ..outlook()
        };
        assert_eq!(line(&nothing), None);
        let v = json(&nothing);
        assert_eq!((&v["price"], &v["cost_per_month"], &v["paid_until_from"]), (&().into(), &().into(), &().into()));
        let v = json(&outlook());
        assert_eq!((&v["price"]["amount"], &v["price"]["per"]), (&"5.49".into(), &"TiB/month".into()));
        assert_eq!(
            (&v["cost_per_month"]["amount"], &v["paid_until"]),
            (&"2.75".into(), &"2027-03-01T00:00:00Z".into())
        );
    }
}
