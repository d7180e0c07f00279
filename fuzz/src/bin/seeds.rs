//! Writes one good image of each format below `corpus/`, for fuzzing to begin with: without them it
//! would have to guess every magic number.

use std::error::Error;
use std::path::Path;

use cow_core::format::cowloop::{self, Width};
use cow_core::format::uml::{self, Version};
use cow_core::format::{dm_cow, dm_snapshot, native, qcow1, qcow2};
use cow_core::identity::{LayerId, ParentIdentity};
use cow_core::pages::Page;
use cowblade_fuzz::chain::Image;
use cowblade_fuzz::images::{SCRIPT_LEN, SECTORS};

/// Writes, zeros, reads here and there, then the image.
fn save(target: &str, file: &str, image: Image) -> Result<(), Box<dyn Error>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    std::fs::create_dir_all(&directory)?;
    let script: [u8; SCRIPT_LEN] =
        *b"\x20\x00\x08\x03\x02\x02\x80\x01\xd5\x70\x03\x01\x45\x00\x04\x09";
    std::fs::write(directory.join(file), [&script[..], &image.into_bytes()].concat())?;
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let text = |e: &dyn core::fmt::Display| e.to_string();
    let mut image = Image::new(&[]);
    let options = native::CreateOptions {
        layer_id: LayerId([7; 16]),
        sectors: 40,
        parent: ParentIdentity::None,
        window: None,
        hint: b"base.img",
        label: b"seed",
        created_s: 0,
        log: None,
        fresh: native::Fresh::Zeroed,
    };
    native::create(&mut image, &options, &mut Page::ZERO.clone()).map_err(|e| text(&e))?;
    save("native", "seed", image)?;

    let mut image = Image::new(&vec![0; 40 * 4096]);
    dm_snapshot::create(&mut image, 8).map_err(|e| text(&e))?;
    save("dm_snapshot", "seed", image)?;

    for (file, backing) in [("alone", None), ("backed", Some(&b"base.img"[..]))] {
        let mut image = Image::new(&[]);
        qcow1::create(&mut image, &qcow1::CreateOptions::new(1000, backing))
            .map_err(|e| text(&e))?;
        save("qcow1", file, image)?;
    }

    for (file, version, cluster_bits) in [("v2", 2, 9), ("v3", 3, 9), ("usual", 3, 12)] {
        let mut image = Image::new(&[]);
        let backing = qcow2::Backing { name: b"base.img", format: b"raw" };
        let options = qcow2::CreateOptions {
            version,
            cluster_bits,
            backing: Some(backing),
            ..qcow2::CreateOptions::new(1000 * 512)
        };
        qcow2::create(&mut image, &options, &mut Page::ZERO.clone()).map_err(|e| text(&e))?;
        save("qcow2", file, image)?;
    }

    for (file, version) in [("v1", Version::V1), ("v2", Version::V2), ("v3", Version::V3)] {
        let mut image = Image::new(&[]);
        let options = uml::CreateOptions {
            version,
            path: b"/base.img",
            size_bytes: 40 * 512,
            mtime_s: 0,
            alignment: 4096,
            wipe: false,
        };
        uml::create(&mut image, &options).map_err(|e| text(&e))?;
        save("uml", file, image)?;
    }

    for (file, width) in [("wide", Width::Bits64), ("narrow", Width::Bits32)] {
        let mut image = Image::new(&[]);
        let options = cowloop::CreateOptions {
            width,
            big_endian: false,
            parent_bytes: 40 * 1024,
            fingerprint: 0x0102_0304,
            wipe: false,
        };
        cowloop::create(&mut image, &options).map_err(|e| text(&e))?;
        save("cowloop", file, image)?;
    }

    let len = usize::try_from(dm_cow::bitmap_bytes(SECTORS))?;
    let mut image = Image::new(&vec![0; len]);
    dm_cow::create(&mut image, SECTORS).map_err(|e| text(&e))?;
    save("dm_cow", "seed", image)?;

    // READ SECTORS EXT of two sectors from LBA 5 of shelf 1, slot 2.
    let mut frame = [0; 60];
    frame[..20]
        .copy_from_slice(b"\xff\xff\xff\xff\xff\xff\x02\0\0\0\0\x02\x88\xa2\x10\0\0\x01\x02\0");
    frame[24..29].copy_from_slice(&[0x40, 0, 2, 0x24, 5]);
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    std::fs::create_dir_all(directory.join("frame"))?;
    std::fs::create_dir_all(directory.join("session"))?;
    std::fs::write(directory.join("frame").join("seed"), frame)?;
    let two = [&[0, 60][..], &frame, &[0, 60], &frame].concat();
    std::fs::write(directory.join("session").join("seed"), two)?;
    Ok(())
}
