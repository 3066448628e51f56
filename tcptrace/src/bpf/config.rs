//! What the programs are told before they are loaded.

use std::time::Duration;

use tcptrace_common::config::{Config, PIN_TRACEPOINTS, PIN_TRAMPOLINES};

use crate::{filter::KernelFilters, kernel::Kernel, settings::Settings};

/// Records of 10 ms fit into a ring of this size. A smaller one, or one that is read more seldom, wakes the agent
/// by its fill as well, not by the agent's timer alone.
const TIMER_SUFFICES_BYTES: u32 = 4 << 20;
const TIMER_SUFFICES: Duration = Duration::from_millis(10);

/// What the user wants, with all that this kernel is likely to take.
pub(super) fn wanted(settings: &Settings, kernel: &Kernel) -> KernelFilters {
    let ring_bytes = settings.run.ring_bytes;
    let timer_suffices = ring_bytes >= TIMER_SUFFICES_BYTES && settings.run.turn <= TIMER_SUFFICES;
    let config = Config {
        wake_bytes: if timer_suffices { 0 } else { ring_bytes / 4 },
        reset_reason: u8::from(kernel.tells_reset_reason),
        retransmit_err: u8::from(kernel.tells_retransmit_err),
        pinned: match (kernel.preemption, kernel.preempts_tracepoints) {
            (None, _) => 0,
            (Some(_), false) => PIN_TRAMPOLINES,
            (Some(_), true) => PIN_TRACEPOINTS | PIN_TRAMPOLINES,
        },
        casts: u8::from(kernel.rdonly_cast.is_some()),
        processes: u8::from(
            kernel
                .lacking
                .iter()
                .all(|lacking| lacking.fact != "process"),
        ),
        ..Config::DEFAULT
    };
    let mut wanted = KernelFilters {
        config,
        pids: Vec::new(),
        wanted: Vec::new(),
        networks: Vec::new(),
        automata: Vec::new(),
        ports: Vec::new(),
    };
    settings.configure(&mut wanted);
    wanted
}

/// The same with less and less that not every kernel takes, the first one first. What loads decides, not
/// the version.
pub(super) fn with_less(config: Config) -> Vec<Config> {
    let without_casts = Config { casts: 0, ..config };
    // Where programs are interpreted, they call no functions of the kernel.
    let without_functions = Config {
        pinned: 0,
        ..without_casts
    };
    // On arm64 before 5.18.
    let without_exchanges = Config {
        exchanges: 0,
        ..without_functions
    };
    // Before 5.12 tracing programs get no cookie, before 5.11 no typed task.
    let without_helpers = Config {
        cookie_helper: 0,
        typed_task: 0,
        ..without_exchanges
    };
    let mut configs = vec![
        config,
        without_casts,
        without_functions,
        without_exchanges,
        without_helpers,
    ];
    configs.dedup();
    configs
}
