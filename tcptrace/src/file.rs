//! Opening files to write, as root, where others may have been first.
//!
//! In a folder like /tmp anybody can put a link, a FIFO or a file where ours is expected, and so have
//! root write elsewhere, or to them. The kernel refuses that if it is told to (`fs.protected_symlinks`,
//! `fs.protected_regular`, `fs.protected_fifos`); here it is refused on every kernel, by the same rule,
//! and for every link on the way, not only the last.

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io,
    os::{fd::OwnedFd, unix::ffi::OsStrExt as _},
    path::{Component, Path, PathBuf},
};

use rustix::{
    fs::{
        AtFlags, CWD, FileType, Mode, OFlags, PROC_SUPER_MAGIC, Stat, fstat, fstatfs, ftruncate,
        openat, readlinkat, statat,
    },
    io::Errno,
    process::geteuid,
};

mod trust;

use trust::Refused;

/// As many links as the kernel follows.
const LINKS_MAX: u32 = 40;

/// How often a file may come and go before our eyes.
const TRIES: u32 = 16;

/// A file is as private as what it tells: processes, users, peers.
const MODE: Mode = Mode::RUSR.union(Mode::WUSR);

/// Opens a file to append to; one that is missing is created with mode 0600.
pub fn append(path: &Path) -> io::Result<File> {
    open(path, OFlags::APPEND)
}

/// Opens a file to write anew; one that is missing is created with mode 0600.
pub fn create(path: &Path) -> io::Result<File> {
    // Emptied only when it is known to be the right one.
    let file = open(path, OFlags::empty())?;
    if type_of(&fstat(&file)?) == FileType::RegularFile {
        ftruncate(&file, 0)?;
    }
    Ok(file)
}

fn open(path: &Path, how: OFlags) -> io::Result<File> {
    trust::with_own_rights(|| walk(path, how))
}

fn walk(path: &Path, how: OFlags) -> io::Result<File> {
    let how = how | OFlags::WRONLY | OFlags::CLOEXEC;
    // Nothing of the present folder is needed on the way from the root, not even that it may be searched.
    let begin = if path.is_absolute() { "/" } else { "." };
    let mut walk = Walk {
        here: folder(CWD, OsStr::new(begin), OFlags::empty())?,
        shown: PathBuf::new(),
        ahead: Vec::new(),
        links: 0,
    };
    walk.turn(path)?;
    while let Some(name) = walk.ahead.pop() {
        if !walk.ahead.is_empty() || name == ".." {
            walk.enter(&name)?;
        } else if let Some(file) = walk.open(&name, how)? {
            return Ok(file);
        }
    }
    Err(Errno::ISDIR.into())
}

/// A way through folders, name by name.
struct Walk {
    here: OwnedFd,
    /// The same for people
    shown: PathBuf,
    /// Names to go, the next one last
    ahead: Vec<OsString>,
    links: u32,
}

impl Walk {
    /// Goes on along `path`, with the names it had ahead behind it.
    fn turn(&mut self, path: &Path) -> io::Result<()> {
        match path.as_os_str().as_bytes().last() {
            None => return Err(Errno::NOENT.into()),
            Some(b'/') if self.ahead.is_empty() => return Err(Errno::ISDIR.into()),
            Some(_) => {}
        }
        for part in path.components().rev() {
            match part {
                Component::Normal(name) => self.ahead.push(name.to_owned()),
                Component::ParentDir => self.ahead.push("..".into()),
                Component::RootDir => {
                    self.here = folder(CWD, OsStr::new("/"), OFlags::empty())?;
                    self.shown = "/".into();
                }
                Component::CurDir | Component::Prefix(_) => {}
            }
        }
        Ok(())
    }

    /// Goes into a folder, or along a link.
    fn enter(&mut self, name: &OsStr) -> io::Result<()> {
        let found = statat(&self.here, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let mut how = OFlags::NOFOLLOW;
        if type_of(&found) == FileType::Symlink {
            if self.follow(name, &found)? {
                return Ok(());
            }
            how = OFlags::empty();
        }
        self.here = folder(&self.here, name, how)?;
        self.shown.push(name);
        Ok(())
    }

    /// Opens or creates the file; none if there is a link, which leads on.
    fn open(&mut self, name: &OsStr, how: OFlags) -> io::Result<Option<File>> {
        let mut last = Errno::AGAIN;
        for _ in 0..TRIES {
            let file = match statat(&self.here, name, AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) => {
                    let made = how | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
                    openat(&self.here, name, made, MODE)
                }
                Ok(found) if type_of(&found) == FileType::Symlink => {
                    if self.follow(name, &found)? {
                        return Ok(None);
                    }
                    return Ok(Some(openat(&self.here, name, how, MODE)?.into()));
                }
                Ok(found) => {
                    // Before it is opened: with a FIFO that takes until somebody reads.
                    self.check(name, &found)?;
                    let opened = openat(&self.here, name, how | OFlags::NOFOLLOW, MODE);
                    if let Ok(file) = &opened {
                        self.check(name, &fstat(file)?)?;
                    }
                    opened
                }
                Err(why) => return Err(why.into()),
            };
            match file {
                // It came, went, or became a link in the meantime.
                Err(why @ (Errno::EXIST | Errno::NOENT | Errno::LOOP)) => last = why,
                file => return Ok(Some(file?.into())),
            }
        }
        Err(last.into())
    }

    /// Turns to where a link leads; false if only the kernel can say where that is, in `/proc`.
    fn follow(&mut self, name: &OsStr, link: &Stat) -> io::Result<bool> {
        if fstatfs(&self.here)?.f_type == PROC_SUPER_MAGIC {
            return Ok(false);
        }
        self.check(name, link)?;
        self.links += 1;
        if self.links > LINKS_MAX {
            return Err(Errno::LOOP.into());
        }
        let target = readlinkat(&self.here, name, Vec::new())?;
        self.turn(Path::new(OsStr::from_bytes(target.as_bytes())))?;
        Ok(true)
    }

    /// Refuses what a stranger may have put here.
    fn check(&self, name: &OsStr, found: &Stat) -> io::Result<()> {
        let folder = fstat(&self.here)?;
        match trust::doubt(found, &folder, geteuid().as_raw()) {
            None => Ok(()),
            Some(doubt) => {
                let path = self.shown.join(name);
                let refused = Refused { path, doubt };
                Err(io::Error::new(io::ErrorKind::PermissionDenied, refused))
            }
        }
    }
}

fn type_of(found: &Stat) -> FileType {
    FileType::from_raw_mode(found.st_mode)
}

fn folder(at: impl std::os::fd::AsFd, name: &OsStr, how: OFlags) -> io::Result<OwnedFd> {
    let how = how | OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(openat(at, name, how, Mode::empty())?)
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        io::Write as _,
        os::unix::fs::{PermissionsExt as _, chown, lchown, symlink},
    };

    use super::*;

    const STRANGER: u32 = 54_321;

    /// A folder of its own for a test, with a shared one in it.
    struct Scene(PathBuf);

    impl Scene {
        /// None if we may not give files away.
        fn new(name: &str) -> Option<Self> {
            if !geteuid().is_root() {
                println!("skipped: only root can give files away");
                return None;
            }
            let unique = format!("tcptrace-{name}-{}", std::process::id());
            let scene = Self(std::env::temp_dir().join(unique));
            fs::create_dir_all(scene.shared("")).unwrap();
            let sticky = fs::Permissions::from_mode(0o1777);
            fs::set_permissions(scene.shared(""), sticky).unwrap();
            Some(scene)
        }

        fn shared(&self, name: &str) -> PathBuf {
            self.0.join("shared").join(name)
        }

        fn own(&self, name: &str) -> PathBuf {
            self.0.join(name)
        }
    }

    impl Drop for Scene {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    fn link(target: &Path, at: &Path, owner: u32) {
        symlink(target, at).unwrap();
        lchown(at, Some(owner), Some(owner)).unwrap();
    }

    fn refusal(path: &Path) -> String {
        let (appended, created) = (append(path).unwrap_err(), create(path).unwrap_err());
        assert_eq!(appended.kind(), io::ErrorKind::PermissionDenied);
        assert_eq!(appended.to_string(), created.to_string());
        appended.to_string()
    }

    #[test]
    fn a_new_file_is_private_and_appended_to() {
        let path = std::env::temp_dir().join(format!("tcptrace-new-{}", std::process::id()));
        for line in [b"one\n", b"two\n"] {
            append(&path).unwrap().write_all(line).unwrap();
        }
        assert_eq!(fs::read(&path).unwrap(), b"one\ntwo\n");
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o600);
        create(&path).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"");
        fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_strangers_link_is_not_followed() {
        let Some(scene) = Scene::new("link") else {
            return;
        };
        fs::write(scene.own("precious"), "kept").unwrap();
        let bait = scene.shared("out");
        link(&scene.own("precious"), &bait, STRANGER);
        let why = refusal(&bait);
        assert!(
            why.starts_with(&format!("{} belongs to user {STRANGER},", bait.display())),
            "{why}"
        );
        assert_eq!(fs::read(scene.own("precious")).unwrap(), b"kept");

        // One that leads nowhere yet, one that is a folder, one behind a link of ours.
        link(&scene.own("not-there"), &scene.shared("dangling"), STRANGER);
        refusal(&scene.shared("dangling"));
        assert!(!scene.own("not-there").exists());
        link(&scene.0, &scene.shared("folder"), STRANGER);
        refusal(&scene.shared("folder/out"));
        assert!(!scene.own("out").exists());
        link(&bait, &scene.own("ours"), 0);
        refusal(&scene.own("ours"));
        assert_eq!(fs::read(scene.own("precious")).unwrap(), b"kept");
    }

    #[test]
    fn a_strangers_file_or_fifo_is_not_written_to() {
        let Some(scene) = Scene::new("file") else {
            return;
        };
        fs::write(scene.shared("file"), "theirs").unwrap();
        let fifo = FileType::Fifo;
        rustix::fs::mknodat(CWD, scene.shared("fifo"), fifo, Mode::RWXU, 0).unwrap();
        for name in ["file", "fifo"] {
            chown(scene.shared(name), Some(STRANGER), None).unwrap();
            refusal(&scene.shared(name));
        }
        assert_eq!(fs::read(scene.shared("file")).unwrap(), b"theirs");
    }

    #[test]
    fn a_second_name_of_a_file_is_not_written_to() {
        let Some(scene) = Scene::new("names") else {
            return;
        };
        fs::write(scene.own("precious"), "kept").unwrap();
        fs::hard_link(scene.own("precious"), scene.shared("out")).unwrap();
        let why = refusal(&scene.shared("out"));
        assert!(why.contains("has other names"), "{why}");
        assert_eq!(fs::read(scene.own("precious")).unwrap(), b"kept");
        // In a folder of our own nobody else makes names.
        append(&scene.own("precious")).unwrap();
    }

    #[test]
    fn a_folder_is_shared_without_the_sticky_bit_too() {
        let Some(scene) = Scene::new("modes") else {
            return;
        };
        fs::write(scene.own("precious"), "kept").unwrap();
        for mode in [0o1770, 0o777, 0o775] {
            let mode = fs::Permissions::from_mode(mode);
            fs::set_permissions(scene.shared(""), mode).unwrap();
            link(&scene.own("precious"), &scene.shared("out"), STRANGER);
            refusal(&scene.shared("out"));
            fs::remove_file(scene.shared("out")).unwrap();
        }
        assert_eq!(fs::read(scene.own("precious")).unwrap(), b"kept");
    }

    #[test]
    fn what_is_ours_or_in_a_folder_of_its_owner_is_opened() {
        let Some(scene) = Scene::new("ours") else {
            return;
        };
        // Ours, absolute and relative, also as a folder, also to what is not there yet.
        link(&scene.own("target"), &scene.shared("link"), 0);
        append(&scene.shared("link")).unwrap();
        link(Path::new("../target"), &scene.shared("relative"), 0);
        append(&scene.shared("relative")).unwrap();
        link(Path::new(".."), &scene.shared("folder"), 0);
        append(&scene.shared("folder/./shared/../target")).unwrap();
        assert!(scene.own("target").is_file());
        append(&scene.shared("file")).unwrap();
        append(&scene.shared("file")).unwrap();
        // The folder's owner's.
        chown(scene.shared(""), Some(STRANGER), None).unwrap();
        link(&scene.own("target"), &scene.shared("owners"), STRANGER);
        append(&scene.shared("owners")).unwrap();
        // In a folder that is not shared.
        link(&scene.own("target"), &scene.own("private"), STRANGER);
        append(&scene.own("private")).unwrap();
    }

    #[test]
    fn what_the_kernel_alone_can_follow_it_follows() {
        let path = std::env::temp_dir().join(format!("tcptrace-fd-{}", std::process::id()));
        let file = append(&path).unwrap();
        let fd = std::os::fd::AsRawFd::as_raw_fd(&file);
        for alias in [format!("/dev/fd/{fd}"), format!("/proc/self/fd/{fd}")] {
            append(Path::new(&alias)).unwrap().write_all(b"x").unwrap();
        }
        assert_eq!(fs::read(&path).unwrap(), b"xx");
        fs::remove_file(&path).unwrap();
        append(Path::new("/dev/null")).unwrap();
        create(Path::new("/dev/null")).unwrap();
    }

    #[test]
    fn links_in_a_circle_and_folders_are_errors() {
        let folder = std::env::temp_dir().join(format!("tcptrace-circle-{}", std::process::id()));
        fs::create_dir(&folder).unwrap();
        symlink("circle", folder.join("circle")).unwrap();
        let raw = |path: &Path| append(path).unwrap_err().raw_os_error();
        let is = |errno: Errno| Some(errno.raw_os_error());
        assert_eq!(raw(&folder.join("circle")), is(Errno::LOOP));
        assert_eq!(raw(&folder), is(Errno::ISDIR));
        assert_eq!(raw(&folder.join("..")), is(Errno::ISDIR));
        assert_eq!(raw(&folder.join("new/")), is(Errno::ISDIR));
        assert_eq!(raw(&folder.join("gone/new")), is(Errno::NOENT));
        assert_eq!(raw(Path::new("")), is(Errno::NOENT));
        assert_eq!(raw(Path::new("/")), is(Errno::ISDIR));
        fs::remove_dir_all(&folder).unwrap();
    }
}
