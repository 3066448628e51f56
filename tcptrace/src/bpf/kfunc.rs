//! Kernel functions in the place of the calls that the object was built with: see
//! `tcptrace_common::kfunc`.

use std::borrow::Cow;

use tcptrace_common::{
    config::Config,
    kfunc::{PREEMPT_DISABLE, PREEMPT_ENABLE, RDONLY_CAST},
};

use crate::kernel::Kernel;

/// `BPF_JMP | BPF_CALL` without registers and offset: a call of a helper by its number.
const CALL_HELPER: [u8; 4] = [0x85, 0, 0, 0];
/// The same with `BPF_PSEUDO_KFUNC_CALL` as source register (the high half of the byte): a call of
/// a kernel function by its number in the kernel's BTF.
const CALL_KFUNC: [u8; 4] = [0x85, 0x20, 0, 0];

/// Which function of this kernel belongs in which place, of those that are called with this configuration.
pub(super) fn functions(kernel: &Kernel, config: &Config) -> Vec<(u32, u32)> {
    let preemption = kernel.preemption.filter(|_| config.pinned != 0);
    let preemption = preemption.map(|preemption| {
        [
            (PREEMPT_DISABLE, preemption.disable),
            (PREEMPT_ENABLE, preemption.enable),
        ]
    });
    let cast = kernel.rdonly_cast.filter(|_| config.casts != 0);
    let cast = cast.map(|cast| (RDONLY_CAST, cast));
    preemption.into_iter().flatten().chain(cast).collect()
}

/// The object with its calls leading to this kernel's functions. Instructions are eight bytes long,
/// and sections of them lie at multiples of eight bytes.
pub(super) fn resolve<'a>(object: &'a [u8], functions: &[(u32, u32)]) -> Cow<'a, [u8]> {
    if functions.is_empty() {
        return object.into();
    }
    let mut object = object.to_vec();
    for &(place, function) in functions {
        let call = instruction(CALL_HELPER, place);
        for found in object
            .chunks_exact_mut(call.len())
            .filter(|bytes| **bytes == call)
        {
            found.copy_from_slice(&instruction(CALL_KFUNC, function));
        }
    }
    object.into()
}

fn instruction(operation: [u8; 4], immediate: u32) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&operation);
    bytes[4..].copy_from_slice(&immediate.to_ne_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_lead_to_the_kernels_functions_and_nothing_else_changes() {
        let functions = [
            (PREEMPT_DISABLE, 11),
            (PREEMPT_ENABLE, 12),
            (RDONLY_CAST, 13),
        ];
        let other = instruction(CALL_HELPER, 5);
        let built = [
            other,
            instruction(CALL_HELPER, PREEMPT_DISABLE),
            instruction(CALL_HELPER, PREEMPT_ENABLE),
            instruction(CALL_HELPER, PREEMPT_ENABLE),
            instruction(CALL_HELPER, RDONLY_CAST),
        ]
        .concat();
        let resolved = resolve(&built, &functions);
        let wanted = [
            other,
            instruction(CALL_KFUNC, 11),
            instruction(CALL_KFUNC, 12),
            instruction(CALL_KFUNC, 12),
            instruction(CALL_KFUNC, 13),
        ];
        assert_eq!(resolved, wanted.concat());
        assert_eq!(resolve(&built, &[]), built);
    }
}
