//! What guests do: pieces of shell for their scripts, and the files those work on.

use core::fmt;
use std::fs;
use std::path::Path;

use crate::pattern::{Base, Plan};
use crate::rng::Rng;

/// Scattered writes of one client; displays as the options of `disk-worker`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Load {
    /// Seed of the client; tells its sectors from those of others.
    pub seed: u64,
    /// First sector of the range.
    pub first: u64,
    /// Sectors in the range.
    pub sectors: u64,
    /// Writes in all.
    pub writes: u64,
    /// What lies under the writes.
    pub base: Base,
}

/// Writers at a time, each with a part of the range.
const WRITERS: u64 = 4;
/// Longest write in sectors: several frames at every MTU.
const LONGEST: u64 = 64;

impl Load {
    /// A load that takes about a second.
    pub fn light(seed: u64, base: Base) -> Self {
        Self { seed, first: 4096, sectors: 8192, writes: 300, base }
    }

    /// A load long enough to crash a server under it several times.
    pub fn heavy(seed: u64, base: Base) -> Self {
        Self { seed, first: 1000, sectors: 32_768, writes: 4000, base }
    }

    /// Shell commands that write to a disk such as `e0.0`.
    pub fn write(&self, disk: &str) -> String {
        format!(
            "disk-worker write /dev/etherd/{disk} {self} progress=/host/progress || fail write\n"
        )
    }

    /// Shell commands that compare a disk with the model of all writes.
    pub fn verify(&self, disk: &str) -> String {
        format!("disk-worker verify /dev/etherd/{disk} {self} || fail verify\n")
    }

    /// The writes of each of the writers.
    pub fn plans(&self) -> Vec<Plan> {
        let Self { seed, first, sectors, writes, .. } = *self;
        Plan { seed, first, sectors, writes, longest: LONGEST }.split(WRITERS)
    }
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, first, sectors, writes, base } = self;
        write!(f, "seed={seed} first={first} sectors={sectors} writes={writes} ")?;
        write!(f, "longest={LONGEST} writers={WRITERS} ")?;
        match base {
            Base::Golden(seed) => write!(f, "base=golden:{seed}"),
            Base::Blank => f.write_str("base=blank"),
        }
    }
}

/// Shell function `list DIR`: checksums of all files and targets of all links.
const LIST: &str = "list() { (cd \"$1\" && find . -type f -exec sha256sum {} + | sort -k 2; \
     find . -type l -exec readlink {} + | sort); }\n";

/// Shell commands: a file system is made, filled from `/host/tree`, mounted again and compared.
pub fn filesystem(disk: &str) -> String {
    format!(
        "{LIST}
         D=/dev/etherd/{disk}
         mke2fs -q -F -t ext4 $D || fail mke2fs
         mount -t ext4 $D /mnt || fail mount
         cp -a /host/tree /mnt/ || fail copy
         umount /mnt || fail umount
         mount -t ext4 -o ro $D /mnt || fail remount
         list /host/tree >/tmp/original
         list /mnt/tree >/tmp/copy
         [ -s /tmp/original ] || fail empty tree
         diff /tmp/original /tmp/copy || fail the tree differs
         umount /mnt || fail umount
         e2fsck -f -n $D || fail e2fsck\n"
    )
}

/// Shell commands: a read-only disk with a tree under a writable blank disk, joined by overlayfs.
///
/// The upper file system is checked after a remount; the lower disk must refuse writes, and the
/// guest marks `refused` or `accepted` for the judge.
pub fn union_of(read_only: &str, blank: &str) -> String {
    format!(
        "{LIST}
         join() {{
             mount -t ext4 -o ro,noload /dev/etherd/{read_only} /lower || fail lower
             mount -t ext4 /dev/etherd/{blank} /upper || fail upper
             mkdir -p /upper/data /upper/work
             mount -t overlay -o lowerdir=/lower,upperdir=/upper/data,workdir=/upper/work \
                none /mnt || fail overlay
         }}
         part() {{ umount /mnt && umount /upper && umount /lower || fail umount; }}
         mkdir -p /lower /upper
         if disk-worker try-write /dev/etherd/{read_only} first=4096
         then mark accepted; else mark refused; fi
         mke2fs -q -F -t ext4 /dev/etherd/{blank} || fail mke2fs
         join
         list /host/tree >/tmp/original; list /mnt >/tmp/seen
         grep -v lost+found /tmp/seen | diff /tmp/original - || fail the base differs
         echo changed >>/mnt/d0/nested/f1 || fail change
         rm /mnt/d1/nested/f2 || fail remove
         cp -a /host/tree/d2 /mnt/new || fail add
         list /mnt >/tmp/before
         part; join
         list /mnt >/tmp/after
         diff /tmp/before /tmp/after || fail the union differs after a remount
         [ -e /mnt/d1/nested/f2 ] && fail a removed file is back
         part
         e2fsck -f -n /dev/etherd/{blank} || fail e2fsck\n"
    )
}

/// Makes a directory tree of empty, small and large files, with links.
pub fn make_tree(root: &Path, seed: u64) {
    let mut rng = Rng::new(seed);
    for directory in 0..6_u32 {
        let dir = root.join(format!("d{directory}/nested"));
        fs::create_dir_all(&dir).expect("a directory of the tree");
        for file in 0..12_u32 {
            let limit = if file == 0 { 1 << 20 } else { 20_000 };
            let mut bytes = vec![0; usize::try_from(rng.below(limit)).unwrap_or(0)];
            rng.fill(&mut bytes);
            fs::write(dir.join(format!("f{file}")), &bytes).expect("a file of the tree");
        }
        fs::write(dir.join("empty"), b"").expect("an empty file");
        std::os::unix::fs::symlink("f0", dir.join("link")).expect("a link");
    }
}
