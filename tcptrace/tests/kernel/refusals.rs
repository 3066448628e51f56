//! What this kernel does not tell, the tracer does not guess.

use std::{fs, process::Command};

use crate::tracer;

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
pub(crate) fn missing_member() {
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

pub(crate) fn missing_types() {
    let (code, stderr) = with_types("/proc/nothing/here");
    assert_eq!(code, Some(3), "{stderr}");
    assert!(stderr.contains("CONFIG_DEBUG_INFO_BTF"), "{stderr}");
    let (code, stderr) = with_types("/proc/version");
    assert_eq!(code, Some(3), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
}
