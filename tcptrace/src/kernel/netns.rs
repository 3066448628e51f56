//! The network namespaces of this host.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs::{self, File},
    os::{fd::AsFd as _, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
    thread,
};

use anyhow::Context as _;
use rustix::{
    fs::{Mode, OFlags, StatFs, fstatfs, open, statfs},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

/// `NSFS_MAGIC`, include/uapi/linux/magic.h: where namespaces are files
const NSFS_MAGIC: i64 = 0x6e73_6673;

/// A network namespace and a file that stands for it.
#[derive(Debug)]
pub struct Namespace {
    /// As in `lsns` and `ip netns`
    pub inode: u64,
    path: PathBuf,
}

/// Our own.
pub fn own() -> Option<u64> {
    fs::metadata("/proc/self/ns/net")
        .ok()
        .map(|metadata| metadata.ino())
}

/// Every namespace that a process lives in or that is kept by name, each once.
pub fn all() -> Vec<Namespace> {
    let processes = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name();
            let numeric = name.as_encoded_bytes().iter().all(u8::is_ascii_digit);
            numeric.then(|| entry.path().join("ns/net"))
        });
    let named = ["/run/netns", "/run/docker/netns"]
        .into_iter()
        .flat_map(|folder| fs::read_dir(folder).into_iter().flatten().flatten())
        .map(|entry| entry.path())
        .filter(|path| statfs(path).is_ok_and(|found| is_nsfs(&found)));
    let mut namespaces = BTreeMap::new();
    for path in processes.chain(named) {
        if let Ok(metadata) = fs::metadata(&path) {
            namespaces.entry(metadata.ino()).or_insert(path);
        }
    }
    namespaces
        .into_iter()
        .map(|(inode, path)| Namespace { inode, path })
        .collect()
}

impl Namespace {
    /// What it is called: its name in `/run/netns` or `/run/docker/netns`.
    pub fn name(&self) -> Option<&OsStr> {
        (!self.path.starts_with("/proc")).then(|| self.path.file_name())?
    }

    /// Moves the calling thread into it. Needs `CAP_SYS_ADMIN`.
    fn enter(&self) -> anyhow::Result<()> {
        let file = open_namespace(&self.path)?;
        let inode = file.metadata()?.ino();
        anyhow::ensure!(inode == self.inode, "it is gone");
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
            .context("cannot enter it")
    }
}

/// Runs `work` on a thread of its own inside the namespace. Needs `CAP_SYS_ADMIN`.
pub fn within<T: Send>(
    namespace: &Namespace,
    work: impl FnOnce() -> anyhow::Result<T> + Send,
) -> anyhow::Result<T> {
    on_a_thread(|| {
        namespace.enter()?;
        work()
    })
}

/// Runs `work` inside each namespace in turn, all on one thread, as far as it can be entered.
pub fn within_each<T: Send>(
    namespaces: &[Namespace],
    work: impl Fn(&Namespace) -> anyhow::Result<T> + Sync,
) -> Vec<anyhow::Result<T>> {
    let done = on_a_thread(|| {
        let inside = |namespace: &Namespace| {
            namespace.enter()?;
            work(namespace)
        };
        Ok(namespaces.iter().map(inside).collect())
    });
    done.unwrap_or_else(|why| {
        let failed = |_namespace| Err(anyhow::anyhow!("{why:#}"));
        namespaces.iter().map(failed).collect()
    })
}

fn on_a_thread<T: Send>(work: impl FnOnce() -> anyhow::Result<T> + Send) -> anyhow::Result<T> {
    thread::scope(|scope| {
        thread::Builder::new()
            .spawn_scoped(scope, work)
            .context("no thread can be started")?
            .join()
            .unwrap_or_else(|_panic| Err(anyhow::anyhow!("the thread inside it failed")))
    })
}

/// Opens what stands for a namespace, and nothing else: the opening of a FIFO, which somebody may have
/// put in its place, would wait for another to open it.
fn open_namespace(path: &Path) -> anyhow::Result<File> {
    let how = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = File::from(open(path, how, Mode::empty())?);
    anyhow::ensure!(is_nsfs(&fstatfs(&file)?), "it is no namespace");
    Ok(file)
}

fn is_nsfs(found: &StatFs) -> bool {
    found.f_type == NSFS_MAGIC
}
