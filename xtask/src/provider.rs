//! Finds the compiler and the linker for the eBPF programs. `setup` installs them.
//!
//! The BPF target has no prebuilt `core`, so the compiler needs the source of its own `core`: either a
//! rustup nightly with the component rust-src, or the distribution's compiler and source, registered with
//! rustup as [`LINKED`]. bpf-linker links the compiler's bitcode, and its LLVM must not be older than the
//! compiler's.
//!
//! svclb-dataplane's build script includes this file, so that both choose the same compiler. It uses only
//! std.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// rustup's name for the distribution's compiler.
pub(crate) const LINKED: &str = "svclb-bpf";
/// Variable that names a toolchain to use instead of the one found here.
pub(crate) const OVERRIDE: &str = "SVCLB_BPF_TOOLCHAIN";
/// The program that links for the BPF target.
pub(crate) const LINKER: &str = "bpf-linker";
/// Oldest bpf-linker 0.x that works: the first that can be built with LLVM 22 and 23.
pub(crate) const OLDEST_LINKER: u32 = 13;
/// Oldest compiler 1.x that the workspace builds with (`rust-version` in Cargo.toml).
const OLDEST_MINOR: u32 = 95;
/// A dynamic executable has the names of its libraries within this many bytes from its start.
const NEEDED_WITHIN: u64 = 1 << 20;

/// A compiler that rustup can run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Compiler {
    /// rustup's name for it.
    pub(crate) toolchain: String,
    /// Release, such as `1.96.0`.
    pub(crate) release: String,
    /// Major version of its LLVM.
    pub(crate) llvm: u32,
    /// Folder that holds `bin` and `lib`.
    pub(crate) sysroot: PathBuf,
    /// True if the source of its `core` is installed.
    pub(crate) has_core: bool,
}

impl Compiler {
    /// True if it has the source of its core and is new enough.
    pub(crate) fn is_usable(&self) -> bool {
        self.has_core && is_new_enough(&self.release)
    }
}

/// An installed bpf-linker.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Linker {
    /// Its path.
    pub(crate) path: PathBuf,
    /// Release, such as `0.13.0`.
    pub(crate) release: String,
    /// Major version of the LLVM library that it loads; None if LLVM is linked into it.
    pub(crate) llvm: Option<u32>,
}

impl Linker {
    /// True if it is new enough.
    pub(crate) fn is_current(&self) -> bool {
        let (major, minor) = numbers(&self.release);
        major > 0 || minor >= OLDEST_LINKER
    }

    /// True if it can read the bitcode of this compiler.
    pub(crate) fn reads(&self, compiler: &Compiler) -> bool {
        self.llvm.is_none_or(|llvm| compiler.llvm <= llvm)
    }
}

/// The tools of an eBPF build.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Provider {
    /// The compiler.
    pub(crate) compiler: Compiler,
    /// The linker.
    pub(crate) linker: Linker,
}

/// Finds a compiler and a linker that can read its bitcode.
///
/// # Errors
/// One line that names what is missing.
pub(crate) fn find() -> Result<Provider, String> {
    let compilers = compilers()?;
    let Some(best) = choose(&compilers, None) else {
        return Err("no rustup nightly with rust-src, nor a distribution's compiler with its \
            source registered as svclb-bpf"
            .to_owned());
    };
    let linker = linker().ok_or_else(|| format!("{LINKER} is missing"))?;
    let path = linker.path.display();
    if !linker.is_current() {
        return Err(format!("{path} {} is older than 0.{OLDEST_LINKER}", linker.release));
    }
    let Some(compiler) = choose(&compilers, Some(&linker)).cloned() else {
        let (toolchain, llvm, reads) =
            (&best.toolchain, best.llvm, linker.llvm.unwrap_or_default());
        return Err(format!("{path} reads LLVM {reads}, and {toolchain} writes LLVM {llvm}"));
    };
    Ok(Provider { compiler, linker })
}

/// Returns the first usable compiler whose bitcode `linker` can read. Without a linker, any usable compiler
/// will do, as a linker can be built for it.
pub(crate) fn choose<'a>(
    compilers: &'a [Compiler],
    linker: Option<&Linker>,
) -> Option<&'a Compiler> {
    compilers
        .iter()
        .find(|compiler| compiler.is_usable() && linker.is_none_or(|linker| linker.reads(compiler)))
}

/// Returns all installed candidates, the preferred one first.
///
/// # Errors
/// rustup is missing or fails.
pub(crate) fn compilers() -> Result<Vec<Compiler>, String> {
    if let Ok(toolchain) = std::env::var(OVERRIDE) {
        let compiler = inspect(&toolchain);
        return compiler
            .map(|compiler| vec![compiler])
            .ok_or_else(|| format!("{OVERRIDE}={toolchain}: rustup cannot run its rustc"));
    }
    let list = output("rustup", &["toolchain", "list"])
        .ok_or("rustup is missing: install it first, with the stable toolchain".to_owned())?;
    Ok(candidates(&list).into_iter().filter_map(inspect).collect())
}

/// Returns the candidates in the output of `rustup toolchain list`: the rolling nightly, dated nightlies
/// from new to old, then the distribution's compiler.
fn candidates(list: &str) -> Vec<&str> {
    let names = || list.lines().filter_map(|line| line.split_whitespace().next());
    let dated =
        |name: &str| name.strip_prefix("nightly-").is_some_and(|rest| rest.starts_with('2'));
    let mut nightlies: Vec<&str> = names().filter(|name| name.starts_with("nightly")).collect();
    nightlies.sort_by(|a, b| dated(a).cmp(&dated(b)).then(b.cmp(a)));
    nightlies.extend(names().filter(|name| *name == LINKED));
    nightlies
}

/// Runs a toolchain's compiler for its version and sysroot. None if it does not run.
fn inspect(toolchain: &str) -> Option<Compiler> {
    let version = output("rustup", &["run", toolchain, "rustc", "-vV"])?;
    let sysroot = output("rustup", &["run", toolchain, "rustc", "--print", "sysroot"])?;
    let sysroot = PathBuf::from(sysroot.trim());
    Some(Compiler {
        toolchain: toolchain.to_owned(),
        release: field(&version, "release")?.to_owned(),
        llvm: major(field(&version, "LLVM version")?)?,
        has_core: has_core(&sysroot),
        sysroot,
    })
}

/// True if this sysroot has the source of `core`.
pub(crate) fn has_core(sysroot: &Path) -> bool {
    sysroot.join("lib/rustlib/src/rust/library/core/src/lib.rs").is_file()
}

/// Returns the bpf-linker on PATH, if there is one that runs.
pub(crate) fn linker() -> Option<Linker> {
    let path = std::env::split_paths(&std::env::var_os("PATH")?)
        .map(|folder| folder.join(LINKER))
        .find(|path| path.is_file())?;
    let version = output(path.to_str()?, &["--version"])?;
    let release = version.split_whitespace().nth(1)?.to_owned();
    let start = read_start(&path).ok()?;
    Some(Linker { llvm: needed_llvm(&start), release, path })
}

fn read_start(path: &Path) -> std::io::Result<Vec<u8>> {
    use std::io::Read as _;
    let mut start = Vec::new();
    std::fs::File::open(path)?.take(NEEDED_WITHIN).read_to_end(&mut start)?;
    Ok(start)
}

/// Reads the major version in the name of the LLVM library that an executable loads: `libLLVM.so.22.1`, or
/// `libLLVM-17.so.1` in older releases.
fn needed_llvm(executable: &[u8]) -> Option<u32> {
    const NAME: &[u8] = b"libLLVM";
    let at = executable.windows(NAME.len()).position(|window| window == NAME)?;
    let rest = executable.get(at + NAME.len()..)?;
    let rest = rest.strip_prefix(b".so.").or_else(|| rest.strip_prefix(b"-"))?;
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    std::str::from_utf8(&rest[..digits]).ok()?.parse().ok()
}

/// Returns the value in a line `name: value` of `rustc -vV`.
fn field<'a>(version: &'a str, name: &str) -> Option<&'a str> {
    version.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).map(str::trim)
}

/// Returns the first number of a version.
fn major(version: &str) -> Option<u32> {
    version.split('.').next()?.parse().ok()
}

/// True if this release of Rust can build the workspace.
pub(crate) fn is_new_enough(release: &str) -> bool {
    let (major, minor) = numbers(release);
    major > 1 || (major == 1 && minor >= OLDEST_MINOR)
}

/// Returns the first two numbers of a version, 0 where there is none.
fn numbers(version: &str) -> (u32, u32) {
    let digits = |part: &str| part.parse().unwrap_or_default();
    let mut parts = version.split(['.', '-', '+', '~']).map(digits);
    (parts.next().unwrap_or_default(), parts.next().unwrap_or_default())
}

/// Returns the output of a program, if it succeeds.
fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let output =
        Command::new(program).args(arguments).stdin(Stdio::null()).stderr(Stdio::null()).output();
    let output = output.ok().filter(|output| output.status.success())?;
    String::from_utf8(output.stdout).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NIGHTLY: &str = "rustc 1.97.0-nightly (e50aa6fba 2026-05-19)\nbinary: rustc\n\
        commit-hash: e50aa6fba4e63ab34c72bf9acfd2c307c1155d1a\nhost: x86_64-unknown-linux-gnu\n\
        release: 1.97.0-nightly\nLLVM version: 22.1.4\n";
    const DISTRIBUTION: &str = "rustc 1.96.0 (ac68faa20 2026-05-25) (built from a source tarball)\n\
        binary: rustc\nhost: x86_64-unknown-linux-gnu\nrelease: 1.96.0\nLLVM version: 22.1.8\n";

    fn compiler(toolchain: &str, release: &str, llvm: u32, has_core: bool) -> Compiler {
        let (toolchain, release) = (toolchain.to_owned(), release.to_owned());
        Compiler { toolchain, release, llvm, sysroot: PathBuf::from("/usr"), has_core }
    }

    fn linker(llvm: Option<u32>) -> Linker {
        let (path, release) = (PathBuf::from("/usr/bin/bpf-linker"), "0.13.0".to_owned());
        Linker { path, release, llvm }
    }

    #[test]
    fn release_and_llvm_are_read_from_the_compilers_version() {
        let rows =
            [("nightly", NIGHTLY, "1.97.0-nightly"), ("distribution", DISTRIBUTION, "1.96.0")];
        for (row, version, release) in rows {
            assert_eq!(field(version, "release"), Some(release), "{row}");
            assert_eq!(field(version, "LLVM version").and_then(major), Some(22), "{row}");
        }
        assert_eq!(field("rustc 1.96.0\n", "LLVM version"), None);
        assert_eq!(field("LLVM version: unknown\n", "LLVM version").and_then(major), None);
    }

    #[test]
    fn nightlies_come_before_the_distribution_and_new_before_old() {
        let list = "stable-x86_64-unknown-linux-gnu (active, default)\nsvclb-bpf\n\
            nightly-2026-01-01-x86_64-unknown-linux-gnu\nnightly-x86_64-unknown-linux-gnu\n\
            nightly-2026-04-01-x86_64-unknown-linux-gnu\n1.95.0-x86_64-unknown-linux-gnu\n";
        let expected = [
            "nightly-x86_64-unknown-linux-gnu",
            "nightly-2026-04-01-x86_64-unknown-linux-gnu",
            "nightly-2026-01-01-x86_64-unknown-linux-gnu",
            "svclb-bpf",
        ];
        assert_eq!(candidates(list), expected);
        assert!(candidates("no installed toolchains\n").is_empty());
    }

    #[test]
    fn the_first_compiler_that_can_build_is_chosen() {
        let good = compiler("nightly", "1.97.0-nightly", 22, true);
        let bare = compiler("nightly", "1.97.0-nightly", 22, false);
        let next = compiler("nightly", "1.99.0-nightly", 23, true);
        let old = compiler("nightly", "1.80.0-nightly", 18, true);
        let debian = compiler(LINKED, "1.96.0", 22, true);
        let rows = [
            ("nightly with source", vec![&good, &debian], Some(22), Some("nightly")),
            ("nightly without source", vec![&bare, &debian], Some(22), Some(LINKED)),
            ("nightly newer than the linker", vec![&next, &debian], Some(22), Some(LINKED)),
            ("nightly and a linker of its own LLVM", vec![&next, &debian], None, Some("nightly")),
            ("nightly older than the workspace", vec![&old, &debian], Some(22), Some(LINKED)),
            ("only a nightly without source", vec![&bare], Some(22), None),
            ("linker older than all", vec![&good, &debian], Some(21), None),
            ("nothing", vec![], Some(22), None),
        ];
        for (row, compilers, llvm, expected) in rows {
            let compilers: Vec<Compiler> = compilers.into_iter().cloned().collect();
            let chosen = choose(&compilers, Some(&linker(llvm)));
            assert_eq!(chosen.map(|chosen| chosen.toolchain.as_str()), expected, "{row}");
        }
    }

    #[test]
    fn releases_are_compared_by_their_numbers() {
        let rows = [
            ("1.96.0", true),
            ("1.97.0-nightly", true),
            ("1.96.0+dfsg1-1~deb12u2", true),
            ("2.0.0", true),
            ("1.95.0", true),
            ("1.94.9", false),
            ("1.63.0+dfsg1-2", false),
            ("unknown", false),
            ("", false),
        ];
        for (release, expected) in rows {
            assert_eq!(is_new_enough(release), expected, "{release}");
        }
        let rows = [("0.13.0", true), ("0.12.9", false), ("1.0.0", true), ("0.14.0-rc1", true)];
        for (release, expected) in rows {
            let linker = Linker { release: release.to_owned(), ..linker(None) };
            assert_eq!(linker.is_current(), expected, "{release}");
        }
    }

    #[test]
    fn the_linkers_llvm_is_read_from_the_library_it_loads() {
        let rows: [(&str, &[u8], Option<u32>); 6] = [
            ("new name", b"\0libc.so.6\0libLLVM.so.22.1\0", Some(22)),
            ("old name", b"\0libLLVM-17.so.1\0", Some(17)),
            ("static", b"\0libc.so.6\0", None),
            ("cut off", b"libLLVM.so.", None),
            ("no number", b"libLLVM.so.x", None),
            ("empty", b"", None),
        ];
        for (row, executable, expected) in rows {
            assert_eq!(needed_llvm(executable), expected, "{row}");
        }
    }

    #[test]
    fn a_sysroot_without_the_source_of_core_is_detected() {
        assert!(!has_core(Path::new("/nonexistent")));
    }
}
