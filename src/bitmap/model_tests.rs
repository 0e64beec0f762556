//! Random action lists against a plain model: a set of claimed ids.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::*;
use crate::sync::AtomicU64;
use proptest::prelude::*;
use std::collections::BTreeSet;

#[derive(Clone, Debug)]
enum Action {
    Claim(Search, u32, u32),
    ClaimAt(u32),
    Run(u32, u32, u32),
    Release(u32),
    /// The n-th of those claimed.
    ReleaseOne(usize),
    ReleaseRun(u32, u32),
    Withhold(u32, u32),
    Count(u32, u32),
}

fn actions(len: u32) -> impl Strategy<Value = Vec<Action>> {
    // Ids near the ends and near word and group borders, and one past the end.
    let border = prop_oneof![Just(64), Just(4_096), Just(len / 2), Just(len)];
    let id = prop_oneof![0..=len, (border, 0..4_u32).prop_map(move |(at, off)| (at + 1).saturating_sub(off).min(len))];
    let id = id.boxed();
    let range = (id.clone(), id.clone(), any::<bool>())
        .prop_map(|(a, b, near)| (a.min(b), if near { a.min(b) + 70 } else { a.max(b) }));
    let range = range.boxed();
    let mode = prop_oneof![Just(Search::Any), Just(Search::Round)];
    let action = prop_oneof![
        6 => (mode, range.clone()).prop_map(|(mode, (lo, hi))| Action::Claim(mode, lo, hi)),
        1 => id.clone().prop_map(Action::ClaimAt),
        3 => (0..66_u32, range.clone()).prop_map(|(n, (lo, hi))| Action::Run(n, lo, hi)),
        1 => id.clone().prop_map(Action::Release),
        5 => any::<usize>().prop_map(Action::ReleaseOne),
        1 => (id, 0..66_u32).prop_map(|(at, n)| Action::ReleaseRun(at, n)),
        1 => range.clone().prop_map(|(lo, hi)| Action::Withhold(lo, hi)),
        1 => range.prop_map(|(lo, hi)| Action::Count(lo, hi)),
    ];
    prop::collection::vec(action, 1..120)
}

/// Whether an aligned run of `n` is free in `lo..=hi`, by looking at every place.
fn has_run(claimed: &BTreeSet<u32>, n: u32, lo: u32, hi: u32) -> bool {
    let step = n.next_power_of_two();
    (lo.next_multiple_of(step)..=hi)
        .step_by(step as usize)
        .any(|start| start + n - 1 <= hi && claimed.range(start..start + n).next().is_none())
}

fn check(len: u32, actions: Vec<Action>) -> Result<(), TestCaseError> {
    let words = (0..words_needed(len).unwrap()).map(|_| AtomicU64::new(0)).collect::<Vec<_>>();
    let bitmap = Bitmap::new(len, words).unwrap();
    let mut claimed = BTreeSet::new();
    for action in actions {
        match action.clone() {
            Action::Claim(mode, lo, hi) => {
                let end = hi.min(len - 1);
                let room = lo <= end && claimed.range(lo..=end).count() < (end - lo + 1) as usize;
                let got = bitmap.claim(mode, lo, hi);
                prop_assert_eq!(got.is_some(), room, "{:?}", action);
                if let Some(id) = got {
                    prop_assert!((lo..=end).contains(&id) && claimed.insert(id), "{action:?} gave {id}");
                }
            }
            Action::ClaimAt(id) => prop_assert_eq!(bitmap.claim_at(id), id < len && claimed.insert(id)),
            Action::Run(n, lo, hi) => {
                let end = hi.min(len - 1);
                let got = bitmap.claim_run(n, lo, hi);
                let room = (1..=64).contains(&n) && lo <= end && has_run(&claimed, n, lo, end);
                prop_assert_eq!(got.is_some(), room, "{:?}", action);
                if let Some(start) = got {
                    prop_assert!(start >= lo && start + n - 1 <= end && start.is_multiple_of(n.next_power_of_two()));
                    prop_assert!((start..start + n).all(|id| claimed.insert(id)));
                }
            }
            Action::Release(id) => prop_assert_eq!(bitmap.release(id).is_ok(), claimed.remove(&id)),
            Action::ReleaseOne(nth) if !claimed.is_empty() => {
                let id = *claimed.iter().nth(nth % claimed.len().min(1_000)).unwrap();
                claimed.remove(&id);
                prop_assert_eq!(bitmap.release(id), Ok(()));
                prop_assert_eq!(bitmap.release(id), Err(NotClaimed(id)));
            }
            Action::ReleaseOne(_) => {}
            Action::ReleaseRun(start, n) => {
                let whole = n > 0 && n <= 64 - start % 64 && (start..start + n).all(|id| claimed.contains(&id));
                prop_assert_eq!(bitmap.release_run(start, n).is_ok(), whole);
                if whole {
                    (start..start + n).for_each(|id| assert!(claimed.remove(&id)));
                }
            }
            // Whole spaces of 2^20 would make the model the slow part.
            Action::Withhold(lo, hi) => {
                let hi = hi.min(lo + 5_000);
                let news = (lo..=hi.min(len - 1)).filter(|id| claimed.insert(*id)).count();
                prop_assert_eq!(bitmap.withhold(lo, hi) as usize, news);
            }
            Action::Count(lo, hi) => {
                let free = (lo..=hi.min(len - 1)).filter(|id| !claimed.contains(id)).count();
                prop_assert_eq!(bitmap.count_free(lo, hi) as usize, free);
            }
        }
        prop_assert!(!bitmap.summary().lies(), "after {action:?}");
    }
    prop_assert_eq!(bitmap.free() as usize, len as usize - claimed.len());
    prop_assert!(claimed.iter().all(|&id| bitmap.is_claimed(id)));
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn agrees_with_a_plain_set_of_claimed_ids(
        (len, actions) in prop::sample::select(vec![1_u32, 63, 64, 65, 4_095, 4_096, 4_097])
            .prop_flat_map(|len| (Just(len), actions(len)))
    ) {
        check(len, actions)?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn agrees_with_a_plain_set_over_the_whole_space(actions in actions(MAX_LEN)) {
        check(MAX_LEN, actions)?;
    }
}
