//! Completions for shells and man pages, made from the definition of the command line.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::builder::Resettable;
use clap::{Args, CommandFactory as _, ValueHint};
use clap_complete::Shell;

use super::{Cli, output};

#[derive(Debug, Args)]
pub(super) struct CompletionsArgs {
    /// Shell that reads the script
    #[arg(value_enum)]
    shell: Shell,
}

#[derive(Debug, Args)]
pub(super) struct ManArgs {
    /// Folder to write to; made if it does not exist
    #[arg(value_name = "DIR", value_hint = ValueHint::DirPath)]
    folder: PathBuf,
}

/// `svclb completions`.
pub(super) fn completions(args: &CompletionsArgs) -> Result<()> {
    output::print(&script(args.shell)?)
}

fn script(shell: Shell) -> Result<String> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut visible(), "svclb", &mut script);
    Ok(String::from_utf8(script)?)
}

/// `svclb man`.
pub(super) fn man(args: &ManArgs) -> Result<()> {
    let folder = &args.folder;
    let written =
        fs::create_dir_all(folder).and_then(|()| clap_mangen::generate_to(visible(), folder));
    written.with_context(|| format!("cannot write man pages to {}", folder.display()))
}

/// Returns the command line without hidden flags, which completions would offer.
fn visible() -> clap::Command {
    let full = Cli::command();
    let copy = |command: &clap::Command| {
        clap::Command::new(command.get_name().to_owned())
            .about(Resettable::from(command.get_about().cloned()))
            .long_about(Resettable::from(command.get_long_about().cloned()))
            .args(command.get_arguments().filter(|flag| !flag.is_hide_set()).cloned())
    };
    copy(&full)
        .version(env!("CARGO_PKG_VERSION"))
        .subcommand_required(full.is_subcommand_required_set())
        .subcommands(full.get_subcommands().map(copy))
}

#[cfg(test)]
#[path = "generated_tests.rs"]
mod tests;
