//! The small values people type and read: addresses, MAC addresses, sizes. Parsing and printing.
//!
//! Every parse error is a sentence that names the offending text and the accepted forms.

use core::error::Error;
use core::fmt;

pub use aoe_proto::{Address, Mac};

pub use address::{AddressList, address_after, parse_address, parse_address_list};
pub use mac::{parse_mac, parse_mac_set};
pub use size::{ByteSize, human_bytes};

mod address;
mod mac;
pub mod serde_text;
mod size;

/// Why a typed value was not understood, as a sentence for the person who typed it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ValueError(String);

impl ValueError {
    /// An error that says `message`.
    pub fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}

impl fmt::Display for ValueError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for ValueError {}
