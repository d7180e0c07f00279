//! Capture files: reading pcap and pcapng, writing pcap, and VLAN tags inside frames.

mod read;
mod write;

pub use read::{CaptureFile, Packet};
pub use write::CaptureWriter;

/// `EtherType`s of VLAN tags.
const TPIDS: [[u8; 2]; 2] = [[0x81, 0x00], [0x88, 0xA8]];
/// Octets of the two addresses in front of a VLAN tag.
const ADDRESSES_LEN: usize = 12;
/// Octets of a VLAN tag.
const TAG_LEN: usize = 4;
/// Tags taken out of a frame: a service provider's and a customer's.
const TAGS_MAX: usize = 2;

/// A frame, and the tag that it carried.
#[derive(Debug)]
pub struct Tagged<'f> {
    /// The frame without the tag.
    pub frame: &'f [u8],
    /// The tag control information of the innermost tag.
    pub tci: Option<u16>,
}

/// Takes VLAN tags out of a frame, which moves its addresses inside `bytes`.
pub fn strip_tag(bytes: &mut [u8]) -> Tagged<'_> {
    let (mut start, mut tci) = (0, None);
    for _ in 0..TAGS_MAX {
        let tag = bytes.get(start + ADDRESSES_LEN..).and_then(<[u8]>::first_chunk::<TAG_LEN>);
        let Some(&[t0, t1, high, low]) = tag else { break };
        if !TPIDS.contains(&[t0, t1]) {
            break;
        }
        tci = Some(u16::from_be_bytes([high, low]));
        bytes.copy_within(start..start + ADDRESSES_LEN, start + TAG_LEN);
        start += TAG_LEN;
    }
    Tagged { frame: bytes.get(start..).unwrap_or_default(), tci }
}

/// The VLAN id in tag control information; 0 without a tag, and for a priority tag. [AoE 9.5]
pub fn vlan_id(tci: Option<u16>) -> u16 {
    tci.unwrap_or(0) & 0x0FFF
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stripped(middle: &[u8]) -> (Vec<u8>, Option<u16>) {
        let mut bytes: Vec<u8> = (0..12).collect();
        bytes.extend_from_slice(middle);
        let Tagged { frame, tci } = strip_tag(&mut bytes);
        assert!(frame.len() < 12 || frame[..12].iter().copied().eq(0..12));
        (frame.get(12..).unwrap_or_default().to_vec(), tci)
    }

    #[test]
    fn tags_come_out() {
        assert_eq!(stripped(&[0x88, 0xA2, 1]), (vec![0x88, 0xA2, 1], None));
        assert_eq!(
            stripped(&[0x81, 0, 0xE0, 5, 0x88, 0xA2, 1]),
            (vec![0x88, 0xA2, 1], Some(0xE005))
        );
        let twice = [0x88, 0xA8, 0, 7, 0x81, 0, 0, 5, 0x88, 0xA2];
        assert_eq!(stripped(&twice), (vec![0x88, 0xA2], Some(5)));
        assert_eq!(stripped(&[0x81, 0, 0]), (vec![0x81, 0, 0], None));
        assert!(strip_tag(&mut []).frame.is_empty());
        assert_eq!((vlan_id(Some(0xE005)), vlan_id(Some(0xE000)), vlan_id(None)), (5, 0, 0));
    }
}
