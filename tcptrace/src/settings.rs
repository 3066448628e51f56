//! From what was typed to what is meant: every rule between options, and every unit.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use clap::ValueEnum;
use tcptrace_common::{
    config::{
        EMIT_ACCEPT, EMIT_CLOSE, EMIT_LISTENER, EMIT_RESET, EMIT_RETRANSMIT, EMIT_TRANSITION,
        FAMILY_V4, FAMILY_V6, ROLES_ALL,
    },
    record::{ROLE_CLIENT, ROLE_LISTENER, ROLE_SERVER, ROLE_UNKNOWN},
    tcp,
};

use crate::{
    cli::{ColorWhen, EventName, Format, HookKind, RoleName, TraceArgs},
    error::Error,
    event::State,
    filter::PortList,
    sink::{
        text::is_unsafe,
        time::{Clock, TimeColumn, TimeFormat},
    },
};

/// Entries of the `PIDS` map.
const PIDS_MAX: usize = 4096;
const PAGE_BYTES: u64 = 4096;
const RING_MAX_BYTES: u64 = 1 << 30;

/// What to trace and how to show it.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is an independent choice of the user"
)]
#[derive(Debug)]
pub struct Settings {
    /// Processes whose connections are wanted; empty: all
    pub pids: Vec<u32>,
    /// `FAMILY_*`
    pub families: u8,
    /// Local ports wanted
    pub lports: Option<PortList>,
    /// Remote ports wanted
    pub rports: Option<PortList>,
    /// Ports wanted at either end
    pub ports: Option<PortList>,
    /// The filters in force as they were typed, by option
    pub filters: BTreeMap<&'static str, String>,
    /// Whether to list connections open at start
    pub sockets: bool,
    /// `EMIT_*` the kernel side sends
    pub emit: u8,
    /// `EMIT_*` that are printed
    pub print: u8,
    /// Roles to show, a bit each: `1 << ROLE_*`
    pub roles: u8,
    /// States to show, a bit each by the kernel's number; 0: all
    pub states: u16,
    /// Only connections that failed
    pub failed: bool,
    /// Only connections that took this long to connect or to be accepted
    pub slower: Option<Duration>,
    /// Whether to say what transitions mean
    pub explain: bool,
    /// How records are printed
    pub format: Format,
    /// File to append to; none: standard output
    pub output: Option<PathBuf>,
    /// Time column of the table
    pub time: TimeFormat,
    /// More columns
    pub wide: bool,
    /// When to colour
    pub color: ColorWhen,
    /// When to stop
    pub duration: Option<Duration>,
    /// After how many records to stop
    pub count: Option<u64>,
    /// Ring size, bytes: a power of two of whole pages
    pub ring_bytes: u32,
    /// Records of live sockets; none: by memory
    pub max_sockets: Option<u32>,
    /// File for the bytes of the ring
    pub record_ring: Option<PathBuf>,
    /// Kinds of accept hooks allowed; empty: all
    pub hooks: Vec<HookKind>,
    /// Where the kernel describes its types
    pub btf: PathBuf,
    /// Whether a loss is an error
    pub fail_on_loss: bool,
    /// How much to say
    pub verbose: u8,
    /// No header, no summary
    pub quiet: bool,
}

impl Settings {
    /// Checks what was typed.
    pub fn new(args: TraceArgs) -> Result<Self, Error> {
        let filters = typed_filters(&args);
        if args.pid.len() > PIDS_MAX {
            return Err(Error::usage(format!(
                "-p: {} process ids are too many, at most {PIDS_MAX}",
                args.pid.len()
            )));
        }
        let ports = |option: &str, list: Option<String>| {
            list.map(|list| {
                PortList::parse(&list)
                    .map_err(|why| Error::usage(format!("{option} {list}: {why}")))
            })
            .transpose()
        };
        let mut events = args.events;
        if args.summary {
            if !events.is_empty() {
                return Err(Error::usage(
                    "-s prints the close records only, --events chooses others; use one of them",
                ));
            }
            events.push(EventName::Close);
        } else if events.is_empty() {
            events.extend([
                EventName::Socket,
                EventName::Transition,
                EventName::Accept,
                EventName::Close,
            ]);
        }
        let json = args.json || args.format == Format::Json;
        let wants = |name| events.contains(&name) || events.contains(&EventName::All);
        let mut emit = 0;
        for (name, bit) in [
            (EventName::Transition, EMIT_TRANSITION),
            (EventName::Accept, EMIT_ACCEPT),
            (EventName::Close, EMIT_CLOSE),
            (EventName::Retransmit, EMIT_RETRANSMIT),
            (EventName::Reset, EMIT_RESET),
            (EventName::Listener, EMIT_LISTENER),
        ] {
            if wants(name) {
                emit |= bit;
            }
        }
        let whole = EMIT_TRANSITION | EMIT_CLOSE;
        if args.failed && emit & whole == 0 {
            return Err(Error::usage(
                "--failed knows a connection by its end; add transition or close to --events",
            ));
        }
        if args.explain && emit & EMIT_TRANSITION == 0 {
            return Err(Error::usage(
                "--explain explains transitions, and none are printed; leave out -s, or add \
                 transition to --events",
            ));
        }
        let listens = args.role.is_empty() || args.role.contains(&RoleName::Listener);
        if emit == EMIT_LISTENER && !wants(EventName::Socket) && !listens {
            return Err(Error::usage(
                "--events listener tells of listeners, and --role leaves them out",
            ));
        }
        let slower = args
            .slower_than
            .as_deref()
            .map(|text| parse_duration("--slower-than", text))
            .transpose()?;
        Ok(Self {
            pids: args.pid,
            families: match (args.v4, args.v6) {
                (true, false) => FAMILY_V4,
                (false, true) => FAMILY_V6,
                _ => FAMILY_V4 | FAMILY_V6,
            },
            lports: ports("-L", args.lport)?,
            rports: ports("-D", args.rport)?,
            ports: ports("--port", args.port)?,
            filters,
            sockets: wants(EventName::Socket) && !args.no_existing,
            // Which connections have failed their totals tell.
            emit: if args.failed { emit | EMIT_CLOSE } else { emit },
            print: emit,
            format: if json { Format::Json } else { args.format },
            output: args.output,
            // NDJSON has its own times; the zone, which may cost a look at many files, is not
            // asked for.
            time: parse_time(&args.time, args.utc || json)?,
            wide: args.wide,
            color: args.color,
            duration: args
                .duration
                .as_deref()
                .map(|text| parse_duration("-d", text))
                .transpose()?,
            roles: roles(&args.role),
            states: states(&args.state)?,
            failed: args.failed,
            slower,
            explain: args.explain,
            count: args.count,
            ring_bytes: parse_ring_size(&args.buffer)?,
            max_sockets: args.max_sockets,
            record_ring: args.record_ring,
            hooks: args.limits.hooks,
            btf: args.limits.btf,
            fail_on_loss: args.fail_on_loss,
            verbose: args.verbose,
            quiet: args.quiet,
        })
    }
}

/// A bit for each role, [`tcptrace_common::config::ROLES_ALL`] for an empty list.
fn roles(names: &[RoleName]) -> u8 {
    if names.is_empty() {
        return ROLES_ALL;
    }
    names.iter().fold(0, |roles, name| {
        roles
            | 1 << match name {
                RoleName::Unknown => ROLE_UNKNOWN,
                RoleName::Client => ROLE_CLIENT,
                RoleName::Server => ROLE_SERVER,
                RoleName::Listener => ROLE_LISTENER,
            }
    })
}

/// A bit for each state, by the kernel's number; 0 for an empty list.
fn states(names: &[String]) -> Result<u16, Error> {
    let numbers = 1..u8::try_from(tcp::STATES).unwrap_or(u8::MAX);
    let plain = |name: &str| name.replace(['-', '_'], "");
    names.iter().try_fold(0, |states, name| {
        let upper = plain(&name.trim().to_ascii_uppercase());
        // As `ss` calls them.
        let upper = match upper.as_str() {
            "ESTAB" => "ESTABLISHED",
            "LISTENING" => "LISTEN",
            "CLOSED" => "CLOSE",
            other => other,
        };
        numbers
            .clone()
            .find(|number| plain(State(*number).name()) == upper)
            .map(|number| states | 1 << number)
            .ok_or_else(|| {
                let known: Vec<_> = numbers.clone().map(|number| State(number).name()).collect();
                Error::usage(format!(
                    "--state {name}: no TCP state; the states are {}",
                    known.join(", ")
                ))
            })
    })
}

fn typed_filters(args: &TraceArgs) -> BTreeMap<&'static str, String> {
    let mut filters = BTreeMap::new();
    if !args.pid.is_empty() {
        let pids: Vec<_> = args.pid.iter().map(u32::to_string).collect();
        filters.insert("pid", pids.join(","));
    }
    match (args.v4, args.v6) {
        (true, false) => filters.insert("family", "ipv4".to_owned()),
        (false, true) => filters.insert("family", "ipv6".to_owned()),
        _ => None,
    };
    for (name, list) in [
        ("lport", &args.lport),
        ("rport", &args.rport),
        ("port", &args.port),
    ] {
        if let Some(list) = list {
            filters.insert(name, list.clone());
        }
    }
    if !args.role.is_empty() {
        let names = args.role.iter().filter_map(ValueEnum::to_possible_value);
        let names: Vec<_> = names.map(|name| name.get_name().to_owned()).collect();
        filters.insert("role", names.join(","));
    }
    if !args.state.is_empty() {
        filters.insert(
            "state",
            args.state.join(",").to_ascii_uppercase().replace('-', "_"),
        );
    }
    if args.failed {
        filters.insert("failed", "true".to_owned());
    }
    if let Some(slower) = &args.slower_than {
        filters.insert("slower_than", slower.clone());
    }
    filters
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

/// `10`, `1.5s`, `300ms`, `5m`, `1h`; a bare number is seconds.
fn parse_duration(option: &str, text: &str) -> Result<Duration, Error> {
    let error = || {
        Error::usage(format!(
            "{option} {text}: not a duration; use a number with ms, s, m or h, as in 300ms or 1.5s"
        ))
    };
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit_s = match &text[digits.len()..] {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(error()),
    };
    let number: f64 = digits.parse().map_err(|_not_a_number| error())?;
    let duration = Duration::try_from_secs_f64(number * unit_s).map_err(|_range| error())?;
    if duration.is_zero() {
        return Err(error());
    }
    Ok(duration)
}

/// `4096`, `512K`, `8M`, `1G`; rounded up to a power of two of whole pages.
fn parse_ring_size(text: &str) -> Result<u32, Error> {
    let error = |why: &str| {
        Error::usage(format!(
            "--buffer {text}: {why}; use a size as in 512K or 8M, up to 1G"
        ))
    };
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit: u64 = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" | "kib" => 1 << 10,
        "m" | "mb" | "mib" => 1 << 20,
        "g" | "gb" | "gib" => 1 << 30,
        _ => return Err(error("unknown unit")),
    };
    let number: u64 = digits
        .parse()
        .map_err(|_not_a_number| error("not a size"))?;
    let bytes = number
        .checked_mul(unit)
        .filter(|bytes| (1..=RING_MAX_BYTES).contains(bytes))
        .ok_or_else(|| error("out of range"))?;
    let bytes = bytes.max(PAGE_BYTES).next_power_of_two();
    u32::try_from(bytes).map_err(|_too_large| error("out of range"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, ms) in [
            ("10", 10_000),
            ("1.5s", 1_500),
            ("300ms", 300),
            ("5m", 300_000),
        ] {
            assert_eq!(
                parse_duration("-d", text).unwrap(),
                Duration::from_millis(ms),
                "{text}"
            );
        }
        for text in ["", "s", "-1", "0", "1y", "1e400", "nan", "1 s"] {
            assert!(parse_duration("-d", text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_time_is_of_one_line() {
        assert!(parse_time("%H:%M %%", true).is_ok());
        for text in ["%H%n%M", "%H%t", "%H\u{1b}[2J"] {
            assert!(parse_time(text, true).is_err(), "{text:?}");
        }
    }

    #[test]
    fn ring_sizes_become_a_power_of_two_of_pages() {
        for (text, bytes) in [("1", 4096), ("4K", 4096), ("5k", 8192), ("8M", 8 << 20)] {
            assert_eq!(parse_ring_size(text).unwrap(), bytes, "{text}");
        }
        for text in ["", "M", "0", "-4K", "2G", "99999999999999999999", "4X"] {
            assert!(parse_ring_size(text).is_err(), "{text}");
        }
    }
}
