//! The printed forms, word for word.

use super::super::affinity::AffinityView;
use super::super::schema::tests::faults;
use super::super::top::TopView;
use super::*;

fn services() -> Vec<ServiceView> {
    let service = |name: &str, port_name: &str, frontends: &[&str]| ServiceView {
        namespace: "default".into(),
        name: name.into(),
        port_name: port_name.into(),
        protocol: "TCP".into(),
        frontends: frontends.iter().map(|frontend| frontend.parse().unwrap()).collect(),
        internal: frontends.iter().take(2).map(|frontend| frontend.parse().unwrap()).collect(),
        external: frontends.iter().skip(4).map(|frontend| frontend.parse().unwrap()).collect(),
        node_ports: if frontends.len() > 2 { vec![30080] } else { Vec::new() },
        affinity_seconds: 0,
        notes: if frontends.is_empty() { vec!["conflict", "sctp"] } else { Vec::new() },
        internal_policy: "Cluster".into(),
        external_policy: "Cluster".into(),
        backends: 2,
        id: 7,
    };
    vec![
        service(
            "web",
            "",
            &[
                "10.96.0.10:80",
                "[fd00::10]:80",
                "127.0.0.1:30080",
                "192.0.2.5:30080",
                "198.51.100.1:80",
            ],
        ),
        service("a-longer-name", "http", &[]),
    ]
}

#[test]
fn a_table_has_plain_columns_two_blanks_apart() {
    let expected = "\
NAMESPACE  NAME           PORT  PROTOCOL  CLUSTER-IP                   EXTERNAL         NODE-PORT  BACKENDS  NOTES          ID
default    web                  TCP       10.96.0.10:80,[fd00::10]:80  198.51.100.1:80  30080      2                        7
default    a-longer-name  http  TCP                                                                2         conflict,sctp  7
";
    assert_eq!(render_list(&services(), OutputFormat::Table).unwrap(), expected);
}

#[test]
fn an_empty_list_has_headings_in_a_table_and_is_an_empty_array_in_json() {
    let none: [SocketView; 0] = [];
    assert_eq!(
        render_list(&none, OutputFormat::Table).unwrap(),
        "COOKIE  PROTOCOL  DIALLED  GIVEN  SERVICE  CONNECTED  CURRENT  PLACE  PID  COMMAND  POD\n",
    );
    assert_eq!(render_list(&none, OutputFormat::Json).unwrap(), "[]\n");
}

#[test]
fn yaml_quotes_a_name_that_looks_like_a_number() {
    // YAML 1.1, which older readers go by, has octal numbers of another form, and binary ones.
    for name in ["8080", "012", "0x1f", "0b1", "0o7", "1e3", "1e-3"] {
        let rows = [ServiceView { name: name.to_owned(), ..services().swap_remove(0) }];
        let text = render_list(&rows, OutputFormat::Yaml).unwrap();
        let line = text.lines().find_map(|line| line.trim_start().strip_prefix("name: "));
        let quoted = [format!("\"{name}\""), format!("'{name}'")];
        assert!(line.is_some_and(|line| quoted.iter().any(|it| it == line)), "{text}");
    }
}

fn backend() -> BackendView {
    BackendView {
        namespace: "default".into(),
        service: "web".into(),
        port_name: "http".into(),
        protocol: "TCP".into(),
        address: "fd00::1".parse().unwrap(),
        port: 8080,
        state: "ready",
        sets: vec!["internal"],
        weight: 7,
        connections: 3,
    }
}

fn socket() -> SocketView {
    SocketView {
        cookie: 4711,
        protocol: "UDP",
        dialled: "10.96.0.10:53".parse().unwrap(),
        given: "10.0.0.1:53".parse().unwrap(),
        service: "default/dns:".into(),
        connected: true,
        current: true,
        place: "origins",
        pid: Some(42),
        command: "dig".into(),
        pod: "default/client".into(),
    }
}

fn affinity() -> AffinityView {
    AffinityView {
        namespace: "default".into(),
        service: "web".into(),
        port_name: "http".into(),
        protocol: "TCP".into(),
        family: "IPv4",
        client: 7,
        backend: "10.0.0.1:8080".parse().unwrap(),
        current: true,
        age_seconds: 12,
        remaining_seconds: 10_788,
    }
}

fn activity() -> TopView {
    TopView {
        namespace: "default".into(),
        name: "web".into(),
        port_name: "http".into(),
        protocol: "TCP".into(),
        new_per_second: 1.5,
        sockets: 7,
        backends: 2,
    }
}

#[test]
fn json_and_yaml_are_arrays_of_objects_with_the_documented_fields() {
    let rows = [backend()];
    let expected = serde_json::json!([{
        "namespace": "default", "service": "web", "port_name": "http", "protocol": "TCP",
        "address": "fd00::1", "port": 8080, "state": "ready", "sets": ["internal"], "weight": 7,
        "connections": 3,
    }]);
    let json: serde_json::Value =
        serde_json::from_str(&render_list(&rows, OutputFormat::Json).unwrap()).unwrap();
    assert_eq!(json, expected);
    let yaml: serde_json::Value =
        serde_saphyr::from_str(&render_list(&rows, OutputFormat::Yaml).unwrap()).unwrap();
    assert_eq!(yaml, expected);
    let table = render_list(&rows, OutputFormat::Table).unwrap();
    assert!(table.contains("[fd00::1]:8080"), "{table}");
}

#[test]
fn control_characters_are_shown_and_not_obeyed() {
    let mut rows = services();
    rows[0].name = "a\u{1b}[2J\nb\u{9b}".into();
    for (format, lines) in
        [(OutputFormat::Table, 3), (OutputFormat::Wide, 3), (OutputFormat::Name, 2)]
    {
        let text = render_list(&rows, format).unwrap();
        assert!(text.contains(r"a\u{1b}[2J\nb\u{9b}"), "{text}");
        assert_eq!(text.lines().count(), lines, "{text}");
    }
}

#[test]
fn a_wide_table_begins_as_the_table_and_has_every_value() {
    let rows = [ServiceView {
        internal_policy: "Local".into(),
        external_policy: "Cluster".into(),
        affinity_seconds: 10800,
        ..services().swap_remove(0)
    }];
    let [table, wide] =
        [OutputFormat::Table, OutputFormat::Wide].map(|it| render_list(&rows, it).unwrap());
    for (line, wide) in table.lines().zip(wide.lines()) {
        assert!(wide.starts_with(line), "{wide}");
    }
    let expected = "  Local            Cluster          10800             10.96.0.10:80,[fd00::10]:80,\
        127.0.0.1:30080,192.0.2.5:30080,198.51.100.1:80\n";
    assert!(wide.ends_with(expected), "{wide}");
    let wide = render_list(&[backend()], OutputFormat::Wide).unwrap();
    let headings = wide.lines().next().unwrap();
    assert!(
        headings.ends_with("CONNECTIONS  WEIGHT") && wide.ends_with("  3            7\n"),
        "{wide}"
    );
}

#[test]
fn names_are_one_a_line_without_headings() {
    let none: [ServiceView; 0] = [];
    let rows = [
        (
            "services",
            render_list(&services(), OutputFormat::Name),
            "default/web:/TCP\ndefault/a-longer-name:http/TCP\n",
        ),
        ("backends", render_list(&[backend()], OutputFormat::Name), "[fd00::1]:8080\n"),
        ("sockets", render_list(&[socket()], OutputFormat::Name), "4711\n"),
        (
            "affinity",
            render_list(&[affinity()], OutputFormat::Name),
            "7/default/web:http/TCP/IPv4\n",
        ),
        ("top", render_list(&[activity()], OutputFormat::Name), "default/web:http/TCP\n"),
        ("nothing", render_list(&none, OutputFormat::Name), ""),
    ];
    for (row, names, expected) in rows {
        assert_eq!(names.unwrap(), expected, "{row}");
    }
}

#[test]
fn the_status_has_every_format_but_names() {
    let [table, wide] =
        [OutputFormat::Table, OutputFormat::Wide].map(|it| render_status(&status(), it).unwrap());
    assert_eq!(table, wide);
    let error = render_status(&status(), OutputFormat::Name).unwrap_err().to_string();
    assert!(error.contains("no names"), "{error}");
}

fn status() -> StatusView {
    let hook = |name, attached| HookView { name, attached };
    StatusView {
        pins: "/sys/fs/bpf/svclb".into(),
        layout: 1,
        synced: true,
        passes: 5,
        failures: 7,
        short: 1,
        refused: 2,
        agent_pid: 42,
        agent_running: false,
        sources: vec![SourceView {
            name: "services",
            heard_seconds_ago: Some(12),
            way: "endpoint",
            address: "10.0.0.1:6443".into(),
            rejected: 0,
        }],
        services: 1,
        frontends: 2,
        backends: 3,
        notes: BTreeMap::from([("conflict", 1), ("sctp", 2), ("source_ranges", 0)]),
        sockets: 4,
        overflow_entries: 0,
        index_lines_used: 2,
        index_lines: 1024,
        slots_used: 3,
        slots: 4096,
        origins: 65536,
        hooks: vec![hook("connect4", true), hook("connect6", false)],
        counters: BTreeMap::from([("refused", 1), ("translated", 9)]),
    }
}

#[test]
fn the_status_says_what_is_missing() {
    let expected = "\
Pins:         /sys/fs/bpf/svclb
Layout:       1
Synced:       yes
Agent:        not running (pid 42)
Passes:       5
Failures:     7
Short:        1
Over budget:  2
Hooks:        1 of 2 attached, missing: connect6
Sources:      services heard 12 s ago from 10.0.0.1:6443 (endpoint)
Services:     1
Frontends:    2
Backends:     3
Notes:        1 conflict, 2 sctp
Index lines:  2 of 1024
Slots:        3 of 4096
Sockets:      4
Origins:      65536 places, 0 in overflow
refused:      1
translated:   9
";
    assert_eq!(render_status(&status(), OutputFormat::Table).unwrap(), expected);
}

#[test]
fn the_status_in_json_is_one_object() {
    let json: serde_json::Value =
        serde_json::from_str(&render_status(&status(), OutputFormat::Json).unwrap()).unwrap();
    assert_eq!(json["hooks"][1], serde_json::json!({"name": "connect6", "attached": false}));
    assert_eq!(json["counters"]["translated"], 9);
    assert_eq!(json["index_lines"], 1024);
}

#[test]
fn every_output_in_json_conforms_to_its_schema_and_a_wrong_one_does_not() {
    let value = |text: Result<String>| -> serde_json::Value {
        serde_json::from_str(&text.unwrap()).unwrap()
    };
    let never_heard = StatusView {
        sources: vec![SourceView { heard_seconds_ago: None, ..status().sources.swap_remove(0) }],
        ..status()
    };
    let services = value(json(&services()));
    let rows = [
        ("services", services.clone()),
        ("backends", value(json(&[backend()]))),
        ("sockets", value(json(&[socket()]))),
        ("sockets", value(json(&[SocketView { pid: None, ..socket() }]))),
        ("affinity", value(json(&[affinity()]))),
        ("top", value(json(&[activity()]))),
        ("status", value(json(&status()))),
        ("status", value(json(&never_heard))),
    ];
    for (command, output) in rows {
        assert_eq!(faults(command, &output), [""; 0], "{command}");
    }
    let mut wrong = services;
    wrong[0]["backends"] = "2".into();
    wrong[1].as_object_mut().unwrap().remove("id");
    let faults = faults("services", &wrong);
    assert_eq!(faults.len(), 2, "{faults:?}");
    assert!(faults[0].starts_with("/0/backends: ") && faults[1].contains("id"), "{faults:?}");
}

/// Scripts rely on the names; the page that promises them must know each.
#[test]
fn every_field_is_documented() {
    let page = include_str!("../../../docs/commands.md");
    let fields = |text: String| -> Vec<String> {
        match serde_json::from_str(&text).unwrap() {
            serde_json::Value::Array(mut rows) => rows.remove(0),
            one => one,
        }
        .as_object()
        .unwrap()
        .keys()
        .cloned()
        .collect()
    };
    for (command, names) in [
        ("services", fields(json(&services()).unwrap())),
        ("backends", fields(json(&[backend()]).unwrap())),
        ("sockets", fields(json(&[socket()]).unwrap())),
        ("affinity", fields(json(&[affinity()]).unwrap())),
        ("top", fields(json(&[activity()]).unwrap())),
        ("status", fields(json(&status()).unwrap())),
    ] {
        let part = page.split("\n## ").find(|part| part.starts_with(&format!("svclb {command}\n")));
        let part = part.unwrap_or_else(|| panic!("no part on svclb {command}"));
        for name in names {
            assert!(part.contains(&format!("| `{name}` |")), "svclb {command}: {name}");
        }
    }
}
