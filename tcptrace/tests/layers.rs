//! What is not there: the absences that ARCHITECTURE.md promises, looked for in the source.
#![expect(
    clippy::unwrap_used,
    reason = "a failed unwrap fails the test, and says where"
)]

use std::{
    fs,
    path::{Path, PathBuf},
};

const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src");

/// All source files in a folder of the agent, or that file: with their text, without tests and comments.
fn sources(part: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let folder = Path::new(SOURCE).join(part);
    let file = folder.with_extension("rs");
    if file.is_file() {
        found.push(file);
    }
    let mut folders = vec![folder];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs")
                && path.file_name().is_some_and(|name| name != "tests.rs")
            {
                found.push(path);
            }
        }
    }
    assert!(!found.is_empty(), "there is no {part}");
    found
        .into_iter()
        .map(|path| {
            let text = fs::read_to_string(&path).unwrap();
            let code = text.split("#[cfg(test)]").next().unwrap_or_default();
            let code = code.lines().filter(|line| !line.trim().starts_with("//"));
            let code = code.collect::<Vec<_>>().join("\n");
            (path, code)
        })
        .collect()
}

fn assert_absent(part: &str, words: &[&str]) {
    for (path, code) in sources(part) {
        for word in words {
            assert!(!code.contains(word), "{} names {word}", path.display());
        }
    }
}

#[test]
fn only_bpf_names_aya() {
    for (path, code) in sources("") {
        if !path.starts_with(Path::new(SOURCE).join("bpf")) {
            assert!(!code.contains("aya"), "{} names aya", path.display());
        }
    }
}

#[test]
fn what_is_pure_does_no_io_and_reads_no_clock() {
    let io = [
        "std::fs",
        "fs::",
        "std::net::Tcp",
        "std::process",
        "std::thread",
        "std::env",
        "rustix",
        "nix::",
        "tokio",
        "SystemTime",
        "Instant",
        "crate::kernel",
        "crate::bpf",
        "crate::output",
        "crate::trace",
    ];
    for part in ["event", "explain", "sink"] {
        assert_absent(part, &io);
    }
}

#[test]
fn values_know_nothing_of_how_they_are_shown() {
    assert_absent(
        "event",
        &[
            "crate::sink",
            "crate::filter",
            "crate::settings",
            "crate::cli",
        ],
    );
    assert_absent("sink", &["crate::settings", "crate::cli", "crate::filter"]);
    assert_absent(
        "filter",
        &[
            "crate::bpf",
            "crate::trace",
            "crate::sink",
            "crate::settings",
        ],
    );
    assert_absent("export", &["crate::bpf"]);
}
