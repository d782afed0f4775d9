//! A malformed document rejects only itself.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use svclb_core::model::{ObjectName, Unread};

use super::{Batch, Bench, service, short, words};

fn bad(name: &str) -> String {
    service(name, 80).replace("port: 80", "port: 70000")
}

#[tokio::test]
async fn a_reject_names_file_line_document_object_and_field() {
    let rows: [(&str, &str, &str); 8] = [
        (
            "a port",
            &(service("a", 80) + "---\n" + &bad("b")),
            "f.yaml:17: document 2: Service default/b: spec.ports[0].port: 70000 is not a port (1 to 65535); until this is corrected, it has no effect; only state that an earlier agent wrote stays",
        ),
        (
            "a type",
            &service("a", 80).replace("port: 80", "port: eighty"),
            "f.yaml:8: document 1: Service default/a: spec.ports[0].port: invalid type: string \"eighty\", expected a whole number; until this is corrected, it has no effect; only state that an earlier agent wrote stays",
        ),
        (
            "a text as a port",
            &service("a", 80).replace("port: 80", "port: \"80\""),
            "f.yaml:8: document 1: Service default/a: spec.ports[0].port: invalid type: string \"80\", expected a whole number; until this is corrected, it has no effect; only state that an earlier agent wrote stays",
        ),
        (
            "no name",
            &service("a", 80).replace("  name: a\n", "  labels: {}\n"),
            "f.yaml:4: document 1: metadata.name: missing: every object needs a name; until this is corrected, objects that the file had before and lacks now keep their state",
        ),
        (
            "no YAML",
            "a: 1\nb: [\n",
            "f.yaml:2: document 1: unclosed bracket '['; until this is corrected, objects that the file had before and lacks now keep their state",
        ),
        (
            "no object",
            "- just\n- a list\n",
            "f.yaml:1: document 1: a list is not a Kubernetes object: expected kind, apiVersion, ...; until this is corrected, objects that the file had before and lacks now keep their state",
        ),
        (
            "in a list",
            "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Service\n  metadata: {name: a}\n  spec:\n    clusterIP: nonsense\n",
            "f.yaml:8: document 1: Service default/a: spec.clusterIP: \"nonsense\" is not an IPv4 or IPv6 address; until this is corrected, it has no effect; only state that an earlier agent wrote stays",
        ),
        (
            "no object in a list",
            "apiVersion: v1\nkind: List\nitems:\n- {}\n- 7\n",
            "f.yaml:4: document 1: items[0].kind: missing: expected a text such as Service; until this is corrected, objects that the file had before and lacks now keep their state",
        ),
    ];
    for (name, text, expected) in rows {
        let (bench, first) = Bench::new(&[("f.yaml", text)]).await;
        assert_eq!(words(&first, &bench.path(""))[..1], [expected], "{name}");
    }
    let (bench, first) = Bench::new(&[("f.json", "{\"kind\": \"Service\",\n}")]).await;
    assert_eq!(
        words(&first, &bench.path("")),
        [
            "f.json:2: document 1: trailing comma; until this is corrected, objects that the file had before and \
         lacks now keep their state",
        ]
    );
}

#[tokio::test]
async fn a_rejected_object_keeps_its_state_and_its_neighbours_change() {
    let (mut bench, _) =
        Bench::new(&[("f.yaml", &(service("a", 80) + "---\n" + &service("b", 81)))]).await;
    bench.write("f.yaml", &(bad("a") + "---\n" + &service("b", 82)));
    let batch = bench.next().await;
    assert_eq!((short(&batch), batch.rejects.len(), batch.standing), (vec!["b=82".into()], 1, 1));
    // Another change: the known reject is not reported again.
    bench.write("f.yaml", &(bad("a") + "---\n" + &service("b", 83)));
    let batch = bench.next().await;
    assert_eq!((short(&batch), batch.rejects.len(), batch.standing), (vec!["b=83".into()], 0, 1));
    // Taken out while rejected: it is gone.
    bench.write("f.yaml", &service("b", 83));
    let batch = bench.next().await;
    assert_eq!((short(&batch), batch.standing), (vec!["a-".into()], 0));
}

#[tokio::test]
async fn reject_that_is_corrected_to_the_previous_state_makes_a_batch() {
    let (mut bench, _) = Bench::new(&[("f.yaml", &service("a", 80))]).await;
    bench.write("f.yaml", &bad("a"));
    assert_eq!(bench.next().await.standing, 1);
    bench.write("f.yaml", &service("a", 80));
    let batch = bench.next().await;
    assert_eq!((batch.updates.len(), batch.rejects.len(), batch.standing), (0, 0, 0));
}

#[tokio::test]
async fn document_that_may_be_any_object_retains_the_missing_objects() {
    let text = service("a", 80) + "---\n" + &service("b", 81) + "---\n" + &service("c", 82);
    let (mut bench, _) = Bench::new(&[("f.yaml", &text)]).await;
    // b is unreadable now, c is taken out, a changes.
    bench.write("f.yaml", &(service("a", 90) + "---\nkind: [Service\n"));
    let batch = bench.next().await;
    assert_eq!((short(&batch), batch.standing), (vec!["a=90".into()], 1));
    bench.write("f.yaml", &service("a", 90));
    assert_eq!(short(&bench.next().await), ["b-", "c-"]);
}

#[tokio::test]
async fn an_object_moved_to_another_file_wins_over_what_a_broken_file_keeps() {
    let (mut bench, _) =
        Bench::new(&[("a.yaml", "# nothing yet\n"), ("b.yaml", &service("a", 80))]).await;
    bench.write("b.yaml", "broken: [\n");
    assert_eq!(bench.next().await.rejects.len(), 1);
    bench.write("a.yaml", &service("a", 81));
    let batch = bench.next().await;
    assert_eq!((short(&batch), batch.rejects.len()), (vec!["a=81".into()], 0));
}

#[tokio::test]
async fn the_same_object_twice_in_a_file_counts_last() {
    let (bench, first) =
        Bench::new(&[("f.yaml", &(service("a", 80) + "---\n" + &service("a", 81)))]).await;
    assert_eq!(short(&first), ["a=81"]);
    assert_eq!(
        words(&first, &bench.path("")),
        [
            "f.yaml: document 1: Service default/a is in document 2 of this file again, and the last one \
         counts: remove one of them",
        ]
    );
}

#[tokio::test]
async fn a_file_that_cannot_be_read_keeps_what_it_held() {
    let (mut bench, _) = Bench::new(&[("f.yaml", &service("a", 80))]).await;
    fs::write(bench.path("f.yaml"), b"\xff\xfe\x00").unwrap();
    let batch = bench.next().await;
    assert_eq!(batch.updates, []);
    assert_eq!(
        words(&batch, &bench.path("")),
        ["f.yaml: cannot be read: it is not text in UTF-8; its objects keep their state",]
    );
    // Modes do not bind root, but a change of them is a reason to look again.
    bench.write("f.yaml", &service("a", 81));
    assert_eq!(short(&bench.next().await), ["a=81"]);
    fs::set_permissions(bench.path("f.yaml"), fs::Permissions::from_mode(0o600)).unwrap();
    bench.nothing().await;
}

#[tokio::test]
async fn parts_left_out_on_purpose_are_counted() {
    let slice = "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: IPv4\nmetadata: {name: s}\n";
    let (_, first) = Bench::new(&[("f.yaml", slice)]).await;
    assert_eq!((first.updates.len(), first.skipped.slices_without_service), (0, 1));
}

#[tokio::test]
async fn rejects_without_end_are_counted_and_what_the_file_held_stays() {
    let (mut bench, first) = Bench::new(&[("f.json", SERVICE)]).await;
    assert_eq!(short(&first), ["a=80"]);
    let list = |items: usize| {
        format!(r#"{{"kind":"List","apiVersion":"v1","items":[{}0]}}"#, "0,".repeat(items - 1))
    };
    let rows = [("values", "0 ".repeat(50_000)), ("items of a list", list(50_001))];
    for (row, text) in rows {
        bench.write("f.json", &text);
        let batch = bench.next().await;
        // The rejects that are reported one by one, and one that counts the others.
        let (reported, standing) = (batch.rejects.len(), text.matches('0').count());
        assert_eq!((short(&batch), reported, batch.standing), (vec![], 101, standing), "{row}");
        let reported = words(&batch, &bench.path(""));
        let more = format!("f.json: {} more are rejected than the 100", standing - 100);
        assert!(reported.iter().any(|reported| reported.starts_with(&more)), "{row}: {reported:?}");
    }
    // Only the report that changed is handed on: their number.
    bench.write("f.json", &list(50_002));
    let batch = bench.next().await;
    assert_eq!((short(&batch), batch.rejects.len(), batch.standing), (vec![], 1, 50_002));
    bench.write("f.json", "{}");
    assert_eq!(bench.next().await.standing, 1);
    bench.write("f.json", "\n");
    let batch = bench.next().await;
    assert_eq!((short(&batch), batch.standing), (vec!["a-".to_owned()], 0));
}

const SERVICE: &str = r#"{"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"},
    "spec": {"clusterIP": "10.96.0.10", "ports": [{"port": 80}]}}"#;

#[tokio::test]
async fn rejected_object_and_its_shadowed_copies_are_unread() {
    let of = |names: &[&str]| {
        let services = names.iter().map(|name| ObjectName::new("default", name)).collect();
        Some(Unread { services, ..Unread::default() })
    };
    let (mut bench, first) =
        Bench::new(&[("a.yaml", &bad("a")), ("b.yaml", &service("b", 80)), ("c.yaml", "[")]).await;
    let both = Unread { unknown: true, ..of(&["a"]).unwrap() };
    assert_eq!(first.unread, Some(both));
    // The accepted object keeps its state while it cannot be read.
    bench.write("b.yaml", &bad("b"));
    let batch = bench.next().await;
    let three = Unread { unknown: true, ..of(&["a", "b"]).unwrap() };
    assert_eq!((batch.rejects.len(), batch.unread), (1, Some(three)));
    bench.write("b.yaml", "[");
    let batch = bench.next().await;
    assert_eq!((batch.rejects.len(), batch.unread), (1, None));
    bench.write("c.yaml", &service("c", 80));
    assert_eq!(bench.next().await.unread, of(&["a", "b"]));
    bench.write("b.yaml", &service("b", 81));
    assert_eq!(bench.next().await.unread, of(&["a"]));
    // Another file has it.
    bench.write("d.yaml", &service("a", 80));
    assert_eq!(bench.next().await.unread, of(&[]));
    std::fs::remove_file(bench.path("d.yaml")).unwrap();
    assert_eq!(bench.next().await.unread, of(&["a"]));
    std::fs::remove_file(bench.path("a.yaml")).unwrap();
    assert_eq!(bench.next().await.unread, of(&[]));
}

#[tokio::test]
async fn rejected_object_of_another_uid_keeps_nothing_of_the_one_before() {
    let with = |uid: &str, text: String| {
        text.replace("metadata:\n", &format!("metadata:\n  uid: {uid}\n"))
    };
    let (mut bench, first) = Bench::new(&[("f.yaml", &with("one", service("a", 80)))]).await;
    assert_eq!(short(&first), ["a=80"]);
    let reports = |batch: &Batch, words: &str| batch.rejects[0].to_string().contains(words);
    bench.write("f.yaml", &with("one", bad("a")));
    let batch = bench.next().await;
    assert_eq!(short(&batch), [""; 0], "the same object keeps its state");
    assert!(reports(&batch, "its previous state stays"), "{:?}", batch.rejects);
    bench.write("f.yaml", &with("two", bad("a")));
    let batch = bench.next().await;
    assert_eq!((short(&batch), batch.standing), (vec!["a-".to_owned()], 1));
    assert!(reports(&batch, "it has no effect"), "{:?}", batch.rejects);
}

#[tokio::test]
async fn ignored_parts_are_reported_but_do_not_count_as_rejects() {
    let text = service("a", 80).replace("  ports:", "  externalIPs: [239.1.1.1]\n  ports:");
    let (bench, first) = Bench::new(&[("f.yaml", &text)]).await;
    assert_eq!((short(&first), first.standing), (vec!["a=80".to_owned()], 0));
    let reported = words(&first, &bench.path(""));
    let expected =
        "Service default/a: spec.externalIPs[0]: 239.1.1.1 is a multicast address; address ignored";
    assert!(reported.len() == 1 && reported[0].ends_with(expected), "{reported:?}");
    assert_eq!(first.skipped.unusable_addresses, 1);
}
