//! Node ports on loopback: one address, and only for the host.

use super::maps::{Client, HOST, MemoryMaps, Placed, peer};
use super::*;

const V4: &str = "127.0.0.1:30080";
const V6: &str = "[::1]:30080";

fn maps() -> MemoryMaps {
    let maps = MemoryMaps::small();
    maps.service(1, V4, &["10.244.0.1:80"]);
    maps.service(2, V6, &["[fd00:244::1]:80"]);
    maps
}

fn client(namespace: u64, cookie: u64) -> Client {
    Client { namespace, socket: Socket { cookie: SocketCookie(cookie), protocol: Protocol::Tcp } }
}

#[test]
fn every_form_of_loopback_is_one_frontend_and_shows_what_was_dialled() {
    let (v4, v6) = (Some("10.244.0.1:80"), Some("[fd00:244::1]:80"));
    let rows = [
        ("127.0.0.1", "127.0.0.1:30080", v4),
        ("127.0.0.5", "127.0.0.5:30080", v4),
        ("the first", "127.0.0.0:30080", v4),
        ("the last", "127.255.255.255:30080", v4),
        ("v4-mapped", "[::ffff:127.0.0.1]:30080", v4),
        ("v4-mapped, another", "[::ffff:127.1.2.3]:30080", v4),
        ("::1", "[::1]:30080", v6),
        ("255.0.0.1", "255.0.0.1:30080", None),
        ("126.255.255.255", "126.255.255.255:30080", None),
        ("128.0.0.1", "128.0.0.1:30080", None),
        ("v4-compatible", "[::127.0.0.1]:30080", None),
        ("::2", "[::2]:30080", None),
        ("::", "[::]:30080", None),
        ("1::1", "[1::1]:30080", None),
        ("127 in IPv6", "[7f00:1::]:30080", None),
        ("127 after another prefix", "[64:ff9b::127.0.0.1]:30080", None),
        ("another port", "127.0.0.1:30081", None),
    ];
    for (name, dialled, given) in rows {
        let maps = maps();
        let verdict = connect(&maps, &client(HOST, 1), &peer(dialled));
        match given {
            Some(given) => {
                assert_eq!(verdict, Verdict::Rewrite(peer(given)), "{name}");
                let shown = getpeername(&maps, 1, &peer(given));
                assert_eq!(shown, Some(peer(dialled)), "{name}");
            }
            None => assert_eq!(verdict, Verdict::Leave, "{name}"),
        }
    }
}

#[test]
fn only_the_host_has_node_ports_on_its_loopback() {
    let maps = maps();
    maps.service_of(3, Protocol::Udp, V4, &["10.244.0.1:53"]);
    for dialled in ["127.0.0.1:30080", "127.0.0.5:30080", "[::1]:30080"] {
        let verdict = connect(&maps, &client(HOST + 1, 1), &peer(dialled));
        assert_eq!(verdict, Verdict::Leave, "{dialled}");
    }
    let udp = |namespace| Client {
        namespace,
        socket: Socket { cookie: SocketCookie(1), protocol: Protocol::Udp },
    };
    assert_eq!(sendmsg(&maps, &udp(HOST + 1), &peer(V4)), Verdict::Leave);
    let sent = sendmsg(&maps, &udp(HOST), &peer("127.0.0.9:30080"));
    assert_eq!(sent, Verdict::Rewrite(peer("10.244.0.1:53")));
    let shown = recvmsg(&maps, 1, &peer("10.244.0.1:53"));
    assert_eq!(shown, Some(peer("127.0.0.9:30080")));
}

#[test]
fn a_frontend_for_every_client_is_not_asked_for_the_namespace() {
    let maps = maps();
    maps.service(3, "192.0.2.1:30080", &["10.244.0.3:80"]);
    for namespace in [HOST, HOST + 1] {
        let verdict = connect(&maps, &client(namespace, 1), &peer("192.0.2.1:30080"));
        assert_eq!(verdict, Verdict::Rewrite(peer("10.244.0.3:80")));
    }
}

#[test]
fn a_loopback_frontend_far_from_its_home_is_found_by_all_its_forms() {
    let maps = MemoryMaps::small();
    maps.distant_service(1, V4, &["10.244.0.1:80"]);
    for dialled in [V4, "127.0.0.5:30080"] {
        let verdict = connect(&maps, &client(HOST, 1), &peer(dialled));
        assert_eq!(verdict, Verdict::Rewrite(peer("10.244.0.1:80")), "{dialled}");
        assert_eq!(connect(&maps, &client(HOST + 1, 2), &peer(dialled)), Verdict::Leave);
    }
}

#[test]
fn a_backend_on_loopback_that_is_dialled_directly_is_no_service_any_more() {
    for pod in ["127.0.0.1:8080", "127.0.0.7:8080", "[::1]:8080"] {
        let maps = MemoryMaps::small();
        let vip = if pod.starts_with('[') { "[fd00:96::1]:80" } else { "10.96.0.1:80" };
        maps.service(1, vip, &[pod]);
        for namespace in [HOST, HOST + 1] {
            let client = client(namespace, 1);
            assert_eq!(connect(&maps, &client, &peer(vip)), Verdict::Rewrite(peer(pod)));
            assert_eq!(getpeername(&maps, 1, &peer(pod)), Some(peer(vip)));
            assert_eq!(connect(&maps, &client, &peer(pod)), Verdict::Leave, "{pod}");
            assert_eq!(getpeername(&maps, 1, &peer(pod)), None, "{pod}");
        }
    }
}

#[test]
fn a_pods_socket_that_goes_from_a_service_to_its_own_loopback_is_no_service_any_more() {
    // The backend is the very address that is a node port of the host's.
    let maps = maps();
    maps.service(3, "10.96.0.1:80", &[V4]);
    let pod = client(HOST + 1, 1);
    assert_eq!(connect(&maps, &pod, &peer("10.96.0.1:80")), Verdict::Rewrite(peer(V4)));
    assert_eq!(connect(&maps, &pod, &peer(V4)), Verdict::Leave);
    assert_eq!(getpeername(&maps, 1, &peer(V4)), None);
}

#[test]
fn a_client_that_is_bound_to_loopback_is_left_alone_there_and_nowhere_else() {
    let maps = maps();
    maps.service(3, "192.0.2.1:30080", &["10.244.0.3:80"]);
    for is_on_loopback in [true, false] {
        let placed = Placed { client: client(HOST, 1), peer: None, is_on_loopback };
        for dialled in [V4, V6, "127.0.0.5:30080"] {
            let verdicts =
                [connect(&maps, &placed, &peer(dialled)), sendmsg(&maps, &placed, &peer(dialled))];
            let left = verdicts.map(|verdict| verdict == Verdict::Leave);
            assert_eq!(left, [is_on_loopback; 2], "{dialled}");
        }
        let verdict = connect(&maps, &placed, &peer("192.0.2.1:30080"));
        assert_eq!(verdict, Verdict::Rewrite(peer("10.244.0.3:80")));
    }
}
