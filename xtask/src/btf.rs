//! Makes text readable in `bpftool map dump` by a flag in an object's `.BTF` section.
//!
//! bpftool prints an array as a string if its element is a one-byte integer with the encoding
//! `BTF_INT_CHAR` (`is_str_array` of its btf_dumper.c; the bytes must also be printable ASCII up to a NUL).
//! No Rust type gets this encoding, so `[i8; N]` would be printed as a list of numbers. This module sets it
//! for the integer named `i8`, in place.
//!
//! svclb-dataplane's build script includes this file. It uses only std. The format is
//! include/uapi/linux/btf.h.

/// `struct btf_header` up to `str_len`.
const HEADER: usize = 24;
/// `struct btf_type`: name, info, and size or type.
const TYPE: usize = 12;
const MAGIC: u32 = 0xeb9f;
const KIND_INT: u32 = 1;
/// Position of the encoding in the word that follows a `BTF_KIND_INT`.
const ENCODING_SHIFT: u32 = 24;
const ENCODING_MASK: u32 = 0xf << ENCODING_SHIFT;
const ENCODING_SIGNED: u32 = 1 << ENCODING_SHIFT;
const ENCODING_CHAR: u32 = 2 << ENCODING_SHIFT;

/// Gives the signed one-byte integers named `i8` in `section` the encoding of a character. Returns how many
/// were changed; an object without text has none.
///
/// # Errors
/// The section is not BTF in this host's byte order, or is truncated. It is then unchanged.
pub(crate) fn mark_text(section: &mut [u8]) -> Result<usize, String> {
    let places = text_integers(section)
        .ok_or("the .BTF section is malformed or of the other byte order".to_owned())?;
    for &at in &places {
        let word = word(section, at).unwrap_or_default();
        let word = (word & !ENCODING_MASK) | ENCODING_CHAR;
        section[at..at + 4].copy_from_slice(&word.to_ne_bytes());
    }
    Ok(places.len())
}

/// Returns the offsets of the words with these encodings. None if anything is out of bounds.
fn text_integers(section: &[u8]) -> Option<Vec<usize>> {
    let header_length = size(word(section, 4)?)?;
    if word(section, 0)? & 0xffff != MAGIC || header_length < HEADER {
        return None;
    }
    let part = |offset: usize, length: usize| -> Option<(usize, usize)> {
        let from = header_length.checked_add(size(word(section, offset)?)?)?;
        let to = from.checked_add(size(word(section, length)?)?)?;
        (to <= section.len()).then_some((from, to))
    };
    let (mut at, types_end) = part(8, 12)?;
    let (names_from, names_to) = part(16, 20)?;
    let names = section.get(names_from..names_to)?;

    let mut places = Vec::new();
    while at < types_end {
        let [name, info, bytes] =
            [word(section, at)?, word(section, at + 4)?, word(section, at + 8)?];
        let kind = info >> 24 & 0x1f;
        let members = size(info & 0xffff)?;
        let tail = at.checked_add(TYPE)?;
        let is_text = kind == KIND_INT
            && bytes == 1
            && names.get(size(name)?..)?.starts_with(b"i8\0")
            && word(section, tail)? & ENCODING_MASK == ENCODING_SIGNED;
        if is_text {
            places.push(tail);
        }
        at = tail.checked_add(tail_length(kind, members)?)?;
    }
    (at == types_end).then_some(places)
}

/// Number of bytes that follow a `struct btf_type` of this kind. None for a kind that btf.h does not have.
fn tail_length(kind: u32, members: usize) -> Option<usize> {
    Some(match kind {
        KIND_INT => 4,
        3 => 12,               // array
        4 | 5 => members * 12, // struct, union
        6 => members * 8,      // enum
        13 => members * 8,     // function prototype
        14 => 4,               // variable
        15 => members * 12,    // data section
        17 => 4,               // declaration tag
        19 => members * 12,    // enum of 64 bits
        // pointer, forward, typedef, volatile, const, restrict, function, float, type tag
        2 | 7..=12 | 16 | 18 => 0,
        _ => return None,
    })
}

fn word(section: &[u8], at: usize) -> Option<u32> {
    let bytes = section.get(at..at.checked_add(4)?)?;
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

fn size(word: u32) -> Option<usize> {
    usize::try_from(word).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: &[u8] = b"\0i8\0u8\0other\0";
    const I8: u32 = 1;
    const U8: u32 = 4;
    const OTHER: u32 = 7;

    fn int(name: u32, bytes: u32, encoding: u32) -> Vec<u32> {
        vec![name, KIND_INT << 24, bytes, encoding | (bytes * 8)]
    }

    fn blob(types: &[Vec<u32>]) -> Vec<u8> {
        let types: Vec<u32> = types.concat();
        let types_length = u32::try_from(types.len() * 4).unwrap();
        let names_length = u32::try_from(NAMES.len()).unwrap();
        let header = [MAGIC | 1 << 16, 24, 0, types_length, types_length, names_length];
        let mut blob: Vec<u8> =
            header.iter().chain(&types).flat_map(|word| word.to_ne_bytes()).collect();
        blob.extend(NAMES);
        blob
    }

    /// One of each kind that has a tail, so that a wrong tail length misreads the integer behind it.
    fn every_tail() -> Vec<Vec<u32>> {
        vec![
            vec![0, 3 << 24, 0, 1, 1, 16],
            vec![OTHER, 4 << 24 | 2, 8, 1, 1, 0, 1, 1, 32],
            vec![OTHER, 5 << 24 | 1, 8, 1, 1, 0],
            vec![OTHER, 6 << 24 | 1, 4, 1, 7],
            vec![0, 13 << 24 | 1, 0, 1, 1],
            vec![OTHER, 14 << 24, 1, 1],
            vec![OTHER, 15 << 24 | 1, 8, 1, 0, 8],
            vec![OTHER, 17 << 24, 1, 0],
            vec![OTHER, 19 << 24 | 1, 8, 1, 7, 0],
            vec![0, 2 << 24, 1],
        ]
    }

    #[test]
    fn only_the_signed_byte_named_i8_becomes_a_character() {
        let rows = [
            ("the text type", int(I8, 1, ENCODING_SIGNED), 1),
            ("another name", int(OTHER, 1, ENCODING_SIGNED), 0),
            ("unsigned", int(U8, 1, 0), 0),
            ("wider", int(I8, 2, ENCODING_SIGNED), 0),
            ("a character already", int(I8, 1, ENCODING_CHAR), 0),
        ];
        for (row, integer, changed) in rows {
            let before = blob(&[every_tail(), vec![integer.clone()]].concat());
            let mut after = before.clone();
            assert_eq!(mark_text(&mut after), Ok(changed), "{row}");
            let encoding_at = before.len() - NAMES.len() - 4;
            let word = word(&after, encoding_at).unwrap();
            if changed == 1 {
                assert_eq!(word, ENCODING_CHAR | 8, "{row}");
            }
            let differs = before.iter().zip(&after).filter(|(a, b)| a != b).count();
            assert_eq!(differs, changed, "{row}: bytes that changed");
        }
    }

    #[test]
    fn a_second_pass_changes_nothing() {
        let mut section = blob(&[int(I8, 1, ENCODING_SIGNED)]);
        assert_eq!(mark_text(&mut section), Ok(1));
        assert_eq!(mark_text(&mut section), Ok(0));
    }

    #[test]
    fn a_truncated_section_is_an_error_and_stays_unchanged() {
        let whole = blob(&[every_tail(), vec![int(I8, 1, ENCODING_SIGNED)]].concat());
        for length in 0..whole.len() {
            let mut cut = whole[..length].to_vec();
            assert!(mark_text(&mut cut).is_err(), "{length} bytes");
            assert_eq!(cut, whole[..length], "{length} bytes");
        }
    }

    #[test]
    fn garbage_never_panics() {
        let whole = blob(&[every_tail(), vec![int(I8, 1, ENCODING_SIGNED)]].concat());
        // Every byte in turn takes values that break lengths, kinds and offsets.
        for at in 0..whole.len() {
            for value in [0, 1, 0x7f, 0x80, 0xff] {
                let mut section = whole.clone();
                section[at] = value;
                let before = section.clone();
                match mark_text(&mut section) {
                    Ok(changed) => assert!(changed <= 2, "byte {at} = {value}"),
                    Err(_) => assert_eq!(section, before, "byte {at} = {value}"),
                }
            }
        }
        assert!(mark_text(&mut [0xff; 64]).is_err());
    }
}
