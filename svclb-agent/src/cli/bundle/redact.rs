//! Placeholders for addresses and names. The same address or name has the same placeholder in all parts.
//!
//! Names are those of services and pods in the parts that were read before or are redacted, and of the node. Loopback and the unspecified
//! address are no secrets.

use std::collections::HashMap;
use std::net::IpAddr;

use serde_json::Value;

use super::parts::Content;

#[derive(Debug, Default)]
pub(super) struct Redactor {
    names: HashMap<String, String>,
    addresses: HashMap<IpAddr, String>,
    settings: HashMap<String, String>,
}

impl Redactor {
    /// Returns a redactor that knows the name of this node.
    pub(super) fn of_node() -> Self {
        let mut redactor = Self::default();
        if let Ok(name) = std::fs::read_to_string("/proc/sys/kernel/hostname") {
            redactor.learn(name.trim());
        }
        redactor
    }

    /// Redacts a part. Names of services that it has are known from here on.
    pub(super) fn content(&mut self, content: Content) -> Content {
        match content {
            Content::Json(mut value) => {
                self.learn_rows(&value);
                self.hide_settings(&mut value);
                self.value(&mut value);
                Content::Json(value)
            }
            Content::Text(text) => Content::Text(self.text(&text)),
            Content::Unread(reason) => Content::Unread(self.text(&reason)),
        }
    }

    fn learn(&mut self, name: &str) {
        if !name.is_empty() && !self.names.contains_key(name) {
            let placeholder = format!("name-{}", self.names.len() + 1);
            self.names.insert(name.to_owned(), placeholder);
        }
    }

    /// Learns the names in rows: of services and backends, which have a namespace, and of sockets, whose service
    /// and pod are one text.
    fn learn_rows(&mut self, value: &Value) {
        for row in value.as_array().into_iter().flatten() {
            let texts = |fields: &[&str]| -> Vec<&str> {
                fields.iter().filter_map(|field| row.get(field)?.as_str()).collect()
            };
            if row.get("namespace").is_some() {
                let names = texts(&["namespace", "name", "service", "port_name"]);
                names.into_iter().for_each(|name| self.learn(name));
            }
            let paths = texts(&["service", "pod"]).into_iter().filter(|text| text.contains('/'));
            for name in paths.flat_map(|path| path.split(['/', ':'])) {
                self.learn(name);
            }
        }
    }

    /// Hides paths, names and URLs that an operator has set.
    fn hide_settings(&mut self, value: &mut Value) {
        for row in value.as_array_mut().into_iter().flatten() {
            let Some(origin) = row.get("origin").and_then(Value::as_str) else { continue };
            if origin == "default" {
                continue;
            }
            let is_file = origin == "file";
            match row.get_mut("value") {
                Some(Value::String(text)) => *text = self.setting(text),
                Some(Value::Array(items)) => {
                    for item in items {
                        if let Value::String(text) = item {
                            *text = self.setting(text);
                        }
                    }
                }
                _ => {}
            }
            if let Some(Value::String(place)) = row.get_mut("place").filter(|_| is_file) {
                *place = format!("file:{}", place.rsplit(':').next().unwrap_or_default());
            }
        }
    }

    fn setting(&mut self, text: &str) -> String {
        let next = format!("setting-{}", self.settings.len() + 1);
        self.settings.entry(text.to_owned()).or_insert(next).clone()
    }

    fn value(&mut self, value: &mut Value) {
        match value {
            Value::String(text) => *text = self.text(text),
            Value::Array(items) => items.iter_mut().for_each(|item| self.value(item)),
            Value::Object(fields) => fields.values_mut().for_each(|field| self.value(field)),
            _ => {}
        }
    }

    /// Redacts a text.
    pub(super) fn text(&mut self, text: &str) -> String {
        let (mut redacted, mut rest) = (String::with_capacity(text.len()), text);
        while let Some(first) = rest.chars().next() {
            if !is_word(first) && first != ':' {
                redacted.push(first);
                rest = rest.get(first.len_utf8()..).unwrap_or_default();
                continue;
            }
            let (length, placeholder) = self.next(rest);
            let (word, after) = rest.split_at(length);
            redacted.push_str(placeholder.as_deref().unwrap_or(word));
            rest = after;
        }
        redacted
    }

    /// Returns the length of the address, name or word at the beginning of a text, and its placeholder.
    fn next(&mut self, text: &str) -> (usize, Option<String>) {
        let is_of_address =
            |letter: char| letter.is_ascii_hexdigit() || matches!(letter, '.' | ':');
        let run = span(text, is_of_address);
        let whole = span(text, is_word);
        // An address may be followed by a port or a full stop.
        let ends = run.char_indices().filter(|(_, letter)| matches!(letter, '.' | ':'));
        let ends: Vec<usize> = ends.map(|(at, _)| at).chain([run.len()]).collect();
        for end in ends.into_iter().rev().filter(|end| *end > 1) {
            if let Some(Ok(address)) = text.get(..end).map(str::parse::<IpAddr>) {
                return (end, self.address(address));
            }
        }
        // Names of other objects begin with a service's name, as `web-abc12` with `web`.
        let ends = whole.char_indices().filter(|(_, letter)| !letter.is_alphanumeric());
        let ends: Vec<usize> = ends.map(|(at, _)| at).chain([whole.len()]).collect();
        for end in ends.iter().rev() {
            if let Some(placeholder) = text.get(..*end).and_then(|name| self.names.get(name)) {
                return (*end, Some(placeholder.clone()));
            }
        }
        (ends.first().copied().unwrap_or(0).max(1), None)
    }

    fn address(&mut self, address: IpAddr) -> Option<String> {
        let address = address.to_canonical();
        if address.is_loopback() || address.is_unspecified() {
            return None;
        }
        let next = format!("address-{}", self.addresses.len() + 1);
        Some(self.addresses.entry(address).or_insert(next).clone())
    }
}

/// Letters of names.
fn is_word(letter: char) -> bool {
    letter.is_alphanumeric() || matches!(letter, '-' | '.' | '_')
}

/// Returns the beginning of a text that has only such letters.
fn span(text: &str, is_in: impl Fn(char) -> bool) -> &str {
    let end = text.find(|letter| !is_in(letter)).unwrap_or(text.len());
    text.get(..end).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_same_address_or_name_has_the_same_placeholder() {
        let mut redactor = Redactor::default();
        let rows = json!([{"namespace": "shop", "name": "web", "port_name": "", "frontends": ["10.96.0.10:80", "[fd00::10]:80"]}]);
        let Content::Json(rows) = redactor.content(Content::Json(rows)) else { unreachable!() };
        let expected = json!([{"namespace": "name-1", "name": "name-2", "port_name": "", "frontends": ["address-1:80", "[address-2]:80"]}]);
        assert_eq!(rows, expected);
        let rows = [
            ("shop/web: 10.96.0.10 is in use.", "name-1/name-2: address-1 is in use."),
            ("web-abc12.shop.svc webbed a.web", "name-2-abc12.name-1.svc webbed a.name-2"),
            (
                "at ::ffff:10.96.0.10, fd00::10 or 10.96.0.11.",
                "at address-1, address-2 or address-3.",
            ),
            ("10.96.0.0/16 127.0.0.1:80 :: [::1]:8080", "address-4/16 127.0.0.1:80 :: [::1]:8080"),
            ("12:30:01 größer 1.2.3 /sys/fs/bpf", "12:30:01 größer 1.2.3 /sys/fs/bpf"),
        ];
        for (text, expected) in rows {
            assert_eq!(redactor.text(text), expected, "{text}");
        }
    }

    #[test]
    fn names_of_sockets_are_hidden_where_nothing_else_could_be_read() {
        let rows = json!([{"service": "shop/web:http", "pod": "shop/cart-0", "cookie": 1}]);
        let Content::Json(rows) = Redactor::default().content(Content::Json(rows)) else {
            unreachable!()
        };
        let expected =
            json!([{"service": "name-1/name-2:name-3", "pod": "name-1/name-4", "cookie": 1}]);
        assert_eq!(rows, expected);
    }

    #[test]
    fn what_an_operator_has_set_is_hidden_and_defaults_stay() {
        let settings = json!([
            {"name": "node", "value": "here", "origin": "flag", "place": "--node"},
            {"name": "from", "value": ["/srv/shop.yaml"], "origin": "file", "place": "/etc/shop.yaml:4"},
            {"name": "logFormat", "value": "text", "origin": "default", "place": ""},
        ]);
        let Content::Json(hidden) = Redactor::default().content(Content::Json(settings)) else {
            unreachable!()
        };
        let text = hidden.to_string();
        assert!(!text.contains("here") && !text.contains("shop"), "{text}");
        assert_eq!((&hidden[1]["place"], &hidden[2]["value"]), (&"file:4".into(), &"text".into()));
    }
}
