//! Reads the objects of a file in the simplest way, which shares only the parsers with the tested code. It
//! may find more objects than the tested code accepts, but never fewer.

use serde_json::Value;
use serde_saphyr::budget::Budget;
use serde_saphyr::options::{AliasLimits, NonFiniteFloatPolicy};

/// Depth limit of the tested code. Deeper values would overflow the stack.
const DEEPEST: usize = 64;
/// Limit for events that aliases add, as in the tested code. More of them only make an input slow.
const ALIASED: usize = 100_000;
/// Limit that no input reaches.
const MUCH: usize = 1 << 24;

/// Returns every mapping in a file, including nested ones.
pub fn objects(text: &str, json: bool) -> Vec<Value> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut found = Vec::new();
    if json {
        let values = serde_json::Deserializer::from_str(text).into_iter::<Value>();
        values.map_while(Result::ok).for_each(|value| take(&value, &mut found));
    } else {
        documents(text).for_each(|value| take(&value, &mut found));
    }
    found
}

fn take(value: &Value, found: &mut Vec<Value>) {
    match value {
        Value::Object(fields) => {
            found.push(value.clone());
            fields.values().for_each(|value| take(value, found));
        }
        Value::Array(items) => items.iter().for_each(|value| take(value, found)),
        _ => {}
    }
}

/// Returns everything that can be parsed between two markers. Directives come before the marker that begins
/// their document, so that such a document lies between the first and the third marker.
fn documents(text: &str) -> impl Iterator<Item = Value> {
    let (mut starts, mut ends) = (vec![0], Vec::new());
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        let is = |mark: &str| {
            let rest = line.strip_prefix(mark);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
        };
        if is("---") {
            starts.push(at);
            ends.push(at);
        } else if is("...") {
            starts.push(at + line.len());
            ends.push(at);
        }
        at += line.len();
    }
    ends.push(text.len());
    starts.dedup();
    starts.into_iter().flat_map(move |start| {
        let ends = ends.iter().filter(|end| **end > start).take(2);
        ends.filter_map(|end| read(&text[start..*end])).collect::<Vec<_>>()
    })
}

fn read(text: &str) -> Option<Value> {
    let mut budget = Budget::default();
    budget.max_depth = DEEPEST;
    (budget.max_nodes, budget.max_events) = (MUCH, MUCH);
    budget.max_total_scalar_bytes = MUCH;
    let mut aliases = AliasLimits::default();
    aliases.max_total_replayed_events = ALIASED;
    let options = serde_saphyr::options! {
        budget: Some(budget),
        alias_limits: aliases,
        non_finite_float_policy: NonFiniteFloatPolicy::AsString,
        with_snippet: false,
    };
    serde_saphyr::from_str_with_options(text, options).ok()
}
