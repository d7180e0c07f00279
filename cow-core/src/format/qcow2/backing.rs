//! Naming another parent, or none.

use super::bytes::{put_u32, put_u64, u32_at};
use super::header::{
    EXT_BACKING_FORMAT, EXT_END, EXT_FEATURE_NAMES, FormatName, Header, MAX_NAME_LEN, NAME_AT,
};
use super::image::{Backing, MAX_EXTENSIONS, Opened};
use crate::pages::Page;
use crate::storage::Storage;
use crate::units::SECTOR_LEN;

operation_error! {
    /// Why the parent's name was not changed. The image is as it was.
    RebaseError {
        /// The name is empty, or does not fit into the first cluster beside the old one.
        BackingName {
            /// Most bytes of the name.
            most: u64
        } => "the parent's name must have 1 to {most} bytes",
        /// The name of the parent's format is empty or longer than 15 bytes.
        BackingFormat => "the parent's format must have 1 to 15 bytes",
        /// Other header extensions leave no room in the first sector.
        NoRoom => "other header extensions leave no room for the parent's format",
    }
}

/// Records another parent, or none. Nothing else changes: that the content is the same is the
/// caller's business.
///
/// One sector of the header takes the new name in place of the old one; a power cut leaves one of
/// them. The names of features, which only messages use, are left out of the new header.
///
/// # Errors
/// See [`RebaseError`].
pub fn set_backing<S: Storage>(
    storage: &mut S,
    opened: &mut Opened,
    backing: Option<Backing<'_>>,
    page: &mut Page,
) -> Result<(), RebaseError<S::Error>> {
    let format = match backing {
        Some(backing) => match FormatName::new(backing.format) {
            Some(format) if !backing.format.is_empty() => Some(format),
            _ => return Err(RebaseError::BackingFormat),
        },
        None => None,
    };
    let (sector, _) = page.as_bytes_mut().split_at_mut(SECTOR_LEN);
    let (end, old_end) = head(storage, &opened.header, format.as_ref(), sector)?;
    let Some(name) = backing.map(|b| b.name) else {
        put_u64(sector, NAME_AT, 0);
        put_u32(sector, NAME_AT + 8, 0);
        write_head(storage, sector).map_err(RebaseError::Storage)?;
        forget_name(&mut opened.header);
        return Ok(());
    };
    let place = place(&opened.header, name, end, old_end)?;
    let at = place.at;
    if place.inside {
        let from = usize::try_from(at).unwrap_or(SECTOR_LEN);
        for (to, byte) in sector.iter_mut().skip(from).zip(name) {
            *to = *byte;
        }
    } else {
        storage.write_at(at, name).map_err(RebaseError::Storage)?;
        storage.sync().map_err(RebaseError::Storage)?;
    }
    let len = u32::try_from(name.len()).unwrap_or(0);
    put_u64(sector, NAME_AT, at);
    put_u32(sector, NAME_AT + 8, len);
    write_head(storage, sector).map_err(RebaseError::Storage)?;
    (opened.header.name_offset, opened.header.name_len) = (at, len);
    opened.header.backing_format = format;
    Ok(())
}

fn forget_name(header: &mut Header) {
    (header.name_offset, header.name_len, header.backing_format) = (0, 0, None);
}

fn write_head<S: Storage>(storage: &mut S, sector: &[u8]) -> Result<(), S::Error> {
    storage.write_at(0, sector)?;
    storage.sync()
}

/// Makes the first sector anew: the header, the parent's format, and the other extensions. Gives the
/// bytes used in it, and where the old extensions end.
fn head<S: Storage>(
    storage: &S,
    header: &Header,
    format: Option<&FormatName>,
    sector: &mut [u8],
) -> Result<(u64, u64), RebaseError<S::Error>> {
    sector.fill(0);
    let head_len = usize::try_from(header.head_len).unwrap_or(usize::MAX);
    let fields = sector.get_mut(..head_len).ok_or(RebaseError::NoRoom)?;
    storage.read_at(0, fields).map_err(RebaseError::Storage)?;
    let mut at = head_len;
    if let Some(format) = format {
        let name = format.as_bytes();
        put_u32(sector, at, EXT_BACKING_FORMAT);
        put_u32(sector, at.saturating_add(4), u32::try_from(name.len()).unwrap_or(0));
        for (to, byte) in sector.iter_mut().skip(at.saturating_add(8)).zip(name) {
            *to = *byte;
        }
        at = at.saturating_add(8).saturating_add(name.len().next_multiple_of(8));
    }
    let (mut from, end) = (u64::from(header.head_len), header.extensions_end());
    for _ in 0..MAX_EXTENSIONS {
        let mut start = [0; 8];
        if from.saturating_add(8) > end {
            break;
        }
        storage.read_at(from, &mut start).map_err(RebaseError::Storage)?;
        let (kind, len) = (u32_at(&start, 0), u64::from(u32_at(&start, 4)));
        if kind == EXT_END {
            from = from.saturating_add(8);
            break;
        }
        let whole = len.next_multiple_of(8).saturating_add(8).min(end.saturating_sub(from));
        if kind != EXT_BACKING_FORMAT && kind != EXT_FEATURE_NAMES {
            let bytes = usize::try_from(whole).unwrap_or(usize::MAX);
            let to = sector.get_mut(at..).and_then(|rest| rest.get_mut(..bytes));
            storage.read_at(from, to.ok_or(RebaseError::NoRoom)?).map_err(RebaseError::Storage)?;
            at = at.saturating_add(bytes);
        }
        from = from.saturating_add(whole);
    }
    // The end, eight zeros.
    at = at.saturating_add(8);
    if at > sector.len() {
        return Err(RebaseError::NoRoom);
    }
    Ok((at as u64, from))
}

/// Where a name goes.
struct Place {
    at: u64,
    /// In the first sector.
    inside: bool,
}

fn place<E>(header: &Header, name: &[u8], end: u64, old_end: u64) -> Result<Place, RebaseError<E>> {
    let sector = SECTOR_LEN as u64;
    let len = name.len() as u64;
    if len > 0 && end.saturating_add(len) <= sector {
        return Ok(Place { at: end, inside: true });
    }
    let old_name_end = header.name_offset.saturating_add(u64::from(header.name_len));
    let behind = sector.max(old_end).max(old_name_end).next_multiple_of(8);
    let cluster = header.geometry.cluster_bytes();
    let most = cluster.saturating_sub(behind).min(MAX_NAME_LEN as u64).max(sector - end);
    let fits = len > 0 && len <= MAX_NAME_LEN as u64 && behind.saturating_add(len) <= cluster;
    if fits {
        Ok(Place { at: behind, inside: false })
    } else {
        Err(RebaseError::BackingName { most })
    }
}
