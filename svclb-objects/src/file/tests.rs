//! Splitting and parsing.

use proptest::prelude::*;

use super::contents;
use super::documents::{Lines, parse, parse_json, split};

/// A Service with a port that distinguishes its states.
fn service(name: &str, port: u16) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata:\n  name: {name}\nspec:\n  clusterIP: 10.96.0.10\n  \
         ports:\n  - port: {port}\n"
    )
}

#[test]
fn rejected_slice_names_the_service_that_lacks_it() {
    let slice = |labels: &str, rest: &str| {
        format!(
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: a-1\n  \
             namespace: ns\n  labels: {labels}\n{rest}\n"
        )
    };
    let label = "{kubernetes.io/service-name: a}";
    let rows: [(&str, String, &[Option<&str>], bool); 7] = [
        ("a Service", service("a", 0), &[Some("default/a")], false),
        (
            "a field of a slice",
            slice(label, "addressType: IPv4\nendpoints: [{}]"),
            &[Some("ns/a")],
            false,
        ),
        ("the shape of a slice", slice(label, "endpoints: many"), &[Some("ns/a")], false),
        ("labels that are none", slice("7", ""), &[None], false),
        (
            "a Node",
            "apiVersion: v1\nkind: Node\nmetadata: {name: x}\nstatus: 7".into(),
            &[None],
            false,
        ),
        ("no name", "apiVersion: v1\nkind: Service\nmetadata: {}".into(), &[], true),
        ("no YAML", "[".into(), &[], true),
    ];
    for (row, text, expected, unknown) in rows {
        let held = contents("f.yaml".as_ref(), Ok(text.into_bytes()), "x");
        let services: Vec<_> =
            held.rejected.values().map(|it| it.service.as_ref().map(ToString::to_string)).collect();
        let expected: Vec<_> = expected.iter().map(|it| it.map(str::to_owned)).collect();
        assert_eq!((services, held.unknown), (expected, unknown), "{row}: {:?}", held.rejects);
    }
}

#[test]
fn documents_are_split_by_yamls_rule_and_know_their_first_line() {
    type Row<'a> = (&'a str, &'a str, &'a [(usize, usize, &'a str)]);
    let rows: [Row<'_>; 14] = [
        ("nothing", "", &[]),
        ("comments only", "# a\n\n# b\n", &[]),
        ("one", "a: 1\n", &[(1, 1, "a: 1\n")]),
        ("two", "a: 1\n---\nb: 2\n", &[(1, 1, "a: 1\n"), (2, 2, "---\nb: 2\n")]),
        ("comment before the first", "# c\n---\na: 1", &[(1, 1, "# c\n---\na: 1")]),
        ("directive", "%YAML 1.2\n---\na: 1\n", &[(1, 1, "%YAML 1.2\n---\na: 1\n")]),
        (
            "blank and content behind",
            "--- \na: 1\n---\t{b: 2}\n",
            &[(1, 1, "--- \na: 1\n"), (2, 3, "---\t{b: 2}\n")],
        ),
        ("more dashes are text", "a: |\n ----\n ---\n", &[(1, 1, "a: |\n ----\n ---\n")]),
        ("four dashes", "----\n", &[(1, 1, "----\n")]),
        ("empty ones count", "---\n---\na: 1\n", &[(1, 1, "---\n"), (2, 2, "---\na: 1\n")]),
        ("end mark", "a: 1\n...\n# c\n", &[(1, 1, "a: 1\n")]),
        ("end mark and more", "a: 1\n...\n---\nb: 2\n", &[(1, 1, "a: 1\n"), (2, 3, "---\nb: 2\n")]),
        (
            "carriage returns",
            "a: 1\r\n---\r\nb: 2\r\n",
            &[(1, 1, "a: 1\r\n"), (2, 2, "---\r\nb: 2\r\n")],
        ),
        ("byte order mark", "\u{feff}---\na: 1", &[(1, 1, "---\na: 1")]),
    ];
    for (name, text, expected) in rows {
        let found: Vec<_> = split(text).iter().map(|d| (d.number, d.line, d.text)).collect();
        assert_eq!(found, expected, "{name}");
    }
}

#[test]
fn a_name_that_looks_like_a_number_has_to_be_quoted() {
    for name in ["8080", "012", "0x1f", "0o7", "1e3", "1e-3"] {
        let read = |name: &str| contents("f.yaml".as_ref(), Ok(service(name, 80).into()), "x");
        let quoted = read(&format!("\"{name}\""));
        let names: Vec<&str> = quoted.objects.keys().map(|object| &*object.name.name).collect();
        assert_eq!(names, [name]);
        let plain = read(name);
        assert!(plain.objects.is_empty(), "{name}: {:?}", plain.objects);
        let words = plain.rejects[0].to_string();
        assert!(words.contains("metadata.name: invalid type"), "{name}: {words}");
        assert!(words.contains("expected a string"), "{name}: {words}");
    }
}

#[test]
fn a_broken_document_is_named_by_the_line_of_the_file() {
    let text = "a: 1\n---\nb: [1,\n2\n---\nc: 3\nc: 4\n";
    let documents = split(text);
    let broken = parse(&documents[1]).unwrap_err();
    assert_eq!((broken.line, broken.problem.as_str()), (3, "unclosed bracket '['"));
    let broken = parse(&documents[2]).unwrap_err();
    assert_eq!(
        (broken.line, broken.problem.as_str()),
        (7, "duplicate mapping key: c not allowed here")
    );
}

#[test]
fn the_line_of_a_field_is_found_or_that_of_what_should_hold_it() {
    let text = "x: 1\n---\n# c\nitems:\n- {}\n- spec:\n    ports:\n    - port: 1\n      name: a\n    - port: 2\n";
    let documents = split(text);
    for (field, line) in [
        ("items[1].spec.ports[1].port", 10),
        ("items[1].spec.ports[0].name", 9),
        ("items[1].spec.ports[0].protocol", 8),
        ("items[7].spec", 5),
        ("", 4),
    ] {
        assert_eq!(Lines::of(&documents[1]).of_field(field), line, "{field}");
    }
}

#[test]
fn json_is_a_stream_of_values_up_to_an_error() {
    let found: Vec<_> = parse_json("{\"a\":1}\n[2] {\n\"b\" 3}").collect();
    assert_eq!(found.len(), 3);
    assert_eq!(found[1].1, Ok(serde_json::json!([2])));
    let error = found[2].1.clone().unwrap_err();
    assert_eq!((found[2].0, error.line, error.problem.as_str()), (3, 3, "expected `:`"));
}

#[test]
fn an_alias_bomb_is_refused_and_reasonable_aliases_are_not() {
    let mut bomb = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
    for i in 1..9 {
        let aliases = vec![format!("*a{}", i - 1); 10].join(",");
        bomb += &format!("a{i}: &a{i} [{aliases}]\n");
    }
    let error = parse(&split(&bomb)[0]).unwrap_err();
    assert_eq!(
        error.problem,
        "YAML document too large or too complex: total_replayed_events=100001 > 100000"
    );
    let fine = "a: &a {x: 1}\nb: *a\n";
    assert_eq!(parse(&split(fine)[0]).unwrap()["b"]["x"], 1);
}

#[test]
fn a_large_document_is_read_whole() {
    let mut text = String::from("list:\n");
    for i in 0..100_000 {
        text += &format!("- {{a: {i}, b: x}}\n");
    }
    assert_eq!(parse(&split(&text)[0]).unwrap()["list"].as_array().unwrap().len(), 100_000);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    /// Damage in one document affects no other: the second of three documents is cut, flipped or extended in
    /// any way that does not split it.
    #[test]
    fn damaged_text_never_panics_and_leaves_its_neighbours_alone(
        damage in prop::collection::vec((any::<prop::sample::Index>(), 0_usize..8, ".{0,6}|[-:\\[{&*!|>'\"#%@`,}\\] \t]{1,3}"), 1..5),
    ) {
        let mut middle: Vec<char> = service("damaged", 81).chars().collect();
        for (place, cut, insert) in damage {
            let at = place.index(middle.len() + 1);
            let end = (at + cut).min(middle.len());
            middle.splice(at..end, insert.chars());
        }
        let middle: String = middle.into_iter().collect();
        prop_assume!(!middle.lines().any(|line| line.starts_with("---") || line.starts_with("...")));
        let text = format!("{}---\n{middle}\n---\n{}", service("first", 80), service("last", 82));
        let contents = contents("f.yaml".as_ref(), Ok(text.into_bytes()), "");
        let names: Vec<&str> = contents.objects.keys().map(|object| &*object.name.name).collect();
        prop_assert!(names.contains(&"first") && names.contains(&"last"), "{names:?}");
        for reject in &contents.rejects {
            prop_assert_eq!(reject.document, Some(2));
            prop_assert!(reject.line.is_some());
        }
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), json in any::<bool>()) {
        let path = if json { "f.json" } else { "f.yaml" };
        contents(path.as_ref(), Ok(bytes), "");
    }
}
