//! What a tester has `cowblade conform` do to the target: shell commands. It is a program of its own because
//! a child holds the locks of its parent until it has become another program, and other tests would find
//! their files in use.

#![expect(clippy::unwrap_used, reason = "the helpers of a test fail like the test")]

use core::time::Duration;

use aoe_host::conform::{ActionName, Commands, Stage};
use aoe_host::values::Address;
use aoe_proto::conformance::Action;

fn finish(stage: &mut Commands, action: Action) -> Option<bool> {
    if !stage.begin(action) {
        return None;
    }
    loop {
        if let Some(done) = stage.poll() {
            return Some(done);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn commands(list: &[(ActionName, &str)], patience: Duration) -> Commands {
    let list = list.iter().map(|(name, command)| (*name, (*command).to_owned())).collect();
    Commands::new(list, Address::new(7, 3).unwrap(), 9000, patience)
}

#[test]
fn commands_learn_what_is_wanted_and_tell_how_it_went() {
    let list = [
        (ActionName::Restart, "[ $COWBLADE_TARGET = e7.3 ]"),
        (ActionName::Crash, "false"),
        (ActionName::Mtu, "[ $COWBLADE_MTU = 1100 ]"),
    ];
    let mut stage = commands(&list, Duration::from_mins(1));
    assert_eq!(finish(&mut stage, Action::Restart), Some(true));
    assert_eq!(finish(&mut stage, Action::Revive), Some(true), "by the restart");
    assert_eq!((finish(&mut stage, Action::Crash), stage.trouble().is_some()), (Some(false), true));
    let trouble = stage.trouble().unwrap();
    assert_eq!(trouble, "--action crash: `false` ended with exit status: 1");
    assert_eq!(finish(&mut stage, Action::LowerMtu), Some(true));
    assert_eq!(finish(&mut stage, Action::RestoreMtu), Some(false), "that is 9000");
    assert_eq!(finish(&mut stage, Action::LinkDownUp), None, "nobody can");
    assert_eq!(stage.trouble(), None);
}

#[test]
fn what_was_begun_is_finished_before_the_end() {
    let directory = tempfile::tempdir().unwrap();
    let done = directory.path().join("done");
    let command = format!("sleep 0.2; touch '{}'", done.display());
    let list = [(ActionName::Restart, command.as_str())];
    let mut stage = commands(&list, Duration::from_mins(1));
    assert!(stage.begin(Action::Restart));
    stage.settle();
    assert!(done.exists());
}

#[test]
fn a_command_that_hangs_is_given_up() {
    let mut stage = commands(&[(ActionName::Restart, "exec sleep 600")], Duration::ZERO);
    assert_eq!(finish(&mut stage, Action::Restart), Some(false));
    assert!(stage.trouble().unwrap().contains("longer than 0 s"), "{:?}", stage.trouble());
}
