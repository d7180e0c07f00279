//! `cowblade create`, killed at any moment, leaves a whole overlay under the name or nothing.

use core::time::Duration;
use std::fs;
use std::process::{Command, Stdio};

use aoe_host::error::Exit;
use aoe_host::tools::{CreateRequest, Gate, check, create};

#[test]
fn a_killed_create_leaves_nothing_under_the_name() {
    let dir = tempfile::tempdir().unwrap();
    let base = dir.path().join("golden.img");
    fs::write(&base, vec![7; 4 << 20]).unwrap();
    let (mut before, mut after) = (0, 0);
    for round in 0..120_u64 {
        let path = dir.path().join(format!("{round}.cow"));
        let mut child = Command::new(env!("CARGO_BIN_EXE_cowblade"))
            .args(["create".as_ref(), path.as_os_str(), "--backing".as_ref(), base.as_os_str()])
            .arg("--full-hash")
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_micros(500 * round));
        // It may have ended already.
        child.kill().unwrap();
        child.wait().unwrap();
        if path.exists() {
            after += 1;
        } else {
            before += 1;
            let backing = Some(base.clone());
            let request = CreateRequest { path: path.clone(), backing, ..CreateRequest::default() };
            create(&request, &mut |_, _| {}).unwrap();
        }
        let report = check(&path, &Gate::Open, &mut |_, _| {}).unwrap();
        assert_eq!((report.exit(), report.findings_total), (Exit::Success, 0), "{report}");
    }
    println!("killed before the overlay was there: {before}, after: {after}");
    if before == 0 || after == 0 {
        println!("SKIP: killed_create: no kill fell on both sides of the end");
    }
}
