//! Debian's archive, through apt with a state of its own: the system's stays as it is.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail};

use crate::arch::Arch;
use crate::mirror;
use toolchain::workspace;

/// Point versions come and go every few days.
const INDEX_AGE: Duration = Duration::from_hours(12);

/// A kernel in the archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// As in `6.12.107`
    pub version: String,
    /// What the packages are named after, as in `6.12.107+deb13`
    pub release: String,
    /// The kernel, and its modules if they are apart and still there
    pub packages: Vec<String>,
    order: Vec<u32>,
}

/// The index of the packages, and where to download to.
#[derive(Debug)]
pub struct Archive {
    folder: PathBuf,
    arch: Arch,
    candidates: Vec<Candidate>,
}

impl Archive {
    /// Reads the index, and gets it first if there is none or it is old.
    pub fn open(folder: &Path, arch: Arch) -> Result<Self> {
        let apt = folder.join("apt");
        fs::create_dir_all(apt.join("state/lists/partial"))?;
        fs::create_dir_all(apt.join("cache/archives/partial"))?;
        fs::write(apt.join("status"), "")?;
        fs::write(apt.join("sources.list"), mirror::sources()?)?;
        let quoted = apt.display();
        let debian = arch.debian();
        fs::write(
            apt.join("apt.conf"),
            format!(
                "Dir::State \"{quoted}/state\";\n\
                 Dir::State::status \"{quoted}/status\";\n\
                 Dir::Cache \"{quoted}/cache\";\n\
                 Dir::Etc::sourcelist \"{quoted}/sources.list\";\n\
                 Dir::Etc::sourceparts \"-\";\n\
                 APT::Architecture \"{debian}\";\n\
                 APT::Sandbox::User \"root\";\n\
                 Debug::NoLocking \"true\";\n\
                 Acquire::Languages \"none\";\n\
                 Acquire::IndexTargets::deb::DEP-11::DefaultEnabled \"false\";\n"
            ),
        )?;
        let mut archive = Self {
            folder: folder.to_owned(),
            arch,
            candidates: Vec::new(),
        };
        archive.refresh()?;
        archive.candidates = archive.list()?;
        Ok(archive)
    }

    /// Where prepared kernels are kept.
    pub fn kernels(&self) -> PathBuf {
        self.folder.join("kernels")
    }

    /// The kernels that `wanted` names, newest first.
    pub fn find(&self, wanted: &str) -> Vec<&Candidate> {
        let prefix = match wanted {
            "newest" => String::new(),
            series => format!("{series}."),
        };
        self.candidates
            .iter()
            .filter(|candidate| {
                candidate.version == wanted || candidate.version.starts_with(&prefix)
            })
            .collect()
    }

    /// Gets the packages of a kernel into a folder and unpacks them there.
    pub fn unpack(&self, candidate: &Candidate, folder: &Path) -> Result<()> {
        let debs = folder.join("debs");
        fs::create_dir_all(&debs)?;
        let mut download = self.apt("apt-get");
        download
            .args(["--quiet", "download"])
            .args(&candidate.packages)
            .current_dir(&debs);
        workspace::run_quietly(&mut download)?;
        unpack_all(&debs, folder)
    }

    /// Whether [`Self::programs`] has done that already.
    pub fn has_programs(&self, name: &str) -> bool {
        self.folder.join(name).exists()
    }

    /// A folder with these packages and all they need, unpacked; `name` is its own.
    pub fn programs(&self, name: &str, packages: &[&str]) -> Result<PathBuf> {
        let folder = self.folder.join(name);
        if !folder.exists() {
            let debs = self.folder.join("apt/cache/archives");
            for deb in debs_in(&debs)? {
                fs::remove_file(deb)?;
            }
            eprintln!("getting {}...", packages.join(" and "));
            let mut install = self.apt("apt-get");
            install
                .args([
                    "--quiet",
                    "--yes",
                    "--no-install-recommends",
                    "--download-only",
                ])
                .arg("install")
                .args(packages);
            workspace::run_quietly(&mut install)?;
            let partial = folder.with_extension("partial");
            if partial.exists() {
                fs::remove_dir_all(&partial)?;
            }
            fs::create_dir_all(&partial)?;
            unpack_all(&debs, &partial)?;
            fs::rename(&partial, &folder)?;
        }
        Ok(folder)
    }

    fn refresh(&self) -> Result<()> {
        let stamp = self.folder.join("apt/refreshed");
        let age = fs::metadata(&stamp)
            .and_then(|stamp| stamp.modified())
            .ok()
            .and_then(|then| then.elapsed().ok());
        if age.is_some_and(|age| age < INDEX_AGE) {
            return Ok(());
        }
        eprintln!("getting the index of Debian's kernels...");
        let mut update = self.apt("apt-get");
        update.args(["--quiet", "--error-on=any", "update"]);
        match workspace::run_quietly(&mut update) {
            Ok(()) => fs::write(stamp, "")?,
            Err(error) if age.is_some() => eprintln!("the old index has to do: {error:#}"),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn list(&self) -> Result<Vec<Candidate>> {
        let names = self.query(&[
            "search",
            "--names-only",
            &format!(
                "^linux-(image|binary|modules)-[0-9].*{}$",
                flavour(self.arch)
            ),
        ])?;
        let names: Vec<&str> = names
            .lines()
            .filter_map(|line| line.split_once(' ').map(|(name, _)| name))
            .collect();
        let mut show = vec!["show", "--no-all-versions"];
        show.extend(&names);
        let packages = self.query(&show)?;
        Ok(candidates(&packages, &flavour(self.arch)))
    }

    fn query(&self, args: &[&str]) -> Result<String> {
        let output = self.apt("apt-cache").args(args).output()?;
        if !output.status.success() {
            bail!("apt-cache: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(String::from_utf8(output.stdout)?)
    }

    fn apt(&self, program: &str) -> Command {
        let mut apt = Command::new(program);
        apt.env("APT_CONFIG", self.folder.join("apt/apt.conf"));
        apt
    }
}

/// How the names of the kernels end that Debian builds for virtual machines.
fn flavour(arch: Arch) -> String {
    format!("-cloud-{}", arch.debian())
}

fn unpack_all(debs: &Path, folder: &Path) -> Result<()> {
    for deb in debs_in(debs)? {
        let mut unpack = Command::new("dpkg-deb");
        unpack.arg("--extract").arg(deb).arg(folder);
        workspace::run_quietly(&mut unpack)?;
    }
    Ok(())
}

fn debs_in(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut debs = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            debs.push(path);
        }
    }
    Ok(debs)
}

/// From what `apt-cache show` prints; newest first.
fn candidates(packages: &str, flavour: &str) -> Vec<Candidate> {
    let packages: Vec<(&str, &str)> = packages
        .split("\n\n")
        .filter_map(|package| {
            let field = |name| package.lines().find_map(|line| line.strip_prefix(name));
            Some((field("Package: ")?, field("Version: ")?))
        })
        .collect();
    let exists = |name: &str| packages.iter().any(|(package, _)| *package == name);

    let mut candidates: Vec<_> = packages
        .iter()
        .filter_map(|&(package, version)| {
            let name = package.strip_suffix(flavour)?;
            let (apart, release) = match name.strip_prefix("linux-binary-") {
                Some(release) => (true, release),
                None => (false, name.strip_prefix("linux-image-")?),
            };
            // Packages named after a series only depend on its newest kernel. Where the kernel
            // is apart from its modules, `linux-image` only depends on both.
            let is_kernel = release.split('.').count() > 2
                && (apart || !exists(&format!("linux-binary-{release}{flavour}")));
            if !is_kernel {
                return None;
            }
            let mut wanted = vec![package.to_owned()];
            let modules = format!("linux-modules-{release}{flavour}");
            if apart && exists(&modules) {
                wanted.push(modules);
            }
            Some(Candidate {
                version: version.split('-').next()?.to_owned(),
                release: release.to_owned(),
                packages: wanted,
                order: order(version),
            })
        })
        .collect();
    candidates.sort_by(|left, right| right.order.cmp(&left.order));
    candidates
}

/// The numbers of a version; one built for an older release of Debian comes before the one it
/// was built from.
fn order(version: &str) -> Vec<u32> {
    let (original, rebuilt) = match version.split_once('~') {
        Some((original, _)) => (original, true),
        None => (version, false),
    };
    original
        .split(|digit: char| !digit.is_ascii_digit())
        .filter_map(|number| number.parse().ok())
        .chain([u32::from(!rebuilt)])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACKAGES: &str = "\
Package: linux-image-6.1-cloud-amd64
Version: 6.1.192-2

Package: linux-image-6.1.0-9-cloud-amd64
Version: 6.1.27-1

Package: linux-image-6.1.0-56-cloud-amd64
Version: 6.1.192-2

Package: linux-image-6.1.0-0.deb11.56-cloud-amd64
Version: 6.1.192-2~deb11u1

Package: linux-image-7.3.4+deb13-cloud-amd64
Version: 7.3.4-1~bpo13+1

Package: linux-binary-7.3.4+deb13-cloud-amd64
Version: 7.3.4-1~bpo13+1

Package: linux-modules-7.3.4+deb13-cloud-amd64
Version: 7.3.4-1~bpo13+1

Package: linux-binary-7.0.13+deb13-cloud-amd64
Version: 7.0.13-1~bpo13+1
";

    #[test]
    fn kernels_are_found_newest_first() {
        let found = candidates(PACKAGES, "-cloud-amd64");
        let releases: Vec<_> = found.iter().map(|found| found.release.as_str()).collect();
        assert_eq!(
            releases,
            [
                "7.3.4+deb13",
                "7.0.13+deb13",
                "6.1.0-56",
                "6.1.0-0.deb11.56",
                "6.1.0-9"
            ]
        );
    }

    #[test]
    fn modules_are_got_where_they_are_apart() {
        let found = candidates(PACKAGES, "-cloud-amd64");
        assert_eq!(
            found[0].packages,
            [
                "linux-binary-7.3.4+deb13-cloud-amd64",
                "linux-modules-7.3.4+deb13-cloud-amd64"
            ]
        );
        assert_eq!(found[1].packages, ["linux-binary-7.0.13+deb13-cloud-amd64"]);
        assert_eq!(found[2].packages, ["linux-image-6.1.0-56-cloud-amd64"]);
    }

    #[test]
    fn a_series_is_not_a_prefix_of_another() {
        let archive = Archive {
            folder: PathBuf::new(),
            arch: Arch::Amd64,
            candidates: candidates(&PACKAGES.replace("7.0.13", "6.12.13"), "-cloud-amd64"),
        };
        let versions = |wanted| {
            let found = archive.find(wanted).into_iter();
            found
                .map(|found| found.version.as_str())
                .collect::<Vec<_>>()
        };
        assert_eq!(versions("6.1"), ["6.1.192", "6.1.192", "6.1.27"]);
        assert_eq!(versions("6.12"), ["6.12.13"]);
        assert_eq!(versions("6.1.27"), ["6.1.27"]);
        assert_eq!(versions("newest")[0], "7.3.4");
    }
}
