//! Real maps with records made by hand, and real sockets.

use std::net::{Ipv4Addr, Ipv6Addr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::time::Duration;

use aya_obj::generated::bpf_map_type::{self, BPF_MAP_TYPE_ARRAY, BPF_MAP_TYPE_HASH};
use aya_obj::maps::{LegacyMap, bpf_map_def};
use socket2::SockRef;

use super::*;

const PLACES: u32 = 64;
/// Flags of include/uapi/linux/bpf.h.
const NO_PREALLOC: u32 = 1;
const MMAPABLE: u32 = 1 << 10;
/// A cookie that no socket ever had: of no processor's batch.
const NOBODY: u64 = 1 << 60;

fn map(name: &str, kind: bpf_map_type, key: usize, value: usize, flags: u32) -> MapData {
    let [key_size, value_size] = [key, value].map(|size| u32::try_from(size).unwrap());
    let def = bpf_map_def {
        map_type: kind as u32,
        key_size,
        value_size,
        max_entries: PLACES,
        map_flags: flags,
        ..bpf_map_def::default()
    };
    let map = LegacyMap {
        def,
        inner_def: None,
        section_index: 0,
        section_kind: aya_obj::EbpfSectionKind::Maps,
        symbol_index: None,
        data: Vec::new(),
    };
    MapData::create(aya_obj::Map::Legacy(map), name, None).unwrap_or_else(|error| {
        panic!("cannot make a map ({error}): run the tests as root, or with CAP_BPF")
    })
}

fn sweep() -> Sweep {
    let places = map("places", BPF_MAP_TYPE_ARRAY, 4, size_of::<Origin>(), MMAPABLE);
    let overflow = map("overflow", BPF_MAP_TYPE_HASH, 8, size_of::<Overflow>(), NO_PREALLOC);
    Sweep::over(&places, overflow, Suspects::default()).unwrap()
}

/// What the hooks leave for a socket: in its place, or in the overflow when that is taken.
fn leave(sweep: &mut Sweep, cookie: u64, flags: u8) -> bool {
    let number = u32::try_from(cookie % u64::from(PLACES)).unwrap();
    let place = sweep.places.get(number).unwrap();
    let record = Record { dialled_port: 80, protocol: 6, flags, ..Record::default() };
    if place.count() == 0 {
        place.claim();
        place.record().set_flags(flags);
        place.set_cookie(cookie);
        return true;
    }
    place.spill();
    let mut entry = Overflow::EMPTY;
    (entry.dialled[0], entry.records[0]) = (1, record);
    sweep.overflow.insert(Plain(cookie), Plain(entry), 0).unwrap();
    false
}

/// Cookies that have an origin.
fn held(sweep: &Sweep) -> Vec<u64> {
    let mut held: Vec<u64> =
        sweep.candidates(|_| true).unwrap().iter().map(|it| it.cookie).collect();
    held.sort_unstable();
    held
}

#[test]
fn what_is_left_of_sockets_that_are_gone_goes_at_the_second_look() {
    let mut sweep = sweep();
    for cookie in [NOBODY, NOBODY + 1] {
        assert!(leave(&mut sweep, cookie, RecordFlags::UNRELEASED), "in the array");
    }
    let spilled = NOBODY + u64::from(PLACES);
    assert!(!leave(&mut sweep, spilled, RecordFlags::UNRELEASED), "in the overflow");
    // One that releases itself is nobody's business, whether it is found or not.
    let unmarked = NOBODY + 2;
    assert!(leave(&mut sweep, unmarked, 0));
    assert_eq!(sweep.look().unwrap(), 0, "the first look only suspects");
    assert_eq!(held(&sweep).len(), 4);
    // A record that changed meanwhile is another one.
    sweep.places.get(1).unwrap().record().set_generation(7);
    assert_eq!(sweep.look().unwrap(), 2);
    assert_eq!(held(&sweep), [NOBODY + 1, unmarked]);
    assert_eq!(sweep.look().unwrap(), 1);
    assert_eq!(sweep.look().unwrap(), 0);
    assert_eq!(held(&sweep), [unmarked]);
    let place = |number| sweep.places.get(number).unwrap().read();
    for number in [0, 1] {
        let Origin { cookie, count, spilled, .. } = place(number);
        assert_eq!((cookie, count, spilled), (0, 0, 0), "place {number} can be used again");
    }
    assert_eq!((place(2).cookie, place(2).count), (unmarked, 1));
}

#[test]
fn what_belongs_to_a_socket_that_lives_stays() {
    let mut sweep = sweep();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let connected = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (accepted, _) = listener.accept().unwrap();
    let half = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    drop(listener.accept().unwrap());
    let mapped = socket2::Socket::new(socket2::Domain::IPV6, socket2::Type::STREAM, None).unwrap();
    let to = listener.local_addr().unwrap().port();
    let to = std::net::SocketAddr::from((Ipv4Addr::LOCALHOST.to_ipv6_mapped(), to));
    mapped.connect(&to.into()).unwrap();
    let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    udp.connect((Ipv4Addr::LOCALHOST, 9)).unwrap();
    let udp6 = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).unwrap();
    let sends = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None).unwrap();
    let nowhere = std::net::SocketAddr::from((Ipv4Addr::LOCALHOST, 9));
    sends.send_to(b"x", &nowhere.into()).unwrap();
    let flies = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let cookie = |socket: &dyn std::os::fd::AsFd| {
        SockRef::from(&socket.as_fd()).cookie().expect("a socket has a cookie")
    };
    let mut live = vec![
        cookie(&listener),
        cookie(&connected),
        cookie(&accepted),
        cookie(&half),
        cookie(&mapped),
        cookie(&udp),
        cookie(&udp6),
        cookie(&sends),
        cookie(&flies),
    ];
    let (_near, _far) = in_flight(flies);
    // Some have places of their own, some share: those are in the overflow.
    let mut spilled = 0;
    for cookie in &live {
        spilled += usize::from(!leave(&mut sweep, *cookie, RecordFlags::UNRELEASED));
    }
    let shares = live[0] + u64::from(PLACES);
    leave(&mut sweep, shares, RecordFlags::UNRELEASED);
    assert_eq!(sweep.look().unwrap(), 0);
    assert_eq!(sweep.look().unwrap(), 1, "the one that shares a place, and is none");
    for _ in 0..3 {
        assert_eq!(sweep.look().unwrap(), 0);
    }
    live.sort_unstable();
    assert_eq!(held(&sweep), live, "{spilled} of them in the overflow");
    // Closed without a release: stale from now on, once the kernel needs them no more.
    for stream in [SockRef::from(&connected), SockRef::from(&accepted), SockRef::from(&half)] {
        stream.set_linger(Some(Duration::ZERO)).unwrap();
    }
    mapped.set_linger(Some(Duration::ZERO)).unwrap();
    drop((connected, accepted, half, mapped, udp, udp6, sends));
    let gone: usize = (0..2).map(|_| sweep.look().unwrap()).sum();
    assert_eq!(gone, 7);
}

/// Sends a socket into a Unix socket and closes it: nobody holds it but that.
fn in_flight(socket: UdpSocket) -> (OwnedFd, OwnedFd) {
    use nix::sys::socket as unix;
    let kind = unix::SockType::Datagram;
    let flags = unix::SockFlag::SOCK_CLOEXEC;
    let (near, far) = unix::socketpair(unix::AddressFamily::Unix, kind, None, flags).unwrap();
    let message = [std::io::IoSlice::new(b"x")];
    let fds = [socket.as_raw_fd()];
    let control = [unix::ControlMessage::ScmRights(&fds)];
    unix::sendmsg::<()>(near.as_raw_fd(), &message, &control, unix::MsgFlags::empty(), None)
        .unwrap();
    (near, far)
}

#[test]
fn without_a_cookie_only_the_first_network_namespace_is_swept() {
    let folder = tempfile::tempdir().unwrap();
    let (first, other) = (folder.path(), folder.path().join("none"));
    for (row, cookie, path, expected) in [
        ("a cookie, the first", 1, first, true),
        ("a cookie, another", 7, &other, true),
        ("no cookie, the first", 0, first, true),
        ("no cookie, another", 0, &other, false),
    ] {
        assert_eq!(lists_what_is_marked(cookie, path), expected, "{row}");
    }
    // A network namespace that was just made is not the first.
    let made = std::thread::spawn(|| {
        // SAFETY: only this thread's network is another from here on.
        let failed = unsafe { libc::unshare(libc::CLONE_NEWNET) };
        assert_eq!(failed, 0, "run the tests as root: {}", io::Error::last_os_error());
        lists_what_is_marked(0, Path::new(OF_FIRST))
    });
    assert!(!made.join().unwrap());
}
