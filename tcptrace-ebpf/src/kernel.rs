//! Reading kernel memory: directly where the verifier knows the type, by probe elsewhere.

use aya_ebpf::helpers::generated::{
    bpf_get_current_task, bpf_get_current_task_btf, bpf_get_smp_processor_id,
    bpf_get_socket_cookie, bpf_jiffies64, bpf_ktime_get_ns, bpf_probe_read_kernel,
};

use tcptrace_common::kfunc::RDONLY_CAST;

use crate::constants::{config, off};

/// A kernel struct whose fields can be read at run-time offsets.
pub(crate) trait Object: Copy {
    /// Reads a `T` at `offset` bytes. Memory that cannot be read reads as zero.
    fn read<T: Copy>(self, offset: u32) -> T;

    /// The object's address, as an identity.
    fn address(self) -> u64;
}

/// A pointer whose type the verifier knows: reads compile to plain loads, which the kernel
/// guards against faults.
#[derive(Clone, Copy)]
pub(crate) struct Typed(pub *const u8);

impl Typed {
    /// What a field points to, by probe: of a pointer that is loaded the verifier asks whether it may be
    /// trusted, and looks through all types of the kernel for the answer (`btf_nested_type_is_trusted`,
    /// 6.18), each time it comes by. That was a quarter of what loading takes.
    #[inline(always)]
    pub(crate) fn probe(self, offset: u32) -> Probed {
        Probed(Probed(self.address()).read(offset))
    }

    /// A name of 16 bytes, in two words: the compiler would read it byte by byte.
    #[inline(always)]
    pub(crate) fn words(self, offset: u32) -> [u64; 2] {
        if offset.is_multiple_of(8) {
            [self.read(offset), self.read(offset + 8)]
        } else {
            Probed(self.address()).read(offset)
        }
    }
}

impl Object for Typed {
    #[inline(always)]
    fn read<T: Copy>(self, offset: u32) -> T {
        let field = self.0.wrapping_add(offset as usize).cast::<T>();
        // SAFETY: the verifier accepts this load only if `offset` is a constant that lies on a
        // member of the pointed-to type; a fault reads as zero (BPF_PROBE_MEM).
        unsafe { *field }
    }

    #[inline(always)]
    fn address(self) -> u64 {
        self.0 as u64
    }
}

/// An address the verifier knows nothing of.
#[derive(Clone, Copy)]
pub(crate) struct Probed(pub u64);

/// Loads what is at an address, which may be any. The load stands beside the call: another that the
/// compiler merged it with might be one of a kind of pointer that the kernel does not guard.
macro_rules! load {
    ($size:literal, $address:expr) => {{
        let value: u64;
        // SAFETY: a call of `bpf_rdonly_cast`, which changes no memory, and a load that the kernel guards
        // against faults, after which the value is 0.
        unsafe {
            core::arch::asm!(
                "call {cast}",
                concat!("r0 = *(", $size, " *)(r0 + 0)"),
                cast = const RDONLY_CAST,
                lateout("r0") value,
                inlateout("r1") $address => _,
                inlateout("r2") 0_u64 => _,
                lateout("r3") _,
                lateout("r4") _,
                lateout("r5") _,
                options(readonly, nostack),
            );
        }
        value
    }};
}

impl Probed {
    /// [`Object::read`] where the kernel has a function for it, which the verifier replaces by one instruction.
    #[inline(always)]
    fn load<T: Copy>(self, offset: u32) -> T {
        const { assert!(matches!(size_of::<T>(), 1 | 2 | 4 | 8 | 16)) };
        let address = self.0 + u64::from(offset);
        let words = match size_of::<T>() {
            1 => [load!("u8", address), 0],
            2 => [load!("u16", address), 0],
            4 => [load!("u32", address), 0],
            8 => [load!("u64", address), 0],
            _ => [load!("u64", address), load!("u64", address + 8)],
        };
        // SAFETY: `T` is no longer than two words and begins with the first, as the target is little-endian;
        // callers ask for integers and pointers only, for which any bytes are a value.
        unsafe { core::mem::transmute_copy(&words) }
    }
}

impl Object for Probed {
    #[inline(always)]
    fn read<T: Copy>(self, offset: u32) -> T {
        if config!(casts) != 0 {
            return self.load(offset);
        }
        let mut value = core::mem::MaybeUninit::<T>::zeroed();
        // SAFETY: the helper writes size_of::<T>() bytes, zeroes on a fault.
        unsafe {
            bpf_probe_read_kernel(
                value.as_mut_ptr().cast(),
                size_of::<T>() as u32,
                (self.0 + u64::from(offset)) as *const _,
            );
        }
        // SAFETY: zeroed above; callers ask for integers and pointers only, for which any bytes
        // are a value.
        unsafe { value.assume_init() }
    }

    #[inline(always)]
    fn address(self) -> u64 {
        self.0
    }
}

/// The running task, and what its fields lead to: of a type that the verifier knows where the kernel
/// gives such a pointer (5.11 and later), by probe elsewhere.
#[derive(Clone, Copy)]
pub(crate) struct Walked(*const u8);

impl Walked {
    /// The running task.
    #[inline(always)]
    pub(crate) fn current_task() -> Self {
        if config!(typed_task) != 0 {
            // SAFETY: no arguments; the helper returns the running task.
            return Self(
                unsafe { bpf_get_current_task_btf() }
                    .cast::<u8>()
                    .cast_const(),
            );
        }
        // SAFETY: no arguments; the helper returns the address of the running task.
        Self(unsafe { bpf_get_current_task() } as *const u8)
    }

    /// What a field points to.
    #[inline(always)]
    pub(crate) fn follow(self, offset: u32) -> Self {
        Self(self.read::<*const u8>(offset))
    }

    /// A name of 16 bytes.
    #[inline(always)]
    pub(crate) fn name(self, offset: u32) -> [u8; 16] {
        if config!(typed_task) != 0 {
            let words = Typed(self.0).words(offset);
            // SAFETY: any bytes are a name.
            unsafe { core::mem::transmute::<[u64; 2], [u8; 16]>(words) }
        } else {
            Probed(self.0 as u64).read(offset)
        }
    }
}

impl Object for Walked {
    #[inline(always)]
    fn read<T: Copy>(self, offset: u32) -> T {
        if config!(typed_task) != 0 {
            Typed(self.0).read(offset)
        } else {
            Probed(self.0 as u64).read(offset)
        }
    }

    #[inline(always)]
    fn address(self) -> u64 {
        self.0 as u64
    }
}

/// A number that may be calculated with. To the verifier, the address of a typed pointer is still that
/// pointer.
#[inline(always)]
pub(crate) fn number(address: u64) -> u64 {
    let number;
    // SAFETY: two instructions, which change nothing but their register.
    unsafe { core::arch::asm!("{0} = -{0}", "{0} = -{0}", inout(reg) address => number) };
    number
}

/// The same, of which the verifier knows nothing any more: what it knows keeps it from seeing that it
/// has been here before.
#[inline(always)]
pub(crate) fn opaque_scalar(number: u8) -> u8 {
    let mut number = u64::from(number);
    // SAFETY: two instructions, which change nothing but their register.
    unsafe { core::arch::asm!("{0} = be16 {0}", "{0} = be16 {0}", inout(reg) number) };
    number as u8
}

/// 1 for zero, 0 for all else, without a branch: the verifier follows each branch of every state it
/// comes with.
#[inline(always)]
pub(crate) fn is_zero(number: u64) -> u64 {
    let is_zero;
    // SAFETY: instructions that change nothing but their registers. Of a number or its opposite the
    // highest bit is set, unless it is zero.
    unsafe {
        core::arch::asm!(
            "{out} = {number}",
            "{out} = -{out}",
            "{out} |= {number}",
            "{out} >>= 63",
            "{out} ^= 1",
            number = in(reg) number,
            out = out(reg) is_zero,
        );
    }
    is_zero
}

/// Copies word by word. The target has no `memcpy`: what the compiler takes for one becomes a call
/// that copies byte by byte.
#[inline(always)]
pub(crate) fn copy<T: Copy>(into: &mut T, from: &T) {
    const { assert!(align_of::<T>() == 8 && size_of::<T>().is_multiple_of(8)) };
    let (into, from) = (
        (&raw mut *into).cast::<u64>(),
        (&raw const *from).cast::<u64>(),
    );
    for word in 0..size_of::<T>() / 8 {
        let (into, from) = (into.wrapping_add(word), from.wrapping_add(word));
        // SAFETY: inside `T`, which is aligned to words; volatile, so that it stays a loop of words.
        let value = unsafe { from.read_volatile() };
        // SAFETY: as above.
        unsafe { into.write(value) };
    }
}

/// Writes the same into each, word by word; see [`copy`].
#[inline(always)]
pub(crate) fn fill_words<const N: usize>(into: &mut [u32; N], word: u32) {
    for at in into {
        // SAFETY: a live word; volatile, so that it stays a loop of words.
        unsafe { core::ptr::write_volatile(at, word) };
    }
}

/// `CLOCK_MONOTONIC`, ns
#[inline(always)]
pub(crate) fn now_ns() -> u64 {
    // SAFETY: no arguments.
    unsafe { bpf_ktime_get_ns() }
}

/// The kernel's ticks.
#[inline(always)]
pub(crate) fn jiffies() -> u64 {
    // SAFETY: no arguments.
    unsafe { bpf_jiffies64() }
}

/// The socket's cookie: the number `ss -e` prints after `sk:`, made on first use.
///
/// Where tracing programs may not ask for it (before 5.12), see [`cookie_or_own_id`].
#[inline(always)]
pub(crate) fn cookie(sk: Typed, born_ns: u64) -> u64 {
    if config!(cookie_helper) != 0 {
        // SAFETY: `sk` is a typed socket pointer, which is what the helper takes.
        return unsafe { bpf_get_socket_cookie(sk.0.cast_mut().cast()) };
    }
    cookie_or_own_id(sk.read(off!(sk_cookie)), born_ns)
}

/// The cookie somebody else asked for, or else an id of our own: bit 63, the birth time, and the
/// CPU, which cannot give birth to two sockets at one time.
#[inline(always)]
pub(crate) fn cookie_or_own_id(cookie: u64, born_ns: u64) -> u64 {
    match cookie {
        0 => 1 << 63 | (born_ns & ((1 << 53) - 1)) << 10 | u64::from(cpu() & 0x3ff),
        made => made,
    }
}

/// The CPU this program runs on.
#[inline(always)]
pub(crate) fn cpu() -> u32 {
    // SAFETY: no arguments; the program does not migrate while it runs.
    unsafe { bpf_get_smp_processor_id() }
}
