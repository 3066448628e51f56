//! Which program serves which fact on this kernel: decided by what loads and attaches, never by
//! version.

use std::{collections::BTreeMap, thread};

use aya::{
    Btf, Ebpf,
    programs::{
        BtfTracePoint, FEntry, Iter, KProbe, Program, ProgramError, RawTracePoint, TracePoint,
        tp_btf::BtfTracePointLink,
    },
};
use tcptrace_common::{
    config::{EMIT_CLOSE, EMIT_RESET, EMIT_TRANSITION, TIME_WAIT_AT_ONCE, TIME_WAIT_BY_TIMER},
    layout::{ABSENT, Layout},
};

use crate::kernel::{HookKind, memory, tracefs};

/// How the accepting process is learnt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mechanism {
    /// fentry on a function inside accept, after the wait
    Fentry(&'static str),
    /// kprobe on the same
    Kprobe(&'static str),
    /// kretprobe on `inet_csk_accept`
    Kretprobe,
    /// Tracepoints `syscalls:sys_exit_accept{,4}`
    SyscallExit,
    /// Not at all
    None,
}

impl Mechanism {
    /// What it takes of the kernel.
    pub const fn kind(self) -> Option<HookKind> {
        match self {
            Self::Fentry(_) => Some(HookKind::Fentry),
            Self::Kprobe(_) => Some(HookKind::Kprobe),
            Self::Kretprobe => Some(HookKind::Kretprobe),
            Self::SyscallExit => Some(HookKind::Tracepoint),
            Self::None => None,
        }
    }

    /// Whether a thread that was blocked in `accept()` before attach is seen.
    pub const fn sees_blocked(self) -> bool {
        !matches!(self, Self::Kretprobe | Self::None)
    }

    /// Whether `accept` through `io_uring` is seen.
    pub const fn sees_io_uring(self) -> bool {
        !matches!(self, Self::SyscallExit | Self::None)
    }
}

impl std::fmt::Display for Mechanism {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Fentry(function) => write!(f, "fentry/{function}"),
            Self::Kprobe(function) => write!(f, "kprobe/{function}"),
            Self::Kretprobe => f.write_str("kretprobe/inet_csk_accept"),
            Self::SyscallExit => f.write_str("tracepoint/syscalls/sys_exit_accept{,4}"),
            Self::None => f.write_str("none"),
        }
    }
}

/// How the ends of time-wait sockets are learnt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeWait {
    /// fentry on `inet_twsk_kill` and `__inet_twsk_schedule`
    Fentry,
    /// kprobes on the same
    Kprobe,
    /// The tracepoint `timer:timer_cancel`, and looking
    Timer,
    /// Not at all
    None,
}

impl TimeWait {
    /// What it takes of the kernel, if more than tracing itself does.
    const fn kind(self) -> Option<HookKind> {
        match self {
            Self::Fentry => Some(HookKind::Fentry),
            Self::Kprobe => Some(HookKind::Kprobe),
            Self::Timer | Self::None => None,
        }
    }

    /// The value the kernel side knows it by.
    pub(super) const fn mode(self) -> u64 {
        match self {
            Self::Fentry | Self::Kprobe => TIME_WAIT_AT_ONCE,
            Self::Timer => TIME_WAIT_BY_TIMER,
            Self::None => 0,
        }
    }
}

impl std::fmt::Display for TimeWait {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Fentry => "fentry/inet_twsk_kill",
            Self::Kprobe => "kprobe/inet_twsk_kill",
            Self::Timer => "tp_btf/timer_cancel",
            Self::None => "none",
        })
    }
}

/// In place of a mechanism: the records asked for do without the fact.
const UNWANTED: &str = "not asked for";

/// What is attached, fact by fact.
#[derive(Debug)]
pub struct Hooks {
    /// How the accepting process is learnt
    pub accept: Mechanism,
    /// Why each better accept hook is not used
    pub refused: Vec<(Mechanism, String)>,
    /// Whether the kernel gives socket cookies to tracing programs
    pub cookie: bool,
    /// How the ends of time-wait sockets are learnt
    pub time_wait: TimeWait,
    /// `EMIT_*` of the records asked for
    pub wanted: u8,
    /// Whether RSTs are seen
    pub reset: bool,
    /// Facts that cannot be known here, and why
    pub lacking: Vec<(&'static str, String)>,
}

impl Hooks {
    /// Whether a fact cannot be known here.
    pub fn lacks(&self, fact: &str) -> bool {
        self.lacking.iter().any(|(lacking, _why)| *lacking == fact)
    }

    /// Fact to mechanism, as in the `start` record and in `check`.
    pub fn facts(&self) -> BTreeMap<&'static str, String> {
        BTreeMap::from([
            ("transition", "tp_btf/inet_sock_set_state".to_owned()),
            (
                "recursion",
                "tp_btf/inet_sock_set_state (second program)".to_owned(),
            ),
            (
                "connect",
                "tp_btf/inet_sock_set_state (sk_lock.owned)".to_owned(),
            ),
            (
                "listen",
                "tp_btf/inet_sock_set_state (sk_lock.owned)".to_owned(),
            ),
            (
                "listener",
                "tcp_sock.tsorted_sent_queue of the clone".to_owned(),
            ),
            ("accept", self.accept.to_string()),
            ("destroy", "tp_btf/tcp_destroy_sock".to_owned()),
            (
                "time_wait",
                if self.wanted & (EMIT_TRANSITION | EMIT_CLOSE) == 0 {
                    UNWANTED.to_owned()
                } else {
                    self.time_wait.to_string()
                },
            ),
            (
                "reset",
                match (self.reset, self.wanted & (EMIT_CLOSE | EMIT_RESET)) {
                    (true, _) => "tp_btf/tcp_send_reset, tcp_receive_reset",
                    (false, 0) => UNWANTED,
                    (false, _) => "none",
                }
                .to_owned(),
            ),
            (
                "counters",
                if self.lacks("counters") {
                    "none"
                } else {
                    "tcp_sock at CLOSE"
                }
                .to_owned(),
            ),
            (
                "backlog",
                if self.lacks("listener") {
                    "none"
                } else {
                    "sock of the listener, tp_btf/tcp_retransmit_synack"
                }
                .to_owned(),
            ),
            (
                "process",
                if self.lacks("process") {
                    "none"
                } else {
                    "task_struct when it connects, listens or accepts"
                }
                .to_owned(),
            ),
            ("snapshot", "iter/task_file, iter/tcp".to_owned()),
            (
                "conn",
                if self.cookie {
                    "bpf_get_socket_cookie"
                } else {
                    "skc_cookie or own id"
                }
                .to_owned(),
            ),
        ])
    }
}

fn program<'a, P>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut P, ProgramError>
where
    &'a mut P: TryFrom<&'a mut Program, Error = ProgramError>,
{
    ebpf.program_mut(name)
        .ok_or(ProgramError::NotLoaded)?
        .try_into()
}

/// Loads the programs that nothing can replace.
pub(super) fn load_core(
    ebpf: &mut Ebpf,
    btf: &Btf,
    fallbacks: &[&str],
) -> Result<(), ProgramError> {
    load_state_programs(ebpf, btf, fallbacks)?;
    program::<BtfTracePoint>(ebpf, "destroy")?.load("tcp_destroy_sock", btf)?;
    program::<Iter>(ebpf, "snapshot_files")?.load("task_file", btf)?;
    program::<Iter>(ebpf, "snapshot_tcp")?.load("tcp", btf)?;
    load_own(ebpf, "flush")
}

/// Loads the programs of all transitions, each on a thread of its own where there is memory for it: the
/// verifier takes longer over them than over all others together, and does not wait for one to begin with
/// the next.
fn load_state_programs(ebpf: &mut Ebpf, btf: &Btf, fallbacks: &[&str]) -> Result<(), ProgramError> {
    let load = |program: &mut Program| {
        let program: &mut BtfTracePoint = program.try_into()?;
        program.load("inet_sock_set_state", btf)
    };
    if memory::is_ample() {
        thread::scope(|scope| {
            let loads: Vec<_> = state_programs(ebpf, fallbacks)
                .map(|program| thread::Builder::new().spawn_scoped(scope, move || load(program)))
                .collect();
            // Whose thread could not be started is loaded below.
            loads.into_iter().flatten().try_for_each(|load| {
                load.join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })
        })?;
    }
    state_programs(ebpf, fallbacks)
        .filter(|program| program.fd().is_err())
        .try_for_each(load)
}

fn state_programs<'ebpf>(
    ebpf: &'ebpf mut Ebpf,
    fallbacks: &[&str],
) -> impl Iterator<Item = &'ebpf mut Program> {
    ebpf.programs_mut()
        .filter(|(name, _)| *name == "set_state" || fallbacks.contains(name))
        .map(|(_, program)| program)
}

/// The programs that record what the first one is skipped for, in their order: where a task can be
/// preempted in a tracepoint, one is not enough.
pub(super) const fn fallbacks(preempted: bool) -> &'static [&'static str] {
    let all = &[
        "set_state_fallback",
        "set_state_fallback_2",
        "set_state_fallback_3",
    ];
    if preempted { all } else { all.split_at(1).0 }
}

/// Attaches a `tp_btf` program that is loaded.
pub(super) fn attach_tracepoint(
    ebpf: &mut Ebpf,
    name: &str,
) -> Result<BtfTracePointLink, ProgramError> {
    let program = program::<BtfTracePoint>(ebpf, name)?;
    let link = program.attach()?;
    program.take_link(link)
}

/// Attaches the best accept hook. It comes before the state hooks: a connection whose birth is
/// seen must not be accepted unseen.
pub(super) fn attach_accept_hook(
    ebpf: &mut Ebpf,
    btf: &Btf,
    layout: &Layout,
    allowed: &[HookKind],
) -> Hooks {
    let mut refused = Vec::new();
    let mut accept = Mechanism::None;
    for candidate in [
        Mechanism::Fentry("__inet_accept"),
        Mechanism::Fentry("security_sock_graft"),
        Mechanism::Kprobe("__inet_accept"),
        Mechanism::Kprobe("security_sock_graft"),
        Mechanism::Kretprobe,
        Mechanism::SyscallExit,
    ] {
        let allowed = |kind| allowed.is_empty() || allowed.contains(&kind);
        if !candidate.kind().is_some_and(allowed) {
            continue;
        }
        match attach_accept(ebpf, btf, layout, candidate) {
            Ok(()) => {
                accept = candidate;
                break;
            }
            Err(why) => refused.push((candidate, reason(candidate, &why))),
        }
    }
    Hooks {
        accept,
        refused,
        cookie: true,
        time_wait: TimeWait::None,
        wanted: 0,
        reset: false,
        lacking: Vec::new(),
    }
}

/// A link that ends when it is dropped.
pub(super) type Link = Box<dyn std::any::Any + Send>;

/// Attaches the best hooks on time-wait sockets; before the state hooks, as [`attach_accept_hook`].
pub(super) fn attach_time_wait_hooks(
    ebpf: &mut Ebpf,
    btf: &Btf,
    allowed: &[HookKind],
) -> (TimeWait, Vec<Link>) {
    for candidate in [TimeWait::Fentry, TimeWait::Kprobe, TimeWait::Timer] {
        let allowed = |kind| allowed.is_empty() || allowed.contains(&kind);
        if !candidate.kind().is_none_or(allowed) {
            continue;
        }
        match attach_time_wait(ebpf, btf, candidate) {
            Ok(links) => return (candidate, links),
            Err(why) => log::info!(
                "time_wait: not by {candidate}: {}",
                super::object::brief(&super::object::chain(&why))
            ),
        }
    }
    (TimeWait::None, Vec::new())
}

fn attach_time_wait(
    ebpf: &mut Ebpf,
    btf: &Btf,
    mechanism: TimeWait,
) -> Result<Vec<Link>, ProgramError> {
    let mut links: Vec<Link> = Vec::new();
    let functions = ["inet_twsk_kill", "__inet_twsk_schedule"];
    match mechanism {
        TimeWait::Fentry => {
            for (name, function) in ["tw_kill_fentry", "tw_schedule_fentry"]
                .iter()
                .zip(functions)
            {
                let program = program::<FEntry>(ebpf, name)?;
                program.load(function, btf)?;
                let link = program.attach()?;
                links.push(Box::new(program.take_link(link)?));
            }
        }
        TimeWait::Kprobe => {
            for (name, function) in ["tw_kill_kprobe", "tw_schedule_kprobe"]
                .iter()
                .zip(functions)
            {
                let program = program::<KProbe>(ebpf, name)?;
                program.load()?;
                let link = program.attach(function, 0)?;
                links.push(Box::new(program.take_link(link)?));
            }
        }
        TimeWait::Timer => {
            load_own(ebpf, "poll")?;
            // Every timer that is stopped would run it: `attach_rest` attaches it.
            program::<BtfTracePoint>(ebpf, "timer_cancel")?.load("timer_cancel", btf)?;
        }
        TimeWait::None => {}
    }
    Ok(links)
}

/// Loads and attaches a `tp_btf` program.
pub(super) fn load_and_attach_tracepoint(
    ebpf: &mut Ebpf,
    btf: &Btf,
    name: &str,
    tracepoint: &str,
) -> Result<Link, ProgramError> {
    program::<BtfTracePoint>(ebpf, name)?.load(tracepoint, btf)?;
    Ok(Box::new(attach_tracepoint(ebpf, name)?))
}

/// Loads a program that the agent runs.
pub(super) fn load_own(ebpf: &mut Ebpf, name: &str) -> Result<(), ProgramError> {
    program::<RawTracePoint>(ebpf, name)?.load()
}

/// Why a hook cannot be had, in the words of who has to mend it.
fn reason(mechanism: Mechanism, why: &ProgramError) -> String {
    let first = why.to_string();
    let (what, refused) = match mechanism {
        Mechanism::Fentry(_) => ("trampolines", "Operation not permitted"),
        Mechanism::Kprobe(_) | Mechanism::Kretprobe => ("kprobes", "No such file"),
        Mechanism::SyscallExit | Mechanism::None => ("", "\0"),
    };
    let text = super::object::chain(why);
    if text.contains(refused) {
        return format!("this kernel offers no {what}");
    }
    let text = if text.is_empty() { first } else { text };
    super::object::brief(&text).to_owned()
}

fn attach_accept(
    ebpf: &mut Ebpf,
    btf: &Btf,
    layout: &Layout,
    mechanism: Mechanism,
) -> Result<(), ProgramError> {
    match mechanism {
        Mechanism::Fentry(function) => {
            let name = match function {
                "__inet_accept" => "accept_fentry_inet",
                _ => "accept_fentry_graft",
            };
            let program = program::<FEntry>(ebpf, name)?;
            program.load(function, btf)?;
            if let Err(why) = program.attach() {
                program.unload()?;
                return Err(why);
            }
        }
        Mechanism::Kprobe(function) => {
            let name = match function {
                "__inet_accept" => "accept_kprobe_inet",
                _ => "accept_kprobe_graft",
            };
            attach_kprobe(program(ebpf, name)?, function)?;
        }
        Mechanism::Kretprobe => {
            attach_kprobe(program(ebpf, "accept_kretprobe")?, "inet_csk_accept")?;
        }
        Mechanism::SyscallExit => {
            if layout.sys_exit_ret == ABSENT {
                return Err(unseen("this kernel has no tracepoints of system calls"));
            }
            // Here and not before: the programs above are loaded, so this kernel lets us trace.
            tracefs::within(|| attach_syscall_exits(ebpf))
                .map_err(|why| unseen(&why.to_string()))??;
        }
        Mechanism::None => {}
    }
    Ok(())
}

fn attach_syscall_exits(ebpf: &mut Ebpf) -> Result<(), ProgramError> {
    if !tracefs::is_mounted() {
        return Err(unseen(
            "tracefs cannot be read: it takes CAP_SYS_ADMIN to mount it, and CAP_DAC_READ_SEARCH for \
             others than root",
        ));
    }
    for (name, tracepoint) in [
        ("accept_exit", "sys_exit_accept"),
        ("accept4_exit", "sys_exit_accept4"),
    ] {
        let program = program::<TracePoint>(ebpf, name)?;
        program.load()?;
        program.attach("syscalls", tracepoint)?;
    }
    Ok(())
}

fn unseen(why: &str) -> ProgramError {
    ProgramError::IOError(std::io::Error::other(why))
}

fn attach_kprobe(program: &mut KProbe, function: &str) -> Result<(), ProgramError> {
    program.load()?;
    if let Err(why) = program.attach(function, 0) {
        program.unload()?;
        return Err(why);
    }
    Ok(())
}
