//! Exec plugins of a kubeconfig that hang, fail, print without end or leave processes behind, at a start and
//! at a renewal. The plugins are shell scripts, the API server is a few lines, and the guard is the program.
#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests: what fails in them fails the test, with its reason"
)]

mod guard;
mod stage;

use std::fs;
use std::time::Duration;

use serde_json::{Value, json};
use stage::{Stage, are_gone};

/// Leaves the credentials in `token` and `expires` of the plugin's folder.
const GIVES: &str = r#"
token=$(cat "$0/token")
expires=$(cat "$0/expires" 2>/dev/null)
echo '{"apiVersion":"client.authentication.k8s.io/v1","kind":"ExecCredential","status":{"token":"'$token'"'
test -z "$expires" || echo ',"expirationTimestamp":"'$expires'"'
echo '}}'
"#;

/// Hangs while there is a file `hang`, with a child, and with an orphan in a session of its own; both hold
/// standard output.
const HANGS: &str = r#"
echo run >> "$0/runs"
echo $$ >> "$0/processes"
if test -e "$0/hang"; then
    ( setsid sleep 300 & echo $! >> "$0/processes" )
    sleep 301 & echo $! >> "$0/processes"
    wait
fi
"#;

const LONG_AGO: &str = "2001-01-01T00:00:00Z";

#[test]
fn renewal_that_hangs_is_ended_and_a_later_good_run_is_used() {
    let mut stage = Stage::new("renewal", &format!("{HANGS}{GIVES}"));
    stage.limits.deadline = Duration::from_millis(500);
    stage.write("token", "first");
    stage.write("expires", LONG_AGO);
    stage.server.accept("first");
    stage.run(async |stage, kube| {
        stage.until(kube, "the first token is used", || stage.server.count("first") > 3).await;
        stage.write("hang", "");
        stage.write("token", "second");
        stage.server.accept("second");
        let (runs, requests) = (stage.lines("runs").len(), stage.server.count("first"));
        stage.pass(kube, Duration::from_secs(4)).await;
        let more = || stage.lines("runs").len() - runs;
        assert!(more() <= 8, "one run at a time, and each waits for longer: {}", more());
        stage.until(kube, "it is run again", || more() >= 2).await;
        assert!(
            stage.server.count("first") > requests + 3,
            "the token that was given stays in use"
        );
        assert_eq!(stage.server.count("second"), 0);
        assert!(stage.threads() <= 1, "{} threads", stage.threads());
        assert_eq!(stage.log("gave no credentials within 0.5 s").len(), 1, "{:#?}", stage.log(""));
        fs::remove_file(stage.path("hang")).unwrap();
        stage.until(kube, "the second token is used", || stage.server.count("second") > 3).await;
    });
    let processes = stage.lines("processes");
    assert!(processes.len() > 6, "{processes:?}");
    assert!(are_gone(&processes), "no process of a plugin stays: {processes:?}");
}

#[test]
fn start_with_a_plugin_that_hangs_goes_on_once_it_gives_a_token() {
    let mut stage = Stage::new("start", &format!("{HANGS}{GIVES}"));
    stage.limits.deadline = Duration::from_millis(500);
    stage.write("hang", "");
    stage.write("token", "token");
    stage.server.accept("token");
    stage.run(async |stage, kube| {
        stage.pass(kube, Duration::from_secs(3)).await;
        assert!(stage.lines("runs").len() <= 8, "{:?}", stage.lines("runs"));
        stage.until(kube, "it is run again", || stage.lines("runs").len() >= 2).await;
        assert_eq!(stage.server.all(), 0, "nothing is asked for without a token");
        assert!(stage.threads() <= 1, "{} threads", stage.threads());
        let log = stage.log("gave no credentials within 0.5 s");
        assert_eq!(log.len(), 1, "{:#?}", stage.log(""));
        assert!(log[0].contains("the exec plugin") && log[0].contains("by hand"), "{log:?}");
        fs::remove_file(stage.path("hang")).unwrap();
        stage.until(kube, "the token is used", || stage.server.count("token") > 3).await;
        assert!(stage.batches.get() > 0, "all was listed");
    });
    let processes = stage.lines("processes");
    assert!(are_gone(&processes), "no process of a plugin stays: {processes:?}");
}

#[test]
fn plugin_that_fails_is_run_again_with_growing_waits_and_the_log_says_why() {
    let fails =
        r#"echo run >> "$0/runs"; test -e "$0/token" || { echo "no \033[31mlogin" >&2; exit 3; };"#;
    let stage = Stage::new("fails", &format!("{fails}{GIVES}"));
    stage.server.accept("token");
    stage.run(async |stage, kube| {
        stage.pass(kube, Duration::from_secs(6)).await;
        assert!(stage.lines("runs").len() <= 8, "{:?}", stage.lines("runs"));
        stage.until(kube, "it is run again", || stage.lines("runs").len() >= 2).await;
        let log = stage.log("ended with exit code 3: no ");
        assert_eq!(log.len(), 1, "{:#?}", stage.log(""));
        assert!(!log[0].contains('\u{1b}'), "{log:?}");
        stage.write("token", "token");
        stage.until(kube, "the token is used", || stage.server.count("token") > 3).await;
    });
}

#[test]
fn refused_token_is_renewed_and_a_token_that_lasts_is_not() {
    let stage = Stage::new("refused", &format!("{HANGS}{GIVES}"));
    stage.write("token", "first");
    stage.server.accept("first");
    stage.run(async |stage, kube| {
        stage.until(kube, "the first token is used", || stage.server.count("first") > 12).await;
        assert_eq!(stage.lines("runs").len(), 1);
        stage.write("token", "second");
        stage.server.refuse("first");
        stage.server.accept("second");
        stage.until(kube, "the second token is used", || stage.server.count("second") > 6).await;
        assert!(stage.lines("runs").len() <= 3, "{:?}", stage.lines("runs"));
    });
}

#[test]
fn plugin_that_prints_without_end_is_ended_at_once() {
    for (row, prints) in [("output", "yes"), ("errors", "yes >&2")] {
        let mut stage = Stage::new(row, &format!("echo $$ >> \"$0/processes\"; {prints}"));
        stage.limits.deadline = Duration::from_secs(60);
        stage.run(async |stage, kube| {
            let said = || !stage.log("more than 1048576 bytes").is_empty();
            stage.until(kube, "the log says it", said).await;
            let all = stage.log("").join("\n");
            assert!(all.len() < 10_000, "{row}: {all}");
        });
        let processes = stage.lines("processes");
        assert!(are_gone(&processes), "{row}: {processes:?}");
    }
}

#[test]
fn processes_that_a_good_run_leaves_are_ended() {
    let leaves = r#"( setsid sleep 300 & echo $! >> "$0/processes" )"#;
    let stage = Stage::new("leaves", &format!("{leaves}\n{GIVES}"));
    stage.write("token", "token");
    stage.server.accept("token");
    stage.run(async |stage, kube| {
        stage.until(kube, "the token is used", || stage.server.count("token") > 3).await;
    });
    let processes = stage.lines("processes");
    assert_eq!(processes.len(), 1);
    assert!(are_gone(&processes), "{processes:?}");
}

#[test]
fn plugin_gets_what_the_kubeconfig_says_and_may_print_yaml() {
    let script = r#"
echo "$SHOP" > "$0/shop"; echo "$KUBERNETES_EXEC_INFO" > "$0/info"
echo "$1 $2" > "$0/arguments"; cat > "$0/input"
echo 'status:'; echo '  token: token'
"#;
    for (version, provides) in [("v1", true), ("v1beta1", false)] {
        let version = format!("client.authentication.k8s.io/{version}");
        let mut stage = Stage::new("gets", script);
        stage.server.accept("token");
        stage.change(|exec| {
            exec["apiVersion"] = json!(version);
            exec["provideClusterInfo"] = json!(provides);
            exec["env"] = json!([{ "name": "SHOP", "value": "open" }]);
            exec["args"].as_array_mut().unwrap().extend([json!("--a"), json!("b c")]);
        });
        stage.run(async |stage, kube| {
            stage.until(kube, "the token is used", || stage.server.count("token") > 3).await;
        });
        let read = |name| fs::read_to_string(stage.path(name)).unwrap();
        assert_eq!(read("shop"), "open\n");
        assert_eq!(read("arguments"), "--a b c\n");
        assert_eq!(read("input"), "", "no terminal input was expected");
        let info: Value = serde_json::from_str(&read("info")).unwrap();
        assert_eq!(info["kind"], "ExecCredential");
        assert_eq!(info["apiVersion"], version);
        assert_eq!(info["spec"]["interactive"], false);
        let server = &info["spec"]["cluster"]["server"];
        assert_eq!(server.as_str().is_some_and(|it| it.starts_with("http://127")), provides);
    }
}

#[test]
fn plugin_that_is_not_there_is_named_with_its_hint() {
    let mut stage = Stage::new("missing", "");
    stage.change(|exec| {
        exec["command"] = json!("/nowhere/svclb-login");
        exec["installHint"] = json!("get it from the shop");
    });
    stage.run(async |stage, kube| {
        let said = || !stage.log("get it from the shop").is_empty();
        stage.until(kube, "the log says it", said).await;
        let log = stage.log("get it from the shop");
        assert!(
            log[0].contains("/nowhere/svclb-login") && log[0].contains("No such file"),
            "{log:?}"
        );
    });
}
