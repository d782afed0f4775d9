//! Names of Services as the API server accepts them: DNS labels, which may begin with a digit (Kubernetes
//! 1.34 to 1.36 behind the gate `RelaxedServiceNameValidation`, always since 1.37).

use serde_json::json;
use svclb_tests::cluster::{ControlPlane, Kubelet};
use svclb_tests::{Tcp, eventually};

use super::stage::{NODE, Stage, backends, frontends, service, slice};

#[test]
fn services_with_names_that_look_like_numbers_are_served() {
    let stage = Stage::on("kube-names", ControlPlane::new("kube-names"));
    let api = stage.api();
    let kubelet = Kubelet::new(&stage.plane, NODE, "zone-a", 1);
    // The EndpointSlice controller creates the slice of this Service, and names it after the Service.
    let pod = kubelet.pod("default/a", "hello");
    pod.set_ready(true);
    let _backend = stage.world.backend("a", Tcp, &pod.at(8080).to_string());
    let mut selecting = service("8080", "10.96.0.20");
    selecting["spec"]["selector"] = json!({ "app": "hello" });
    selecting["spec"]["ports"][0]["targetPort"] = json!(8080);
    api.apply_all(&[selecting]);
    let longest = "9".repeat(63);
    let others = ["1-web", "10-96-0-1", "012", "0x1f", "1e-3", &longest];
    for (name, host) in others.iter().zip(1_u8..) {
        let mut slice = slice(name, &[&format!("10.244.9.{host}")]);
        slice["metadata"]["name"] = json!(format!("s{host}"));
        api.apply_all(&[service(name, &format!("10.96.1.{host}")), slice]);
    }
    // Names that the API server rejects need no further test.
    for name in ["-1", "1-", "1.2", "1_2", &"9".repeat(64)] {
        let refused = api.create(&service(name, "")).unwrap_err();
        assert!(refused.to_string().contains("metadata.name"), "{name}: {refused}");
    }

    stage.start_agent();
    let is_served = |name: &str, frontend: &str, backend: &str| {
        eventually(&format!("{name} is served"), || {
            let found = (frontends(&stage.world, name), backends(&stage.world, name));
            let expected = ([frontend.to_owned()].into(), [backend.to_owned()].into());
            if found == expected { Ok(()) } else { Err(format!("{found:?}")) }
        });
    };
    is_served("8080", "10.96.0.20:80", &pod.at(8080).ip().to_string());
    assert_eq!(stage.world.request(Tcp, "10.96.0.20:80").unwrap(), "a");
    for (name, host) in others.iter().zip(1_u8..) {
        is_served(name, &format!("10.96.1.{host}:80"), &format!("10.244.9.{host}"));
    }
}
