//! A few worlds of the simulation in every `cargo test`: that they hold, that they repeat, and that planted bugs are seen.

use benches::simulated::in_memory;
use pgw_core::testing::mutants::Bug;
use pgw_core::testing::simulation::Simulation;

#[test]
fn every_world_holds() {
    let mut total = pgw_core::testing::simulation::Report::default();
    for seed in 1..=32 {
        match Simulation::new(seed).run(&in_memory) {
            Ok(report) => total = total.and(&report),
            Err(violation) => panic!("{violation}"),
        }
    }
    assert!(total.crashes_under_way > 0 && total.ambiguous_commits > 0, "{total:?}");
    assert!(total.unknown > 0 && total.queues_lost > 0, "{total:?}");
    assert!(total.webhooks > 0 && total.pauses > 0 && total.rotations > 0, "{total:?}");
    assert!(total.erasures > 0, "{total:?}");
}

#[test]
fn the_same_seed_gives_the_same_world() {
    // In the last two, what is stopped at the same instant makes a difference by its order.
    for seed in [1, 2, 3, 0xDEAD_BEEF, 1357, 3848] {
        let first = Simulation::new(seed).run(&in_memory);
        for _ in 0..SAME_RUNS {
            assert_eq!(Simulation::new(seed).run(&in_memory), first, "seed {seed}");
        }
        assert!(first.is_ok_and(|report| report.operations > 0), "seed {seed}");
    }
}

#[test]
fn every_planted_bug_is_seen() {
    for bug in Bug::ALL.iter().filter(|bug| bug.is_seen_in_worlds()) {
        let seen = (1..=SEEDS_TO_SEE_A_BUG)
            .any(|seed| Simulation::new(seed).with_bug(*bug).run(&in_memory).is_err());
        assert!(seen, "{bug} went through {SEEDS_TO_SEE_A_BUG} worlds unseen");
    }
}

/// Somebody else makes good what they leave undone. The conformance suite sees them: see `planted.rs` of pgw-storage-memory.
#[test]
fn bugs_of_backends_alone_do_no_harm() {
    for bug in Bug::ALL.iter().filter(|bug| !bug.is_seen_in_worlds()) {
        for seed in 1..=HARMLESS_SEEDS {
            let result = Simulation::new(seed).with_bug(*bug).run(&in_memory);
            assert!(result.is_ok(), "{bug}: {result:?}");
        }
    }
}

/// What is left to chance between two ways goes unseen by so many runs once in a thousand times.
const SAME_RUNS: u32 = 10;

/// Enough for the subtlest of them several times over.
const SEEDS_TO_SEE_A_BUG: u64 = 100;

/// As many as are run of worlds without a bug.
const HARMLESS_SEEDS: u64 = 32;
