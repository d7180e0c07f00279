//! Runs that do not go as they should: targets that die, testers that cannot, a second server.

use aoe_proto::conformance::Topic;

use super::*;

/// A plan with the cases about mask lists only.
fn masks(permitted: Needs) -> Plan {
    let plan = everything();
    let choice = Choice { topics: vec![Topic::Mask], ..plan.choice };
    Plan { choice, permitted, ..plan }
}

/// What is found out about a target that dies when a member is deleted.
fn examine_mortal(permitted: Needs) -> RunReport {
    let shared = Shared::new();
    shared.0.borrow_mut().dies_at_deletion = true;
    run(&masks(permitted), &shared, &mut MemoryLedger::default(), usize::MAX).unwrap()
}

#[test]
fn a_death_while_state_is_put_back_is_told_beside_the_result_in_every_form() {
    let report = examine_mortal(Needs::ALL);
    let died = |case: &&CaseReport| case.died_restoring && case.result == CaseResult::Passed;
    let ids: Vec<&str> = report.cases.iter().filter(died).map(|case| case.id).collect();
    assert!(ids.contains(&"mask.silence") && ids.len() > 5, "{ids:?}");
    let failed: Vec<&str> = report
        .cases
        .iter()
        .filter(|case| case.result == CaseResult::Failed)
        .map(|case| case.id)
        .collect();
    assert_eq!(failed[..2], ["mask.delete", "mask.add-delete"], "those are about it");
    assert_eq!(report.counts.died_restoring, ids.len());
    let text = render(&report, false);
    assert!(text.contains("  DIED must   mask.silence "), "{text}");
    assert!(text.contains("passed, and the target died while its state was put back"), "{text}");
    let deadly = &report.cases.iter().find(|case| case.id == "mask.silence").unwrap().evidence;
    assert_eq!(deadly.as_ref().unwrap().sent.0[29], 2, "a deletion is what it died of");
    assert!(text.lines().last().unwrap().contains("times DIED"), "{text}");
    let json = serde_json::to_value(&report).unwrap();
    let of_json = |id: &str| {
        let cases = json["cases"].as_array().unwrap().iter();
        cases.clone().find(|case| case["id"] == id).cloned().unwrap()
    };
    let silence = of_json("mask.silence");
    assert_eq!((&silence["result"], &silence["died_restoring"]), (&"passed".into(), &true.into()));
    assert!(silence["evidence"]["step"].is_null() && silence["evidence"]["sent"] != "");
    assert_eq!(of_json("mask.read")["died_restoring"], false);
    assert_eq!(json["counts"]["died_restoring"], ids.len());
    let xml = junit(&report, false);
    let document = roxmltree::Document::parse(&xml).unwrap();
    let tests = |name| document.descendants().filter(|node| node.has_tag_name(name)).count();
    assert_eq!((tests("error"), tests("failure")), (ids.len(), report.counts.failed_must));
    let errors = document.root_element().attribute("errors").unwrap();
    assert_eq!(errors, ids.len().to_string());
    // If none of the cases that failed had been selected, it would be no success all the same.
    let mut plan = masks(Needs::ALL);
    plan.choice.ids = vec!["mask.silence".to_owned()];
    let shared = Shared::new();
    shared.0.borrow_mut().dies_at_deletion = true;
    let report = run(&plan, &shared, &mut MemoryLedger::default(), usize::MAX).unwrap();
    assert!(report.counts.failed_must == 0 && report.has_failed(false));
}

#[test]
fn a_run_that_ends_with_its_target_says_what_was_not_run_and_what_would_help() {
    let report = examine_mortal(Needs::ALL.without(Needs::ACTION));
    let gone = report.cases.iter().filter(|case| case.gone).count();
    assert!(gone > 10, "{gone}");
    let text = render(&report, false);
    let last = text.lines().last().unwrap();
    let told = format!("{gone} NOT RUN, as the target stopped answering at mask.silence");
    assert!(last.ends_with(&told), "{last}");
    let hint =
        "the target stopped answering at mask.silence; --action revive=COMMAND starts it again";
    assert!(text.contains(hint), "{text}");
}

/// Fails to restart the target, and cannot do anything else. (Commands would be processes, of which the
/// tests of this program start none.)
#[derive(Default)]
struct FailsToRestart(Option<String>);

const WHY: &str = "--action restart: `exit 3` ended with exit status: 3";

impl Stage for FailsToRestart {
    fn begin(&mut self, action: Action) -> bool {
        self.0 = None;
        matches!(action, Action::Restart | Action::Revive)
    }

    fn poll(&mut self) -> Option<bool> {
        self.0 = Some(WHY.to_owned());
        Some(false)
    }

    fn trouble(&self) -> Option<String> {
        self.0.clone()
    }
}

#[test]
fn an_action_that_fails_is_told_once_and_is_no_success() {
    let shared = Shared::new();
    let mut plan = everything();
    plan.choice.topics = vec![Topic::Advertisement];
    let mut told = Vec::new();
    let mut wire = shared.clone();
    let report = conduct(
        &plan,
        &mut Sides {
            wire: &mut wire,
            stage: &mut FailsToRestart::default(),
            ledger: &mut MemoryLedger::default(),
            watcher: &mut |progress| {
                if let Progress::NotDone(why) = progress {
                    told.push(why.to_owned());
                }
            },
            interrupted: &mut || false,
        },
    )
    .unwrap();
    assert_eq!(
        (told.as_slice(), report.actions_failed.as_slice()),
        (&[WHY.to_owned()][..], &[WHY.to_owned()][..])
    );
    assert!(report.counts.skipped > 1, "{:?}", report.counts);
    let text = render(&report, false);
    assert!(text.contains(&format!("warning: {WHY}")), "{text}");
    assert!(text.contains("nobody did this: stop the target and start it again"), "{text}");
    assert!(text.contains("nobody did this: take the target's interface down"), "{text}");
}

#[test]
fn a_second_server_at_the_address_is_told_before_the_first_case() {
    let other = Mac([2, 0, 0, 0, 0, 2]);
    let shared = Shared::new();
    shared.0.borrow_mut().double = Some(other);
    let mut plan = everything();
    plan.permitted = Needs::HARMLESS;
    plan.choice.topics = vec![Topic::Header];
    let mut story = Vec::new();
    let (mut wire, mut stage) = (shared.clone(), shared.clone());
    let report = conduct(
        &plan,
        &mut Sides {
            wire: &mut wire,
            stage: &mut stage,
            ledger: &mut MemoryLedger::default(),
            watcher: &mut |progress| match progress {
                Progress::SecondServer(mac) => story.push(mac.to_string()),
                Progress::Started(case, ..) => story.push(case.id.to_owned()),
                _ => {}
            },
            interrupted: &mut || false,
        },
    )
    .unwrap();
    assert_eq!(story[0], other.to_string());
    assert_eq!(story.iter().filter(|entry| **entry == other.to_string()).count(), 1);
    assert_eq!(report.second_server, Some(other.to_string()));
    let text = render(&report, false);
    let warning = text.lines().nth(2).unwrap();
    assert!(
        warning.starts_with("warning: another machine, 02:00:00:00:00:02, answers for e7.3"),
        "{text}"
    );
    assert_eq!(serde_json::to_value(&report).unwrap()["second_server"], other.to_string());
}

#[test]
fn the_permissions_that_are_told_are_those_that_count() {
    let mut plan = everything();
    plan.choice.topics = vec![Topic::Vlan];
    for (mtu, jumbo) in [(1500, false), (9000, true)] {
        plan.config.mtu = mtu;
        let report = run(&plan, &Shared::new(), &mut MemoryLedger::default(), usize::MAX).unwrap();
        assert_eq!(report.runner.permitted.contains("jumbo"), jumbo, "MTU {mtu}");
    }
}
