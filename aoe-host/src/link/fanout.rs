//! Several sockets of one interface, one for each worker of a server: the kernel brings each frame
//! to one of them (`PACKET_FANOUT`), by a program that computes what [`share::owner`] says.
//!
//! Invariants:
//! 1. A frame never reaches two sockets: whoever is not in the group hears nothing, but for the
//!    first before it has joined, and then nobody else is in.
//! 2. There is one group for each interface, and its members are in it in the order of their
//!    numbers. After a change of the interface it is emptied before the first joins again: whoever
//!    leaves is followed by those with higher numbers.
//!
//! [`share::owner`]: crate::share::owner

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aoe_proto::Address;

use super::filter::{ADDRESS_MASK, RANGES_MAX, ranges};
use super::packet_socket::PacketSocket;
use crate::share::{FOLD, MIX};

/// Offsets as a group's program sees them: the frame begins behind its Ethernet header, and what is
/// before that is reached from the far end of the numbers. (`Documentation/networking/filter.rst`)
const ADDRESS_AT: u32 = 2;
const SOURCE_AT: u32 = (libc::SKF_LL_OFF + 6).cast_unsigned();
const SOURCE_END_AT: u32 = (libc::SKF_LL_OFF + 10).cast_unsigned();

/// What became of an attempt to join.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Joined {
    /// The socket is in the group.
    In,
    /// Others come first, or the interface is down: to be tried again.
    NotYet,
    /// The system has no such groups: the first socket hears everything, the others nothing.
    Never,
}

/// The sockets of one interface.
#[derive(Debug)]
pub(super) struct Group {
    program: Vec<libc::sock_filter>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// The kernel's number of the group, as long as its first member is in it.
    id: Option<u16>,
    is_in: Vec<bool>,
    never: bool,
}

impl Group {
    /// A group of `count` sockets. The disks at `everybody` are shared by all machines, those at
    /// other addresses are one for each machine.
    pub(super) fn new(count: usize, everybody: &[Address]) -> Arc<Self> {
        let state = State { id: None, is_in: vec![false; count], never: false };
        Arc::new(Self { program: program(count, everybody), state: Mutex::new(state) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing in here is half done at any time.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many sockets there are to be.
    pub(super) fn count(&self) -> usize {
        self.state().is_in.len()
    }

    /// The first socket is of another kind, which cannot be in a group.
    pub(super) fn give_up(&self) {
        self.state().never = true;
    }

    /// Takes a socket in, which is bound to an interface that `is_up` or not.
    pub(super) fn join(&self, number: usize, socket: &PacketSocket, is_up: bool) -> Joined {
        let mut state = self.state();
        if state.never {
            return Joined::Never;
        }
        if !state.is_turn_of(number) {
            return Joined::NotYet;
        }
        let id = if number == 0 { None } else { state.id };
        match socket.join_group(id) {
            Ok(id) => {
                state.id = Some(id);
                if let Some(place) = state.is_in.get_mut(number) {
                    *place = true;
                }
                // Without the program the first one gets all frames, and hands over.
                drop(socket.set_group_program(&self.program));
                Joined::In
            }
            // Before Linux 6.13 nobody joins while the interface is down.
            Err(_) if !is_up || number > 0 => Joined::NotYet,
            Err(_) => {
                state.never = true;
                Joined::Never
            }
        }
    }

    /// Whether the sockets with lower numbers are in: else the others are to leave as well.
    pub(super) fn has_all_before(&self, number: usize) -> bool {
        self.state().is_in.iter().take(number).all(|is_in| *is_in)
    }

    /// A socket that may have been in the group is closed.
    pub(super) fn leave(&self, number: usize) {
        if let Some(place) = self.state().is_in.get_mut(number) {
            *place = false;
        }
    }
}

impl State {
    /// All before `number` are in, and nobody else.
    fn is_turn_of(&self, number: usize) -> bool {
        self.is_in.iter().enumerate().all(|(at, is_in)| *is_in == (at < number))
    }
}

/// One socket's place in a group. Left when dropped.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) group: Arc<Group>,
    pub(super) number: usize,
    pub(super) place: Place,
    /// It shall join as soon as it can.
    pub(super) wants: bool,
}

/// What a socket hears.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Place {
    /// Everything: nobody else hears anything.
    Alone,
    /// Nothing.
    Deaf,
    /// Its share.
    In,
}

impl Member {
    pub(super) fn new(group: &Arc<Group>, number: usize) -> Self {
        let place = if number == 0 { Place::Alone } else { Place::Deaf };
        Self { group: Arc::clone(group), number, place, wants: false }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.group.leave(self.number);
    }
}

/// The program that returns the number of the socket that a frame is for.
fn program(count: usize, everybody: &[Address]) -> Vec<libc::sock_filter> {
    let mut ranges = ranges(everybody);
    if ranges.len() > RANGES_MAX {
        // Then some of their frames are handed over by the loop that gets them.
        ranges.clear();
    }
    let place = [load(libc::BPF_W, ADDRESS_AT), alu_k(libc::BPF_AND, ADDRESS_MASK)];
    let machine = [
        alu_k(libc::BPF_MUL, MIX[0]),
        TAX,
        load(libc::BPF_W, SOURCE_AT),
        alu_x(libc::BPF_XOR),
        alu_k(libc::BPF_MUL, MIX[1]),
        TAX,
        load(libc::BPF_H, SOURCE_END_AT),
        alu_x(libc::BPF_XOR),
        alu_k(libc::BPF_MUL, MIX[2]),
        op(libc::BPF_JMP | libc::BPF_JA, 0, 0, 1),
    ];
    let for_all = alu_k(libc::BPF_MUL, MIX[0]);
    let end = [
        TAX,
        alu_k(libc::BPF_RSH, FOLD[0]),
        alu_x(libc::BPF_XOR),
        alu_k(libc::BPF_MUL, MIX[1]),
        TAX,
        alu_k(libc::BPF_RSH, FOLD[1]),
        alu_x(libc::BPF_XOR),
        alu_k(libc::BPF_MOD, u32::try_from(count).unwrap_or(1).max(1)),
        op(libc::BPF_RET | RET_A, 0, 0, 0),
    ];
    let mut compares = Vec::new();
    let steps: usize = ranges.iter().map(|(first, last)| if first == last { 1 } else { 2 }).sum();
    for (first, last) in ranges {
        if first != last {
            compares.push(op(libc::BPF_JMP | libc::BPF_JGE, 0, 1, first));
        }
        // Past the other comparisons and the way of a machine. `RANGES_MAX` keeps that near.
        let far = steps - compares.len() - 1 + machine.len();
        let far = u8::try_from(far).unwrap_or(u8::MAX);
        compares.push(if first == last {
            op(libc::BPF_JMP | libc::BPF_JEQ, far, 0, first)
        } else {
            op(libc::BPF_JMP | libc::BPF_JGT, 0, far, last)
        });
    }
    [&place[..], &compares, &machine, &[for_all], &end].concat()
}

/// `A` is returned.
const RET_A: u32 = 0x10;
/// `A` is copied to `X`.
const TAX: libc::sock_filter = op(libc::BPF_MISC, 0, 0, 0);

fn load(width: u32, at: u32) -> libc::sock_filter {
    op(libc::BPF_LD | width | libc::BPF_ABS, 0, 0, at)
}

fn alu_k(what: u32, value: u32) -> libc::sock_filter {
    op(libc::BPF_ALU | what | libc::BPF_K, 0, 0, value)
}

fn alu_x(what: u32) -> libc::sock_filter {
    op(libc::BPF_ALU | what | libc::BPF_X, 0, 0, 0)
}

#[expect(clippy::cast_possible_truncation, reason = "codes have 16 bits")]
const fn op(code: u32, jt: u8, jf: u8, k: u32) -> libc::sock_filter {
    libc::sock_filter { code: code as u16, jt, jf, k }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::share::owner;
    use crate::values::Mac;

    /// Runs `program` as the kernel would, for a whole frame.
    fn run(program: &[libc::sock_filter], frame: &[u8]) -> u32 {
        let (mut at, mut a, mut x) = (0_usize, 0_u32, 0_u32);
        loop {
            let op = program[at];
            at += 1;
            let code = u32::from(op.code);
            match code & 0x07 {
                libc::BPF_LD => {
                    let width = if code & 0x18 == libc::BPF_H { 2 } else { 4 };
                    let from = match op.k.cast_signed() {
                        far if far < 0 => usize::try_from(far - libc::SKF_LL_OFF).unwrap(),
                        near => 14 + usize::try_from(near).unwrap(),
                    };
                    let Some(octets) = frame.get(from..from + width) else { return 0 };
                    a = octets.iter().fold(0, |value, octet| value << 8 | u32::from(*octet));
                }
                libc::BPF_ALU => {
                    let with = if code & libc::BPF_X == 0 { op.k } else { x };
                    a = match code & 0xF0 {
                        libc::BPF_AND => a & with,
                        libc::BPF_MUL => a.wrapping_mul(with),
                        libc::BPF_XOR => a ^ with,
                        libc::BPF_RSH => a >> with,
                        libc::BPF_MOD => a % with,
                        other => panic!("operation {other:#x}"),
                    };
                }
                libc::BPF_JMP => {
                    let holds = match code & 0xF0 {
                        libc::BPF_JA => {
                            at += op.k as usize;
                            continue;
                        }
                        libc::BPF_JEQ => a == op.k,
                        libc::BPF_JGT => a > op.k,
                        libc::BPF_JGE => a >= op.k,
                        other => panic!("comparison {other:#x}"),
                    };
                    at += usize::from(if holds { op.jt } else { op.jf });
                }
                libc::BPF_MISC => x = a,
                libc::BPF_RET => return a,
                class => panic!("instruction class {class}"),
            }
        }
    }

    fn frame(source: [u8; 6], shelf: u16, slot: u8) -> Vec<u8> {
        let [high, low] = shelf.to_be_bytes();
        [&[9; 6], &source[..], &[0x88, 0xA2, 0x10, 0, high, low, slot, 1, 7, 7, 7, 7]].concat()
    }

    fn addresses(list: impl IntoIterator<Item = (u16, u8)>) -> Vec<Address> {
        list.into_iter().map(|(shelf, slot)| Address::new(shelf, slot).unwrap()).collect()
    }

    /// Octets without a pattern, the same in every run.
    fn noise(seed: u32) -> impl FnMut() -> u32 {
        let mut state = seed;
        move || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state ^ state >> 16
        }
    }

    #[test]
    fn the_kernel_deals_as_the_loops_decide() {
        let scattered =
            (0..u8::try_from(RANGES_MAX).unwrap()).flat_map(|n| [(1, 3 * n), (1, 3 * n + 1)]);
        let lists = [
            addresses([]),
            addresses([(0, 0)]),
            addresses((0..=254).map(|slot| (2, slot)).chain([(3, 0), (7, 7), (0xFFFE, 254)])),
            addresses(scattered),
        ];
        let mut any = noise(1);
        for (everybody, count) in lists.iter().flat_map(|list| (1..=9).map(move |n| (list, n))) {
            let program = program(count, everybody);
            assert!(program.len() < 200, "every jump reaches");
            for _ in 0..2000 {
                let mut mac = Mac([0; 6]);
                mac.0[..4].copy_from_slice(&any().to_be_bytes());
                mac.0[4..].copy_from_slice(&any().to_be_bytes()[..2]);
                let [slot, near, _, _] = any().to_be_bytes();
                let shelf = if near < 200 { u16::from(near % 4) } else { 0xFFFE };
                let Some(address) = Address::new(shelf, slot) else { continue };
                let whose = (!everybody.contains(&address)).then_some(mac);
                let dealt = run(&program, &frame(mac.0, shelf, slot));
                assert_eq!(dealt as usize, owner(address, whose, count), "{mac} {address}");
            }
        }
    }

    #[test]
    fn too_many_ranges_are_dealt_by_machine_and_short_frames_to_the_first() {
        let list = addresses((0..=u8::try_from(RANGES_MAX).unwrap()).map(|n| (0, 2 * n)));
        let program = program(4, &list);
        let mac = [2, 0, 0, 0, 0, 1];
        let by_machine = owner(list[0], Some(Mac(mac)), 4);
        assert_eq!(run(&program, &frame(mac, 0, 0)) as usize, by_machine);
        assert_eq!(run(&program, &frame(mac, 0, 0)[..17]), 0);
    }

    #[test]
    fn members_come_in_their_order_and_only_into_an_empty_group() {
        let mut state = State { id: None, is_in: vec![false; 3], never: false };
        let turns = |state: &State| (0..3).map(|n| state.is_turn_of(n)).collect::<Vec<_>>();
        assert_eq!(turns(&state), [true, false, false]);
        state.is_in[0] = true;
        assert_eq!(turns(&state), [false, true, false]);
        state.is_in[1] = true;
        assert_eq!(turns(&state), [false, false, true]);
        // The first has left: it waits until the others have, too.
        state.is_in[0] = false;
        assert_eq!(turns(&state), [false, false, false]);
    }
}
