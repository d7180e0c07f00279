//! Ends of every kind.
use cow_core::engine::Durability;
use cow_core::fault::Tear;
use system_tests::chain_model::Format;
use system_tests::crash::{Change, End, Recording, Story, end_change};
use system_tests::sim::Plan;

#[test]
fn first_cuts() {
    for durability in [Durability::Safe, Durability::Writeback] {
        for format in [Format::Native, Format::Dm(8), Format::Dm(1)] {
            for seed in 0..4 {
                let plan = Plan { longest: 12, ..Plan::new(30, durability) };
                let story = Story { format, sectors: 16_140, pages: 3, plan, seed };
                let recording = Recording::new(&story).unwrap();
                for end in [End::PowerCut(Tear::Sectors), End::PowerCut(Tear::Anywhere), End::Kill]
                {
                    if format != Format::Native && end == End::PowerCut(Tear::Anywhere) {
                        continue;
                    }
                    println!("{story:?}: {end:?} {:?}", recording.end_everywhere(end, 3, 7));
                }
                for change in [Change::Rollback, Change::Freeze] {
                    println!("{story:?}: {change:?} {:?}", end_change(&recording, change, 8));
                }
            }
        }
    }
}
