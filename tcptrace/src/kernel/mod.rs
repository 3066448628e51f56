//! What the running kernel is and allows. Reads files, asks no program.

pub mod btf;
pub mod capability;
pub mod field;
pub mod files;
pub mod knobs;
pub mod layout;
pub mod memory;
pub mod netns;
pub mod netstat;
pub mod priority;
pub mod tracefs;

use std::{collections::HashMap, fs, os::unix::fs::MetadataExt as _, path::Path};

use tcptrace_common::layout::Layout;

pub use capability::hint as capability_hint;

use crate::error::Error;

/// Where the kernel describes its types.
pub const BTF_PATH: &str = "/sys/kernel/btf/vmlinux";

/// Kernel functions that programs are attached to by BTF.
pub const ATTACHED_FUNCTIONS: &[&str] = &[
    "__inet_accept",
    "security_sock_graft",
    "inet_twsk_kill",
    "__inet_twsk_schedule",
];

/// Kinds of hooks, to forbid all others in tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HookKind {
    /// BPF trampolines
    Fentry,
    /// Breakpoints
    Kprobe,
    /// Breakpoints on the return
    Kretprobe,
    /// Tracepoints of system calls
    Tracepoint,
}

/// The running kernel.
#[derive(Debug)]
pub struct Kernel {
    /// `uname -r`
    pub release: String,
    /// The kernel's BTF, reduced to what programs are attached by
    pub btf: Vec<u8>,
    /// Where its fields are
    pub layout: Layout,
    /// Facts that cannot be known for want of a field
    pub lacking: Vec<layout::Lacking>,
    /// Whether `tcp:tcp_send_reset` gives its reason
    pub tells_reset_reason: bool,
    /// Whether `tcp:tcp_retransmit_skb` says if the segment could not be sent
    pub tells_retransmit_err: bool,
    /// How programs can keep their task from being preempted (6.11 and later)
    pub preemption: Option<Preemption>,
    /// `bpf_rdonly_cast`, where it is likely to take any address (6.17 and later): it says so nowhere
    pub rdonly_cast: Option<u32>,
    /// Whether a task can be preempted in a tracepoint (7.0 and later): it says so nowhere else
    pub preempts_tracepoints: bool,
    /// Names of these reasons, `enum sk_rst_reason`
    pub reset_reasons: HashMap<u32, String>,
    /// Our own network namespace
    pub netns: Option<u64>,
}

/// Kernel functions, by their numbers in the kernel's BTF.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preemption {
    /// `bpf_preempt_disable`
    pub disable: u32,
    /// `bpf_preempt_enable`
    pub enable: u32,
}

impl Preemption {
    fn find(btf: &btf::Btf<'_>) -> Option<Self> {
        Some(Self {
            disable: btf.function("bpf_preempt_disable").ok()??,
            enable: btf.function("bpf_preempt_enable").ok()??,
        })
    }
}

impl Kernel {
    /// Looks at the running kernel.
    pub fn look(btf_path: &Path) -> Result<Self, Error> {
        let shown = btf_path.display();
        let btf = fs::read(btf_path).map_err(|why| {
            Error::CannotTrace(format!(
                "this kernel does not describe its types: {shown}: {why}; tcptrace needs a \
                 kernel built with CONFIG_DEBUG_INFO_BTF=y"
            ))
        })?;
        let parsed = btf::Btf::parse(&btf)
            .map_err(|why| Error::CannotTrace(format!("{shown} cannot be read: {why}")))?;
        let (layout, lacking) = layout::resolve(&parsed).map_err(|why| {
            Error::CannotTrace(format!(
                "this kernel lacks a field that tcptrace must read: {why}; please report it with \
                 the output of `uname -r`"
            ))
        })?;
        let release = release();
        Ok(Self {
            preemption: Preemption::find(&parsed),
            rdonly_cast: if is_at_least(&release, 6, 17) {
                parsed.function("bpf_rdonly_cast").unwrap_or(None)
            } else {
                None
            },
            preempts_tracepoints: is_at_least(&release, 7, 0),
            release,
            layout,
            lacking,
            tells_reset_reason: parsed.tracepoint_args("tcp_send_reset").unwrap_or(0) >= 3,
            tells_retransmit_err: parsed.tracepoint_args("tcp_retransmit_skb").unwrap_or(0) >= 3,
            reset_reasons: parsed.enumerators("sk_rst_reason").unwrap_or_default(),
            netns: netns::own(),
            btf: parsed
                .reduced(ATTACHED_FUNCTIONS)
                .map_err(|why| Error::CannotTrace(format!("{shown} cannot be read: {why}")))?,
        })
    }
}

/// Refuses a kernel that is locked down in confidentiality mode: it forbids reading kernel memory,
/// and from 6.12 on crashes when a tracefs mounted there is unmounted again, so this is asked
/// before anything is tried. What is forbidden is a helper (`LOCKDOWN_BPF_READ_KERNEL`,
/// `bpf_tracing_func_proto`), so [`Kernel::rdonly_cast`] would pass it by; whoever chose the mode
/// chose that memory is not read.
pub fn refuse_lockdown() -> Result<(), Error> {
    let mode = fs::read_to_string("/sys/kernel/security/lockdown").unwrap_or_default();
    let ordered = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    if is_confidential(&mode, &ordered) {
        return Err(Error::CannotTrace(
            "this kernel is locked down (confidentiality), which forbids reading its memory; boot \
             it with lockdown=integrity or without lockdown"
                .to_owned(),
        ));
    }
    Ok(())
}

/// Whether the kernel is locked down in confidentiality mode: `mode` as in securityfs, where the
/// present mode stands in brackets; without it, what the kernel's command line orders.
pub fn is_confidential(mode: &str, command_line: &str) -> bool {
    if mode.is_empty() {
        command_line
            .split_whitespace()
            .any(|word| word == "lockdown=confidentiality")
    } else {
        mode.contains("[confidentiality]")
    }
}

/// Whether `/proc` shows the host's process ids: in a container it shows only those inside.
pub fn shows_all_processes() -> bool {
    // PROC_PID_INIT_INO, include/linux/proc_ns.h
    const INITIAL: u64 = 0xefff_fffc;
    fs::metadata("/proc/self/ns/pid").is_ok_and(|namespace| namespace.ino() == INITIAL)
}

/// `uname -n`
pub fn host_name() -> String {
    rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned()
}

/// `uname -r`
pub fn release() -> String {
    rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned()
}

/// Whether a kernel's release is of this version or a later one.
fn is_at_least(release: &str, major: u32, minor: u32) -> bool {
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map(|digits| digits.parse().unwrap_or(0));
    let of: (u32, u32) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    of >= (major, minor)
}

/// `CLOCK_MONOTONIC`, ns
pub fn mono_ns() -> u64 {
    nanoseconds(rustix::time::ClockId::Monotonic)
}

/// How far the wall clock is ahead of `CLOCK_MONOTONIC`, ns.
pub fn wall_minus_mono_ns() -> i64 {
    let before = mono_ns();
    let wall = nanoseconds(rustix::time::ClockId::Realtime);
    let mono = before.midpoint(mono_ns());
    i64::try_from(i128::from(wall) - i128::from(mono)).unwrap_or(0)
}

fn nanoseconds(clock: rustix::time::ClockId) -> u64 {
    let now = rustix::time::clock_gettime(clock);
    let (seconds, nanos) = (u64::try_from(now.tv_sec), u64::try_from(now.tv_nsec));
    seconds.unwrap_or(0) * 1_000_000_000 + nanos.unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_begins_with_its_version() {
        assert!(is_at_least("7.3.4+deb14-cloud-amd64", 7, 0));
        assert!(is_at_least("10.0.0", 7, 0));
        assert!(!is_at_least("6.18.44", 7, 0));
        assert!(is_at_least("6.18.44", 6, 17));
        assert!(is_at_least("6.17-rc1", 6, 17));
        assert!(!is_at_least("6.9.17", 6, 17));
        assert!(!is_at_least("", 7, 0));
    }

    #[test]
    fn lockdown_is_what_the_kernel_says_before_what_it_was_told() {
        let told = "quiet lockdown=confidentiality";
        assert!(is_confidential("none integrity [confidentiality]\n", ""));
        assert!(!is_confidential("none [integrity] confidentiality\n", told));
        assert!(is_confidential("", told));
        assert!(!is_confidential("", "quiet lockdown=integrity"));
    }
}
