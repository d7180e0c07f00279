//! The initiator commands of the built program against vblade, the reference target.

#![expect(clippy::unwrap_used, reason = "the helpers of a test fail like the test")]

use core::time::Duration;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::Instant;

use serde_json::Value;
use tempfile::TempDir;

use common::{Net, skip};

mod common;

const DISK_LEN: usize = 4 << 20;

/// vblade as e3.4 in one namespace; commands run in the other.
struct Lab {
    net: Net,
    vblade: Child,
    directory: TempDir,
}

impl Lab {
    fn make(test: &str, mtu: u32) -> Option<Self> {
        if Command::new("vblade").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err() {
            skip(test, "vblade is not installed");
            return None;
        }
        let net = Net::make(test)?;
        net.near(&format!("link set veth0 mtu {mtu}"));
        net.far(&format!("link set veth0 mtu {mtu}"));
        let directory = tempfile::tempdir().unwrap();
        let image = directory.path().join("disk.img");
        let contents: Vec<u8> = (0..=250).cycle().take(DISK_LEN).collect();
        fs::write(&image, contents).unwrap();
        let vblade = Command::new("ip")
            .args(["netns", "exec", &net.far, "vblade", "3", "4", "veth0"])
            .arg(&image)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lab = Self { net, vblade, directory };
        let start = Instant::now();
        while !lab.run("ping 3.4 -i veth0 --count 1 --timeout 0.2").status.success() {
            assert!(start.elapsed() < Duration::from_mins(1), "vblade does not answer");
        }
        Some(lab)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn run(&self, line: &str) -> Output {
        Command::new("ip")
            .args(["netns", "exec", &self.net.near, env!("CARGO_BIN_EXE_cowblade")])
            .args(line.split_whitespace())
            .current_dir(self.directory.path())
            .output()
            .unwrap()
    }

    /// Standard output of a command that must end with `code`.
    fn ends_with(&self, code: i32, line: &str) -> String {
        let output = self.run(line);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{line}: {errors}");
        if code != 0 && output.stdout.is_empty() {
            return errors.into_owned();
        }
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    fn json(&self, line: &str) -> Value {
        serde_json::from_str(&self.ends_with(0, line)).unwrap()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.vblade.kill().unwrap();
        self.vblade.wait().unwrap();
    }
}

#[test]
fn discovers_and_identifies() {
    let Some(lab) = Lab::make("discovers_and_identifies", 1500) else { return };
    // It listens for a while only, and a busy machine may answer later.
    let mut looks = (0..30).map(|_| lab.run("discover -i veth0 --json"));
    let found = looks.find(|look| look.stdout.windows(4).any(|text| text == b"e3.4")).unwrap();
    let found: Value = serde_json::from_slice(&found.stdout).unwrap();
    let [target] = &found.as_array().unwrap()[..] else { panic!("{found}") };
    assert_eq!(target["address"], "e3.4");
    assert_eq!(target["sectors_max"], 2);
    assert_eq!(target["buffer_count"], 16);
    assert_eq!(target["duplicate"], false);
    assert_eq!(target["disk"]["size_bytes"], DISK_LEN);
    assert!(target["disk"]["model"].as_str().unwrap().contains("vblade"));
    let mut looks = (0..30).map(|_| lab.run("discover -i veth0").stdout);
    assert!(looks.any(|said| String::from_utf8_lossy(&said).contains("4.00 MiB")));
    let ping = lab.json("ping 3.4 -i veth0 --ata --count 3 --interval 0.01 --timeout 60 --json");
    assert_eq!((&ping["sent"], &ping["answered"]), (&3.into(), &3.into()));
    lab.ends_with(4, "ping 3.5 -i veth0 --count 1 --timeout 0.2");
    assert!(lab.ends_with(4, "discover -i nosuch0").contains("nosuch0"));
}

#[test]
fn config_strings_follow_the_protocol() {
    let Some(lab) = Lab::make("config_strings_follow_the_protocol", 1500) else { return };
    assert_eq!(lab.ends_with(0, "config get 3.4 -i veth0"), "");
    assert_eq!(lab.ends_with(0, "config set 3.4 mine -i veth0"), "mine");
    assert!(lab.ends_with(5, "config set 3.4 yours -i veth0").contains("another one is set"));
    assert_eq!(lab.ends_with(0, "config force 3.4 yours -i veth0"), "yours");
    assert_eq!(lab.ends_with(0, "config test 3.4 you --prefix -i veth0"), "yours");
    lab.ends_with(4, "config test 3.4 you -i veth0 --timeout 0.3");
    assert_eq!(lab.json("config get 3.4 -i veth0 --json")["config_string"], "yours");
}

#[test]
fn reservations_shut_others_out() {
    let Some(lab) = Lab::make("reservations_shut_others_out", 1500) else { return };
    assert_eq!(lab.ends_with(0, "reserve show 3.4 -i veth0"), "not reserved");
    let held = lab.ends_with(0, "reserve set 3.4 02:00:00:00:00:01 -i veth0");
    assert_eq!(held, "02:00:00:00:00:01");
    lab.ends_with(5, "read 3.4 -i veth0 --length 512 -o out");
    lab.ends_with(5, "reserve release 3.4 -i veth0");
    assert_eq!(lab.ends_with(0, "reserve force 3.4 -i veth0"), "not reserved");
    lab.ends_with(0, "read 3.4 -i veth0 --length 512 -o out");
    assert_eq!(lab.ends_with(0, "mask list 3.4 -i veth0"), "everybody is admitted");
}

#[test]
fn copies_come_out_as_they_went_in() {
    for mtu in [1500, 9000] {
        let Some(lab) = Lab::make("copies_come_out_as_they_went_in", mtu) else { return };
        let disk = fs::read(lab.path("disk.img")).unwrap();
        let report = lab.json("read 3.4 -i veth0 -o whole --verify --json");
        assert_eq!(
            (&report["verified"], &report["length_bytes"]),
            (&true.into(), &DISK_LEN.into())
        );
        assert!(fs::read(lab.path("whole")).unwrap() == disk, "MTU {mtu}");

        let part = lab.run("read 3.4 -i veth0 --offset 1536 --length 3K -o -");
        assert_eq!(part.stdout, disk[1536..][..3072]);

        let input: Vec<u8> = (0..=252).rev().cycle().take(100_001).collect();
        fs::write(lab.path("input"), &input).unwrap();
        lab.ends_with(0, "write 3.4 input -i veth0 --offset 512K --verify");
        let after = fs::read(lab.path("disk.img")).unwrap();
        let (start, end) = (512 << 10, (512 << 10) + 196 * 512);
        assert_eq!(after.len(), DISK_LEN);
        assert!(after[..start] == disk[..start] && after[end..] == disk[end..], "MTU {mtu}");
        assert!(after[start..][..input.len()] == input, "MTU {mtu}");
        assert!(after[start + input.len()..end].iter().all(|byte| *byte == 0), "MTU {mtu}");
    }
}

#[test]
fn ranges_outside_the_disk_touch_nothing() {
    let Some(lab) = Lab::make("ranges_outside_the_disk_touch_nothing", 1500) else { return };
    fs::write(lab.path("input"), [1; 1024]).unwrap();
    let before = fs::read(lab.path("disk.img")).unwrap();
    for line in [
        "read 3.4 -i veth0 --offset 4M -o out",
        "read 3.4 -i veth0 --offset 100 -o out",
        "read 3.4 -i veth0 --length 5M -o out",
        "write 3.4 input -i veth0 --offset 4194048",
        "write 3.4 input -i veth0 --offset 16000P",
    ] {
        lab.ends_with(2, line);
    }
    assert!(!lab.path("out").exists());
    assert!(fs::read(lab.path("disk.img")).unwrap() == before);
}
