//! What this kernel does not tell, the tracer does not guess.

use std::{
    ffi::CStr,
    fs,
    process::{Command, Output},
};

use crate::{
    confinement,
    harness::{Impossible, Outcome, Test, beside},
    tracer::{self, Tracer},
};

pub(crate) const TESTS: &[Test] = &[
    beside!(everything_taken).smoke(),
    beside!(missing_member).smoke(),
    beside!(missing_types).smoke(),
    beside!(hidden_types).smoke(),
    beside!(locked_down).smoke().locked_down(),
];

const BTF: &str = "/sys/kernel/btf/vmlinux";

/// Runs the tracer with other types than the kernel's; its exit status and what it says.
fn with_types(path: &str) -> (Option<i32>, String) {
    let output = Command::new(tracer::binary())
        .args(["--json", "-d", "1", "--btf", path])
        .output()
        .unwrap();
    assert!(
        output.stdout.is_empty(),
        "records from a kernel it cannot read"
    );
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code(), stderr)
}

/// A member that is gone, as in a kernel that has renamed it.
fn missing_member() {
    let real = fs::read(BTF).unwrap();
    let path = std::env::temp_dir().join(format!("tcptrace-btf-{}", std::process::id()));
    for member in [
        "skc_dport",
        "sk_shutdown",
        "inet_sport",
        "tsorted_sent_queue",
        "group_leader",
    ] {
        let name = format!("\0{member}\0").into_bytes();
        let mut doctored = real.clone();
        let at = doctored
            .windows(name.len())
            .position(|window| window == name)
            .unwrap_or_else(|| panic!("this kernel has no {member}"));
        doctored[at + 1] = b'_';
        fs::write(&path, doctored).unwrap();
        let (code, stderr) = with_types(path.to_str().unwrap());
        assert_eq!(code, Some(3), "{member}: {stderr}");
        assert!(stderr.contains(member), "{member} is not named: {stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
    }
    fs::remove_file(&path).unwrap();
}

/// What is tried for the sake of older kernels is not needed on this one.
fn everything_taken() -> Outcome {
    let tracer = Tracer::start(&["-v"]);
    let start = tracer.await_start();
    let finished = tracer.finish();
    let hooks = start.get("hooks").unwrap();
    if hooks["conn"] != "bpf_get_socket_cookie" {
        return Err(Impossible(
            "this kernel takes only what the oldest take".to_owned(),
        ));
    }
    assert!(
        !finished.stderr.contains("a program is refused"),
        "{}",
        finished.stderr
    );
    Ok(())
}

fn missing_types() {
    let (code, stderr) = with_types("/proc/nothing/here");
    assert_eq!(code, Some(3), "{stderr}");
    assert!(stderr.contains("CONFIG_DEBUG_INFO_BTF"), "{stderr}");
    let (code, stderr) = with_types("/proc/version");
    assert_eq!(code, Some(3), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
}

/// The kernel's types are not where they should be.
fn hidden_types() {
    const FOLDER: &[&CStr] = &[c"/sys/kernel/btf"];
    refuses_without(
        FOLDER,
        &[],
        &["/sys/kernel/btf/vmlinux", "CONFIG_DEBUG_INFO_BTF"],
    );
}

/// The mode that lockdown is in, if this kernel has it.
pub(crate) fn lockdown() -> Option<String> {
    let modes = fs::read_to_string("/sys/kernel/security/lockdown").ok()?;
    let (_, rest) = modes.split_once('[')?;
    let (mode, _) = rest.split_once(']')?;
    Some(mode.to_owned())
}

/// In confidentiality mode nothing is tried, as far as the mode can be known: an attempt to mount
/// tracefs there can crash the kernel. Where it cannot, a kernel that needs the forbidden helper
/// refuses the programs, and another lets them read.
fn locked_down() -> Outcome {
    const SECURITYFS: &[&CStr] = &[c"/sys/kernel/security"];
    const COMMAND_LINE: &[&CStr] = &[c"/proc/cmdline"];
    match lockdown().as_deref() {
        Some("confidentiality") => {
            let names = ["locked down (confidentiality)", "lockdown=integrity"];
            refuses_without(&[], &[], &names);
            if fs::read_to_string("/proc/cmdline")
                .unwrap()
                .contains("lockdown=")
            {
                refuses_without(SECURITYFS, &[], &names);
            }
            let mut blind = tracer::command(&tracer::binary(), &["check"]);
            let blind = confinement::without(&mut blind, SECURITYFS, COMMAND_LINE)
                .output()
                .unwrap();
            if blind.status.code() != Some(0) {
                refuses_without(SECURITYFS, COMMAND_LINE, &["the kernel refused"]);
            }
            Ok(())
        }
        Some("integrity") => {
            Tracer::start(&[]).finish().fine();
            Ok(())
        }
        _ => Err(Impossible("this kernel is not locked down".to_owned())),
    }
}

/// The trace and `check` both end with status 3 and say this.
fn refuses_without(folders: &'static [&CStr], files: &'static [&CStr], names: &[&str]) {
    let try_with = |args: &[&str]| -> Output {
        let mut command = tracer::command(&tracer::binary(), args);
        confinement::without(&mut command, folders, files)
            .output()
            .unwrap()
    };
    let output = try_with(&["--json", "-d", "1"]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{stderr}");
    assert!(
        output.stdout.is_empty(),
        "records from a kernel that refuses"
    );
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    for name in names {
        assert!(stderr.contains(name), "{name:?} is not in {stderr}");
    }
    let output = try_with(&["check"]);
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(3), "{stdout}");
    for name in names {
        assert!(stdout.contains(name), "{name:?} is not in {stdout}");
    }
}
