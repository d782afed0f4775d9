//! The fields of the configuration file, made of the flags of `svclb agent`.

use std::any::TypeId;
use std::num::NonZeroUsize;

use clap::{Arg, ArgAction, Command};
use schemars::Schema;
use serde_json::{Map, Value, json};

use super::{FLAG, agent_command, text};

/// `apiVersion` of the file.
pub(super) const API_VERSION: &str = "svclb.dev/v1alpha1";
/// `kind` of the file.
pub(super) const KIND: &str = "AgentConfiguration";

/// The type of a field.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Switch,
    Number,
    Text,
    List,
}

impl Kind {
    fn of(flag: &Arg) -> Self {
        let numbers = [
            TypeId::of::<NonZeroUsize>(),
            TypeId::of::<u8>(),
            TypeId::of::<u32>(),
            TypeId::of::<u64>(),
        ];
        let parsed = flag.get_value_parser().type_id();
        match flag.get_action() {
            action if !action.takes_values() => Self::Switch,
            ArgAction::Append => Self::List,
            _ if numbers.iter().any(|number| parsed == *number) => Self::Number,
            _ => Self::Text,
        }
    }

    /// The kind in an error.
    pub(super) const fn words(self) -> &'static str {
        match self {
            Self::Switch => "true or false",
            Self::Number => "a number",
            Self::Text => "a text",
            Self::List => "a list of texts",
        }
    }

    /// A value that clap has as text.
    pub(super) fn value(self, text: &str) -> Value {
        let typed = match self {
            Self::Switch => text.parse::<bool>().ok().map(Value::from),
            Self::Number => text.parse::<u64>().ok().map(Value::from),
            Self::Text | Self::List => None,
        };
        typed.unwrap_or_else(|| text.into())
    }
}

/// A field of the file.
#[derive(Clone, Debug)]
pub(super) struct Field {
    /// Its name in the file.
    pub(super) name: String,
    /// The id of its flag in clap.
    pub(super) id: String,
    /// Its flag, without the hyphens.
    pub(super) long: String,
    pub(super) kind: Kind,
    /// The text of the flag, without its default.
    help: String,
    /// The default that the text of the flag has.
    pub(super) described: Option<String>,
    defaults: Vec<String>,
    /// The words that it takes, if others are refused.
    choices: Vec<String>,
}

impl Field {
    /// Returns the field of a flag.
    pub(super) fn of(flag: &Arg) -> Self {
        let help = flag.get_long_help().or(flag.get_help()).map(ToString::to_string);
        let help = help.unwrap_or_default();
        let described = help.strip_suffix(']').and_then(|text| text.split_once(" [default: "));
        let (meaning, described) =
            described.map_or((help.as_str(), None), |(meaning, default)| (meaning, Some(default)));
        let kind = Kind::of(flag);
        let choices = if kind == Kind::Text { flag.get_possible_values() } else { Vec::new() };
        Self {
            name: camel_case(flag.get_id().as_str()),
            id: flag.get_id().to_string(),
            long: flag.get_long().unwrap_or_default().to_owned(),
            kind,
            help: meaning.to_owned(),
            described: described.map(str::to_owned),
            defaults: flag.get_default_values().iter().map(|value| text(value)).collect(),
            choices: choices.iter().map(|choice| choice.get_name().to_owned()).collect(),
        }
    }

    /// Returns the fields: the visible flags but the one that names the file.
    pub(super) fn all(agent: &Command) -> Vec<Self> {
        let flags = agent.get_arguments().filter(|flag| !flag.is_hide_set());
        flags.filter(|flag| flag.get_id() != FLAG).map(Self::of).collect()
    }

    /// Checks values as the flag does.
    ///
    /// # Errors
    /// The reason.
    pub(super) fn check(&self, agent: &Command, values: &[String]) -> Result<(), String> {
        let flags = values.iter().map(|value| format!("--{}={value}", self.long));
        let flags = ["agent".to_owned()].into_iter().chain(flags);
        let parsed = agent.clone().try_get_matches_from(flags);
        parsed.map(|_| ()).map_err(|error| reason(&error))
    }

    /// Its default, if it has one of its own.
    fn default(&self) -> Option<Value> {
        match (self.kind, self.defaults.first(), &self.described) {
            (Kind::Switch, ..) => Some(false.into()),
            (Kind::List, ..) => None,
            (kind, Some(default), _) => Some(kind.value(default)),
            (Kind::Number, None, Some(default)) => Some(Kind::Number.value(default)),
            _ => None,
        }
    }

    fn schema(&self, agent: &Command) -> Value {
        let text = || json!({"type": "string", "minLength": 1});
        let kind = match self.kind {
            Kind::Switch => json!({"type": "boolean"}),
            Kind::Number => {
                let is_taken = |number: &u64| self.check(agent, &[number.to_string()]).is_ok();
                let minimum = (0..=1).find(is_taken);
                if is_taken(&u64::from(u8::MAX)) {
                    json!({"type": "integer", "minimum": minimum})
                } else {
                    let maximum = (1..u64::from(u8::MAX)).rev().find(is_taken);
                    json!({"type": "integer", "minimum": minimum, "maximum": maximum})
                }
            }
            Kind::Text if !self.choices.is_empty() => json!({"enum": self.choices}),
            Kind::Text => text(),
            Kind::List => json!({"type": "array", "items": text()}),
        };
        let Value::Object(mut schema) = kind else { return kind };
        let (description, default) = match (self.default(), &self.described) {
            (None, Some(described)) => (format!("{}. Default: {described}", self.help), None),
            (default, _) => (self.help.clone(), default),
        };
        schema.insert("description".to_owned(), description.into());
        schema.extend(default.map(|default| ("default".to_owned(), default)));
        schema.into()
    }
}

/// Returns the words of clap on a value, without those on the command line.
fn reason(error: &clap::Error) -> String {
    use clap::error::{ContextKind, ContextValue};
    if let Some(inner) = std::error::Error::source(error) {
        return inner.to_string();
    }
    match error.get(ContextKind::ValidValue) {
        Some(ContextValue::Strings(words)) if !words.is_empty() => {
            format!("expected one of {}", words.join(", "))
        }
        _ => "expected a value".to_owned(),
    }
}

fn camel_case(id: &str) -> String {
    let mut name = String::new();
    for (index, word) in id.split('_').enumerate() {
        let mut letters = word.chars();
        match letters.next() {
            Some(first) if index > 0 => name.extend(first.to_uppercase()),
            first => name.extend(first),
        }
        name.push_str(letters.as_str());
    }
    name
}

/// Returns the JSON Schema of the file.
pub(in crate::cli) fn schema() -> Schema {
    let agent = agent_command();
    let mut properties = Map::new();
    let constant =
        |value: &str, description: &str| json!({"const": value, "description": description});
    properties.insert("apiVersion".to_owned(), constant(API_VERSION, "Version of the format."));
    properties.insert("kind".to_owned(), constant(KIND, "Kind of the file."));
    properties
        .extend(Field::all(&agent).iter().map(|field| (field.name.clone(), field.schema(&agent))));
    let mut schema = Map::new();
    schema.insert("$schema".to_owned(), "https://json-schema.org/draft/2020-12/schema".into());
    schema.insert("title".to_owned(), KIND.into());
    schema.insert("description".to_owned(), "Configuration file of `svclb agent --config`.".into());
    schema.insert("type".to_owned(), "object".into());
    schema.insert("properties".to_owned(), properties.into());
    schema.insert("required".to_owned(), json!(["apiVersion", "kind"]));
    schema.insert("additionalProperties".to_owned(), false.into());
    schema.into()
}

/// Returns a file with every field: those with a default have it, the others are commented out.
#[cfg(test)]
pub(super) fn example() -> String {
    let mut example = format!("apiVersion: {API_VERSION}\nkind: {KIND}\n");
    for field in Field::all(&agent_command()) {
        example += &format!("\n# {}", field.help);
        if !field.choices.is_empty() {
            example += &format!(": {}", field.choices.join(", "));
        }
        if let (None, Some(described)) = (field.default(), &field.described) {
            example += &format!(" (default: {described})");
        }
        example += &match (field.default(), field.kind) {
            (Some(Value::String(text)), _) => format!("\n{}: {text}\n", field.name),
            (Some(default), _) => format!("\n{}: {default}\n", field.name),
            (None, Kind::List) => format!("\n# {}: []\n", field.name),
            (None, _) => format!("\n# {}: \"\"\n", field.name),
        };
    }
    example
}
