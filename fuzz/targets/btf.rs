//! Descriptions of a kernel's types: anything is offsets or an error, within bounds of time and
//! memory, and what is left for the library that loads programs is well-formed.

use tcptrace::kernel::{
    ATTACHED_FUNCTIONS,
    btf::{Btf, BtfError},
    layout,
};

pub(crate) fn target(bytes: &[u8]) {
    let Ok(btf) = Btf::parse(bytes) else { return };
    // As `Kernel::look` does.
    match layout::resolve(&btf) {
        Ok((_layout, lacking)) => lacking.iter().for_each(|lacking| told(&lacking.why)),
        Err(why) => told(&why),
    }
    for tracepoint in ["tcp_send_reset", "tcp_retransmit_skb"] {
        if let Err(why) = btf.tracepoint_args(tracepoint) {
            told(&why);
        }
    }
    if let Err(why) = btf.function("bpf_preempt_disable") {
        told(&why);
    }
    if let Err(why) = btf.enumerators("sk_rst_reason") {
        told(&why);
    }
    let Ok(reduced) = btf.reduced(ATTACHED_FUNCTIONS) else {
        return;
    };
    // Types and strings may be the same bytes in a crafted one.
    assert!(
        reduced.len() <= 2 * bytes.len() + 24,
        "{} bytes became {}",
        bytes.len(),
        reduced.len()
    );
    let again = Btf::parse(&reduced).expect("what we write we read");
    assert_eq!(
        again.reduced(ATTACHED_FUNCTIONS).as_ref(),
        Ok(&reduced),
        "reducing it again changes it"
    );
    aya::Btf::parse(&reduced, aya::Endianness::default()).expect("the library reads what we write");
}

/// An error has words.
fn told(why: &BtfError) {
    assert!(!why.to_string().is_empty());
}
