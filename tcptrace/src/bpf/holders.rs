//! Who has TCP sockets open: one program of the object, run once. No hook is attached.

use std::{
    fs::File,
    io::{self, Read as _},
};

use aya::{Btf, Ebpf, Endianness, programs::Iter};
use tcptrace_common::{config::Config, holder::Holder};
use zerocopy::{FromBytes as _, IntoBytes as _};

use super::{config, kfunc, load, object::chain, snapshot};
use crate::{error::Error, kernel::Kernel};

const PROGRAM: &str = "holders";
/// The kernel writes at most this much at a time (`bpf_seq_read`).
const BUFFER_BYTES: usize = 64 * 1024;

/// The loaded program.
#[derive(Debug)]
pub struct Holders(Ebpf);

impl Holders {
    /// Loads it. Needs `CAP_BPF` and `CAP_PERFMON`.
    pub fn load(kernel: &Kernel) -> Result<Self, Error> {
        let btf = Btf::parse(&kernel.btf, Endianness::default()).map_err(|why| {
            Error::CannotTrace(format!("this kernel's BTF cannot be used: {why}"))
        })?;
        let mut loader = load::new_loader();
        loader.override_global("LAYOUT", kernel.layout.as_bytes(), true);
        for map in [
            "WATCH",
            "SYNACKS",
            "BACKLOGS",
            "PENDING",
            "LOCKS",
            "PIDS",
            "PORTS",
            "LISTENERS",
        ] {
            loader.map_max_entries(map, 1);
        }
        let wanted = Config {
            casts: u8::from(kernel.rdonly_cast.is_some()),
            ..Config::DEFAULT
        };
        let mut refused = None;
        let configs = config::with_less(wanted);
        for config in &configs {
            loader.override_global("CONFIG", config.as_bytes(), true);
            let object = kfunc::resolve(load::OBJECT, &kfunc::functions(kernel, config));
            let mut ebpf = load::load(&mut loader, &object)?;
            let program: &mut Iter = ebpf
                .program_mut(PROGRAM)
                .ok_or_else(|| anyhow::anyhow!("the embedded object has no program {PROGRAM}"))?
                .try_into()
                .map_err(anyhow::Error::new)?;
            match program.load("task_file", &btf) {
                Ok(()) => return Ok(Self(ebpf)),
                Err(why) => refused = Some(why),
            }
        }
        Err(Error::CannotTrace(refused.map_or_else(
            String::new,
            |why| {
                format!(
                    "the kernel refused a program: {}",
                    super::object::brief(&chain(&why))
                )
            },
        )))
    }

    /// Runs it over the descriptors of all processes.
    pub fn each(&mut self, mut found: impl FnMut(&Holder)) -> anyhow::Result<()> {
        let link = snapshot::open(&mut self.0, PROGRAM)??;
        let mut file: File = link.into_file()?;
        let mut buffer = vec![0; BUFFER_BYTES];
        let mut kept = 0;
        loop {
            let free = buffer.get_mut(kept..).unwrap_or_default();
            let len = match file.read(free) {
                Ok(0) => return Ok(()),
                Ok(len) => kept + len,
                // After a million objects the kernel pauses without a word (`bpf_seq_read`).
                Err(why)
                    if matches!(
                        why.kind(),
                        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                    ) =>
                {
                    continue;
                }
                Err(why) => return Err(why.into()),
            };
            let mut rest = buffer.get(..len).unwrap_or_default();
            while let Ok((holder, after)) = Holder::read_from_prefix(rest) {
                found(&holder);
                rest = after;
            }
            kept = rest.len();
            buffer.copy_within(len - kept..len, 0);
        }
    }
}
