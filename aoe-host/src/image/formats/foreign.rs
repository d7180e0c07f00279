//! Images of formats that we do not read. Taken for plain ones, they would be served as garbage, and
//! written to.

use crate::error::{ErrorKind, HostError, Result};
use crate::storage::FileStorage;

/// Where a file of a format begins, with what, and whose it is.
const MARKS: &[(usize, &[u8], &str)] = &[
    (0, b"QFI\xfb", "an image of QEMU in a version that is not known"),
    (0, b"QED\0", "a QED image of QEMU"),
    (0, b"KDMV", "a VMDK image of VMware"),
    (0, b"COWD", "a VMDK image of VMware ESX"),
    (0, b"# Disk DescriptorFile", "the description of a VMDK image of VMware"),
    (0, b"vhdxfile", "a VHDX image of Hyper-V"),
    (0, b"conectix", "a VHD image of Virtual PC"),
    (0, b"WithoutFreeSpace", "an image of Parallels"),
    (0, b"WithouFreSpacExt", "an image of Parallels"),
    (0, b"Bochs Virtual HD Image", "an image of Bochs"),
    (0, b"OOOM", "a COW file of User-Mode-Linux"),
    (0, b"MOOO", "a COW file of User-Mode-Linux"),
    (0, b"\x7fCOW", "a cowfile of cowloop"),
    (0, b"cowblade", "what is left of an overlay of cowblade, which is cut off"),
    (64, b"\x7f\x10\xda\xbe", "a VDI image of VirtualBox"),
];

/// Refuses what nothing takes but a plain image, and yet is none by its looks. `first` is how the file
/// begins.
///
/// # Errors
/// [`ErrorKind::Unsupported`], with the way round.
pub(super) fn refuse(first: &[u8], file: &FileStorage) -> Result<()> {
    let is_mark =
        |(at, mark): (usize, &[u8])| first.get(at..).is_some_and(|rest| rest.starts_with(mark));
    let Some((_, _, whose)) = MARKS.iter().find(|(at, mark, _)| is_mark((*at, mark))) else {
        return Ok(());
    };
    let path = file.path();
    Err(HostError::new(ErrorKind::Unsupported, "use the image")
        .path(path)
        .detail(format!("it looks like {whose}"))
        .advice(format!("write `raw:{}` if it is nothing but the bytes of a disk", path.display())))
}

#[cfg(test)]
mod tests {
    use super::super::{Format, detect, recognise};
    use super::*;
    use crate::storage::FileOptions;

    #[test]
    fn no_image_is_taken_for_the_bytes_of_a_disk() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let open = || FileStorage::open(file.path(), &FileOptions::default()).unwrap();
        let plain = [&[0xeb, 0x63, 0x90][..], &[0; 600]].concat();
        std::fs::write(file.path(), &plain).unwrap();
        assert_eq!(recognise(&open()).unwrap(), Format::RAW);
        for (at, mark, whose) in MARKS {
            let mut bytes = plain.clone();
            bytes[*at..*at + mark.len()].copy_from_slice(mark);
            for bytes in [&bytes[..], &bytes[..*at + mark.len()]] {
                std::fs::write(file.path(), bytes).unwrap();
                if detect(&open()).unwrap() != Format::RAW {
                    continue; // it is read, though perhaps damaged
                }
                let error = recognise(&open()).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Unsupported);
                assert!(error.to_string().contains(whose), "{error}");
            }
        }
        std::fs::write(file.path(), b"QFI").unwrap();
        assert_eq!(recognise(&open()).unwrap(), Format::RAW);
    }
}
