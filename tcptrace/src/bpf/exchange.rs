//! The object for kernels that know no instructions which exchange words.

/// `BPF_STX | BPF_ATOMIC | BPF_DW`
const ATOMIC: u8 = 0xdb;
/// `BPF_XCHG` and `BPF_CMPXCHG`, as the immediate value. A plain addition has 0.
const EXCHANGES: [[u8; 4]; 2] = [0xe1_u32.to_ne_bytes(), 0xf1_u32.to_ne_bytes()];
/// `BPF_JMP | BPF_JA` to the next instruction: does nothing.
const NOTHING: [u8; 8] = [0x05, 0, 0, 0, 0, 0, 0, 0];

/// The object without instructions that exchange words. Nothing reaches them where `exchanges` is 0 in
/// the configuration, but kernels before 5.12 refuse to see them at all. Instructions are eight bytes
/// long, and sections of them lie at multiples of eight bytes.
pub(super) fn remove(object: &[u8]) -> Vec<u8> {
    let mut object = object.to_vec();
    let (instructions, _) = object.as_chunks_mut::<8>();
    for instruction in instructions {
        let [operation, _, offset @ .., a, b, c, d] = *instruction;
        if operation == ATOMIC && offset == [0; 2] && EXCHANGES.contains(&[a, b, c, d]) {
            *instruction = NOTHING;
        }
    }
    object
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn additions_stay() {
        let instruction = |immediate| [ATOMIC, 0x21, 0, 0, immediate, 0, 0, 0];
        let built = [0x00, 0xe1, 0xf1, 0x01].map(instruction).concat();
        let wanted = [instruction(0), NOTHING, NOTHING, instruction(1)];
        assert_eq!(remove(&built), wanted.concat());
    }
}
