//! Installations under bad luck, by seed: what must hold is in
//! `sim/src/world/model.rs`.

use std::sync::atomic::{AtomicU64, Ordering};

use fairway_sim::{Summary, World, for_seeds};

/// About 20 s of CPU in a debug build, on all cores.
const SEEDS: u64 = 500;

const REGRESSIONS: (&str, &str) = (
    "sim/testdata/world.seeds",
    include_str!("../testdata/world.seeds"),
);

#[test]
fn whatever_goes_wrong_the_model_is_right() {
    let totals: [AtomicU64; 6] = Default::default();
    let name = "whatever_goes_wrong_the_model_is_right";
    for_seeds(name, 0..SEEDS, REGRESSIONS, |seed| {
        let Summary {
            done,
            excused,
            sessions,
            moves,
            renewals,
            faults,
        } = World::new(seed).live();
        for (total, count) in totals
            .iter()
            .zip([done, excused, sessions, moves, renewals, faults])
        {
            total.fetch_add(count, Ordering::Relaxed);
        }
    });
    let totals = totals.map(|total| total.into_inner());
    let [done, excused, sessions, moves, renewals, faults] = totals;
    println!(
        "{done} calls done, {excused} excused, {sessions} sessions, {moves} moves, \
         {renewals} renewals, {faults} faults"
    );
    if std::env::var("FAIRWAY_SEEDS").is_err() {
        // The seeds do something, and most calls come through.
        assert!(done > excused, "{totals:?}");
        assert!(
            [sessions, moves, renewals, faults]
                .iter()
                .all(|&n| n > SEEDS),
            "{totals:?}"
        );
    }
}

#[test]
fn the_same_seed_gives_the_same_life() {
    for seed in [3, 14, 15] {
        let [a, b] = [(); 2].map(|()| format!("{:?}", World::new(seed).live()));
        assert_eq!(a, b);
    }
}
