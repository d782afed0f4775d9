//! What the running kernel has of what the programs use where they find it, and what a test may
//! therefore ask for. By its version: what the programs find out themselves is the thing under test.

use std::fs;
use std::sync::OnceLock;

/// Something that the oldest supported kernel (5.10) lacks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Feature {
    /// A hook chooses the error of a refused call (`bpf_set_retval`). Without: docs/decisions/0005.
    SetRetval,
    /// There are MPTCP sockets, in the kernels that tests run on: Debian's 5.10 is built without.
    Mptcp,
    /// A process can ask for the cookie of its network namespace (`SO_NETNS_COOKIE`).
    NetnsCookie,
}

impl Feature {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::SetRetval, Self::Mptcp, Self::NetnsCookie];

    /// Its name in docs/kernels.json.
    pub const fn name(self) -> &'static str {
        match self {
            Self::SetRetval => "set_retval",
            Self::Mptcp => "mptcp",
            Self::NetnsCookie => "netns_cookie",
        }
    }

    /// The first version with it.
    const fn since(self) -> (u32, u32) {
        match self {
            Self::SetRetval => (5, 18),
            Self::Mptcp => (5, 19),
            Self::NetnsCookie => (5, 14),
        }
    }

    /// Whether the running kernel has it.
    pub fn is_there(self) -> bool {
        version() >= self.since()
    }
}

/// First two numbers of the running kernel's version.
fn version() -> (u32, u32) {
    static FOUND: OnceLock<(u32, u32)> = OnceLock::new();
    *FOUND.get_or_init(|| {
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").expect("/proc is mounted");
        parse(&release).unwrap_or_else(|| panic!("the kernel calls itself {release:?}"))
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
    fn a_kernel_is_known_by_its_first_two_numbers() {
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
