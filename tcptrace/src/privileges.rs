//! Least rights once everything is attached: capabilities dropped, no new ones to be had, a fence around
//! the files, and a list of system calls.
//!
//! All of these belong to a thread, and the threads that it starts have them too: each thread that is
//! there already calls [`Fence::raise`] itself. `docs/pipelines/service.md` says what each of them costs.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Context as _;
use landlock::{
    ABI, Access as _, AccessFs, AccessNet, CompatLevel, Compatible as _, NetPort, PathBeneath,
    PathFd, Ruleset, RulesetAttr as _, RulesetCreated, RulesetCreatedAttr as _, RulesetStatus,
    Scope,
};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, remove_capability_from_bounding_set,
    set_capabilities, set_no_new_privs,
};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};

/// The newest rules that we know; older kernels take what they know of them.
const LANDLOCK: ABI = ABI::V6;

/// Read from time to time: what the kernel says of processes and of itself, time zones, and what it takes
/// to look a name up.
const READ: [&str; 7] = ["/proc", "/sys", "/etc", "/usr", "/lib", "/lib64", "/run"];

/// What is still done once everything is attached.
#[expect(clippy::struct_excessive_bools, reason = "each is a need of its own")]
#[derive(Clone, Debug, Default)]
pub struct Needs {
    /// Programs are attached later: with `-p`, when the first connection comes
    pub attaches_later: bool,
    /// A process of another user is started and stopped
    pub signals_others: bool,
    /// The file of `-o`, which may be opened anew
    pub output: Option<PathBuf>,
    /// Whether anything is sent over the network, or served
    pub network: bool,
    /// The ports that are connected to; none: any
    pub ports: Option<Vec<u16>>,
    /// Whether local services are spoken to: the journal, the service manager
    pub local: bool,
}

impl Needs {
    /// The capabilities that are kept, if they are there.
    pub fn capabilities(&self) -> CapabilitySet {
        let mut kept = CapabilitySet::empty();
        if self.attaches_later {
            kept |= CapabilitySet::BPF | CapabilitySet::PERFMON;
        }
        if self.signals_others {
            kept |= CapabilitySet::KILL;
        }
        if self.output.is_some() {
            // logrotate's `create` may give the new file to somebody else. The fence is around it.
            kept |= CapabilitySet::DAC_OVERRIDE;
        }
        kept
    }
}

/// What became of a thread's rights.
#[derive(Clone, Debug)]
pub struct Raised {
    /// The capabilities that it still has
    pub kept: CapabilitySet,
    /// Why there is no fence around files, if there is none
    pub no_files: Option<String>,
    /// Why there is no list of system calls, if there is none
    pub no_calls: Option<String>,
}

impl Raised {
    fn log(&self) {
        for (what, why) in [
            ("fence around files", &self.no_files),
            ("list of system calls", &self.no_calls),
        ] {
            if let Some(why) = why {
                log::info!("no {what}: {why}");
            }
        }
    }
}

/// The fence: made once, raised by each thread.
#[derive(Clone)]
pub struct Fence(Arc<Parts>);

struct Parts {
    kept: CapabilitySet,
    ruleset: RulesetCreated,
    filter: BpfProgram,
}

impl Fence {
    /// Makes it; nothing is given up yet.
    pub fn new(needs: &Needs) -> anyhow::Result<Self> {
        Ok(Self(Arc::new(Parts {
            kept: needs.capabilities(),
            ruleset: ruleset(needs)?,
            filter: filter(needs)?,
        })))
    }

    /// Gives up, in the calling thread and all that it starts, what is not needed any more. What this
    /// kernel does not know is left out.
    pub fn raise(&self) -> anyhow::Result<()> {
        self.raise_keeping(self.0.kept)?.log();
        Ok(())
    }

    /// The same in the thread that uses maps and programs. `works`: whether it can; before Linux 5.19 that
    /// takes `CAP_BPF`, which is then kept.
    pub fn raise_where(&self, works: impl FnOnce() -> bool) -> anyhow::Result<Raised> {
        let mut kept = self.0.kept;
        let have = capabilities(None).context("capabilities")?;
        let bpf = CapabilitySet::BPF & have.permitted;
        if !kept.contains(bpf) {
            let without = CapabilitySets {
                effective: have.effective & kept,
                ..have
            };
            set_capabilities(None, without).context("cannot drop capabilities")?;
            if !works() {
                log::info!("CAP_BPF is kept: this kernel lets nobody use maps without it");
                kept |= bpf;
            }
        }
        let raised = self.raise_keeping(kept)?;
        raised.log();
        Ok(raised)
    }

    fn raise_keeping(&self, kept: CapabilitySet) -> anyhow::Result<Raised> {
        let parts = &*self.0;
        let kept = drop_capabilities(kept)?;
        set_no_new_privs(true).context("no_new_privs")?;
        let status = parts
            .ruleset
            .try_clone()
            .map_err(anyhow::Error::new)
            .and_then(|ruleset| Ok(ruleset.restrict_self()?));
        Ok(Raised {
            kept,
            no_files: match status {
                Ok(status) if status.ruleset == RulesetStatus::NotEnforced => {
                    Some("this kernel has no Landlock".to_owned())
                }
                Ok(_) => None,
                Err(why) => Some(format!("{why:#}")),
            },
            no_calls: seccompiler::apply_filter(&parts.filter)
                .err()
                .map(|why| why.to_string()),
        })
    }
}

/// Returns those that are left.
fn drop_capabilities(kept: CapabilitySet) -> anyhow::Result<CapabilitySet> {
    let have = capabilities(None).context("capabilities")?;
    let kept = have.permitted & kept;
    for capability in CapabilitySet::all().difference(kept).iter() {
        // Without CAP_SETPCAP there is no way to; nothing is executed in any case.
        if remove_capability_from_bounding_set(capability).is_err() {
            break;
        }
    }
    let sets = CapabilitySets {
        effective: kept,
        permitted: kept,
        inheritable: CapabilitySet::empty(),
    };
    set_capabilities(None, sets).context("cannot drop capabilities")?;
    Ok(kept)
}

fn ruleset(needs: &Needs) -> anyhow::Result<RulesetCreated> {
    let all = AccessFs::from_all(LANDLOCK);
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(all)?
        .handle_access(AccessNet::BindTcp)?
        .scope(Scope::AbstractUnixSocket)?;
    let connects = !needs.network || needs.ports.is_some();
    if connects {
        ruleset = ruleset.handle_access(AccessNet::ConnectTcp)?;
    }
    let mut created = ruleset.create()?;
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    for path in READ {
        if let Ok(folder) = PathFd::new(path) {
            created = created.add_rule(PathBeneath::new(folder, read))?;
        }
    }
    let write = AccessFs::ReadDir
        | AccessFs::ReadFile
        | AccessFs::WriteFile
        | AccessFs::MakeReg
        | AccessFs::Truncate;
    for folder in needs.output.iter().flat_map(|path| folders(path)) {
        if let Ok(folder) = PathFd::new(&folder) {
            created = created.add_rule(PathBeneath::new(folder, write))?;
        }
    }
    for port in needs.ports.iter().flatten() {
        created = created.add_rule(NetPort::new(*port, AccessNet::ConnectTcp))?;
    }
    Ok(created)
}

/// The folders that a path is in: by its name, and behind its links.
fn folders(path: &Path) -> Vec<PathBuf> {
    let named = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    let mut folders = vec![named];
    if let Ok(real) = path.canonicalize() {
        folders.extend(real.parent().map(Path::to_owned));
    }
    folders
}

/// What is refused: whatever starts, inspects or changes something else than this process.
const REFUSED: &[libc::c_long] = &[
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_setns,
    libc::SYS_unshare,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_adjtimex,
    libc::SYS_clock_adjtime,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_userfaultfd,
    libc::SYS_open_by_handle_at,
    libc::SYS_io_uring_setup,
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setreuid,
    libc::SYS_setregid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setgroups,
    libc::SYS_personality,
    libc::SYS_mknodat,
];

/// Commands of bpf(2) that make something: `BPF_MAP_CREATE`, `BPF_PROG_LOAD`, `BPF_BTF_LOAD`
/// (include/uapi/linux/bpf.h).
const BPF_MAKES: [u64; 3] = [0, 5, 18];

fn filter(needs: &Needs) -> anyhow::Result<BpfProgram> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        REFUSED.iter().map(|call| (*call, Vec::new())).collect();
    let first_is = |value| {
        let condition = SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value)?;
        SeccompRule::new(vec![condition])
    };
    if !needs.attaches_later {
        let makes = BPF_MAKES
            .into_iter()
            .map(first_is)
            .collect::<Result<_, _>>()?;
        rules.insert(libc::SYS_bpf, makes);
        rules.insert(libc::SYS_perf_event_open, Vec::new());
    }
    if !needs.network {
        // No socket at all, or only those of this host.
        let families = if needs.local {
            let other = SeccompCondition::new(
                0,
                SeccompCmpArgLen::Dword,
                SeccompCmpOp::Ne,
                u64::try_from(libc::AF_UNIX)?,
            )?;
            vec![SeccompRule::new(vec![other])?]
        } else {
            Vec::new()
        };
        rules.insert(libc::SYS_socket, families);
        for call in [libc::SYS_bind, libc::SYS_listen, libc::SYS_accept4] {
            rules.insert(call, Vec::new());
        }
    }
    let filter = SeccompFilter::new(
        rules,
        SeccompAction::Allow,
        SeccompAction::Errno(u32::try_from(libc::EPERM)?),
        std::env::consts::ARCH.try_into()?,
    )?;
    Ok(filter.try_into()?)
}

/// The names of capabilities, as `capsh` has them.
pub fn names(set: CapabilitySet) -> Vec<String> {
    set.iter_names()
        .map(|(name, _)| format!("CAP_{name}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_needed_is_kept() {
        let none = Needs::default();
        assert!(none.capabilities().is_empty());
        let all = Needs {
            attaches_later: true,
            output: Some("/var/log/tcptrace.json".into()),
            ..Needs::default()
        };
        assert_eq!(
            names(all.capabilities()),
            ["CAP_DAC_OVERRIDE", "CAP_PERFMON", "CAP_BPF"]
        );
    }

    /// On a thread of its own: there is no way back.
    #[test]
    fn behind_the_fence() {
        let folder = std::env::temp_dir();
        let needs = Needs {
            output: Some(folder.join("tcptrace-fence")),
            ..Needs::default()
        };
        let fence = Fence::new(&needs).unwrap();
        std::thread::spawn(move || {
            fence.raise().unwrap();
            assert!(std::fs::read_to_string("/proc/self/status").is_ok());
            let refused = std::net::TcpListener::bind("127.0.0.1:0").unwrap_err();
            assert_eq!(refused.kind(), std::io::ErrorKind::PermissionDenied);
            let have = capabilities(None).unwrap();
            let kept = CapabilitySet::DAC_OVERRIDE;
            assert!(kept.contains(have.permitted), "{have:?}");
        })
        .join()
        .unwrap();
    }
}
