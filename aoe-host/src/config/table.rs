//! Lines of device-mapper tables as chains, so that a line that somebody has can be pasted. Pure.
//!
//! | line | chain |
//! |---|---|
//! | `0 SIZE snapshot ORIGIN COW P\|PO CHUNK [...]` `[COW 2.2]` | `dm-snapshot:COW` over the first SIZE sectors of ORIGIN |
//! | `0 SIZE cow BASE OFF [BITMAP WRITE OFF]...` `[COW 3.1]` | `dm-cow:WRITE+BITMAP` for each triple, the last on top, over BASE |

use std::ffi::OsString;
use std::path::PathBuf;

use super::{LayerWord, Window};
use crate::values::ValueError;

/// Targets of device-mapper that are not chains, and what to do about each.
const OTHERS: &[(&str, &str)] = &[
    ("snapshot-origin", "name its device itself, read-only: it is the origin of the snapshots"),
    ("snapshot-merge", "let the kernel finish the merge; the origin is the result"),
    ("linear", "name the device below it, with --offset and --length"),
];

/// The layers that `line` describes, top first; `None` if it is no line of a table.
///
/// # Errors
/// A line whose target is not one of the two, or whose words are wrong.
pub(crate) fn layers_of(line: &str) -> Result<Option<Vec<LayerWord>>, ValueError> {
    let mut words = line.split_ascii_whitespace();
    let (Some(start), Some(sectors), Some(target)) = (words.next(), words.next(), words.next())
    else {
        return Ok(None);
    };
    let (Ok(start), Ok(sectors)) = (start.parse::<u64>(), sectors.parse::<u64>()) else {
        return Ok(None);
    };
    if start != 0 {
        return Err(ValueError::new(format!(
            "`{line}` begins at sector {start}: only tables of one line, from sector 0 on, are \
             understood"
        )));
    }
    let window = part(0, sectors)
        .ok_or_else(|| ValueError::new(format!("`{line}`: {sectors} sectors are no disk")))?;
    let rest: Vec<&str> = words.collect();
    let layers = match target {
        "snapshot" => snapshot(&rest, window),
        "cow" => cow(&rest, sectors),
        other => {
            let advice = OTHERS.iter().find(|(word, _)| *word == other).map(|(_, advice)| *advice);
            Err(advice.unwrap_or("only `snapshot` and `cow` are understood").to_owned())
        }
    };
    layers.map(Some).map_err(|why| ValueError::new(format!("`{line}`: {why}")))
}

/// `ORIGIN COW P|PO CHUNK [FEATURES...]`. The chunk size in the store's header counts, not this one.
fn snapshot(words: &[&str], window: Window) -> Result<Vec<LayerWord>, String> {
    let [origin, store, persistent, chunk, ..] = words else {
        return Err("write 0 SIZE snapshot ORIGIN COW P CHUNK".to_owned());
    };
    match persistent.to_ascii_uppercase().as_str() {
        "P" | "PO" => {}
        "N" => {
            return Err("a snapshot that is not persistent (N) is in the kernel's memory only; \
                        name ORIGIN with durability=ephemeral"
                .to_owned());
        }
        other => return Err(format!("`{other}` is not P, PO or N")),
    }
    if !chunk.parse::<u32>().is_ok_and(u32::is_power_of_two) {
        return Err(format!("the chunk size `{chunk}` is not a power of two"));
    }
    Ok(vec![
        LayerWord::File(forced("dm-snapshot", &device(store), None)),
        LayerWord::Part(device(origin), window),
    ])
}

/// `BASE OFF [BITMAP WRITE OFF]...`.
fn cow(words: &[&str], sectors: u64) -> Result<Vec<LayerWord>, String> {
    let offset_of = |word: &str| {
        let offset = word.parse::<u64>().ok().and_then(|offset| part(offset, sectors));
        offset.ok_or_else(|| format!("`{word}` is not an offset in sectors"))
    };
    let usage = || "write 0 SIZE cow BASE OFF [BITMAP WRITE OFF]...".to_owned();
    let (base, triples) = match words {
        [base, offset, triples @ ..] => {
            (LayerWord::Part(device(base), offset_of(offset)?), triples.chunks(3))
        }
        _ => return Err(usage()),
    };
    let mut layers = vec![base];
    for triple in triples {
        let [bitmap, write, offset] = triple else { return Err(usage()) };
        let name = forced("dm-cow", &device(write), Some(device(bitmap)));
        // The whole device unless the data begin further on: a writable overlay has no part.
        layers.push(match *offset {
            "0" => LayerWord::File(name),
            offset => LayerWord::Part(name, offset_of(offset)?),
        });
    }
    layers.reverse();
    Ok(layers)
}

/// `MAJOR:MINOR`, as `dmsetup table` prints devices, or a path.
fn device(word: &str) -> PathBuf {
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    match word.split_once(':') {
        Some((major, minor)) if is_number(major) && is_number(minor) => {
            PathBuf::from("/dev/block").join(word)
        }
        _ => PathBuf::from(word),
    }
}

/// `FORMAT:DATA[+METADATA]`.
fn forced(format: &str, data: &std::path::Path, metadata: Option<PathBuf>) -> PathBuf {
    let mut name = OsString::from(format);
    name.push(":");
    name.push(data);
    if let Some(metadata) = metadata {
        name.push("+");
        name.push(metadata);
    }
    PathBuf::from(name)
}

/// `sectors` from sector `offset` on. `None` if there are none, or too many for a file.
fn part(offset: u64, sectors: u64) -> Option<Window> {
    let len = sectors.checked_mul(512).filter(|len| *len > 0)?;
    let offset_bytes = offset.checked_mul(512)?;
    offset_bytes.checked_add(len)?;
    Some(Window { offset_bytes, len_bytes: Some(len) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(offset: u64, sectors: u64) -> Window {
        Window { offset_bytes: offset * 512, len_bytes: Some(sectors * 512) }
    }

    #[test]
    fn snapshot_lines_as_dmsetup_prints_them() {
        for persistent in ["P", "p", "PO"] {
            let line =
                format!("0 4194304 snapshot 7:0 /dev/loop1 {persistent} 8 1 discard_zeroes_cow");
            assert_eq!(
                layers_of(&line).unwrap().unwrap(),
                [
                    LayerWord::File("dm-snapshot:/dev/loop1".into()),
                    LayerWord::Part("/dev/block/7:0".into(), window(0, 4_194_304)),
                ]
            );
        }
    }

    #[test]
    fn the_line_of_the_announcement_of_dm_cow() {
        let line = "0 8385866 cow /dev/sdb1 0 /dev/sdb2 /dev/sdb3 0";
        assert_eq!(
            layers_of(line).unwrap().unwrap(),
            [
                LayerWord::File("dm-cow:/dev/sdb3+/dev/sdb2".into()),
                LayerWord::Part("/dev/sdb1".into(), window(0, 8_385_866)),
            ]
        );
        // The last triple is the writable layer. `[COW 3.1]`
        let three = "0 100 cow B 8 RB R 16 WB W 0";
        assert_eq!(
            layers_of(three).unwrap().unwrap(),
            [
                LayerWord::File("dm-cow:W+WB".into()),
                LayerWord::Part("dm-cow:R+RB".into(), window(16, 100)),
                LayerWord::Part("B".into(), window(8, 100)),
            ]
        );
    }

    #[test]
    fn what_is_no_line_is_left_alone_and_wrong_lines_are_refused() {
        for no_line in ["golden.img", "0 golden.img", "my disk image", "", "a 5 snapshot b c P 8"] {
            assert_eq!(layers_of(no_line).unwrap(), None, "{no_line}");
        }
        for (line, why) in [
            ("0 8 snapshot a b N 8", "kernel's memory"),
            ("0 8 snapshot a b X 8", "not P, PO or N"),
            ("0 8 snapshot a b P 7", "power of two"),
            ("0 8 snapshot a b", "ORIGIN COW"),
            ("0 0 snapshot a b P 8", "no disk"),
            ("8 8 snapshot a b P 8", "sector 8"),
            ("0 8 snapshot-merge a b P 8", "finish the merge"),
            ("0 8 zero", "only `snapshot` and `cow`"),
            ("0 8 cow a", "BASE OFF"),
            ("0 8 cow a 0 b c", "BITMAP WRITE"),
            ("0 8 cow a x", "offset in sectors"),
            ("0 99999999999999999 cow a 0", "no disk"),
        ] {
            let error = layers_of(line).unwrap_err().to_string();
            assert!(error.contains(why), "{line}: {error}");
        }
    }
}
