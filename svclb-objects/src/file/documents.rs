//! The text of a file to documents, and a document to a value. Each document is parsed by itself, so that
//! a broken one affects no other.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::collections::HashMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use serde_saphyr::budget::Budget;
use serde_saphyr::localizer::Localizer;
use serde_saphyr::options::{AliasLimits, NonFiniteFloatPolicy};
use serde_saphyr::{Location, Options, Spanned, UserMessageFormatter};

/// The number of nodes that aliases may add to a document: enough for what people write, not for a bomb.
const ALIASED_NODES: usize = 100_000;
/// The depth to which lists and mappings may be nested. A level takes up to 50 KB of stack in a debug build,
/// so this is for a main thread. Services need less than 20.
const DEEPEST: usize = 64;
/// The longest document in which the line of a wrong field is looked for, bytes.
const LONGEST_SEARCHED: usize = 4 << 20;

/// One document of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Document<'a> {
    /// Its number in the file, from 1.
    pub(super) number: usize,
    /// The line of the file that it begins in, from 1.
    pub(super) line: usize,
    /// Its text.
    pub(super) text: &'a str,
}

/// The reason for which a document cannot be parsed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct ParseError {
    /// The line of the file, from 1.
    pub(super) line: usize,
    /// The problem.
    pub(super) problem: String,
}

/// Splits YAML by its own rule (YAML 1.2.2, 9.1): a line that begins with `---` and then a blank or its
/// end begins a document, `...` ends one. Neither can stand at the beginning of a line inside a
/// document. Comments and directives before a document's `---` are part of it, no document themselves.
pub(super) fn split(text: &str) -> Vec<Document<'_>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut documents = Vec::new();
    // The document being collected: where it begins, and whether it is one yet.
    let (mut start, mut start_line) = (0, 1);
    let (mut marked, mut content) = (false, false);
    let mut offset = 0;
    let mut finish = |start: usize, end: usize, line: usize| {
        documents.push(Document { number: documents.len() + 1, line, text: &text[start..end] });
    };
    for (index, line) in text.split_inclusive('\n').enumerate() {
        let next = offset + line.len();
        if let Some(rest) = marker(line, "---") {
            if marked || content {
                finish(start, offset, start_line);
                (start, start_line) = (offset, index + 1);
            }
            (marked, content) = (true, has_content(rest));
        } else if marker(line, "...").is_some() {
            if marked || content {
                finish(start, offset, start_line);
            }
            (start, start_line) = (next, index + 2);
            (marked, content) = (false, false);
        } else if !content {
            content = has_content(line) && (marked || !line.starts_with('%'));
        }
        offset = next;
    }
    if marked || content {
        finish(start, text.len(), start_line);
    }
    documents
}

fn marker<'a>(line: &'a str, mark: &str) -> Option<&'a str> {
    line.strip_prefix(mark)
        .filter(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
}

fn has_content(line: &str) -> bool {
    let line = line.trim();
    !line.is_empty() && !line.starts_with('#')
}

/// Parses one document of YAML. An empty one is null.
pub(super) fn parse(document: &Document<'_>) -> Result<Value, ParseError> {
    serde_saphyr::from_str_with_options(document.text, options(document.text)).map_err(|error| {
        let formatter = UserMessageFormatter.with_localizer(&WithoutPlaces);
        let inner = error.location().map_or(1, |location| location.line());
        let inner = usize::try_from(inner).unwrap_or(1).max(1);
        ParseError {
            line: document.line + inner - 1,
            problem: error.render_with_formatter(&formatter),
        }
    })
}

/// Parses JSON: one value after the other, as `kubectl` takes them. Values after an error
/// cannot be separated, so the error is the last.
pub(super) fn parse_json(text: &str) -> impl Iterator<Item = (usize, Result<Value, ParseError>)> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let values = serde_json::Deserializer::from_str(text).into_iter::<Value>();
    values.enumerate().map(|(index, value)| {
        let value = value.map_err(|error| {
            // It ends in " at line 1 column 2", which `line` holds.
            let words = error.to_string();
            let words = words.rsplit_once(" at line ").map_or(words.as_str(), |(words, _)| words);
            ParseError { line: error.line().max(1), problem: words.to_owned() }
        });
        (index + 1, value)
    })
}

fn options(text: &str) -> Options {
    // A node takes at least one byte of text, unless it comes from an alias.
    let nodes = text.len() + ALIASED_NODES;
    let mut budget = Budget::default();
    budget.max_depth = DEEPEST;
    budget.max_nodes = nodes;
    budget.max_events = nodes.saturating_mul(2);
    budget.max_total_scalar_bytes = text.len().saturating_mul(2) + (1 << 20);
    let mut aliases = AliasLimits::default();
    aliases.max_total_replayed_events = ALIASED_NODES;
    serde_saphyr::options! {
        budget: Some(budget),
        alias_limits: aliases,
        non_finite_float_policy: NonFiniteFloatPolicy::AsString,
        with_snippet: false,
    }
}

/// The parser's words without lines and columns, which count from the document's beginning.
struct WithoutPlaces;

impl Localizer for WithoutPlaces {
    fn attach_location<'a>(&self, base: Cow<'a, str>, _: Location) -> Cow<'a, str> {
        base
    }

    fn alias_defined_at(&self, _: Location) -> String {
        String::new()
    }

    fn alias_used_at(&self, _: Location) -> String {
        String::new()
    }
}

/// The lines of the fields of a document. The document is parsed once more for them, when the first is
/// looked up, since only those of rejects are; and once for all, since a document may hold many rejects.
pub(super) struct Lines<'a> {
    document: &'a Document<'a>,
    tree: OnceCell<Option<Spanned<Tree>>>,
}

impl<'a> Lines<'a> {
    /// Returns the lines of this document.
    pub(super) const fn of(document: &'a Document<'a>) -> Self {
        Self { document, tree: OnceCell::new() }
    }

    /// The line of the file on which a field stands, such as `spec.ports[1].port`; of what holds it, when
    /// it is missing itself.
    pub(super) fn of_field(&self, field: &str) -> usize {
        let Some(tree) = self.tree.get_or_init(|| tree(self.document)) else {
            return self.document.line;
        };
        let mut node = tree;
        let mut line = node.referenced.line();
        for part in field.split(['.', '[', ']']).filter(|part| !part.is_empty()) {
            let next = match &node.value {
                Tree::Map(fields) => fields.get(part),
                Tree::List(items) => part.parse::<usize>().ok().and_then(|index| items.get(index)),
                Tree::Leaf => None,
            };
            let Some(next) = next else { break };
            node = next;
            line = node.referenced.line();
        }
        self.document.line + usize::try_from(line).unwrap_or(1).max(1) - 1
    }
}

fn tree(document: &Document<'_>) -> Option<Spanned<Tree>> {
    if document.text.len() > LONGEST_SEARCHED {
        return None;
    }
    serde_saphyr::from_str_with_options(document.text, options(document.text)).ok()
}

/// The shape of a document with the places of its values.
enum Tree {
    Map(HashMap<String, Spanned<Tree>>),
    List(Vec<Spanned<Tree>>),
    Leaf,
}

/// Methods of a visitor for the types of scalars.
macro_rules! leaves {
    ($($visit:ident($($scalar:ty)?)),*) => {
        $(fn $visit<E>(self $(, _: $scalar)?) -> Result<Tree, E> {
            Ok(Tree::Leaf)
        })*
    };
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AnyTree;
        impl<'de> Visitor<'de> for AnyTree {
            type Value = Tree;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("any value")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Tree, A::Error> {
                let mut fields = HashMap::new();
                while let Some((key, value)) = map.next_entry()? {
                    fields.insert(key, value);
                }
                Ok(Tree::Map(fields))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Tree, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = seq.next_element()? {
                    items.push(item);
                }
                Ok(Tree::List(items))
            }

            leaves!(visit_bool(bool), visit_i64(i64), visit_u64(u64), visit_f64(f64));
            leaves!(visit_str(&str), visit_bytes(&[u8]), visit_unit(), visit_none());
        }
        deserializer.deserialize_any(AnyTree)
    }
}
