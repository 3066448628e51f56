//! A BPF program that gives the connections of one port to the listener of another
//! (`BPF_PROG_TYPE_SK_LOOKUP`), made of a few instructions written out here.

use std::{
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd},
};

use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

use crate::netns::Netns;

// include/uapi/linux/bpf.h
const BPF_MAP_CREATE: i32 = 0;
const BPF_MAP_UPDATE_ELEM: i32 = 2;
const BPF_PROG_LOAD: i32 = 5;
const BPF_LINK_CREATE: i32 = 28;
const MAP_TYPE_SOCKMAP: u32 = 15;
const PROG_TYPE_SK_LOOKUP: u32 = 30;
const ATTACH_SK_LOOKUP: u32 = 36;
/// `bpf_sk_lookup.local_port`, host order
const LOCAL_PORT: i16 = 60;

/// In this namespace, connections to `port` are those of the listener that process `pid` has under
/// `fd`, until the link is dropped.
pub(crate) fn steer(netns: &Netns, pid: u32, fd: RawFd, port: u16) -> io::Result<OwnedFd> {
    let holder = pidfd_open(
        Pid::from_raw(pid.cast_signed()).unwrap(),
        PidfdFlags::empty(),
    )?;
    let listener = pidfd_getfd(holder, fd, PidfdGetfdFlags::empty())?;
    // Type, size of a key and of a value, entries.
    let map = bpf(BPF_MAP_CREATE, &words(&[MAP_TYPE_SOCKMAP, 4, 8, 1]))?;
    let key = 0_u32;
    let value = u64::try_from(listener.as_raw_fd()).unwrap();
    let mut update = words(&[number(&map), 0]);
    update.extend(address(&raw const key));
    update.extend(address(&raw const value));
    bpf_call(BPF_MAP_UPDATE_ELEM, &update)?;

    let program = program(&map, port);
    let license = c"GPL";
    let mut load = words(&[PROG_TYPE_SK_LOOKUP, u32::try_from(program.len()).unwrap()]);
    load.extend(address(program.as_ptr()));
    load.extend(address(license.as_ptr()));
    // Nothing of a log, a version, flags, a name and a device.
    load.resize(68, 0);
    load.extend(words(&[ATTACH_SK_LOOKUP]));
    let program = bpf(BPF_PROG_LOAD, &load)?;
    let namespace = u32::try_from(netns.descriptor()).unwrap();
    let attach = words(&[number(&program), namespace, ATTACH_SK_LOOKUP, 0]);
    bpf(BPF_LINK_CREATE, &attach)
}

/// `struct bpf_insn`, eight bytes in a word.
fn instruction(code: u8, dst: u8, src: u8, offset: i16, immediate: i32) -> u64 {
    let [o0, o1] = offset.to_ne_bytes();
    let [i0, i1, i2, i3] = immediate.to_ne_bytes();
    u64::from_ne_bytes([code, dst | src << 4, o0, o1, i0, i1, i2, i3])
}

fn program(map: &OwnedFd, port: u16) -> Vec<u64> {
    const MOVE: u8 = 0xbf;
    const SET: u8 = 0xb7;
    const ADD: u8 = 0x07;
    const LOAD: u8 = 0x61;
    const STORE: u8 = 0x62;
    const LOAD_MAP: u8 = 0x18;
    const IF_EQUAL: u8 = 0x15;
    const IF_NOT: u8 = 0x55;
    const CALL: u8 = 0x85;
    const EXIT: u8 = 0x95;
    const MAP_LOOKUP_ELEM: i32 = 1;
    const SK_RELEASE: i32 = 86;
    const SK_ASSIGN: i32 = 124;
    let i = instruction;
    vec![
        i(MOVE, 6, 1, 0, 0),
        i(LOAD, 2, 1, LOCAL_PORT, 0),
        i(IF_NOT, 2, 0, 14, port.into()),
        i(STORE, 10, 0, -4, 0),
        i(LOAD_MAP, 1, 1, 0, map.as_raw_fd()),
        0,
        i(MOVE, 2, 10, 0, 0),
        i(ADD, 2, 0, 0, -4),
        i(CALL, 0, 0, 0, MAP_LOOKUP_ELEM),
        i(IF_EQUAL, 0, 0, 7, 0),
        i(MOVE, 7, 0, 0, 0),
        i(MOVE, 1, 6, 0, 0),
        i(MOVE, 2, 0, 0, 0),
        i(SET, 3, 0, 0, 0),
        i(CALL, 0, 0, 0, SK_ASSIGN),
        i(MOVE, 1, 7, 0, 0),
        i(CALL, 0, 0, 0, SK_RELEASE),
        // SK_PASS
        i(SET, 0, 0, 0, 1),
        i(EXIT, 0, 0, 0, 0),
    ]
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

fn address<T>(pointer: *const T) -> [u8; 8] {
    u64::try_from(pointer.addr()).unwrap().to_ne_bytes()
}

fn number(fd: &OwnedFd) -> u32 {
    u32::try_from(fd.as_raw_fd()).unwrap()
}

fn bpf(command: i32, attributes: &[u8]) -> io::Result<OwnedFd> {
    let fd = bpf_call(command, attributes)?;
    // SAFETY: a descriptor that the kernel has just made for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn bpf_call(command: i32, attributes: &[u8]) -> io::Result<RawFd> {
    // SAFETY: the kernel reads as many bytes as are there; what they point to outlives the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            attributes.as_ptr(),
            attributes.len(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(RawFd::try_from(result).unwrap())
}
