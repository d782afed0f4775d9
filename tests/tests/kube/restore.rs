//! etcd is restored from a backup, so that the API server has an older state.

use super::stage::{Stage, service, slice};

/// The watches wait for versions that do not exist any more, and the API server sends nothing.
#[test]
fn silent_watch_after_a_restore_of_etcd_is_relisted() {
    let stage = Stage::new("kube-restore");
    let (plane, api) = (&stage.plane, stage.api());
    api.apply_all(&[service("hello", "10.96.0.10"), slice("hello", &["10.244.0.1"])]);
    plane.stop_api_server();
    plane.save_store();
    plane.start_api_server();
    stage.start_agent_as(&plane.kubeconfig(), &["--silence", "5"]);
    // It takes a while until versions as high as these are reached again.
    for last in 2..200 {
        api.apply_all(&[slice("hello", &[&format!("10.244.0.{last}")])]);
    }
    stage.wait_for(&["10.244.0.199"]);
    plane.stop_api_server();
    plane.restore_store();
    plane.start_api_server();
    stage.wait_for(&["10.244.0.1"]);
    // Later changes are applied.
    api.apply_all(&[slice("hello", &["10.244.0.7"])]);
    stage.wait_for(&["10.244.0.7"]);
    stage.wait_for_log(&["WARN", "endpointslices", "sends nothing on an open watch"]);
}
