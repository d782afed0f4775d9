//! The pods of the agents, and the choice of one.

use anyhow::{Result, bail};
use serde::Deserialize;

/// Labels of the agents' pods in the manifests and the chart.
pub(crate) const SELECTOR: &str = "app.kubernetes.io/name=svclb,app.kubernetes.io/component=agent";
/// The most nodes that an error names.
const NAMED: usize = 5;

/// The agents' pods.
#[derive(Debug, Deserialize)]
pub(crate) struct Agents {
    items: Vec<Pod>,
}

/// A pod, as far as it matters here.
#[derive(Debug, Deserialize)]
pub(crate) struct Pod {
    metadata: Metadata,
    #[serde(default)]
    spec: Spec,
    #[serde(default)]
    status: Status,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    name: String,
    deletion_timestamp: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    node_name: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
struct Status {
    #[serde(default)]
    phase: String,
}

impl Pod {
    pub(crate) fn name(&self) -> &str {
        &self.metadata.name
    }

    /// The node that it was given; none yet if there is none.
    pub(crate) fn node(&self) -> Option<&str> {
        self.spec.node_name.as_deref().filter(|node| !node.is_empty())
    }

    fn runs(&self) -> bool {
        self.status.phase == "Running"
    }

    fn is_leaving(&self) -> bool {
        self.metadata.deletion_timestamp.is_some()
    }
}

impl Agents {
    /// Chooses the agent of a node, or the only one that there is. During a rollout a node may have two: the
    /// one that stays.
    ///
    /// # Errors
    /// No agent runs there, or there are several nodes and none is named.
    pub(crate) fn choose(&self, node: Option<&str>, namespace: &str) -> Result<&Pod> {
        if self.items.is_empty() {
            bail!(
                "there is no pod of svclb in the namespace {namespace:?}; --namespace names another, and \
                 `kubectl get pods --all-namespaces --selector {SELECTOR}` finds them"
            );
        }
        let of_node = |pod: &&Pod| node.is_none() || pod.node() == node;
        let found: Vec<&Pod> = self.items.iter().filter(of_node).collect();
        let Some(first) = found.first() else {
            bail!(
                "no pod of svclb is on the node {:?}; {}",
                node.unwrap_or_default(),
                self.nodes()
            );
        };
        if found.iter().any(|pod| pod.node() != first.node()) {
            bail!("which node? {}; --node names one, and --pod the one of a pod", self.nodes());
        }
        let running = found.iter().filter(|pod| pod.runs());
        let Some(chosen) = running.min_by_key(|pod| pod.is_leaving()) else {
            let (pod, phase) = (first.name(), &first.status.phase);
            bail!(
                "the agent's pod {pod:?} does not run (phase {phase:?}); on the node itself the program \
                 svclb reads what the agent left"
            );
        };
        Ok(chosen)
    }

    /// The nodes with agents, a few of them by name.
    fn nodes(&self) -> String {
        let mut nodes: Vec<&str> = self.items.iter().filter_map(Pod::node).collect();
        nodes.sort_unstable();
        nodes.dedup();
        let named: Vec<String> = nodes.iter().take(NAMED).map(|node| format!("{node:?}")).collect();
        let more = if nodes.len() > NAMED { ", ..." } else { "" };
        format!("svclb is on {} nodes: {}{more}", nodes.len(), named.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, from_value, json};

    use super::*;

    fn pod(name: &str, node: &str, phase: &str) -> Value {
        json!({"metadata": {"name": name}, "spec": {"nodeName": node}, "status": {"phase": phase}})
    }

    fn leaving(name: &str, node: &str) -> Value {
        let mut pod = pod(name, node, "Running");
        pod["metadata"]["deletionTimestamp"] = "2026-01-31T12:00:00Z".into();
        pod
    }

    #[test]
    fn the_agent_of_a_node_is_the_one_that_runs_and_stays() {
        let one = || vec![pod("x", "a", "Running")];
        let two = || vec![pod("x", "a", "Running"), pod("y", "b", "Running")];
        let rollout = || vec![leaving("old", "a"), pod("new", "a", "Running")];
        let starting = || vec![leaving("old", "a"), pod("new", "a", "Pending")];
        let rows = [
            ("the only one", one(), None, Ok("x")),
            ("by node", two(), Some("b"), Ok("y")),
            ("several nodes", two(), None, Err("which node? svclb is on 2 nodes: \"a\", \"b\"")),
            ("no such node", two(), Some("c"), Err("no pod of svclb is on the node \"c\"")),
            ("no agent", vec![], None, Err("no pod of svclb in the namespace \"kube-system\"")),
            ("a rollout", rollout(), Some("a"), Ok("new")),
            ("a rollout, of a cluster of one node", rollout(), None, Ok("new")),
            ("the new one does not run yet", starting(), None, Ok("old")),
            (
                "it does not run",
                vec![pod("x", "a", "Pending")],
                Some("a"),
                Err("the agent's pod \"x\" does not run (phase \"Pending\")"),
            ),
            ("not scheduled", vec![json!({"metadata": {"name": "x"}})], Some("a"), Err("0 nodes")),
        ];
        for (row, items, node, expected) in rows {
            let agents: Agents = from_value(json!({"items": items})).unwrap();
            match (agents.choose(node, "kube-system"), expected) {
                (Ok(pod), Ok(expected)) => assert_eq!(pod.name(), expected, "{row}"),
                (Err(error), Err(expected)) => {
                    assert!(error.to_string().contains(expected), "{row}: {error}");
                }
                (other, _) => panic!("{row}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_name_with_control_characters_is_shown_escaped() {
        let agents: Agents =
            from_value(json!({"items": [pod("x", "a\u{1b}[2J", "Running")]})).unwrap();
        let error = agents.choose(Some("b"), "kube-system").unwrap_err().to_string();
        assert!(!error.contains('\u{1b}'), "{error:?}");
    }
}
