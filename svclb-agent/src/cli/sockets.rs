//! `svclb sockets`: live sockets that dialled a Service, what they were given, and whose they are.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::{Args, ValueHint};
use svclb_common::cookie::SocketCookie;
use svclb_common::layout::{Protocol, RecordFlags, ServiceRow};
use svclb_core::compile::name_of;
use svclb_core::table::Table as _;
use svclb_dataplane::maps::Maps;
use svclb_dataplane::maps::sockets::{Origins, SocketOrigin};
use svclb_dataplane::node::processes::Holders;
use svclb_dataplane::pins::places::Places;

use super::ListArgs;
use super::list::Owners;
use super::output::{self, OutputFormat, SocketView};

#[derive(Debug, Args)]
pub(super) struct SocketsArgs {
    #[command(flatten)]
    list: ListArgs,
    /// Show only sockets that dialled this Service; PORT is the port's name, or the number that was dialled
    #[arg(long, value_name = "NAMESPACE/NAME[:PORT]", value_parser = ServiceFilter::parse)]
    service: Option<ServiceFilter>,
    /// Show only sockets of this pod; its UID where the pod's name is not known
    #[arg(long, value_name = "NAMESPACE/POD")]
    pod: Option<String>,
    /// Show only sockets whose backend does not belong to the service any more
    #[arg(long)]
    stale: bool,
    #[command(flatten)]
    pods: PodNamesArgs,
}

#[derive(Debug, Args)]
pub(super) struct PodNamesArgs {
    /// Folder of the kubelet's logs of pods (its podLogsDir), where the names of pods are read
    #[arg(long, value_name = "DIR", default_value = "/var/log/pods", value_hint = ValueHint::DirPath)]
    pod_logs: PathBuf,
}

/// A Service, or one of its ports.
#[derive(Clone, PartialEq, Eq, Debug)]
struct ServiceFilter {
    namespace: String,
    name: String,
    port: Option<String>,
}

impl ServiceFilter {
    fn parse(text: &str) -> Result<Self, &'static str> {
        let (namespace, name) = text.split_once('/').ok_or("the form is NAMESPACE/NAME[:PORT]")?;
        let (name, port) = match name.split_once(':') {
            Some((name, port)) => (name, Some(port.to_owned())),
            None => (name, None),
        };
        if namespace.is_empty() || name.is_empty() {
            return Err("a namespace and a name are needed: NAMESPACE/NAME[:PORT]");
        }
        Ok(Self { namespace: namespace.to_owned(), name: name.to_owned(), port })
    }

    /// Names of ports have a letter, so that a number is never one.
    fn has(&self, service: &ServiceRow, dialled: SocketAddr) -> bool {
        let has_port = |port: &String| {
            *port == name_of(&service.port_name) || *port == dialled.port().to_string()
        };
        self.namespace == name_of(&service.namespace)
            && self.name == name_of(&service.name)
            && self.port.as_ref().is_none_or(has_port)
    }
}

/// `svclb sockets`.
pub(super) fn sockets(args: &SocketsArgs) -> Result<()> {
    let pins = &args.list.pins.pins;
    let dump = Maps::read(pins)?.load()?;
    let owners = Owners::of(&dump);
    let origins = Origins::open(&Places::current(pins))?.read()?;
    let selected = origins.iter().filter_map(|origin| {
        let service = owners.service(origin);
        let dialled = SocketAddr::new(origin.record.dialled.ip(), origin.record.dialled_port);
        let is_wanted = args
            .service
            .as_ref()
            .is_none_or(|wanted| service.is_some_and(|service| wanted.has(service, dialled)));
        let current = owners.is_current(origin);
        let view = || view(origin, dialled, service, current);
        (is_wanted && !(args.stale && current)).then(view)
    });
    let mut views: Vec<SocketView> = selected.collect();
    if args.list.output != OutputFormat::Name || args.pod.is_some() {
        add_holders(&mut views, &args.pods)?;
    }
    if let Some(pod) = &args.pod {
        views.retain(|view| view.pod == *pod);
    }
    output::list(&views, args.list.output)
}

fn view(
    origin: &SocketOrigin,
    dialled: SocketAddr,
    service: Option<&ServiceRow>,
    current: bool,
) -> SocketView {
    let record = &origin.record;
    SocketView {
        cookie: origin.cookie.0,
        protocol: Protocol::from_number(record.protocol.into()).map_or("unknown", Protocol::name),
        dialled,
        given: SocketAddr::new(record.given.ip(), record.given_port),
        service: service.map_or_else(String::new, |row| {
            let port = name_of(&row.port_name);
            format!("{}/{}:{port}", name_of(&row.namespace), name_of(&row.name))
        }),
        connected: record.flags & RecordFlags::CONNECTED != 0,
        current,
        place: if origin.overflow { "overflow" } else { "origins" },
        pid: None,
        command: String::new(),
        pod: String::new(),
    }
}

/// Adds the process and the pod of each socket. The reasons why some are not known go to standard error.
fn add_holders(views: &mut [SocketView], pods: &PodNamesArgs) -> Result<()> {
    let cookies: HashSet<_> = views.iter().map(|view| SocketCookie(view.cookie)).collect();
    let holders = Holders::find(&cookies)?;
    let names = PodNames::read(&pods.pod_logs);
    for view in views {
        if let Some(holder) = holders.of(SocketCookie(view.cookie)) {
            view.pid = Some(holder.pid);
            view.command.clone_from(&holder.command);
            view.pod = holder.pod_uid.as_deref().map_or_else(String::new, |uid| names.of(uid));
        }
    }
    if !holders.unseen.is_empty() {
        output::warn(&format!("not all processes are known: {}", holders.unseen.join("; ")));
    }
    Ok(())
}

/// The names of the node's pods by UID.
struct PodNames(HashMap<String, String>);

impl PodNames {
    /// Reads them from the names of folders, which the kubelet calls `NAMESPACE_NAME_UID`
    /// (BuildPodLogsDirectory in pkg/kubelet/kuberuntime/helpers.go). On a node without a kubelet there are none.
    fn read(folder: &Path) -> Self {
        let folders = std::fs::read_dir(folder).into_iter().flatten().flatten();
        let names = folders.filter_map(|folder| folder.file_name().into_string().ok());
        Self(names.filter_map(|name| Self::parse(&name)).collect())
    }

    /// No part has an underscore of its own.
    fn parse(folder: &str) -> Option<(String, String)> {
        let mut parts = folder.split('_');
        let [namespace, name, uid] = [parts.next()?, parts.next()?, parts.next()?];
        let is_whole = parts.next().is_none() && ![namespace, name, uid].contains(&"");
        is_whole.then(|| (uid.to_owned(), format!("{namespace}/{name}")))
    }

    /// Returns `namespace/name` of a pod, or its UID where the name is not known.
    fn of(&self, uid: &str) -> String {
        self.0.get(uid).cloned().unwrap_or_else(|| uid.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use svclb_core::compile::text;

    use super::*;

    fn row(namespace: &str, name: &str, port_name: &str) -> ServiceRow {
        ServiceRow {
            namespace: text(namespace),
            name: text(name),
            port_name: text(port_name),
            protocol: text("TCP"),
            internal_policy: text("Cluster"),
            external_policy: text("Cluster"),
            frontends: 1,
            internal_backends: 1,
            external_backends: 1,
            notes: 0,
        }
    }

    #[test]
    fn a_service_is_selected_by_its_name_and_by_a_ports_name_or_number() {
        let http = row("shop", "web", "http");
        let without = row("shop", "web", "");
        let rows = [
            ("the Service", "shop/web", &http, true),
            ("its port's name", "shop/web:http", &http, true),
            ("the dialled number", "shop/web:80", &http, true),
            ("another name", "shop/web:https", &http, false),
            ("another number", "shop/web:8080", &http, false),
            ("a port without a name", "shop/web:", &without, true),
            ("a port with a name", "shop/web:", &http, false),
            ("another Service", "shop/we", &http, false),
            ("another namespace", "other/web", &http, false),
        ];
        for (name, filter, service, expected) in rows {
            let filter = ServiceFilter::parse(filter).unwrap();
            assert_eq!(filter.has(service, "10.96.0.10:80".parse().unwrap()), expected, "{name}");
        }
        for unusable in ["web", "/web", "shop/", "shop/:http", ""] {
            assert!(ServiceFilter::parse(unusable).is_err(), "{unusable:?}");
        }
    }

    #[test]
    fn pods_have_the_names_of_the_kubelets_folders_and_otherwise_their_uids() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["shop_cart-7d4b_0c1d", "kube-system_dns_", "no-pod", "a_b_c_d", "__"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
        }
        let names = PodNames::read(folder.path());
        let rows = [("0c1d", "shop/cart-7d4b"), ("ffff", "ffff"), ("c", "c"), ("", "")];
        for (uid, expected) in rows {
            assert_eq!(names.of(uid), expected, "{uid}");
        }
        assert_eq!(PodNames::read(&folder.path().join("missing")).of("0c1d"), "0c1d");
    }
}
