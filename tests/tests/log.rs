//! `--log-bpf`: the hooks log their decisions, and log nothing without the flag.

use svclb_tests::{Tcp, Udp, World, eventually};

#[test]
fn with_log_bpf_the_hooks_log_their_decisions() {
    let world = World::builder("log").agent_args(["--log-bpf"]).start();
    let a = world.backend("a", Tcp, "10.244.0.1:8080");
    world.service("default/hello").cluster_ip("10.96.0.10").port(80, Tcp).backends([&a]).apply();
    world.service("default/empty").cluster_ip("10.96.0.11").port(80, Udp).apply();
    assert_eq!(world.request(Tcp, "10.96.0.10:80").unwrap(), "a");
    world.request(Udp, "10.96.0.11:80").unwrap_err();
    assert_eq!(world.request(Tcp, "10.244.0.1:8080").unwrap(), "a");
    // Addresses as in the maps: IPv4 is v4-mapped.
    for expected in [
        "connect: ::ffff:10.96.0.10:80 becomes ::ffff:10.244.0.1:8080",
        "connect: ::ffff:10.96.0.11:80 refused",
        "connect: ::ffff:10.244.0.1:8080 left alone",
    ] {
        eventually(expected, || {
            let log = world.agent_log();
            if log.contains(expected) { Ok(()) } else { Err(format!("the log is:\n{log}")) }
        });
    }
}

#[test]
fn without_log_bpf_the_hooks_log_nothing() {
    let world = World::new("silent");
    let a = world.backend("a", Tcp, "10.244.0.1:8080");
    world.service("default/hello").cluster_ip("10.96.0.10").port(80, Tcp).backends([&a]).apply();
    assert_eq!(world.request(Tcp, "10.96.0.10:80").unwrap(), "a");
    world.settle();
    assert!(!world.agent_log().contains("becomes"), "{}", world.agent_log());
}

#[test]
fn control_characters_of_objects_and_files_are_escaped_in_all_output() {
    // Sequences that clear the screen, set a title, end a line, reverse the text direction, colour, and
    // hide.
    const HOSTILE: &str =
        "\\e[2J\\e]0;owned\\a\\r\\nERROR all is lost\\x9b31m\\u202e\\u2028\\u200b\\e[31m\\e[8m";
    for format in ["text", "json"] {
        // The cgroup has the world's name, which the agent logs in a field.
        let name = format!("hostile\u{1b}[31m\u{1b}[8m-{format}");
        let world = World::builder(&name).agent_args(["--log-format", format]).start();
        let document = |kind: &str, spec: &str| {
            format!(
                "---\n{{apiVersion: v1, kind: {kind}, metadata: {{name: \"a{HOSTILE}\", \
                 namespace: \"b{HOSTILE}\", labels: {{\"c{HOSTILE}\": \"d{HOSTILE}\"}}}}, {spec}}}\n"
            )
        };
        let port = format!("{{name: \"e{HOSTILE}\", port: 80}}");
        let service = format!("spec: {{clusterIP: 10.96.0.66, ports: [{port}]}}");
        let text = [
            document("Service", &service),
            document("Service", "spec: {clusterIP: \"f\\e[2J\", ports: [{port: 80}]}"),
            document("Node", "status: {addresses: [{type: InternalIP, address: \"g\\e[2J\"}]}"),
            format!(
                "---\n{{apiVersion: v1, kind: Service, metadata: {{name: good, labels: \
                     {{\"c\": \"{HOSTILE}\"}}}}, spec: {{clusterIP: 10.96.0.10, ports: [{port}]}}}}\n"
            ),
            "---\n\"\\e[2J\": [\n".to_owned(),
        ];
        world.write_file("hostile\u{1b}[2J\u{202e}.yaml", &text.concat());
        eventually("the objects are rejected", || {
            let log = world.agent_log();
            if log.contains("stays") && log.contains("hostile") { Ok(()) } else { Err(log) }
        });
        world.settle();
        let mut output_text = world.agent_log();
        for command in ["services", "backends", "sockets", "affinity", "top", "status", "check"] {
            for output in ["table", "json", "yaml"] {
                let shown = world.svclb(&[command, "-o", output]);
                output_text += &String::from_utf8(shown.stdout).unwrap();
                output_text += &String::from_utf8(shown.stderr).unwrap();
            }
        }
        let is_interpreted =
            |c: char| (c.is_control() && c != '\n') || "\u{202e}\u{2028}\u{200b}".contains(c);
        assert!(
            output_text.contains("cgroup") && output_text.contains("u{1b}[31m"),
            "{output_text:?}"
        );
        let found: Vec<char> = output_text.chars().filter(|c| is_interpreted(*c)).collect();
        assert!(found.is_empty(), "{found:?} in {output_text:?}");
        assert!(
            !output_text.lines().any(|line| line.starts_with("ERROR all is lost")),
            "{output_text}"
        );
    }
}
