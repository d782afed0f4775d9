//! The kernel's types (BTF): offsets of fields, and ids of functions. aya-obj reads them too, but does not
//! show fields.
//!
//! The format is that of Documentation/bpf/btf.rst; numbers are in the machine's byte order.
#![cfg_attr(not(test), deny(clippy::indexing_slicing))]

use std::fs;

use anyhow::{Context as _, Result, bail};

/// The file in which the kernel shows its types.
pub const BTF: &str = "/sys/kernel/btf/vmlinux";

const MAGIC: u16 = 0xeb9f;
/// Kinds of include/uapi/linux/btf.h.
const STRUCT: u32 = 4;
const FUNCTION: u32 = 12;

/// A field of one bit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Bit {
    /// Offset of its byte in the structure.
    pub byte: u32,
    /// The bit in that byte.
    pub mask: u8,
}

/// All types of the running kernel.
#[derive(Debug)]
pub(crate) struct Types {
    bytes: Vec<u8>,
    /// Begin and end of the types in `bytes`.
    types: (usize, usize),
    /// Begin of the names in `bytes`.
    names: usize,
}

/// One type: its head and what follows it.
struct Type<'a> {
    id: u32,
    kind: u32,
    name: &'a [u8],
    members: &'a [u8],
    /// Offsets of members share their number with the size of a bit field.
    has_bit_fields: bool,
}

impl Types {
    /// Reads the types of the running kernel.
    ///
    /// # Errors
    /// When they cannot be read.
    pub(crate) fn of_kernel() -> Result<Self> {
        Self::parse(fs::read(BTF).with_context(|| format!("cannot read {BTF}"))?)
    }

    fn parse(bytes: Vec<u8>) -> Result<Self> {
        let head = |at: usize| number(&bytes, at).with_context(|| format!("{BTF} is too short"));
        let magic = u16::try_from(head(0)? & 0xffff)?;
        if magic != MAGIC {
            bail!("{BTF} begins with {magic:#06x}, expected {MAGIC:#06x}");
        }
        // Both parts are counted from the end of the header.
        let start = usize::try_from(head(4)?)?;
        let at = |field: usize| -> Result<usize> {
            let offset = usize::try_from(head(field)?)?;
            start.checked_add(offset).with_context(|| format!("{BTF} is too short"))
        };
        let (types, names) = (at(8)?, at(16)?);
        let end = types.saturating_add(usize::try_from(head(12)?)?);
        Ok(Self { bytes, types: (types, end), names })
    }

    /// The offset of a field in its structure, in bytes.
    ///
    /// # Errors
    /// When this kernel has no such field, or one of single bits.
    pub(crate) fn offset(&self, structure: &str, field: &str) -> Result<u32> {
        let is_whole = |offset: u32, size| size == 0 && offset.is_multiple_of(8);
        Ok(self.field(structure, field, is_whole)? / 8)
    }

    /// The position of a field of one bit in its structure.
    ///
    /// # Errors
    /// When this kernel has no such field, or a wider one.
    pub(crate) fn bit(&self, structure: &str, field: &str) -> Result<Bit> {
        let offset = self.field(structure, field, |_, size| size == 1)?;
        Ok(Bit { byte: offset / 8, mask: 1 << (offset % 8) })
    }

    /// The id of a function.
    ///
    /// # Errors
    /// When this kernel has none of this name.
    pub(crate) fn function(&self, name: &str) -> Result<u32> {
        let is_it = |it: &Type<'_>| it.kind == FUNCTION && it.name == name.as_bytes();
        let id = self.find(|it| is_it(it).then_some(it.id));
        id?.with_context(|| format!("this kernel has no function {name}"))
    }

    /// The offset of a field in its structure, in bits. `is_wanted` is given that offset and the size of the
    /// bit field, or 0 of any other field.
    fn field(
        &self,
        structure: &str,
        field: &str,
        is_wanted: impl Fn(u32, u32) -> bool,
    ) -> Result<u32> {
        let found = self.find(|it| {
            if it.kind != STRUCT || it.name != structure.as_bytes() {
                return None;
            }
            let is_it = |member: &[u8]| Some(self.name(number(member, 0)?)? == field.as_bytes());
            let mut members = it.members.chunks_exact(12);
            let position = number(members.find(|it| is_it(it) == Some(true))?, 8)?;
            let (offset, size) = if it.has_bit_fields {
                (position & 0x00ff_ffff, position >> 24)
            } else {
                (position, 0)
            };
            is_wanted(offset, size).then_some(offset)
        });
        found?.with_context(|| format!("this kernel's {structure} has no such field {field}"))
    }

    /// Looks for a type, from the first to the last.
    fn find<T>(&self, mut is_it: impl FnMut(&Type<'_>) -> Option<T>) -> Result<Option<T>> {
        let (mut at, end) = self.types;
        let mut id = 0;
        while at < end {
            id += 1;
            let (next, found) = self.read(at, id)?;
            if let Some(found) = is_it(&found) {
                return Ok(Some(found));
            }
            at = next;
        }
        Ok(None)
    }

    /// Reads the type at a place, and returns the place of the next one.
    fn read(&self, at: usize, id: u32) -> Result<(usize, Type<'_>)> {
        let short = || format!("{BTF}: type {id} is cut off");
        let word = |field: usize| number(&self.bytes, at.saturating_add(field)).with_context(short);
        let info = word(4)?;
        let (kind, count) = ((info >> 24) & 0x1f, usize::try_from(info & 0xffff)?);
        let length = match kind {
            // Integers, variables, tags of declarations.
            1 | 14 | 17 => 4,
            // Pointers, forward declarations, names of types, qualifiers, functions, floats, tags of types.
            2 | 7..=12 | 16 | 18 => 0,
            // Arrays.
            3 => 12,
            // Structures, unions, sections, enumerations of 64 bits.
            STRUCT | 5 | 15 | 19 => count * 12,
            // Enumerations, prototypes of functions.
            6 | 13 => count * 8,
            other => bail!("{BTF}: type {id} is of kind {other}, which svclb does not know"),
        };
        let from = at.saturating_add(12);
        let members = self.bytes.get(from..from.saturating_add(length)).with_context(short)?;
        let name = self.name(word(0)?).with_context(short)?;
        let has_bit_fields = info >> 31 == 1;
        Ok((from + length, Type { id, kind, name, members, has_bit_fields }))
    }

    fn name(&self, offset: u32) -> Option<&[u8]> {
        let at = self.names.checked_add(usize::try_from(offset).ok()?)?;
        self.bytes.get(at..)?.split(|byte| *byte == 0).next()
    }
}

/// Reads 32 bits in the machine's byte order.
pub(crate) fn number(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|word| u32::from_ne_bytes(*word))
}

#[cfg(test)]
mod tests;
