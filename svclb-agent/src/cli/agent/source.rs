//! Flags that name the source of Services.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use http::Uri;
use ipnet::IpNet;
use svclb_core::budget::Budget;

use svclb_sources::files::Files;
use svclb_sources::interfaces::Interfaces;
use svclb_sources::kube::plugin::PluginLimits;
use svclb_sources::kube::{Kube, KubeSettings, SILENCE};
use svclb_sources::{Objects, Source};

#[derive(Debug, Args)]
pub(in crate::cli) struct SourceArgs {
    /// Read Services from Kubernetes YAML: files, or folders of them; the agent follows their changes
    #[arg(long, value_name = "PATH", num_args = 1.., conflicts_with_all = ["kubeconfig", "api_servers"])]
    from: Vec<PathBuf>,
    /// Read Services from the cluster of this kubeconfig [default: the cluster that the pod runs in]
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Further URLs of the API server, tried when others fail. The server's certificate must be valid for the
    /// name in the kubeconfig, or for kubernetes.default.svc in a pod
    #[arg(long = "api-server", value_name = "URL", value_parser = api_server, value_delimiter = ',')]
    api_servers: Vec<Uri>,
    /// Time that a watch may be silent before all objects are listed; up to twice as long by chance
    #[arg(long, value_name = "SECONDS", default_value_t = SILENCE.as_secs(), value_parser = clap::value_parser!(u64).range(1..), hide = true)]
    silence: u64,
    /// Name of this node, as EndpointSlices name it [default: the host's name]
    #[arg(long, value_name = "NAME", env = "NODE_NAME")]
    node: Option<String>,
    /// Serve node ports at the addresses of this node's interfaces in these ranges [default: at the
    /// addresses of the Node object]
    #[arg(long, value_name = "CIDR", value_parser = prefix, value_delimiter = ',')]
    node_port_addresses: Vec<IpNet>,
}

impl SourceArgs {
    /// The files and folders that the command line names.
    pub(super) fn files(&self) -> impl Iterator<Item = &Path> {
        self.from.iter().chain(&self.kubeconfig).map(PathBuf::as_path)
    }

    /// Starts to follow what the command line names, seen from this node, within budgets.
    pub(in crate::cli) async fn open(&self, node: &str, budget: Budget) -> Result<Source> {
        let interfaces = match &self.node_port_addresses[..] {
            [] => None,
            wanted => Some(Interfaces::new(wanted.to_vec())?),
        };
        let objects = if self.from.is_empty() {
            let settings = KubeSettings {
                kubeconfig: self.kubeconfig.clone(),
                api_servers: self.api_servers.clone(),
                plugins: PluginLimits::default(),
                silence: Duration::from_secs(self.silence),
                budget,
            };
            Objects::Kube(Box::new(Kube::new(settings, node).await?))
        } else {
            Objects::Files(Box::new(Files::new(&self.from)?.node(node)))
        };
        Ok(Source::new(objects, interfaces))
    }

    /// The node's name, given or the host's, as kubelet and kube-proxy write it: without blanks around it and
    /// in lower case (k8s.io/component-helpers, node/util/hostname.go).
    pub(in crate::cli) fn node(&self) -> Result<String> {
        let name = match &self.node {
            Some(name) => name.clone(),
            None => {
                let path = "/proc/sys/kernel/hostname";
                std::fs::read_to_string(path)
                    .with_context(|| format!("cannot read {path}: name this node by --node"))?
            }
        };
        let name = name.trim().to_lowercase();
        ensure!(!name.is_empty(), "the name of this node is empty: give it by --node");
        Ok(name)
    }
}

fn prefix(text: &str) -> Result<IpNet, String> {
    text.parse().map_err(|_| "expected an address prefix such as 10.0.0.0/8 or fd00::/8".to_owned())
}

fn api_server(text: &str) -> Result<Uri, String> {
    let expected = || "expected a URL such as https://192.0.2.1:6443".to_owned();
    let uri: Uri = text.parse().map_err(|_| expected())?;
    let known = matches!(uri.scheme_str(), Some("https" | "http"));
    if known && uri.host().is_some() { Ok(uri) } else { Err(expected()) }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        source: SourceArgs,
    }

    #[test]
    fn one_source_at_most_is_taken() {
        let rows: [(&[&str], bool); 10] = [
            (&[], true),
            (&["--from", "a.yaml"], true),
            (&["--kubeconfig", "config"], true),
            (&["--kubeconfig", "config", "--api-server", "https://192.0.2.1:6443"], true),
            (&["--api-server", "https://api.example.net"], true),
            (&["--from", "a.yaml", "--kubeconfig", "config"], false),
            (&["--from", "a.yaml", "--api-server", "https://192.0.2.1:6443"], false),
            (&["--api-server", "192.0.2.1:6443"], false),
            (&["--node-port-addresses", "10.0.0.1"], false),
            (&["--node-port-addresses", "10.0.0.0/33"], false),
        ];
        for (arguments, taken) in rows {
            let line = ["agent"].into_iter().chain(arguments.iter().copied());
            assert_eq!(Line::try_parse_from(line).is_ok(), taken, "{arguments:?}");
        }
    }

    #[test]
    fn the_name_of_the_node_is_trimmed_and_in_lower_case() {
        for (given, expected) in [("Node-A.Example", "node-a.example"), (" b\n", "b")] {
            let line = Line::try_parse_from(["agent", "--node", given]).unwrap();
            assert_eq!(line.source.node().unwrap(), expected);
        }
        let line = Line::try_parse_from(["agent", "--node", "  "]).unwrap();
        let said = line.source.node().unwrap_err().to_string();
        assert!(said.contains("--node"), "{said}");
    }

    #[test]
    fn several_ways_to_the_api_server_are_taken_in_their_order() {
        let line = ["agent", "--api-server", "https://a:1,https://b:2", "--api-server=https://c:3"];
        let line = Line::try_parse_from(line).unwrap();
        let ports: Vec<u16> =
            line.source.api_servers.iter().map(|server| server.port_u16().unwrap()).collect();
        assert_eq!(ports, [1, 2, 3]);
    }

    #[test]
    fn ranges_of_node_port_addresses_are_given_in_one_list() {
        let line = ["agent", "--node-port-addresses", "10.0.0.0/8,fd00::/8"];
        let line = Line::try_parse_from(line).unwrap();
        assert_eq!(line.source.node_port_addresses.len(), 2);
    }
}
