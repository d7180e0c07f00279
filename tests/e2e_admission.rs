//! Who is served: named clients, newcomers, strangers, and the orders of the operator.
#![allow(clippy::unwrap_used, reason = "a failed preparation fails the test")]

use core::time::Duration;
use std::fs;

use system_tests::frames::{Registers, command, config};
use system_tests::initiator::Initiator;
use system_tests::lab::Lab;
use system_tests::net::Segment;
use system_tests::operator;
use system_tests::require::{self, Need};
use system_tests::site::{self, SECTORS, Site};

const DISK_WORKER: &str = env!("CARGO_BIN_EXE_disk-worker");
const ROOT: &[Need] = &[Need::Root, Need::Program("ip")];
/// How long silence is listened to.
const SILENCE: Duration = Duration::from_millis(800);

/// The test's lab and site, unless it must be skipped.
fn site(test: &'static str, stations: usize) -> Option<(Lab, Site)> {
    if !require::met(test, &[ROOT]) {
        return None;
    }
    let lab = Lab::new(test, DISK_WORKER);
    let site = Site::new(&lab, 1500, stations);
    Some((lab, site))
}

/// Whether the target answers a query and a read of this station, however long it takes.
fn is_served(station: &mut Initiator) -> bool {
    let read = Registers::read(0, 1).with(&[]);
    station.request(command::CONFIG, &config(0, 0, &[])).is_some()
        && station.request(command::ATA, &read).is_some()
}

/// Whether the target answers neither a query nor a read of this station.
fn is_ignored(station: &mut Initiator) -> bool {
    let query = station.request_once(command::CONFIG, &config(0, 0, &[]), SILENCE);
    let read = Registers::read(0, 1).with(&[]);
    query.is_none() && station.request_once(command::ATA, &read, SILENCE).is_none()
}

/// A station that knows where the target is, by asking as another.
fn pretend(site: &Site, index: usize, known: &Initiator) -> Initiator {
    let mac = system_tests::frames::parse_mac(&Segment::client_mac(index));
    let namespace = site.segment.clients();
    Initiator::at(namespace, &Segment::client(index), mac, (0, 0), known.target())
}

fn client(index: usize, name: &str) -> String {
    format!("{name}={}", Segment::client_mac(index))
}

#[test]
fn an_unknown_station_is_refused_listed_and_adopted() {
    let Some((_lab, site)) = site("an_unknown_station_is_refused_listed_and_adopted", 2) else {
        return;
    };
    let mut server = site.serve(&["--client", &client(0, "first")]);
    let mut known = site.station(0);
    site::stamp(&mut known, 1, 0, 8);
    let mut stranger = pretend(&site, 1, &known);
    assert!(is_ignored(&mut stranger));
    let mac = Segment::client_mac(1);
    let listed = site.ask(&["clients", "list"]).assert_done();
    assert!(listed.out.contains("first") && listed.out.contains(&mac), "{listed:?}");
    let listed = site.ask(&["clients", "list", "--json"]).assert_done().json();
    assert_eq!(listed["clients"][0]["name"], "first", "{listed}");
    assert!(listed["unknown"].to_string().contains(&mac), "{listed}");

    site.order(&["clients", "adopt", &mac, "second"]).assert_done();
    assert!(is_served(&mut stranger));
    assert!(site::is_golden(&mut stranger, 0, 8), "a disk of its own");
    site::stamp(&mut stranger, 2, 0, 8);
    assert!(site::is_stamped(&mut known, 1, 0, 8));

    // The adoption and the disk outlive the server.
    server.kill();
    server.restart();
    let mut second = site.station(1);
    assert!(site::is_stamped(&mut second, 2, 0, 8));
    site.order(&["clients", "name", "second", "renamed"]).assert_done();
    assert!(site::is_stamped(&mut second, 2, 0, 8), "a new name, the same disk");
    site.order(&["clients", "remove", "renamed"]).assert_done();
    assert!(is_ignored(&mut second));
    assert_eq!(Site::files(&site.overlays()).len(), 2, "its overlay stays");
    assert_eq!(site.order(&["clients", "remove", "renamed"]).code, 4);
}

#[test]
fn a_client_with_two_addresses_has_one_disk() {
    let Some((_lab, site)) = site("a_client_with_two_addresses_has_one_disk", 2) else { return };
    let both = format!("both={}+{}", Segment::client_mac(0), Segment::client_mac(1));
    let _server = site.serve(&["--client", &both]);
    let (mut first, mut second) = (site.station(0), site.station(1));
    site::stamp(&mut first, 1, 0, 8);
    assert!(site::is_stamped(&mut second, 1, 0, 8));
    assert_eq!(first.identity(), second.identity());
    assert_eq!(Site::files(&site.overlays()).len(), 1);
}

#[test]
fn a_newcomers_overlay_begins_with_its_first_write() {
    let Some((_lab, site)) = site("a_newcomers_overlay_begins_with_its_first_write", 2) else {
        return;
    };
    let _server = site.serve(&["--new-clients", "auto"]);
    let (mut first, mut second) = (site.station(0), site.station(1));
    assert!(site::is_golden(&mut first, 0, SECTORS));
    assert_ne!(first.identity(), second.identity(), "a serial number of its own");
    assert_eq!(Site::files(&site.overlays()), [""; 0], "nobody wrote yet");
    let before = first.identity();
    site::stamp(&mut first, 1, 5, 8);
    assert_eq!(first.identity(), before, "the first write changes no identity");
    assert_eq!(Site::files(&site.overlays()).len(), 1);
    assert!(site::is_golden(&mut second, 0, SECTORS));
}

#[test]
fn a_machine_whose_client_was_renamed_and_removed_begins_anew() {
    let Some((_lab, site)) = site("a_machine_whose_client_was_renamed_and_removed_begins_anew", 1)
    else {
        return;
    };
    let mut server = site.serve(&["--new-clients", "auto"]);
    let mut station = site.station(0);
    site::stamp(&mut station, 1, 0, 8);
    let listed = site.ask(&["clients", "list", "--json"]).assert_done().json();
    let automatic = listed["clients"][0]["name"].as_str().unwrap().to_owned();
    site.order(&["clients", "name", &automatic, "pc1"]).assert_done();
    site.order(&["clients", "remove", "pc1"]).assert_done();
    assert!(site::is_golden(&mut station, 0, SECTORS), "what it wrote is kept for pc1");
    site::stamp(&mut station, 2, 100, 8);
    assert_eq!(Site::files(&site.overlays()).len(), 2);
    server.kill();
    server.restart();
    let mut station = site.station(0);
    assert!(site::is_stamped(&mut station, 2, 100, 8), "the disk it wrote on before");
    assert!(site::is_golden(&mut station, 0, 64));
}

#[test]
fn every_client_has_its_own_blank_disk() {
    let Some((lab, site)) = site("every_client_has_its_own_blank_disk", 2) else { return };
    let overlays = lab.dir().join("overlays").display().to_string();
    let base = format!("0.0={},ro", site.golden().display());
    let mut plan = site.plan(&["--export", &base, "--export", "0.1=blank:8M,per-client"]);
    let golden = site.golden().display().to_string();
    plan.command.retain(|word| *word != golden);
    plan.command.extend(["--new-clients", "auto", "--overlays", &overlays].map(String::from));
    let mut server = plan.start();
    let mut blanks = [0, 1].map(|index| site.find(index, (0, 1)).unwrap());
    for (blank, seed) in blanks.iter_mut().zip(1..) {
        assert_eq!(blank.sectors(), 8 << 11);
        assert!(blank.read(0, 64, 2).iter().all(|&byte| byte == 0));
        site::stamp(blank, seed, 0, 8);
    }
    server.kill();
    server.restart();
    for (index, seed) in [(0, 1), (1, 2)] {
        let mut blank = site.find(index, (0, 1)).unwrap();
        assert!(site::is_stamped(&mut blank, seed, 0, 8));
        let mut base = site.station(index);
        assert!(site::is_golden(&mut base, 0, 64));
        let refused = base.ata(Registers::write(0, 1), &[0xee; 512]).status();
        assert_eq!(refused, (0x41, 0x04), "the base is read-only");
    }
    assert_eq!(Site::files(std::path::Path::new(&overlays)).len(), 2);
}

#[test]
fn newcomers_beyond_the_maximum_get_no_disk() {
    let Some((_lab, site)) = site("newcomers_beyond_the_maximum_get_no_disk", 2) else { return };
    let mut server = site.serve(&["--new-clients", "auto=1"]);
    let mut first = site.station(0);
    site::stamp(&mut first, 1, 0, 8);
    let mut second = pretend(&site, 1, &first);
    let write = Registers::write(0, 1).with(&[0xee; 512]);
    let answer = second.request_once(command::ATA, &write, SILENCE);
    assert!(answer.is_none_or(|answer| answer.status().0 & 1 != 0), "a write was taken");
    assert_eq!(Site::files(&site.overlays()).len(), 1);
    assert!(site::is_stamped(&mut first, 1, 0, 8));
    server.assert_running();
}

#[test]
fn only_allowed_stations_are_answered() {
    let Some((_lab, site)) = site("only_allowed_stations_are_answered", 2) else { return };
    let _server = site.serve(&["--clients", "1", "--allow", &Segment::client_mac(0)]);
    let mut allowed = site.station(0);
    assert!(is_served(&mut allowed));
    assert!(is_ignored(&mut pretend(&site, 1, &allowed)));
}

#[test]
fn an_address_bound_to_a_station_is_silent_for_others() {
    let Some((_lab, site)) = site("an_address_bound_to_a_station_is_silent_for_others", 2) else {
        return;
    };
    let bind = format!("0.0={}", Segment::client_mac(0));
    let _server = site.serve(&["--clients", "2", "--bind", &bind]);
    let mut owner = site.station(0);
    assert!(is_served(&mut owner));
    assert!(is_ignored(&mut pretend(&site, 1, &owner)));
    assert!(site.find(1, (0, 1)).is_some(), "the other address is for everybody");
}

#[test]
fn a_configuration_file_says_the_same_as_the_options() {
    let Some((lab, site)) = site("a_configuration_file_says_the_same_as_the_options", 1) else {
        return;
    };
    let file = lab.dir().join("cowblade.toml");
    let text = format!(
        "golden = {:?}\ninterface = [\"{}\"]\ndurability = \"writeback\"\n\
         [[client]]\nname = \"first\"\nmac = [\"{}\"]\n",
        site.golden().display().to_string(),
        Segment::SERVER,
        Segment::client_mac(0),
    );
    fs::write(&file, text).unwrap();
    let mut plan = site.plan(&[]);
    plan.command = vec![
        plan.command[0].clone(),
        "serve".into(),
        "--config".into(),
        file.display().to_string(),
    ];
    let _server = plan.start();
    site::stamp(&mut site.station(0), 1, 0, 8);
    let status = site.ask(&["status", "--json"]).assert_done().json().to_string();
    assert!(status.contains("writeback") && status.contains("first"), "{status}");
}

#[test]
fn the_tools_understand_an_overlay() {
    let Some((_lab, site)) = site("the_tools_understand_an_overlay", 1) else { return };
    let mut server = site.serve(&["--client", &client(0, "first")]);
    site::stamp(&mut site.station(0), 1, 16, 8);
    assert!(server.terminate().success());
    let name = Site::files(&site.overlays()).pop().unwrap();
    let overlay = site.overlays().join(name).display().to_string();
    let run = |words: &[&str]| operator::cowblade(site.segment.server(), words);
    run(&["check", &overlay]).assert_done();
    let info = run(&["info", "--json", &overlay]).assert_done().json();
    assert!(info.to_string().contains("native"), "{info}");
    let map = run(&["map", &overlay]).assert_done();
    assert!(map.out.contains("16"), "{map:?}");
    assert_eq!(run(&["rollback", &overlay]).code, 2, "nobody confirmed");
    run(&["rollback", "--yes", &overlay]).assert_done();
    server.restart();
    assert!(site::is_golden(&mut site.station(0), 0, SECTORS), "rolled back");
}

#[test]
fn an_overlay_made_beforehand_is_served_in_its_format() {
    let Some((_lab, site)) = site("an_overlay_made_beforehand_is_served_in_its_format", 2) else {
        return;
    };
    fs::create_dir_all(site.overlays()).unwrap();
    let golden = site.golden().display().to_string();
    let made = [("first", "qcow2"), ("second", "uml")].map(|(name, format)| {
        let overlay = site.overlays().join(format!("{name}.cow")).display().to_string();
        operator::local(&["create", "--format", format, &overlay, &golden]).assert_done();
        (overlay, format)
    });
    let (first, second) = (client(0, "first"), client(1, "second"));
    let mut server = site.serve(&["--client", &first, "--client", &second]);
    for round in 1..3_u64 {
        let mut stations = [site.station(0), site.station(1)];
        let used = round * 40;
        for (station, own) in stations.iter_mut().zip([0, 10]) {
            site::stamp(station, used + own, used, 8);
        }
        server.kill();
        server.restart();
        for (index, own) in [(0, 0), (1, 10)] {
            let mut station = site.station(index);
            assert!(site::is_stamped(&mut station, used + own, used, 8), "client {index}");
            assert!(site::is_golden(&mut station, 0, 40));
        }
    }
    assert!(server.terminate().success(), "{}", server.log());
    for (overlay, format) in made {
        let info = operator::local(&["info", "--json", &overlay]).assert_done().json();
        assert!(info.to_string().contains(&format!("\"{format}")), "{info}");
        operator::local(&["check", &overlay]).assert_done();
    }
}
