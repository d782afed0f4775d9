//! The output of the reading commands for scripts: JSON and YAML conform to the schemas in docs/schema, names
//! agree with the fields, and exit codes are those of docs/commands.md.
#![expect(clippy::unwrap_used, reason = "a failure in a helper fails the test, with its reason")]

use std::process::{Command, Output};

use serde_json::Value;
use svclb_tests::{Tcp, Udp, World};

/// The commands, with their schemas in docs/schema.
const COMMANDS: [(&str, &str); 7] = [
    ("services", include_str!("../../docs/schema/services.json")),
    ("backends", include_str!("../../docs/schema/backends.json")),
    ("sockets", include_str!("../../docs/schema/sockets.json")),
    ("affinity", include_str!("../../docs/schema/affinity.json")),
    ("top", include_str!("../../docs/schema/top.json")),
    ("status", include_str!("../../docs/schema/status.json")),
    ("check", include_str!("../../docs/schema/check.json")),
];

fn text(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// A world with Services of both protocols and families, and with sockets that dialled them.
fn with_world(name: &str, test: impl FnOnce(&World)) {
    let world = World::new(name);
    let web = world.backend("web", Tcp, "10.244.0.1:8080");
    let dns = world.backend("dns", Udp, "[fd00:244::1]:5353");
    world.service("default/web").cluster_ip("10.96.0.10").port(80, Tcp).backends([&web]).apply();
    world.service("default/dns").cluster_ip("fd00:96::10").port(53, Udp).backends([&dns]).apply();
    let kept = world.service("default/kept").cluster_ip("10.96.0.11").affinity(10_800);
    kept.port(80, Tcp).backends([&web]).apply();
    let _sockets = [
        world.dial(Tcp, "10.96.0.10:80").unwrap(),
        world.dial(Tcp, "10.96.0.11:80").unwrap(),
        world.dial(Udp, "[fd00:96::10]:53").unwrap(),
    ];
    test(&world);
}

#[test]
fn json_and_yaml_of_every_command_conform_to_the_schema_in_docs() {
    with_world("schema", |world| {
        for (command, schema) in COMMANDS {
            let schema: Value = serde_json::from_str(schema).unwrap();
            let mut printed = Command::new(world.program());
            printed.args(["schema", command]);
            let printed = world.output(printed);
            assert_eq!(
                serde_json::from_str::<Value>(&text(&printed)).unwrap(),
                schema,
                "{command}"
            );
            let validator = jsonschema::draft202012::new(&schema).unwrap();
            let json = text(&world.svclb(&[command, "-o", "json"]));
            let yaml = text(&world.svclb(&[command, "-o", "yaml"]));
            for output in [
                serde_json::from_str::<Value>(&json).unwrap(),
                serde_saphyr::from_str::<Value>(&yaml).unwrap(),
            ] {
                let faults: Vec<String> =
                    validator.iter_errors(&output).map(|error| error.to_string()).collect();
                assert_eq!(faults, [""; 0], "{command}: {output:#}");
                assert_ne!(output, Value::Array(Vec::new()), "{command}");
            }
        }
    });
}

/// Makes the name of a row from its fields.
type NameOf = fn(&Value) -> String;

/// A field as text.
fn word(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[test]
fn names_agree_with_the_fields_and_wide_tables_have_the_same_rows() {
    with_world("forms", |world| {
        let names: [(&str, NameOf); 5] = [
            ("services", |row| {
                let [namespace, name, port_name, protocol] =
                    ["namespace", "name", "port_name", "protocol"].map(|field| word(&row[field]));
                format!("{namespace}/{name}:{port_name}/{protocol}")
            }),
            ("backends", |row| {
                let (address, port) = (word(&row["address"]), word(&row["port"]));
                if address.contains(':') {
                    format!("[{address}]:{port}")
                } else {
                    format!("{address}:{port}")
                }
            }),
            ("sockets", |row| word(&row["cookie"])),
            ("affinity", |row| {
                let fields = ["client", "namespace", "service", "port_name", "protocol", "family"];
                let [client, namespace, service, port_name, protocol, family] =
                    fields.map(|field| word(&row[field]));
                format!("{client}/{namespace}/{service}:{port_name}/{protocol}/{family}")
            }),
            ("check", |row| {
                let (check, subject) = (word(&row["check"]), word(&row["subject"]));
                if subject.is_empty() { check } else { format!("{check}/{subject}") }
            }),
        ];
        for (command, name) in names {
            let rows: Vec<Value> =
                serde_json::from_str(&text(&world.svclb(&[command, "-o", "json"]))).unwrap();
            let expected: Vec<String> = rows.iter().map(name).collect();
            let printed = text(&world.svclb(&[command, "-o", "name"]));
            assert_eq!(printed.lines().collect::<Vec<_>>(), expected, "{command}");
            let wide = text(&world.svclb(&[command, "-o", "wide"]));
            assert_eq!(wide.lines().count(), rows.len() + 1, "{wide}");
        }
    });
}

#[test]
fn exit_codes_are_those_of_the_manual() {
    with_world("codes", |world| {
        let assert_codes = |state: &str, rows: &[(i32, &[&str])]| {
            for (code, arguments) in rows {
                let output = world.svclb(arguments);
                assert_eq!(output.status.code(), Some(*code), "{state}: {arguments:?}: {output:?}");
                let lines = String::from_utf8_lossy(&output.stderr).lines().count();
                assert_eq!(lines, usize::from(*code == 1), "{state}: {arguments:?}: {output:?}");
            }
        };
        assert_codes(
            "an agent runs",
            &[
                (0, &["services"]),
                (0, &["backends"]),
                (0, &["sockets"]),
                (0, &["affinity"]),
                (0, &["top", "--once", "--interval", "1"]),
                (0, &["status"]),
                (0, &["status", "--ready"]),
                (0, &["check"]),
                (1, &["uninstall"]),
            ],
        );
        assert_eq!(world.take_agent().stop().code(), Some(0));
        assert_codes(
            "no agent runs",
            &[
                (0, &["services"]),
                (0, &["status"]),
                (1, &["status", "--ready"]),
                (1, &["check"]),
                (0, &["uninstall"]),
            ],
        );
        assert_codes(
            "nothing is installed",
            &[
                (1, &["services"]),
                (1, &["backends"]),
                (1, &["sockets"]),
                (1, &["affinity"]),
                (1, &["top"]),
                (1, &["status"]),
                (1, &["status", "--ready"]),
                (1, &["check"]),
                (0, &["uninstall"]),
            ],
        );
    });
}
