//! What the network may change about a target, and its byte encoding.

use core::fmt;

use heapless::Vec;

use crate::error::BufferTooSmall;
use crate::wire::{CONFIG_STRING_MAX, Mac};

/// Most entries of a MAC mask list: what an answer carries at MTU 1500. `[AoE 7.1]`
pub const MASK_ENTRIES_MAX: usize = 185;
/// Most addresses of a reservation: what an answer carries at MTU 1500. `[AoE 7.2]`
pub const RESERVE_ENTRIES_MAX: usize = 248;

/// Protocol state that outlives frames, and should outlive the server. `[AoE 4.1]`
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct TargetState {
    pub(crate) config_string: Vec<u8, CONFIG_STRING_MAX, u16>,
    pub(crate) mask: Vec<Mac, MASK_ENTRIES_MAX, u8>,
    pub(crate) reserve: Vec<Mac, RESERVE_ENTRIES_MAX, u8>,
}

/// A part of the state that a request changed.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum StateChange {
    /// The config string.
    ConfigString,
    /// The MAC mask list.
    MacMask,
    /// The reservation.
    Reservation,
}

impl TargetState {
    /// Longest encoding in bytes.
    pub const ENCODED_LEN_MAX: usize =
        HEAD_LEN + CONFIG_STRING_MAX + 6 * (MASK_ENTRIES_MAX + RESERVE_ENTRIES_MAX);

    /// Empty string, no mask, no reservation.
    pub const fn new() -> Self {
        Self { config_string: Vec::new(), mask: Vec::new(), reserve: Vec::new() }
    }

    /// The config string.
    #[inline]
    pub fn config_string(&self) -> &[u8] {
        &self.config_string
    }

    /// Replaces the config string, as an operator may. `None`, and no change, if it is longer than
    /// [`CONFIG_STRING_MAX`].
    pub fn set_config_string(&mut self, string: &[u8]) -> Option<()> {
        if string.len() > CONFIG_STRING_MAX {
            return None;
        }
        self.config_string.clear();
        self.config_string.extend_from_slice(string).ok()
    }

    /// The MAC mask list; empty means everybody.
    #[inline]
    pub fn mask(&self) -> &[Mac] {
        &self.mask
    }

    /// Empties the MAC mask list.
    pub fn clear_mask(&mut self) {
        self.mask.clear();
    }

    /// The holders of the reservation; empty means not reserved.
    #[inline]
    pub fn reservation(&self) -> &[Mac] {
        &self.reserve
    }

    /// Releases the reservation.
    pub fn clear_reservation(&mut self) {
        self.reserve.clear();
    }

    /// Writes the state to the front of `out` and tells how many bytes it took.
    ///
    /// # Errors
    /// [`BufferTooSmall`]; [`TargetState::ENCODED_LEN_MAX`] bytes always suffice.
    pub fn encode(&self, out: &mut [u8]) -> Result<usize, BufferTooSmall> {
        let macs = self.mask.iter().chain(&self.reserve);
        let entries = self.mask.len().saturating_add(self.reserve.len());
        let len = HEAD_LEN + self.config_string.len() + 6 * entries;
        let out = out.get_mut(..len).ok_or(BufferTooSmall { needed: len })?;
        let [m0, m1, m2, m3] = *MAGIC;
        let string_len = u16::try_from(self.config_string.len()).unwrap_or(u16::MAX);
        let [s0, s1] = string_len.to_be_bytes();
        let mask_len = u8::try_from(self.mask.len()).unwrap_or(u8::MAX);
        let reserve_len = u8::try_from(self.reserve.len()).unwrap_or(u8::MAX);
        let head = [m0, m1, m2, m3, s0, s1, mask_len, reserve_len];
        let bytes = head.iter().chain(&self.config_string).chain(macs.flat_map(|mac| mac.0.iter()));
        for (to, from) in out.iter_mut().zip(bytes) {
            *to = *from;
        }
        Ok(len)
    }

    /// Reads what [`TargetState::encode`] wrote.
    ///
    /// # Errors
    /// [`StateError`] if `bytes` are anything else, cut or followed by more.
    pub fn decode(bytes: &[u8]) -> Result<Self, StateError> {
        let mut state = Self::new();
        state.load(bytes)?;
        Ok(state)
    }

    /// Like [`TargetState::decode`], in place: for small stacks, as a state has several KiB.
    ///
    /// # Errors
    /// [`StateError`]; the state is unchanged then.
    pub fn load(&mut self, bytes: &[u8]) -> Result<(), StateError> {
        let (head, rest) = bytes.split_first_chunk::<HEAD_LEN>().ok_or(StateError::Length)?;
        let [m0, m1, m2, m3, s0, s1, mask_len, reserve_len] = *head;
        if [m0, m1, m2, m3] != *MAGIC {
            return Err(StateError::Unknown);
        }
        let string_len = usize::from(u16::from_be_bytes([s0, s1]));
        let (mask_len, reserve_len) = (usize::from(mask_len), usize::from(reserve_len));
        let (string, rest) = rest.split_at_checked(string_len).ok_or(StateError::Length)?;
        let (macs, surplus) = rest.as_chunks::<6>();
        let (mask, reserve) = macs.split_at_checked(mask_len).ok_or(StateError::Length)?;
        if !surplus.is_empty() || reserve.len() != reserve_len {
            return Err(StateError::Length);
        }
        let fits = mask_len <= MASK_ENTRIES_MAX && reserve_len <= RESERVE_ENTRIES_MAX;
        // Last, because it changes the string if it fits.
        if !fits || self.set_config_string(string).is_none() {
            return Err(StateError::Limit);
        }
        self.mask.clear();
        self.reserve.clear();
        // `push` instead of `extend`, which panics when full: the lengths were compared above.
        for mac in mask {
            self.mask.push(Mac(*mac)).map_err(|_| StateError::Limit)?;
        }
        for mac in reserve {
            self.reserve.push(Mac(*mac)).map_err(|_| StateError::Limit)?;
        }
        Ok(())
    }
}

/// "AoE" and the version of the encoding.
const MAGIC: &[u8; 4] = b"AoE\x01";
/// Magic, length of the string (big-endian), entries of mask and reservation.
const HEAD_LEN: usize = 8;

/// Bytes that are no [`TargetState`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum StateError {
    /// Not written by [`TargetState::encode`], or by another version of it.
    Unknown,
    /// Cut, or followed by something else.
    Length,
    /// A string or list longer than the protocol allows.
    Limit,
}

impl fmt::Display for StateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unknown => "not a saved target state of this version",
            Self::Length => "the saved target state has the wrong length",
            Self::Limit => "the saved target state exceeds the limits of the protocol",
        })
    }
}

impl core::error::Error for StateError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> TargetState {
        let mut state = TargetState::new();
        state.set_config_string(b"xy").unwrap();
        state.mask.push(Mac([2, 0, 0, 0, 0, 1])).unwrap();
        state.reserve.push(Mac([2, 0, 0, 0, 0, 2])).unwrap();
        state.reserve.push(Mac([2, 0, 0, 0, 0, 3])).unwrap();
        state
    }

    const BYTES: &[u8] =
        b"AoE\x01\x00\x02\x01\x02xy\x02\0\0\0\0\x01\x02\0\0\0\0\x02\x02\0\0\0\0\x03";

    #[test]
    fn both_directions() {
        let mut out = [0xa5; TargetState::ENCODED_LEN_MAX];
        let len = state().encode(&mut out).unwrap();
        assert_eq!(&out[..len], BYTES);
        assert_eq!(TargetState::decode(BYTES), Ok(state()));
        assert_eq!(TargetState::decode(b"AoE\x01\0\0\0\0"), Ok(TargetState::new()));
    }

    #[test]
    fn the_longest_state_fits() {
        let mut state = TargetState::new();
        state.set_config_string(&[1; CONFIG_STRING_MAX]).unwrap();
        while state.mask.push(Mac([2; 6])).is_ok() {}
        while state.reserve.push(Mac([4; 6])).is_ok() {}
        let mut out = [0; TargetState::ENCODED_LEN_MAX];
        assert_eq!(state.encode(&mut out), Ok(out.len()));
        assert_eq!(TargetState::decode(&out), Ok(state.clone()));
        let needed = out.len();
        assert_eq!(state.encode(&mut out[1..]), Err(BufferTooSmall { needed }));
        assert_eq!(state.set_config_string(&[0; 1025]), None);
        assert_eq!(state.config_string().len(), CONFIG_STRING_MAX);
    }

    #[test]
    fn damaged_encodings_are_refused() {
        for len in 0..BYTES.len() {
            assert!(TargetState::decode(&BYTES[..len]).is_err(), "{len}");
        }
        let mut longer = std::vec::Vec::from(BYTES);
        longer.push(0);
        assert_eq!(TargetState::decode(&longer), Err(StateError::Length));
        let mut other = std::vec::Vec::from(BYTES);
        other[3] = 2;
        assert_eq!(TargetState::decode(&other), Err(StateError::Unknown));
        let mut string = std::vec![0; 8 + 1025];
        string[..8].copy_from_slice(b"AoE\x01\x04\x01\0\0");
        assert_eq!(TargetState::decode(&string), Err(StateError::Limit));
        let mut mask = std::vec![0; 8 + 6 * 186];
        mask[..8].copy_from_slice(b"AoE\x01\0\0\xba\0");
        assert_eq!(TargetState::decode(&mask), Err(StateError::Limit));
    }
}
