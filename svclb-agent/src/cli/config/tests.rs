use std::collections::BTreeSet;
use std::fs;

use super::super::golden::assert_golden;
use super::super::schema::tests::faults;
use super::field::{Field, example};
use super::*;

const HEAD: &str = "apiVersion: svclb.dev/v1alpha1\nkind: AgentConfiguration\n";
/// The beginning of docs/config.md.
const PAGE: &str = include_str!("../../../../docs/config.md");

/// The error of a file with these lines after its head, without its path.
fn error(rest: &str) -> String {
    let text = format!("{HEAD}{rest}");
    match ConfigFile::parse("f".as_ref(), &text, &agent_command()) {
        Ok(file) => panic!("{rest} is taken: {file:?}"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn every_command_with_the_flag_reads_the_file() {
    let command = Cli::command();
    let has_flag = |it: &&Command| it.get_arguments().any(|flag| flag.get_id() == FLAG);
    let found: BTreeSet<&str> =
        command.get_subcommands().filter(has_flag).map(Command::get_name).collect();
    // `svclb config` reads it in a way of its own.
    assert_eq!(found, WITH_FILE.into_iter().chain(["config"]).collect());
}

#[test]
fn an_error_names_line_field_and_what_is_expected() {
    let rows = [
        (
            "metricsAdress: none\n",
            "f:3: unknown field `metricsAdress`, did you mean `metricsAddress`?",
        ),
        (
            "\nzzz: 1\n",
            "f:4: unknown field `zzz`, svclb schema agent-configuration lists the fields",
        ),
        ("audit: 5\n", "f:3: unknown field `audit`"),
        ("config: x\n", "f:3: unknown field `config`"),
        ("serviceFrontends: many\n", "f:3: serviceFrontends: expected a number, found \"many\""),
        ("serviceFrontends: \"7\"\n", "f:3: serviceFrontends: expected a number, found \"7\""),
        ("serviceFrontends: 0\n", "f:3: serviceFrontends: \"0\": "),
        ("serviceFrontends: -1\n", "f:3: serviceFrontends: \"-1\": "),
        ("serviceFrontends: 1.5\n", "f:3: serviceFrontends: \"1.5\": "),
        ("namespaceShare: 101\n", "f:3: namespaceShare: \"101\": 101 is not in 1..=100"),
        ("replace: 1\n", "f:3: replace: expected true or false, found 1"),
        ("logFormat: xml\n", "f:3: logFormat: \"xml\": expected one of text, json"),
        ("logFormat:\n", "f:3: logFormat: expected a text, found nothing"),
        ("node: 7\n", "f:3: node: expected a text, found 7"),
        ("from: a.yaml\n", "f:3: from: expected a list of texts, found \"a.yaml\""),
        ("from:\n- a.yaml\n- 7\n", "f:5: from: expected a text, found 7"),
        (
            "apiServers:\n- https://192.0.2.1\n- x\n",
            "f:5: apiServers: \"x\": expected a URL such as",
        ),
        (
            "metricsAddress: localhost\n",
            "f:3: metricsAddress: \"localhost\": expected an address with a port",
        ),
        ("from: [a]\nkubeconfig: b\n", "cannot be used with"),
        ("replace: true\nreplace: false\n", "f:4: "),
        ("kind: Other\n", "f:3: "),
        ("replace: [\n", "f:"),
    ];
    for (rest, expected) in rows {
        let found = error(rest);
        assert!(
            found.starts_with(expected)
                || found.contains(" cannot be used with ") && expected.starts_with("cannot"),
            "{rest}: {found}"
        );
    }
    let long = format!("{HEAD}{}", "#".repeat(70_000));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("long.yaml");
    fs::write(&path, long).unwrap();
    let error = ConfigFile::read(&path, &agent_command()).unwrap_err().to_string();
    assert!(error.contains("longer than 65536 bytes"), "{error}");
}

#[test]
fn version_and_kind_must_be_there() {
    let rows = [
        ("", "expected the fields"),
        ("- a\n", "f:1: expected the fields of AgentConfiguration, found a list"),
        ("kind: AgentConfiguration\n", "f:1: missing field `apiVersion`"),
        ("apiVersion: svclb.dev/v1alpha1\n", "f:1: missing field `kind`"),
        (
            "apiVersion: svclb.dev/v2\n",
            "f:1: apiVersion: expected svclb.dev/v1alpha1, found \"svclb.dev/v2\"",
        ),
    ];
    for (text, expected) in rows {
        let error =
            ConfigFile::parse("f".as_ref(), text, &agent_command()).unwrap_err().to_string();
        assert!(error.contains(expected), "{text}: {error}");
    }
}

/// The settings of an agent with a file of these lines after its head, and these flags.
fn settings_of(rest: &str, flags: &[&str]) -> Vec<SettingView> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.yaml");
    fs::write(&path, format!("{HEAD}{rest}")).unwrap();
    let path = path.to_str().unwrap();
    let words = [&["svclb", "agent", "--config", path], flags].concat();
    let words: Vec<OsString> = words.into_iter().map(OsString::from).collect();
    parse(&words).unwrap().settings
}

fn shown(settings: &[SettingView], name: &str) -> String {
    let view = settings.iter().find(|view| view.name == name).unwrap();
    let place = view.place.rsplit('/').next().unwrap();
    format!("{} {} {place}", view.shown(), view.origin.word())
}

#[test]
fn a_flag_comes_before_the_file_and_the_file_before_the_default() {
    let rest = "serviceFrontends: 7\nreplace: true\nfrom: [a.yaml, b.yaml]\nnamespaceShare: 20\n\
        metricsAddress: none\nlogFormat: json\n";
    let settings = settings_of(rest, &["--namespace-share", "30", "--audit", "9"]);
    let rows = [
        ("serviceFrontends", "7 file config.yaml:3"),
        ("replace", "true file config.yaml:4"),
        ("from", "a.yaml,b.yaml file config.yaml:5"),
        ("namespaceShare", "30 flag --namespace-share"),
        ("metricsAddress", "none file config.yaml:7"),
        ("logFormat", "json file config.yaml:8"),
        ("healthAddress", "127.0.0.1:19256 default "),
        ("serviceEndpoints", "25000 default "),
        ("logBpf", "false default "),
        ("cgroup", "(the root of the mounted cgroup2) default "),
        ("audit", "9 flag --audit"),
    ];
    for (name, expected) in rows {
        assert_eq!(shown(&settings, name), expected, "{name}");
    }
    let json = serde_json::to_value(&settings).unwrap();
    assert_eq!(faults("config", &json), [""; 0], "{json:#}");
}

#[test]
fn a_flag_replaces_a_source_of_the_file_that_it_conflicts_with() {
    let settings = settings_of("from: [a.yaml]\n", &["--kubeconfig", "k"]);
    assert_eq!(shown(&settings, "kubeconfig"), "k flag --kubeconfig");
    let from = settings.iter().find(|view| view.name == "from").unwrap();
    assert_eq!(from.origin, Origin::Default);
    let settings =
        settings_of("kubeconfig: k\napiServers: [\"https://192.0.2.1\"]\n", &["--from", "a"]);
    assert_eq!(shown(&settings, "from"), "a flag --from");
    assert_eq!(shown(&settings, "kubeconfig"), "(the cluster that the pod runs in) default ");
}

#[test]
fn urls_are_shown_without_what_may_be_secret() {
    let rows = [
        (
            "https://user:secret@api.example.net:6443/a@b?token=secret",
            "https://***@api.example.net:6443/a@b?***",
        ),
        ("https://192.0.2.1:6443", "https://192.0.2.1:6443"),
        ("https://a:b@c", "https://***@c"),
        ("https://api#secret", "https://api?***"),
        ("user@host", "user@host"),
    ];
    for (text, expected) in rows {
        assert_eq!(without_secrets(text), expected, "{text}");
    }
    let settings = settings_of("apiServers: [\"https://a:hunter2@192.0.2.1/?t=hunter2\"]\n", &[]);
    assert!(!serde_json::to_string(&settings).unwrap().contains("hunter2"));
}

#[test]
fn every_visible_flag_is_a_field_of_the_schema_the_file_and_the_page() {
    let agent = agent_command();
    let flags = agent.get_arguments().filter(|flag| !flag.is_hide_set());
    let ids: BTreeSet<&str> =
        flags.map(|flag| flag.get_id().as_str()).filter(|id| *id != FLAG).collect();
    assert!(ids.len() > 15, "{ids:?}");
    let fields = Field::all(&agent);
    assert_eq!(fields.iter().map(|field| field.id.as_str()).collect::<BTreeSet<_>>(), ids);
    let schema = schema();
    let properties = schema.get("properties").unwrap().as_object().unwrap();
    assert_eq!(properties.len(), fields.len() + 2);
    for field in &fields {
        assert!(properties.contains_key(&field.name), "{}", field.name);
        let is_described = PAGE.contains(&format!("\n{}:", field.name))
            || PAGE.contains(&format!("\n# {}:", field.name));
        assert!(is_described, "docs/config.md lacks {}", field.name);
    }
}

#[test]
fn the_golden_example_has_the_defaults_and_conforms_to_the_schema() {
    let (before, rest) = PAGE.split_once("```yaml\n").unwrap();
    let (_, after) = rest.split_once("```\n").unwrap();
    let example = example();
    assert_golden("docs/config.md", &format!("{before}```yaml\n{example}```\n{after}"));
    ConfigFile::parse("f".as_ref(), &example, &agent_command()).unwrap();
    let json: Value = serde_saphyr::from_str(&example).unwrap();
    let schema = schema();
    let validator = jsonschema::draft202012::new(schema.as_value()).unwrap();
    let faults: Vec<String> = validator.iter_errors(&json).map(|it| it.to_string()).collect();
    assert_eq!(faults, [""; 0], "{example}");
    for wrong in ["namespaceShare: 101", "replace: 1", "logFormat: xml", "audit: 1", "allMemory: 0"]
    {
        let json: Value = serde_saphyr::from_str(&format!("{HEAD}{wrong}\n")).unwrap();
        assert!(!validator.is_valid(&json), "{wrong}");
    }
    // Without the values that a flag has anyway, an agent does the same.
    let rest = example.strip_prefix(HEAD).unwrap();
    let plain = parse(&["svclb".into(), AGENT.into()]).unwrap().settings;
    for (one, other) in
        settings_of(rest, &[]).iter().zip(&plain).filter(|(one, _)| one.name != FLAG)
    {
        assert_eq!(one.shown(), other.shown(), "{}", one.name);
    }
}
