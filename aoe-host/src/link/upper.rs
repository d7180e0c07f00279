//! Interfaces that are part of others, which take their frames away.

use std::fs;
use std::path::Path;

/// Why frames may never reach a socket on this interface, as a sentence; `None` as far as is known.
pub fn taken_by(interface: &str) -> Option<String> {
    taken_in(Path::new("/sys/class/net"), interface)
}

fn taken_in(interfaces: &Path, interface: &str) -> Option<String> {
    let of = interfaces.join(interface);
    let role = if of.join("brport").exists() {
        "a port of the bridge"
    } else if of.join("bonding_slave").exists() {
        "a part of the bond"
    } else {
        return None;
    };
    let master = fs::read_link(of.join("master")).ok()?;
    let master = master.file_name()?.to_string_lossy().into_owned();
    Some(format!(
        "{interface} is {role} {master}, which may take every frame away before it is seen: serve on \
         {master}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_told_from_interfaces_of_their_own() {
        let dir = tempfile::tempdir().unwrap();
        let net = dir.path();
        for (name, mark) in [("eth0", "brport"), ("eth1", "bonding_slave"), ("eth2", "queues")] {
            fs::create_dir_all(net.join(name).join(mark)).unwrap();
            std::os::unix::fs::symlink("../br0", net.join(name).join("master")).unwrap();
        }
        assert!(taken_in(net, "eth0").unwrap().contains("bridge br0"));
        assert!(taken_in(net, "eth1").unwrap().contains("bond br0"));
        assert_eq!(taken_in(net, "eth2"), None);
        assert_eq!(taken_in(net, "none"), None);
    }
}
