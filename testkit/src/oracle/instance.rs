//! An instance of ftrace: buffers, a clock and filters of its own.

use std::{
    fs::{self, File},
    io::Read as _,
    path::{Path, PathBuf},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use rustix::mount::{MountFlags, UnmountFlags};

use crate::{confinement, wait};

const NAME_PREFIX: &str = "tcptrace-test-";

static TRACEFS: OnceLock<PathBuf> = OnceLock::new();
static COUNT: AtomicU32 = AtomicU32::new(0);

/// Gives this process a table of mounts of its own, with securityfs in it, so that the mode of
/// lockdown can be read. Call it before there are threads.
pub fn see_lockdown() {
    const SECURITYFS: &str = "/sys/kernel/security";
    confinement::leave_mounts().unwrap();
    let is_empty = fs::read_dir(SECURITYFS).is_ok_and(|mut folder| folder.next().is_none());
    if is_empty {
        // Without it the kernel is taken for one that is not locked down.
        let none = MountFlags::empty();
        let _missing = rustix::mount::mount("securityfs", SECURITYFS, "securityfs", none, None);
    }
}

/// Mounts tracefs where only this process and its children see it, and clears away the instances
/// of earlier runs that were killed. Call [`see_lockdown`] before.
///
/// The tracer must not profit from the mount: it goes to a folder nobody looks into.
pub fn prepare() {
    let folder = std::env::temp_dir().join(format!("{NAME_PREFIX}{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    rustix::mount::mount("tracefs", &folder, "tracefs", MountFlags::empty(), None)
        .expect("mount tracefs: the kernel needs CONFIG_FTRACE");

    for entry in fs::read_dir(folder.join("instances")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let pid = name
            .strip_prefix(NAME_PREFIX)
            .and_then(|rest| rest.split('-').next());
        if let Some(pid) = pid
            && !Path::new("/proc").join(pid).exists()
        {
            fs::remove_dir(folder.join("instances").join(name)).unwrap();
        }
    }
    TRACEFS.set(folder).unwrap();
}

/// Whether `tcp:tcp_send_reset` gives the kernel's reason.
pub fn tells_reset_reason() -> bool {
    let format = TRACEFS
        .get()
        .unwrap()
        .join("events/tcp/tcp_send_reset/format");
    fs::read_to_string(format).unwrap().contains("reason")
}

/// The mount itself goes with the process; its folder does not.
pub fn clean_up() {
    if let Some(folder) = TRACEFS.get() {
        rustix::mount::unmount(folder, UnmountFlags::DETACH).unwrap();
        fs::remove_dir(folder).unwrap();
    }
}

/// A folder below `instances`.
#[derive(Debug)]
pub(super) struct Instance(PathBuf);

impl Instance {
    /// One that records nothing yet.
    pub(super) fn idle() -> Self {
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{NAME_PREFIX}{}-{count}", std::process::id());
        let folder = TRACEFS.get().unwrap().join("instances").join(name);
        fs::create_dir(&folder).unwrap();
        let instance = Self(folder);
        instance.write("tracing_on", "0");
        // The clock of the tracer's records.
        instance.write("trace_clock", "mono");
        instance
    }

    pub(super) fn write(&self, file: &str, text: &str) {
        let path = self.0.join(file);
        fs::write(&path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }

    pub(super) fn text(&self, file: &str) -> String {
        let path = self.0.join(file);
        let mut text = vec![0; 1 << 16];
        // In one piece: a second read of some of these files returns nothing.
        let len = File::open(&path)
            .and_then(|mut file| file.read(&mut text))
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        text.truncate(len);
        String::from_utf8(text).unwrap()
    }

    /// Its folders of single processors.
    pub(super) fn cpus(&self) -> Vec<PathBuf> {
        let cpus = fs::read_dir(self.0.join("per_cpu")).unwrap();
        cpus.map(|cpu| cpu.unwrap().path()).collect()
    }
}

/// What a processor's `stats` count.
pub(super) fn stats(cpu: &Path) -> Vec<(String, u64)> {
    let text = fs::read_to_string(cpu.join("stats")).unwrap();
    let counts = text.lines().filter_map(|line| line.split_once(": "));
    counts
        .filter_map(|(name, count)| Some((name.to_owned(), count.trim().parse().ok()?)))
        .collect()
}

impl Drop for Instance {
    fn drop(&mut self) {
        // A process that another thread is starting may have copies of our files for a moment.
        let mut last = None;
        let removed = wait::poll(Duration::from_secs(5), || {
            fs::remove_dir(&self.0)
                .map_err(|error| last = Some(error))
                .ok()
        });
        if let (None, Some(error)) = (removed, last) {
            eprintln!("{}: {error}", self.0.display());
        }
    }
}

/// Where the function is that every time-wait socket's timer calls.
pub(super) fn time_wait_handler() -> u64 {
    let symbols = fs::read_to_string("/proc/kallsyms").unwrap();
    let line = symbols
        .lines()
        .find(|line| line.split(' ').nth(2) == Some("tw_timer_handler"))
        .expect("tw_timer_handler in /proc/kallsyms");
    u64::from_str_radix(line.split(' ').next().unwrap(), 16).unwrap()
}
