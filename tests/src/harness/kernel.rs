//! Optional features of the running kernel on which the answers that a test expects depend. They are
//! derived from the kernel's version, because the detection in the programs is itself under test.

use std::fs;
use std::sync::OnceLock;

/// A feature that the oldest supported kernel (5.10) lacks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Feature {
    /// A hook can choose the error of a refused call (`bpf_set_retval`). Behaviour without it:
    /// docs/decisions/0005.
    SetRetval,
    /// MPTCP sockets. The Linux 5.10 that tests run on, Debian's, is built without them.
    Mptcp,
    /// A process can read the cookie of its network namespace (`SO_NETNS_COOKIE`).
    NetnsCookie,
}

impl Feature {
    /// All features.
    pub const ALL: [Self; 3] = [Self::SetRetval, Self::Mptcp, Self::NetnsCookie];

    /// Its name in docs/kernels.json.
    pub const fn name(self) -> &'static str {
        match self {
            Self::SetRetval => "set_retval",
            Self::Mptcp => "mptcp",
            Self::NetnsCookie => "netns_cookie",
        }
    }

    /// The first kernel version with the feature.
    const fn since(self) -> (u32, u32) {
        match self {
            Self::SetRetval => (5, 18),
            Self::Mptcp => (5, 19),
            Self::NetnsCookie => (5, 14),
        }
    }

    /// Returns true if the running kernel has the feature.
    pub fn is_supported(self) -> bool {
        version() >= self.since()
    }
}

/// Major and minor version of the running kernel.
fn version() -> (u32, u32) {
    static FOUND: OnceLock<(u32, u32)> = OnceLock::new();
    *FOUND.get_or_init(|| {
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").expect("/proc is mounted");
        parse(&release)
            .unwrap_or_else(|| panic!("cannot read a version from osrelease {release:?}"))
    })
}

fn parse(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_version_is_parsed_from_osrelease() {
        let rows = [
            ("5.10.0-46-cloud-amd64\n", Some((5, 10))),
            ("7.2.13+deb14-cloud-amd64", Some((7, 2))),
            ("6.18", Some((6, 18))),
            ("linux", None),
        ];
        for (release, expected) in rows {
            assert_eq!(parse(release), expected, "{release:?}");
        }
    }
}
