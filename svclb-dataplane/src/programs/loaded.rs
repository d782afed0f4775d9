//! Names and maps of all BPF programs in the kernel, read by an iterator: a small program of our own that
//! the kernel runs once for each. That asks for the agent's capabilities only, where opening a program by
//! its id (BPF_PROG_GET_FD_BY_ID) asks for CAP_SYS_ADMIN (decisions/0022).
#![cfg_attr(not(test), deny(clippy::indexing_slicing))]

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::os::fd::AsFd as _;

use anyhow::{Context as _, Result};
use aya_obj::generated::bpf_attach_type::BPF_TRACE_ITER;

use crate::bpf::btf::{Types, number};
use crate::bpf::sys;

/// A program in the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// Its name: 15 characters at most.
    pub name: String,
    /// The maps that it uses, by id and name; the first `MAPS` of them.
    pub maps: Vec<(u32, String)>,
}

/// The most maps that are read of a program: more than svclb has.
const MAPS: usize = 16;
/// Bytes of a name in the kernel (BPF_OBJ_NAME_LEN).
const NAME: usize = 16;
/// Bytes that are read of a map: its id and its name.
const MAP: usize = 4 + NAME;
/// Offset of a program's first map in its record, after id, number of maps, and name.
const FIRST_MAP: usize = 8 + NAME;
/// Bytes that are read of a program.
const RECORD: usize = FIRST_MAP + MAPS * MAP;

/// Reads every program, by its id.
///
/// # Errors
/// When this kernel has no such iterator, or a capability is missing.
pub fn all() -> Result<BTreeMap<u32, Program>> {
    let types = Types::of_kernel()?;
    let (code, function) = (iterator(&types)?, types.function("bpf_iter_bpf_prog")?);
    let program = sys::load_iterator(&code, function).context("cannot load an iterator")?;
    let link = sys::create_link(program.as_fd(), None, BPF_TRACE_ITER as u32)
        .context("cannot link an iterator")?;
    let iterator = sys::create_iterator(link.as_fd()).context("cannot make an iterator")?;
    let mut records = Vec::with_capacity(1 << 16);
    File::from(iterator).read_to_end(&mut records).context("cannot read an iterator")?;
    Ok(records.chunks_exact(RECORD).filter_map(parse).collect())
}

fn parse(record: &[u8]) -> Option<(u32, Program)> {
    let maps = usize::try_from(number(record, 4)?).ok()?.min(MAPS);
    let map = |at: usize| Some((number(record, at)?, name(record, at + 4)?));
    let maps = (0..maps).map(|it| map(FIRST_MAP + it * MAP)).collect::<Option<_>>()?;
    Some((number(record, 0)?, Program { name: name(record, 8)?, maps }))
}

fn name(bytes: &[u8], at: usize) -> Option<String> {
    let name = bytes.get(at..at + NAME)?.split(|byte| *byte == 0).next()?;
    Some(String::from_utf8_lossy(name).into_owned())
}

// Operation codes of include/uapi/linux/bpf.h (RFC 9669).
const LOAD_64: u8 = 0x79;
const LOAD_32: u8 = 0x61;
const STORE_64: u8 = 0x7a;
const MOVE: u8 = 0xbf;
const MOVE_NUMBER: u8 = 0xb7;
const ADD_NUMBER: u8 = 0x07;
const JUMP_IF_NOT_EQUAL: u8 = 0x55;
const JUMP_IF_NOT_ABOVE: u8 = 0xb5;
const CALL: u8 = 0x85;
const EXIT: u8 = 0x95;
/// Helpers of the same file.
const PROBE_READ_KERNEL: i32 = 113;
const SEQ_WRITE: i32 = 127;
/// The top of the stack.
const STACK: u8 = 10;
/// Offsets on the stack: of a pointer that is followed, and of the record.
const POINTER: i16 = -8;
#[expect(clippy::cast_possible_truncation, clippy::cast_possible_wrap, reason = "of 512 bytes")]
const RECORD_AT: i16 = POINTER - RECORD as i16;

/// One instruction of eight bytes.
fn instruction(code: u8, to: u8, from: u8, offset: i16, number: i32) -> [u8; 8] {
    let ([a, b], [c, d, e, f]) = (offset.to_le_bytes(), number.to_le_bytes());
    [code, from << 4 | to, a, b, c, d, e, f]
}

/// Instructions that copy so many bytes from `from + offset` to a place on the stack; zeros, where that
/// cannot be read.
fn copy(to: i16, length: usize, from: u8, offset: u32) -> Result<[[u8; 8]; 6]> {
    Ok([
        instruction(MOVE, 1, STACK, 0, 0),
        instruction(ADD_NUMBER, 1, 0, 0, to.into()),
        instruction(MOVE_NUMBER, 2, 0, 0, i32::try_from(length)?),
        instruction(MOVE, 3, from, 0, 0),
        instruction(ADD_NUMBER, 3, 0, 0, i32::try_from(offset)?),
        instruction(CALL, 0, 0, 0, PROBE_READ_KERNEL),
    ])
}

/// The program that writes the record of the program that it is given, by the context
/// `struct bpf_iter__bpf_prog { struct bpf_iter_meta *meta; struct bpf_prog *prog; }`.
fn iterator(types: &Types) -> Result<Vec<[u8; 8]>> {
    let of_program = |field| types.offset("bpf_prog_aux", field);
    let of_map = |field| types.offset("bpf_map", field);
    let in_record = |at: usize| Ok::<i16, anyhow::Error>(RECORD_AT + i16::try_from(at)?);
    let follow = |to, from, offset| -> Result<Vec<[u8; 8]>> {
        let loaded = [instruction(LOAD_64, to, STACK, POINTER, 0)];
        Ok([&copy(POINTER, 8, from, offset)?[..], &loaded].concat())
    };
    let mut code = vec![instruction(MOVE, 6, 1, 0, 0), instruction(LOAD_64, 7, 6, 8, 0)];
    // At the end of all programs there is none.
    code.push(instruction(JUMP_IF_NOT_EQUAL, 7, 0, 2, 0));
    code.extend([instruction(MOVE_NUMBER, 0, 0, 0, 0), instruction(EXIT, 0, 0, 0, 0)]);
    for at in (0..RECORD).step_by(8) {
        code.push(instruction(STORE_64, STACK, 0, in_record(at)?, 0));
    }
    code.extend(follow(8, 7, types.offset("bpf_prog", "aux")?)?);
    code.extend(copy(in_record(0)?, 4, 8, of_program("id")?)?);
    code.extend(copy(in_record(4)?, 4, 8, of_program("used_map_cnt")?)?);
    code.extend(copy(in_record(8)?, NAME, 8, of_program("name")?)?);
    code.extend(follow(9, 8, of_program("used_maps")?)?);
    let (id, name) = (of_map("id")?, of_map("name")?);
    // From the last map to the first: where the program has no such map, this one and those after it are skipped.
    let mut maps = Vec::new();
    for map in (0..MAPS).rev() {
        let at = FIRST_MAP + map * MAP;
        let mut read = follow(8, 9, u32::try_from(map * 8)?)?;
        read.extend(copy(in_record(at)?, 4, 8, id)?);
        read.extend(copy(in_record(at + 4)?, NAME, 8, name)?);
        read.append(&mut maps);
        let skipped = i16::try_from(read.len())?;
        maps.push(instruction(LOAD_32, 1, STACK, in_record(4)?, 0));
        maps.push(instruction(JUMP_IF_NOT_ABOVE, 1, 0, skipped, i32::try_from(map)?));
        maps.append(&mut read);
    }
    code.append(&mut maps);
    code.extend([
        instruction(LOAD_64, 1, 6, 0, 0),
        instruction(LOAD_64, 1, 1, 0, 0),
        instruction(MOVE, 2, STACK, 0, 0),
        instruction(ADD_NUMBER, 2, 0, 0, RECORD_AT.into()),
        instruction(MOVE_NUMBER, 3, 0, 0, i32::try_from(RECORD)?),
        instruction(CALL, 0, 0, 0, SEQ_WRITE),
        instruction(MOVE_NUMBER, 0, 0, 0, 0),
        instruction(EXIT, 0, 0, 0, 0),
    ]);
    Ok(code)
}

#[cfg(test)]
mod as_root_tests;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_that_is_cut_off_is_no_program() {
        assert_eq!(parse(&[0; RECORD - 1]).map(|(id, _)| id), Some(0));
        assert_eq!(parse(&[0; 7]), None);
        let mut record = [0; RECORD];
        record[..8].copy_from_slice(&[7, 0, 0, 0, 255, 255, 255, 255]);
        let (id, program) = parse(&record).unwrap();
        assert_eq!((id, program.maps.len()), (7, MAPS));
    }
}
