//! The program Helm, in both releases that are in use.

use std::fs;
use std::process::{Command, Output};

use serde_json::Value;
use svclb_tests::cluster::{component, documents};
use tempfile::TempDir;

use super::rendered::workspace;

/// The programs.
const PROGRAMS: [&str; 2] = ["helm3", "helm4"];
/// The oldest Kubernetes for which the chart may be used.
pub(super) const OLDEST: &str = "1.21.0";
/// The namespace of manifests/.
pub(super) const NAMESPACE: &str = "kube-system";
/// Every value, other than its default where all objects of the agent are still rendered. The tests of
/// [`super::options`] show where each of them goes.
pub(super) const EVERY_VALUE: &str = "
nameOverride: balancer
fullnameOverride: balancer
image: { repository: registry.example.org/svclb, tag: 1.2.3, digest: DIGEST, pullPolicy: Always }
imagePullSecrets: [{ name: registry }]
k8sServiceHost: [10.0.0.1, api.example.org, 'fd00::1']
k8sServicePort: 443
mountBpffs: true
metrics: { address: '[::]:9000', podMonitor: { enabled: true, labels: { release: prometheus }, interval: 15s } }
health: { address: '0.0.0.0:9001' }
extraArgs: [--log-format=json]
extraEnv: [{ name: RUST_LOG, value: debug }]
extraVolumes: [{ name: more, emptyDir: {} }]
extraVolumeMounts: [{ name: more, mountPath: /more }]
resources: { requests: { cpu: 20m, memory: 128Mi }, limits: { memory: 3Gi } }
podAnnotations: { example.org/note: pod }
podLabels: { example.org/team: network }
podSecurityContext: { seccompProfile: { type: Localhost, localhostProfile: svclb.json } }
priorityClassName: system-cluster-critical
tolerations: [{ key: example.org/gpu, operator: Equal, value: 'true', effect: NoSchedule }]
nodeSelector: { example.org/pool: blue }
affinity:
  nodeAffinity:
    requiredDuringSchedulingIgnoredDuringExecution:
      nodeSelectorTerms: [{ matchExpressions: [{ key: example.org/edge, operator: DoesNotExist }] }]
updateStrategy: { type: RollingUpdate, rollingUpdate: { maxUnavailable: 3 } }
serviceAccount: { create: true, name: balancer-agent, annotations: { example.org/note: account } }
rbac: { create: true }
uninstall: false
";

/// One release of Helm, with an empty home.
pub(super) struct Helm {
    pub(super) name: &'static str,
    home: TempDir,
}

impl Helm {
    pub(super) fn all() -> [Self; 2] {
        PROGRAMS.map(|name| {
            let prefix = format!("svclb-test-{}-helm-", std::process::id());
            let home = tempfile::Builder::new().prefix(&prefix).tempdir().unwrap();
            for (program, command) in [(name, "helm"), ("kubectl", "kubectl")] {
                let link = home.path().join(command);
                std::os::unix::fs::symlink(component(program), link).unwrap();
            }
            Self { name, home }
        })
    }

    /// A command line for the shell, with `helm` and `kubectl` in its path, run at the root of this checkout.
    pub(super) fn shell(&self, line: &str) -> Command {
        let mut command = Command::new("bash");
        command.args(["-c", line]).current_dir(workspace()).env_clear();
        command.env("PATH", format!("{}:/usr/bin:/bin", self.home.path().display()));
        command.env("HOME", self.home.path());
        command
    }

    /// A file of values.
    pub(super) fn values(&self, yaml: &str) -> String {
        let digest = format!("sha256:{}", "0123456789abcdef".repeat(4));
        let path = self.home.path().join("values.yaml");
        fs::write(&path, yaml.replace("DIGEST", &digest)).unwrap();
        format!("--values {}", path.display())
    }

    /// Renders the chart with flags. An error is what Helm prints.
    pub(super) fn try_template(&self, flags: &str) -> Result<Vec<Value>, String> {
        self.try_template_for(OLDEST, flags)
    }

    pub(super) fn try_template_for(
        &self,
        kubernetes: &str,
        flags: &str,
    ) -> Result<Vec<Value>, String> {
        let line = format!(
            "helm template svclb charts/svclb --namespace {NAMESPACE} --kube-version {kubernetes} {flags}"
        );
        let output = self.shell(&line).output().unwrap();
        let stdout = String::from_utf8(output.stdout).unwrap();
        match output.status.success() {
            true => Ok(documents(&stdout)),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    }

    pub(super) fn template(&self, flags: &str) -> Vec<Value> {
        let rendered = self.try_template(flags);
        rendered.unwrap_or_else(|error| panic!("{} template {flags}: {error}", self.name))
    }
}

/// All that a program has printed.
pub(super) fn text(output: &Output) -> String {
    let (stdout, stderr) = (&output.stdout, &output.stderr);
    format!("{}{}", String::from_utf8_lossy(stdout), String::from_utf8_lossy(stderr))
}
