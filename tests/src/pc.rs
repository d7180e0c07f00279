//! An emulated PC that boots from an AoE disk through iPXE.
//!
//! The disk carries a boot sector of our own. It reads LBA 4 through the BIOS; if that is not a copy
//! of itself it writes one, reads it back and says `WROTE` on the serial port, else it says `FOUND`.
//! The second boot of a client therefore proves that its first write is still there.

use core::time::Duration;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Instant;

use crate::net::Segment;
use crate::pattern::SECTOR;
use crate::require::{self, Need};

/// What an emulated PC needs.
pub const NEEDS: &[Need] = &[
    Need::Root,
    Need::Program("ip"),
    Need::Program("qemu-system-x86_64"),
    Need::File(IPXE),
    Need::File("/dev/net/tun"),
];
const IPXE: &str = "/usr/lib/ipxe/ipxe.lkrn";
/// Longest boot; catches hangs only, an emulated processor is slow.
const PATIENCE: Duration = Duration::from_mins(6);

/// The program of the boot sector, loaded at 0x7c00.
const BOOT_PROGRAM: &[u8] = &[
    0x31, 0xc0, //             xor  ax, ax
    0x8e, 0xd8, //             mov  ds, ax
    0x8e, 0xc0, //             mov  es, ax
    0x8e, 0xd0, //             mov  ss, ax
    0xbc, 0x00, 0x7c, //       mov  sp, 0x7c00
    0x88, 0x16, 0x00, 0x7e, // mov  [0x7e00], dl       the BIOS drive
    0xb8, 0x01, 0x02, //       mov  ax, 0x0201         read one sector
    0xbb, 0x00, 0x80, //       mov  bx, 0x8000
    0xe8, 0x38, 0x00, //       call disk
    0xe8, 0x43, 0x00, //       call same
    0x74, 0x1c, //             je   again
    0xb8, 0x01, 0x03, //       mov  ax, 0x0301         write one sector
    0xbb, 0x00, 0x7c, //       mov  bx, 0x7c00
    0xe8, 0x2a, 0x00, //       call disk
    0xb8, 0x01, 0x02, //       mov  ax, 0x0201
    0xbb, 0x00, 0x80, //       mov  bx, 0x8000
    0xe8, 0x21, 0x00, //       call disk
    0xe8, 0x2c, 0x00, //       call same
    0x75, 0x0a, //             jne  bad
    0xbe, 0x6b, 0x7c, //       mov  si, "WROTE"
    0xeb, 0x08, //             jmp  say
    0xbe, 0x72, 0x7c, // again: mov si, "FOUND"
    0xeb, 0x03, //             jmp  say
    0xbe, 0x79, 0x7c, // bad:  mov  si, "BROKE"
    0xac, //             say:  lodsb
    0x84, 0xc0, //             test al, al
    0x74, 0x06, //             je   halt
    0xba, 0xf8, 0x03, //       mov  dx, 0x3f8
    0xee, //                   out  dx, al
    0xeb, 0xf5, //             jmp  say
    0xfa, //             halt: cli
    0xf4, //                   hlt
    0xeb, 0xfc, //             jmp  halt
    0xb9, 0x05, 0x00, // disk: mov  cx, 0x0005         cylinder 0, sector 5: LBA 4
    0x8a, 0x16, 0x00, 0x7e, // mov  dl, [0x7e00]
    0xb6, 0x00, //             mov  dh, 0
    0xcd, 0x13, //             int  0x13
    0x72, 0xe1, //             jc   bad
    0xc3, //                   ret
    0xbe, 0x00, 0x7c, // same: mov  si, 0x7c00
    0xbf, 0x00, 0x80, //       mov  di, 0x8000
    0xb9, 0x00, 0x01, //       mov  cx, 256
    0xfc, //                   cld
    0xf3, 0xa7, //             repe cmpsw
    0xc3, //                   ret
    b'W', b'R', b'O', b'T', b'E', b'\n', 0, //
    b'F', b'O', b'U', b'N', b'D', b'\n', 0, //
    b'B', b'R', b'O', b'K', b'E', b'\n', 0,
];

/// The first sector of a bootable disk.
pub fn boot_sector() -> [u8; SECTOR] {
    let mut sector = [0; SECTOR];
    for (to, from) in sector.iter_mut().zip(BOOT_PROGRAM) {
        *to = *from;
    }
    let [.., mark0, mark1] = &mut sector;
    (*mark0, *mark1) = (0x55, 0xaa);
    sector
}

/// Makes a disk image of 16 MiB that boots; with less than a cylinder, iPXE refuses to.
pub fn make_bootable(image: &Path) {
    let mut bytes = boot_sector().to_vec();
    bytes.resize(16 << 20, 0);
    fs::write(image, bytes).expect("the image can be made");
}

/// A PC on the tap interface of a segment; killed on drop.
#[derive(Debug)]
pub struct Pc {
    child: Child,
    serial: PathBuf,
    log: PathBuf,
}

impl Pc {
    /// Turns on a PC that boots `aoe:eSHELF.SLOT`; `address` reads `SHELF.SLOT`.
    pub fn boot(segment: &Segment, dir: &Path, address: &str) -> Self {
        let number = segment.next_number();
        let script = dir.join(format!("boot{number}.ipxe"));
        fs::write(&script, format!("#!ipxe\nifopen net0\nsanboot aoe:e{address}\n"))
            .expect("the script can be made");
        let serial = dir.join(format!("serial{number}"));
        let log = dir.join(format!("pc{number}.log"));
        let output = fs::File::create(&log).expect("the log can be made");
        let mut command = segment
            .switch()
            .command(require::program("qemu-system-x86_64").expect("the emulator is installed"));
        let child = command
            .args(["-accel", "tcg", "-machine", "pc", "-m", "256", "-no-reboot"])
            .args(["-display", "none", "-monitor", "none", "-kernel", IPXE, "-initrd"])
            .arg(&script)
            .arg("-serial")
            .arg(format!("file:{}", serial.display()))
            .arg("-netdev")
            .arg(format!("tap,id=lan,ifname={},script=no,downscript=no", Segment::TAP))
            .arg("-device")
            .arg(format!("e1000,netdev=lan,romfile=,mac={}", Segment::client_mac(0)))
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("the log can be shared"))
            .stderr(output)
            .spawn()
            .expect("the emulator starts");
        Self { child, serial, log }
    }

    /// Waits for the line of the boot sector and turns the PC off.
    pub fn outcome(mut self) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let bytes = fs::read(&self.serial).unwrap_or_default();
            let text = String::from_utf8_lossy(&bytes);
            if let Some((line, _)) = text.split_once('\n') {
                return line.into();
            }
            let ended = self.child.try_wait().expect("the PC can be waited for");
            assert!(
                ended.is_none() && Instant::now() < deadline,
                "no word from the boot sector: {ended:?} {text}\n{}",
                fs::read_to_string(&self.log).unwrap_or_default()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Pc {
    fn drop(&mut self) {
        // It may have ended by itself; there is nothing left to do then.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Boots a PC twice from e0.0 with a crash of the server in between; returns both words.
pub fn boot_twice(
    dir: &Path,
    target: impl Fn(&Segment, &Path) -> crate::server::ServerPlan,
) -> [String; 2] {
    let segment = Segment::with_tap(1500);
    let mut server = target(&segment, dir).start();
    let first = Pc::boot(&segment, dir, "0.0").outcome();
    server.kill();
    server.restart();
    let second = Pc::boot(&segment, dir, "0.0").outcome();
    server.assert_running();
    [first, second]
}

#[cfg(test)]
mod tests {
    use super::{BOOT_PROGRAM, boot_sector};

    #[test]
    fn the_program_leaves_room_for_the_partition_table() {
        assert!(BOOT_PROGRAM.len() < 446);
        assert_eq!(BOOT_PROGRAM.get(0x6b..0x70), Some(b"WROTE".as_slice()));
        assert_eq!(boot_sector().last_chunk(), Some(&[0x55, 0xaa]));
    }
}
