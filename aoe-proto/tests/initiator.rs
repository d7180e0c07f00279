//! The initiator: its frames as literal bytes, and whole conversations with the target over a link
//! that loses, doubles and delays, in virtual time.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests")]

use aoe_proto::initiator::{
    Answer, Completion, Event, Failure, Found, Initiator, InitiatorConfig, Request, RequestId,
    SubmitError, emit_query, fill_trim_entries, pieces,
};
use aoe_proto::wire::{AoeError, ConfigCommand, Directive, DirectiveCommand, MaskError};
use aoe_proto::{
    Address, AddressPattern, AtaError, Disk, Incoming, LinkLimits, Mac, Refusal, SectorRange,
    Target, TargetConfig, TrimSupport, serve,
};

const OWN: Mac = Mac([0x02, 0, 0, 0, 0, 0x0a]);
const SERVER: Mac = Mac([0x02, 0, 0, 0, 0, 0x01]);
const SECTORS: u64 = 500;

type Payload = Vec<u8>;

fn address() -> Address {
    Address::new(7, 3).unwrap()
}

fn initiator(mtu: usize) -> Initiator<Payload, 16> {
    let link = LinkLimits::for_mtu(mtu).unwrap();
    Initiator::new(InitiatorConfig::new(OWN, address(), link, 0x0102_0304))
}

struct MemoryDisk(Vec<u8>);

impl MemoryDisk {
    fn part(&mut self, range: SectorRange) -> &mut [u8] {
        let start = usize::try_from(range.byte_offset()).unwrap();
        &mut self.0[start..start + range.len_bytes()]
    }
}

impl Disk for MemoryDisk {
    fn read(&mut self, range: SectorRange, data: &mut [u8]) -> Result<(), AtaError> {
        data.copy_from_slice(self.part(range));
        Ok(())
    }

    fn write(&mut self, range: SectorRange, data: &[u8]) -> Result<(), AtaError> {
        self.part(range).copy_from_slice(data);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), AtaError> {
        Ok(())
    }

    fn discard(&mut self, range: SectorRange) -> Result<(), AtaError> {
        self.part(range).fill(0);
        Ok(())
    }
}

/// A target with its disk at the other end of the link.
struct Server {
    target: Target,
    disk: MemoryDisk,
    link: LinkLimits,
    mac: Mac,
}

impl Server {
    fn new(mtu: usize) -> Self {
        let config =
            TargetConfig { trim: TrimSupport::Zeroing, ..TargetConfig::new(address(), SECTORS) };
        let disk = MemoryDisk(vec![0; usize::try_from(SECTORS).unwrap() * 512]);
        let link = LinkLimits::for_mtu(mtu).unwrap();
        Self { target: Target::new(config).unwrap(), disk, link, mac: SERVER }
    }

    fn answer(&mut self, frame: &[u8]) -> Option<Vec<u8>> {
        let request = Incoming::parse(frame, self.mac).ok()?;
        let action = self.target.handle(&request, self.link);
        let mut buf = vec![0xa5; self.link.frame_len_max()];
        let len = serve(&self.target, action, &mut self.disk, &mut buf).unwrap()?;
        buf.truncate(len);
        Some(buf)
    }
}

/// The next frame, if there is one.
fn transmit(initiator: &mut Initiator<Payload, 16>, now_ms: u64) -> Option<Vec<u8>> {
    let mut buf = vec![0xa5; 9014];
    let len = initiator.poll_transmit(now_ms, &mut buf).unwrap()?;
    assert!(len >= 60);
    buf.truncate(len);
    Some(buf)
}

/// One request and its answer, without loss.
fn ask(
    initiator: &mut Initiator<Payload, 16>,
    server: &mut Server,
    request: Request<Payload>,
) -> Result<Vec<u8>, Failure> {
    let id = initiator.submit(request).unwrap();
    let frame = transmit(initiator, 0).unwrap();
    let answer = server.answer(&frame).expect("no answer");
    let Event::Completed(completion) = initiator.handle_frame(0, &answer) else {
        panic!("not completed");
    };
    assert_eq!(completion.id, id);
    completion.result.map(|answer| match answer {
        Answer::Config(found) => found.string.to_vec(),
        Answer::Identify(page) => page.sectors().to_be_bytes().to_vec(),
        Answer::Data(data) => data.to_vec(),
        Answer::Done => vec![],
        Answer::Mask(list) => list.flat_map(|entry| entry.mac.0).collect(),
        Answer::Reserve(list) => list.flat_map(|mac| mac.0).collect(),
    })
}

#[test]
fn a_query_for_everybody() {
    let mut buf = [0xa5; 64];
    assert_eq!(emit_query(&mut buf, OWN, AddressPattern::ALL), Ok(60));
    let mut expected = vec![
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 0x0a, 0x88, 0xa2, 0x10, 0, 0xff, 0xff,
        0xff, 1, 0x80, 0, 0, 0,
    ];
    expected.resize(60, 0);
    assert_eq!(buf[..60], expected);
    assert!(emit_query(&mut buf[..59], OWN, AddressPattern::ALL).is_err());
    let mut server = Server::new(1500);
    server.target.state_mut().set_config_string(b"hello").unwrap();
    let answer = server.answer(&buf[..60]).unwrap();
    let found = Found::parse(&answer, OWN).unwrap();
    let expected = Found {
        mac: SERVER,
        address: address(),
        buffer_count: 16,
        firmware: 1,
        sectors_max: 2,
        string: b"hello",
    };
    assert_eq!(found, expected);
    assert_eq!(Found::parse(&answer, Mac([2, 0, 0, 0, 0, 9])), Err(Refusal::OtherHost));
    assert_eq!(Found::parse(&buf[..60], SERVER), Err(Refusal::Request));
}

#[test]
fn requests_byte_by_byte() {
    let ata = |flags, feature, count, opcode, lba: [u8; 6]| {
        let mut bytes = vec![flags, feature, count, opcode];
        bytes.extend(lba);
        bytes.extend([0, 0]);
        (0u8, bytes)
    };
    let data = vec![0x77; 1024];
    let lba = 0x0605_0403_0201;
    for (request, (command, mut argument)) in [
        (Request::ConfigRead, (1, vec![0; 8])),
        (
            Request::Config { command: ConfigCommand::Set, string: b"ab".to_vec() },
            (1, vec![0, 0, 0, 0, 0, 3, 0, 2]),
        ),
        (Request::Identify, ata(0, 0, 1, 0xec, [0; 6])),
        (Request::Read { lba, count: 2 }, ata(0x40, 0, 2, 0x24, [1, 2, 3, 4, 5, 6])),
        (
            Request::Write { lba, data: data.clone(), durable: false },
            ata(0x41, 0, 2, 0x34, [1, 2, 3, 4, 5, 6]),
        ),
        (
            Request::Write { lba, data: data.clone(), durable: true },
            ata(0x41, 0, 2, 0x3d, [1, 2, 3, 4, 5, 6]),
        ),
        (Request::Flush, ata(0x40, 0, 0, 0xea, [0; 6])),
        (Request::Trim { ranges: data[..512].to_vec() }, ata(0x41, 1, 1, 0x06, [0; 6])),
        (Request::MaskRead, (2, vec![0, 0, 0, 0])),
        (Request::MaskEdit { directives: vec![9; 16] }, (2, vec![0, 1, 0, 2])),
        (Request::ReserveRead, (3, vec![0, 0])),
        (Request::ReserveSet { macs: vec![9; 6], force: false }, (3, vec![1, 1])),
        (Request::ReserveSet { macs: vec![], force: true }, (3, vec![2, 0])),
    ] {
        let mut initiator = initiator(1500);
        argument.extend_from_slice(request.payload());
        initiator.submit(request).unwrap();
        let mut expected = vec![
            0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 0x0a, 0x88, 0xa2, 0x10, 0, 0, 7, 3,
            command, 0x81, 2, 3, 4,
        ];
        expected.extend(argument);
        expected.resize(expected.len().max(60), 0);
        assert_eq!(transmit(&mut initiator, 0).unwrap(), expected);
    }
}

#[test]
fn twenty_eight_bits() {
    let mut initiator = initiator(1500);
    initiator.set_lba48(false);
    let data = vec![0x77; 512];
    for (request, flags, opcode) in [
        (Request::Read { lba: 0x0fff_fffe, count: 2 }, 0, 0x20),
        (Request::Write { lba: 0, data, durable: false }, 1, 0x30),
        (Request::Flush, 0, 0xe7),
    ] {
        let id = initiator.submit(request).unwrap();
        let frame = transmit(&mut initiator, 0).unwrap();
        assert_eq!((frame[24], frame[27]), (flags, opcode));
        initiator.cancel(id).unwrap();
    }
    let past = Request::Read { lba: 0x0fff_ffff, count: 2 };
    assert_eq!(initiator.submit(past).unwrap_err().error, SubmitError::Lba { max: 1 << 28 });
}

#[test]
fn requests_that_do_not_fit_are_given_back() {
    let mut initiator = initiator(1500);
    let bytes = |len| vec![0x77; len];
    let write = |len| Request::Write { lba: 0, data: bytes(len), durable: false };
    let set = |len| Request::Config { command: ConfigCommand::Set, string: bytes(len) };
    for (request, error) in [
        (Request::Read { lba: 0, count: 0 }, SubmitError::Sectors { max: 2 }),
        (Request::Read { lba: 0, count: 3 }, SubmitError::Sectors { max: 2 }),
        (Request::Read { lba: u64::MAX, count: 1 }, SubmitError::Lba { max: (1 << 48) - 1 }),
        (write(0), SubmitError::Sectors { max: 2 }),
        (write(511), SubmitError::Sectors { max: 2 }),
        (write(513), SubmitError::Unit { len: 512 }),
        (write(1536), SubmitError::Sectors { max: 2 }),
        (set(1025), SubmitError::TooLong { max: 1024 }),
        (Request::Trim { ranges: bytes(0) }, SubmitError::Sectors { max: 2 }),
        (Request::Trim { ranges: bytes(520) }, SubmitError::Unit { len: 512 }),
        (Request::MaskEdit { directives: bytes(7) }, SubmitError::Unit { len: 8 }),
        (Request::MaskEdit { directives: bytes(186 * 8) }, SubmitError::TooLong { max: 1480 }),
        (
            Request::ReserveSet { macs: bytes(249 * 6), force: true },
            SubmitError::TooLong { max: 1488 },
        ),
    ] {
        let rejected = initiator.submit(request.clone()).unwrap_err();
        assert_eq!((rejected.error, rejected.request), (error, request));
    }
    assert_eq!(initiator.outstanding(), 0);
    for _ in 0..16 {
        initiator.submit(Request::Flush).unwrap();
    }
    assert_eq!(initiator.submit(Request::Flush).unwrap_err().error, SubmitError::Full);
}

#[test]
fn every_request_against_our_target() {
    let (mut initiator, mut server) = (initiator(9000), Server::new(9000));
    let mut ask = |request| ask(&mut initiator, &mut server, request);
    assert_eq!(ask(Request::ConfigRead), Ok(vec![]));
    let set = |command, string: &[u8]| Request::Config { command, string: string.to_vec() };
    assert_eq!(ask(set(ConfigCommand::Set, b"one")), Ok(b"one".to_vec()));
    let refused = Err(Failure::Aoe(AoeError::ConfigStringPresent));
    assert_eq!(ask(set(ConfigCommand::Set, b"two")), refused);
    assert_eq!(ask(set(ConfigCommand::TestPrefix, b"o")), Ok(b"one".to_vec()));
    assert_eq!(ask(Request::Identify), Ok(SECTORS.to_be_bytes().to_vec()));
    let data: Vec<u8> = (0..8192u32).map(|at| (at % 251).try_into().unwrap()).collect();
    assert_eq!(ask(Request::Write { lba: 8, data: data.clone(), durable: true }), Ok(vec![]));
    assert_eq!(ask(Request::Read { lba: 8, count: 16 }), Ok(data));
    assert_eq!(ask(Request::Flush), Ok(vec![]));
    let mut ranges = vec![0; 512];
    assert_eq!(fill_trim_entries(&mut ranges, 0, SECTORS), SECTORS);
    assert_eq!(ask(Request::Trim { ranges }), Ok(vec![]));
    assert_eq!(ask(Request::Read { lba: 8, count: 1 }), Ok(vec![0; 512]));
    let outside = ask(Request::Read { lba: SECTORS, count: 1 });
    assert_eq!(outside, Err(Failure::Ata { status: 0x41, error: 0x10 }));
    let directive = |command| Directive { command, mac: OWN }.to_bytes().to_vec();
    let add = directive(DirectiveCommand::Add);
    assert_eq!(ask(Request::MaskEdit { directives: add }), Ok(OWN.0.to_vec()));
    let bad = directive(DirectiveCommand::Other(9));
    let stopped = Failure::Mask { error: MaskError::BadDirective, processed: 0 };
    assert_eq!(ask(Request::MaskEdit { directives: bad }), Err(stopped));
    assert_eq!(ask(Request::MaskRead), Ok(OWN.0.to_vec()));
    let macs = SERVER.0.to_vec();
    assert_eq!(ask(Request::ReserveSet { macs: macs.clone(), force: false }), Ok(macs.clone()));
    let reserved = Err(Failure::Aoe(AoeError::TargetReserved));
    assert_eq!(ask(Request::Flush), reserved);
    assert_eq!(ask(Request::ReserveSet { macs: vec![], force: false }), reserved);
    assert_eq!(ask(Request::ReserveRead), Ok(macs));
    assert_eq!(ask(Request::ReserveSet { macs: vec![], force: true }), Ok(vec![]));
}

#[test]
fn the_first_answer_opens_the_window_and_the_frames() {
    let (mut initiator, mut server) = (initiator(9000), Server::new(9000));
    assert_eq!((initiator.window(), initiator.sectors_max(), initiator.target_mac()), (1, 2, None));
    ask(&mut initiator, &mut server, Request::ConfigRead).unwrap();
    assert_eq!(initiator.window(), 8, "half of 16 buffers");
    assert_eq!((initiator.sectors_max(), initiator.target_mac()), (16, Some(SERVER)));
    for _ in 0..16 {
        initiator.submit(Request::Flush).unwrap();
    }
    let sent: Vec<_> = core::iter::from_fn(|| transmit(&mut initiator, 0)).collect();
    assert_eq!(sent.len(), 8);
    assert!(sent.iter().all(|frame| frame[..6] == SERVER.0), "unicast from now on");
}

#[test]
fn an_advertisement_is_enough() {
    let (mut initiator, server) = (initiator(1500), Server::new(1500));
    let reply = server.target.advertisement(Mac::BROADCAST, SERVER, server.link);
    let mut buf = [0; 60];
    server.target.emit(&reply, &mut buf).unwrap();
    assert!(matches!(initiator.handle_frame(0, &buf), Event::Advertised(_)));
    assert_eq!(initiator.target_mac(), Some(SERVER));
    let other = server.target.advertisement(Mac::BROADCAST, Mac([2; 6]), server.link);
    server.target.emit(&other, &mut buf).unwrap();
    let event = initiator.handle_frame(0, &buf);
    assert!(matches!(event, Event::Ignored(Refusal::OtherSource)), "a second server");
    assert_eq!(initiator.target_mac(), Some(SERVER));
}

#[test]
fn answers_that_do_not_fit_are_ignored() {
    let (mut initiator, mut server) = (initiator(1500), Server::new(1500));
    ask(&mut initiator, &mut server, Request::ConfigRead).unwrap();
    initiator.submit(Request::Read { lba: 0, count: 1 }).unwrap();
    let frame = transmit(&mut initiator, 0).unwrap();
    let answer = server.answer(&frame).unwrap();
    for (at, bytes, refusal) in [
        (14, &[0x10][..], Refusal::Request),
        (17, &[8], Refusal::OtherAddress),
        (18, &[0xff], Refusal::OtherAddress),
        (23, &[0xee], Refusal::UnknownTag),
        (6, &[2, 9, 9, 9, 9, 9], Refusal::OtherSource),
        (6, &[0xff; 6], Refusal::BadSource),
        (0, &[2, 9, 9, 9, 9, 9], Refusal::OtherHost),
        (19, &[3], Refusal::OtherCommand),
    ] {
        let mut wrong = answer.clone();
        wrong[at..at + bytes.len()].copy_from_slice(bytes);
        match initiator.handle_frame(0, &wrong) {
            Event::Ignored(found) => assert_eq!(found, refusal),
            event => panic!("{event:?}"),
        }
    }
    for len in 0..24 {
        let event = initiator.handle_frame(0, &answer[..len]);
        assert!(matches!(event, Event::Ignored(Refusal::TooShort { .. })));
    }
    let Event::Completed(short) = initiator.handle_frame(0, &answer[..36 + 511]) else {
        panic!("short data completes");
    };
    assert!(matches!(short.result, Err(Failure::Malformed)));
    let event = initiator.handle_frame(0, &answer);
    assert!(matches!(event, Event::Ignored(Refusal::UnknownTag)), "a second answer");
}

#[test]
fn retransmission_doubles_its_wait_and_gives_up() {
    let mut initiator = initiator(1500);
    let id = initiator.submit(Request::Identify).unwrap();
    let mut sent_ms = vec![];
    let mut frames = vec![];
    let mut now_ms = 1000;
    loop {
        while let Some(frame) = transmit(&mut initiator, now_ms) {
            sent_ms.push(now_ms - 1000);
            frames.push(frame);
        }
        let Some(deadline_ms) = initiator.poll_timeout() else { break };
        initiator.handle_timeout(deadline_ms - 1);
        assert!(transmit(&mut initiator, deadline_ms - 1).is_none(), "too early");
        now_ms = deadline_ms;
        initiator.handle_timeout(now_ms);
    }
    assert_eq!(sent_ms, [0, 500, 1500, 3500, 7500, 15_500, 25_500]);
    assert!(frames.iter().all(|frame| *frame == frames[0]), "same tag, same bytes");
    let Completion { id: failed, result, .. } = initiator.poll_completion().unwrap();
    assert_eq!(failed, id);
    assert!(matches!(result, Err(Failure::TimedOut)));
    assert!(initiator.poll_completion().is_none());
    assert_eq!((now_ms, initiator.outstanding()), (31_000, 0));
}

#[test]
fn a_late_answer_counts_while_the_request_waits_to_be_sent_again() {
    let (mut initiator, mut server) = (initiator(1500), Server::new(1500));
    initiator.submit(Request::Identify).unwrap();
    let frame = transmit(&mut initiator, 0).unwrap();
    initiator.handle_timeout(500);
    let answer = server.answer(&frame).unwrap();
    assert!(matches!(initiator.handle_frame(501, &answer), Event::Completed(_)));
    assert!(transmit(&mut initiator, 502).is_none());
}

#[test]
fn a_target_that_moved_is_found_by_broadcast() {
    let (mut initiator, mut server) = (initiator(1500), Server::new(1500));
    ask(&mut initiator, &mut server, Request::ConfigRead).unwrap();
    server.mac = Mac([2, 0, 0, 0, 0, 2]);
    initiator.submit(Request::Identify).unwrap();
    let mut attempts = 0;
    loop {
        let now_ms = initiator.poll_timeout().unwrap_or(0);
        let frame = transmit(&mut initiator, now_ms).unwrap();
        attempts += 1;
        if let Some(answer) = server.answer(&frame) {
            assert!(matches!(initiator.handle_frame(9000, &answer), Event::Completed(_)));
            break;
        }
        let deadline_ms = initiator.poll_timeout().unwrap();
        initiator.handle_timeout(deadline_ms);
    }
    assert_eq!(attempts, 4);
    assert_eq!(initiator.target_mac(), Some(server.mac));
}

/// Xorshift: the same losses in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// A link in virtual time that loses, doubles and delays frames.
struct Link {
    random: Random,
    /// Arrival, sequence number, whether it goes to the server, bytes.
    flying: Vec<(u64, u64, bool, Vec<u8>)>,
    sent: u64,
    loss_percent: u64,
}

impl Link {
    fn send(&mut self, now_ms: u64, to_server: bool, frame: &[u8]) {
        let copies = if self.random.below(100) < 10 { 2 } else { 1 };
        for _ in 0..copies {
            self.sent += 1;
            if self.random.below(100) >= self.loss_percent {
                let arrival_ms = now_ms + 1 + self.random.below(40);
                self.flying.push((arrival_ms, self.sent, to_server, frame.to_vec()));
            }
        }
    }

    fn receive(&mut self, now_ms: u64) -> Option<(bool, Vec<u8>)> {
        self.flying.sort();
        if self.flying.first().is_none_or(|frame| frame.0 > now_ms) {
            return None;
        }
        let (_, _, to_server, frame) = self.flying.remove(0);
        Some((to_server, frame))
    }

    fn next_ms(&self) -> Option<u64> {
        self.flying.iter().map(|frame| frame.0).min()
    }
}

/// Completes all requests over the link, and returns what was read, in the order of the requests.
fn run(
    initiator: &mut Initiator<Payload, 16>,
    server: &mut Server,
    link: &mut Link,
    requests: Vec<Request<Payload>>,
) -> Vec<Payload> {
    let mut done = vec![vec![]; requests.len()];
    let mut waiting = requests.into_iter().enumerate();
    let mut submitted: Vec<(RequestId, usize)> = vec![];
    let mut now_ms = 0;
    loop {
        while initiator.outstanding() < 16
            && let Some((index, request)) = waiting.next()
        {
            submitted.push((initiator.submit(request).unwrap(), index));
        }
        while let Some(frame) = transmit(initiator, now_ms) {
            link.send(now_ms, true, &frame);
        }
        if initiator.outstanding() == 0 {
            return done;
        }
        let next_ms = link.next_ms().into_iter().chain(initiator.poll_timeout()).min();
        now_ms = next_ms.expect("requests are outstanding, but nothing will happen").max(now_ms);
        while let Some((to_server, frame)) = link.receive(now_ms) {
            if to_server {
                if let Some(answer) = server.answer(&frame) {
                    link.send(now_ms, false, &answer);
                }
            } else if let Event::Completed(completion) = initiator.handle_frame(now_ms, &frame) {
                let of = submitted.iter().position(|(id, _)| *id == completion.id).unwrap();
                let (_, index) = submitted.swap_remove(of);
                if let Answer::Data(data) = completion.result.unwrap() {
                    done[index] = data.to_vec();
                }
            }
        }
        initiator.handle_timeout(now_ms);
        assert!(initiator.poll_completion().is_none(), "gave up");
    }
}

#[test]
fn everything_arrives_over_a_bad_link() {
    for (mtu, loss_percent, seed) in [(1500, 0, 1), (1500, 10, 2), (9000, 30, 3), (9000, 5, 4)] {
        let (mut initiator, mut server) = (initiator(mtu), Server::new(mtu));
        let random = Random(0x9e37_79b9_7f4a_7c15 ^ seed);
        let mut link = Link { random, flying: vec![], sent: 0, loss_percent };
        run(&mut initiator, &mut server, &mut link, vec![Request::ConfigRead]);
        let content: Vec<u8> =
            (0..SECTORS * 512).map(|at| (at * seed % 253).try_into().unwrap()).collect();
        let cut: Vec<_> = pieces(0, SECTORS, initiator.sectors_max()).collect();
        let part = |lba: u64, count: u8| {
            let start = usize::try_from(lba).unwrap() * 512;
            content[start..start + usize::from(count) * 512].to_vec()
        };
        let writes = cut.iter().map(|(lba, count)| {
            let data = part(*lba, *count);
            Request::Write { lba: *lba, data, durable: false }
        });
        run(&mut initiator, &mut server, &mut link, writes.collect());
        // Writes that were doubled and are still under way carry what is there already.
        assert!(server.disk.0 == content, "MTU {mtu}, {loss_percent} % lost");
        let reads = cut.iter().map(|(lba, count)| Request::Read { lba: *lba, count: *count });
        let read = run(&mut initiator, &mut server, &mut link, reads.collect());
        assert!(read.concat() == content, "MTU {mtu}, {loss_percent} % lost");
        println!("MTU {mtu}, {loss_percent} % lost: {} frames", link.sent);
    }
}
