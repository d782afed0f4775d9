//! `svclb schema`: JSON Schemas of the outputs of `-o json`, made of the types that are printed. Their comments
//! are the descriptions, so they are a document for users. docs/schema/ has the same schemas.

use std::collections::BTreeMap;

use anyhow::Result;
use clap::Args;
use schemars::generate::SchemaSettings;
use schemars::transform::RecursiveTransform;
use schemars::{JsonSchema, Schema};

use super::affinity::AffinityView;
use super::check::Finding;
use super::config::{self, SettingView};
use super::output::{self, BackendView, ServiceView, SocketView, StatusView};
use super::plan::{DiffView, PlanView};
use super::top::TopView;
use super::trace::TraceView;

/// A command that prints JSON, and how to make the schema of what it prints.
type Described = (&'static str, fn() -> Schema);

const SCHEMAS: [Described; 12] = [
    ("services", schema_of::<Vec<ServiceView>>),
    ("backends", schema_of::<Vec<BackendView>>),
    ("sockets", schema_of::<Vec<SocketView>>),
    ("affinity", schema_of::<Vec<AffinityView>>),
    ("top", schema_of::<Vec<TopView>>),
    ("status", schema_of::<StatusView>),
    ("check", schema_of::<Vec<Finding>>),
    ("plan", schema_of::<PlanView>),
    ("diff", schema_of::<Vec<DiffView>>),
    ("trace", schema_of::<TraceView>),
    ("config", schema_of::<Vec<SettingView>>),
    (CONFIGURATION, config::schema),
];

/// The schema of the agent's configuration file, which is no output.
const CONFIGURATION: &str = "agent-configuration";

#[derive(Debug, Args)]
pub(super) struct SchemaArgs {
    /// Command whose output the schema describes, or the agent's configuration file [default: all, as one object with their names]
    #[arg(value_parser = SCHEMAS.map(|(command, _)| command))]
    command: Option<String>,
}

/// `svclb schema`.
pub(super) fn schema(args: &SchemaArgs) -> Result<()> {
    let mut schemas = all();
    let text = match args.command.as_ref().and_then(|command| schemas.remove(command.as_str())) {
        Some(schema) => output::json(&schema),
        None => output::json(&schemas),
    };
    output::print(&text?)
}

/// The schema of each command's output.
fn all() -> BTreeMap<&'static str, Schema> {
    let titled = |(command, make): Described| {
        let mut schema = make();
        if command != CONFIGURATION {
            schema.insert("title".to_owned(), format!("svclb {command} -o json").into());
        }
        (command, schema)
    };
    SCHEMAS.into_iter().map(titled).collect()
}

fn schema_of<T: JsonSchema>() -> Schema {
    let settings = SchemaSettings::draft2020_12().for_serialize();
    let settings = settings.with_transform(RecursiveTransform(unbreak));
    settings.into_generator().into_root_schema_for::<T>()
}

/// Makes one line of a description that the source breaks.
fn unbreak(schema: &mut Schema) {
    if let Some(serde_json::Value::String(text)) = schema.get_mut("description") {
        *text = text.replace('\n', " ");
    }
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::Value;

    use super::super::golden::assert_golden;
    use super::*;

    /// Returns the reasons why this is no output of the command.
    pub(in super::super) fn faults(command: &str, json: &Value) -> Vec<String> {
        let schema = all().remove(command).unwrap();
        let validator = jsonschema::draft202012::new(schema.as_value()).unwrap();
        validator
            .iter_errors(json)
            .map(|error| format!("{}: {error}", error.instance_path()))
            .collect()
    }

    #[test]
    fn the_golden_schemas_in_docs_describe_each_output() {
        for (command, schema) in all() {
            let text = output::json(&schema).unwrap();
            assert_golden(&format!("docs/schema/{command}.json"), &text);
        }
    }

    #[test]
    fn every_field_has_a_description() {
        fn check(command: &str, schema: &Value) {
            for (field, described) in schema["properties"].as_object().into_iter().flatten() {
                let description = described["description"].as_str();
                assert!(description.is_some_and(|it| !it.is_empty()), "{command}: {field}");
            }
            for part in schema.as_object().into_iter().flatten().map(|(_, part)| part) {
                check(command, part);
            }
        }
        for (command, schema) in all() {
            check(command, schema.as_value());
        }
    }
}
