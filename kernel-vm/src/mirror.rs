//! Where Debian's packages come from: where the system's own apt gets them, or where a variable says.

use std::env;
use std::process::Command;

use anyhow::{Context as _, Result};

/// The archive, and after a space its security updates: for a system whose apt has no source of Debian's.
const VARIABLE: &str = "TCPTRACE_DEBIAN_MIRROR";

/// Where the kernels are; `-security` suites are on a server of their own.
const SUITES: [&str; 7] = [
    "bullseye",
    "bullseye-security",
    "bookworm",
    "bookworm-security",
    "trixie",
    "trixie-security",
    "trixie-backports",
];

/// Of the package `debian-archive-keyring`
pub const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// What apt is to be told in `sources.list`.
pub fn sources() -> Result<String> {
    let (main, security) = match env::var(VARIABLE) {
        Ok(named) => named_by_variable(&named),
        Err(_) => used_by_system(&system_targets()?),
    }
    .with_context(|| {
        format!(
            "apt has no source of Debian's packages here; name one: \
             {VARIABLE}='URL/debian URL/debian-security'"
        )
    })?;
    let lines = SUITES.map(|suite| {
        let uri = if suite.ends_with("-security") {
            &security
        } else {
            &main
        };
        format!("deb [signed-by={KEYRING}] {uri} {suite} main\n")
    });
    Ok(lines.concat())
}

/// Each index that the system's apt gets: its server and its suite.
fn system_targets() -> Result<String> {
    let output = Command::new("apt-get")
        .args(["indextargets", "--format", "$(REPO_URI) $(RELEASE)"])
        .output()
        .context("the kernels are Debian packages, which needs apt-get")?;
    Ok(String::from_utf8(output.stdout)?)
}

/// The archive and its security updates, in the value of [`VARIABLE`].
fn named_by_variable(value: &str) -> Option<(String, String)> {
    let mut words = value.split_whitespace();
    let main = words.next()?.to_owned();
    let security = words.next().map_or_else(|| beside(&main), str::to_owned);
    Some((main, security))
}

/// The same, of the first source of each that the system has.
fn used_by_system(targets: &str) -> Option<(String, String)> {
    let mirror = |security: bool| {
        targets
            .lines()
            .filter_map(|line| line.split_once(' '))
            .find(|(_, release)| {
                let debian = SUITES.iter().any(|suite| release.starts_with(suite));
                debian && release.ends_with("-security") == security
            })
            .map(|(uri, _)| uri.to_owned())
    };
    let main = mirror(false)?;
    let security = mirror(true).unwrap_or_else(|| beside(&main));
    Some((main, security))
}

/// Where a mirror of the archive has the security updates.
fn beside(main: &str) -> String {
    format!("{}-security", main.trim_end_matches('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirrors_are_those_of_the_system() {
        let targets = "\
http://mirror.example/debian-security/ bookworm-security
http://mirror.example/other/ stable
http://mirror.example/debian/ bookworm
http://mirror.example/debian/ bookworm-updates
";
        let (main, security) = used_by_system(targets).unwrap();
        assert_eq!(main, "http://mirror.example/debian/");
        assert_eq!(security, "http://mirror.example/debian-security/");
        assert_eq!(used_by_system("http://mirror.example/ubuntu noble\n"), None);
    }

    #[test]
    fn a_variable_names_one_mirror_or_two() {
        let own = |value| named_by_variable(value).unwrap();
        assert_eq!(own("http://a/debian").1, "http://a/debian-security");
        assert_eq!(own("http://a/debian http://b/s").1, "http://b/s");
        assert_eq!(named_by_variable(" "), None);
    }
}
