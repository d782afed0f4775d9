//! The object against the agent's own idea of it: its BTF says where each field lies in the kernel.

use std::collections::BTreeMap;
use std::process::Command;

use serde_json::Value;
use svclb_common::layout::Address;

use super::{KernSock, OBJECT};
use crate::bpf::btf::Bit;
use crate::hooks::HOOKS;
use crate::shapes::{STRUCTS, Struct};

/// A struct: its size and its fields' offsets, in bytes.
type Layout = (u64, BTreeMap<String, u64>);

/// Every struct of the object's BTF, by name, as bpftool reads it.
fn structs_of_object() -> BTreeMap<String, Layout> {
    let folder = std::env::temp_dir().join(format!("svclb-object-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("object");
    std::fs::write(&path, OBJECT).unwrap();
    let output = Command::new("/usr/sbin/bpftool")
        .args(["--json", "btf", "dump", "file"])
        .arg(&path)
        .output()
        .expect("bpftool cannot be started: run `cargo xtask setup`");
    std::fs::remove_dir_all(&folder).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let dump: Value = serde_json::from_slice(&output.stdout).unwrap();
    let structs = dump["types"].as_array().unwrap().iter().filter(|kind| kind["kind"] == "STRUCT");
    structs
        .map(|found| {
            let members = found["members"].as_array().unwrap().iter();
            let fields = members.map(|member| {
                let offset = member["bits_offset"].as_u64().unwrap() / 8;
                (member["name"].as_str().unwrap().to_owned(), offset)
            });
            let name = found["name"].as_str().unwrap().to_owned();
            (name, (found["size"].as_u64().unwrap(), fields.collect()))
        })
        .collect()
}

#[test]
fn every_map_type_lies_in_the_kernel_as_it_does_in_the_agent() {
    let there = structs_of_object();
    for Struct { name, size, fields } in STRUCTS {
        let fields = fields.iter().map(|(field, offset)| ((*field).to_owned(), *offset as u64));
        let here: Layout = (*size as u64, fields.collect());
        assert_eq!(there.get(*name), Some(&here), "{name}");
    }
    assert_eq!(size_of::<Address>(), 16);
}

#[test]
fn the_object_has_a_program_for_each_hook() {
    let file = object::File::parse(OBJECT).unwrap();
    use object::{Object as _, ObjectSymbol as _};
    let names: Vec<&str> = file.symbols().filter_map(|symbol| symbol.name().ok()).collect();
    for hook in &HOOKS {
        assert!(names.contains(&hook.program), "{} of {}", hook.program, hook.name);
        // The kernel keeps 15 characters of a program's name, and people look for it.
        assert!(hook.program.len() <= 15, "{}", hook.program);
    }
}

#[test]
fn the_object_says_a_gpl_compatible_licence() {
    use object::{Object as _, ObjectSection as _};
    let file = object::File::parse(OBJECT).unwrap();
    let licence = file.section_by_name("license").unwrap().data().unwrap().to_vec();
    assert_eq!(licence, b"Dual MIT/GPL\0");
}

#[test]
fn the_object_has_places_for_what_programs_need_to_know_of_the_kernel() {
    let bit = Bit { byte: 0x1234, mask: 1 };
    let put = |cast| KernSock { bit, cast }.put_into(OBJECT).unwrap();
    assert_eq!(put(None), OBJECT, "a kernel without the function");
    let there = put(Some(7));
    let changed = there.iter().zip(OBJECT).filter(|(one, other)| one != other).count();
    assert_eq!(there.len(), OBJECT.len());
    // Changed are the registers and the number of each call, and the offset of each load, in at least four
    // programs.
    assert!(changed >= 4 * (1 + 4 + 2), "{changed} bytes");
    assert!(KernSock { bit, cast: Some(7) }.put_into(&[0; 64]).is_err(), "no place for it");
}
