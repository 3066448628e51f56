//! `tcptrace`: parse, run, exit.
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::{io::Write as _, process::ExitCode};

use clap::Parser as _;
use tcptrace::{bpf, cli::Cli, cmd, error::Error};

fn main() -> ExitCode {
    let cli = Cli::parse();
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
