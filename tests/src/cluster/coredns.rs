//! The cluster's DNS server, and the resolver configuration of a world's processes.

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::mount::{MsFlags, mount};

use super::components::component;
use super::control_plane::ControlPlane;
use super::kubelet::Pod;
use super::process::Process;
use crate::World;

/// The service account of the DNS server with the permissions of its `kubernetes` plugin.
const ACCOUNT: &str = r#"
apiVersion: v1
kind: ServiceAccount
metadata: { name: coredns, namespace: kube-system }
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: { name: system:coredns }
rules:
  - { apiGroups: [""], resources: [services, namespaces], verbs: [list, watch] }
  - { apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [list, watch] }
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: { name: system:coredns }
roleRef: { apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: system:coredns }
subjects:
  - { kind: ServiceAccount, name: coredns, namespace: kube-system }
"#;

/// A DNS server on a Pod's address in a world.
#[derive(Debug)]
pub struct CoreDns(Process);

impl CoreDns {
    /// Starts the server. It reaches the API server through the world's [`Relay`](super::Relay).
    pub fn start(plane: &ControlPlane, world: &World, pod: &Pod<'_>) -> Self {
        plane.api().apply(ACCOUNT);
        let kubeconfig = plane.kubeconfig_of_service_account("kube-system/coredns");
        let corefile = plane.folder().join("Corefile");
        let text = format!(
            "cluster.local:53 {{\n    \
                 bind {}\n    \
                 errors\n    \
                 kubernetes cluster.local {{\n        \
                     kubeconfig {}\n        \
                     ttl 0\n    \
                 }}\n\
             }}\n",
            pod.at(53).ip(),
            kubeconfig.display(),
        );
        fs::write(&corefile, text).expect("a file can be written");
        let mut command = Command::new(component("coredns"));
        command.arg("-conf").arg(corefile);
        Self(Process::start(world.namespace(), plane.folder(), "coredns", command))
    }

    /// The last lines of its log.
    pub fn log_tail(&self) -> String {
        self.0.log_tail()
    }
}

/// Folders with sockets of the host's resolver services, which a network namespace does not isolate.
const RESOLVERS: [&str; 2] = ["/run/nscd", "/run/systemd/resolve"];

/// Makes processes of a world resolve names as a pod of the namespace `default` does: only by this DNS
/// server, whatever resolvers the host has.
///
/// # Panics
/// If /etc cannot be covered by a mount.
pub fn resolve_by(plane: &ControlPlane, world: &World, server: IpAddr) {
    let own = [
        (
            "resolv.conf",
            format!(
                "nameserver {server}\n\
                 search default.svc.cluster.local svc.cluster.local cluster.local\n\
                 options ndots:5\n"
            ),
        ),
        ("nsswitch.conf", "hosts: files dns\n".to_owned()),
    ];
    let folder = |name: &str| -> PathBuf {
        let path = plane.folder().join(name);
        fs::create_dir(&path).expect("a folder can be made, once for each control plane");
        path
    };
    let (etc, host, nothing) = (folder("etc"), folder("host-etc"), folder("nothing"));
    for (name, text) in &own {
        fs::write(etc.join(name), text).expect("a file can be written");
    }
    // All other files are the host's. A single file cannot be covered by a mount if it is a dangling
    // link.
    for entry in fs::read_dir("/etc").expect("/etc can be read").flatten() {
        let name = entry.file_name();
        if own.iter().all(|(own, _)| name != *own) {
            let link = fs::read_link(entry.path()).unwrap_or_else(|_| host.join(&name));
            symlink(link, etc.join(name)).expect("a link can be made");
        }
    }
    world.inside(move || {
        // These mounts are visible in this mount namespace only.
        cover("/etc".as_ref(), &host);
        read_only(&host);
        cover(&etc, "/etc".as_ref());
        for resolver in RESOLVERS.map(Path::new).into_iter().filter(|folder| folder.is_dir()) {
            cover(&nothing, resolver);
        }
    });
}

/// Bind-mounts a folder over another.
fn cover(folder: &Path, at: &Path) {
    let none = None::<&str>;
    mount(Some(folder), at, none, MsFlags::MS_BIND | MsFlags::MS_REC, none)
        .unwrap_or_else(|error| panic!("cannot cover {} ({error})", at.display()));
}

fn read_only(folder: &Path) {
    let none = None::<&str>;
    let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    mount(none, folder, none, flags, none)
        .unwrap_or_else(|error| panic!("cannot protect {} ({error})", folder.display()));
}
