//! `svclb plan` and `svclb diff` as processes where nothing is installed, and where a source does not answer.
#![expect(clippy::unwrap_used, reason = "a failure in a helper fails the test, with its reason")]

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output};

/// A Service with one backend.
const WEB: &str = r#"{"apiVersion":"v1","kind":"List","items":[
{"apiVersion":"v1","kind":"Service","metadata":{"name":"web","namespace":"shop"},
"spec":{"clusterIP":"10.96.0.10","ports":[{"port":80}]}},
{"apiVersion":"discovery.k8s.io/v1","kind":"EndpointSlice","metadata":{"name":"web","namespace":"shop",
"labels":{"kubernetes.io/service-name":"web"}},"addressType":"IPv4","ports":[{"port":8080}],
"endpoints":[{"addresses":["10.244.0.1"]}]}]}"#;

/// Runs a command over pins that do not exist.
fn svclb(folder: &Path, arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_svclb"));
    command.args(arguments).arg("--pins").arg(folder.join("none"));
    let Output { status, stdout, stderr } = command.output().unwrap();
    let [stdout, stderr] = [stdout, stderr].map(|text| String::from_utf8(text).unwrap());
    (status.code(), stdout, stderr)
}

#[test]
fn where_nothing_is_installed_everything_is_added_and_nothing_is_made() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("web.json");
    fs::write(&file, WEB).unwrap();
    let from = file.to_str().unwrap();
    let (code, stdout, stderr) = svclb(folder.path(), &["plan", "--from", from]);
    assert_eq!((code, stderr.as_str()), (Some(0), ""), "{stdout}");
    let expected = [
        "no maps are installed in ",
        "added shop/web:/TCP: frontends +10.96.0.10:80; backends +10.244.0.1:8080",
        "services: 1 added, 0 changed, 0 removed; steps: ",
    ];
    assert_eq!(stdout.lines().count(), expected.len(), "{stdout}");
    for (line, expected) in stdout.lines().zip(expected) {
        assert!(line.starts_with(expected), "{line}");
    }
    let (code, stdout, stderr) = svclb(folder.path(), &["diff", "--from", from]);
    let expected = "\
+ shop/web:/TCP
+ shop/web:/TCP frontend 10.96.0.10:80
+ shop/web:/TCP backend 10.244.0.1:8080: ready in internal
";
    assert_eq!((code, stdout.as_str(), stderr.as_str()), (Some(1), expected, ""));
    let (code, stdout, _) = svclb(folder.path(), &["diff", "--from", from, "-o", "json"]);
    let rows: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((code, rows.as_array().map(Vec::len)), (Some(1), Some(3)));
    let expected = serde_json::json!({
        "namespace": "shop", "name": "web", "port_name": "", "protocol": "TCP",
        "change": "added", "kind": "frontend", "subject": "10.96.0.10:80",
        "actual": "", "desired": "shop/web:/TCP",
    });
    assert_eq!(rows[1], expected);
    assert!(!folder.path().join("none").exists(), "no folder of pins is made");
}

#[test]
fn source_without_an_answer_is_an_error_that_names_it_after_the_given_time() {
    let folder = tempfile::tempdir().unwrap();
    // It takes connections and answers nothing; the other one refuses them.
    let (silent, closed) =
        (TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
    let [silent_at, closed_at] = [&silent, &closed].map(|it| it.local_addr().unwrap().to_string());
    drop(closed);
    for (server, words) in [(&silent_at, "services"), (&closed_at, "services (")] {
        let config = folder.path().join("config");
        let text = format!(
            "{{apiVersion: v1, kind: Config, current-context: c, \
             clusters: [{{name: c, cluster: {{server: 'http://{server}'}}}}], \
             users: [{{name: c, user: {{}}}}], \
             contexts: [{{name: c, context: {{cluster: c, user: c}}}}]}}"
        );
        fs::write(&config, text).unwrap();
        for (command, expected) in [("plan", 1), ("diff", 2)] {
            let config = config.to_str().unwrap();
            let arguments = [command, "--kubeconfig", config, "--timeout", "1"];
            let (code, stdout, stderr) = svclb(folder.path(), &arguments);
            assert_eq!((code, stdout.as_str()), (Some(expected), ""), "{stderr}");
            assert_eq!(stderr.lines().count(), 1, "{stderr}");
            for word in ["within 1 s", "--timeout", server, words, "endpointslices", "nodes"] {
                assert!(stderr.contains(word), "{word}: {stderr}");
            }
        }
    }
}

#[test]
fn path_that_does_not_exist_is_an_error_and_not_an_empty_source() {
    let folder = tempfile::tempdir().unwrap();
    for (command, expected) in [("plan", 1), ("diff", 2)] {
        let (code, stdout, stderr) = svclb(folder.path(), &[command, "--from", "/no/such/folder"]);
        assert_eq!((code, stdout.as_str()), (Some(expected), ""));
        assert!(stderr.contains("/no/such/folder"), "{stderr}");
    }
}

#[test]
fn the_configuration_file_names_the_source_for_each_of_them() {
    let folder = tempfile::tempdir().unwrap();
    let (file, config) = (folder.path().join("web.json"), folder.path().join("config.yaml"));
    fs::write(&file, WEB).unwrap();
    let head = "apiVersion: svclb.dev/v1alpha1\nkind: AgentConfiguration\n";
    fs::write(&config, format!("{head}from: [{}]\n", file.display())).unwrap();
    let config = config.to_str().unwrap();
    for (command, code, word) in [
        (&["plan"][..], 0, "added shop/web:/TCP"),
        (&["diff"], 1, "+ shop/web:/TCP"),
        (&["trace", "shop/web"], 1, "  10.244.0.1:8080 used: ready"),
    ] {
        let arguments = [command, &["--config", config]].concat();
        let (found, stdout, stderr) = svclb(folder.path(), &arguments);
        assert_eq!((found, stderr.as_str()), (Some(code), ""), "{command:?}: {stdout}");
        assert!(stdout.contains(word), "{command:?}: {stdout}");
    }
    fs::write(config, format!("{head}form: [a]\n")).unwrap();
    for (command, code) in [(&["plan"][..], 1), (&["diff"], 2), (&["trace", "shop/web"], 2)] {
        let arguments = [command, &["--config", config]].concat();
        let (found, stdout, stderr) = svclb(folder.path(), &arguments);
        assert_eq!((found, stdout.as_str()), (Some(code), ""), "{command:?}");
        assert!(stderr.contains("config.yaml:3: unknown field `form`"), "{command:?}: {stderr}");
    }
}
