//! What a process is: the path of its executable, and of its cgroup.
//!
//! All is read of a thread-group leader by probe: of the running one, and of one that an iterator came by.

use aya_ebpf::helpers::generated::{
    bpf_probe_read_kernel, bpf_probe_read_kernel_str, bpf_probe_read_user,
};
use tcptrace_common::record::{
    KIND_PROCESS, PROCESS_ARGS_MAX, PROCESS_PATH_MAX, ProcessRecord, Record,
};

use crate::{
    constants::{config, off},
    emit,
    filter::pattern,
    kernel::{self, Object as _, Probed},
    maps::{KNOWN, SCRATCH},
};

/// Room for a path. It is written from its end to its beginning, so what does not fit is its beginning.
pub(crate) const PATH_MAX: u32 = PROCESS_PATH_MAX as u32;
/// The longest name of a file or a cgroup.
const NAME_MAX: u32 = 255;
/// Directories and mount points that a path may lead through.
const DEPTH_MAX: u32 = 32;

/// Bytes of one place in [`SCRATCH`]: a record with the command line, and behind it room for one name. A name
/// in the second path may reach into the command line's room, which is filled last.
pub(crate) const SCRATCH_BYTES: usize =
    size_of::<ProcessRecord>() + PROCESS_ARGS_MAX + NAME_MAX as usize + 1;
/// Where the executable's path stands in a place of [`SCRATCH`].
pub(crate) const EXE: u32 = core::mem::offset_of!(ProcessRecord, exe) as u32;
/// Where the cgroup's path stands.
const CGROUP: u32 = core::mem::offset_of!(ProcessRecord, cgroup) as u32;
/// Where the command line stands.
const ARGS: u32 = size_of::<ProcessRecord>() as u32;

/// Who uses which place in [`SCRATCH`]: the kernel runs a program once at a time on each CPU, so each has
/// one of its own there.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Place {
    /// `hook::introduce`, before all other programs at a transition
    Introduce = 0,
    /// The accept hook
    Accept = 1,
    /// What the agent runs, one after another
    Agent = 2,
    /// The program at fork
    Fork = 3,
}

/// Places in [`SCRATCH`].
pub(crate) const PLACES: u32 = 4;

/// A path in a place of [`SCRATCH`].
#[derive(Clone, Copy)]
pub(crate) struct Path {
    /// Where it begins, counted from the beginning of its room; it ends at [`PATH_MAX`]
    pub at: u32,
    /// Nothing of it is missing
    pub whole: bool,
}

/// A place in [`SCRATCH`].
#[derive(Clone, Copy)]
pub(crate) struct Room(*mut u8);

impl Room {
    /// The place of this program.
    #[inline(always)]
    pub(crate) fn of(place: u32) -> Option<Self> {
        SCRATCH.get_ptr_mut(place).map(|place| Self(place.cast()))
    }

    /// The place as memory for something else, before it is needed for paths.
    #[inline(always)]
    pub(crate) fn record<T>(self) -> &'static mut T {
        const { assert!(size_of::<T>() <= SCRATCH_BYTES) };
        // SAFETY: this program's own place, which is aligned to words; callers ask for records of integers, of
        // which any bytes are a value.
        unsafe { &mut *self.0.cast::<T>() }
    }

    /// One byte of a path.
    #[inline(always)]
    pub(crate) fn byte(self, room: u32, at: u32) -> u8 {
        let at = kernel::number(u64::from(at)) & u64::from(PATH_MAX - 1);
        let byte = self.0.wrapping_add(room as usize).wrapping_add(at as usize);
        // SAFETY: inside this program's own place.
        unsafe { *byte }
    }

    /// Writes `/` and a name before what begins at `at`. Returns where that begins now; none if there is no
    /// room.
    #[inline(always)]
    fn prepend(self, room: u32, at: u32, name: u64, len: u32) -> Option<u32> {
        if len > NAME_MAX || len + 1 > at {
            return None;
        }
        let begin = at - len - 1;
        let masked = kernel::number(u64::from(begin)) & u64::from(PATH_MAX - 1);
        let slash = self
            .0
            .wrapping_add(room as usize)
            .wrapping_add(masked as usize);
        // SAFETY: inside this program's own place.
        unsafe { *slash = b'/' };
        let len = kernel::number(u64::from(len)) & u64::from(NAME_MAX);
        // SAFETY: the helper writes at most 255 bytes, which stay inside the place.
        let _unread = unsafe {
            bpf_probe_read_kernel(slash.wrapping_add(1).cast(), len as u32, name as *const _)
        };
        Some(begin)
    }

    /// Where a name is put down for a moment, to learn its length.
    #[inline(always)]
    fn aside(self) -> *mut u8 {
        self.0.wrapping_add(ARGS as usize + PROCESS_ARGS_MAX)
    }

    /// Writes the path of the executable (`mm->exe_file`), as `/proc/PID/exe` shows it from the root of the
    /// process's mount namespace (`prepend_path`, `fs/d_path.c`).
    #[inline(never)]
    pub(crate) fn exe(self, leader: u64) -> Path {
        let mut path = Path {
            at: PATH_MAX,
            whole: false,
        };
        let mm = Probed(Probed(leader).read(off!(task_mm)));
        let file = Probed(mm.read(off!(mm_exe_file)));
        if mm.0 == 0 || file.0 == 0 {
            return path;
        }
        let mut dentry = Probed(file.read(off!(file_dentry)));
        let mnt: u64 = file.read(off!(file_mnt));
        let mut mount = Probed(mnt.wrapping_sub(u64::from(off!(mount_mnt))));
        for _ in 0..DEPTH_MAX {
            path.at = opaque(path.at);
            let root: u64 = mount.read(off!(mount_mnt) + off!(mnt_root));
            if dentry.0 == root {
                let parent: u64 = mount.read(off!(mount_parent));
                if parent == mount.0 {
                    path.whole = path.at < PATH_MAX;
                    return path;
                }
                dentry = Probed(mount.read(off!(mount_mountpoint)));
                mount = Probed(parent);
                continue;
            }
            let parent: u64 = dentry.read(off!(dentry_parent));
            let name: u64 = dentry.read(off!(dentry_name));
            let len: u32 = dentry.read(off!(dentry_name_len));
            let Some(at) = self.prepend(EXE, path.at, name, len) else {
                return path;
            };
            path.at = at;
            // A file without a directory, as of `memfd_create()`.
            if parent == dentry.0 {
                path.whole = true;
                return path;
            }
            dentry = Probed(parent);
        }
        path
    }

    /// Writes the path of a cgroup, of its `struct kernfs_node`.
    #[inline(never)]
    pub(crate) fn cgroup(self, node: u64) -> Path {
        let mut path = Path {
            at: PATH_MAX,
            whole: false,
        };
        let mut node = Probed(node);
        for _ in 0..DEPTH_MAX {
            path.at = opaque(path.at);
            let parent: u64 = node.read(off!(kn_parent));
            if parent == 0 {
                path.whole = node.0 != 0;
                return path;
            }
            let name: u64 = node.read(off!(kn_name));
            // SAFETY: the helper writes at most 256 bytes into this program's own place.
            let len = unsafe {
                bpf_probe_read_kernel_str(self.aside().cast(), NAME_MAX + 1, name as *const _)
            };
            if len < 1 {
                return path;
            }
            let Some(at) = self.prepend(CGROUP, path.at, name, len as u32 - 1) else {
                return path;
            };
            path.at = at;
            node = Probed(parent);
        }
        path
    }
}

/// A number below 65,536 of which the verifier knows nothing: what it knows would keep it from seeing that it
/// has been here before.
#[inline(always)]
pub(crate) fn opaque(number: u32) -> u32 {
    let mut number = u64::from(number);
    // SAFETY: two instructions, which change nothing but their register.
    unsafe { core::arch::asm!("{0} = be16 {0}", "{0} = be16 {0}", inout(reg) number) };
    number as u32
}

/// The cgroups of a task, as `struct kernfs_node`: in the unified hierarchy, and that of its `pids`
/// controller where that is one of version 1, or 0.
#[inline(always)]
pub(crate) fn cgroups(leader: Probed) -> [u64; 2] {
    let set = Probed(leader.read(off!(task_cgroups)));
    let unified = Probed(set.read(off!(cset_dfl)));
    let css = Probed(set.read(off!(cset_css)));
    let other = Probed(css.read(off!(css_cgroup)));
    let root: u64 = unified.read(off!(cgroup_root));
    let other_root: u64 = other.read(off!(cgroup_root));
    let node = unified.read(off!(cgroup_kn));
    if other.0 == 0 || other_root == root {
        return [node, 0];
    }
    [node, other.read(off!(cgroup_kn))]
}

/// Which of the processes is meant that have, had or will have the same id: not 0. They begin at different
/// times, and what each executes is told apart as well.
#[inline(always)]
fn instance(start_ns: u64, executed: u32) -> u32 {
    // Nothing begins in less than a microsecond after its id was another's.
    let instance = ((start_ns >> 10) as u32).wrapping_add(executed);
    if instance == 0 { 1 } else { instance }
}

/// What is known of the process that has an id now, or had it last.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Known {
    /// Which of the processes with this id
    pub which: u32,
    /// `REPORTED`, `EXE_TAKEN`, `CGROUP_TAKEN`, `CONTAINER_TAKEN`
    pub flags: u32,
}

/// The agent has been told what it is.
const REPORTED: u32 = 1;
/// `--exe` takes it.
pub(crate) const EXE_TAKEN: u32 = 2;
/// `--container` takes it.
pub(crate) const CONTAINER_TAKEN: u32 = 4;
/// `--cgroup` takes it.
pub(crate) const CGROUP_TAKEN: u32 = 8;

/// Which process of its id a thread-group leader leads.
#[inline(always)]
fn which_of(leader: Probed) -> u32 {
    let start_ns = leader.read(off!(task_start_boottime));
    instance(start_ns, leader.read(off!(task_exec_id)))
}

/// What is known of a process, worked out now if it is new.
#[inline(always)]
fn meet(tgid: u32, leader: Probed, place: Place) -> Known {
    let which = which_of(leader);
    // SAFETY: the value is copied at once.
    if let Some(known) = unsafe { KNOWN.get(tgid) }
        && known.which == which
    {
        return *known;
    }
    let mut flags = 0;
    if config!(by_exe) != 0 && pattern::exe_matches(leader.0, place as u32) {
        flags |= EXE_TAKEN;
    }
    if config!(by_container) != 0 && pattern::container_matches(leader.0) {
        flags |= CONTAINER_TAKEN;
    }
    if config!(by_cgroup) != 0 && pattern::cgroup_matches(leader.0) {
        flags |= CGROUP_TAKEN;
    }
    let known = Known { which, flags };
    // Without room it is not taken, and worked out once more when it is met again.
    let _full = KNOWN.insert(tgid, known, 0);
    known
}

/// Meets a process, so that filters know of it.
#[inline(always)]
pub(crate) fn look(tgid: u32, leader: Probed, place: Place) {
    if config!(by_exe) != 0 || config!(by_container) != 0 || config!(by_cgroup) != 0 {
        meet(tgid, leader, place);
    }
}

/// Whether a filter takes a process that was met.
#[inline(always)]
pub(crate) fn is_taken(tgid: u32, by: u32) -> bool {
    // SAFETY: the value is copied at once.
    unsafe { KNOWN.get(tgid) }.is_some_and(|known| known.flags & by != 0)
}

/// Which process of its id this one is; 0 where that cannot be known.
#[inline(always)]
pub(crate) fn which(tgid: u32, leader: Probed) -> u32 {
    if config!(processes) == 0 || tgid == 0 {
        return 0;
    }
    which_of(leader)
}

/// Tells what a process is, unless that has been told. `current`: it is the running one. Returns which process
/// of its id it is; 0 where that cannot be known.
#[inline(always)]
pub(crate) fn introduce(tgid: u32, leader: Probed, place: Place, current: bool) -> u32 {
    if config!(processes) == 0 || tgid == 0 {
        return 0;
    }
    let known = meet(tgid, leader, place);
    if known.flags & REPORTED == 0 {
        let place = place as u32 | u32::from(current) << 8;
        describe(tgid, leader.0, place, known.which, known.flags);
    }
    known.which
}

/// Sends the record of a process. A function of its own: most processes are known.
#[inline(never)]
fn describe(tgid: u32, leader: u64, place: u32, which: u32, flags: u32) {
    let current = place >> 8 != 0;
    let Some(room) = Room::of(place & 0xff) else {
        return;
    };
    let exe = room.exe(leader);
    let leader = Probed(leader);
    let [unified, other] = cgroups(leader);
    let cgroup = room.cgroup(if other == 0 { unified } else { other });
    let args_len = if config!(args) != 0 && current {
        room.args(leader)
    } else {
        0
    };
    let record = room.record::<ProcessRecord>();
    record.head = Record::EMPTY;
    record.head.kind = KIND_PROCESS;
    record.head.mono_ns = kernel::now_ns();
    record.head.process = which;
    record.head.owner.tgid = tgid;
    record.start_ns = leader.read(off!(task_start_boottime));
    record.ppid = Probed(leader.read(off!(task_parent))).read(off!(task_tgid));
    record.exe_at = if exe.whole { exe.at } else { PATH_MAX } as u16;
    record.cgroup_at = cgroup.at as u16;
    record.args_len = args_len;
    record.reserved = [0; 3];
    if emit::process(record) {
        let known = Known {
            which,
            flags: flags | REPORTED,
        };
        let _full = KNOWN.insert(tgid, known, 0);
    }
}

impl Room {
    /// Reads the command line of the running process. Returns how long it is; 0 where it cannot be read.
    #[inline(always)]
    fn args(self, leader: Probed) -> u16 {
        let mm = Probed(leader.read(off!(task_mm)));
        let start: u64 = mm.read(off!(mm_arg_start));
        let end: u64 = mm.read(off!(mm_arg_end));
        let len = end.wrapping_sub(start);
        if mm.0 == 0 || start == 0 || end <= start {
            return 0;
        }
        let len = if len > PROCESS_ARGS_MAX as u64 {
            PROCESS_ARGS_MAX as u64
        } else {
            kernel::number(len) & (PROCESS_ARGS_MAX as u64 - 1)
        };
        let into = self.0.wrapping_add(ARGS as usize);
        // SAFETY: the helper writes at most `PROCESS_ARGS_MAX` bytes, for which there is room.
        let read = unsafe { bpf_probe_read_user(into.cast(), len as u32, start as *const _) };
        if read == 0 { len as u16 } else { 0 }
    }
}
