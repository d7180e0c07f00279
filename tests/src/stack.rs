//! Disks of several layers, made by `cowblade`, with a model of their bytes beside them.

use std::fs;
use std::path::{Path, PathBuf};

use crate::guest::{Finished, Void};
use crate::judge;
use crate::lab::Lab;
use crate::net::Segment;
use crate::operator;
use crate::pattern::{Base, Content, Plan, SECTOR, SECTOR_BYTES};
use crate::script::Load;
use crate::target::cowblade;
use crate::wire::Wire;

/// A chain of images, and what it must read as.
#[derive(Clone, Debug)]
pub struct Stack {
    dir: PathBuf,
    name: String,
    /// As the program takes them, the top first.
    layers: Vec<String>,
    /// Every byte of the disk.
    pub model: Vec<u8>,
}

impl Stack {
    /// A base that is there already; layers go into `dir`, and begin with `name`.
    ///
    /// # Panics
    /// If the base cannot be read.
    pub fn over(dir: &Path, name: &str, base: &Path) -> Self {
        Self {
            dir: dir.to_path_buf(),
            name: name.to_owned(),
            layers: vec![base.display().to_string()],
            model: fs::read(base).expect("the base can be read"),
        }
    }

    /// Puts an empty image on top, and gives its name.
    pub fn create(&mut self, format: &str, options: &[&str]) -> String {
        let (target, below) = self.next(format);
        let mut words = vec!["create", &*target, "--backing", &*below, "--format", format];
        words.extend(options.iter().flat_map(|option| ["-o", option]));
        operator::local(&words).assert_done();
        self.layers.insert(0, target.clone());
        target
    }

    /// Puts an image on top that holds a plan of writes, and gives its name.
    ///
    /// # Panics
    /// If the file system does not take the model.
    pub fn push(&mut self, format: &str, options: &[&str], plan: &Plan) -> String {
        let (target, _) = self.next(format);
        self.apply(plan);
        let wanted = self.dir.join(format!("{}.wanted", self.name));
        fs::write(&wanted, &self.model).expect("the model can be written");
        let (wanted, chain) = (wanted.display().to_string(), self.chain());
        let mut words = vec!["convert", &*wanted, &*target, "-O", format, "-B", &*chain];
        words.extend(options.iter().flat_map(|option| ["-o", option]));
        operator::local(&words).assert_done();
        self.layers.insert(0, target.clone());
        target
    }

    /// What the next image is called, and what it lies on, which is not written any more.
    fn next(&self, format: &str) -> (String, String) {
        let number = self.layers.len();
        let path = self.dir.join(format!("{}{number}.{format}", self.name));
        let path = path.display();
        let target = match format {
            "dm-cow" => format!("dm-cow:{path}+{path}.bits"),
            _ => path.to_string(),
        };
        let below = self.layers.first().cloned().unwrap_or_default();
        if Path::new(&below).extension().is_some_and(|word| word == "native") {
            operator::local(&["freeze", &below]).assert_done();
        }
        (target, below)
    }

    /// Every image, from the top to the base.
    pub fn layers(&self) -> &[String] {
        &self.layers
    }

    /// `TOP,...,BASE`.
    pub fn chain(&self) -> String {
        self.layers.join(",")
    }

    /// Somebody wrote this to the disk.
    ///
    /// # Panics
    /// If the plan goes beyond the disk.
    pub fn apply(&mut self, plan: &Plan) {
        for write in plan.iter() {
            let (at, bytes) = (write.lba * SECTOR_BYTES, plan.bytes(write));
            let at = usize::try_from(at).expect("the disk is small");
            let place = self.model.get_mut(at..at + bytes.len()).expect("the plan fits the disk");
            place.copy_from_slice(&bytes);
        }
    }

    /// Somebody made sectors of the disk zeros.
    ///
    /// # Panics
    /// If they are not all on the disk.
    pub fn erase(&mut self, first: u64, sectors: u64) {
        let at = |lba: u64| usize::try_from(lba * SECTOR_BYTES).expect("the disk is small");
        let place = self.model.get_mut(at(first)..at(first + sectors));
        place.expect("the sectors are on the disk").fill(0);
    }

    /// Compares bytes of the whole disk with the model.
    ///
    /// # Panics
    /// If they differ.
    #[track_caller]
    pub fn judge(&self, who: &str, found: &[u8]) {
        if found == self.model {
            return;
        }
        let expected: Vec<_> = self.model.chunks(SECTOR).map(Content::of).collect();
        let verdict = judge::contents(&expected, 0, found);
        panic!("{}: {who}: {verdict:?}, {} bytes", self.name, found.len());
    }

    /// The whole disk, as `cowblade convert` reads it.
    ///
    /// # Panics
    /// If it cannot.
    #[track_caller]
    pub fn read(&self) -> Vec<u8> {
        let copy = self.dir.join(format!("{}.copy", self.name));
        let words = ["convert", &*self.chain(), &*copy.display().to_string(), "--force"];
        operator::local(&words).assert_done();
        fs::read(copy).expect("the copy can be read")
    }

    /// Finds nothing wrong with any image that can be checked.
    #[track_caller]
    pub fn check(&self) {
        for layer in &self.layers {
            operator::local(&["check", layer]).assert_done();
        }
    }
}

/// A Linux client writes to every disk through its driver; the server is killed and started again;
/// the client reads every disk whole. `disks` are served as e0.0, e0.1 and so on, each as the words that
/// go with it.
///
/// # Panics
/// If anything differs from a model, or the server does not end as it should.
pub fn written_by_linux(
    lab: &Lab,
    dir: &Path,
    disks: &mut [(Stack, String)],
    options: &[&str],
) -> Result<(), Void> {
    let segment = Segment::new(9000, 1);
    let overlays = dir.join("overlays").display().to_string();
    let mut words: Vec<String> = ["--overlays", &*overlays].map(Into::into).into();
    words.extend(options.iter().copied().map(Into::into));
    for (slot, (_, chain)) in disks.iter().enumerate() {
        words.extend(["--export".into(), format!("0.{slot}={chain}")]);
    }
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let mut server = cowblade(&segment, dir, &words).start();
    let wire = Wire::listen(segment.server(), Segment::SERVER);
    let mut guest = lab.initiator(dir, &segment, 0, &client_script(disks)).boot();
    guest.await_mark("written", Some(&wire))?;
    server.kill();
    server.restart();
    guest.tell("go");
    let finished = guest.wait(Some(&wire))?;
    finished.assert_success();
    assert!(server.terminate().success(), "{}", server.log());
    judge_client(&finished, disks);
    Ok(())
}

fn load(slot: usize) -> Load {
    // What is below is judged on the host.
    Load::light(u64::try_from(slot).expect("a small number") + 50, Base::Blank)
}

fn client_script(disks: &[(Stack, String)]) -> String {
    let disk = |slot| format!("e0.{slot}");
    let write = (0..disks.len())
        .map(|slot| format!("await_disk {}\n{}", disk(slot), load(slot).write(&disk(slot))));
    let read = disks.iter().enumerate().map(|(slot, (stack, _))| {
        format!(
            "disk-worker read /dev/etherd/{} first=0 sectors={} step=128 to=/host/seen{slot} \
             || fail read {slot}\n",
            disk(slot),
            stack.model.len() / SECTOR
        )
    });
    write.chain(["mark written; await go\n".to_owned()]).chain(read).collect()
}

fn judge_client(finished: &Finished, disks: &mut [(Stack, String)]) {
    for (slot, (stack, _)) in disks.iter_mut().enumerate() {
        load(slot).plans().iter().for_each(|plan| stack.apply(plan));
        let seen = fs::read(finished.share.join(format!("seen{slot}")));
        stack.judge("the Linux client", &seen.expect("the client has read"));
    }
}
