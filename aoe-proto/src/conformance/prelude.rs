//! The words in which the cases are written.

pub use super::case::{Action, Case, Exchange, Needs, Proof, Severity, Step, Topic};
pub use super::expect::{Answer, Check, Shape, Test};
pub use super::stimulus::{
    Argument, Ata, Config, Cut, Data, Directives, JUNK, Mask, Part, Reserve, Stimulus, Tail, Text,
};
pub use super::value::{Base, Facts, Group, Value, Who};
pub use Severity::{Must, Note, Should};

use crate::ata::command::opcode;

/// `CCmd` codes. `[AoE 4.1]`
pub mod ccmd {
    /// Read.
    pub const READ: u8 = 0;
    /// Test for equality.
    pub const TEST: u8 = 1;
    /// Test for a prefix.
    pub const PREFIX: u8 = 2;
    /// Set if empty.
    pub const SET: u8 = 3;
    /// Set.
    pub const FORCE: u8 = 4;
}

/// AoE error codes. `[AoE 2.3]`
pub mod code {
    /// Unrecognised command.
    pub const COMMAND: u8 = 1;
    /// Bad argument.
    pub const ARGUMENT: u8 = 2;
    /// Config string present.
    pub const CONFIG: u8 = 4;
    /// Unsupported version.
    pub const VERSION: u8 = 5;
    /// Reserved.
    pub const RESERVED: u8 = 6;
}

/// Bits of the Error register. `[AoE 5.4]`
pub mod register {
    /// ABRT: refused.
    pub const ABORTED: u8 = 0x04;
    /// IDNF: out of range.
    pub const NOT_FOUND: u8 = 0x10;
}

/// `DCmd`: add an address to the MAC mask list. `[AoE 7.1]`
pub const ADD: u8 = 1;
/// `DCmd`: delete an address from the MAC mask list. `[AoE 7.1]`
pub const DELETE: u8 = 2;

/// A literal number.
pub const fn n(value: i64) -> Value {
    Value::is(value)
}

// Requests.

/// A Query/Config request.
pub const fn config(ccmd: u8, text: &'static [u8]) -> Stimulus {
    config_text(ccmd, Text::Is(text))
}

/// A Query/Config request with any text.
pub const fn config_text(ccmd: u8, text: Text) -> Stimulus {
    Stimulus::new(1, Argument::Config(Config { head: [0; 5], ccmd, claims: None, text }))
}

/// A config query, as for discovery.
pub const fn query() -> Stimulus {
    config(ccmd::READ, b"")
}

/// An ATA request without data.
pub const fn ata(opcode: u8, flags: u8, lba: Value, count: Value) -> Stimulus {
    let (feature, lba_extra, data, adapts) = (0, [0; 6], Data::None, false);
    let ata = Ata { flags, feature, count, opcode, adapts, lba, lba_extra, data };
    Stimulus::new(0, Argument::Ata(ata))
}

/// As [`ata`], in the 28-bit form if the target has no other.
const fn adapting(opcode: u8, flags: u8, lba: Value, count: Value, data: Data) -> Stimulus {
    let (feature, lba_extra, adapts) = (0, [0; 6], true);
    let ata = Ata { flags, feature, count, opcode, adapts, lba, lba_extra, data };
    Stimulus::new(0, Argument::Ata(ata))
}

/// IDENTIFY DEVICE, as Linux sends it.
pub const fn identify() -> Stimulus {
    ata(opcode::IDENTIFY_DEVICE, 0, n(0), n(1)).lba_extra([0, 0, 0, 0xa0, 0, 0])
}

/// READ SECTORS EXT, or READ SECTORS if the target has no other.
pub const fn read(lba: Value, count: Value) -> Stimulus {
    adapting(opcode::READ_SECTORS_EXT, 0x40, lba, count, Data::None)
}

/// READ SECTORS.
pub const fn read28(lba: Value, count: Value) -> Stimulus {
    ata(opcode::READ_SECTORS, 0, lba, count)
}

/// WRITE SECTORS EXT of a pattern, or WRITE SECTORS if the target has no other.
pub const fn write(seed: u8, lba: Value, count: Value) -> Stimulus {
    adapting(opcode::WRITE_SECTORS_EXT, 0x41, lba, count, Data::Pattern { seed, sectors: count })
}

/// WRITE SECTORS of a pattern.
pub const fn write28(seed: u8, lba: Value, count: Value) -> Stimulus {
    ata(opcode::WRITE_SECTORS, 0x01, lba, count).data(Data::Pattern { seed, sectors: count })
}

/// A read of the MAC mask list.
pub const fn mask_read() -> Stimulus {
    mask(0, Directives::Each(&[]))
}

/// An edit of the MAC mask list.
pub const fn mask_edit(directives: &'static [(u8, Who)]) -> Stimulus {
    mask(1, Directives::Each(directives))
}

/// A MAC mask request.
pub const fn mask(mcmd: u8, directives: Directives) -> Stimulus {
    Stimulus::new(2, Argument::Mask(Mask { mcmd, merror: 0, claims: None, directives }))
}

/// A read of the reservation.
pub const fn reserve_read() -> Stimulus {
    reserve(0, &[])
}

/// A Reserve/Release request: 1 sets, 2 forces.
pub const fn reserve(rcmd: u8, holders: &'static [Who]) -> Stimulus {
    reserve_group(rcmd, Group::Of(holders))
}

/// A Reserve/Release request with any group.
pub const fn reserve_group(rcmd: u8, holders: Group) -> Stimulus {
    Stimulus::new(3, Argument::Reserve(Reserve { rcmd, claims: None, holders }))
}

/// A frame of another command.
pub const fn raw(command: u8, argument: &'static [u8]) -> Stimulus {
    Stimulus::new(command, Argument::Bytes(argument))
}

// Steps.

/// A request and its accepted answers, for [`burst`] and [`flood`].
pub const fn exchange(send: Stimulus, accept: &'static [Answer]) -> Exchange {
    Exchange { send, accept, keep: false, exactly_once: false, silence: None }
}

/// Sends a request; one of the answers must come back.
pub const fn ask(send: Stimulus, accept: &'static [Answer]) -> Step {
    Step::Ask(exchange(send, accept))
}

/// As [`ask`], but silence passes, too, with a remark.
pub const fn ask_or_silence(
    send: Stimulus,
    accept: &'static [Answer],
    remark: &'static str,
) -> Step {
    Step::Ask(Exchange { silence: Some(remark), ..exchange(send, accept) })
}

/// As [`ask`], and keeps the answer for [`Check::Kept`].
pub const fn keep(send: Stimulus, accept: &'static [Answer]) -> Step {
    Step::Ask(exchange(send, accept).kept())
}

/// Sends requests back to back, then waits for all answers.
pub const fn burst(exchanges: &'static [Exchange]) -> Step {
    Step::Burst(exchanges)
}

/// Sends a request many times back to back.
pub const fn flood(times: Value, send: Stimulus, accept: &'static [Answer]) -> Step {
    Step::Flood { exchange: exchange(send, accept), times }
}

/// Sends a frame that must not be answered; the target must go on answering others.
pub const fn silent(send: Stimulus) -> Step {
    Step::Silence { send, proof: Proof::Query }
}

/// Sends a frame that must not be answered, when the target may answer nothing of ours.
pub const fn silent_for_long(send: Stimulus) -> Step {
    Step::Silence { send, proof: Proof::Time }
}

// Answers.

/// Anything at all.
pub const fn anything() -> Answer {
    Answer::new("an answer", Shape::Any)
}

/// No AoE error.
pub const fn plain() -> Answer {
    Answer::new("an answer without error", Shape::Plain)
}

/// An AoE error.
pub const fn error(code: u8) -> Answer {
    let label = match code {
        code::COMMAND => "AoE error 1 (unrecognised command)",
        code::ARGUMENT => "AoE error 2 (bad argument)",
        code::CONFIG => "AoE error 4 (config string present)",
        code::VERSION => "AoE error 5 (unsupported version)",
        code::RESERVED => "AoE error 6 (reserved)",
        _ => "an AoE error",
    };
    Answer::new(label, Shape::AoeError(code))
}

/// ATA success.
pub const fn done() -> Answer {
    Answer::new("ATA success", Shape::Done)
}

/// ATA abort.
pub const fn aborted() -> Answer {
    Answer::new("ATA abort (ERR, ABRT)", Shape::Failed(register::ABORTED))
}

/// ATA "id not found".
pub const fn not_found() -> Answer {
    Answer::new("ATA error, out of range (ERR, IDNF)", Shape::Failed(register::NOT_FOUND))
}

/// Any ATA error.
pub const fn ata_error() -> Answer {
    Answer::new("an ATA error", Shape::Failed(0))
}
