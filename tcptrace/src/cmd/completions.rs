//! `tcptrace completions`: the completions of a shell, from the one description of the command line.

use std::process::ExitCode;

use clap::CommandFactory as _;

use crate::{cli::Cli, error::Error};

/// Prints the completions of a shell.
pub(super) fn run(shell: clap_complete::Shell) -> Result<ExitCode, Error> {
    let mut script = Vec::new();
    clap_complete::generate(
        shell,
        &mut visible(&Cli::command()),
        "tcptrace",
        &mut script,
    );
    super::print(&script)?;
    Ok(ExitCode::SUCCESS)
}

/// The same command line without the options that are hidden: `clap_complete` offers those, too.
fn visible(command: &clap::Command) -> clap::Command {
    let mut shown = clap::Command::new(command.get_name().to_owned())
        .about(command.get_about().cloned().unwrap_or_default());
    if let Some(version) = command.get_version() {
        shown = shown.version(version.to_owned());
    }
    shown
        .args(
            command
                .get_arguments()
                .filter(|argument| !argument.is_hide_set())
                .cloned(),
        )
        .subcommands(command.get_subcommands().map(visible))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn completions_offer_what_help_shows() {
        let mut script = Vec::new();
        let shell = clap_complete::Shell::Bash;
        clap_complete::generate(
            shell,
            &mut visible(&Cli::command()),
            "tcptrace",
            &mut script,
        );
        let script = String::from_utf8(script).unwrap();
        for part in ["--no-existing", "--version", "check", "completions", "man"] {
            assert!(script.contains(part), "{part} is missing");
        }
        for part in ["--record-ring", "--hooks", "--btf"] {
            assert!(!script.contains(part), "{part} is offered");
        }
    }
}
