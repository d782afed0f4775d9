//! A node and a pod on it: two network namespaces with a link between them, the same for each side.
//!
//! All hosts in the slices are addresses of the node itself. If no proxy translates a packet to a
//! virtual address or to a node port of this node, it meets a reject rule after all rules of a proxy,
//! which answers "administratively prohibited": no other answer looks like it, and no packet leaves.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::harness::namespace::Namespace;

/// Commands of ip(8) in the node's namespace. `POD` is replaced by the thread id of the pod's namespace.
const NODE: &str = "\
link set lo up
link add pod type veth peer name eth0 netns POD
link set pod up
address add 10.244.0.1/32 dev pod
address add fd00:244::1/128 dev pod nodad
address add 192.168.77.1/24 dev lo
address add fd00:77::1/128 dev lo nodad
link add void type veth peer name nowhere
link set void up
link set nowhere up
address add 192.168.79.1/32 dev void
address add fd00:79::1/128 dev void nodad
route add local 10.64.0.0/14 dev lo
route add local 192.168.78.0/24 dev lo
route add default dev void src 192.168.77.1
route add 10.244.1.2/32 dev pod
route add 10.244.1.0/24 via 10.244.1.2 dev pod onlink
";
const NODE_SIX: &str = "\
route add local fd00:64::/64 dev lo
route add local fd00:78::/64 dev lo
route add default dev void src fd00:77::1
route add fd00:244:1::2/128 dev pod
route add fd00:244:1::/64 via fd00:244:1::2 dev pod
";
/// Commands of ip(8) in the pod's namespace.
const POD: &str = "\
link set lo up
link set eth0 up
address add 10.244.1.2/32 dev eth0
address add fd00:244:1::2/128 dev eth0 nodad
route add 10.244.0.1/32 dev eth0
route add default via 10.244.0.1 dev eth0 onlink
route add local 10.244.1.0/24 dev lo
";
const POD_SIX: &str = "\
route add fd00:244::1/128 dev eth0
route add default via fd00:244::1 dev eth0
route add local fd00:244:1::/64 dev lo
";

/// The reject rules. They come after those of a proxy, whose last chains have priorities 0 and 100.
/// Matching on the connection's state makes the kernel track connections also on the side without
/// kube-proxy. Node ports are refused on input for all clients, because kube-proxy refuses them there.
const REJECT_RULES: &str = "
table inet wall {
    chain refuse {
        ip daddr { 10.96.0.0/16, 10.112.0.0/15, 192.168.77.2 } reject with icmpx type admin-prohibited
        ip6 daddr { fd00:96::/64, fd00:112::/64, fd00:113::/64, fd00:77::2 } \
            reject with icmpx type admin-prohibited
    }
    chain refuse_node_ports {
        ip daddr { 192.168.77.1, 127.0.0.0/8 } reject with icmpx type admin-prohibited
        ip6 daddr { fd00:77::1, ::1 } reject with icmpx type admin-prohibited
    }
    chain input {
        type filter hook input priority 200
        ct state new meta l4proto { tcp, udp } th dport 30000-32767 jump refuse_node_ports
    }
    chain output { type filter hook output priority 200; ct state new jump refuse; }
    chain forward { type filter hook forward priority 200; ct state new jump refuse; }
}
";

const SETTINGS: [(&str, &str); 11] = [
    ("ipv4/ip_forward", "1"),
    ("ipv6/conf/all/forwarding", "1"),
    ("ipv4/conf/all/rp_filter", "0"),
    ("ipv4/conf/default/rp_filter", "0"),
    // IPv6 sockets can bind any address of a local route; IPv4 sockets can anyway.
    ("ipv6/ip_nonlocal_bind", "1"),
    // Refusals are ICMP messages, of which there are many: no rate limit for any type.
    ("ipv4/icmp_ratemask", "0"),
    // For ICMPv6 only type 128 is limited, which is no error message.
    ("ipv6/icmp/ratemask", "128"),
    // Local ports are outside the range of node ports.
    ("ipv4/ip_local_port_range", "33000 65535"),
    ("ipv4/tcp_tw_reuse", "1"),
    // A client's port that is reused must not meet the translation of its previous use.
    ("netfilter/nf_conntrack_udp_timeout", "2"),
    ("netfilter/nf_conntrack_udp_timeout_stream", "2"),
];

/// Both network namespaces.
pub(crate) struct Network {
    pub(crate) pod: Namespace,
    pub(crate) node: Namespace,
}

impl Network {
    /// Creates both namespaces. `folder` gets a bpffs for each.
    pub(crate) fn make(folder: &Path) -> Self {
        let bpffs = |name: &str| {
            let path = folder.join(format!("bpffs-{name}"));
            std::fs::create_dir(&path)
                .unwrap_or_else(|error| panic!("cannot make {}: {error}", path.display()));
            path
        };
        let network =
            Self { pod: Namespace::bare(bpffs("pod")), node: Namespace::bare(bpffs("node")) };
        let pod = network.pod.run(nix::unistd::gettid);
        network.node.run(move || {
            run(Command::new("nft").args(["-f", "-"]), REJECT_RULES);
            set(&SETTINGS);
            ip(&NODE.replace("POD", &pod.to_string()));
            ip6(NODE_SIX);
        });
        network.pod.run(|| {
            set(&SETTINGS[2..9]);
            ip(POD);
            ip6(POD_SIX);
        });
        network
    }
}

fn ip(commands: &str) {
    run(Command::new("ip").args(["-batch", "-"]), commands);
}

fn ip6(commands: &str) {
    run(Command::new("ip").args(["-6", "-batch", "-"]), commands);
}

fn set(settings: &[(&str, &str)]) {
    for (name, value) in settings {
        let path = Path::new("/proc/sys/net").join(name);
        std::fs::write(&path, value)
            .unwrap_or_else(|error| panic!("cannot set {} ({error})", path.display()));
    }
}

/// Runs a tool in the network namespace of this thread.
fn run(command: &mut Command, input: &str) {
    let name = command.get_program().to_string_lossy().into_owned();
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| {
        panic!("cannot start {name} ({error}): run `cargo xtask setup --cluster`")
    });
    let mut stdin = child.stdin.take().expect("standard input is a pipe");
    // The tool may exit before it has read everything, with an error message.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    let output = child.wait_with_output().expect("a child can be waited for");
    assert!(
        output.status.success(),
        "{name}: {}\n{input}",
        String::from_utf8_lossy(&output.stderr)
    );
}
