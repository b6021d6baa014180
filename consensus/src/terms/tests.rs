use super::*;
use crate::samples as s;

const DAY: u64 = DAY_MS;
const GIB: u64 = 1 << 30;

/// A copy of so many GiB, stored so many days after the beginning.
fn at(day: u64, gib: u64) -> (u64, u64, bool) {
    (day * DAY, gib * GIB, false)
}

#[test]
fn growth_by_cases() {
    let anew = |day, gib| (day * DAY, gib * GIB, true);
    // What it is about, copies, the day it is, GiB a day.
    type Case = (&'static str, Vec<(u64, u64, bool)>, u64, Option<u64>);
    let cases: [Case; 11] = [
        ("nothing lies there", vec![], 100, None),
        ("only the first load, too early", vec![at(0, 900)], 3, None),
        ("only the first load, three days later", vec![at(0, 900)], 4, Some(0)),
        ("the first load is no growth", vec![at(0, 900), at(2, 8), at(4, 4)], 5, Some(3)),
        ("all of the first day is the first load", vec![at(0, 900), at(1, 100), at(3, 6)], 7, Some(1)),
        ("what is older than a month does not count", vec![at(0, 900), at(50, 600), at(80, 60)], 100, Some(2)),
        ("the edge of the month is outside", vec![at(0, 1), at(70, 30), at(71, 30)], 100, Some(1)),
        ("a month without anything", vec![at(0, 900)], 400, Some(0)),
        ("what takes the place of others is no growth", vec![at(0, 9), anew(90, 900), at(91, 30)], 100, Some(1)),
        ("a clock that was behind: stored later than now", vec![at(0, 9), at(101, 30)], 100, Some(1)),
        ("now is before the first", vec![at(50, 9)], 10, None),
    ];
    for (what, copies, day, want) in cases {
        assert_eq!(growth(copies.into_iter(), day * DAY), want.map(|g| g * GIB), "{what}");
    }
    // No sum runs over.
    assert_eq!(growth([(0, 1, false), (2 * DAY, u64::MAX, false)].into_iter(), 5 * DAY), Some(u64::MAX / 4));
    let two = [(0, 1, false), (2 * DAY, u64::MAX, false), (2 * DAY, u64::MAX, false)];
    assert_eq!(growth(two.into_iter(), 5 * DAY), Some(u64::MAX / 2));
}

fn price(micros: u64, per: Per) -> Price {
    Price { currency: "EUR".into(), micros, per }
}

#[test]
fn a_price_for_a_month_or_for_what_lies_there() {
    assert_eq!(price(4_990_000, Per::Month).per_month(0), 4_990_000);
    assert_eq!(price(4_990_000, Per::Month).per_month(u64::MAX), 4_990_000);
    for (bytes, want) in [(0, 0), (1, 1), (1 << 39, 2_745_000), (1 << 40, 5_490_000), (3 << 40, 16_470_000)] {
        assert_eq!(price(5_490_000, Per::TibMonth).per_month(bytes), want, "{bytes}");
    }
    assert_eq!(price(PRICE_MICROS_MAX, Per::TibMonth).per_month(u64::MAX), PRICE_MICROS_MAX << 24);
    for bad in ["", "eur", "EURO", "E R", "€"] {
        assert!(!Price { currency: bad.into(), micros: 1, per: Per::Month }.is_valid(), "{bad}");
    }
    assert!(!price(PRICE_MICROS_MAX + 1, Per::Month).is_valid() && price(0, Per::Month).is_valid());
    assert!(!Terms { quota_bytes: Some(0), ..Terms::default() }.are_valid());
    assert!(!Terms { paid_until_ms: Some(u64::MAX), ..Terms::default() }.are_valid());
}

#[test]
fn days_are_whole_and_what_has_passed_is_below_zero() {
    for (at, want) in
        [(10 * DAY, 0), (10 * DAY + 1, 0), (11 * DAY - 1, 0), (11 * DAY, 1), (40 * DAY, 30), (10 * DAY - 1, -1)]
    {
        assert_eq!(days_until(at, 10 * DAY), want, "{at}");
    }
    assert_eq!((days_until(8 * DAY, 10 * DAY), days_until(8 * DAY - 1, 10 * DAY)), (-2, -3));
    assert!(days_until(u64::MAX, 0) > 0 && days_until(0, u64::MAX) < 0);
}

#[test]
fn what_a_person_said_goes_before_what_the_target_tells() {
    let mut state = s::state();
    let one = s::target(1);
    let used: u64 = state.copies.values().filter(|c| c.target == one && c.is_stored()).map(|c| c.stored_len).sum();
    assert!(used > 0);
    let now = 40 * DAY;
    let look = |state: &State, told: Option<&Told>| outlook(state, &state.targets[&one], told, now);
    let o = look(&state, None);
    assert_eq!((o.used_bytes, o.free_bytes, o.quota_bytes, o.price, o.cost_micros), (used, None, None, None, None));
    assert_eq!((o.paid_until_ms, o.renew_in_days, o.full_in_days), (None, None, None));
    let told = Told {
        free_bytes: Some(5000),
        quota_bytes: Some(90_000),
        price: Some(price(1, Per::Month)),
        ends_ms: Some(50 * DAY),
    };
    let o = look(&state, Some(&told));
    assert_eq!((o.free_bytes, o.quota_bytes, o.cost_micros), (Some(5000), Some(90_000), Some(1)));
    assert_eq!((o.paid_until_ms, o.paid_is_said, o.renew_in_days), (Some(50 * DAY), false, Some(10)));
    assert!(o.ends_soon() && !o.is_full_soon());
    let terms =
        |quota| Terms { price: Some(price(7, Per::Month)), paid_until_ms: Some(70 * DAY), quota_bytes: Some(quota) };
    state.targets.get_mut(&one).unwrap().terms = terms(used + 100);
    let o = look(&state, Some(&told));
    assert_eq!((o.free_bytes, o.quota_bytes, o.cost_micros), (Some(100), Some(used + 100), Some(7)));
    assert_eq!(
        (o.paid_until_ms, o.paid_is_said, o.renew_in_days, o.ends_soon()),
        (Some(70 * DAY), true, Some(30), false)
    );
    // The disk is fuller than the quota.
    state.targets.get_mut(&one).unwrap().terms = terms(used + 9000);
    assert_eq!(look(&state, Some(&told)).free_bytes, Some(5000));
    state.targets.get_mut(&one).unwrap().terms = terms(1);
    assert_eq!(look(&state, None).free_bytes, Some(0), "more lies there than may");
}

#[test]
fn it_is_full_when_the_room_is_used_up_at_this_rate() {
    let mut state = s::state();
    let one = s::target(1);
    let copies: Vec<_> = state.copies.values().filter(|c| c.target == one && c.is_stored()).map(|c| c.id).collect();
    let [first, second, ..] = copies[..] else { panic!("two copies") };
    for (id, at) in copies.iter().map(|id| (*id, 0)).chain([(first, 0), (second, 20 * DAY)]) {
        state.copies.get_mut(&id).unwrap().stored_ms = at;
    }
    state.copies.get_mut(&second).unwrap().stored_len = 10_000;
    let full = |free, day: u64| {
        let told = Told { free_bytes: Some(free), ..Told::default() };
        let o = outlook(&state, &state.targets[&one], Some(&told), day * DAY);
        (o.growth_bytes, o.full_in_days, o.is_full_soon())
    };
    // The day after the first is day 1: 20 days of growth.
    assert_eq!(full(10_000, 21), (Some(500), Some(20), true));
    assert_eq!(full(14_999, 21), (Some(500), Some(29), true));
    assert_eq!(full(15_000, 21), (Some(500), Some(30), false));
    assert_eq!(full(0, 21), (Some(500), Some(0), true));
    // A month later it no longer grows.
    assert_eq!(full(0, 60), (Some(0), None, true), "it is full already");
    assert_eq!(full(1, 60), (Some(0), None, false));
}

#[test]
fn decimal_numbers() {
    for (text, want) in [
        ("0", Some(0)),
        ("4.99", Some(4_990_000)),
        ("4.990000", Some(4_990_000)),
        ("0.000001", Some(1)),
        ("12", Some(12_000_000)),
        ("007.5", Some(7_500_000)),
        ("0.0000001", None),
        ("", None),
        (".5", None),
        ("5.", None),
        ("1.2.3", None),
        ("-1", None),
        ("+1", None),
        ("1e3", None),
        ("1,5", None),
        ("18446744073709551616", None),
        ("18446744073709551615", None),
    ] {
        assert_eq!(decimal(text, 6), want, "{text}");
    }
}
