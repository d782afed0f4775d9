use super::*;

const NAMES: &[u8] = b"\0sock\0sk_kern_sock\0other\0";
const SOCK: u32 = 1;
const FIELD: u32 = 6;
const OTHER: u32 = 19;
/// Bit of `btf_type.info`: members' offsets have sizes of bit fields in their highest byte.
const HAS_SIZES: u32 = 1 << 31;

fn blob(types: &[&[u32]]) -> Vec<u8> {
    let types = types.concat();
    let length = |bytes: usize| u32::try_from(bytes).unwrap();
    let (types_length, names_length) = (length(types.len() * 4), length(NAMES.len()));
    let header = [u32::from(MAGIC) | 1 << 16, 24, 0, types_length, types_length, names_length];
    let words = header.iter().chain(&types).flat_map(|word| word.to_ne_bytes());
    words.chain(NAMES.iter().copied()).collect()
}

fn bit(bytes: Vec<u8>) -> Option<Bit> {
    Types::parse(bytes).and_then(|types| types.bit("sock", "sk_kern_sock")).ok()
}

#[test]
fn a_bit_is_found_behind_types_of_every_kind() {
    let sock = [SOCK, HAS_SIZES | STRUCT << 24 | 2, 64, OTHER, 1, 8, FIELD, 1, 1 << 24 | 43];
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
    let found = |types: &[&[u32]]| bit(blob(types));
    assert_eq!(found(&[&others.concat(), &sock]), expected);
    assert_eq!(found(&[&others.concat()]), None, "no such struct");
    // A struct of the same name without the field, or with a wider one, is another.
    let wider = [SOCK, HAS_SIZES | STRUCT << 24 | 1, 8, FIELD, 1, 2 << 24 | 8];
    let plain = [SOCK, STRUCT << 24 | 1, 8, FIELD, 1, 8];
    assert_eq!(found(&[&wider, &plain]), None);
    assert_eq!(found(&[&wider, &plain, &sock]), expected);
    assert_eq!(found(&[&[OTHER, 31 << 24, 0], &sock]), None, "a kind of a later kernel");
}

#[test]
fn bytes_that_are_cut_short_or_spoilt_are_no_answer_and_no_panic() {
    let sock = [SOCK, HAS_SIZES | STRUCT << 24 | 1, 64, FIELD, 1, 1 << 24 | 43];
    let whole = blob(&[&[0, 2 << 24, 1], &sock]);
    let types_end = whole.len() - NAMES.len();
    for length in 0..types_end {
        assert_eq!(bit(whole[..length].to_vec()), None, "{length} bytes");
    }
    for at in 0..whole.len() {
        for value in [0, 1, 0x7f, 0x80, 0xff] {
            let mut spoilt = whole.clone();
            spoilt[at] = value;
            let _ = bit(spoilt);
        }
    }
}

#[test]
fn fields_and_functions_of_this_kernel_are_found() {
    let types = Types::of_kernel().unwrap();
    // Its first two fields are `struct hlist_node` and a pointer on every kernel.
    assert_eq!(types.offset("hlist_node", "next").unwrap(), 0);
    assert_eq!(types.offset("hlist_node", "pprev").unwrap(), 8);
    assert!(types.function("bpf_iter_bpf_prog").unwrap() > 0);
    for (structure, field) in [("hlist_node", "no_such_field"), ("no_such_structure", "next")] {
        let said = types.offset(structure, field).unwrap_err().to_string();
        assert!(said.contains(structure) && said.contains(field), "{said}");
    }
    assert!(types.function("no_such_function").is_err());
}

#[test]
fn the_running_kernel_tells_which_sockets_are_its_own() {
    // Every kernel since 4.2 has it.
    let bit = Types::of_kernel().unwrap().bit("sock", "sk_kern_sock").unwrap();
    assert!((0x80..0x400).contains(&bit.byte), "{bit:?}");
}

#[test]
fn what_is_cut_off_anywhere_is_an_error() {
    let whole = fs::read(BTF).unwrap();
    for length in [0, 3, 8, 23, 24, 30, 5000, 100_000] {
        let cut = Types::parse(whole[..length].to_vec());
        let found = cut.and_then(|types| types.function("bpf_iter_bpf_prog"));
        assert!(found.is_err(), "{length} bytes");
    }
    assert!(Types::parse(vec![0; 64]).is_err());
}
