//! How many sectors, and of which classes, a number of bytes takes.

/// At most this part of all sectors' room may be empty: one in twenty.
const EMPTY_PART: u128 = 20;

/// Classes (as log2 of bytes, largest first) for `bytes`: as few sectors as possible while at most 5 % of their room is
/// empty; where no plan meets that (very small totals), the fewest bytes of room. Nothing still takes one sector.
pub fn plan_sectors(bytes: u64, min_log2: u8, max_log2: u8) -> Vec<u8> {
    let (min, max) = (min_log2, max_log2.max(min_log2));
    let unit = 1u128 << min;
    let units = u128::from(bytes).div_ceil(unit).max(1);
    let exact = classes_of(units, min, max);
    // Rounding the room up to a multiple of a larger unit takes fewer sectors: try from the coarsest.
    let mut best = exact;
    for shift in 0..=(max - min) {
        let step = 1u128 << shift;
        let room = units.div_ceil(step) * step;
        let empty = room * unit - u128::from(bytes);
        let plan = classes_of(room, min, max);
        if empty * EMPTY_PART <= room * unit && plan.len() < best.len() {
            best = plan;
        }
    }
    best
}

/// The fewest classes whose room is exactly `units` smallest sectors.
fn classes_of(units: u128, min: u8, max: u8) -> Vec<u8> {
    let largest = 1u128 << (max - min);
    let mut out = vec![max; (units / largest) as usize];
    let rest = units % largest;
    out.extend((0..max - min).rev().filter(|b| rest >> b & 1 == 1).map(|b| min + b));
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GIB: u64 = 1 << 30;

    fn gib(n: u64) -> Vec<u64> {
        plan_sectors(n * GIB, 31, 36).into_iter().map(|c| (1u64 << c) / GIB).collect()
    }

    #[test]
    fn the_designs_examples() {
        assert_eq!(gib(34), [32, 2]);
        assert_eq!(gib(62), [64]);
        assert_eq!(gib(100), [64, 32, 4]);
        assert_eq!(gib(0), [2]);
        assert_eq!(gib(1), [2]);
        assert_eq!(gib(64), [64]);
        assert_eq!(gib(130), [64, 64, 2]);
    }

    /// The fewest sectors of any plan that holds the bytes with at most 5 % empty, by trying every room.
    fn fewest(bytes: u64, min: u8, max: u8) -> Option<usize> {
        let unit = 1u64 << min;
        let low = bytes.div_ceil(unit).max(1);
        (low..=low * 2 + 2)
            .filter(|room| (room * unit - bytes) * 20 <= room * unit)
            .map(|room| classes_of(u128::from(room), min, max).len())
            .min()
    }

    proptest! {
        #[test]
        fn plans_hold_everything_waste_little_and_are_fewest(units in 0u64..3000, more in 0u64..4096) {
            let bytes = units * 4096 + more;
            let plan = plan_sectors(bytes, 12, 17);
            let room: u64 = plan.iter().map(|c| 1u64 << c).sum();
            prop_assert!(room >= bytes);
            prop_assert!(plan.is_sorted_by(|a, b| a >= b));
            prop_assert!(plan.iter().all(|c| (12..=17).contains(c)));
            if bytes >= 20 * 4096 {
                prop_assert!((room - bytes) * 20 <= room, "{} of {}", room - bytes, room);
            }
            if let Some(n) = fewest(bytes, 12, 17) {
                prop_assert_eq!(plan.len(), n);
            }
        }
    }
}
