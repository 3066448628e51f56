//! A host that is a script: every segment it sends is the test's, and it sends no other.
//!
//! Its addresses are routed to the loopback device, so that the kernel's packets for them are
//! thrown away there, in sight of a packet socket. What the host says comes from a raw socket,
//! with whatever addresses it likes. There is no second TCP to get in the way: a peer can vanish,
//! flood, cross a FIN with a FIN, or answer with a reset in any state.

use std::{
    cell::RefCell,
    collections::VecDeque,
    io,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    num::NonZeroU32,
    os::fd::OwnedFd,
    time::Duration,
};

use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, ipproto,
};

use crate::{netns::Netns, wait};

pub(crate) const FIN: u8 = 0x01;
pub(crate) const SYN: u8 = 0x02;
pub(crate) const RST: u8 = 0x04;
pub(crate) const ACK: u8 = 0x10;

const PATIENCE: Duration = Duration::from_secs(10);
/// TEST-NET-1
const NET: [u8; 3] = [192, 0, 2];

pub(crate) struct Wire {
    ear: OwnedFd,
    mouth: OwnedFd,
    /// Heard, but not yet asked for
    heard: RefCell<VecDeque<Segment>>,
}

/// Without IP options.
#[derive(Clone, Debug)]
pub(crate) struct Segment {
    pub(crate) from: SocketAddrV4,
    pub(crate) to: SocketAddrV4,
    pub(crate) seq: u32,
    pub(crate) ack: u32,
    pub(crate) flags: u8,
    pub(crate) options: Vec<u8>,
    pub(crate) data: Vec<u8>,
}

impl Wire {
    /// Nobody else may send from these addresses: the connections of the namespace itself go
    /// another way.
    pub(crate) fn stretch(netns: &Netns) -> Self {
        netns.ip(&format!(
            "route add {}/24 dev lo src {}\n",
            Self::host(0),
            netns.v4
        ));
        let (ear, mouth) = netns
            .inside(|| -> io::Result<_> {
                let ip = NonZeroU32::new(u32::from(0x0800_u16.to_be())).map(Protocol::from_raw);
                let ear = rustix::net::socket_with(
                    AddressFamily::PACKET,
                    SocketType::DGRAM,
                    SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
                    ip,
                )?;
                let mouth = rustix::net::socket_with(
                    AddressFamily::INET,
                    SocketType::RAW,
                    SocketFlags::CLOEXEC,
                    Some(ipproto::RAW),
                )?;
                Ok((ear, mouth))
            })
            .unwrap();
        Self {
            ear,
            mouth,
            heard: RefCell::default(),
        }
    }

    /// One of the script's 255 addresses.
    pub(crate) fn host(number: u8) -> Ipv4Addr {
        let [a, b, c] = NET;
        Ipv4Addr::new(a, b, c, number)
    }

    /// What has arrived goes into `heard`, unless it is between the namespace's own addresses.
    fn listen(&self) {
        let mut packet = [0; 2048];
        loop {
            match rustix::net::recv(&self.ear, &mut packet[..], RecvFlags::empty()) {
                Ok((len, _)) => {
                    let segment = Segment::parse(&packet[..len]);
                    self.heard
                        .borrow_mut()
                        .extend(segment.filter(|segment| segment.to.ip().octets()[..3] == NET));
                }
                Err(rustix::io::Errno::AGAIN) => return,
                Err(error) => panic!("packet socket: {error}"),
            }
        }
    }

    /// The next segment that fits. Those of the same connection that came before it are
    /// forgotten.
    pub(crate) fn hear(&self, what: &str, fits: impl Fn(&Segment) -> bool) -> Segment {
        let found = wait::poll(PATIENCE, || {
            self.listen();
            let mut heard = self.heard.borrow_mut();
            let at = heard.iter().position(&fits)?;
            let segment = heard.remove(at).unwrap();
            let mut index = 0;
            heard.retain(|other| {
                index += 1;
                index > at || (other.from, other.to) != (segment.from, segment.to)
            });
            Some(segment)
        });
        found.unwrap_or_else(|| {
            panic!("the kernel sent no {what}, but {:#?}", self.heard.borrow());
        })
    }

    /// How many of what was heard and not asked for fit.
    pub(crate) fn count(&self, fits: impl Fn(&Segment) -> bool) -> usize {
        self.listen();
        self.heard.borrow().iter().filter(|it| fits(it)).count()
    }

    pub(crate) fn say(&self, segment: &Segment) {
        self.send(*segment.to.ip(), &segment.packet());
    }

    /// An ICMP error about a segment of the kernel's, as a router sends it.
    pub(crate) fn complain(&self, kind: u8, code: u8, about: &Segment) {
        const ICMP: u8 = 1;
        let mut message = vec![kind, code, 0, 0, 0, 0, 0, 0];
        // The header, and the ports and the sequence number behind it.
        message.extend(&about.packet()[..28]);
        let sum = checksum(&[&message]);
        message[2..4].copy_from_slice(&sum);
        let packet = ip_packet(Self::host(254), *about.from.ip(), ICMP, &message);
        self.send(*about.from.ip(), &packet);
    }

    fn send(&self, to: Ipv4Addr, packet: &[u8]) {
        let to = SocketAddrV4::new(to, 0);
        rustix::net::sendto(&self.mouth, packet, SendFlags::empty(), &to).unwrap();
    }
}

impl Segment {
    fn parse(packet: &[u8]) -> Option<Self> {
        const TCP: u8 = 6;
        let head = usize::from(packet.first()? & 15) * 4;
        if *packet.get(9)? != TCP {
            return None;
        }
        let four = |at: usize| <[u8; 4]>::try_from(packet.get(at..at + 4)?).ok();
        let tcp = packet.get(head..)?;
        let word = |at: usize| Some(u32::from_be_bytes(tcp.get(at..at + 4)?.try_into().ok()?));
        let port = |at: usize| Some(u16::from_be_bytes(tcp.get(at..at + 2)?.try_into().ok()?));
        let data = usize::from(tcp.get(12)? >> 4) * 4;
        Some(Self {
            from: SocketAddrV4::new(four(12)?.into(), port(0)?),
            to: SocketAddrV4::new(four(16)?.into(), port(2)?),
            seq: word(4)?,
            ack: word(8)?,
            flags: *tcp.get(13)?,
            options: tcp.get(20..data)?.to_vec(),
            data: tcp.get(data..)?.to_vec(),
        })
    }

    fn packet(&self) -> Vec<u8> {
        const TCP: u8 = 6;
        const WINDOW: u16 = 60_000;
        let head = 20 + self.options.len();
        let mut tcp = Vec::with_capacity(head + self.data.len());
        tcp.extend(self.from.port().to_be_bytes());
        tcp.extend(self.to.port().to_be_bytes());
        tcp.extend(self.seq.to_be_bytes());
        tcp.extend(self.ack.to_be_bytes());
        tcp.push(u8::try_from(head / 4).unwrap() << 4);
        tcp.push(self.flags);
        tcp.extend(WINDOW.to_be_bytes());
        tcp.extend([0; 4]);
        tcp.extend(&self.options);
        tcp.extend(&self.data);
        let len = u16::try_from(tcp.len()).unwrap().to_be_bytes();
        let ends = [self.from.ip().octets(), self.to.ip().octets()];
        let sum = checksum(&[&ends[0], &ends[1], &[0, TCP], &len, &tcp]);
        tcp[16..18].copy_from_slice(&sum);
        ip_packet(*self.from.ip(), *self.to.ip(), TCP, &tcp)
    }

    fn has(&self, flags: u8) -> bool {
        self.flags & flags == flags
    }

    /// The sequence number after it.
    fn end(&self) -> u32 {
        let phantoms = u32::from(self.has(SYN)) + u32::from(self.has(FIN));
        let len = u32::try_from(self.data.len()).unwrap();
        self.seq.wrapping_add(phantoms + len)
    }
}

fn ip_packet(from: Ipv4Addr, to: Ipv4Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let len = u16::try_from(20 + payload.len()).unwrap().to_be_bytes();
    // The kernel fills in the checksum.
    let mut packet = vec![0x45, 0, len[0], len[1], 0, 0, 0, 0, 64, protocol, 0, 0];
    packet.extend(from.octets());
    packet.extend(to.octets());
    packet.extend(payload);
    packet
}

/// RFC 1071, over parts of which only the last may have an odd length.
fn checksum(parts: &[&[u8]]) -> [u8; 2] {
    let mut sum: u32 = 0;
    for part in parts {
        for pair in part.chunks(2) {
            let low = pair.get(1).copied().unwrap_or(0);
            sum += u32::from(u16::from_be_bytes([pair[0], low]));
        }
    }
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    let [_, _, high, low] = sum.to_be_bytes();
    [!high, !low]
}

/// The script's end of one connection. It does nothing by itself, but keeps the numbers.
pub(crate) struct Puppet<'wire> {
    wire: &'wire Wire,
    here: SocketAddrV4,
    there: SocketAddrV4,
    /// The sequence number it says next
    pub(crate) next: u32,
    /// The sequence number it wants to hear next
    wants: u32,
    /// The sequence number of its SYN
    pub(crate) first_said: u32,
    /// And that of the kernel's
    pub(crate) first_heard: u32,
}

impl<'wire> Puppet<'wire> {
    /// Large enough that a sign would show.
    const ISN: u32 = 0xf000_0000;
    /// Its MSS, as an option.
    const MSS: [u8; 4] = [2, 4, 0x05, 0xb4];
    /// With a window scale of 3 behind it.
    const MSS_AND_SCALE: [u8; 8] = [2, 4, 0x05, 0xb4, 1, 3, 3, 3];

    /// Hears the SYN that the kernel has sent it, and says nothing yet.
    pub(crate) fn called(wire: &'wire Wire, here: SocketAddrV4) -> Self {
        let syn = wire.hear("SYN", |segment| {
            segment.to == here && segment.has(SYN) && !segment.has(ACK)
        });
        Self {
            wire,
            here,
            there: syn.from,
            next: Self::ISN,
            wants: syn.end(),
            first_said: Self::ISN,
            first_heard: syn.seq,
        }
    }

    /// Has said nothing yet.
    pub(crate) fn calling(wire: &'wire Wire, here: SocketAddrV4, there: SocketAddr) -> Self {
        let SocketAddr::V4(there) = there else {
            panic!("the wire speaks IPv4");
        };
        Self {
            wire,
            here,
            there,
            next: Self::ISN,
            wants: 0,
            first_said: Self::ISN,
            first_heard: 0,
        }
    }

    /// The answer to the kernel's SYN, and the kernel's ACK of it.
    pub(crate) fn accept(&mut self) {
        self.say_with(SYN | ACK, &Self::MSS_AND_SCALE, &[]);
        self.hear(ACK);
    }

    /// The kernel's answer to its SYN. The last ACK is left to say.
    pub(crate) fn call(&mut self) -> Segment {
        self.call_with(&[])
    }

    /// The same, with data beside the SYN.
    pub(crate) fn call_with(&mut self, data: &[u8]) -> Segment {
        self.say_with(SYN, &Self::MSS, data);
        let there = (self.there, self.here);
        let answer = self.wire.hear("SYN-ACK", |segment| {
            (segment.from, segment.to) == there && segment.has(SYN | ACK)
        });
        self.wants = answer.end();
        self.first_heard = answer.seq;
        answer
    }

    /// The kernel's SYN-ACK to what it said first, or once more.
    pub(crate) fn hear_again(&mut self, flags: u8) -> Segment {
        let there = (self.there, self.here);
        let wants = self.wants;
        self.wire.hear("retransmission", |segment| {
            (segment.from, segment.to) == there
                && segment.has(flags)
                && segment.end() == wants
                && segment.seq != wants
        })
    }

    pub(crate) fn say(&mut self, flags: u8) {
        self.say_with(flags, &[], &[]);
    }

    pub(crate) fn say_with(&mut self, flags: u8, options: &[u8], data: &[u8]) {
        let segment = Segment {
            from: self.here,
            to: self.there,
            seq: self.next,
            ack: if flags & ACK == 0 { 0 } else { self.wants },
            flags,
            options: options.to_vec(),
            data: data.to_vec(),
        };
        self.next = segment.end();
        self.wire.say(&segment);
    }

    /// The next new segment from the kernel that has these flags.
    pub(crate) fn hear(&mut self, flags: u8) -> Segment {
        let there = (self.there, self.here);
        let wants = self.wants;
        let segment = self
            .wire
            .hear(&format!("segment with flags {flags:#x}"), |segment| {
                (segment.from, segment.to) == there && segment.has(flags) && segment.seq == wants
            });
        self.wants = segment.end();
        segment
    }

    /// Hears data from the kernel, and leaves it unanswered.
    pub(crate) fn hear_data(&mut self) -> Segment {
        let there = (self.there, self.here);
        let wants = self.wants;
        let segment = self.wire.hear("data", |segment| {
            (segment.from, segment.to) == there && !segment.data.is_empty() && segment.seq == wants
        });
        self.wants = segment.end();
        segment
    }

    /// Is silent about what it has just heard.
    pub(crate) fn unhear(&mut self, segment: &Segment) {
        self.wants = segment.seq;
    }

    /// The sequence number it wants to hear next.
    pub(crate) fn wanted(&self) -> u32 {
        self.wants
    }

    /// Wants to hear another one, and acknowledges up to there; the one before.
    pub(crate) fn want(&mut self, next: u32) -> u32 {
        std::mem::replace(&mut self.wants, next)
    }
}
