//! Processes that hold sockets open, and the pods that they are in.
//!
//! The maps know a socket by its cookie. Socket diagnostics (sock_diag(7)) list the sockets of one network
//! namespace with cookies and inode numbers, and the links in `/proc/PID/fd` have the inode numbers of a
//! process's sockets. So each network namespace that a process is in is entered once, by a thread that ends
//! afterwards, and each descriptor is read once at most, until all sockets are found.
//!
//! Not found are sockets without a descriptor that /proc shows (in flight between two processes, or held by
//! an io_uring alone), TCP sockets that are not connected any more, and all sockets of a network namespace
//! that no process is in.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::thread;

use anyhow::{Context as _, Result};
use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, IPPROTO_TCP, IPPROTO_UDP};
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, SocketId, StateFlags};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use netlink_sys::{Socket, SocketAddr};
use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};
use procfs::process::all_processes;
use svclb_common::cookie::SocketCookie;

use crate::node::cgroups;

/// Lengths of a pod's UID: of the API server's, and of a static pod's, which the kubelet makes.
const UID_LENGTHS: [usize; 2] = [36, 32];

/// A process that holds a socket open.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Holder {
    /// Its number in this pid namespace.
    pub pid: u32,
    /// Its name (`/proc/PID/comm`), which it may choose itself.
    pub command: String,
    /// UID of the pod whose cgroup it is in.
    pub pod_uid: Option<String>,
}

/// The processes that hold sockets open.
#[derive(Debug, Default)]
pub struct Holders {
    pids: HashMap<SocketCookie, u32>,
    processes: HashMap<u32, Holder>,
    /// The reasons why other sockets were not found, if there are any.
    pub unseen: Vec<String>,
}

impl Holders {
    /// Returns the process that holds a socket open: of several the one with the lowest number.
    pub fn of(&self, socket: SocketCookie) -> Option<&Holder> {
        self.processes.get(self.pids.get(&socket)?)
    }

    /// Finds the processes of these sockets.
    ///
    /// # Errors
    /// When /proc cannot be read.
    pub fn find(sockets: &HashSet<SocketCookie>) -> Result<Self> {
        let mut found = Self::default();
        if sockets.is_empty() {
            return Ok(found);
        }
        let processes = all_processes().context("cannot read /proc: is it mounted?")?;
        // One may have ended meanwhile.
        let mut pids: Vec<u32> =
            processes.flatten().map(|process| process.pid.cast_unsigned()).collect();
        pids.sort_unstable();
        let mut hidden = HashSet::new();
        let namespaces = namespaces(&pids, &mut hidden);
        let mut inodes = inodes(&namespaces, sockets, &mut found.unseen);
        for pid in pids {
            if inodes.is_empty() {
                break;
            }
            match held(pid, &mut inodes) {
                Ok(held) if held.is_empty() => continue,
                Ok(held) => {
                    if let Some(holder) = holder(pid) {
                        found.pids.extend(held.into_iter().map(|socket| (socket, pid)));
                        found.processes.insert(pid, holder);
                    }
                }
                Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                    hidden.insert(pid);
                }
                Err(_) => {}
            }
        }
        if !hidden.is_empty() {
            let count = hidden.len();
            found.unseen.push(format!("{count} processes are hidden without CAP_SYS_PTRACE"));
        }
        found.unseen.extend(cgroups::unseen().map(str::to_owned));
        if found.pids.len() == sockets.len() {
            found.unseen.clear();
        }
        Ok(found)
    }
}

/// The processes in each network namespace, by its inode number.
type Namespaces = BTreeMap<u64, Vec<u32>>;

fn namespaces(pids: &[u32], hidden: &mut HashSet<u32>) -> Namespaces {
    let mut namespaces = Namespaces::new();
    for pid in pids {
        match fs::metadata(namespace_of(pid)) {
            Ok(data) => namespaces.entry(data.ino()).or_default().push(*pid),
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                hidden.insert(*pid);
            }
            Err(_) => {}
        }
    }
    namespaces
}

fn namespace_of(process: impl std::fmt::Display) -> String {
    format!("/proc/{process}/ns/net")
}

/// Returns the inode numbers of sockets, with their cookies. The own network namespace comes first, since it
/// need not be entered.
fn inodes(
    namespaces: &Namespaces,
    sockets: &HashSet<SocketCookie>,
    unseen: &mut Vec<String>,
) -> HashMap<u64, SocketCookie> {
    let own = fs::metadata(namespace_of("thread-self")).map_or(0, |data| data.ino());
    let mut inodes = HashMap::new();
    let (mut closed, mut faults) = (0, Vec::new());
    let mut search = |pids: &[u32], is_own: bool| {
        let listed = match if is_own { Ok(true) } else { enter(pids) } {
            Ok(true) => list_all(&mut |socket, inode| {
                if sockets.contains(&socket) {
                    inodes.insert(inode, socket);
                }
            }),
            Ok(false) => Ok(()),
            Err(Errno::EPERM) => {
                closed += 1;
                Ok(())
            }
            Err(error) => Err(error.into()),
        };
        faults.extend(listed.err());
        inodes.len() == sockets.len()
    };
    let is_complete = namespaces.get(&own).is_some_and(|pids| search(pids, true));
    let mut others = namespaces.iter().filter(|(inode, _)| **inode != own);
    if !is_complete {
        // The thread stays in the last network namespace.
        thread::scope(|scope| {
            let thread = scope.spawn(|| others.any(|(_, pids)| search(pids, false)));
            let _ = thread.join();
        });
    }
    if closed > 0 {
        let reason = format!("{closed} network namespaces cannot be entered without CAP_SYS_ADMIN");
        unseen.push(reason);
    }
    if let Some(fault) = faults.first() {
        unseen.push(format!("the kernel does not list sockets: {fault}"));
    }
    inodes
}

/// Puts this thread into the network namespace of these processes. Returns false if all of them have ended.
fn enter(pids: &[u32]) -> nix::Result<bool> {
    let Some(file) = pids.iter().find_map(|pid| File::open(namespace_of(pid)).ok()) else {
        return Ok(false);
    };
    setns(file, CloneFlags::CLONE_NEWNET).map(|()| true)
}

/// Shows the cookie and inode number of each socket in this thread's network namespace.
fn list_all(see: &mut impl FnMut(SocketCookie, u64)) -> io::Result<()> {
    for protocol in [IPPROTO_TCP, IPPROTO_UDP] {
        for (family, socket_id) in [(AF_INET, SocketId::new_v4()), (AF_INET6, SocketId::new_v6())] {
            let (extensions, states) = (ExtensionFlags::empty(), StateFlags::all());
            list(InetRequest { family, protocol, extensions, states, socket_id }, see)?;
        }
    }
    Ok(())
}

fn list(request: InetRequest, see: &mut impl FnMut(SocketCookie, u64)) -> io::Result<()> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let mut request = NetlinkMessage::new(header, SockDiagMessage::InetRequest(request).into());
    request.finalize();
    let mut bytes = vec![0; request.buffer_len()];
    request.serialize(&mut bytes);
    let socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.connect(&SocketAddr::new(0, 0))?;
    socket.send(&bytes, 0)?;
    loop {
        let (answer, _) = socket.recv_from_full()?;
        let mut rest = answer.as_slice();
        while !rest.is_empty() {
            let message = NetlinkMessage::<SockDiagMessage>::deserialize(rest);
            let message = message.map_err(io::Error::other)?;
            // Messages are padded to four bytes.
            let length = (message.header.length as usize).next_multiple_of(4);
            match message.payload {
                NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(socket)) => {
                    let cookie = u64::from_ne_bytes(socket.header.socket_id.cookie);
                    see(SocketCookie(cookie), socket.header.inode.into());
                }
                NetlinkPayload::Done(_) => return Ok(()),
                NetlinkPayload::Error(error) => return Err(error.to_io()),
                _ => {}
            }
            rest = rest.get(length..).unwrap_or_default();
        }
    }
}

/// Takes the sockets that a process has descriptors of out of `inodes`.
fn held(pid: u32, inodes: &mut HashMap<u64, SocketCookie>) -> io::Result<Vec<SocketCookie>> {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd"))?.flatten();
    let links = descriptors.filter_map(|descriptor| fs::read_link(descriptor.path()).ok());
    Ok(links.filter_map(|link| inodes.remove(&inode_of(link.as_os_str())?)).collect())
}

/// Returns the inode number in the link of a socket's descriptor: `socket:[4711]`.
fn inode_of(link: &OsStr) -> Option<u64> {
    let number = link.as_bytes().strip_prefix(b"socket:[")?.strip_suffix(b"]")?;
    std::str::from_utf8(number).ok()?.parse().ok()
}

fn holder(pid: u32) -> Option<Holder> {
    // Neither need be text.
    let read = |file| fs::read(format!("/proc/{pid}/{file}")).ok();
    let [command, cgroups] =
        [read("comm")?, read("cgroup")?].map(|it| String::from_utf8_lossy(&it).into_owned());
    let command = command.trim_end_matches('\n').to_owned();
    Some(Holder { pid, command, pod_uid: pod_uid(&cgroups) })
}

/// Returns the UID of the pod that a `/proc/PID/cgroup` names. The kubelet calls a pod's cgroup `podUID` below
/// `kubepods`, and with systemd's driver `kubepods-...-podUID.slice`, where the UID has underscores for
/// hyphens (pkg/kubelet/cm/pod_container_manager_linux.go, cgroup_manager_linux.go).
fn pod_uid(cgroups: &str) -> Option<String> {
    let path_of = |line: &'_ str| line.splitn(3, ':').nth(2).map(str::to_owned);
    cgroups.lines().filter_map(path_of).find_map(|path| {
        let mut parts = path.split('/').skip_while(|part| !part.contains("kubepods"));
        parts.find_map(|part| {
            let name = part.strip_suffix(".slice").unwrap_or(part);
            let (_, uid) =
                name.rsplit_once("-pod").or_else(|| Some(("", name.strip_prefix("pod")?)))?;
            let uid = uid.replace('_', "-");
            let is_uid = UID_LENGTHS.contains(&uid.len())
                && uid.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
            is_uid.then_some(uid)
        })
    })
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream, UdpSocket};

    use socket2::SockRef;

    use super::*;

    #[test]
    fn the_uid_of_a_pod_is_read_from_every_form_of_its_cgroup() {
        let uid = "0c1d2e3f-1111-2222-3333-444455556666";
        let escaped = uid.replace('-', "_");
        let static_pod = "c0ffee00c0ffee00c0ffee00c0ffee00";
        let rows = [
            ("cgroupfs", format!("0::/kubepods/burstable/pod{uid}/4711"), Some(uid)),
            ("cgroupfs, guaranteed", format!("0::/kubepods/pod{uid}/4711"), Some(uid)),
            (
                "systemd",
                format!(
                    "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{escaped}.slice/\
                     cri-containerd-1.scope"
                ),
                Some(uid),
            ),
            (
                "systemd, guaranteed, in a node that is a container",
                format!(
                    "0::/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{escaped}.slice"
                ),
                Some(uid),
            ),
            ("from a namespace", format!("0::/../../kubepods/pod{uid}"), Some(uid)),
            ("a static pod", format!("0::/kubepods/pod{static_pod}/1"), Some(static_pod)),
            ("v1", format!("4:cpu,cpuacct:/kubepods/pod{uid}/1\n0::/"), Some(uid)),
            ("v1 without a pod there", format!("4:cpu:/\n0::/kubepods/pod{uid}"), Some(uid)),
            ("no pod", "0::/system.slice/ssh.service".to_owned(), None),
            ("not a pod of a kubelet", format!("0::/user.slice/pod{uid}"), None),
            ("no UID", "0::/kubepods/podium".to_owned(), None),
            ("nothing", String::new(), None),
        ];
        for (row, cgroups, expected) in rows {
            assert_eq!(pod_uid(&cgroups).as_deref(), expected, "{row}");
        }
    }

    #[test]
    fn only_a_link_to_a_socket_has_an_inode_number() {
        let rows = [
            ("socket:[4711]", Some(4711)),
            ("socket:[]", None),
            ("pipe:[4711]", None),
            ("/tmp/socket:[4711]", None),
        ];
        for (link, expected) in rows {
            assert_eq!(inode_of(OsStr::new(link)), expected, "{link}");
        }
    }

    #[test]
    fn this_process_is_found_by_its_sockets_of_both_protocols_and_families() {
        let mut streams = Vec::new();
        let mut datagrams = Vec::new();
        let mut listeners = Vec::new();
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(address).unwrap();
            streams.push(TcpStream::connect(listener.local_addr().unwrap()).unwrap());
            listeners.push(listener);
            datagrams.push(UdpSocket::bind(address).unwrap());
        }
        let sockets = streams.iter().map(SockRef::from).chain(datagrams.iter().map(SockRef::from));
        let cookies: HashSet<_> =
            sockets.map(|socket| SocketCookie(socket.cookie().unwrap())).collect();
        assert_eq!(cookies.len(), 4);
        let found = Holders::find(&cookies).unwrap();
        for cookie in &cookies {
            let holder = found.of(*cookie).unwrap();
            assert_eq!(holder.pid, std::process::id(), "{holder:?}");
            assert_eq!(fs::read_to_string("/proc/self/comm").unwrap().trim_end(), holder.command);
        }
        assert_eq!(found.unseen, [""; 0], "all were found");
        assert!(found.of(SocketCookie(0)).is_none());
    }
}
