//! The chart's values: what each of them changes, and which are refused.

use std::fs;

use serde_json::{Value, json};
use svclb_tests::cluster::documents;

use super::helm::{EVERY_VALUE, Helm, OLDEST, text};
use super::rendered::{of_kind, workspace};

#[test]
fn helm_lints_the_chart_strictly_without_a_warning() {
    for helm in Helm::all() {
        for flags in [String::new(), "--set uninstall=true".to_owned(), helm.values(EVERY_VALUE)] {
            let line = format!("helm lint charts/svclb --strict --kube-version {OLDEST} {flags}");
            let output = helm.shell(&line).output().unwrap();
            let text = text(&output);
            let is_clean = !text.contains("[WARNING]") && !text.contains("[ERROR]");
            assert!(output.status.success() && is_clean, "{}: {line}:\n{text}", helm.name);
        }
    }
}

#[test]
fn the_chart_is_for_the_kubernetes_versions_that_have_what_it_needs() {
    for helm in Helm::all() {
        let error = helm.try_template_for("1.20.15", "").unwrap_err();
        assert!(error.contains(">=1.21.0-0"), "{error}");
        // As clouds name theirs.
        helm.try_template_for("1.33.1-gke.100", "").unwrap();
    }
    let chart = fs::read_to_string(workspace().join("charts/svclb/Chart.yaml")).unwrap();
    let chart = &documents(&chart)[0];
    for field in ["version", "appVersion"] {
        assert_eq!(chart[field], env!("CARGO_PKG_VERSION"), "{field}");
    }
}

#[test]
fn every_value_reaches_the_field_that_it_is_for() {
    const AGENT: &str = "/spec/template/spec/containers/0";
    let image = "registry.example.org/svclb:1.2.3@sha256:";
    let servers = "https://10.0.0.1:443,https://api.example.org:443,https://[fd00::1]:443";
    for helm in Helm::all() {
        let objects = helm.template(&helm.values(EVERY_VALUE));
        let set = of_kind(&objects, "DaemonSet");
        let agent = set.pointer(AGENT).unwrap();
        assert!(agent["image"].as_str().unwrap().starts_with(image), "{agent}");
        let arguments = [
            "agent",
            &format!("--api-server={servers}"),
            "--metrics-address=[::]:9000",
            "--health-address=0.0.0.0:9001",
            "--log-format=json",
        ];
        let pod = &set["spec"]["template"];
        let selector = json!({
            "app.kubernetes.io/name": "balancer",
            "app.kubernetes.io/instance": "svclb",
            "app.kubernetes.io/component": "agent",
        });
        let monitor = &of_kind(&objects, "PodMonitor");
        let binding = &of_kind(&objects, "ClusterRoleBinding");
        let account = &of_kind(&objects, "ServiceAccount")["metadata"];
        for (value, expected) in [
            (&set["metadata"]["name"], json!("balancer")),
            (&set["spec"]["selector"]["matchLabels"], selector.clone()),
            (&set["spec"]["updateStrategy"]["rollingUpdate"]["maxUnavailable"], json!(3)),
            (&agent["imagePullPolicy"], json!("Always")),
            (&agent["args"], json!(arguments)),
            (&agent["env"][3], json!({"name": "RUST_LOG", "value": "debug"})),
            (&agent["ports"][0]["containerPort"], json!(9000)),
            (&agent["livenessProbe"]["httpGet"]["host"], json!("127.0.0.1")),
            (&agent["livenessProbe"]["httpGet"]["port"], json!(9001)),
            (&agent["volumeMounts"][2], json!({"name": "more", "mountPath": "/more"})),
            (&agent["resources"]["limits"]["memory"], json!("3Gi")),
            (&pod["metadata"]["annotations"]["example.org/note"], json!("pod")),
            (&pod["metadata"]["labels"]["example.org/team"], json!("network")),
            (&pod["spec"]["imagePullSecrets"], json!([{"name": "registry"}])),
            (&pod["spec"]["initContainers"][0]["image"], agent["image"].clone()),
            (&pod["spec"]["initContainers"][0]["imagePullPolicy"], json!("Always")),
            (&pod["spec"]["volumes"][2], json!({"name": "more", "emptyDir": {}})),
            (&pod["spec"]["securityContext"]["seccompProfile"]["type"], json!("Localhost")),
            (&pod["spec"]["securityContext"]["seLinuxOptions"]["type"], json!("spc_t")),
            (&pod["spec"]["priorityClassName"], json!("system-cluster-critical")),
            (&pod["spec"]["tolerations"][0]["key"], json!("example.org/gpu")),
            (&pod["spec"]["nodeSelector"]["example.org/pool"], json!("blue")),
            (&pod["spec"]["nodeSelector"]["kubernetes.io/os"], json!("linux")),
            (&pod["spec"]["serviceAccountName"], json!("balancer-agent")),
            (&account["name"], json!("balancer-agent")),
            (&account["annotations"]["example.org/note"], json!("account")),
            (&binding["subjects"][0]["name"], json!("balancer-agent")),
            (&binding["metadata"]["name"], json!("balancer")),
            (&binding["roleRef"]["name"], json!("balancer")),
            (&monitor["spec"]["selector"]["matchLabels"], selector.clone()),
            (&monitor["metadata"]["labels"]["release"], json!("prometheus")),
            (&monitor["spec"]["podMetricsEndpoints"][0]["interval"], json!("15s")),
        ] {
            assert_eq!(value, &expected, "{}:\n{set:#}", helm.name);
        }
        assert!(pod["spec"]["affinity"]["nodeAffinity"].is_object(), "{pod}");

        // Values whose other cases differ. The field is one of the DaemonSet.
        let label = "/spec/template/metadata/labels/app.kubernetes.io~1name";
        for (flags, field, expected) in [
            ("image.tag=1.2.3", "/image", json!("localhost/svclb:1.2.3")),
            ("image.digest=sha256:DIGEST", "/image", json!("localhost/svclb@sha256:DIGEST")),
            ("k8sServiceHost=fd00::1", "/args/1", json!("--api-server=https://[fd00::1]:6443")),
            ("metrics.address=none", "/args/1", json!("--metrics-address=none")),
            ("metrics.address=none", "/ports", Value::Null),
            ("health.address=[::]:1", "/livenessProbe/httpGet/host", json!("::1")),
            ("health.address=10.0.0.1:1", "/livenessProbe/httpGet/host", json!("10.0.0.1")),
            ("health.address=none", "/livenessProbe", Value::Null),
            ("health.address=none", "/args/1", json!("--health-address=none")),
            (r"podLabels.app\.kubernetes\.io/name=x", label, json!("svclb")),
            (
                "serviceAccount.create=false",
                "/spec/template/spec/serviceAccountName",
                json!("default"),
            ),
            ("rbac.create=false", "/metadata/name", json!("svclb")),
            ("global.example=1", "/metadata/name", json!("svclb")),
        ] {
            let digest = "0123456789abcdef".repeat(4);
            let objects = helm.template(&format!("--set '{}'", flags.replace("DIGEST", &digest)));
            let set = of_kind(&objects, "DaemonSet");
            let field = match field.starts_with("/spec") || field.starts_with("/metadata") {
                true => field.to_owned(),
                false => format!("{AGENT}{field}"),
            };
            let found = set.pointer(&field).cloned().unwrap_or(Value::Null);
            let expected = expected.to_string().replace("DIGEST", &digest);
            assert_eq!(found.to_string(), expected, "{} {flags}: {field}", helm.name);
            let kinds = |kind: &str| objects.iter().filter(|it| it["kind"] == kind).count();
            let roles = kinds("ClusterRole") + kinds("ClusterRoleBinding");
            assert_eq!(roles, if flags == "rbac.create=false" { 0 } else { 2 }, "{flags}");
            let accounts = usize::from(flags != "serviceAccount.create=false");
            assert_eq!(kinds("ServiceAccount"), accounts, "{flags}");
        }
    }
}

#[test]
fn a_wrong_value_is_refused_by_its_name() {
    let rows = [
        ("unknown=1", "unknown"),
        ("image.version=1", "version"),
        ("metrics.podmonitor.enabled=true", "podmonitor"),
        ("resources.limit.memory=1Gi", "limit"),
        ("updateStrategy.rollingUpdate.maxSurge=1", "maxSurge"),
        ("image.tag=1", "/image/tag"),
        ("image.pullPolicy=always", "/image/pullPolicy"),
        ("mountBpffs=yes", "/mountBpffs"),
        ("extraArgs=--log-bpf", "/extraArgs"),
        ("tolerations[0].effect=noExecute", "/tolerations/0/effect"),
        ("k8sServiceHost=https://10.0.0.1", "/k8sServiceHost"),
        ("k8sServiceHost=10.0.0.1:6443", "/k8sServiceHost"),
        ("k8sServiceHost={10.0.0.1,10.0.0.2:6443}", "/k8sServiceHost/1"),
        ("k8sServicePort=0", "/k8sServicePort"),
        ("k8sServicePort=https", "/k8sServicePort"),
        ("metrics.address=:9000", "/metrics/address"),
        ("health.address=localhost:9001", "/health/address"),
        ("metrics.podMonitor.interval=fast", "/metrics/podMonitor/interval"),
        // No schema's doing: an agent that Prometheus cannot reach.
        ("metrics.podMonitor.enabled=true", "metrics.address"),
        ("metrics.podMonitor.enabled=true,metrics.address=none", "metrics.address"),
        ("metrics.podMonitor.enabled=true,metrics.address=127.0.0.1:9000", "metrics.address"),
        ("metrics.podMonitor.enabled=true,metrics.address=[::1]:9000", "metrics.address"),
    ];
    for helm in Helm::all() {
        for (flags, name) in rows {
            let error = helm.try_template(&format!("--set '{flags}'"));
            let error = error.expect_err(flags);
            assert!(error.contains(name), "{} {flags}: {error}", helm.name);
        }
    }
}
