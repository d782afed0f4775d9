//! Compiles the hooks (svclb-ebpf) for the BPF target and puts the object at `OUT_DIR/svclb`.
//!
//! The compiler is found here as `cargo xtask setup` finds it, by the same source file.

#[path = "../xtask/src/btf.rs"]
mod btf;
#[path = "../xtask/src/provider.rs"]
mod provider;

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use anyhow::{Context as _, anyhow};
use aya_build::{Package, Toolchain};
use object::{Object as _, ObjectSection as _};

/// Package that holds the hooks.
const PACKAGE: &str = "svclb-ebpf";
/// The sources of the object, relative to this crate. aya-build watches the first only.
const SOURCES: [&str; 3] = ["../svclb-ebpf", "../svclb-common", "../Cargo.toml"];
/// More flags for its compiler: `cargo xtask image` renames folders by them.
const FLAGS: &str = "SVCLB_BPF_RUSTFLAGS";
/// The name of the binary in svclb-ebpf, and so of the object.
const OBJECT: &str = "svclb";

fn main() {
    if let Err(error) = build() {
        // cargo shows this line; a backtrace would bury it.
        eprintln!("{error:#}");
        std::process::exit(1);
    }
}

fn build() -> anyhow::Result<()> {
    println!("cargo:rerun-if-env-changed={}", provider::OVERRIDE);
    println!("cargo:rerun-if-env-changed={FLAGS}");
    for source in SOURCES {
        println!("cargo:rerun-if-changed={source}");
    }

    let found =
        provider::find().map_err(|missing| anyhow!("{missing}: run `cargo xtask setup`"))?;
    println!("cargo:rerun-if-changed={}", found.compiler.sysroot.join("bin/rustc").display());
    println!("cargo:rerun-if-changed={}", found.linker.path.display());

    // SAFETY: this build script has no other thread yet that could read the environment.
    unsafe {
        // aya-build shows every line of the inner cargo as a warning: only real ones are wanted.
        std::env::set_var("CARGO_TERM_QUIET", "true");
        // rustup's as well: a linked toolchain has no cargo, and it tells which one it takes.
        std::env::set_var("RUSTUP_LOG", "error");
        if !found.compiler.release.contains("nightly") {
            // Allows -Z build-std, in the inner build only: probes of other crates react to it.
            std::env::set_var("RUSTC_BOOTSTRAP", "1");
        }
        if std::env::var_os(FLAGS).is_some() {
            // cargo would put flags that it knows into the names of all symbols, and with them the folders that
            // they rename.
            std::env::set_var("RUSTC_WRAPPER", wrapper()?);
        }
    }
    let package = Package { name: PACKAGE, root_dir: SOURCES[0], ..Package::default() };
    aya_build::build_ebpf([package], Toolchain::Custom(&found.compiler.toolchain))
        .with_context(|| format!("cannot build {PACKAGE} with {}", found.compiler.toolchain))?;
    mark_text()
}

/// Writes a program that adds the flags to each call of the compiler.
fn wrapper() -> anyhow::Result<PathBuf> {
    let folder = std::env::var_os("OUT_DIR").context("cargo sets OUT_DIR for build scripts")?;
    let path = PathBuf::from(folder).join("rustc-with-flags");
    let text = format!("#!/bin/sh\nexec \"$@\" ${FLAGS}\n");
    let written = std::fs::write(&path, text)
        .and_then(|()| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)));
    written.with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

/// Lets bpftool print text as text, see [`btf`].
fn mark_text() -> anyhow::Result<()> {
    let folder = std::env::var_os("OUT_DIR").context("cargo sets OUT_DIR for build scripts")?;
    let path = PathBuf::from(folder).join(OBJECT);
    let name = path.display().to_string();
    let mut data = std::fs::read(&path).with_context(|| format!("{name}: no object was built"))?;
    let range = {
        let object = object::File::parse(&*data).with_context(|| format!("{name}: not ELF"))?;
        // An object without any type has no such section.
        object.section_by_name(".BTF").and_then(|section| section.file_range())
    };
    let Some((offset, length)) = range else { return Ok(()) };
    let (offset, length) = (usize::try_from(offset)?, usize::try_from(length)?);
    let section = data
        .get_mut(offset..offset.saturating_add(length))
        .with_context(|| format!("{name}: .BTF reaches beyond the end of the file"))?;
    btf::mark_text(section).map_err(|error| anyhow!("{name}: {error}"))?;
    std::fs::write(&path, data).with_context(|| format!("cannot write {name}"))
}
