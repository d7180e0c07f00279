//! The kernel's side of link invariant 1, as a classic BPF program. Pure.
//!
//! The kernel takes a VLAN tag out of the frame before any filter sees it, so that a tagged frame
//! looks like an ordinary one; only the tag kept beside the frame tells. [AoE 9.5]

use core::ffi::c_int;

use aoe_proto::Address;
use aoe_proto::wire::ETHERTYPE;

use super::packet_socket::constant_u16;

/// Ranges of addresses that the kernel compares with: beyond, it lets every answer pass, and the
/// server looks. Addresses in a row are one range, so that this many are an odd configuration.
pub(super) const RANGES_MAX: usize = 32;

/// `skb->pkt_type` of a frame for this host, and of a broadcast (`linux/if_packet.h`).
const PACKET_HOST: u32 = 0;
const PACKET_BROADCAST: u32 = 1;
/// The same, of a frame that leaves.
const PACKET_OUTGOING: u32 = 4;
/// Offset of the `EtherType` in a frame.
const ETHERTYPE_AT: u32 = 12;

/// Where it is behind a VLAN tag.
const TAGGED_ETHERTYPE_AT: u32 = 16;

/// Types of VLAN tags: that of IEEE 802.1Q, and the outer one of 802.1ad.
const TPIDS: [u16; 2] = [0x8100, 0x88A8];
/// Offset of version and flags, and the flag of an answer. [AoE 2, 2.1]
const FLAGS_AT: u32 = 14;
const FLAG_RESPONSE: u32 = 0x08;
/// Offset of shelf, slot and command; the first three octets are the address.
const ADDRESS_AT: u32 = 16;
pub(super) const ADDRESS_MASK: u32 = 0xFFFF_FF00;
/// The VLAN id within the tag; the rest is priority. Id 0 is a priority tag, not a VLAN.
const VLAN_ID_MASK: u32 = 0x0FFF;

const ACCEPT: u32 = u32::MAX;
const DROP: u32 = 0;
/// The code of an instruction that ends a program with its value.
const RETURN: u16 = constant_u16((libc::BPF_RET | libc::BPF_K).cast_signed());

/// Which AoE frames are wanted.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) enum Wanted {
    /// Not a single one.
    Nothing,
    /// Whatever arrives, for whomever, in any VLAN.
    Anything,
    /// All for this station.
    #[default]
    All,
    /// Of those for this station requests, and answers that claim an address in one of these
    /// ranges, first and last.
    Server(Vec<(u32, u32)>),
}

impl Wanted {
    /// What a server of `addresses` wants: other answers are none of its business, but whoever
    /// answers for its own addresses must be reported.
    pub(super) fn by_server(addresses: &[Address]) -> Self {
        let ranges = ranges(addresses);
        if ranges.len() > RANGES_MAX { Self::All } else { Self::Server(ranges) }
    }
}

/// Addresses as ranges of the numbers that [`ADDRESS_AT`] shows, first and last.
pub(super) fn ranges(addresses: &[Address]) -> Vec<(u32, u32)> {
    let mut numbers: Vec<u32> = addresses.iter().copied().map(number).collect();
    numbers.sort_unstable();
    numbers.dedup();
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for number in numbers {
        match ranges.last_mut() {
            Some((_, last)) if *last == number.saturating_sub(ADDRESS_STEP) => *last = number,
            _ => ranges.push((number, number)),
        }
    }
    ranges
}

/// The address as the four octets at [`ADDRESS_AT`] hold it, without the command.
fn number(address: Address) -> u32 {
    u32::from(address.shelf()) << 16 | u32::from(address.slot()) << 8
}

/// Distance of two addresses in a row.
const ADDRESS_STEP: u32 = 1 << 8;

/// Where a comparison leads.
#[derive(Clone, Copy)]
enum To {
    /// Past so many of the following instructions.
    Skip(u8),
    Accept,
    Drop,
}

/// One instruction, with jumps that do not know their distance yet.
struct Step {
    code: u32,
    value: u32,
    if_true: To,
    if_false: To,
}

/// The program that lets pass what is `wanted`.
pub(super) fn program(wanted: &Wanted) -> Vec<libc::sock_filter> {
    let mut steps = vec![
        load(libc::BPF_H, ETHERTYPE_AT),
        jump(libc::BPF_JEQ, u32::from(ETHERTYPE), To::Skip(0), To::Drop),
    ];
    match wanted {
        Wanted::Nothing => return vec![libc::sock_filter { code: RETURN, jt: 0, jf: 0, k: DROP }],
        Wanted::Anything => return assemble(&steps),
        Wanted::All | Wanted::Server(_) => {}
    }
    steps.extend([
        load(libc::BPF_W, ancillary(libc::SKF_AD_PKTTYPE)),
        jump(libc::BPF_JEQ, PACKET_HOST, To::Skip(1), To::Skip(0)),
        jump(libc::BPF_JEQ, PACKET_BROADCAST, To::Skip(0), To::Drop),
        load(libc::BPF_W, ancillary(libc::SKF_AD_VLAN_TAG_PRESENT)),
        jump(libc::BPF_JEQ, 0, To::Skip(2), To::Skip(0)),
        load(libc::BPF_W, ancillary(libc::SKF_AD_VLAN_TAG)),
        jump(libc::BPF_JSET, VLAN_ID_MASK, To::Drop, To::Skip(0)),
    ]);
    if let Wanted::Server(ranges) = wanted {
        steps.push(load(libc::BPF_B, FLAGS_AT));
        steps.push(jump(libc::BPF_JSET, FLAG_RESPONSE, To::Skip(0), To::Accept));
        steps.push(load(libc::BPF_W, ADDRESS_AT));
        steps.push(step(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, ADDRESS_MASK));
        for (first, last) in ranges {
            if first == last {
                steps.push(jump(libc::BPF_JEQ, *first, To::Accept, To::Skip(0)));
            } else {
                steps.push(jump(libc::BPF_JGE, *first, To::Skip(0), To::Skip(1)));
                steps.push(jump(libc::BPF_JGT, *last, To::Skip(0), To::Accept));
            }
        }
        steps.push(step(libc::BPF_RET | libc::BPF_K, DROP));
    }
    assemble(&steps)
}

/// The program that lets pass AoE frames, and AoE frames with one VLAN tag that the kernel left in
/// its place, whoever they are for.
pub(super) fn tap_program() -> Vec<libc::sock_filter> {
    let aoe = u32::from(ETHERTYPE);
    let [customer, service] = TPIDS.map(u32::from);
    assemble(&[
        load(libc::BPF_H, ETHERTYPE_AT),
        jump(libc::BPF_JEQ, aoe, To::Accept, To::Skip(0)),
        jump(libc::BPF_JEQ, customer, To::Skip(1), To::Skip(0)),
        jump(libc::BPF_JEQ, service, To::Skip(0), To::Drop),
        load(libc::BPF_H, TAGGED_ETHERTYPE_AT),
        jump(libc::BPF_JEQ, aoe, To::Accept, To::Drop),
    ])
}

/// The program that lets pass the first `octets` of answers without a foreign VLAN tag: those for
/// this host, or with `every_station` all that do not leave from here.
pub(super) fn answers_program(every_station: bool, octets: u32) -> Vec<libc::sock_filter> {
    let for_us = if every_station {
        jump(libc::BPF_JEQ, PACKET_OUTGOING, To::Drop, To::Skip(0))
    } else {
        jump(libc::BPF_JEQ, PACKET_HOST, To::Skip(0), To::Drop)
    };
    let steps = [
        load(libc::BPF_H, ETHERTYPE_AT),
        jump(libc::BPF_JEQ, u32::from(ETHERTYPE), To::Skip(0), To::Drop),
        load(libc::BPF_B, FLAGS_AT),
        jump(libc::BPF_JSET, FLAG_RESPONSE, To::Skip(0), To::Drop),
        load(libc::BPF_W, ancillary(libc::SKF_AD_PKTTYPE)),
        for_us,
        load(libc::BPF_W, ancillary(libc::SKF_AD_VLAN_TAG_PRESENT)),
        jump(libc::BPF_JEQ, 0, To::Accept, To::Skip(0)),
        load(libc::BPF_W, ancillary(libc::SKF_AD_VLAN_TAG)),
        jump(libc::BPF_JSET, VLAN_ID_MASK, To::Drop, To::Accept),
    ];
    assemble_cutting(&steps, octets)
}

fn assemble(steps: &[Step]) -> Vec<libc::sock_filter> {
    assemble_cutting(steps, ACCEPT)
}

/// Puts the two ends behind the steps and gives every jump its distance. Of what is accepted so
/// many octets pass.
fn assemble_cutting(steps: &[Step], octets: u32) -> Vec<libc::sock_filter> {
    let ends = [step(libc::BPF_RET | libc::BPF_K, octets), step(libc::BPF_RET | libc::BPF_K, DROP)];
    let distance = |at: usize, to: To| {
        let end = steps.len() - 1 - at.min(steps.len() - 1);
        let far = match to {
            To::Skip(count) => usize::from(count),
            To::Accept => end,
            To::Drop => end + 1,
        };
        // `RANGES_MAX` keeps every program far shorter than a jump reaches.
        u8::try_from(far).unwrap_or(u8::MAX)
    };
    let assembled = steps.iter().chain(&ends).enumerate().map(|(at, step)| libc::sock_filter {
        code: u16::try_from(step.code).unwrap_or_default(),
        jt: distance(at, step.if_true),
        jf: distance(at, step.if_false),
        k: step.value,
    });
    assembled.collect()
}

fn load(width: u32, at: u32) -> Step {
    step(libc::BPF_LD | width | libc::BPF_ABS, at)
}

fn jump(compare: u32, value: u32, if_true: To, if_false: To) -> Step {
    Step { code: libc::BPF_JMP | compare | libc::BPF_K, value, if_true, if_false }
}

fn step(code: u32, value: u32) -> Step {
    Step { code, value, if_true: To::Skip(0), if_false: To::Skip(0) }
}

/// Offset of data that the kernel keeps beside the frame.
const fn ancillary(what: c_int) -> u32 {
    (libc::SKF_AD_OFF + what).cast_unsigned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OTHER_HOST: u32 = 3;
    const OUTGOING: u32 = 4;
    const MULTICAST: u32 = 2;

    /// What the kernel keeps beside a frame.
    #[derive(Clone, Copy)]
    struct Beside {
        packet_type: u32,
        tag: Option<u16>,
    }

    const PLAIN: Beside = Beside { packet_type: PACKET_HOST, tag: None };

    /// Runs `program` as the kernel would (`Documentation/networking/filter.rst`): a load beyond
    /// the frame ends it with "drop".
    fn run(program: &[libc::sock_filter], frame: &[u8], beside: Beside) -> bool {
        let (mut at, mut a) = (0_usize, 0_u32);
        loop {
            let op = program[at];
            at += 1;
            let code = u32::from(op.code);
            match code & 0x07 {
                libc::BPF_LD if op.k == ancillary(libc::SKF_AD_PKTTYPE) => a = beside.packet_type,
                libc::BPF_LD if op.k == ancillary(libc::SKF_AD_VLAN_TAG_PRESENT) => {
                    a = u32::from(beside.tag.is_some());
                }
                libc::BPF_LD if op.k == ancillary(libc::SKF_AD_VLAN_TAG) => {
                    a = u32::from(beside.tag.unwrap_or(0xA5A5));
                }
                libc::BPF_LD => {
                    let width = match code & 0x18 {
                        libc::BPF_W => 4,
                        libc::BPF_H => 2,
                        _ => 1,
                    };
                    let from = op.k as usize;
                    let Some(octets) = frame.get(from..from + width) else { return false };
                    a = octets.iter().fold(0, |value, octet| value << 8 | u32::from(*octet));
                }
                libc::BPF_ALU => a &= op.k,
                libc::BPF_JMP => {
                    let holds = match code & 0xF0 {
                        libc::BPF_JEQ => a == op.k,
                        libc::BPF_JGT => a > op.k,
                        libc::BPF_JGE => a >= op.k,
                        libc::BPF_JSET => a & op.k != 0,
                        other => panic!("comparison {other:#x}"),
                    };
                    at += usize::from(if holds { op.jt } else { op.jf });
                }
                libc::BPF_RET => return op.k != 0,
                class => panic!("instruction class {class}"),
            }
        }
    }

    /// The first octets of an AoE frame.
    fn aoe(flags: u8, shelf: u16, slot: u8) -> Vec<u8> {
        let [high, low] = shelf.to_be_bytes();
        [&[2; 12][..], &[0x88, 0xA2, flags, 0, high, low, slot, 1, 0, 0, 0, 0]].concat()
    }

    fn addresses(list: &[(u16, u8)]) -> Vec<Address> {
        list.iter().map(|(shelf, slot)| Address::new(*shelf, *slot).unwrap()).collect()
    }

    #[test]
    fn untagged_aoe_for_this_host_only() {
        let program = program(&Wanted::All);
        let verdict = |ethertype: u16, packet_type| {
            let mut frame = aoe(0x10, 0, 0);
            frame[12..14].copy_from_slice(&ethertype.to_be_bytes());
            run(&program, &frame, Beside { packet_type, tag: None })
        };
        assert!(verdict(0x88A2, PACKET_HOST));
        assert!(verdict(0x88A2, PACKET_BROADCAST));
        assert!(!verdict(0x0800, PACKET_HOST));
        assert!(!verdict(0x88A2, OTHER_HOST));
        assert!(!verdict(0x88A2, OUTGOING));
        assert!(!verdict(0x88A2, MULTICAST));
        assert!(!run(&program, &[2; 13], PLAIN));
    }

    #[test]
    fn a_prober_hears_everything_of_aoe() {
        let program = program(&Wanted::Anything);
        for packet_type in [PACKET_HOST, PACKET_BROADCAST, MULTICAST, OTHER_HOST] {
            for tag in [None, Some(0), Some(5)] {
                assert!(run(&program, &aoe(0x18, 7, 3), Beside { packet_type, tag }));
            }
        }
        assert!(!run(&program, &[2; 60], PLAIN), "no AoE");
        assert!(!run(&program, &[2; 13], PLAIN), "cut");
    }

    #[test]
    fn who_is_not_to_hear_hears_nothing() {
        let program = program(&Wanted::Nothing);
        for packet_type in [PACKET_HOST, PACKET_BROADCAST, OUTGOING] {
            assert!(!run(&program, &aoe(0x10, 7, 3), Beside { packet_type, tag: None }));
        }
    }

    #[test]
    fn priority_tags_but_no_vlan() {
        for wanted in [Wanted::All, Wanted::by_server(&[])] {
            let program = program(&wanted);
            let verdict = |packet_type, tag| {
                run(&program, &aoe(0x10, 0, 0), Beside { packet_type, tag: Some(tag) })
            };
            assert!(verdict(PACKET_HOST, 0xE000), "priority 7, id 0");
            assert!(verdict(PACKET_HOST, 0x1000), "drop eligible, id 0");
            assert!(!verdict(PACKET_HOST, 5));
            assert!(!verdict(PACKET_BROADCAST, 0xEFFF));
        }
    }

    #[test]
    fn a_server_hears_requests_and_who_claims_its_addresses() {
        let ours = addresses(&[(0, 3), (0, 4), (0, 5), (7, 0), (0xFFFE, 254)]);
        let program = program(&Wanted::by_server(&ours));
        let hears = |flags, shelf, slot| run(&program, &aoe(flags, shelf, slot), PLAIN);
        for (shelf, slot) in [(0, 0), (0, 4), (0xFFFF, 0xFF), (9, 9)] {
            assert!(hears(0x10, shelf, slot), "a request for {shelf}.{slot}");
            assert!(hears(0x14, shelf, slot), "whatever its other flags are");
        }
        for (shelf, slot) in [(0, 3), (0, 4), (0, 5), (7, 0), (0xFFFE, 254)] {
            assert!(hears(0x18, shelf, slot), "an answer for {shelf}.{slot}");
            assert!(hears(0x2C, shelf, slot), "an error of another version for {shelf}.{slot}");
        }
        for (shelf, slot) in [(0, 2), (0, 6), (7, 1), (6, 255), (0xFFFE, 253), (0xFFFF, 0)] {
            assert!(!hears(0x18, shelf, slot), "an answer for {shelf}.{slot}");
        }
        let short = aoe(0x10, 0, 0);
        assert!(!run(&program, &short[..14], PLAIN), "no flags");
        assert!(!run(&program, &aoe(0x18, 0, 3)[..19], PLAIN), "an answer without an address");
    }

    #[test]
    fn the_longest_list_that_is_compared_and_the_next() {
        // Every second slot: as many ranges as addresses.
        let scattered = |count: u8| addresses(&(0..count).map(|n| (1, 2 * n)).collect::<Vec<_>>());
        let most = u8::try_from(RANGES_MAX).unwrap();
        let longest = program(&Wanted::by_server(&scattered(most)));
        for slot in 0..=u8::MAX {
            let ours = slot % 2 == 0 && slot < 2 * most;
            assert_eq!(run(&longest, &aoe(0x18, 1, slot), PLAIN), ours, "slot {slot}");
        }
        assert_eq!(Wanted::by_server(&scattered(most + 1)), Wanted::All);
        // Pairs make the longest program there is: every jump must still reach.
        let pairs: Vec<(u16, u8)> = (0..most).flat_map(|n| [(1, 3 * n), (1, 3 * n + 1)]).collect();
        let longest = program(&Wanted::by_server(&addresses(&pairs)));
        assert!(longest.len() < usize::from(u8::MAX), "{}", longest.len());
        for slot in 0..=u8::MAX {
            let ours = slot % 3 != 2 && slot < 3 * most;
            assert_eq!(run(&longest, &aoe(0x18, 1, slot), PLAIN), ours, "slot {slot}");
        }
    }

    #[test]
    fn a_whole_shelf_is_one_range() {
        let shelf: Vec<(u16, u8)> = (0..=254).map(|slot| (2, slot)).collect();
        assert_eq!(
            Wanted::by_server(&addresses(&shelf)),
            Wanted::Server(vec![(0x0002_0000, 0x0002_FE00)])
        );
    }

    #[test]
    fn a_load_generator_gets_answers() {
        let frame = |flags: u8| {
            let mut frame = [0; 60];
            frame[12..15].copy_from_slice(&[0x88, 0xA2, flags]);
            frame
        };
        let answer = frame(0x18);
        for every_station in [false, true] {
            let program = answers_program(every_station, 64);
            assert_eq!(program[program.len() - 2].k, 64, "so much of a frame passes");
            assert!(run(&program, &answer, PLAIN));
            assert!(!run(&program, &frame(0x10), PLAIN), "a request");
            assert!(!run(&program, &[0; 60], PLAIN));
            for (packet_type, passes) in [(OTHER_HOST, every_station), (OUTGOING, false)] {
                assert_eq!(run(&program, &answer, Beside { packet_type, ..PLAIN }), passes);
            }
            assert!(run(&program, &answer, Beside { tag: Some(0xE000), ..PLAIN }), "a priority");
            assert!(!run(&program, &answer, Beside { tag: Some(5), ..PLAIN }));
        }
    }
}
