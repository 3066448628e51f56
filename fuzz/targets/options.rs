//! Command lines: anything is a setting that holds what it promises, or a refusal.

use std::{cell::RefCell, ffi::OsStr, os::unix::ffi::OsStrExt as _};

use clap::{CommandFactory as _, FromArgMatches as _};
use tcptrace::{
    cli::Cli,
    event::LossCause,
    filter::{KernelFilters, PortList},
    settings::Settings,
    sink::{
        Lines, Lost, Sink as _, Start,
        json::Json,
        table::{Look, Table},
        text,
        time::TimeColumn,
    },
};
use tcptrace_common::config::{Config, PORT_ROWS, PORT_WORDS};

/// What the first byte chooses; the rest is its value. Past the end, the rest is a whole command
/// line, a word a line.
const OPTIONS: [&str; 17] = [
    "--lport",
    "--rport",
    "--port",
    "--duration",
    "--slower-than",
    "--buffer",
    "--time",
    "--state",
    "--role",
    "--events",
    "--pid",
    "--count",
    "--max-sockets",
    "--format",
    "--color",
    "--hooks",
    "--output",
];

thread_local! {
    /// Checked and built once: that takes longer than a command line does.
    static COMMAND: RefCell<clap::Command> = RefCell::new({
        let mut command = Cli::command();
        command.build();
        command
    });
}

pub(crate) fn target(bytes: &[u8]) {
    let Some((which, rest)) = bytes.split_first() else {
        return;
    };
    let mut words: Vec<&[u8]> = vec![b"tcptrace", b"--utc"];
    let word;
    if let Some(option) = OPTIONS.get(usize::from(*which)) {
        // In one word, so that any value is a value.
        word = [option.as_bytes(), b"=", rest].concat();
        words.push(&word);
    } else {
        words.extend(rest.split(|byte| *byte == b'\n'));
    }
    let words = words.into_iter().map(OsStr::from_bytes);
    let matches = COMMAND.with_borrow(|command| command.clone().try_get_matches_from(words));
    let cli = match matches.and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => cli,
        Err(why) => return assert!(!why.to_string().is_empty()),
    };
    if cli.command.is_some() {
        return;
    }
    match Settings::new(cli.trace) {
        Ok(settings) => check(&settings),
        Err(why) => assert!((1..=3).contains(&why.exit_status()) && !why.to_string().is_empty()),
    }
}

fn check(settings: &Settings) {
    let ring_bytes = settings.run.ring_bytes;
    assert!(ring_bytes.is_power_of_two() && ring_bytes >= 4096);
    let mut kernel = KernelFilters {
        config: Config::DEFAULT,
        pids: Vec::new(),
        wanted: Vec::new(),
        networks: Vec::new(),
        automata: Vec::new(),
        ports: Vec::new(),
    };
    settings.configure(&mut kernel);
    assert!(kernel.config.families != 0 && kernel.config.roles != 0);
    let print = settings.records.print;
    assert_eq!(kernel.config.emit & print, print);
    assert!(kernel.pids.iter().all(|(pid, _)| *pid > 0));
    for (row, words) in &kernel.ports {
        assert!(*row < PORT_ROWS && words.len() == PORT_WORDS as usize);
    }
    for length in [settings.run.duration, settings.outcome.slower] {
        assert!(length.is_none_or(|length| !length.is_zero()));
    }
    settings.filters.ports.lists().for_each(check_ports);

    // The time column and the filters are what is printed of what was typed.
    let lines = Lines {
        transition: true,
        explain: settings.records.explain,
        path: false,
    };
    let start = Start {
        mono_ns: 1,
        kernel: String::new(),
        hooks: [].into(),
        reset_reasons: [].into(),
        filters: settings.typed_filters(),
        processes: tcptrace::identity::process::Processes::default(),
    };
    let lost = Lost {
        mono_ns: 1,
        cause: LossCause::RingFull,
        count: 1,
        accepts: 0,
        closes: 0,
        time_waits: 0,
        others: 0,
    };
    let mut table = Table::new(Look {
        time: TimeColumn::new(settings.time.clone(), 0),
        lines,
        colored: false,
        wide: settings.view.wide,
        header: true,
    });
    let mut json = Json::new(lines);
    for wall_ns in [0, 1_795_347_921_123_456_789, i64::MAX, i64::MIN] {
        table.set_clock(wall_ns);
        let mut out = Vec::new();
        table.start(&start, &mut out);
        check_line(out);
        let mut out = Vec::new();
        table.lost(&lost, &mut out);
        check_line(out);
        json.set_clock(wall_ns);
        let mut out = Vec::new();
        json.start(&start, &mut out);
        let line = check_line(out);
        serde_json::from_str::<serde_json::Value>(&line).expect("a JSON object");
    }
}

fn check_line(bytes: Vec<u8>) -> String {
    let text = String::from_utf8(bytes).expect("output is UTF-8");
    let line = text.strip_suffix('\n').expect("a whole line");
    let bad = line.chars().find(|c| c.is_control() || text::is_unsafe(*c));
    assert_eq!(bad, None, "{line:?}");
    text
}

fn check_ports(list: &PortList) {
    for (wanted, unwanted) in list.wanted().iter().zip(list.unwanted()) {
        assert_eq!(wanted & unwanted, 0, "a port is both wanted and not");
    }
}
