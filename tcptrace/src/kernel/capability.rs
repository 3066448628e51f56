//! Which capabilities we have, and what each one is for.

use std::{fs, os::unix::fs::MetadataExt as _};

use rustix::process::{Resource, getrlimit};

use super::field;

/// A capability that tracing needs, or does better with.
#[derive(Clone, Copy, Debug)]
pub struct Capability {
    /// Its name
    pub name: &'static str,
    /// Its bit, from `include/uapi/linux/capability.h`
    pub bit: u8,
    /// Whether nothing works without it
    pub required: bool,
    /// What it is for
    pub purpose: &'static str,
}

/// What other users than root need to read tracefs.
pub const READ_TRACEFS: &str = "CAP_DAC_READ_SEARCH";

/// The capabilities that matter, the required ones first.
pub const CAPABILITIES: [Capability; 5] = [
    Capability {
        name: "CAP_BPF",
        bit: 39,
        required: true,
        purpose: "load programs and maps",
    },
    Capability {
        name: "CAP_PERFMON",
        bit: 38,
        required: true,
        purpose: "attach to kernel tracepoints and read kernel memory",
    },
    Capability {
        name: "CAP_SYS_ADMIN",
        bit: 21,
        required: false,
        purpose: "enter other network namespaces and mount tracefs at start",
    },
    Capability {
        name: "CAP_SYS_PTRACE",
        bit: 19,
        required: false,
        purpose: "find the network namespaces of other users' processes at start",
    },
    Capability {
        name: READ_TRACEFS,
        bit: 2,
        required: false,
        purpose: "read tracefs, without which this kernel does not show who accepts",
    },
];

/// The effective capabilities of this process as a bit set. Tracing needs them in the host's user
/// namespace (`bpf_capable()` asks `init_user_ns`): those that count in another are none.
pub fn effective() -> u64 {
    if in_user_namespace() {
        return 0;
    }
    fs::read_to_string("/proc/self/status")
        .ok()
        .and_then(|status| field::hex(&status, "CapEff:"))
        .unwrap_or(0)
}

/// Whether we are in another user namespace than the host's, as in a rootless container.
pub fn in_user_namespace() -> bool {
    // PROC_USER_INIT_INO, include/linux/proc_ns.h
    const INITIAL: u64 = 0xefff_fffd;
    fs::metadata("/proc/self/ns/user").is_ok_and(|namespace| namespace.ino() != INITIAL)
}

/// Whether the set holds the capability. `CAP_SYS_ADMIN` stands in for `CAP_BPF` and
/// `CAP_PERFMON`, as in the kernel's `bpf_capable()` and `perfmon_capable()`.
pub const fn holds(set: u64, capability: Capability) -> bool {
    const SYS_ADMIN: u64 = 1 << 21;
    set & (1 << capability.bit) != 0 || (matches!(capability.bit, 38 | 39) && set & SYS_ADMIN != 0)
}

/// The required capabilities we lack.
pub fn missing() -> Vec<&'static str> {
    let set = effective();
    CAPABILITIES
        .iter()
        .filter(|capability| capability.required && !holds(set, **capability))
        .map(|capability| capability.name)
        .collect()
}

/// What to do about a refusal of the kernel.
pub fn hint() -> String {
    let missing = missing();
    if !missing.is_empty() {
        return how_to_give(&missing);
    }
    if counts_locked_memory(&super::release()) && locks_little() {
        return "this kernel counts maps as locked memory (Linux before 5.11): raise the limit \
                with `ulimit -l unlimited`, or give CAP_SYS_RESOURCE too"
            .to_owned();
    }
    "run `tcptrace check` to see what this kernel allows".to_owned()
}

/// Whether a kernel of this release counts maps as locked memory: since 5.11 they count as memory of
/// the cgroup instead.
pub fn counts_locked_memory(release: &str) -> bool {
    !super::is_at_least(release, 5, 11)
}

fn locks_little() -> bool {
    getrlimit(Resource::Memlock).current.is_some()
}

/// How to give the capabilities named.
pub fn how_to_give(missing: &[&str]) -> String {
    if in_user_namespace() {
        return format!(
            "needs {} in the host's user namespace: root of a user namespace is not enough; run it with \
             sudo outside of it (of the rootless container, of `unshare -r`)",
            missing.join(" and ")
        );
    }
    format!(
        "needs {}: run it with sudo, or give it to the file: {}",
        missing.join(" and "),
        setcap(|capability| capability.required)
    )
}

/// The command that gives these capabilities to this program, in place of those that it has.
pub fn setcap(given: impl Fn(&Capability) -> bool) -> String {
    let program = std::env::current_exe().map_or_else(
        |_unknown| "tcptrace".to_owned(),
        |path| path.display().to_string(),
    );
    let given = CAPABILITIES.iter().filter(|capability| given(capability));
    let names: Vec<_> = given.map(|given| given.name.to_lowercase()).collect();
    format!("sudo setcap {}+ep {program}", names.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locked_memory_counts_before_5_11() {
        for release in ["5.10.0-46-cloud-amd64", "5.4", "4.19.1"] {
            assert!(counts_locked_memory(release), "{release}");
        }
        for release in [
            "5.11.0",
            "5.15.0-generic",
            "6.1.0-56",
            "7.3.4+deb13-cloud-amd64",
        ] {
            assert!(!counts_locked_memory(release), "{release}");
        }
    }
}
