//! What a tracer can be kept from: capabilities, files, the host's processes.

use std::{
    ffi::CStr,
    fs, io,
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::PathBuf,
    process::{Child, Command},
};

use rustix::{
    mount::{MountFlags, MountPropagationFlags},
    process::{Gid, Resource, Rlimit, Uid},
    thread::{CapabilitySet, CapabilitySets, UnshareFlags},
};

use crate::tracer;

/// The user and group `nobody`.
pub const NOBODY: u32 = 65534;

/// Whether this is a virtual machine of `cargo xtask vm`, whose clock and processors are the tests'
/// alone.
pub fn in_guest() -> bool {
    std::env::var_os("TCPTRACE_TEST_TTY").is_some()
}

/// A folder that is gone when the test is.
pub struct Folder(pub PathBuf);

impl Folder {
    pub fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("tcptrace-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    /// A copy of the program under test that anybody can run.
    pub fn program(&self) -> PathBuf {
        let copy = self.0.join("tcptrace");
        // By another process: a file that this one has open for writing when some thread of it forks cannot
        // be run until that child has done so too.
        let status = Command::new("cp").arg(tracer::binary()).arg(&copy).status();
        assert!(status.unwrap().success(), "cp {}", copy.display());
        for path in [&self.0, &copy] {
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        copy
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

/// Makes the command start as `nobody`, with these capabilities and this much memory to lock.
pub fn with_capabilities(
    command: &mut Command,
    capabilities: CapabilitySet,
    lockable: Option<u64>,
) -> &mut Command {
    let confine = move || {
        let limit = Rlimit {
            current: lockable,
            maximum: lockable,
        };
        // Only kernels before 5.11 look at it.
        let _kept = rustix::process::setrlimit(Resource::Memlock, limit);
        rustix::thread::set_keep_capabilities(true)?;
        rustix::thread::set_thread_groups(&[])?;
        let (user, group) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
        rustix::thread::set_thread_res_gid(group, group, group)?;
        rustix::thread::set_thread_res_uid(user, user, user)?;
        let sets = CapabilitySets {
            effective: capabilities,
            permitted: capabilities,
            inheritable: capabilities,
        };
        rustix::thread::set_capabilities(None, sets)?;
        for capability in capabilities {
            rustix::thread::configure_capability_in_ambient_set(capability, true)?;
        }
        Ok(())
    };
    // SAFETY: between fork and exec only system calls are made; the set is iterated in place.
    unsafe { command.pre_exec(confine) }
}

/// Makes the command start as root with no more than these capabilities, as in most containers.
pub fn as_root_with(command: &mut Command, capabilities: CapabilitySet) -> &mut Command {
    let confine = move || {
        for capability in CapabilitySet::all().difference(capabilities) {
            // The kernel may know fewer than there are.
            let _unknown = rustix::thread::remove_capability_from_bounding_set(capability);
        }
        Ok(())
    };
    // SAFETY: between fork and exec only system calls are made; the set is iterated in place.
    unsafe { command.pre_exec(confine) }
}

/// Makes the command start where these folders are empty and these files say nothing.
pub fn without<'command>(
    command: &'command mut Command,
    folders: &'static [&CStr],
    files: &'static [&CStr],
) -> &'command mut Command {
    let hide = move || {
        leave_mounts()?;
        for folder in folders {
            rustix::mount::mount(c"none", *folder, c"tmpfs", MountFlags::empty(), None)?;
        }
        for file in files {
            rustix::mount::mount_bind(c"/dev/null", *file)?;
        }
        Ok(())
    };
    // SAFETY: between fork and exec only system calls are made.
    unsafe { command.pre_exec(hide) }
}

/// Starts the command as the first process of a PID namespace, with a `/proc` that shows no
/// process outside.
pub fn spawn_as_container(command: &mut Command) -> io::Result<Child> {
    let see_own_processes = || {
        leave_mounts()?;
        rustix::mount::mount(c"proc", c"/proc", c"proc", MountFlags::empty(), None)?;
        Ok(())
    };
    // SAFETY: between fork and exec only system calls are made.
    unsafe { command.pre_exec(see_own_processes) };
    // The namespace is for the children of the thread that makes it, which can have no thread
    // beside it any more.
    std::thread::scope(|scope| {
        let spawn = || {
            // SAFETY: this thread ends here, and its own place is still in the old namespace.
            unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWPID) }?;
            command.spawn()
        };
        scope.spawn(spawn).join().unwrap()
    })
}

/// Gives this process, which must have one thread, a table of mounts of its own.
pub fn leave_mounts() -> io::Result<()> {
    // SAFETY: there is no other thread; a copy of the mount table changes nothing for this one.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }?;
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change(c"/", private)?;
    Ok(())
}
