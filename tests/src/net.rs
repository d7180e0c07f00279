//! Network namespaces and the Ethernet segment between server and guests.
//!
//! Nothing here touches an interface of the machine: every link begins and ends in a namespace of
//! this process. One guest gets a plain veth pair; several share a bridge.

use core::sync::atomic::{AtomicU32, Ordering};
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Once;

const PREFIX: &str = "cowblade-e2e-";

/// A network namespace, deleted with everything in it on drop.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// Makes an empty namespace; `role` only makes its name readable.
    pub fn new(role: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        static SWEEP: Once = Once::new();
        SWEEP.call_once(sweep);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}-{number}-{role}", std::process::id());
        ip(&["netns", "add", &name]);
        let namespace = Self { name };
        // IPv6 would chatter on a wire whose silence means something.
        namespace.run("sysctl", &["-qw", "net.ipv6.conf.default.disable_ipv6=1"]);
        namespace
    }

    /// The name known to `ip netns`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A command that will run inside; the process that starts is the program itself.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program.as_ref());
        command
    }

    /// Runs a program inside to its end and returns what it printed.
    pub fn run(&self, program: impl AsRef<Path>, arguments: &[&str]) -> Output {
        self.command(program).args(arguments).output().expect("ip netns exec starts")
    }

    /// Runs `ip -n NAMESPACE arguments`, which must succeed.
    pub fn ip(&self, arguments: &[&str]) -> String {
        ip(&[&["-n", self.name.as_str()], arguments].concat())
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let deleted = Command::new("ip").args(["netns", "del", &self.name]).status();
        if !deleted.is_ok_and(|status| status.success()) {
            eprintln!("namespace {} stays behind", self.name);
        }
    }
}

/// Deletes namespaces of harness processes that were killed before they could clean up.
fn sweep() {
    for entry in std::fs::read_dir("/run/netns").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        if let Some(pid) = owner
            && !Path::new("/proc").join(pid).exists()
        {
            ip(&["netns", "del", &name]);
        }
    }
}

fn ip(arguments: &[&str]) -> String {
    let output = Command::new("ip").args(arguments).output().expect("ip starts");
    assert!(
        output.status.success(),
        "ip {}: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// An Ethernet segment: the server's interface at one end, one interface per guest at the other.
#[derive(Debug)]
pub struct Segment {
    server: Namespace,
    clients: Namespace,
    switch: Option<Namespace>,
    mtu: u16,
    next: AtomicU32,
}

impl Segment {
    /// Name of the server's interface.
    pub const SERVER: &'static str = "srv0";
    /// Name of the server's interface on a second wire.
    pub const SECOND: &'static str = "srv1";
    /// Names of the two sides of the gap of [`Segment::with_gap`]: the server's and the guest's.
    pub const GAP: [&'static str; 2] = ["p-srv", "p-cli"];
    /// Name of the tap interface of [`Segment::with_tap`].
    pub const TAP: &'static str = "tap0";

    /// Makes a segment for `guests` guests.
    pub fn new(mtu: u16, guests: usize) -> Self {
        if guests == 1 {
            let segment = Self::without_links(mtu, None);
            segment.link(&segment.server, Self::SERVER, &segment.clients, &Self::client(0));
            return segment;
        }
        let segment = Self::without_links(mtu, Some(Namespace::new("switch")));
        let switch = segment.switch();
        switch.ip(&["link", "add", "br0", "type", "bridge", "mcast_snooping", "0"]);
        switch.ip(&["link", "set", "br0", "mtu", &mtu.to_string(), "up"]);
        segment.plug(&segment.server, Self::SERVER, "p-srv");
        for index in 0..guests {
            segment.plug(&segment.clients, &Self::client(index), &format!("p-cli{index}"));
        }
        segment
    }

    /// Makes a segment whose client side is a tap interface on a bridge, for an emulated PC.
    ///
    /// The emulator runs in the namespace [`Segment::switch`].
    pub fn with_tap(mtu: u16) -> Self {
        let segment = Self::new(mtu, 0);
        let switch = segment.switch();
        switch.ip(&["tuntap", "add", "dev", Self::TAP, "mode", "tap"]);
        switch.ip(&["link", "set", Self::TAP, "mtu", &mtu.to_string(), "master", "br0", "up"]);
        segment
    }

    /// Makes a segment for one guest with nothing but a [`crate::lossy::Forwarder`] in the middle.
    pub fn with_gap(mtu: u16) -> Self {
        let segment = Self::without_links(mtu, Some(Namespace::new("middle")));
        segment.link(&segment.server, Self::SERVER, segment.switch(), Self::GAP[0]);
        segment.link(&segment.clients, &Self::client(0), segment.switch(), Self::GAP[1]);
        segment
    }

    /// Adds a second wire between the two namespaces: [`Segment::SECOND`] to `client(index)`.
    pub fn add_wire(&self, index: usize) {
        self.link(&self.server, Self::SECOND, &self.clients, &Self::client(index));
    }

    /// Deletes the first wire of a plain pair and lays a new one with the same names.
    pub fn replug(&self) {
        self.server.ip(&["link", "del", Self::SERVER]);
        self.link(&self.server, Self::SERVER, &self.clients, &Self::client(0));
    }

    /// Changes the MTU of both ends of the first wire of a plain pair.
    pub fn set_mtu(&self, mtu: u16) {
        let mtu = mtu.to_string();
        self.server.ip(&["link", "set", Self::SERVER, "mtu", &mtu]);
        self.clients.ip(&["link", "set", &Self::client(0), "mtu", &mtu]);
    }

    /// The namespace of the server.
    pub fn server(&self) -> &Namespace {
        &self.server
    }

    /// The namespace of the guests.
    pub fn clients(&self) -> &Namespace {
        &self.clients
    }

    /// The namespace in the middle: of the bridge, or of the gap.
    ///
    /// # Panics
    /// If the segment is a plain pair.
    pub fn switch(&self) -> &Namespace {
        self.switch.as_ref().expect("this segment has a middle")
    }

    /// Payload bytes of an Ethernet frame on this segment.
    pub fn mtu(&self) -> u16 {
        self.mtu
    }

    /// A number that was not returned before: keeps the files of several servers apart.
    pub fn next_number(&self) -> u32 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Name of the interface of guest `index`.
    pub fn client(index: usize) -> String {
        format!("cli{index}")
    }

    /// MAC address that guest `index` uses.
    pub fn client_mac(index: usize) -> String {
        format!("02:c0:b1:ad:e0:{:02x}", index + 1)
    }

    fn without_links(mtu: u16, switch: Option<Namespace>) -> Self {
        Self {
            server: Namespace::new("server"),
            clients: Namespace::new("clients"),
            switch,
            mtu,
            next: AtomicU32::new(0),
        }
    }

    fn plug(&self, end: &Namespace, name: &str, port: &str) {
        self.link(end, name, self.switch(), port);
        self.switch().ip(&["link", "set", port, "master", "br0"]);
    }

    fn link(&self, left: &Namespace, left_name: &str, right: &Namespace, right_name: &str) {
        let mtu = self.mtu.to_string();
        ip(&[
            "link",
            "add",
            left_name,
            "mtu",
            &mtu,
            "netns",
            left.name(),
            "type",
            "veth",
            "peer",
            "name",
            right_name,
            "mtu",
            &mtu,
            "netns",
            right.name(),
        ]);
        for (end, name) in [(left, left_name), (right, right_name)] {
            end.ip(&["link", "set", name, "up"]);
        }
    }
}
