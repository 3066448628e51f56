//! Patterns of names, compiled into a table that the kernel side follows byte by byte, without a branch.

use std::collections::{BTreeMap, BTreeSet};

use tcptrace_common::config::AUTOMATON_BYTES;

/// States of a table: what one byte counts.
const STATES_MAX: usize = 256;

/// Bytes that a step of a pattern takes.
#[derive(Clone, Debug)]
struct Set([bool; 256]);

impl Set {
    fn of(bytes: impl IntoIterator<Item = u8>) -> Self {
        let mut set = [false; 256];
        for byte in bytes {
            set[usize::from(byte)] = true;
        }
        Self(set)
    }

    fn any() -> Self {
        Self([true; 256])
    }

    fn inverted(mut self) -> Self {
        for is_in in &mut self.0 {
            *is_in = !*is_in;
        }
        self
    }
}

/// What a place of the patterns means, once a name ends there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    No,
    Wanted,
    Unwanted,
}

/// Places within patterns, and what leads from one to others.
#[derive(Debug, Default)]
struct Places {
    steps: Vec<Vec<(Set, usize)>>,
    ends: Vec<End>,
}

impl Places {
    fn add(&mut self) -> usize {
        self.steps.push(Vec::new());
        self.ends.push(End::No);
        self.ends.len() - 1
    }

    fn step(&mut self, from: usize, set: Set, to: usize) {
        if let Some(steps) = self.steps.get_mut(from) {
            steps.push((set, to));
        }
    }

    /// Adds a chain of exactly these bytes behind `from`; its last place.
    fn literal(&mut self, mut from: usize, text: &str) -> usize {
        for byte in text.bytes() {
            let to = self.add();
            self.step(from, Set::of([byte]), to);
            from = to;
        }
        from
    }

    fn end(&mut self, place: usize, end: End) {
        if let Some(at) = self.ends.get_mut(place) {
            *at = end;
        }
    }
}

/// A deterministic automaton over bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct Automaton {
    table: Vec<u8>,
    /// The state before the first byte
    pub start: u8,
    /// States from this one on accept
    pub accepts_from: u16,
}

impl std::fmt::Debug for Automaton {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Automaton")
            .field("start", &self.start)
            .field("accepts_from", &self.accepts_from)
            .finish_non_exhaustive()
    }
}

impl Automaton {
    /// Compiles globs as a shell has them: `*`, `?`, `[a-z]`, `[!a-z]`, and `\` before any of these.
    /// A glob behind `!` excludes; with exclusions alone, everything else is in.
    pub fn of_globs<'a>(globs: impl IntoIterator<Item = &'a str>) -> Result<Self, String> {
        let mut places = Places::default();
        let mut starts = BTreeSet::new();
        let mut any_wanted = false;
        for item in globs {
            let (glob, end) = match item.strip_prefix('!') {
                Some(glob) => (glob, End::Unwanted),
                None => (item, End::Wanted),
            };
            if glob.is_empty() {
                return Err(format!("{item:?} is no pattern"));
            }
            any_wanted |= end == End::Wanted;
            starts.insert(add_glob(&mut places, glob, end)?);
        }
        Self::of_places(&places, starts, !any_wanted)
    }

    /// Compiles what the name of a container's cgroup is like, if its id begins with one of these.
    pub fn of_containers<'a>(prefixes: impl IntoIterator<Item = &'a str>) -> Result<Self, String> {
        use crate::identity::cgroup::{ID_LEN, RUNTIMES, is_lower_hex};

        let hex = || Set::of(*b"0123456789abcdef");
        let mut places = Places::default();
        let start = places.add();
        // `SLICE:cri-containerd:ID`
        let behind_colon = places.add();
        places.step(start, Set::any(), start);
        places.step(start, Set::of([b':']), behind_colon);
        let first = places.add();
        let mut starts = BTreeSet::from([start, first]);
        let mut begins = vec![behind_colon];
        for runtime in RUNTIMES.into_iter().filter(|runtime| !runtime.is_empty()) {
            let from = places.add();
            starts.insert(from);
            begins.push(places.literal(from, runtime));
        }
        let ended = places.add();
        places.end(ended, End::Wanted);
        let scope = places.add();
        let scope_end = places.literal(scope, "scope");
        places.end(scope_end, End::Wanted);
        begins.push(first);
        for prefix in prefixes {
            if prefix.is_empty() || prefix.len() > ID_LEN || !is_lower_hex(prefix) {
                return Err(format!(
                    "{prefix:?} is not the beginning of a container id, which is {ID_LEN} hexadecimal digits"
                ));
            }
            let mut chain = Vec::new();
            for _ in 0..=ID_LEN {
                chain.push(places.add());
            }
            for (index, pair) in chain.windows(2).enumerate() {
                let set = prefix
                    .as_bytes()
                    .get(index)
                    .map_or_else(hex, |byte| Set::of([*byte]));
                places.step(pair[0], set, pair[1]);
            }
            let digits = *prefix.as_bytes().first().unwrap_or(&b'0');
            for begin in &begins {
                places.step(*begin, Set::of([digits]), chain[1]);
            }
            if let Some(last) = chain.last() {
                places.end(*last, End::Wanted);
                places.step(*last, Set::of([b'.']), scope);
            }
        }
        Self::of_places(&places, starts, false)
    }

    fn of_places(
        places: &Places,
        starts: BTreeSet<usize>,
        rest_is_wanted: bool,
    ) -> Result<Self, String> {
        let mut numbers = BTreeMap::from([(starts.clone(), 0)]);
        let mut sets = vec![starts];
        let mut rows: Vec<Vec<usize>> = Vec::new();
        while let Some(set) = sets.get(rows.len()).cloned() {
            let mut row = Vec::with_capacity(256);
            for byte in 0..256 {
                let next: BTreeSet<usize> = set
                    .iter()
                    .filter_map(|place| places.steps.get(*place))
                    .flatten()
                    .filter(|(taken, _)| taken.0[byte])
                    .map(|(_, to)| *to)
                    .collect();
                let number = numbers.len();
                let number = *numbers.entry(next.clone()).or_insert_with(|| {
                    sets.push(next);
                    number
                });
                row.push(number);
            }
            rows.push(row);
            if numbers.len() > STATES_MAX {
                return Err("too many or too long patterns at once".to_owned());
            }
        }
        let accepts = |set: &BTreeSet<usize>| {
            let ends = |end| {
                set.iter()
                    .any(|place| places.ends.get(*place) == Some(&end))
            };
            !ends(End::Unwanted) && (rest_is_wanted || ends(End::Wanted))
        };
        // Those that accept come last.
        let mut order: Vec<usize> = (0..sets.len()).collect();
        order.sort_by_key(|number| accepts(&sets[*number]));
        let accepting = sets.iter().filter(|set| accepts(set)).count();
        let mut place_of = vec![0; sets.len()];
        for (place, number) in order.iter().enumerate() {
            place_of[*number] = u8::try_from(place).map_err(|why| why.to_string())?;
        }
        let mut table = vec![0; AUTOMATON_BYTES];
        for (number, row) in rows.iter().enumerate() {
            let from = usize::from(place_of[number]) * 256;
            for (to, next) in table[from..from + 256].iter_mut().zip(row) {
                *to = place_of[*next];
            }
        }
        Ok(Self {
            table,
            start: place_of[0],
            accepts_from: u16::try_from(sets.len() - accepting).map_err(|why| why.to_string())?,
        })
    }

    /// The next state, at `state << 8 | byte`; [`AUTOMATON_BYTES`] of them.
    pub fn table(&self) -> &[u8] {
        &self.table
    }

    /// Whether a whole name matches.
    pub fn matches(&self, name: &[u8]) -> bool {
        let last = name.iter().fold(self.start, |state, byte| {
            self.table[usize::from(state) << 8 | usize::from(*byte)]
        });
        u16::from(last) >= self.accepts_from
    }
}

/// Adds one glob; its first place.
fn add_glob(places: &mut Places, glob: &str, end: End) -> Result<usize, String> {
    let first = places.add();
    let mut at = first;
    let mut bytes = glob.bytes().peekable();
    while let Some(byte) = bytes.next() {
        let set = match byte {
            b'*' => {
                places.step(at, Set::any(), at);
                continue;
            }
            b'?' => Set::any(),
            b'[' => class(&mut bytes).ok_or_else(|| {
                format!("{glob:?} has a [ without its ]; write \\[ for the character")
            })?,
            b'\\' => Set::of([bytes
                .next()
                .ok_or_else(|| format!("{glob:?} ends with a backslash"))?]),
            byte => Set::of([byte]),
        };
        let to = places.add();
        places.step(at, set, to);
        at = to;
    }
    places.end(at, end);
    Ok(first)
}

/// What stands between `[` and `]`.
fn class(bytes: &mut std::iter::Peekable<std::str::Bytes<'_>>) -> Option<Set> {
    let inverted = bytes
        .next_if(|byte| *byte == b'!' || *byte == b'^')
        .is_some();
    let mut members = Vec::new();
    loop {
        let byte = match bytes.next()? {
            // The first is a member.
            b']' if !members.is_empty() => break,
            b'\\' => bytes.next()?,
            byte => byte,
        };
        if bytes.next_if_eq(&b'-').is_none() {
            members.push(byte);
        } else if bytes.peek() == Some(&b']') {
            members.extend([byte, b'-']);
        } else {
            members.extend(byte..=bytes.next()?);
        }
    }
    let set = Set::of(members);
    Some(if inverted { set.inverted() } else { set })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn globs(list: &str) -> Automaton {
        Automaton::of_globs(list.split(',')).unwrap()
    }

    #[test]
    fn globs_as_a_shell_has_them() {
        for (list, names, others) in [
            (
                "nginx",
                &["nginx"][..],
                &["nginx2", "ngin", "", "Nginx"][..],
            ),
            ("php*", &["php", "php-fpm8.2"], &["ph", "aphp"]),
            ("*", &["", "x", "\u{ff}"], &[]),
            ("*sh", &["sh", "bash", "shsh"], &["shs"]),
            ("a*b*c", &["abc", "axxbbc"], &["acb", "ab"]),
            ("w?rker", &["worker"], &["wrker", "woorker"]),
            ("[a-c]x", &["ax", "cx"], &["dx", "-x"]),
            ("[!a-c]x", &["dx"], &["ax"]),
            ("[]a]", &["]", "a"], &["b"]),
            ("[a-]", &["-", "a"], &["b"]),
            ("a\\*", &["a*"], &["ab"]),
            ("a,b*", &["a", "b", "bb"], &["aa"]),
            ("!sshd", &["nginx", ""], &["sshd"]),
            ("php*,!php-cgi", &["php-fpm"], &["php-cgi", "x"]),
            (
                "/usr/bin/*",
                &["/usr/bin/curl", "/usr/bin/a/b"],
                &["/bin/curl"],
            ),
        ] {
            let automaton = globs(list);
            for name in names {
                assert!(automaton.matches(name.as_bytes()), "{list} {name}");
            }
            for name in others {
                assert!(!automaton.matches(name.as_bytes()), "{list} {name}");
            }
        }
    }

    #[test]
    fn bad_globs_are_repeated() {
        for bad in ["", "!", "[a", "a\\"] {
            let why = Automaton::of_globs([bad]).unwrap_err();
            assert!(why.contains(&format!("{bad:?}")), "{why}");
        }
        let many: Vec<String> = (0..40).map(|number| format!("*{number}*x*y*z*")).collect();
        assert!(Automaton::of_globs(many.iter().map(String::as_str)).is_err());
    }

    #[test]
    fn containers_by_the_beginning_of_their_id() {
        let id = "9c4b1cbf5d2a8e0f7e3f65d2d8c9a54e1b6a3f0c7d2e9b8a4f5c6d7e8f901234";
        let other = id.replace("9c4b1cbf", "8c4b1cbf");
        for prefix in ["9", "9c4b1cbf5d2a", id] {
            let automaton = Automaton::of_containers([prefix, "ffff"]).unwrap();
            for form in [
                "ID",
                "docker-ID.scope",
                "cri-containerd-ID.scope",
                "crio-ID",
                "crio-ID.scope",
                "libpod-ID.scope",
                "libpod-payload-ID",
                "nerdctl-ID.scope",
                "kubepods-burstable-pod1.slice:cri-containerd:ID",
            ] {
                let name = form.replace("ID", id);
                assert!(automaton.matches(name.as_bytes()), "{prefix} {name}");
                let name = form.replace("ID", &other);
                assert!(!automaton.matches(name.as_bytes()), "{prefix} {name}");
            }
            for name in [
                format!("libpod-conmon-{id}.scope"),
                format!("{id}0"),
                id[..63].to_owned(),
                "9.service".to_owned(),
            ] {
                assert!(!automaton.matches(name.as_bytes()), "{prefix} {name}");
            }
        }
        for bad in ["", "web", "9C", &format!("{id}0")] {
            assert!(Automaton::of_containers([bad]).is_err(), "{bad}");
        }
    }
}
