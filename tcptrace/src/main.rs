//! `tcptrace`: parse, run, exit.
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::{io::Write as _, process::ExitCode};

use clap::Parser as _;
use tcptrace::{
    bpf,
    cli::{self, Cli},
    cmd,
    error::Error,
};

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(why) => return refuse(&why),
    };
    let level = match cli.verbosity() {
        0 => log::LevelFilter::Warn,
        1 => log::LevelFilter::Info,
        _ => log::LevelFilter::Debug,
    };
    let mut logger = env_logger::Builder::new();
    logger.filter_level(level);
    for (module, level) in bpf::LOG_LEVELS {
        logger.filter_module(module, level);
    }
    logger
        .format(|line, record| writeln!(line, "tcptrace: {}", record.args()))
        .init();
    match cmd::run(cli) {
        Ok(status) => status,
        Err(why) => {
            // Standard error may be closed; there is nowhere left to say so.
            let _unsaid = match &why {
                Error::Runtime(why) => writeln!(std::io::stderr(), "tcptrace: {why:#}"),
                why => writeln!(std::io::stderr(), "tcptrace: {why}"),
            };
            ExitCode::from(why.exit_status())
        }
    }
}

/// Says what is wrong with the command line, or what was asked for with `--help`; the status to exit with.
fn refuse(why: &clap::Error) -> ExitCode {
    // Whoever should read it may have gone.
    let Some(word) = cli::stray_word(why) else {
        let _unsaid = why.print();
        return ExitCode::from(u8::try_from(why.exit_code()).unwrap_or(1));
    };
    let hint = cli::filter_for(word);
    let word = word.escape_debug();
    let _unsaid = writeln!(
        std::io::stderr(),
        "tcptrace: unexpected '{word}': filters go by options, {hint}; see --help"
    );
    ExitCode::from(Error::usage("").exit_status())
}
