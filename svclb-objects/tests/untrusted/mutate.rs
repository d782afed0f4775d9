//! Malformed objects: valid ones with a few changes of their structure each.

use rand::RngExt as _;
use rand::rngs::ChaCha8Rng;
use rand::seq::IndexedRandom as _;
use serde_json::{Value, json};

/// The kind of an object before it was changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Service,
    Slice,
    Node,
}

pub(crate) struct Mutator {
    pub(crate) rng: ChaCha8Rng,
}

/// Addresses with a meaning, to svclb or to other programs.
const ADDRESSES: [&str; 24] = [
    "10.96.0.1",
    "10.96.0.2",
    "010.096.000.001",
    "192.0.2.250",
    "192.0.2.1",
    "fd00::1",
    "fd00::2",
    "127.0.0.1",
    "127.8.8.8",
    "::1",
    "0.0.0.0",
    "::",
    "169.254.169.254",
    "fe80::1",
    "224.0.0.1",
    "ff02::1",
    "255.255.255.255",
    "::ffff:10.96.0.1",
    "::ffff:127.0.0.1",
    "10.96.0",
    "10.96.0.256",
    "fe80::1%eth0",
    " 10.96.0.1",
    "",
];

/// Hostile texts.
const TEXTS: [&str; 22] = [
    "",
    "a",
    "web",
    "shop",
    "None",
    "Local",
    "ClientIP",
    "SCTP",
    "UDP",
    "ExternalName",
    "Proxy",
    "\u{1b}[2J\u{1b}]0;x\u{7}",
    "a\nERROR b\r",
    "\u{202e}live\u{200b}",
    "\0",
    "../../etc/passwd",
    "A",
    "-a-",
    "a.b",
    "\u{9b}31m",
    "{{.}}%s%n",
    "2026-01-31T12:00:00Z",
];

fn templates() -> [(Kind, Value); 9] {
    let slice = |name: &str, family: &str, addresses: [&str; 2]| {
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": family,
            "metadata": {"name": name, "namespace": "shop", "resourceVersion": "7",
                // Only the first is read; the others name another namespace.
                "labels": {"kubernetes.io/service-name": "web", "namespace": "mall", "topology.kubernetes.io/zone": "mall"},
                "annotations": {"endpoints.kubernetes.io/last-change-trigger-time": "2026-01-31T12:00:00Z"}},
            "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}, {"name": "dns", "port": 53, "protocol": "UDP"}],
            "endpoints": [
                {"addresses": [addresses[0]], "nodeName": "here", "conditions": {"ready": true, "serving": true, "terminating": false}},
                {"addresses": [addresses[1]], "hints": {"forZones": [{"name": "z"}], "forNodes": [{"name": "here"}]}},
            ],
        })
    };
    let service = |name: &str, created: &str, spec: Value| {
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": name, "namespace": "shop", "creationTimestamp": created, "resourceVersion": "7",
                "labels": {"app": name}},
            "spec": spec,
        })
    };
    let mut balanced = service(
        "web",
        "2026-01-03T00:00:00Z",
        json!({
            "type": "LoadBalancer", "clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1", "fd00::1"],
            "externalIPs": ["192.0.2.1"], "loadBalancerSourceRanges": ["0.0.0.0/0"],
            "internalTrafficPolicy": "Local", "externalTrafficPolicy": "Local", "sessionAffinity": "ClientIP",
            "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 10800}},
            "ports": [{"name": "http", "port": 80, "nodePort": 30080}, {"name": "dns", "port": 53, "protocol": "UDP", "nodePort": 30053}],
        }),
    );
    let mut namesake = service(
        "web",
        "2026-01-05T00:00:00Z",
        json!({"clusterIP": "10.96.0.5", "ports": [{"name": "http", "port": 80}, {"name": "dns", "port": 53, "protocol": "UDP"}]}),
    );
    namesake["metadata"]["namespace"] = "mall".into();
    balanced["status"] = json!({"loadBalancer": {"ingress": [{"ip": "203.0.113.1"}, {"ip": "203.0.113.2", "ipMode": "Proxy"}, {"hostname": "x"}]}});
    [
        (
            Kind::Service,
            service(
                "api",
                "2026-01-01T00:00:00Z",
                json!({"clusterIP": "10.96.0.2", "ports": [{"port": 443}]}),
            ),
        ),
        (Kind::Service, balanced),
        (Kind::Service, namesake),
        (
            Kind::Service,
            service(
                "six",
                "2026-01-02T00:00:00Z",
                json!({
                    "clusterIP": "fd00::2", "externalIPs": ["fd00::3", "192.0.2.1"], "ports": [{"name": "http", "port": 80}],
                }),
            ),
        ),
        (
            Kind::Service,
            service(
                "other",
                "2026-01-04T00:00:00Z",
                json!({
                    "type": "NodePort", "clusterIP": "10.96.0.4", "clusterIPs": ["10.96.0.4"],
                    "externalIPs": ["192.0.2.1", "10.96.0.1"],
                    "ports": [{"name": "http", "port": 80, "nodePort": 30080}, {"name": "s", "port": 80, "protocol": "SCTP"}],
                }),
            ),
        ),
        (Kind::Slice, slice("web-1", "IPv4", ["10.244.0.1", "10.244.0.2"])),
        (Kind::Slice, slice("web-2", "IPv4", ["10.244.0.2", "10.244.0.3"])),
        (Kind::Slice, slice("web-6", "IPv6", ["fd01::1", "fd01::2"])),
        (
            Kind::Node,
            json!({
                "apiVersion": "v1", "kind": "Node", "metadata": {"name": "here", "labels": {"topology.kubernetes.io/zone": "z"}},
                "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.250"}, {"type": "Hostname", "address": "here"}]},
            }),
        ),
    ]
}

impl Mutator {
    pub(crate) fn new(rng: ChaCha8Rng) -> Self {
        Self { rng }
    }

    /// An object with a few changes.
    pub(crate) fn object(&mut self) -> (Kind, Value) {
        let templates = templates();
        let at = self.rng.random_range(0..templates.len());
        let (kind, mut object) = templates[at].clone();
        for _ in 0..self.rng.random_range(1..=4) {
            let other = &templates[self.rng.random_range(0..templates.len())].1;
            self.change(&mut object, other);
        }
        (kind, object)
    }

    /// Changes one place of an object.
    fn change(&mut self, object: &mut Value, other: &Value) {
        let mut places = Vec::new();
        collect(object, &mut String::new(), &mut places);
        let Some(path) = places.choose(&mut self.rng).cloned() else { return };
        let Some((parent, key)) = path.rsplit_once('/') else { return };
        let new = self.value(object, &path, other);
        let action = self.rng.random_range(0..10);
        match (object.pointer_mut(parent), action) {
            (Some(Value::Object(fields)), 0 | 1) => drop(fields.shift_remove(&unescaped(key))),
            (Some(Value::Object(fields)), 2) => {
                // Under another field's name, or a new one.
                let names: Vec<String> = fields.keys().cloned().collect();
                let name = names.choose(&mut self.rng).cloned().unwrap_or_default();
                fields.insert(name, new);
            }
            (Some(Value::Array(items)), 0) if !items.is_empty() => drop(items.pop()),
            (Some(Value::Array(items)), 1 | 2) => items.push(new),
            (Some(Value::Array(items)), 3) => {
                let again: Vec<Value> =
                    items.iter().cycle().take(items.len() * 20).cloned().collect();
                *items = again;
            }
            _ => {
                if let Some(value) = object.pointer_mut(&path) {
                    *value = new;
                }
            }
        }
    }

    /// A value for a place, similar to the present one or not.
    fn value(&mut self, object: &Value, path: &str, other: &Value) -> Value {
        let old = object.pointer(path).cloned().unwrap_or_default();
        match self.rng.random_range(0..16) {
            0..=3 => (*ADDRESSES.choose(&mut self.rng).unwrap_or(&"")).into(),
            4..=6 => (*TEXTS.choose(&mut self.rng).unwrap_or(&"")).into(),
            7 | 8 => self.number(),
            9 => Value::Null,
            10 => json!([old, old]),
            11 => json!({"name": old}),
            // The same place of another object, or all of it.
            12 | 13 => other.pointer(path).unwrap_or(other).clone(),
            14 => self.deep(),
            _ => self.long().into(),
        }
    }

    fn number(&mut self) -> Value {
        let numbers = [
            json!(0),
            json!(-1),
            json!(80),
            json!(443),
            json!(30080),
            json!(65_535),
            json!(65_536),
            json!(i64::MAX),
            json!(i64::MIN),
            json!(u64::MAX),
            json!(1.5),
            json!(1e300),
            json!(true),
        ];
        numbers.choose(&mut self.rng).cloned().unwrap_or_default()
    }

    /// A nested value: deeper than people write, and not so deep that parsers refuse it.
    fn deep(&mut self) -> Value {
        let list = self.rng.random();
        (0..self.rng.random_range(1..12)).fold(Value::Null, |inner, _| match list {
            true => json!([inner]),
            false => json!({"kind": "List", "apiVersion": "v1", "items": [inner]}),
        })
    }

    fn long(&mut self) -> String {
        let letter = ["a", "\u{1b}", "é", "\n"].choose(&mut self.rng).copied().unwrap_or("a");
        letter.repeat(self.rng.random_range(60..600))
    }

    /// The text of an object, as JSON or as a document of YAML; now and then one is damaged, which in
    /// JSON would end its file.
    pub(crate) fn text(&mut self, object: &Value, json: bool) -> String {
        if json {
            return object.to_string();
        }
        let block =
            self.rng.random_ratio(1, 2).then(|| serde_saphyr::to_string(object).ok()).flatten();
        // JSON is YAML.
        let text = block.unwrap_or_else(|| object.to_string());
        if !self.rng.random_ratio(1, 8) {
            return text;
        }
        let mut letters: Vec<char> = text.chars().collect();
        let at = self.rng.random_range(0..=letters.len());
        let end = (at + self.rng.random_range(0..6)).min(letters.len());
        let ink = [
            '-', ':', '[', '{', '&', '*', '!', '|', '>', '\'', '"', '#', '%', '@', ',', '}', ']',
            ' ', '\t', '\u{1b}', 'x',
        ];
        let new: Vec<char> = ink.choose(&mut self.rng).copied().into_iter().collect();
        letters.splice(at..end, new);
        let damaged: String = letters.into_iter().collect();
        let splits = damaged.lines().any(|line| line.starts_with("---") || line.starts_with("..."));
        if splits { text } else { damaged }
    }
}

/// The paths of all places in a value.
fn collect(value: &Value, path: &mut String, places: &mut Vec<String>) {
    let mut step = |key: &str, inner: &Value, path: &mut String| {
        let length = path.len();
        path.push('/');
        path.push_str(&key.replace('~', "~0").replace('/', "~1"));
        places.push(path.clone());
        collect(inner, path, places);
        path.truncate(length);
    };
    match value {
        Value::Object(fields) => fields.iter().for_each(|(key, inner)| step(key, inner, path)),
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(at, inner)| step(&at.to_string(), inner, path));
        }
        _ => {}
    }
}

fn unescaped(key: &str) -> String {
    key.replace("~1", "/").replace("~0", "~")
}
