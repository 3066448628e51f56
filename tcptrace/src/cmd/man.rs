//! `tcptrace man`: the manual page, from the one description of the command line.

use std::{io, process::ExitCode};

use clap::CommandFactory as _;
use clap_mangen::roff::{Inline, Roff, bold, roman};

use crate::{
    cli::{Cli, EXAMPLES},
    error::Error,
};

/// Sections that the command line does not contain: title and paragraphs. A paragraph with a tab
/// in it is an entry: what, and what about it.
const SECTIONS: [(&str, &[&str]); 8] = [
    (
        "COMMANDS",
        &[
            "check [--json]\twhat this kernel and these privileges allow, which hook gives which fact, and what \
         mends what is missing",
            "schema\tprint the JSON Schema of the records",
            "completions SHELL\tprint the completions of a shell: bash, elvish, fish, powershell or zsh",
            "man\tprint this page",
        ],
    ),
    (
        "WHAT IS PRINTED",
        &[
            "A table, one line per state transition, with a closing line that sums the connection up; \
         or, with --json, one object per line; with --format csv a row per record, with \
         --format ecs the same records under the names of the Elastic Common Schema. All begin with the connections that are open.",
            "The closing line comes when the socket has gone. The pair of addresses may then stay in \
         TIME_WAIT for a minute; the transition out of it is the connection's last line.",
            "PID\tthe process that owns the connection, never the one that happened to be on the CPU. \
         A ~ behind it marks the listening process, shown until somebody accepts. A dash: not known.",
            "CONN\tthe socket cookie, as ss -e prints it after sk:. It stays the same for the whole life \
         of the connection, and no other socket gets it.",
            "LOCAL, REMOTE\tan arrow points to the server.",
            "IN OLD\thow long the connection was in the old state. A ~ behind it: the kernel gave no direct \
         sight of this transition, and its time is worked out; likewise behind \"closed after\".",
            "closed after\twhy (refused, timeout, unreachable, reset received or sent, canceled, given up \
         when nobody had answered for long, listener closed, or normal and who closed first); how long it took to connect; of a server's connection \
         the half-open time of the handshake and the time in the accept queue; payload sent and received, \
         segments sent again, smoothed round-trip time.",
        ],
    ),
    (
        "RECORDS",
        &[
            "What --events names. The first four are the default.",
            "socket\ta connection that was open at start",
            "transition\ta change of state",
            "accept\taccept() returned the connection; the accept queue and its limit",
            "close\tthe end of a connection: why, how long, what was counted",
            "retransmit\ta SYN, a SYN-ACK or a segment was sent again",
            "reset\tan RST was sent or received, with the kernel's reason where it gives one",
            "listener\tat most once a second for each listener where something goes wrong: requests \
         dropped or unanswered, a full accept queue, many requests half-open",
        ],
    ),
    (
        "SIGNALS",
        &[
            "SIGINT, SIGTERM\tprint everything that has happened, the summary, and end. A second one \
         ends at once.",
            "SIGHUP\treopen the file of -o; without -o, end.",
        ],
    ),
    (
        "EXIT STATUS",
        &[
            "0\tfine, Ctrl-C and a closed pipe included",
            "1\tsomething failed on the way",
            "2\tthe command line is wrong",
            "3\tthis user or this kernel cannot trace; tcptrace check says why",
            "4\trecords were lost, and --fail-on-loss was given",
        ],
    ),
    (
        "PRIVILEGES",
        &[
            "CAP_BPF and CAP_PERFMON. CAP_SYS_ADMIN to list the connections of other network namespaces \
         at start and to read how many SYN cookies they sent, and to mount tracefs privately where it is \
         not mounted and the kernel has neither trampolines nor kprobes; there others than root need \
         CAP_DAC_READ_SEARCH as well, to read it. CAP_SYS_PTRACE to find the namespaces of other users' \
         processes. CAP_SYS_NICE to read the ring at a higher priority, CAP_SYS_RESOURCE before Linux 5.11 \
         to lock more memory than ulimit -l allows.",
        ],
    ),
    (
        "LIMITATIONS",
        &[
            "An owner that cannot be proven is left out. A connection that was open at start and is held \
         by several processes is shown with the one that started first. A pair that was already in \
         TIME_WAIT at start is not shown. Without trampolines and kprobes, connections accepted through \
         io_uring name their acceptor when it closes them, and a FIN that comes after close() is reported up to 160 ms \
         late, its time known to the kernel's tick.",
        ],
    ),
    (
        "SEE ALSO",
        &["ss(8), tcpstates-bpfcc(8), tcplife-bpfcc(8), bpf(2), tcp(7)"],
    ),
];

/// Prints tcptrace(8).
pub(super) fn run() -> Result<ExitCode, Error> {
    let mut page = Vec::new();
    render(&mut page).map_err(anyhow::Error::new)?;
    super::print(&page)?;
    Ok(ExitCode::SUCCESS)
}

fn render(page: &mut Vec<u8>) -> io::Result<()> {
    let man = clap_mangen::Man::new(Cli::command()).section("8");
    man.render_title(page)?;
    man.render_name_section(page)?;
    synopsis(page)?;
    man.render_description_section(page)?;
    man.render_options_section(page)?;
    for (title, paragraphs) in SECTIONS {
        let mut roff = Roff::new();
        roff.control("SH", [title]);
        for paragraph in paragraphs {
            if let Some((what, about)) = paragraph.split_once('\t') {
                roff.control("TP", []);
                roff.text([bold(what)]);
                roff.text([roman(about)]);
            } else {
                roff.control("PP", []);
                roff.text([Inline::from(*paragraph)]);
            }
        }
        roff.to_writer(page)?;
    }
    examples(page)
}

fn synopsis(page: &mut Vec<u8>) -> io::Result<()> {
    let mut roff = Roff::new();
    roff.control("SH", ["SYNOPSIS"]);
    for what in [
        "[OPTIONS]",
        "check [--json]",
        "schema",
        "completions SHELL",
        "man",
    ] {
        roff.text([bold("tcptrace"), roman(" "), roman(what)]);
        roff.control("br", []);
    }
    roff.to_writer(page)
}

fn examples(page: &mut Vec<u8>) -> io::Result<()> {
    let mut roff = Roff::new();
    roff.control("SH", ["EXAMPLES"]);
    for line in EXAMPLES.lines().skip(1) {
        if let Some((command, about)) = line.trim().split_once("  ") {
            roff.control("TP", []);
            roff.text([bold(command)]);
            roff.text([roman(about.trim())]);
        }
    }
    roff.to_writer(page)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_every_section_and_option() {
        let mut page = Vec::new();
        render(&mut page).unwrap();
        let page = String::from_utf8(page).unwrap();
        for part in [
            "SYNOPSIS",
            "COMMANDS",
            "EXIT STATUS",
            "EXAMPLES",
            "LIMITATIONS",
            "fail\\-on\\-loss",
            "no\\-existing",
        ] {
            assert!(page.contains(part), "{part} is missing");
        }
    }
}
