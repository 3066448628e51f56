//! What of the kernel may be used.

use std::path::PathBuf;

use clap::{Args, ValueEnum, builder::PossibleValue};

use crate::kernel::{BTF_PATH, HookKind};

/// Makes this kernel poorer than it is, for tests.
#[derive(Args, Clone, Debug)]
pub struct KernelArgs {
    /// Use only these kinds of accept hooks: fentry, kprobe, kretprobe, tracepoint
    #[arg(long, value_name = "LIST", value_delimiter = ',', hide = true)]
    pub hooks: Vec<HookKind>,
    /// Read the kernel's types from FILE
    #[arg(long, value_name = "FILE", hide = true, default_value = BTF_PATH)]
    pub btf: PathBuf,
}

impl ValueEnum for HookKind {
    fn value_variants<'a>() -> &'a [Self] {
        &[
            Self::Fentry,
            Self::Kprobe,
            Self::Kretprobe,
            Self::Tracepoint,
        ]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(match self {
            Self::Fentry => "fentry",
            Self::Kprobe => "kprobe",
            Self::Kretprobe => "kretprobe",
            Self::Tracepoint => "tracepoint",
        }))
    }
}
