//! What `ss` asks the kernel.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    num::NonZeroU32,
};

use rustix::net::{AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType};

// linux/sock_diag.h
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;

// linux/netlink.h
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_DUMP: u16 = 0x300;

/// Whether the sockets of the namespace that the calling thread is in can be listed: there is one
/// at least.
pub fn is_there() -> io::Result<bool> {
    let nowhere = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0);
    let answer = ask_sock_diag(SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, nowhere, nowhere)?;
    let kind = u16::from_ne_bytes(answer[4..6].try_into().unwrap());
    Ok(kind == SOCK_DIAG_BY_FAMILY)
}

/// In the namespace of the calling thread.
pub fn destroy(local: SocketAddr, remote: SocketAddr) -> io::Result<()> {
    let (SocketAddr::V4(local), SocketAddr::V4(remote)) = (local, remote) else {
        panic!("for IPv4 only");
    };
    let answer = ask_sock_diag(SOCK_DESTROY, NLM_F_ACK, local, remote)?;
    // struct nlmsgerr
    match i32::from_ne_bytes(answer[16..20].try_into().unwrap()) {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(-error)),
    }
}

/// The beginning of the answer.
fn ask_sock_diag(
    what: u16,
    flags: u16,
    local: SocketAddrV4,
    remote: SocketAddrV4,
) -> io::Result<Vec<u8>> {
    const NETLINK_SOCK_DIAG: u32 = 4;
    const TCP: u8 = 6;

    // struct inet_diag_req_v2
    let inet = u8::try_from(libc::AF_INET).unwrap();
    let mut request = vec![inet, TCP, 0, 0];
    // In any state.
    request.extend(u32::MAX.to_ne_bytes());
    request.extend(local.port().to_be_bytes());
    request.extend(remote.port().to_be_bytes());
    for end in [local, remote] {
        request.extend(end.ip().octets());
        request.extend([0; 12]);
    }
    request.extend([0; 4]);
    // With any cookie.
    request.extend([0xff; 8]);

    // struct nlmsghdr
    let len = u32::try_from(16 + request.len()).unwrap();
    let mut message = len.to_ne_bytes().to_vec();
    message.extend(what.to_ne_bytes());
    message.extend((NLM_F_REQUEST | flags).to_ne_bytes());
    message.extend([0; 8]);
    message.extend(request);

    let socket = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        NonZeroU32::new(NETLINK_SOCK_DIAG).map(Protocol::from_raw),
    )?;
    rustix::net::send(&socket, &message, SendFlags::empty())?;
    let mut answer = vec![0; 8192];
    let (len, _) = rustix::net::recv(&socket, &mut answer[..], RecvFlags::empty())?;
    answer.truncate(len);
    Ok(answer)
}
