//! Where a field of one bit lies in a struct of the running kernel, by the kernel's own description of its
//! types (BTF; Documentation/bpf/btf.rst).
//!
//! Not a reader of all that BTF can say: what else a kernel describes is skipped.

/// A bit of a struct.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bit {
    /// Offset of its byte in the struct.
    pub byte: u32,
    /// The bit in that byte.
    pub mask: u8,
}

/// `btf_header.magic`.
const MAGIC: u32 = 0xeb9f;
/// `struct btf_type`: name, info, and size or type.
const TYPE: usize = 12;
/// `struct btf_member`: name, type, offset.
const MEMBER: usize = 12;
const KIND_STRUCT: u32 = 4;
/// Bit of `btf_type.info`: a member's offset holds its size in bits, in the highest byte, too.
const HAS_SIZES: u32 = 1 << 31;

/// Finds a field of one bit in the struct of this name; none where there is no such field, or the bytes
/// are not understood.
pub(super) fn find_bit(btf: &[u8], structure: &str, field: &str) -> Option<Bit> {
    let header = size(word(btf, 4)?)?;
    if word(btf, 0)? & 0xffff != MAGIC {
        return None;
    }
    let section = |offset: usize| {
        let from = header.checked_add(size(word(btf, offset)?)?)?;
        btf.get(from..from.checked_add(size(word(btf, offset + 4)?)?)?)
    };
    let (types, names) = (section(8)?, section(16)?);
    let is_named = |name: u32, wanted: &str| {
        let rest = size(name).and_then(|at| names.get(at..));
        let rest = rest.and_then(|rest| rest.strip_prefix(wanted.as_bytes()));
        rest.is_some_and(|rest| rest.first() == Some(&0))
    };
    let mut at = 0;
    while at < types.len() {
        let (name, info) = (word(types, at)?, word(types, at + 4)?);
        let (kind, members) = (info >> 24 & 0x1f, size(info & 0xffff)?);
        at = at.checked_add(TYPE)?;
        if kind == KIND_STRUCT && info & HAS_SIZES != 0 && is_named(name, structure) {
            for member in (0..members).map(|number| at + number * MEMBER) {
                let (offset, name) = (word(types, member + 8)?, word(types, member)?);
                if offset >> 24 == 1 && is_named(name, field) {
                    let bit = offset & 0xff_ffff;
                    return Some(Bit { byte: bit / 8, mask: 1 << (bit % 8) });
                }
            }
        }
        at = at.checked_add(tail(kind, members)?)?;
    }
    None
}

/// Bytes that follow a `struct btf_type` of this kind (include/uapi/linux/btf.h); none for a kind that is
/// not known here.
const fn tail(kind: u32, members: usize) -> Option<usize> {
    Some(match kind {
        // Integer, variable, declaration tag.
        1 | 14 | 17 => 4,
        // Array.
        3 => 12,
        // Struct, union, data section, enum of 64 bits.
        4 | 5 | 15 | 19 => members * MEMBER,
        // Enum, function prototype.
        6 | 13 => members * 8,
        // Pointer, forward, typedef, volatile, const, restrict, function, float, type tag.
        2 | 7..=12 | 16 | 18 => 0,
        _ => return None,
    })
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

fn size(word: u32) -> Option<usize> {
    usize::try_from(word).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: &[u8] = b"\0sock\0sk_kern_sock\0other\0";
    const SOCK: u32 = 1;
    const FIELD: u32 = 6;
    const OTHER: u32 = 19;

    fn blob(types: &[&[u32]]) -> Vec<u8> {
        let types = types.concat();
        let length = |bytes: usize| u32::try_from(bytes).unwrap();
        let (types_length, names_length) = (length(types.len() * 4), length(NAMES.len()));
        let header = [MAGIC | 1 << 16, 24, 0, types_length, types_length, names_length];
        let words = header.iter().chain(&types).flat_map(|word| word.to_ne_bytes());
        words.chain(NAMES.iter().copied()).collect()
    }

    fn found(types: &[&[u32]]) -> Option<Bit> {
        find_bit(&blob(types), "sock", "sk_kern_sock")
    }

    #[test]
    fn a_bit_is_found_behind_types_of_every_kind() {
        let sock =
            [SOCK, HAS_SIZES | KIND_STRUCT << 24 | 2, 64, OTHER, 1, 8, FIELD, 1, 1 << 24 | 43];
        let others: [&[u32]; 8] = [
            &[OTHER, 1 << 24, 4, 32],
            &[0, 3 << 24, 0, 1, 1, 16],
            &[OTHER, 5 << 24 | 1, 8, FIELD, 1, 0],
            &[OTHER, 6 << 24 | 1, 4, 1, 7],
            &[0, 13 << 24 | 1, 0, 1, 1],
            &[OTHER, 14 << 24, 1, 1],
            &[OTHER, 17 << 24, 1, 0],
            &[0, 2 << 24, 1],
        ];
        let expected = Some(Bit { byte: 5, mask: 1 << 3 });
        assert_eq!(found(&[&others.concat(), &sock]), expected);
        assert_eq!(found(&[&others.concat()]), None, "no such struct");
        // A struct of the same name without the field, or with a wider one, is another.
        let wider = [SOCK, HAS_SIZES | KIND_STRUCT << 24 | 1, 8, FIELD, 1, 2 << 24 | 8];
        let plain = [SOCK, KIND_STRUCT << 24 | 1, 8, FIELD, 1, 8];
        assert_eq!(found(&[&wider, &plain]), None);
        assert_eq!(found(&[&wider, &plain, &sock]), expected);
        assert_eq!(found(&[&[OTHER, 31 << 24, 0], &sock]), None, "a kind of a later kernel");
    }

    #[test]
    fn bytes_that_are_cut_short_or_spoilt_are_no_answer_and_no_panic() {
        let sock = [SOCK, HAS_SIZES | KIND_STRUCT << 24 | 1, 64, FIELD, 1, 1 << 24 | 43];
        let whole = blob(&[&[0, 2 << 24, 1], &sock]);
        for length in 0..whole.len() {
            assert_eq!(find_bit(&whole[..length], "sock", "sk_kern_sock"), None, "{length} bytes");
        }
        for at in 0..whole.len() {
            for value in [0, 1, 0x7f, 0x80, 0xff] {
                let mut spoilt = whole.clone();
                spoilt[at] = value;
                let _ = find_bit(&spoilt, "sock", "sk_kern_sock");
            }
        }
    }

    #[test]
    fn the_running_kernel_tells_which_sockets_are_its_own() {
        let btf = std::fs::read("/sys/kernel/btf/vmlinux").unwrap();
        let bit = find_bit(&btf, "sock", "sk_kern_sock").expect("every kernel since 4.2 has it");
        assert!((0x80..0x400).contains(&bit.byte), "{bit:?}");
    }
}
