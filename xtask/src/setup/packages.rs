//! Every package that set-up may install, with its reason. It installs no others.

use crate::program::Arch;
use crate::shell;

/// The tasks that use a package.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Use {
    /// Every build or run.
    Always,
    /// Only the build of bpf-linker.
    Linker,
    /// Only the tests with a real cluster.
    Cluster,
    /// Only the tests in guests with other kernels.
    Vm,
    /// Only the benches.
    Bench,
    /// Only the test that installs the Debian package.
    Package,
    /// Only programs for this architecture that are built on the other.
    Cross(Arch),
}

/// A Debian package.
#[derive(Debug)]
pub(crate) struct Package {
    /// Its name.
    pub(crate) name: &'static str,
    /// A program in it, or the path of a file: if that exists, the package is not needed.
    pub(crate) program: &'static str,
    /// Its purpose.
    pub(crate) why: &'static str,
    /// The tasks that use it.
    pub(crate) used_by: Use,
}

impl Package {
    /// True if its program is installed.
    pub(crate) fn is_installed(&self) -> bool {
        shell::find(self.program).is_some()
    }
}

const fn cluster(name: &'static str, program: &'static str, why: &'static str) -> Package {
    Package { name, program, why, used_by: Use::Cluster }
}

const fn vm(name: &'static str, program: &'static str, why: &'static str) -> Package {
    Package { name, program, why, used_by: Use::Vm }
}

const fn package(name: &'static str, program: &'static str, why: &'static str) -> Package {
    Package { name, program, why, used_by: Use::Package }
}

const fn cross(
    arch: Arch,
    name: &'static str,
    program: &'static str,
    why: &'static str,
) -> Package {
    Package { name, program, why, used_by: Use::Cross(arch) }
}

const fn always(name: &'static str, program: &'static str, why: &'static str) -> Package {
    Package { name, program, why, used_by: Use::Always }
}

/// All packages but those of [`DISTRIBUTION_RUST`] and LLVM.
pub(crate) const ALL: &[Package] = &[
    always("bpftool", "bpftool", "the demonstration and tests show and compare map dumps with it"),
    always("iproute2", "ip", "the demonstration and tests set up links and addresses with it"),
    always("curl", "curl", "the client of the demonstration"),
    always("util-linux", "unshare", "private namespaces of the demonstration and tests"),
    always(
        "binutils",
        "objcopy",
        "adds the list of crates to a program, and makes programs for guests smaller",
    ),
    always("libc6-dev", "ldd", "headers and start files with which Rust programs are linked"),
    cluster("bind9-dnsutils", "dig", "the cluster tests resolve names with it"),
    cluster(
        "nftables",
        "nft",
        "kube-proxy, which the cluster tests compare with, writes rules by it",
    ),
    Package {
        name: "iptables",
        program: "iptables",
        why: "kube-proxy, which the benches compare with, writes rules by it in one of its modes",
        used_by: Use::Bench,
    },
    vm("qemu-system-x86", "qemu-system-x86_64", "the guests with other kernels"),
    vm("qemu-system-arm", "qemu-system-aarch64", "the guest of another architecture"),
    package("dpkg", "dpkg", "installs the Debian package in a test"),
    package("systemd", "systemctl", "runs the unit of the Debian package in that test"),
    vm("xz-utils", "xz", "opens a kernel's modules"),
    cross(
        Arch::Arm64,
        "gcc-aarch64-linux-gnu",
        "aarch64-linux-gnu-gcc",
        "links programs for arm64: a part of images and packages, and a guest",
    ),
    cross(
        Arch::Arm64,
        "libc6-dev-arm64-cross",
        "/usr/aarch64-linux-gnu/lib/libc.a",
        "the C library that they are linked with",
    ),
    cross(
        Arch::Amd64,
        "gcc-x86-64-linux-gnu",
        "x86_64-linux-gnu-gcc",
        "links programs for amd64: a part of images and packages, and guests",
    ),
    cross(
        Arch::Amd64,
        "libc6-dev-amd64-cross",
        "/usr/x86_64-linux-gnu/lib/libc.a",
        "the C library that they are linked with",
    ),
    Package {
        name: "g++",
        program: "g++",
        why: "links bpf-linker with the C++ library that LLVM uses",
        used_by: Use::Linker,
    },
];

/// Names of the distribution's compiler and of the source of its core, in order of preference. Debian 12
/// has a recent compiler only as a package for building web browsers.
pub(crate) const DISTRIBUTION_RUST: &[[&str; 2]] =
    &[["rustc-web", "rust-web-src"], ["rustc", "rust-src"]];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_package_is_listed_once_with_a_program_and_a_reason() {
        for package in ALL {
            assert!(!package.program.is_empty() && !package.why.is_empty(), "{}", package.name);
            let same = ALL.iter().filter(|other| other.name == package.name);
            assert_eq!(same.count(), 1, "{}", package.name);
        }
    }
}
