//! `kubectl svclb`: runs a command of svclb in the agent's pod of a node, by the kubectl that started it.
//!
//! It has no client of its own: `kubectl get` finds the pod and `kubectl exec` runs the command, with the
//! credentials, the contexts and the proxies that kubectl knows.

mod agents;
mod kubectl;

use std::io::{IsTerminal as _, stdin, stdout};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result};
use clap::Parser;

use agents::{Agents, Pod};
use kubectl::Kubectl;

/// Runs a command of svclb, such as `services` or `check`, in the agent's pod of a node.
#[derive(Debug, Parser)]
#[command(name = "kubectl-svclb", bin_name = "kubectl svclb", version, after_help = EXAMPLES)]
struct Arguments {
    /// Ask the agent of this node
    #[arg(long, value_name = "NODE", conflicts_with = "pod")]
    node: Option<String>,
    /// Ask the agent of the node that this pod runs on
    #[arg(long, value_name = "[NAMESPACE/]POD")]
    pod: Option<String>,
    /// Namespace of the agents
    #[arg(short, long, default_value = "kube-system")]
    namespace: String,
    #[command(flatten)]
    kubectl: Kubectl,
    /// Command of svclb with its arguments; `help` lists them
    #[arg(value_name = "COMMAND", required = true, trailing_var_arg = true)]
    #[arg(allow_hyphen_values = true)]
    command: Vec<String>,
}

/// Shown below the list of flags.
const EXAMPLES: &str = "\
Flags of kubectl svclb come before the command; what follows it is the command's.
  kubectl svclb --pod shop/web-5b7 sockets
  kubectl svclb --node node-a check
  kubectl svclb --node node-a services -o json";

/// The agent's container, and svclb in it, as the manifests and the chart have them.
const CONTAINER: &str = "agent";
const PROGRAM: &str = "/svclb";

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // Mostly it does not return: the command takes the place of this process.
    match run(&arguments) {
        Ok(never) => match never {},
        Err(error) => {
            eprintln!("kubectl svclb: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<std::convert::Infallible> {
    let Arguments { node, pod, namespace, kubectl, command } = arguments;
    let node = match pod {
        Some(pod) => Some(node_of(kubectl, pod)?),
        None => node.clone(),
    };
    let agents: Agents = kubectl.get(Some(namespace), &["pods", "--selector", agents::SELECTOR])?;
    let agent = agents.choose(node.as_deref(), namespace)?;
    let mut exec = exec(kubectl, namespace, agent, command);
    Err(exec.exec()).with_context(|| kubectl::cannot_start(&exec))
}

/// Returns the node of a pod, which is in the namespace of the context unless it is named.
fn node_of(kubectl: &Kubectl, pod: &str) -> Result<String> {
    let (namespace, name) = match pod.split_once('/') {
        Some((namespace, name)) => (Some(namespace), name),
        None => (None, pod),
    };
    let found: Pod = kubectl.get(namespace, &[&format!("pods/{name}")])?;
    let node = found.node().with_context(|| format!("the pod {pod} is on no node yet"))?;
    Ok(node.to_owned())
}

fn exec(kubectl: &Kubectl, namespace: &str, agent: &Pod, command: &[String]) -> Command {
    let mut exec = kubectl.command(Some(namespace), "exec");
    if stdin().is_terminal() && stdout().is_terminal() {
        // As `svclb top` needs it.
        exec.args(["--stdin", "--tty"]);
    }
    exec.arg(format!("pods/{}", agent.name())).args(["--container", CONTAINER, "--", PROGRAM]);
    exec.args(command);
    exec
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn usage_is_that_of_a_kubectl_plugin() {
        let help = Arguments::command().render_help().to_string();
        assert!(help.contains("Usage: kubectl svclb [OPTIONS] <COMMAND>..."), "{help}");
    }

    #[test]
    fn what_follows_the_command_is_the_commands() {
        let line = ["kubectl-svclb", "--node", "a", "sockets", "--pod", "shop/web", "-n", "x"];
        let arguments = Arguments::parse_from(line);
        assert_eq!(arguments.command, ["sockets", "--pod", "shop/web", "-n", "x"]);
        assert_eq!((arguments.node.as_deref(), arguments.pod), (Some("a"), None));
        assert_eq!(arguments.namespace, "kube-system");
        Arguments::try_parse_from(["kubectl-svclb", "--node", "a"]).unwrap_err();
        let both = ["kubectl-svclb", "--node", "a", "--pod", "b", "check"];
        Arguments::try_parse_from(both).unwrap_err();
    }

    #[test]
    fn the_command_runs_in_the_agents_container() {
        let agent: Pod = serde_json::from_str(r#"{"metadata":{"name":"svclb-x"}}"#).unwrap();
        let arguments =
            Arguments::parse_from(["kubectl-svclb", "--context", "c", "status", "--ready"]);
        let exec = exec(&arguments.kubectl, "kube-system", &agent, &arguments.command);
        let words: Vec<_> = exec.get_args().map(|word| word.to_str().unwrap()).collect();
        let expected = "exec --context=c --namespace=kube-system pods/svclb-x --container agent \
            -- /svclb status --ready";
        assert_eq!(words.join(" "), expected);
    }
}
