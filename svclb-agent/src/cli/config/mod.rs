//! Settings of the agent: each flag of `svclb agent` is also a field of its configuration file, and
//! `svclb config` shows which value is used and where it comes from.
//!
//! The fields are made of the definition of the flags, so a new flag is a new field. A value of the file becomes
//! the default of its flag: clap puts flag and environment before it, and parses it as it parses the flag's.
//!
//! * `field`: fields and their schema. `file`: reads a file. `running`: the settings of an agent that runs.

mod field;
mod file;
mod running;

use std::borrow::Cow;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use anyhow::Result;
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Args, Command, CommandFactory as _, FromArgMatches as _};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::output::{self, Column, ListRow};
use super::{Cli, ListArgs};
pub(super) use field::schema;
use field::{Field, Kind};
use file::ConfigFile;
pub(super) use running::publish;

/// Commands that read a configuration file by `--config`. It is the agent's; others pass over what they lack.
const WITH_FILE: [&str; 4] = [AGENT, "plan", "diff", "trace"];
/// Command whose flags are the fields.
const AGENT: &str = "agent";
/// Flag that names the file.
const FLAG: &str = "config";

#[derive(Debug, Args)]
pub(super) struct FileArgs {
    /// Take settings that neither a flag nor the environment has from this file (docs/config.md)
    #[arg(id = FLAG, long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    _file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct ConfigArgs {
    #[command(flatten)]
    list: ListArgs,
    /// Show what an agent with this file would use, instead of what the running agent uses
    #[arg(long, value_name = "FILE", conflicts_with = "agent_args", value_hint = clap::ValueHint::FilePath)]
    config: Option<PathBuf>,
    /// Show what an agent with these flags would use, instead of what the running agent uses
    #[arg(last = true, value_name = "AGENT_FLAGS")]
    agent_args: Vec<OsString>,
}

/// Where a value comes from, the strongest first.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Origin {
    /// A flag.
    Flag,
    /// A variable of the environment.
    Environment,
    /// The configuration file.
    File,
    /// The default.
    Default,
}

impl Origin {
    const fn word(self) -> &'static str {
        match self {
            Self::Flag => "flag",
            Self::Environment => "environment",
            Self::File => "file",
            Self::Default => "default",
        }
    }
}

/// A setting of the agent.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Setting")]
pub(super) struct SettingView {
    /// Its name in the configuration file.
    name: String,
    /// Its value, without passwords and queries of URLs; null where the agent finds it out when it starts.
    value: Value,
    /// How the agent finds out a value that is null; empty otherwise.
    described: String,
    /// Where the value comes from.
    origin: Origin,
    /// The flag, the variable, or the file and its line; empty for a default.
    place: String,
}

impl SettingView {
    fn shown(&self) -> String {
        match &self.value {
            Value::Null => format!("({})", self.described),
            Value::String(text) => text.clone(),
            Value::Array(items) => {
                items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(",")
            }
            other => other.to_string(),
        }
    }
}

impl ListRow for SettingView {
    const COLUMNS: &'static [Column<Self>] = &[
        ("SETTING", |row| row.name.clone()),
        ("VALUE", Self::shown),
        ("FROM", |row| row.origin.word().to_owned()),
        ("PLACE", |row| row.place.clone()),
    ];

    fn name(&self) -> String {
        self.name.clone()
    }
}

/// A parsed command line.
pub(super) struct Parsed {
    pub(super) cli: Cli,
    /// The settings of an agent; empty for commands that have none.
    pub(super) settings: Vec<SettingView>,
}

/// Parses a command line, with the configuration file that it names. A command line that cannot be used ends
/// this process, as clap does it.
///
/// # Errors
/// When the file cannot be used.
pub(super) fn parse(arguments: &[OsString]) -> Result<Parsed> {
    let mut command = Cli::command();
    let mut matches = command.clone().get_matches_from(arguments);
    let mut file = None;
    if let Some((name, given)) = matches.subcommand()
        && WITH_FILE.contains(&name)
        && let Some(path) = given.get_one::<PathBuf>(FLAG)
    {
        let mut read = ConfigFile::read(path, &agent_command())?;
        let name = name.to_owned();
        command = command.mut_subcommand(&name, |it| read.apply(it, given));
        matches = command.get_matches_from(arguments);
        file = Some(read);
    }
    let settings = match matches.subcommand() {
        Some((AGENT, given)) => settings(given, file.as_ref()),
        _ => Vec::new(),
    };
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    Ok(Parsed { cli, settings })
}

/// `svclb config`.
///
/// # Errors
/// When no agent runs or its settings cannot be read, or the file cannot be used.
pub(super) fn config(args: &ConfigArgs) -> Result<()> {
    let flags = match &args.config {
        Some(file) => vec!["--config".into(), file.clone().into()],
        // The arguments of a container begin with the command.
        None => match args.agent_args.split_first() {
            Some((first, rest)) if first == AGENT => rest.to_vec(),
            _ => args.agent_args.clone(),
        },
    };
    let settings = if args.config.is_none() && args.agent_args.is_empty() {
        running::settings(&args.list.pins.pins)?
    } else {
        let command = ["svclb".into(), AGENT.into()];
        parse(&[&command[..], &flags].concat())?.settings
    };
    output::list(&settings, args.list.output)
}

/// Returns the command `svclb agent`.
fn agent_command() -> Command {
    Cli::command().find_subcommand(AGENT).cloned().unwrap_or_default()
}

/// Returns the visible settings, and hidden ones that are set.
fn settings(given: &ArgMatches, file: Option<&ConfigFile>) -> Vec<SettingView> {
    let agent = agent_command();
    let views = agent.get_arguments().map(|flag| (flag, setting(flag, given, file)));
    let shown = views.filter(|(flag, view)| !flag.is_hide_set() || view.origin != Origin::Default);
    shown.map(|(_, view)| view).collect()
}

fn setting(flag: &Arg, given: &ArgMatches, file: Option<&ConfigFile>) -> SettingView {
    let field = Field::of(flag);
    let id = flag.get_id().as_str();
    let (origin, place) = match given.value_source(id) {
        Some(ValueSource::CommandLine) => (Origin::Flag, format!("--{}", field.long)),
        Some(ValueSource::EnvVariable) => {
            let name = flag.get_env().unwrap_or_default().display();
            (Origin::Environment, name.to_string())
        }
        _ => match file.and_then(|file| file.place_of(id)) {
            Some(place) => (Origin::File, place),
            None => (Origin::Default, String::new()),
        },
    };
    let values = given.get_raw(id).into_iter().flatten();
    let mut values = values.map(|value| without_secrets(&value.to_string_lossy()).into_owned());
    let described = field.described.clone().unwrap_or_default();
    let value = match field.kind {
        Kind::List => match values.collect::<Vec<_>>() {
            none if none.is_empty() && !described.is_empty() => Value::Null,
            values => values.into(),
        },
        kind => match values.next() {
            Some(value) => kind.value(&value),
            // The text of the flag has the default.
            None if kind == Kind::Number => kind.value(&described),
            None => Value::Null,
        },
    };
    let described = match (&value, described.as_str()) {
        (Value::Null, "") => "none".to_owned(),
        (Value::Null, _) => described,
        _ => String::new(),
    };
    SettingView { name: field.name, value, described, origin, place }
}

/// Masks what may be secret in a URL: user and password, query and fragment. Other texts stay.
fn without_secrets(text: &str) -> Cow<'_, str> {
    let Some((scheme, rest)) = text.split_once("://") else { return text.into() };
    let path = rest.find(['?', '#']).unwrap_or(rest.len());
    let (rest, query) = rest.split_at(path);
    let authority = rest.find('/').unwrap_or(rest.len());
    let (authority, path) = rest.split_at(authority);
    let (user, host) =
        authority.rsplit_once('@').map_or(("", authority), |(_, host)| ("***@", host));
    let query = if query.is_empty() { "" } else { "?***" };
    format!("{scheme}://{user}{host}{path}{query}").into()
}

/// Returns true if the command line or the environment has this.
fn is_given(given: &ArgMatches, id: &str) -> bool {
    matches!(
        given.try_get_raw(id).ok().and_then(|_| given.value_source(id)),
        Some(ValueSource::CommandLine | ValueSource::EnvVariable)
    )
}

/// Returns the text of a value of clap's.
fn text(value: &OsStr) -> String {
    value.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests;
