//! Puts offsets and functions of the running kernel into the programs' code before they are loaded.
//!
//! rustc writes no relocations of that kind (CO-RE). So the programs have a call and a load with numbers that
//! nothing else has, and these are replaced here by the kernel's.

use anyhow::{Result, ensure};

use crate::bpf::btf::{Bit, Types};

/// As in svclb-ebpf/src/context.rs.
const CAST: i32 = 0x7fff_5c1b;
const BYTE: i16 = 0x7c1b;

/// Bytes of an instruction: operation, registers, offset, number (RFC 9669).
const INSTRUCTION: usize = 8;
const CALL: u8 = 0x85;
const LOAD_BYTE: u8 = 0x71;
/// As the source of a call: its number is the BTF id of a kernel function (BPF_PSEUDO_KFUNC_CALL).
const KERNEL_FUNCTION: u8 = 2 << 4;

/// The position of the bit that marks the kernel's own sockets (`sk_kern_sock` of `struct sock`), and the way
/// to read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernSock {
    pub(super) bit: Bit,
    /// BTF id of `bpf_cast_to_kern_ctx` (6.2), by which the verifier lets programs read it like any memory
    /// of theirs; none where they ask a helper, which takes some 50 ns a time.
    pub(super) cast: Option<u32>,
}

impl KernSock {
    /// Looks for it in the kernel's types; none where these do not have it.
    pub(super) fn of_kernel(may_ask: bool) -> Result<Option<Self>> {
        let types = Types::of_kernel()?;
        let Ok(bit) = types.bit("sock", "sk_kern_sock") else { return Ok(None) };
        let cast = types.function("bpf_cast_to_kern_ctx").ok();
        Ok((cast.is_some() || may_ask).then_some(Self { bit, cast }))
    }

    /// The object's code with the numbers of this kernel.
    ///
    /// # Errors
    /// When the object has no place for them.
    pub(super) fn put_into(self, object: &[u8]) -> Result<Vec<u8>> {
        let mut object = object.to_vec();
        let Some(function) = self.cast else { return Ok(object) };
        let (function, byte) = (i32::try_from(function)?, i16::try_from(self.bit.byte)?);
        let (mut calls, mut loads) = (0, 0);
        for code in object.chunks_exact_mut(INSTRUCTION) {
            let offset = i16::from_le_bytes([code[2], code[3]]);
            let number = i32::from_le_bytes([code[4], code[5], code[6], code[7]]);
            if (code[0], code[1], offset, number) == (CALL, 0, 0, CAST) {
                code[1] = KERNEL_FUNCTION;
                code[4..].copy_from_slice(&function.to_le_bytes());
                calls += 1;
            } else if (code[0], offset, number) == (LOAD_BYTE, BYTE, 0) {
                code[2..4].copy_from_slice(&byte.to_le_bytes());
                loads += 1;
            }
        }
        ensure!(calls > 0 && calls == loads, "the programs have {calls} calls and {loads} loads");
        Ok(object)
    }
}
