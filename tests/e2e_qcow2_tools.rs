//! qcow2 images in the hands of `cowblade`: made, described, checked, repaired, mapped, copied, merged
//! and rebased, with QEMU's tools as the judge.
#![allow(clippy::unwrap_used, reason = "a failed preparation fails the test")]

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use system_tests::operator::Said;
use system_tests::qemu::{self, TOOLS, text};
use system_tests::require;
use system_tests::rng::Rng;
use system_tests::workspace::{self, WorkDir};

const SECTORS: u64 = 9001;

fn cowblade(args: &[&str]) -> Said {
    let said = Said::of(&Command::new(workspace::cowblade()).args(args).output().unwrap());
    println!("cowblade {args:?}: {said:?}");
    said
}

#[track_caller]
fn tool(args: &[&str]) -> String {
    cowblade(args).assert_done().out
}

#[track_caller]
fn json(args: &[&str]) -> Value {
    cowblade(&[args, &["--json"]].concat()).assert_done().json()
}

/// The command fails with this code and says why.
#[track_caller]
fn refused(code: i32, args: &[&str], why: &str) {
    let said = cowblade(args);
    assert!(said.code == code && said.err.contains(why), "{code}, `{why}`: {said:?}");
}

/// A base of noise.
fn base(dir: &Path, name: &str) -> PathBuf {
    let mut bytes = vec![0; usize::try_from(SECTORS * 512).unwrap()];
    Rng::new(7).fill(&mut bytes);
    let path = dir.join(name);
    std::fs::write(&path, &bytes).unwrap();
    path
}

/// QEMU writes here and there on the first sectors of a disk.
fn qemu_writes(image: &Path, sectors: u64, seed: u64) {
    let mut rng = Rng::new(seed);
    let mut commands = Vec::new();
    for _ in 0..30 {
        let first = rng.below(sectors);
        let (at, len) = (first * 512, (1 + rng.below(200)).min(sectors - first) * 512);
        commands.push(match rng.below(6) {
            0 => format!("write -z {at} {len}"),
            1 => format!("discard {at} {len}"),
            _ => format!("write -P {} {at} {len}", rng.byte()),
        });
    }
    qemu::io(image, "qcow2", &commands);
}

#[track_caller]
fn sound(image: &Path) {
    let (well, said) = qemu::try_run("qemu-img", &["check", "-f", "qcow2", text(image)]);
    assert!(well, "{said}");
    let said = cowblade(&["check", text(image), "--json"]).assert_done().json();
    assert_eq!(said[0]["findings_total"], 0, "{said}");
}

#[track_caller]
fn same(a: &Path, b: &Path) {
    qemu::run("qemu-img", &["compare", "-f", "qcow2", "-F", "raw", text(a), text(b)]);
    let said = cowblade(&["compare", "--parents", text(a), &format!("raw:{}", text(b))]);
    said.assert_done();
}

/// A kind of image that `cowblade create` makes.
struct Made {
    options: &'static [&'static str],
    bytes: u64,
    backed: bool,
}

const fn made(options: &'static [&'static str], bytes: u64, backed: bool) -> Made {
    Made { options, bytes, backed }
}

/// Both versions, the ends of every option, one sector, an odd number, more than 2^32 bytes.
const MADE: [Made; 10] = [
    made(&[], SECTORS * 512, true),
    made(&["version=2"], SECTORS * 512, true),
    made(&["version=2", "cluster=4K"], SECTORS * 512, false),
    made(&["cluster=512"], SECTORS * 512, true),
    made(&["cluster=512", "refcount-bits=64"], 512, false),
    made(&["cluster=2M", "refcount-bits=1"], SECTORS * 512, true),
    made(&["cluster=8K", "refcount-bits=8"], 777 * 512, true),
    made(&["cluster=64K", "refcount-bits=32"], 512, true),
    made(&["cluster=4K", "refcount-bits=2"], (5 << 30) + 512, false),
    made(&["cluster=64K"], 2 << 40, true),
];

#[test]
fn images_of_every_kind_are_made_and_go_both_ways() {
    let test = "images_of_every_kind_are_made_and_go_both_ways";
    if !require::met(test, &[TOOLS]) {
        return;
    }
    let dir = WorkDir::new(test);
    let base = base(dir.path(), "base.img");
    for (at, kind) in MADE.iter().enumerate() {
        let image = dir.join(format!("{at}.qcow2"));
        let size = kind.bytes.to_string();
        let mut args = vec!["create", text(&image), "--format", "qcow2", "--size", &size];
        args.extend(kind.options.iter().flat_map(|option| ["-o", *option]));
        if kind.backed {
            args.extend(["--backing", text(&base)]);
        }
        tool(&args);
        described_alike(&image, kind);
        sound(&image);
        let sectors = (kind.bytes / 512).min(SECTORS);
        qemu_writes(&image, sectors, at as u64);
        let has_end = kind.bytes > SECTORS * 512;
        if has_end {
            let end = format!("write -P 5 {} 512", kind.bytes - 512);
            qemu::io(&image, "qcow2", &[end]);
        }
        sound(&image);
        mapped_alike(&image, kind);
        // A copy that QEMU takes for the same, in another shape.
        let copy = dir.join("copy.qcow2");
        let other = ["version=2", "cluster=1K", "cluster=64K"][at % 3];
        let other = if has_end { "cluster=64K" } else { other };
        let to = ["convert", "--force", "--parents", "-O", "qcow2", "-o", other];
        tool(&[&to[..], &[text(&image), text(&copy)]].concat());
        qemu::run(
            "qemu-img",
            &["compare", "-f", "qcow2", "-F", "qcow2", text(&image), text(&copy)],
        );
        sound(&copy);
        if !has_end {
            let raw = dir.join("copy.img");
            tool(&["convert", "--force", "--parents", text(&image), text(&raw)]);
            same(&image, &raw);
            tool(&["convert", "--force", "-f", "raw", text(&raw), text(&copy), "-O", "qcow2"]);
            same(&copy, &raw);
            sound(&copy);
        }
    }
}

fn described_alike(image: &Path, kind: &Made) {
    let theirs = qemu::run("qemu-img", &["info", "--output=json", "-f", "qcow2", text(image)]);
    let theirs: Value = serde_json::from_str(&theirs).unwrap();
    let ours = json(&["info", "--parents", text(image)]);
    let (data, qcow2) = (&theirs["format-specific"]["data"], &ours["qcow2"]);
    assert_eq!(theirs["virtual-size"], ours["disk_bytes"]);
    assert_eq!(theirs["virtual-size"], kind.bytes);
    assert_eq!(theirs["cluster-size"], qcow2["cluster_bytes"]);
    assert_eq!(data["refcount-bits"], qcow2["refcount_bits"]);
    assert_eq!(data["compat"] == "0.10", qcow2["version"] == 2);
    assert_eq!(theirs["backing-filename"].is_string(), kind.backed);
    if kind.backed {
        assert_eq!(theirs["backing-filename"], "base.img");
        assert_eq!(theirs["backing-filename-format"], qcow2["backing_format"]);
        assert_eq!(ours["parents"][0]["state"], "as-recorded", "{ours}");
    }
    let apparent = std::fs::metadata(image).unwrap().len();
    assert_eq!(ours["file"]["apparent_bytes"], apparent);
}

/// The runs of the image itself, by place.
fn mapped_alike(image: &Path, kind: &Made) {
    let wanted = |e: &&qemu::MapEntry| e.depth == 0 && e.data;
    let theirs: Vec<_> = qemu::map(image, "qcow2").iter().filter(wanted).copied().collect();
    let ours = json(&["map", text(image)]);
    let number = |v: &Value, key: &str| v[key].as_u64().unwrap();
    let runs = ours["map"].as_array().unwrap().iter();
    let ours: Vec<_> = runs
        .filter(|run| run["kind"] == "data" && run["layer"] == 0)
        .map(|run| {
            (number(run, "start") * 512, number(run, "sectors") * 512, run["offset"].as_u64())
        })
        .collect();
    let mut joined: Vec<(u64, u64, Option<u64>)> = Vec::new();
    for entry in &theirs {
        let next = (entry.start, entry.length, entry.offset);
        match joined.last_mut() {
            Some((start, len, Some(at)))
                if *start + *len == next.0 && Some(*at + *len) == next.2 =>
            {
                *len += next.1;
            }
            _ => joined.push(next),
        }
    }
    assert_eq!(ours, joined, "{:?}", kind.options);
}

#[test]
fn impossible_wishes_make_no_file() {
    let test = "impossible_wishes_make_no_file";
    let dir = WorkDir::new(test);
    let base = base(dir.path(), "base.img");
    let image = dir.join("x.qcow2");
    for (bad, why) in [
        ("cluster=256", "clusters of 2^8 bytes"),
        ("cluster=4M", "clusters of 2^22 bytes"),
        ("cluster=3K", "no power of two"),
        ("version=1", "version 1"),
        ("version=4", "version 4"),
        ("refcount-bits=3", "3 bits"),
        ("refcount-bits=128", "128 bits"),
        ("color=red", "cluster"),
    ] {
        let args = ["create", text(&image), "--format", "qcow2", "--size", "1M", "-o", bad];
        refused(2, &args, why);
    }
    let args = ["create", text(&image), "--format", "qcow2", "--size", "1M"];
    let narrow = [&args[..], &["-o", "version=2", "-o", "refcount-bits=1"]].concat();
    refused(2, &narrow, "1 bits do not exist in this version");
    let args = ["create", text(&image), "--format", "qcow2", "--size", "1P", "-o", "cluster=512"];
    refused(2, &args, "does not fit");
    // A name that has no room in a cluster of 512 bytes.
    let long = dir.join("l".repeat(200));
    std::fs::create_dir(&long).unwrap();
    let long = long.join("d".repeat(200));
    std::fs::create_dir(&long).unwrap();
    let far = long.join("base.img");
    std::fs::copy(&base, &far).unwrap();
    let args = ["create", text(&image), "--format", "qcow2", "--backing", text(&far)];
    refused(2, &[&args[..], &["-o", "cluster=512"]].concat(), "name must have 1 to");
    assert!(!image.exists());
    tool(&args);
    assert!(image.exists());
}

/// Raw, qcow, and qcow2 of both versions, each made by QEMU over the one before, and some of ours.
#[test]
fn chains_of_several_formats_are_followed() {
    let test = "chains_of_several_formats_are_followed";
    if !require::met(test, &[TOOLS]) {
        return;
    }
    let dir = WorkDir::new(test);
    let _base = base(dir.path(), "base.img");
    let steps = [
        ("one.qcow", "qcow", "base.img", "raw", "cluster_size=512"),
        ("two.qcow2", "qcow2", "one.qcow", "qcow", "compat=0.10"),
        ("three.qcow2", "qcow2", "two.qcow2", "qcow2", "cluster_size=4096"),
    ];
    for (at, (name, format, below, below_format, option)) in steps.into_iter().enumerate() {
        let path = dir.join(name);
        let mut args = vec!["create", "-q", "-f", format, "-b", below, "-F", below_format];
        if format == "qcow2" {
            args.extend(["-o", option]);
        }
        qemu::run("qemu-img", &[&args[..], &[text(&path)]].concat());
        let write = format!("write -P {} {} 70000", at + 1, at * 50_000 / 512 * 512);
        qemu::run("qemu-io", &["-f", format, "-c", &write, text(&path)]);
    }
    // One of ours on top, and one of QEMU's on that.
    let ours = dir.join("four.qcow2");
    let three = dir.join("three.qcow2");
    tool(&["create", text(&ours), text(&three), "--format", "qcow2"]);
    qemu_writes(&ours, 3000, 4);
    let raw = dir.join("all.img");
    std::fs::write(&raw, qemu::content(&ours, "qcow2", &[])).unwrap();
    same(&ours, &raw);
    let info = json(&["info", "--parents", text(&ours)]);
    let formats: Vec<_> =
        info["parents"].as_array().unwrap().iter().map(|p| p["format"].clone()).collect();
    assert_eq!(formats, ["qcow2", "qcow2", "qcow1", "raw"], "{info}");
    // By name, in full.
    let chain = ["four.qcow2", "three.qcow2", "two.qcow2", "one.qcow", "base.img"]
        .map(|name| text(&dir.join(name)).to_owned())
        .join(",");
    let copy = dir.join("copy.img");
    tool(&["convert", &chain, text(&copy)]);
    assert!(std::fs::read(&copy).unwrap() == std::fs::read(&raw).unwrap());
    // Nothing where the parent was.
    let (here, away) = (dir.join("base.img"), dir.join("away.img"));
    std::fs::rename(&here, &away).unwrap();
    refused(5, &["convert", "--parents", text(&ours), text(&dir.join("no.img"))], "base.img");
    assert!(!dir.join("no.img").exists());
    std::fs::rename(&away, &here).unwrap();
    // A changed parent is noticed: three.qcow2 is not what it was when four.qcow2 was made.
    qemu::run("qemu-io", &["-f", "qcow2", "-c", "write -P 9 0 512", text(&three)]);
    refused(5, &["convert", &chain, text(&dir.join("no.img"))], "three.qcow2");
}

/// Writes big-endian numbers into a file.
fn patch(path: &Path, fields: Fields<'_>) {
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::options().write(true).open(path).unwrap();
    for (at, value, len) in fields {
        file.write_all_at(&value.to_be_bytes()[8 - len..], *at).unwrap();
    }
}

fn number(path: &Path, at: u64) -> u64 {
    use std::os::unix::fs::FileExt;
    let mut bytes = [0; 8];
    std::fs::File::open(path).unwrap().read_exact_at(&mut bytes, at).unwrap();
    u64::from_be_bytes(bytes)
}

/// A sound image of QEMU's with some content.
fn filled(dir: &Path, name: &str, options: &str) -> PathBuf {
    let image = dir.join(name);
    let size = (SECTORS * 512).to_string();
    qemu::run("qemu-img", &["create", "-q", "-f", "qcow2", "-o", options, text(&image), &size]);
    qemu::io(&image, "qcow2", &["write -P 3 0 300000".into(), "write -P 4 4000000 5120".into()]);
    image
}

/// Fields of an image: place, value, bytes.
type Fields<'a> = &'a [(u64, u64, usize)];

/// What cannot be used is refused with its reason, by every command alike, and never changed.
#[test]
fn what_is_not_supported_is_refused_with_a_reason() {
    let test = "what_is_not_supported_is_refused_with_a_reason";
    if !require::met(test, &[TOOLS]) {
        return;
    }
    let dir = WorkDir::new(test);
    let good = filled(dir.path(), "good.qcow2", "cluster_size=4096");
    let bad: [(&str, Fields<'_>, &str); 17] = [
        ("version 4", &[(4, 4, 4)], "version 4"),
        ("AES", &[(32, 1, 4)], "encrypted (AES)"),
        ("LUKS", &[(32, 2, 4)], "encrypted (LUKS)"),
        ("external data", &[(72, 4, 8)], "the data are in another file"),
        ("unknown feature", &[(72, 1 << 40, 8)], "features that are not known"),
        ("subclusters of 4K", &[(72, 16, 8)], "clusters of 2^12 bytes"),
        ("compression", &[(72, 8, 8), (104, 7, 1)], "compression type 7"),
        ("clusters", &[(20, 22, 4)], "clusters of 2^22"),
        ("counts", &[(96, 7, 4)], "2^7 bits"),
        ("header", &[(100, 107, 4)], "header of 107"),
        ("disk", &[(24, 1 << 60, 8)], "disk of"),
        ("first table", &[(36, 1, 4)], "the disk needs"),
        ("place of it", &[(40, 513, 8)], "not aligned or not inside"),
        ("behind the end", &[(40, 1 << 40, 8)], "not aligned or not inside"),
        ("tables", &[(48, number(&good, 40), 8)], "overlaps"),
        ("snapshots", &[(60, 1 << 30, 4)], "snapshots are too many"),
        ("name", &[(8, 200, 8), (16, 4000, 4)], "4000 bytes"),
    ];
    for (what, fields, why) in bad {
        let image = dir.join("bad.qcow2");
        std::fs::copy(&good, &image).unwrap();
        patch(&image, fields);
        let before = std::fs::read(&image).unwrap();
        let told = json(&["info", text(&image)]);
        let problems = told["problems"].to_string();
        assert!(told["format"] == "qcow2" && problems.contains(why), "{what}: {told}");
        let said = cowblade(&["convert", "-O", "raw", text(&image), text(&dir.join("no.img"))]);
        assert!(matches!(said.code, 1 | 5) && said.err.contains(why), "{what}: {said:?}");
        let said = cowblade(&["check", text(&image)]);
        if matches!(what, "AES" | "LUKS" | "external data") {
            // No damage: it cannot be looked at.
            assert!(said.code == 1 && said.err.contains(why), "{what}: {said:?}");
        } else {
            assert!(said.code == 3 && said.out.contains(why), "{what}: {said:?}");
        }
        let said = cowblade(&["create", text(&dir.join("no.cow")), text(&image)]);
        assert!(matches!(said.code, 1 | 5), "{what}: {said:?}");
        cowblade(&["check", "--repair", text(&image)]);
        assert!(std::fs::read(&image).unwrap() == before, "{what}: changed");
        assert!(!dir.join("no.img").exists() && !dir.join("no.cow").exists(), "{what}");
    }
    // Cut off in its header.
    let image = dir.join("cut.qcow2");
    std::fs::write(&image, &std::fs::read(&good).unwrap()[..600]).unwrap();
    let told = json(&["info", text(&image)]);
    assert!(told["problems"].to_string().contains("not inside the image"), "{told}");
}

/// Subclusters are read and not written; a protocol as parent, and a parent without format, are not
/// followed.
#[test]
fn what_is_only_read_and_what_is_not_followed() {
    let test = "what_is_only_read_and_what_is_not_followed";
    if !require::met(test, &[TOOLS]) {
        return;
    }
    let dir = WorkDir::new(test);
    let extended = filled(dir.path(), "extended.qcow2", "extended_l2=on");
    let raw = dir.join("raw.img");
    std::fs::write(&raw, qemu::content(&extended, "qcow2", &[])).unwrap();
    same(&extended, &raw);
    sound(&extended);
    // As an overlay that must be written.
    let write = ["rebase", text(&extended), "--parent", text(&raw)];
    refused(1, &write, "images with subclusters are not written");
    // Nor merged into, after which everything is as it was.
    let over = dir.join("over.cow");
    tool(&["create", text(&over), text(&extended)]);
    refused(1, &["merge", "--in-place", "--yes", text(&over)], "subclusters are not written");
    same(&extended, &raw);
    tool(&["check", text(&over), text(&extended)]);
    let chain = format!("{},{}", text(&over), text(&extended));
    tool(&["compare", &chain, &format!("raw:{}", text(&raw))]);

    // `nbd://...` in place of a name.
    let base = base(dir.path(), "base.img");
    let image = dir.join("net.qcow2");
    tool(&["create", text(&image), text(&base), "--format", "qcow2"]);
    let size = (SECTORS * 512).to_string();
    for name in ["nbd://127.0.0.1:1/x", "json:{\"driver\":\"null-co\"}", "fat:rw:."] {
        let args = ["create", "-q", "-u", "-f", "qcow2", "-b", name, "-F", "raw"];
        qemu::run("qemu-img", &[&args[..], &[text(&image), &size]].concat());
        refused(
            1,
            &["convert", "--parents", text(&image), text(&dir.join("no.img"))],
            "not the name",
        );
        let told = json(&["info", text(&image)]);
        assert!(told["problems"].to_string().contains("is not the name of a file"), "{told}");
    }
    // A parent whose format is not said: found by name only.
    std::fs::remove_file(&image).unwrap();
    tool(&["create", text(&image), text(&base), "--format", "qcow2"]);
    assert_eq!(number(&image, 112) >> 32, 0xe279_2aca);
    patch(&image, &[(112, 0x1234_5678, 4)]);
    refused(4, &["convert", "--parents", text(&image), text(&dir.join("no.img"))], "not recorded");
    let told = tool(&["info", text(&image)]);
    assert!(told.contains("format not recorded"), "{told}");
    let chain = format!("{},{}", text(&image), text(&base));
    tool(&["convert", &chain, text(&dir.join("yes.img"))]);
    assert!(std::fs::read(dir.join("yes.img")).unwrap() == std::fs::read(&base).unwrap());
    // And a file that is its own parent.
    let looped = dir.join("looped.qcow2");
    let args = ["create", "-q", "-u", "-f", "qcow2", "-b", "looped.qcow2", "-F", "qcow2"];
    qemu::run("qemu-img", &[&args[..], &[text(&looped), &size]].concat());
    refused(5, &["convert", "--parents", text(&looped), text(&dir.join("no.img"))], "comes back");
}

#[test]
fn damage_is_told_and_repaired_without_loss() {
    let test = "damage_is_told_and_repaired_without_loss";
    if !require::met(test, &[TOOLS]) {
        return;
    }
    let dir = WorkDir::new(test);
    let good = filled(dir.path(), "good.qcow2", "cluster_size=4096,lazy_refcounts=on");
    let raw = dir.join("raw.img");
    std::fs::write(&raw, qemu::content(&good, "qcow2", &[])).unwrap();
    let l1 = number(&good, 40);
    let l2 = number(&good, l1) & 0x00ff_ffff_ffff_fe00;
    let data = number(&good, l2) & 0x00ff_ffff_ffff_fe00;
    let counts = number(&good, number(&good, 48));
    let count_of = |offset: u64| counts + offset / 4096 * 2;
    let len = std::fs::metadata(&good).unwrap().len();
    // Name, change, whether it is damage, what the repair says.
    let cases: [(&str, Fields<'_>, bool, &str); 5] = [
        ("leak", &[(count_of(data), 2, 2)], false, "counted less"),
        ("lost", &[(count_of(len - 4096) + 2, 1, 2)], false, "free again"),
        ("low", &[(count_of(data), 0, 2)], true, "as often as they are used"),
        ("dirty", &[(count_of(data), 0, 2), (72, 1, 8)], false, "not marked dirty"),
        ("mark", &[(l2 + 8, number(&good, l2), 8)], true, "used once"),
    ];
    for (what, fields, is_damage, repaired) in cases {
        let image = dir.join("bad.qcow2");
        std::fs::copy(&good, &image).unwrap();
        patch(&image, fields);
        let said = cowblade(&["check", text(&image)]);
        assert_eq!(said.code, if is_damage { 3 } else { 0 }, "{what}: {said:?}");
        assert!(said.out.lines().count() > 1, "{what}: {said:?}");
        let said = cowblade(&["check", "--repair", text(&image)]).assert_done();
        assert!(said.out.contains(repaired), "{what}: {said:?}");
        sound(&image);
        if what != "mark" {
            same(&image, &raw);
        }
    }
    // Marked corrupt by QEMU: read, not written; sound again after a repair.
    let image = dir.join("corrupt.qcow2");
    std::fs::copy(&good, &image).unwrap();
    patch(&image, &[(72, 2, 8)]);
    let base = base(dir.path(), "base.img");
    refused(5, &["rebase", text(&image), "--parent", text(&base)], "marked corrupt");
    tool(&["convert", text(&image), text(&dir.join("out.img"))]);
    tool(&["check", "--repair", text(&image)]);
    same(&image, &raw);
    sound(&image);
    // An entry that points outside: told, never guessed.
    let image = dir.join("outside.qcow2");
    std::fs::copy(&good, &image).unwrap();
    patch(&image, &[(l2, 1 << 63 | 1 << 50, 8)]);
    refused(3, &["check", "--repair", text(&image)], "");
    refused(5, &["convert", text(&image), text(&dir.join("no.img"))], "sector 0");
    assert!(number(&image, l2) == 1 << 63 | 1 << 50 && !dir.join("no.img").exists());
}

/// Internal snapshots: listed, read, layers of chains, kept by every write, and in nobody's way.
#[test]
fn snapshots_inside_are_read_and_kept() {
    let test = "snapshots_inside_are_read_and_kept";
    if !require::met(test, &[TOOLS]) {
        return;
    }
    let dir = WorkDir::new(test);
    let base = base(dir.path(), "base.img");
    let image = dir.join("top.qcow2");
    tool(&["create", text(&image), text(&base), "--format", "qcow2", "-o", "cluster=4K"]);
    let mut kept = Vec::new();
    for (round, name) in ["before lunch", "after"].into_iter().enumerate() {
        qemu_writes(&image, SECTORS, round as u64);
        qemu::run("qemu-img", &["snapshot", "-c", name, text(&image)]);
        kept.push((name, qemu::content(&image, "qcow2", &[])));
    }
    qemu_writes(&image, SECTORS, 9);
    let told = json(&["info", text(&image)]);
    let names: Vec<_> = told["qcow2"]["snapshots"].as_array().unwrap().iter().collect();
    assert_eq!((names.len(), &names[0]["name"]), (2, &"before lunch".into()), "{told}");
    let out = dir.join("out.img");
    for (number, (name, content)) in kept.iter().enumerate() {
        for wanted in [(*name).to_owned(), (number + 1).to_string()] {
            let inside = format!("qcow2@{wanted}:{}", text(&image));
            tool(&["convert", "--force", "--parents", &inside, text(&out)]);
            assert!(std::fs::read(&out).unwrap() == *content, "{wanted}");
        }
    }
    refused(4, &["info", &format!("qcow2@none:{}", text(&image))], "no internal snapshot `none`");
    // What would destroy or change them is refused.
    refused(1, &["rollback", text(&image), "--yes"], "internal snapshots");
    let other = dir.join("other.img");
    std::fs::write(&other, [1; 512]).unwrap();
    let rebase = ["rebase", "--parents", text(&image), "--parent", text(&other)];
    refused(1, &rebase, "internal snapshots");
    let merge = ["merge", "--in-place", "--parents", "--yes", text(&image)];
    refused(1, &merge, "internal snapshots");
    // One of them as the layer below an overlay; writing the image does not disturb that.
    let inside = format!("qcow2@1:{}", text(&image));
    let over = dir.join("over.cow");
    tool(&["create", text(&over), &inside]);
    let chain = format!("{},{inside},{}", text(&over), text(&base));
    for seed in [20, 21] {
        tool(&["convert", "--force", &chain, text(&out)]);
        assert!(std::fs::read(&out).unwrap() == kept[0].1);
        qemu_writes(&image, SECTORS, seed);
    }
    // The disk as it is now is another parent.
    let wrong = format!("{},{},{}", text(&over), text(&image), text(&base));
    refused(5, &["convert", "--force", &wrong, text(&out)], "");
    refused(1, &["rebase", &inside, "--parent", text(&base)], "only read");
    // A qcow2 image cannot say that its parent is inside another one.
    let never = dir.join("never.qcow2");
    refused(1, &["create", text(&never), &inside, "--format", "qcow2"], "no name to record");
    // Merged into the image, whose snapshots stay.
    let native = dir.join("native.cow");
    tool(&["create", text(&native), text(&image)]);
    let chain = format!("{},{},{}", text(&native), text(&image), text(&base));
    tool(&["merge", "--in-place", "--yes", &chain]);
    sound(&image);
    for (name, content) in &kept {
        let from = format!("snapshot.name={name}");
        assert!(qemu::content(&image, "qcow2", &["-l", &from]) == *content);
    }
}

/// The list of snapshots at the very end of the file, and bitmaps of changes, as QEMU's tools leave them.
#[test]
fn lists_at_the_end_and_bitmaps_are_left_as_they_are() {
    let test = "lists_at_the_end_and_bitmaps_are_left_as_they_are";
    if !require::met(test, &[TOOLS]) {
        return;
    }
    let dir = WorkDir::new(test);
    let (image, out) = (dir.join("image.qcow2"), dir.join("out.img"));
    for cluster in ["512", "4096", "65536"] {
        let _made_anew = std::fs::remove_file(&image);
        let options = format!("cluster_size={cluster}");
        qemu::run("qemu-img", &["create", "-q", "-f", "qcow2", "-o", &options, text(&image), "9M"]);
        let mut kept = Vec::new();
        // Every length of the last entry modulo eight.
        for name in ["a", "bc", "def", "ghij", "klmno", "pqrstu", "vwxyzab", "cdefghij"] {
            qemu::run("qemu-img", &["snapshot", "-c", name, text(&image)]);
            sound(&image);
            kept.push((name, qemu::content(&image, "qcow2", &[])));
            for (name, content) in &kept {
                let inside = format!("qcow2@{name}:{}", text(&image));
                tool(&["convert", "--force", &inside, text(&out)]);
                assert!(std::fs::read(&out).unwrap() == *content, "{cluster} {name}");
            }
            qemu_writes(&image, SECTORS, kept.len() as u64);
        }
        qemu::run("qemu-img", &["snapshot", "-a", "def", text(&image)]);
        qemu::run("qemu-img", &["snapshot", "-d", "ghij", text(&image)]);
        qemu::run("qemu-img", &["bitmap", "--add", text(&image), "first"]);
        qemu::run("qemu-img", &["bitmap", "--add", "--disable", "-g", "4096", text(&image), "2nd"]);
        qemu_writes(&image, SECTORS, 99);
        sound(&image);
        // A repair of something else leaves the bitmaps.
        let len = std::fs::metadata(&image).unwrap().len();
        std::fs::File::options().write(true).open(&image).unwrap().set_len(len).unwrap();
        tool(&["check", "--repair", text(&image)]);
        sound(&image);
        let told = qemu::run("qemu-img", &["info", text(&image)]);
        assert!(told.contains("name: first") && told.contains("name: 2nd"), "{told}");
        // A write ends them: the image says so, and their room is lost until a repair.
        let over = dir.join("over.cow");
        tool(&["create", text(&over), text(&image)]);
        tool(&["merge", "--in-place", "--yes", text(&over), "--keep-overlay", "delete"]);
        tool(&["check", "--repair", text(&image)]);
        sound(&image);
        for (name, content) in kept.iter().filter(|(name, _)| *name != "ghij") {
            let from = format!("snapshot.name={name}");
            assert!(qemu::content(&image, "qcow2", &["-l", &from]) == *content, "{cluster} {name}");
        }
    }
}

/// The same overlays merged by `qemu-img commit` and by us.
#[test]
fn a_merge_is_what_qemu_commits() {
    let test = "a_merge_is_what_qemu_commits";
    if !require::met(test, &[TOOLS]) {
        return;
    }
    let dir = WorkDir::new(test);
    for (at, (parent, cluster)) in
        [("raw", "64K"), ("qcow2", "4K"), ("qcow2", "512")].into_iter().enumerate()
    {
        let base = base(dir.path(), "base.img");
        let middle = dir.join(format!("middle{at}"));
        match parent {
            "raw" => drop(std::fs::copy(&base, &middle).unwrap()),
            _ => drop(tool(&["create", text(&middle), text(&base), "--format", "qcow2"])),
        }
        let top = dir.join(format!("top{at}.qcow2"));
        let cluster = format!("cluster={cluster}");
        tool(&["create", text(&top), text(&middle), "--format", "qcow2", "-o", &cluster]);
        qemu_writes(&top, SECTORS, 30 + at as u64);
        let expected = qemu::content(&top, "qcow2", &[]);
        // QEMU commits copies.
        let theirs = dir.join("theirs");
        std::fs::create_dir(&theirs).unwrap();
        for path in [&base, &middle, &top] {
            std::fs::copy(path, theirs.join(path.file_name().unwrap())).unwrap();
        }
        let name = |path: &Path| theirs.join(path.file_name().unwrap());
        qemu::run("qemu-img", &["commit", "-q", "-f", "qcow2", text(&name(&top))]);
        let arguments = ["merge", "--in-place", "--parents", "--yes", "--keep-overlay", "empty"];
        tool(&[&arguments[..], &[text(&top)]].concat());
        for (format, path) in [(parent, &middle), ("qcow2", &top)] {
            assert!(qemu::content(path, format, &[]) == expected, "{parent}, {cluster}");
            assert!(qemu::content(&name(path), format, &[]) == expected, "{parent}, {cluster}");
            if format == "qcow2" {
                sound(path);
            }
        }
        assert!(qemu::map(&top, "qcow2").iter().all(|e| e.depth > 0), "not empty");
        std::fs::remove_dir_all(&theirs).unwrap();
    }
}

#[test]
fn overlays_are_rebased_rolled_back_and_continued() {
    let test = "overlays_are_rebased_rolled_back_and_continued";
    if !require::met(test, &[TOOLS]) {
        return;
    }
    let dir = WorkDir::new(test);
    let base = base(dir.path(), "base.img");
    let other = dir.join("other.qcow2");
    tool(&["create", text(&other), "--format", "qcow2", "--size", &(SECTORS * 512).to_string()]);
    qemu_writes(&other, SECTORS, 50);
    for option in ["version=3", "version=2", "cluster=512"] {
        let image = dir.join("top.qcow2");
        tool(&["create", text(&image), text(&base), "--format", "qcow2", "-o", option]);
        qemu_writes(&image, SECTORS, 51);
        let raw = dir.join("raw.img");
        std::fs::write(&raw, qemu::content(&image, "qcow2", &[])).unwrap();
        // Over an image of another format, and over nothing.
        tool(&["rebase", "--parents", text(&image), "--parent", text(&other)]);
        let info = qemu::run("qemu-img", &["info", "-f", "qcow2", text(&image)]);
        assert!(info.contains("backing file: other.qcow2"), "{info}");
        assert!(info.contains("backing file format: qcow2"), "{info}");
        same(&image, &raw);
        sound(&image);
        tool(&["rebase", "--parents", text(&image), "--parent", "blank:4608512"]);
        let info = qemu::run("qemu-img", &["info", "-f", "qcow2", text(&image)]);
        assert!(!info.contains("backing file"), "{info}");
        same(&image, &raw);
        sound(&image);
        // Emptied, it is a disk of zeros.
        tool(&["rollback", text(&image), "--yes"]);
        assert!(qemu::content(&image, "qcow2", &[]).iter().all(|byte| *byte == 0));
        sound(&image);
        std::fs::remove_file(&image).unwrap();
    }
    // Another name of the same parent, without copying.
    let image = dir.join("top.qcow2");
    tool(&["create", text(&image), text(&base), "--format", "qcow2"]);
    qemu_writes(&image, SECTORS, 52);
    let expected = qemu::content(&image, "qcow2", &[]);
    let copy = dir.join("copy.img");
    std::fs::copy(&base, &copy).unwrap();
    let args = ["rebase", "--metadata-only", text(&image), "--parent", text(&copy)];
    tool(&[&args[..], &["--original", text(&base)]].concat());
    std::fs::remove_file(&base).unwrap();
    assert!(qemu::content(&image, "qcow2", &[]) == expected);
    // A new overlay on it, in the same format; the way back.
    let next = dir.join("next.qcow2");
    tool(&["snapshot", text(&image), text(&next), "--format", "qcow2"]);
    qemu_writes(&next, SECTORS, 53);
    assert!(qemu::content(&next, "qcow2", &[]) != expected);
    tool(&["rollback", text(&next), "--yes"]);
    assert!(qemu::content(&next, "qcow2", &[]) == expected);
    // What is damaged is not rebased, and keeps its parent.
    patch(&image, &[(number(&image, 40), 1 << 63 | 1 << 50, 8)]);
    let before = std::fs::read(&image).unwrap();
    let args = ["rebase", "--parents", text(&image), "--parent", "blank:4608512"];
    assert_eq!(cowblade(&args).code, 5);
    assert!(std::fs::read(&image).unwrap()[..512] == before[..512]);
}

/// A copy that fails leaves neither a file nor a record of a parent, and what it was to replace as it
/// was.
#[test]
fn a_copy_that_fails_leaves_nothing() {
    let test = "a_copy_that_fails_leaves_nothing";
    if !require::met(test, &[TOOLS]) {
        return;
    }
    let dir = WorkDir::new(test);
    let base = base(dir.path(), "base.img");
    let broken = filled(dir.path(), "broken.qcow2", "cluster_size=4096");
    let l2 = number(&broken, number(&broken, 40)) & 0x00ff_ffff_ffff_fe00;
    patch(&broken, &[(l2 + 8 * 70, 1 << 63 | 1 << 50, 8)]);
    let target = dir.join("new.qcow2");
    let args = ["convert", "-O", "qcow2", text(&broken), text(&target)];
    refused(5, &args, "at sector 560");
    let names = || {
        let list = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name());
        let mut list: Vec<_> = list.collect();
        list.sort();
        list
    };
    assert_eq!(names(), ["base.img", "broken.qcow2", "test"]);
    tool(&["create", text(&target), text(&base), "--format", "qcow2"]);
    let record = dir.join("new.qcow2.parent.json");
    let before = std::fs::read(&record).unwrap();
    refused(5, &[&args[..], &["--force"]].concat(), "at sector 560");
    assert!(std::fs::read(&record).unwrap() == before);
    tool(&["compare", text(&target), text(&base)]);
}
