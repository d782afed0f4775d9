//! Reads a configuration file.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use clap::{ArgMatches, Command};
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::localizer::Localizer;
use serde_saphyr::{Location, Spanned, UserMessageFormatter};

use super::field::{API_VERSION, Field, KIND, Kind};
use super::is_given;

/// The most bytes of a file.
const LONGEST: u64 = 64 << 10;
/// Names that are at least as alike are suggested, as in clap.
const ALIKE: f64 = 0.7;

/// The values of a file.
#[derive(Debug)]
pub(super) struct ConfigFile {
    path: PathBuf,
    /// Values by the ids of their flags.
    values: BTreeMap<String, FileValue>,
}

#[derive(Debug)]
struct FileValue {
    name: String,
    line: u64,
    values: Vec<String>,
}

impl ConfigFile {
    /// Reads a file, and checks each value as its flag of this command does.
    ///
    /// # Errors
    /// When it cannot be read or used, with file, line and field.
    pub(super) fn read(path: &Path, agent: &Command) -> Result<Self> {
        let cannot = || format!("cannot read the configuration file {}", path.display());
        let mut text = String::new();
        let file = File::open(path).with_context(cannot)?;
        file.take(LONGEST + 1).read_to_string(&mut text).with_context(cannot)?;
        let length = u64::try_from(text.len())?;
        ensure!(length <= LONGEST, "{}: it is longer than {LONGEST} bytes", path.display());
        Self::parse(path, &text, agent)
    }

    pub(super) fn parse(path: &Path, text: &str, agent: &Command) -> Result<Self> {
        let shown = path.display();
        let options = serde_saphyr::options! { with_snippet: false };
        let tree: Spanned<Tree> =
            serde_saphyr::from_str_with_options(text, options).map_err(|error| {
                let line = error.location().map_or(1, |location| location.line());
                let formatter = UserMessageFormatter.with_localizer(&WithoutPlaces);
                anyhow::anyhow!("{shown}:{line}: {}", error.render_with_formatter(&formatter))
            })?;
        let Tree::Map(entries) = tree.value else {
            bail!("{shown}:1: expected the fields of {KIND}, found {}", tree.value.words());
        };
        let fields = Field::all(agent);
        let mut values = BTreeMap::new();
        let mut missing = vec![("apiVersion", API_VERSION), ("kind", KIND)];
        for (key, value) in entries {
            let (name, line) = (key.value, key.referenced.line());
            if let Some(at) = missing.iter().position(|(required, _)| *required == name) {
                let (_, expected) = missing.remove(at);
                let found = value.value.words();
                ensure!(
                    matches!(&value.value, Tree::Text(text) if text == expected),
                    "{shown}:{line}: {name}: expected {expected}, found {found}"
                );
                continue;
            }
            let Some(field) = fields.iter().find(|field| field.name == name) else {
                let known = fields.iter().map(|field| field.name.as_str());
                bail!("{shown}:{line}: unknown field `{name}`{}", suggestion(&name, known));
            };
            let place = |line| format!("{shown}:{line}: {name}");
            let values_of_field = texts(field.kind, value, &place)?;
            for (value, line) in &values_of_field {
                if field.kind != Kind::Switch {
                    let checked = field.check(agent, std::slice::from_ref(value));
                    checked
                        .map_err(|why| anyhow::anyhow!("{}: \"{value}\": {why}", place(*line)))?;
                }
            }
            let texts: Vec<String> = values_of_field.into_iter().map(|(text, _)| text).collect();
            // An empty list is the default.
            if !texts.is_empty() {
                values.insert(field.id.clone(), FileValue { name, line, values: texts });
            }
        }
        if let Some((name, expected)) = missing.first() {
            bail!("{shown}:1: missing field `{name}`: expected {expected}");
        }
        let file = Self { path: path.to_owned(), values };
        file.check_conflicts(agent)?;
        Ok(file)
    }

    fn check_conflicts(&self, agent: &Command) -> Result<()> {
        for (id, value) in &self.values {
            let conflicts = conflicts(agent, id);
            if let Some(other) = conflicts.iter().find_map(|other| self.values.get(other)) {
                let (FileValue { name, line, .. }, path) = (value, self.path.display());
                bail!(
                    "{path}:{line}: {name} cannot be used with {} (line {})",
                    other.name,
                    other.line
                );
            }
        }
        Ok(())
    }

    /// Makes the values the defaults of a command's flags, but those that conflict with what is given: that
    /// comes first.
    pub(super) fn apply(&mut self, mut command: Command, given: &ArgMatches) -> Command {
        self.values.retain(|id, _| {
            !conflicts(&command, id).iter().any(|conflict| is_given(given, conflict))
        });
        for (id, value) in &self.values {
            if command.get_arguments().any(|flag| flag.get_id() == id.as_str()) {
                command = command.mut_arg(id, |flag| flag.default_values(value.values.clone()));
            }
        }
        command
    }

    /// Returns file and line of the value for a flag.
    pub(super) fn place_of(&self, id: &str) -> Option<String> {
        Some(format!("{}:{}", self.path.display(), self.values.get(id)?.line))
    }
}

/// Returns the flags that cannot be used with this one, whichever of both has the rule.
fn conflicts(command: &Command, id: &str) -> Vec<String> {
    let mut found = Vec::new();
    for flag in command.get_arguments() {
        for other in command.get_arg_conflicts_with(flag) {
            let (flag, other) = (flag.get_id().as_str(), other.get_id().as_str());
            if flag == id {
                found.push(other.to_owned());
            } else if other == id {
                found.push(flag.to_owned());
            }
        }
    }
    found
}

/// Returns the values of a field as text, each with its line.
fn texts(
    kind: Kind,
    value: Spanned<Tree>,
    place: &impl Fn(u64) -> String,
) -> Result<Vec<(String, u64)>> {
    let line = value.referenced.line();
    let found = value.value.words();
    match (kind, value.value) {
        (Kind::List, Tree::List(items)) => {
            let texts = items.into_iter().map(|item| texts(Kind::Text, item, place));
            Ok(texts.collect::<Result<Vec<_>>>()?.concat())
        }
        (Kind::Switch, Tree::Switch(value)) => Ok(vec![(value.to_string(), line)]),
        (Kind::Number, Tree::Number(text)) | (Kind::Text, Tree::Text(text)) => {
            Ok(vec![(text, line)])
        }
        _ => bail!("{}: expected {}, found {found}", place(line), kind.words()),
    }
}

/// Returns the words on the name that was meant, if one is alike.
fn suggestion<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> String {
    let scored = known.map(|other| (strsim::jaro(name, other), other));
    let best = scored.max_by(|(one, _), (other, _)| one.total_cmp(other));
    match best.filter(|(score, _)| *score > ALIKE) {
        Some((_, other)) => format!(", did you mean `{other}`?"),
        None => ", svclb schema agent-configuration lists the fields".to_owned(),
    }
}

/// A document with the places of its values.
#[derive(Debug)]
enum Tree {
    Nothing,
    Switch(bool),
    Number(String),
    Text(String),
    List(Vec<Spanned<Self>>),
    Map(Vec<(Spanned<String>, Spanned<Self>)>),
}

impl Tree {
    /// The value in an error.
    fn words(&self) -> String {
        match self {
            Self::Nothing => "nothing".to_owned(),
            Self::Switch(value) => value.to_string(),
            Self::Number(text) => text.clone(),
            Self::Text(text) => format!("\"{text}\""),
            Self::List(_) => "a list".to_owned(),
            Self::Map(_) => "fields".to_owned(),
        }
    }
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TreeVisitor)
    }
}

struct TreeVisitor;

impl<'de> Visitor<'de> for TreeVisitor {
    type Value = Tree;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Tree, E> {
        Ok(Tree::Nothing)
    }

    fn visit_none<E>(self) -> Result<Tree, E> {
        Ok(Tree::Nothing)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Tree, D::Error> {
        Tree::deserialize(deserializer)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Tree, E> {
        Ok(Tree::Switch(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Tree, E> {
        Ok(Tree::Number(value.to_string()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Tree, E> {
        Ok(Tree::Number(value.to_string()))
    }

    fn visit_i128<E>(self, value: i128) -> Result<Tree, E> {
        Ok(Tree::Number(value.to_string()))
    }

    fn visit_u128<E>(self, value: u128) -> Result<Tree, E> {
        Ok(Tree::Number(value.to_string()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Tree, E> {
        Ok(Tree::Number(value.to_string()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Tree, E> {
        Ok(Tree::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Tree, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Tree::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Tree, A::Error> {
        let mut map = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            map.push(entry);
        }
        Ok(Tree::Map(map))
    }
}

/// The parser's words without lines and columns: the error begins with the line.
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
