//! Every rule about the arguments of `serve`, from the words typed to the decision.

use clap::Parser;

use super::*;
use crate::error::ErrorKind;

#[derive(Parser)]
struct Typed {
    #[command(flatten)]
    words: ServeWords,
}

fn words(line: &str) -> ServeWords {
    let arguments = core::iter::once("serve").chain(line.split_whitespace());
    Typed::try_parse_from(arguments).unwrap_or_else(|error| panic!("{line}: {error}")).words
}

fn config(line: &str) -> ServeConfig {
    words(line).resolve().unwrap_or_else(|error| panic!("{line}: {error}"))
}

/// The message, which must name `what`.
fn refused(line: &str, what: &str) {
    let error = words(line).resolve().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Usage, "{line}");
    assert!(error.to_string().contains(what), "{line} gave: {error}");
}

fn at(shelf: u16, slot: u8) -> Address {
    Address::new(shelf, slot).unwrap()
}

#[test]
fn one_address_is_the_default_and_chooses_overlays_by_client() {
    let config = config("golden.img -i eth0 --client lab1=020000000001+020000000002");
    assert_eq!(config.interfaces, ["eth0"]);
    assert_eq!(config.overlays, Some("golden.img.overlays".into()));
    assert_eq!(config.control, Some("golden.img.overlays/control.sock".into()));
    assert_eq!(config.buffer_count, 16);
    assert_eq!(config.new_clients, NewClients::Refuse);
    let [export] = &config.exports[..] else { panic!("{:?}", config.exports) };
    assert_eq!((export.address, &export.top), (at(0, 0), &Top::PerClient));
    assert_eq!(export.durability, Durability::Safe);
    let layer = Layer::File { path: "golden.img".into(), window: Window::default() };
    assert_eq!(export.backing, [layer]);
}

#[test]
fn one_address_each_goes_on_with_the_next_shelf() {
    let config = config("g -i eth0 --clients 300 --address 3.0 --bind 4.44=020000000001");
    assert_eq!(config.exports.len(), 300);
    assert_eq!(config.exports[254].address, at(3, 254));
    assert_eq!(config.exports[255].address, at(4, 0));
    assert_eq!(config.exports[299].macs, [Mac([2, 0, 0, 0, 0, 1])]);
    assert!(config.exports.iter().all(|export| export.top == Top::Own));
    assert!(config.warnings.iter().any(|text| text.contains("299 disks are not bound")));
}

#[test]
fn explicit_exports_decide_by_their_shape() {
    let config = config(
        "-i eth0 --overlays o --export 0.3=golden,ro --export 0.2=blank:1G,per-client \
         --export 0.1=a.cow,golden --export 0.0=golden,name=disk --export 0.4=a,b,blank:512,ro",
    );
    let tops: Vec<_> = config.exports.iter().map(|export| export.top.clone()).collect();
    let file = Top::File("a.cow".into());
    assert_eq!(tops, [Top::Own, file, Top::PerClient, Top::ReadOnly, Top::ReadOnly]);
    assert_eq!(config.exports[0].label(), "disk");
    assert_eq!(config.exports[1].backing.len(), 1);
    assert_eq!(config.exports[2].backing, [Layer::Blank { len_bytes: 1 << 30 }]);
    assert_eq!(config.exports[4].backing.len(), 3);
}

#[test]
fn options_of_an_export_replace_those_of_the_server() {
    let config = config(
        "g -i e --durability writeback --overlay-limit 1G --export 1.0=g,limit=2G,ro \
         --export 1.1=g,durability=ephemeral",
    );
    assert_eq!(config.exports[0].limit, Some(1 << 30));
    assert_eq!(config.exports[1].limit, Some(2 << 30));
    assert_eq!(config.exports[1].durability, Durability::Writeback);
    assert_eq!(config.exports[2].durability, Durability::Ephemeral);
    assert!(config.warnings.iter().any(|text| text.contains("1 of 3 disks are ephemeral")));
}

#[test]
fn a_window_is_part_of_the_golden_image_only() {
    let config = config("g -i e --offset 1M --length 3M --export 1.0=h,ro");
    let window = Window { offset_bytes: 1 << 20, len_bytes: Some(3 << 20) };
    assert_eq!(config.exports[0].backing, [Layer::File { path: "g".into(), window }]);
    let window = Window::default();
    assert_eq!(config.exports[1].backing, [Layer::File { path: "h".into(), window }]);
}

#[test]
fn switches_and_lists() {
    let config = config(
        "g -i e -i f --direct --freeze config,reserve --allow 020000000001,020000000002 --link pnet \
         --new-clients auto=9 --low-space 1G --buffer-count 2 --control /run/c --overlays /o",
    );
    assert_eq!(config.interfaces, ["e", "f"]);
    assert!(config.direct && !config.preallocate);
    assert_eq!(config.freeze, Freeze { config: true, mask: false, reserve: true });
    assert_eq!(config.allow.len(), 2);
    assert_eq!(config.link, LinkKind::Pnet);
    assert_eq!(config.new_clients, NewClients::Auto { max: Some(9) });
    assert_eq!(config.low_space, Some(1 << 30));
    assert_eq!(config.control, Some("/run/c".into()));
    assert_eq!(config.overlays, Some("/o".into()));
    assert!(config.warnings.is_empty(), "{:?}", config.warnings);
    assert!(!words("g -i e --direct=false").resolve().unwrap().direct);
    assert!(words("g -i e --preallocate").resolve().unwrap().preallocate);
}

#[test]
fn contradictions_are_refused_by_name() {
    for (line, what) in [
        ("g", "no network interface"),
        ("g -i e -i e", "named twice"),
        ("-i e", "no image"),
        ("-i e --address 0.1 --export 0.0=g,ro", "--address"),
        ("-i e --offset 512 --export 0.0=g,ro", "--offset"),
        ("g -i e --offset 100", "multiple of 512"),
        ("g -i e --length 0", "--length 0"),
        ("g -i e --buffer-count 1", "--buffer-count 1"),
        ("g -i e --clients 0", "--clients 0"),
        ("g -i e --clients 2 --address 65534.254", "only 1 addresses"),
        ("g -i e --clients 2 --client a=020000000001", "no disk chooses its overlay by client"),
        ("g -i e --clients 2 --new-clients auto", "no disk chooses its overlay by client"),
        ("g -i e --export 0.0=h,ro", "e0.0"),
        ("g -i e --clients 3 --export 0.2=h,ro", "e0.2"),
        ("g -i e --client a=020000000001 --client a=020000000002", "named twice"),
        ("g -i e --client a=020000000001 --client b=020000000001", "belongs to client a"),
        ("g -i e --bind 0.1=020000000001", "no disk has this address"),
        ("g -i e --bind 0.0=020000000001 --bind 0.0=020000000002", "bound twice"),
        ("-i e --export 0.0=g,ro,mac=020000000001 --bind 0.0=020000000002", "already"),
        ("-i e --export 0.0=g,ro,per-client", "contradict"),
        ("-i e --export 0.0=g", "--overlays DIR"),
        ("-i e --export 0.0=blank:1G", "--overlays DIR"),
        ("g -i e --export 0.1=blank:100,ro", "multiple of 512"),
        ("g -i e --export 0.1=blank:0,ro", "multiple of 512"),
        ("g -i e --export 0.1=blank:1G,h,ro", "last layer"),
        ("g -i e --export 0.1=h,name=../x", "../x"),
        ("g -i e --overlay-limit 0", "--overlay-limit 0"),
        ("g -i e --overlay-limit 1G --preallocate", "--preallocate"),
        ("g -i e --preallocate --export 0.1=h,limit=1G", "--preallocate"),
        ("g -i e --export 0.1=a,h,h", "twice"),
    ] {
        refused(line, what);
    }
    refused(&format!("g -i e --control /{}", "c".repeat(107)), "too long");
}

#[test]
fn doubts_are_warnings() {
    for (line, what) in [
        ("g -i e", "no --allow list"),
        ("g -i e", "no client is named"),
        ("g -i e --address 4095.0", "4095"),
        ("g -i e --allow 020000000009 --client a=020000000001", "client a: 02:00:00:00:00:01"),
    ] {
        let warnings = config(line).warnings;
        assert!(warnings.iter().any(|text| text.contains(what)), "{line}: {warnings:?}");
    }
    assert_eq!(config("g -i e --new-clients auto --allow 020000000009").warnings.len(), 0);
}

#[test]
fn words_that_mean_nothing_are_refused_by_the_parser() {
    for line in [
        "g -i e --address 65535.0",
        "g -i e --address 0.255",
        "g -i e --new-clients auto=0",
        "g -i e --new-clients maybe",
        "g -i e --durability fast",
        "g -i e --freeze everything",
        "g -i e --buffer-count 65536",
        "g -i e --low-space big",
        "g -i e --allow ff:ff:ff:ff:ff:ff",
        "g -i e --bind 0.0",
        "g h -i e",
    ] {
        let arguments = core::iter::once("serve").chain(line.split_whitespace());
        assert!(Typed::try_parse_from(arguments).is_err(), "{line}");
    }
}

#[test]
fn workers_are_a_number_or_auto() {
    assert_eq!(config("g -i e").workers, Workers::ONE);
    assert_eq!(config("g -i e --workers 3").workers.count(), 3);
    assert!((1..=AUTO_WORKERS_MAX).contains(&config("g -i e --workers auto").workers.count()));
    for wrong in ["0", "65", "-1", "two", ""] {
        assert!(wrong.parse::<Workers>().is_err(), "{wrong}");
    }
    let file = |text: &str| toml::from_str::<ServeWords>(text).map(|words| words.workers);
    assert_eq!(file("workers = 2").unwrap().map(Workers::count), Some(2));
    assert_eq!(file("workers = \"auto\"").unwrap(), Some(Workers::Auto));
    assert!(file("workers = 0").is_err());
}
