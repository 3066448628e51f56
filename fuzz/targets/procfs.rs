//! What the kernel writes for people: `/proc` and securityfs. Anything is a value or "not known".

use tcptrace::kernel::{capability, field, is_confidential, netstat};

pub(crate) fn target(bytes: &[u8]) {
    // As `fs::read_to_string` does: what is no UTF-8 is as good as no file.
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    if netstat::cookies_sent(text).is_some() {
        assert!(text.contains("TcpExt:") && text.contains("SyncookiesSent"));
    }
    for name in ["CapEff:", "SigIgn:"] {
        if field::hex(text, name).is_some() {
            assert!(text.lines().any(|line| line.starts_with(name)));
        }
    }
    if field::decimal(text, "recursion_misses:").is_some() {
        assert!(text.contains("recursion_misses:"));
    }
    capability::counts_locked_memory(text);
    let (mode, command_line) = text.split_once('\0').unwrap_or((text, ""));
    if is_confidential(mode, command_line) {
        assert!(text.contains("confidentiality"));
    }
}
