//! The registry's rules.

use super::*;
use crate::config::{Durability, Layer};

fn mac(last: u8) -> Mac {
    Mac([2, 0, 0, 0, 0, last])
}

fn word(name: &str, macs: &[u8]) -> ClientWord {
    ClientWord { name: name.to_owned(), mac: macs.iter().map(|last| mac(*last)).collect() }
}

fn at(slot: u8) -> Address {
    Address::new(0, slot).unwrap()
}

#[test]
fn a_client_is_found_by_each_of_its_macs() {
    let mut registry = Registry::new();
    let id = registry.declare(&word("lab1", &[1, 2])).unwrap();
    assert_eq!(registry.find(mac(1)), Some(id));
    assert_eq!(registry.find(mac(2)), Some(id));
    assert_eq!(registry.find(mac(3)), None);
    assert!(registry.take_changed());
    assert!(!registry.take_changed());
}

#[test]
fn declaring_again_changes_nothing_and_keeps_adopted_addresses() {
    let mut registry = Registry::new();
    let id = registry.declare(&word("lab1", &[1])).unwrap();
    assert_eq!(registry.adopt(mac(2), "lab1").unwrap(), id);
    registry.take_changed();
    assert_eq!(registry.declare(&word("lab1", &[1])).unwrap(), id);
    assert!(!registry.take_changed());
    assert_eq!(registry.client(id).unwrap().macs, [mac(1), mac(2)]);
}

#[test]
fn an_address_has_one_owner() {
    let mut registry = Registry::new();
    registry.declare(&word("lab1", &[1])).unwrap();
    let error = registry.declare(&word("lab2", &[2, 1])).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InUse);
    assert!(error.to_string().contains("belongs to client lab1"), "{error}");
    assert_eq!(registry.len(), 1, "nothing changed");
    assert_eq!(registry.find(mac(2)), None);
}

#[test]
fn automatic_clients_are_named_after_their_address_and_limited() {
    let mut registry = Registry::new();
    let id = registry.admit(mac(0xab), Some(1)).unwrap();
    assert_eq!(registry.client(id).unwrap().name, "m0200000000ab");
    let error = registry.admit(mac(2), Some(1)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Full);
    assert!(registry.admit(mac(2), None).is_ok());
}

#[test]
fn renaming_keeps_the_files_and_new_clients_get_other_ones() {
    let mut registry = Registry::new();
    let first = registry.declare(&word("a", &[1])).unwrap();
    assert_eq!(registry.rename("a", "b").unwrap(), first);
    let second = registry.declare(&word("a", &[2])).unwrap();
    assert_eq!(registry.client(first).unwrap().file_stem, "a");
    assert_eq!(registry.client(second).unwrap().file_stem, "a-2");
    assert_eq!(registry.rename("a", "b").unwrap_err().kind(), ErrorKind::AlreadyExists);
    assert_eq!(registry.rename("x", "y").unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(registry.rename("a", "-").unwrap_err().kind(), ErrorKind::Usage);
}

#[test]
fn removing_frees_the_addresses_and_never_reuses_the_id() {
    let mut registry = Registry::new();
    let first = registry.declare(&word("a", &[1, 2])).unwrap();
    let (id, client) = registry.remove("a").unwrap();
    assert_eq!((id, client.file_stem.as_str()), (first, "a"));
    assert_eq!(registry.find(mac(1)), None);
    assert_eq!(registry.client(first), None);
    let second = registry.declare(&word("b", &[1])).unwrap();
    assert_ne!(first, second);
    assert_eq!(registry.remove("a").unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn survives_a_restart() {
    let mut registry = Registry::new();
    registry.declare(&word("a", &[1, 2])).unwrap();
    registry.declare(&word("b", &[3])).unwrap();
    registry.declare(&word("c", &[4])).unwrap();
    registry.rename("a", "z").unwrap();
    registry.remove("b").unwrap();
    let mut again = Registry::from_json(&registry.to_json()).unwrap();
    assert!(!again.take_changed());
    let clients: Vec<_> = again.clients().map(|(_, client)| client.clone()).collect();
    assert_eq!(clients.len(), 2);
    assert_eq!((clients[0].name.as_str(), clients[0].file_stem.as_str()), ("z", "a"));
    assert_eq!(clients[0].macs, [mac(1), mac(2)]);
    assert_eq!(again.find(mac(4)), again.find_name("c"));
}

#[test]
fn the_file_is_text_that_people_can_read() {
    let mut registry = Registry::new();
    registry.declare(&word("lab1", &[1])).unwrap();
    let text = String::from_utf8(registry.to_json()).unwrap();
    assert_eq!(
        text.split_whitespace().collect::<String>(),
        r#"{"version":1,"clients":[{"name":"lab1","file_stem":"lab1","macs":["02:00:00:00:00:01"]}]}"#
    );
}

#[test]
fn a_damaged_file_is_refused() {
    for (text, kind) in [
        ("", ErrorKind::Corrupt),
        ("{}", ErrorKind::Corrupt),
        (r#"{"version":2,"clients":[]}"#, ErrorKind::Unsupported),
        (r#"{"version":1,"clients":[],"more":1}"#, ErrorKind::Corrupt),
        (r#"{"version":1,"clients":[{"name":"a","file_stem":"a","macs":[]}]}"#, ErrorKind::Corrupt),
        (
            r#"{"version":1,"clients":[{"name":"a","file_stem":"../a","macs":["020000000001"]}]}"#,
            ErrorKind::Corrupt,
        ),
        (
            r#"{"version":1,"clients":[{"name":"a","file_stem":"x","macs":["020000000001"]},
               {"name":"b","file_stem":"x","macs":["020000000002"]}]}"#,
            ErrorKind::Corrupt,
        ),
        (
            r#"{"version":1,"clients":[{"name":"a","file_stem":"a","macs":["020000000001"]},
               {"name":"b","file_stem":"b","macs":["020000000001"]}]}"#,
            ErrorKind::Corrupt,
        ),
    ] {
        let error = Registry::from_json(text.as_bytes()).unwrap_err();
        assert_eq!(error.kind(), kind, "{text}: {error}");
    }
    assert!(Registry::from_json(br#"{"version":1,"clients":[]}"#).unwrap().is_empty());
}

#[test]
fn file_names_never_meet() {
    let export = |slot, top| Export {
        address: at(slot),
        top,
        backing: vec![Layer::Blank { len_bytes: 512 }],
        name: None,
        macs: Vec::new(),
        durability: Durability::Safe,
        limit: None,
    };
    let client = Client { name: "lab1".into(), file_stem: "old".into(), macs: vec![mac(1)] };
    let name = |export: &Export, client| overlay_file_name(export, client, at(0));
    assert_eq!(name(&export(0, Top::PerClient), Some(&client)).as_deref(), Some("old.cow"));
    assert_eq!(name(&export(1, Top::PerClient), Some(&client)).as_deref(), Some("old@e0.1.cow"));
    assert_eq!(name(&export(2, Top::Own), None).as_deref(), Some("e0.2.cow"));
    let named = Export { name: Some("docs".into()), ..export(2, Top::Own) };
    assert_eq!(name(&named, None).as_deref(), Some("e0.2.cow"));
    assert_eq!(name(&export(3, Top::ReadOnly), None), None);
    assert_eq!(name(&export(4, Top::PerClient), None), None);
    assert_eq!(state_file_name(at(0), Some(&client)), "old@e0.0.state");
    assert_eq!(state_file_name(at(0), None), "e0.0.state");
}

#[test]
fn a_service_starts_again_after_its_client_was_renamed() {
    let mut registry = Registry::new();
    let id = registry.declare(&word("lab1", &[1])).unwrap();
    registry.rename("lab1", "pc1").unwrap();
    assert_eq!(registry.declare(&word("lab1", &[1])).unwrap(), id, "the command line is the same");
    assert_eq!(registry.client(id).unwrap().name, "pc1");
    // Another machine of that name is another client, with files of its own.
    let other = registry.declare(&word("lab1", &[2])).unwrap();
    assert_eq!(registry.client(other).unwrap().file_stem, "lab1-2");
}

#[test]
fn a_removed_client_leaves_its_files_to_the_next_of_its_name() {
    let mut registry = Registry::new();
    registry.declare(&word("lab1", &[1])).unwrap();
    registry.rename("lab1", "pc1").unwrap();
    registry.remove("pc1").unwrap();
    let mut registry = Registry::from_json(&registry.to_json()).unwrap();
    let stranger = registry.declare(&word("lab1", &[2])).unwrap();
    assert_eq!(registry.client(stranger).unwrap().file_stem, "lab1-2", "not pc1's files");
    let id = registry.adopt(mac(1), "pc1").unwrap();
    assert_eq!(registry.client(id).unwrap().file_stem, "lab1");
}

#[test]
fn a_machine_without_a_name_does_not_get_the_files_that_it_left_under_one() {
    let mut registry = Registry::new();
    let automatic = automatic_name(mac(1));
    assert_eq!(registry.file_stem(&automatic), automatic);
    registry.admit(mac(1), None).unwrap();
    registry.rename(&automatic, "pc1").unwrap();
    registry.remove("pc1").unwrap();
    // What is foretold is what it gets: the overlay is opened before the client is registered.
    let foretold = registry.file_stem(&automatic);
    assert_ne!(foretold, automatic, "those files are kept for pc1");
    assert_eq!(registry.file_stem("pc1"), automatic);
    let id = registry.admit(mac(1), None).unwrap();
    assert_eq!(registry.client(id).unwrap().file_stem, foretold);
}
