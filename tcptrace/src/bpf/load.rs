//! From the embedded object to running programs.

use std::collections::VecDeque;

use aya::{
    Btf, Ebpf, EbpfError, EbpfLoader, Endianness, VerifierLogLevel,
    maps::{Array, HashMap, LpmTrie, MapData, lpm_trie::Key},
    programs::ProgramError,
    util::{nr_cpus, online_cpus},
};
use rustix::{
    io::Errno,
    process::{Resource, Rlimit, getrlimit, setrlimit},
};
use tcptrace_common::{
    config::{
        AUTOMATA, AUTOMATON_BYTES, Config, EMIT_CLOSE, EMIT_LISTENER, EMIT_RESET, EMIT_RETRANSMIT,
        EMIT_TRANSITION, PIN_TRACEPOINTS, PORT_WORDS, TIME_WAIT_WORDS,
    },
    map_index::TIME_WAIT_MODE,
};
use zerocopy::IntoBytes as _;

use super::{
    attach::{self, Hooks, TimeWait},
    config,
    counts::{Counts, Open},
    exchange, kfunc, live,
    object::{brief, chain, map, take},
    open,
    poll::Poll,
    ring::Ring,
    slow::{self, Slow},
    snapshot,
    stale::StaleSearch,
    tracer::Tracer,
};
use crate::{
    error::Error,
    filter::KernelFilters,
    kernel::{self, Kernel},
    settings::Settings,
};

pub(super) static OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/tcptrace.bpf.o"));

/// One more than the highest number of a CPU, as far as is known: they may leave some out. Of one that is not
/// among them, the time-wait sockets that end there are found later.
fn cpu_ids() -> u32 {
    let possible = nr_cpus().ok().and_then(|cpus| u32::try_from(cpus).ok());
    let online = online_cpus().ok().and_then(|cpus| cpus.into_iter().max());
    let online = online.map(|highest| highest.saturating_add(1));
    possible.max(online).unwrap_or(1)
}

/// Entries of the `PIDS` map for processes that are asked for by their ids.
const PIDS_ASKED: u32 = 4096;
/// The same with those that they fork.
const PIDS_FOLLOWED: u32 = 65536;

/// Some filters need what not every kernel describes.
fn refuse_unknown_processes(config: &Config, kernel: &Kernel) -> Result<(), Error> {
    let lacking = kernel
        .lacking
        .iter()
        .find(|lacking| lacking.fact == "process");
    let needs = config.follow | config.by_exe | config.by_cgroup | config.by_container;
    match lacking {
        Some(lacking) if needs != 0 => Err(Error::CannotTrace(format!(
            "-f, --exe, --cgroup and --container need what this kernel's BTF does not have: {}",
            lacking.why
        ))),
        _ => Ok(()),
    }
}

/// Loads and attaches everything, with room for the records of `max_sockets`.
pub fn start(settings: &Settings, kernel: &Kernel, max_sockets: u32) -> Result<Tracer, Error> {
    let log_level: u8 = match settings.verbose {
        0 => 0,
        1 => 3,
        _ => 4,
    };
    let wanted = config::wanted(settings, kernel);
    let config = wanted.config;
    refuse_unknown_processes(&config, kernel)?;
    let cpus = cpu_ids();
    let layout = kernel.layout;
    let mut loader = new_loader();
    loader
        .verifier_log_level(VerifierLogLevel::DEBUG)
        .map_max_entries("SOCKS", max_sockets)
        .map_max_entries("TIME_WAITS", max_sockets)
        .map_max_entries("TIME_WAIT", TIME_WAIT_WORDS * (cpus + 1))
        .map_max_entries("EVENTS", settings.run.ring_bytes)
        .map_max_entries("SLOW", slow::room(config.slower_ns != 0))
        .map_max_entries(
            "PIDS",
            if config.follow == 0 {
                PIDS_ASKED
            } else {
                PIDS_FOLLOWED
            },
        )
        .map_max_entries(
            "AUTOMATA",
            if wanted.automata.is_empty() {
                1
            } else {
                AUTOMATA
            },
        )
        .override_global("LAYOUT", layout.as_bytes(), true)
        .override_global("AYA_LOG_LEVEL", &log_level, false);
    let btf = Btf::parse(&kernel.btf, Endianness::default())
        .map_err(|why| Error::CannotTrace(format!("this kernel's BTF cannot be used: {why}")))?;

    let fallbacks = attach::fallbacks(config.pinned & PIN_TRACEPOINTS != 0);
    let mut loaded = Err(ProgramError::NotLoaded);
    let configs = config::with_less(config);
    for config in &configs {
        loader.override_global("CONFIG", config.as_bytes(), true);
        // What must not be called must not be named either.
        let mut object = kfunc::resolve(OBJECT, &kfunc::functions(kernel, config));
        if config.exchanges == 0 {
            object = exchange::remove(&object).into();
        }
        let mut ebpf = load(&mut loader, &object)?;
        loaded = attach::load_core(&mut ebpf, &btf, fallbacks).map(|()| (ebpf, config));
        match &loaded {
            Ok(_) => break,
            // Less of it would find as little room.
            Err(why) if lacks_room(why) => break,
            Err(why) => log::info!("a program is refused: {}", brief(&chain(why))),
        }
    }
    // Where it was for none of these, the last was refused for the same reason as the first.
    let (mut ebpf, config) = loaded.map_err(|why| refused(&why, settings))?;
    fill_filters(&mut ebpf, &wanted)?;
    live::publish(&mut ebpf)?;
    let mut hooks = attach::attach_accept_hook(&mut ebpf, &btf, &layout, &settings.kernel.hooks);

    hooks.cookie = config.cookie_helper != 0;
    hooks.wanted = settings.records.emit;
    hooks.lacking = kernel
        .lacking
        .iter()
        .map(|lacking| (lacking.fact, lacking.why.to_string()))
        .collect();
    let links = attach_optional(&mut ebpf, &btf, settings, &mut hooks)?;

    let mut links = links;
    if config.processes != 0 {
        // It comes before the programs that ask what it has found.
        match attach::load_and_attach_tracepoint(
            &mut ebpf,
            &btf,
            "introduce",
            "inet_sock_set_state",
        ) {
            Ok(link) => links.push(link),
            Err(why) if config.by_exe | config.by_container != 0 => {
                return Err(refused(&why, settings));
            }
            Err(why) => hooks.lacking.push(("process", chain(&why))),
        }
    }
    if config.processes != 0 {
        let mut hooks = vec![("exit", "sched_process_exit")];
        if config.follow != 0 {
            hooks.push(("follow", "sched_process_fork"));
        }
        for (name, tracepoint) in hooks {
            let link = attach::load_and_attach_tracepoint(&mut ebpf, &btf, name, tracepoint)
                .map_err(|why| refused(&why, settings))?;
            links.push(link);
        }
    }
    let pids = take(&mut ebpf, "PIDS")?;
    let counts = Counts::new(&mut ebpf, settings.records.emit)?;
    let ring = Ring::new(&mut ebpf, settings.run.turn)?;
    let attach = |ebpf: &mut Ebpf, name| {
        attach::attach_tracepoint(ebpf, name).map_err(|why| refused(&why, settings))
    };
    let mut state_links = VecDeque::new();
    if config.by_pid == 0 || config.follow != 0 {
        state_links.push_back(attach(&mut ebpf, "destroy")?);
    }
    snapshot::find(&mut ebpf)?;
    state_links.push_back(attach(&mut ebpf, "set_state")?);
    let selection = take(&mut ebpf, "SELECTION")?;
    let mut tracer = Tracer {
        ebpf,
        hooks,
        ring,
        counts,
        state_links,
        links,
        open: Open::default(),
        poll: Poll::new(cpus),
        stale: StaleSearch::new(),
        selection,
        pids,
        fallbacks,
        idle: true,
        without_room: 0,
        slow: (config.slower_ns != 0).then(Slow::new),
        open_left: None,
    };
    if config.by_pid == 0 || config.follow != 0 {
        tracer.attach_rest()?;
    }
    Ok(tracer)
}

/// Attaches what tracing can do without.
fn attach_optional(
    ebpf: &mut Ebpf,
    btf: &Btf,
    settings: &Settings,
    hooks: &mut Hooks,
) -> Result<Vec<attach::Link>, Error> {
    let wants = |events| settings.records.emit & events != 0;
    let mut links = Vec::new();
    if wants(EMIT_TRANSITION | EMIT_CLOSE) && !hooks.lacks("time_wait") {
        let (mechanism, mut attached) =
            attach::attach_time_wait_hooks(ebpf, btf, &settings.kernel.hooks);
        hooks.time_wait = mechanism;
        links.append(&mut attached);
        map::<Array<&mut MapData, u64>>(ebpf, "TIME_WAIT")?
            .set(TIME_WAIT_MODE, mechanism.mode(), 0)
            .map_err(anyhow::Error::new)?;
        if mechanism == TimeWait::Timer {
            // The first look, at nothing, begins to count ticks.
            Ring::look(ebpf, 1);
        }
    }
    let mut attach = |name, tracepoint| {
        attach::load_and_attach_tracepoint(ebpf, btf, name, tracepoint)
            .map(|link| links.push(link))
            .map_err(|why| log::warn!("{tracepoint} is not seen: {}", brief(&chain(&why))))
            .is_ok()
    };
    if wants(EMIT_CLOSE | EMIT_RESET) {
        hooks.reset =
            attach("reset_sent", "tcp_send_reset") & attach("reset_received", "tcp_receive_reset");
    }
    if wants(EMIT_CLOSE | EMIT_RETRANSMIT | EMIT_LISTENER) {
        attach("retransmit_synack", "tcp_retransmit_synack");
    }
    if wants(EMIT_RETRANSMIT) {
        attach("retransmit", "tcp_retransmit_skb");
    }
    if wants(EMIT_LISTENER)
        && !hooks.lacks("listener")
        && let Err(why) = attach::load_own(ebpf, "backlog")
    {
        hooks.lacking.push(("listener", chain(&why)));
    }
    if settings.outcome.slower.is_some()
        && let Err(why) = attach::load_own(ebpf, "slow")
    {
        log::warn!("what still waits is not reported: {}", chain(&why));
    }
    if settings.records.open
        && let Err(why) = attach::load_own(ebpf, open::PROGRAM)
    {
        log::warn!(
            "what is still open at the end is not listed: {}",
            chain(&why)
        );
    }
    Ok(links)
}

/// A loader without the kernel's BTF: nothing in the object is to be relocated by it.
///
/// `EbpfLoader::new` parses all of it unasked, which takes twice the memory of all else here. So
/// it is made while no file can be opened; nothing else runs yet.
pub(super) fn new_loader() -> EbpfLoader<'static> {
    let limit = getrlimit(Resource::Nofile);
    let none = Rlimit {
        current: Some(0),
        maximum: limit.maximum,
    };
    let lowered = setrlimit(Resource::Nofile, none).is_ok();
    let mut loader = EbpfLoader::new();
    if lowered && let Err(why) = setrlimit(Resource::Nofile, limit) {
        log::warn!("the limit of open files stays 0: {why}");
    }
    loader.btf(None);
    loader
}

/// Parses the object and makes its maps.
pub(super) fn load(loader: &mut EbpfLoader<'_>, object: &[u8]) -> Result<Ebpf, Error> {
    loader.load(object).map_err(|why| {
        let hint = if lacks_memory(&why) {
            "give smaller --max-sockets and --buffer".to_owned()
        } else {
            kernel::capability_hint()
        };
        Error::CannotTrace(format!(
            "the kernel refused tcptrace's maps: {}; {hint}",
            chain(&why)
        ))
    })
}

fn lacks_memory(why: &EbpfError) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(why);
    while let Some(why) = cause {
        if let Some(why) = why.downcast_ref::<std::io::Error>() {
            return why.kind() == std::io::ErrorKind::OutOfMemory;
        }
        cause = why.source();
    }
    false
}

fn fill_filters(ebpf: &mut Ebpf, wanted: &KernelFilters) -> Result<(), Error> {
    let mut pids: HashMap<&mut MapData, u32, u8> = map(ebpf, "PIDS")?;
    for (pid, why) in &wanted.pids {
        pids.insert(pid, why, 0).map_err(anyhow::Error::new)?;
    }
    let mut numbers: HashMap<&mut MapData, [u64; 2], u8> = map(ebpf, "WANTED")?;
    for (list, number, is_wanted) in &wanted.wanted {
        numbers
            .insert([*list, *number], u8::from(*is_wanted), 0)
            .map_err(anyhow::Error::new)?;
    }
    let mut networks: LpmTrie<&mut MapData, [u8; 20], u8> = map(ebpf, "NETWORKS")?;
    for (list, network) in &wanted.networks {
        let mut data = [0; 20];
        let head = list << 8 | u32::from(network.family);
        data[..4].copy_from_slice(&head.to_ne_bytes());
        data[4..].copy_from_slice(&network.address);
        let key = Key::new(32 + u32::from(network.prefix_len), data);
        networks
            .insert(&key, u8::from(network.wanted), 0)
            .map_err(anyhow::Error::new)?;
    }
    let mut automata: Array<&mut MapData, [u8; AUTOMATON_BYTES]> = map(ebpf, "AUTOMATA")?;
    for (index, automaton) in &wanted.automata {
        let table: &[u8; AUTOMATON_BYTES] =
            automaton.table().try_into().map_err(anyhow::Error::new)?;
        automata.set(*index, table, 0).map_err(anyhow::Error::new)?;
    }
    let mut ports: Array<&mut MapData, u64> = map(ebpf, "PORTS")?;
    for (row, words) in &wanted.ports {
        for (index, word) in (row * PORT_WORDS..).zip(words) {
            ports.set(index, word, 0).map_err(anyhow::Error::new)?;
        }
    }
    Ok(())
}

/// The kernel's refusal of a program, in one line; with `-v` the verifier's log.
/// Whether the kernel refuses a program for want of memory or files, and not for what it does.
fn lacks_room(why: &ProgramError) -> bool {
    let ProgramError::LoadError { io_error, .. } = why else {
        return false;
    };
    let errno = Errno::from_io_error(io_error);
    errno.is_some_and(|errno| {
        [
            Errno::NOMEM,
            Errno::AGAIN,
            Errno::INTR,
            Errno::MFILE,
            Errno::NFILE,
        ]
        .contains(&errno)
    })
}

fn refused(why: &ProgramError, settings: &Settings) -> Error {
    if let ProgramError::LoadError { io_error, .. } = why
        && lacks_room(why)
    {
        return Error::CannotTrace(format!("the kernel has no room for a program: {io_error}"));
    }
    if let ProgramError::LoadError {
        io_error,
        verifier_log,
    } = why
    {
        let log = verifier_log.to_string();
        if settings.verbose > 0 {
            log::warn!("verifier log:\n{log}");
        }
        let last = log
            .lines()
            .rev()
            .find(|line| !line.trim().is_empty() && !line.starts_with("processed"));
        return Error::CannotTrace(match last {
            Some(last) => format!(
                "the kernel refused a program: {io_error}: {}; run with -v for the verifier's log",
                last.trim()
            ),
            None => format!(
                "the kernel refused a program: {io_error}; {}",
                kernel::capability_hint()
            ),
        });
    }
    Error::CannotTrace(format!(
        "cannot attach: {}; run `tcptrace check`",
        chain(why)
    ))
}
