//! What a target tells of its room, price and time, as the zone understands it.

use zoneward_consensus::terms::{Per, Price, Told, decimal};
use zoneward_targets::Target;
use zoneward_targets::protocol;

/// Places of a GiB's price that are taken: a price for a TiB is a thousand times as high.
const GIB_PLACES: u32 = 9;
const GIBS_OF_TIB: u128 = 1024;
/// Units of the ninth place in one of the sixth.
const NANOS: u128 = 1000;

/// Asks a target, where it has to be asked.
pub fn told(target: &dyn Target) -> Told {
    let free_bytes = target.capabilities().free_bytes;
    let offer = target.offer();
    Told {
        free_bytes,
        quota_bytes: offer.quota_bytes,
        price: offer.price.as_ref().and_then(price),
        ends_ms: offer.ends_ms.filter(|t| i64::try_from(*t).is_ok()),
    }
}

/// A price as an operator states it. One that is none is not shown: its words are another's.
fn price(p: &protocol::Price) -> Option<Price> {
    let nanos = u128::from(decimal(&p.gib_month, GIB_PLACES)?);
    let micros = u64::try_from((nanos * GIBS_OF_TIB).div_ceil(NANOS)).ok()?;
    Some(Price { currency: p.currency.clone(), micros, per: Per::TibMonth }).filter(Price::is_valid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_price_for_a_gib_is_one_for_a_tib_and_words_that_are_no_price_are_not_repeated() {
        let of = |currency: &str, gib: &str| {
            price(&protocol::Price { currency: currency.into(), gib_month: gib.into() }).map(|p| (p.currency, p.micros))
        };
        assert_eq!(of("EUR", "0.004"), Some(("EUR".into(), 4_096_000)));
        assert_eq!(of("CHF", "0.000000001"), Some(("CHF".into(), 2)));
        assert_eq!(of("EUR", "0"), Some(("EUR".into(), 0)));
        for (currency, gib) in [
            ("EUR", "1.2.3"),
            ("EUR", "-1"),
            ("EUR", "\u{1b}[2J"),
            ("\u{1b}[2", "1"),
            ("eur", "1"),
            ("EUR", "999999999999"),
        ] {
            assert_eq!(of(currency, gib), None, "{currency:?} {gib:?}");
        }
    }
}
