//! The configuration file: TOML with the words of the command line.

use std::fs;
use std::path::{Path, PathBuf};

use super::{LayerWord, ServeWords};
use crate::error::{ErrorKind, HostError, Result};

impl ServeWords {
    /// Reads a configuration file. Relative paths in it are relative to the file's directory.
    ///
    /// # Errors
    /// When the file cannot be read, or says something unknown or malformed; the error names the
    /// line.
    pub fn from_file(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).map_err(|error| {
            HostError::io(error, "read the configuration file").path(path).advice("check --config")
        })?;
        let mut words = Self::from_toml(&text).map_err(|detail| {
            HostError::new(ErrorKind::Usage, "use the configuration file").path(path).detail(detail)
        })?;
        words.anchor_paths(path.parent().unwrap_or(Path::new("")));
        Ok(words)
    }

    /// Reads the text of a configuration file. The error is a sentence with the line number.
    fn from_toml(text: &str) -> core::result::Result<Self, String> {
        toml::from_str(text).map_err(|error| {
            let line = error.span().map(|span| {
                1 + text.bytes().take(span.start).filter(|byte| *byte == b'\n').count()
            });
            match line {
                Some(line) => format!("line {line}: {}", error.message()),
                None => error.message().to_owned(),
            }
        })
    }

    fn anchor_paths(&mut self, directory: &Path) {
        let anchor = |path: &mut PathBuf| *path = directory.join(&*path);
        let single = [&mut self.golden, &mut self.overlays, &mut self.control];
        single.into_iter().flatten().for_each(anchor);
        for layer in self.export.iter_mut().flat_map(|export| &mut export.chain) {
            if let LayerWord::File(path) = layer {
                anchor(path);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{BindWord, Durability, ExportWord, FreezeWord, LinkKind, NewClients};
    use super::*;
    use crate::values::{Address, ByteSize, Mac};

    const EVERYTHING: &str = r#"
golden = "golden.img"
interface = ["eth0", "eth1"]
address = "1.0"
new-clients = "auto=20"
clients = 8
overlays = "/var/overlays"
durability = "writeback"
overlay-limit = "2G"
low-space = 1048576
allow = ["02:00:00:00:00:01"]
buffer-count = 32
direct = true
preallocate = true
offset = "1M"
length = "4G"
control = "control.sock"
link = "pnet"
freeze = ["config", "reserve"]

[[client]]
name = "lab1"
mac = "02:00:00:00:00:01+02:00:00:00:00:02"

[[client]]
name = "lab2"
mac = ["02:00:00:00:00:03"]

[[bind]]
address = "1.3"
mac = "02:00:00:00:00:03"

[[export]]
address = "e2.0"
chain = ["top,with,commas.cow", "base.img"]
ro = true
limit = "1G"
name = "docs"

[[export]]
address = "2.1"
chain = "blank:4G"
per-client = true
durability = "ephemeral"
"#;

    #[test]
    fn every_word_of_the_command_line_works_in_the_file() {
        let words = ServeWords::from_toml(EVERYTHING).unwrap();
        assert_eq!(words.interface, ["eth0", "eth1"]);
        assert_eq!(words.address, Address::new(1, 0));
        assert_eq!(words.new_clients, Some(NewClients::Auto { max: Some(20) }));
        assert_eq!(words.clients, Some(8));
        assert_eq!(words.durability, Some(Durability::Writeback));
        assert_eq!(words.overlay_limit, Some(ByteSize(2 << 30)));
        assert_eq!(words.low_space, Some(ByteSize(1 << 20)));
        assert_eq!(words.allow, [Mac([2, 0, 0, 0, 0, 1])]);
        assert_eq!(words.buffer_count, Some(32));
        assert_eq!(words.direct, Some(true));
        assert_eq!(words.preallocate, Some(true));
        assert_eq!(words.link, Some(LinkKind::Pnet));
        assert_eq!(words.freeze, [FreezeWord::Config, FreezeWord::Reserve]);
        assert_eq!(words.client.len(), 2);
        assert_eq!(words.client[0].mac.len(), 2);
        let bind =
            BindWord { address: Address::new(1, 3).unwrap(), mac: vec![Mac([2, 0, 0, 0, 0, 3])] };
        assert_eq!(words.bind, [bind]);
        assert_eq!(words.export[0].chain[0], LayerWord::File("top,with,commas.cow".into()));
        assert_eq!(
            words.export[1],
            "2.1=blank:4G,per-client,durability=ephemeral".parse::<ExportWord>().unwrap()
        );
    }

    #[test]
    fn errors_name_key_and_line() {
        for (text, line, word) in [
            ("golden = \"a\"\ngoldn = 1\n", "line 2", "goldn"),
            (
                "[[export]]\naddress = \"0.1\"\nchain = \"a\"\nreadonly = true\n",
                "line 4",
                "readonly",
            ),
            ("[[client]]\nname = \"x\"\nmacs = \"\"\n", "line 3", "macs"),
            ("\n\naddress = \"0.255\"\n", "line 3", "0.255"),
            ("allow = [\"zz\"]\n", "line 1", "zz"),
            ("durability = \"fast\"\n", "line 1", "fast"),
            ("golden = \n", "line 1", ""),
        ] {
            let error = ServeWords::from_toml(text).unwrap_err();
            assert!(error.contains(line) && error.contains(word), "{text:?} gave {error:?}");
        }
    }

    #[test]
    fn paths_are_relative_to_the_file() {
        let mut words = ServeWords::from_toml(EVERYTHING).unwrap();
        words.anchor_paths(Path::new("/etc/cowblade"));
        assert_eq!(words.golden.as_deref(), Some(Path::new("/etc/cowblade/golden.img")));
        assert_eq!(words.overlays.as_deref(), Some(Path::new("/var/overlays")));
        assert_eq!(words.export[0].chain[1], LayerWord::File("/etc/cowblade/base.img".into()));
    }

    #[test]
    fn command_line_wins() {
        let file = ServeWords::from_toml(EVERYTHING).unwrap();
        let typed = ServeWords {
            golden: Some("other.img".into()),
            client: vec!["lab2=020000000009".parse().unwrap()],
            direct: Some(false),
            ..ServeWords::default()
        };
        let both = typed.over(file);
        assert_eq!(both.golden.as_deref(), Some(Path::new("other.img")));
        assert_eq!(both.direct, Some(false));
        assert_eq!(both.interface, ["eth0", "eth1"]);
        let names: Vec<_> = both.client.iter().map(|client| client.name.as_str()).collect();
        assert_eq!(names, ["lab2", "lab1"]);
        assert_eq!(both.client[0].mac, [Mac([2, 0, 0, 0, 0, 9])]);
    }
}
