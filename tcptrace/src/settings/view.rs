//! How records look.

use crate::{
    cli::{ColorWhen, Format, TimeArgs, ViewArgs},
    error::Error,
    sink::{
        text::is_unsafe,
        time::{Clock, TimeColumn, TimeFormat},
    },
};

/// How records are printed.
#[derive(Clone, Copy, Debug)]
pub struct View {
    /// As what
    pub format: Format,
    /// With more columns
    pub wide: bool,
    /// With colors
    pub color: ColorWhen,
}

impl View {
    /// Checks what goes with what.
    pub fn new(args: &ViewArgs) -> Result<Self, Error> {
        let format = if args.json { Format::Json } else { args.format };
        if args.wide && format != Format::Table {
            return Err(Error::usage(
                "-w gives the table more columns, and the other formats have every field; leave out -w",
            ));
        }
        Ok(Self {
            format,
            wide: args.wide,
            color: args.color,
        })
    }

    /// `--color`, `NO_COLOR`, and terminals that cannot. `is_terminal`: where the output goes.
    pub fn is_colored(&self, is_terminal: bool) -> bool {
        let forbidden = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
            || std::env::var_os("TERM").is_some_and(|value| value == "dumb");
        match self.color {
            ColorWhen::Always => true,
            ColorWhen::Never => false,
            ColorWhen::Auto => !forbidden && is_terminal,
        }
    }
}

/// The time column of the table. The other formats have times of their own: there the time zone, which may cost a look at
/// many files, is not asked for.
pub fn time_format(args: &TimeArgs, format: Format) -> Result<TimeFormat, Error> {
    parse_time(&args.time, args.utc || format != Format::Table)
}

/// The time column, which must be of one line.
fn parse_time(text: &str, utc: bool) -> Result<TimeFormat, Error> {
    let error = |why: &str| Error::usage(format!("-T {text}: {why}"));
    let format = TimeFormat::parse(text, utc).map_err(|why| error(&why))?;
    let mut column = TimeColumn::new(format.clone(), 0);
    if let Some(shown) = column.render(&Clock::default(), 0)
        && String::from_utf8_lossy(shown.0).contains(is_unsafe)
    {
        return Err(error(
            "a control character would break the table's lines; leave out %n, %t and the like",
        ));
    }
    Ok(format)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_of_one_line() {
        assert!(parse_time("%H:%M %%", true).is_ok());
        for text in ["%H%n%M", "%H%t", "%H\u{1b}[2J"] {
            assert!(parse_time(text, true).is_err(), "{text:?}");
        }
    }
}
