//! Kernel functions in the place of the calls that the object was built with: see
//! `tcptrace_common::kfunc`.

use tcptrace_common::kfunc::{PREEMPT_DISABLE, PREEMPT_ENABLE};

use crate::kernel::Preemption;

/// `BPF_JMP | BPF_CALL` without registers and offset: a call of a helper by its number.
const CALL_HELPER: [u8; 4] = [0x85, 0, 0, 0];
/// The same with `BPF_PSEUDO_KFUNC_CALL` as source register (the high half of the byte): a call of
/// a kernel function by its number in the kernel's BTF.
const CALL_KFUNC: [u8; 4] = [0x85, 0x20, 0, 0];

/// The object with its calls leading to this kernel's functions. Instructions are eight bytes long,
/// and sections of them lie at multiples of eight bytes.
pub(super) fn resolve(object: &[u8], preemption: Preemption) -> Vec<u8> {
    let mut object = object.to_vec();
    for (place, function) in [
        (PREEMPT_DISABLE, preemption.disable),
        (PREEMPT_ENABLE, preemption.enable),
    ] {
        let call = instruction(CALL_HELPER, place);
        for found in object
            .chunks_exact_mut(call.len())
            .filter(|bytes| **bytes == call)
        {
            found.copy_from_slice(&instruction(CALL_KFUNC, function));
        }
    }
    object
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
        let preemption = Preemption {
            disable: 11,
            enable: 12,
        };
        let other = instruction(CALL_HELPER, 5);
        let built = [
            other,
            instruction(CALL_HELPER, PREEMPT_DISABLE),
            instruction(CALL_HELPER, PREEMPT_ENABLE),
            instruction(CALL_HELPER, PREEMPT_ENABLE),
        ];
        let resolved = resolve(&built.concat(), preemption);
        let wanted = [
            other,
            instruction(CALL_KFUNC, 11),
            instruction(CALL_KFUNC, 12),
            instruction(CALL_KFUNC, 12),
        ];
        assert_eq!(resolved, wanted.concat());
    }
}
