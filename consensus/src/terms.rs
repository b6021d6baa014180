//! On what terms a target is had: its price, until when it is paid for, how much may lie there; what it costs by now, how
//! fast it grows, and when it is full. Pure, in whole numbers.

use serde::{Deserialize, Serialize};
use zoneward_sectors::ids::TargetId;

use crate::levels::DAY_MS;
use crate::limits::PRICE_MICROS_MAX;
use crate::model::{CheckpointKind, Copy, State, Target};

/// Growth is counted over so many days at most: a month, as people pay.
pub const GROWTH_DAYS: u64 = 30;
/// With fewer days than these nothing is said: one busy evening is no rate.
pub const GROWTH_DAYS_MIN: u64 = 3;
/// What comes to a target on its first day was there before: it is no growth.
const FIRST_MS: u64 = DAY_MS;
/// What ends in fewer days than these is to be looked at.
pub const SOON_DAYS: u64 = 30;
/// Bytes of a TiB.
const TIB_LEN: u128 = 1 << 40;

/// For what a price is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Per {
    /// A month, however much lies there.
    Month,
    /// Each TiB that lies there for a month.
    TibMonth,
}

/// What a target costs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Price {
    /// ISO 4217: three capital letters.
    pub currency: String,
    /// Millionths of the currency's unit.
    pub micros: u64,
    pub per: Per,
}

impl Price {
    /// True if it can be a price.
    pub fn is_valid(&self) -> bool {
        let letters = self.currency.len() == 3 && self.currency.bytes().all(|b| b.is_ascii_uppercase());
        letters && self.micros <= PRICE_MICROS_MAX
    }

    /// What so many bytes cost a month, in millionths, rounded up.
    pub fn per_month(&self, bytes: u64) -> u64 {
        match self.per {
            Per::Month => self.micros,
            Per::TibMonth => {
                let cost = (u128::from(self.micros) * u128::from(bytes)).div_ceil(TIB_LEN);
                u64::try_from(cost).unwrap_or(u64::MAX)
            }
        }
    }
}

/// A decimal number that is not below zero, in units of its so manieth place: `4.99` with 6 places is 4,990,000. More
/// places than that are refused.
pub fn decimal(text: &str, places: u32) -> Option<u64> {
    let (whole, part) = text.split_once('.').map_or((text, None), |(w, p)| (w, Some(p)));
    let digits = |t: &str| !t.is_empty() && t.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole) || !part.is_none_or(digits) {
        return None;
    }
    let part = part.unwrap_or_default();
    let missing = places.checked_sub(u32::try_from(part.len()).ok()?)?;
    let low = if part.is_empty() { 0 } else { part.parse::<u64>().ok()?.checked_mul(10u64.checked_pow(missing)?)? };
    whole.parse::<u64>().ok()?.checked_mul(10u64.checked_pow(places)?)?.checked_add(low)
}

/// What a person said of a target. What is missing the target itself may tell.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Terms {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub price: Option<Price>,
    /// Milliseconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub paid_until_ms: Option<u64>,
    /// Bytes of this zone that may lie there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quota_bytes: Option<u64>,
}

impl Terms {
    /// True if nobody said anything.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// True if they can be had.
    pub fn are_valid(&self) -> bool {
        self.price.as_ref().is_none_or(Price::is_valid)
            && self.paid_until_ms.is_none_or(|t| t > 0 && i64::try_from(t).is_ok())
            && self.quota_bytes.is_none_or(|q| q > 0)
    }
}

/// What a target tells of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Told {
    /// Bytes that can still be written there.
    pub free_bytes: Option<u64>,
    /// Bytes that its operator lets this account keep.
    pub quota_bytes: Option<u64>,
    pub price: Option<Price>,
    /// When what lets us in ends, milliseconds since 1970.
    pub ends_ms: Option<u64>,
}

/// What is known of a target's room, money and time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outlook {
    /// Stored copies, and their bytes.
    pub copies: u64,
    pub used_bytes: u64,
    pub quota_bytes: Option<u64>,
    /// The smaller of what the target says and what the person's quota leaves.
    pub free_bytes: Option<u64>,
    /// Bytes a day; `None` while it is too early to say.
    pub growth_bytes: Option<u64>,
    /// Days until it is full at this rate; `None` if it does not grow, or that is not known.
    pub full_in_days: Option<u64>,
    pub price: Option<Price>,
    /// Millionths of the price's currency for a month, with what lies there now.
    pub cost_micros: Option<u64>,
    pub paid_until_ms: Option<u64>,
    /// A person said until when it is paid for; else the target says when what lets us in ends.
    pub paid_is_said: bool,
    /// Whole days until then; below zero once it is over.
    pub renew_in_days: Option<i64>,
}

impl Outlook {
    /// Full, or full within [`SOON_DAYS`].
    pub fn is_full_soon(&self) -> bool {
        self.free_bytes == Some(0) || self.full_in_days.is_some_and(|d| d < SOON_DAYS)
    }

    /// Paid for less than [`SOON_DAYS`].
    pub fn ends_soon(&self) -> bool {
        self.renew_in_days.is_some_and(|d| d < SOON_DAYS as i64)
    }
}

/// A target's outlook. What a person said goes before what the target tells.
pub fn outlook(state: &State, target: &Target, told: Option<&Told>, now_ms: u64) -> Outlook {
    let stored = state.copies.values().filter(|c| c.target == target.id && c.is_stored());
    let (copies, used_bytes) = stored.fold((0, 0u64), |(n, b), c| (n + 1, b.saturating_add(c.stored_len)));
    let (terms, told) = (&target.terms, told.cloned().unwrap_or_default());
    let room = terms.quota_bytes.map(|q| q.saturating_sub(used_bytes));
    let free_bytes = room.into_iter().chain(told.free_bytes).min();
    let growth_bytes = growth(stored_of(state, target.id), now_ms);
    let price = terms.price.clone().or(told.price);
    let paid_until_ms = terms.paid_until_ms.or(told.ends_ms);
    Outlook {
        copies,
        used_bytes,
        quota_bytes: terms.quota_bytes.or(told.quota_bytes),
        free_bytes,
        growth_bytes,
        full_in_days: free_bytes.zip(growth_bytes).and_then(|(free, rate)| free.checked_div(rate)),
        cost_micros: price.as_ref().map(|p| p.per_month(used_bytes)),
        price,
        paid_until_ms,
        paid_is_said: terms.paid_until_ms.is_some(),
        renew_in_days: paid_until_ms.map(|at| days_until(at, now_ms)),
    }
}

/// Whole days from now to a moment; one that has just passed is a day ago.
fn days_until(at_ms: u64, now_ms: u64) -> i64 {
    let days = |ms: u64| i64::try_from(ms).unwrap_or(i64::MAX);
    match at_ms.checked_sub(now_ms) {
        Some(left) => days(left / DAY_MS),
        None => -days(now_ms.saturating_sub(at_ms).div_ceil(DAY_MS)),
    }
}

/// When each copy that lies on a target was stored, its length, and whether it only took the place of others.
fn stored_of(state: &State, target: TargetId) -> impl Iterator<Item = (u64, u64, bool)> {
    let made_anew = |c: &Copy| {
        let of = state.sectors.get(&c.sector).and_then(|s| state.checkpoints.get(&s.checkpoint));
        of.is_some_and(|x| x.kind == CheckpointKind::Synthetic)
    };
    let mine = state.copies.values().filter(move |c| c.target == target && c.is_stored());
    mine.map(move |c| (c.stored_ms, c.stored_len, made_anew(c)))
}

/// Bytes a day by which stored copies grew over the last [`GROWTH_DAYS`], or since the day after the first of them: when
/// each was stored, its length, and whether it holds what others held before. `None` while that is less than
/// [`GROWTH_DAYS_MIN`]. What was removed meanwhile is not known here: it counts neither when it came nor when it went.
pub fn growth(stored: impl Iterator<Item = (u64, u64, bool)>, now_ms: u64) -> Option<u64> {
    let all: Vec<(u64, u64, bool)> = stored.collect();
    let first = all.iter().map(|(at, _, _)| *at).min()?;
    let from = now_ms.saturating_sub(GROWTH_DAYS * DAY_MS).max(first.saturating_add(FIRST_MS));
    let span = now_ms.checked_sub(from).filter(|s| *s >= GROWTH_DAYS_MIN * DAY_MS)?;
    let new = all.iter().filter(|(at, _, anew)| *at > from && !anew);
    let bytes: u128 = new.map(|(_, len, _)| u128::from(*len)).sum();
    u64::try_from((bytes * u128::from(DAY_MS)).checked_div(u128::from(span))?).ok()
}

#[cfg(test)]
mod tests;
