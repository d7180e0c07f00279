//! Random sessions of several clients against plain models, with ends of every kind.

use aoe_host::server::Durability;
use cow_core::fault::Tear;
use system_tests::server_sim::{Outcome, Session, SessionPlan};

const MODES: [Durability; 3] = [Durability::Safe, Durability::Writeback, Durability::Ephemeral];

/// Runs a session to its end, and compares every sector.
fn whole(seed: u64, plan: SessionPlan) {
    let mut session = Session::new(seed, plan);
    session.run(None).and_then(|()| session.verify()).unwrap_or_else(|e| panic!("{e}"));
}

/// Stops a session somewhere and ends its process.
fn cut(seed: u64, plan: SessionPlan, outcomes: &[Outcome]) {
    let mut session = Session::new(seed, plan);
    let steps = usize::try_from(20 + seed * 37 % 400).unwrap();
    session.run(Some(steps)).unwrap_or_else(|e| panic!("{e}"));
    for (at, outcome) in (0..).zip(outcomes) {
        session.restart(*outcome, seed ^ at << 32).unwrap_or_else(|e| panic!("{e}"));
    }
}

#[test]
fn clients_read_what_they_wrote() {
    for seed in 0..300 {
        let mut plan = SessionPlan::new(MODES[usize::try_from(seed % 3).unwrap()]);
        plan.inline = [0, 50, 100][usize::try_from(seed / 3 % 3).unwrap()];
        plan.shared = seed % 2 == 0;
        plan.mtu = if seed % 5 == 0 { 1500 } else { 9000 };
        plan.slow_creation = seed % 4 == 0;
        plan.sectors = [40_000, 17, 16_129, 33_000][usize::try_from(seed / 7 % 4).unwrap()];
        whole(seed, plan);
    }
}

#[test]
fn many_disks_share_a_few_pages() {
    for seed in 0..60 {
        let mut plan = SessionPlan::new(MODES[usize::try_from(seed % 3).unwrap()]);
        plan.pages = 2 + usize::try_from(seed % 2).unwrap();
        plan.clients = 8;
        plan.window = 4;
        plan.inline = [0, 50, 100][usize::try_from(seed / 3 % 3).unwrap()];
        whole(seed, plan);
    }
}

#[test]
fn safe_survives_the_power() {
    let ends = [
        Outcome::PowerCut(Tear::Sectors),
        Outcome::PowerCut(Tear::Anywhere),
        Outcome::Kill(Tear::Sectors),
    ];
    for seed in 0..90 {
        let mut plan = SessionPlan::new(Durability::Safe);
        plan.slow_creation = seed % 3 == 0;
        cut(seed, plan, &ends);
    }
}

#[test]
fn writeback_survives_the_process_and_loses_the_last_seconds_at_most() {
    let ends = [
        Outcome::Kill(Tear::Sectors),
        Outcome::PowerCut(Tear::Sectors),
        Outcome::PowerCut(Tear::Anywhere),
    ];
    for seed in 0..90 {
        let mut plan = SessionPlan::new(Durability::Writeback);
        plan.slow_creation = seed % 3 == 0;
        cut(seed, plan, &ends);
    }
}

#[test]
fn lost_notes_are_noticed() {
    let caught = (0..20).any(|seed| {
        let plan = SessionPlan { drops_notes: true, ..SessionPlan::new(Durability::Writeback) };
        let mut session = Session::new(seed, plan);
        session.run(Some(150)).unwrap();
        session.restart(Outcome::Kill(Tear::Sectors), seed).is_err()
    });
    assert!(caught, "the test cannot fail");
}

#[test]
fn syncs_that_do_nothing_are_noticed() {
    let caught = (0..20).any(|seed| {
        let mut session = Session::new(seed, SessionPlan::new(Durability::Safe));
        session.world.edge.machine.ignore_syncs();
        session.run(Some(200)).unwrap();
        session.restart(Outcome::PowerCut(Tear::Sectors), seed).is_err()
    });
    assert!(caught, "the test cannot fail");
}
