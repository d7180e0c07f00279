//! Frames as annotated hexadecimal digits: every field named, the wrong bytes in brackets.

use core::fmt::Write;
use core::ops::Range;

use aoe_proto::conformance::{Field, fields};

/// Bytes of a row.
const ROW: usize = 16;
/// Rows of a long field that are shown before the rest is left out.
const ROWS_SHOWN: usize = 2;

/// The rows of a frame. `wrong` are the bytes to point at, which may lie behind its end.
pub(super) fn dump(frame: &[u8], wrong: Option<Range<usize>>) -> Vec<String> {
    let wrong = wrong.unwrap_or(0..0);
    let mut rows = Vec::new();
    for field in fields(frame) {
        dump_field(frame, &field, &wrong, &mut rows);
    }
    if wrong.end > frame.len() && !wrong.is_empty() {
        let at = wrong.start.max(frame.len());
        rows.push(format!("> {at:04x}  [{}]  missing: the frame ends here", "--"));
    }
    rows
}

fn dump_field(frame: &[u8], field: &Field, wrong: &Range<usize>, rows: &mut Vec<String>) {
    let bytes = field.bytes.clone();
    let content = frame.get(bytes.clone()).unwrap_or_default();
    let all_right = wrong.end <= bytes.start || bytes.end <= wrong.start;
    if let Some(first) = content.first().filter(|_| all_right && content.len() > ROW)
        && content.iter().all(|byte| byte == first)
    {
        let start = bytes.start;
        let run = format!("{first:02x} .. {} bytes alike", content.len());
        rows.push(format!("  {start:04x}  {run:<49} {}", field.name));
        return;
    }
    let starts: Vec<usize> = bytes.clone().step_by(ROW).collect();
    let mut left_out = 0;
    for (number, start) in starts.iter().copied().enumerate() {
        let end = bytes.end.min(start + ROW);
        let is_wrong = start < wrong.end && wrong.start < end;
        if number >= ROWS_SHOWN && starts.len() > ROWS_SHOWN + 1 && !is_wrong {
            left_out += end - start;
            continue;
        }
        tell_left_out(&mut left_out, rows);
        let mark = if is_wrong { '>' } else { ' ' };
        let name = if number == 0 { field.name } else { "" };
        let row = row(frame.get(start..end).unwrap_or_default(), start, wrong);
        rows.push(format!("{mark} {start:04x} {row:<50} {name}").trim_end().to_owned());
    }
    tell_left_out(&mut left_out, rows);
}

fn tell_left_out(count: &mut usize, rows: &mut Vec<String>) {
    if *count > 0 {
        rows.push(format!("  ....  {count} bytes"));
        *count = 0;
    }
}

/// ` 00[01 02]03`, with the brackets in the places of spaces.
fn row(bytes: &[u8], start: usize, wrong: &Range<usize>) -> String {
    let mut text = String::new();
    let mut inside = false;
    for (at, byte) in (start..).zip(bytes) {
        let is_wrong = wrong.contains(&at);
        text.push(match (inside, is_wrong) {
            (false, true) => '[',
            (true, false) => ']',
            _ => ' ',
        });
        inside = is_wrong;
        // Writing to a string cannot fail.
        let _written = write!(text, "{byte:02x}");
    }
    if inside {
        text.push(']');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(len: usize) -> Vec<u8> {
        let mut frame =
            b"\x02\0\0\0\0\x01\x02\0\0\0\0\x0a\x88\xa2\x1c\0\0\x07\x03\0\x80\0\0\x01".to_vec();
        frame.resize(len, 0);
        frame
    }

    #[test]
    fn fields_are_named_and_wrong_bytes_pointed_at() {
        let rows = dump(&answer(60), Some(14..15));
        assert_eq!(
            rows[0],
            "  0000  02 00 00 00 00 01                                 destination"
        );
        assert_eq!(
            rows[3],
            "> 000e [1c]                                               version and flags"
        );
        assert!(rows.iter().filter(|row| row.starts_with('>')).count() == 1, "{rows:#?}");
        assert_eq!(row(&[1, 2, 3, 4], 10, &(11..13)), " 01[02 03]04");
        assert_eq!(row(&[1, 2], 10, &(0..99)), "[01 02]");
    }

    #[test]
    fn long_data_are_cut_but_not_where_they_are_wrong() {
        let mut frame = answer(36 + 512);
        for (byte, number) in frame[36..].iter_mut().zip((0..=u8::MAX).cycle()) {
            *byte = number;
        }
        let rows = dump(&frame, Some(36 + 100..36 + 101));
        let text = rows.join("\n");
        assert!(text.contains("data") && text.contains("[64]"), "{text}");
        let left_out: usize = rows
            .iter()
            .filter_map(|row| {
                row.strip_prefix("  ....  ")?.strip_suffix(" bytes")?.parse::<usize>().ok()
            })
            .sum();
        let shown = rows.iter().filter(|row| row.contains("data") || row.len() > 50).count();
        assert_eq!(left_out, 512 - 3 * ROW, "{text}");
        assert!(shown < 20, "{text}");
    }

    #[test]
    fn what_is_all_alike_takes_one_row() {
        let rows = dump(&answer(60), None);
        let last = rows.last().unwrap();
        assert!(last.starts_with("  0024  00 .. 24 bytes alike"), "{last}");
        let pointed = dump(&answer(60), Some(40..41));
        assert!(pointed.last().unwrap().starts_with("  0034"), "{pointed:#?}");
    }

    #[test]
    fn bytes_that_are_missing_are_said_to_be() {
        let rows = dump(&answer(60), Some(60..548));
        assert_eq!(rows.last().unwrap(), "> 003c  [--]  missing: the frame ends here");
        assert!(dump(&[], None).is_empty());
    }
}
