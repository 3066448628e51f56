//! With less than root's rights.

use std::process::{Command, Output};

use rustix::thread::CapabilitySet;

use crate::{
    actor::Actor,
    check,
    confinement::{self, Folder},
    harness::{Test, beside},
    netns::{Ip, Netns},
    peer::First,
    record::{self, Record},
    stage::{Exchange, Stage, part},
    tracer::{self, Tracer},
};

pub(crate) const TESTS: &[Test] = &[
    beside!(capabilities_missing).smoke(),
    beside!(bpf_and_perfmon_alone).smoke(),
    beside!(little_locked_memory),
];

const ENOUGH: CapabilitySet = CapabilitySet::BPF.union(CapabilitySet::PERFMON);

/// The limit of locked memory that many systems set; kernels before 5.11 count maps to it.
const LITTLE: Option<u64> = Some(64 << 10);

fn try_with(folder: &Folder, args: &[&str], capabilities: CapabilitySet) -> Output {
    let mut command = Command::new(folder.program());
    command.args(args).current_dir("/");
    confinement::with_capabilities(&mut command, capabilities, LITTLE)
        .output()
        .unwrap()
}

/// Names what is missing and nothing else, in the trace and in `check`.
fn capabilities_missing() {
    let folder = Folder::new("capabilities");
    let cases = [
        (CapabilitySet::empty(), &["CAP_BPF", "CAP_PERFMON"][..]),
        (CapabilitySet::BPF, &["CAP_PERFMON"]),
        (CapabilitySet::PERFMON, &["CAP_BPF"]),
        (
            CapabilitySet::PERFMON.union(CapabilitySet::SYS_PTRACE),
            &["CAP_BPF"],
        ),
    ];
    for (held, missing) in cases {
        let output = try_with(&folder, &["--json", "-d", "1"], held);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(3), "{held:?}: {stderr}");
        assert!(output.stdout.is_empty(), "{held:?}");
        assert_eq!(stderr.lines().count(), 1, "{held:?}: {stderr}");
        let names = format!("needs {}:", missing.join(" and "));
        assert!(stderr.contains(&names), "{held:?}: {stderr}");
        assert!(stderr.contains("setcap"), "{held:?}: {stderr}");

        let output = try_with(&folder, &["check"], held);
        let stdout = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(3), "{held:?}: {stdout}");
        assert!(stdout.contains(&names), "{held:?}: {stdout}");
    }
}

/// Everything but what `docs/limitations.md` says takes more.
fn bpf_and_perfmon_alone() {
    let folder = Folder::new("bpf-and-perfmon");
    let netns = Netns::new();
    let mut client = Actor::spawn(&netns, "client");
    let mut server = Actor::spawn(&netns, "server");
    let listener = server.listen(netns.addr(Ip::V4, 0), "");
    let addr = listener.local;
    server.tell_accept(&listener, "");
    let (near, far) = Exchange::default().meet(&mut client, &mut server, addr);

    let stage = Stage::with(netns, || {
        let mut command = tracer::command(&folder.program(), &["--json"]);
        command.current_dir("/");
        confinement::with_capabilities(&mut command, ENOUGH, None);
        let tracer = Tracer::run(command);
        tracer.await_start();
        tracer
    });
    part(&mut client, &near, &mut server, &far, First::Client);
    let pair = Exchange::default().run(&mut client, &mut server, &listener, addr);
    let told = stage.end(0, &[]);
    assert_eq!(told.records.lost(), 0);
    let ours = told.ours();
    check::same_transitions(&told.lives, &ours);
    record::each_end_has_its_close(&ours);
    let (later, before): (Vec<&Record>, Vec<_>) = ours
        .iter()
        .filter(|record| record.role() != "listener")
        .partition(|record| pair.is_of(record));
    if check::accept_hook(told.records.start()) == "none" {
        check::found_later(&pair, &later);
    } else {
        check::owners(&[pair], &later);
    }
    for (held, who) in [(&near, &client.who), (&far, &server.who)] {
        let of_it: Vec<_> = before
            .iter()
            .copied()
            .filter(|record| record.is_of(held))
            .collect();
        assert_eq!(of_it[0].event(), "socket", "{}", record::lines(&of_it));
        for record in &of_it {
            check::names(record, "snapshot", who, &of_it);
        }
    }
}

/// Kernels before 5.11 count maps as locked memory. Whoever may not lock enough is told so.
fn little_locked_memory() {
    let folder = Folder::new("locked-memory");
    let output = try_with(&folder, &["--json", "-d", "1"], ENOUGH);
    let stderr = String::from_utf8_lossy(&output.stderr);
    if output.status.success() {
        return;
    }
    assert_eq!(output.status.code(), Some(3), "{stderr}");
    assert!(output.stdout.is_empty());
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    for cure in ["ulimit -l", "CAP_SYS_RESOURCE"] {
        assert!(stderr.contains(cure), "{stderr}");
    }
}
