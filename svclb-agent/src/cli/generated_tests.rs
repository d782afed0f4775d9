//! Everything that is generated from the command line has all visible commands and flags, and no others.

use clap::ValueEnum as _;

use super::super::InternalCommand;
use super::*;

/// The visible flags of all commands.
fn flags() -> Vec<String> {
    let shown = visible();
    let arguments = shown.get_subcommands().flat_map(clap::Command::get_arguments);
    arguments.filter_map(|argument| argument.get_long().map(str::to_owned)).collect()
}

fn commands() -> Vec<String> {
    visible().get_subcommands().map(|command| command.get_name().to_owned()).collect()
}

/// What must not appear: commands of svclb's own, and hidden flags as the shells write them.
fn hidden() -> Vec<String> {
    let full = Cli::command();
    let arguments = full.get_subcommands().flat_map(clap::Command::get_arguments);
    let flags = arguments.filter(|argument| argument.is_hide_set()).filter_map(clap::Arg::get_long);
    let flags: Vec<String> =
        flags.flat_map(|flag| [format!("--{flag}"), format!("-l {flag}")]).collect();
    assert!(flags.contains(&"--audit".to_owned()), "{flags:?}");
    let internal = InternalCommand::command();
    let commands = internal.get_subcommands().map(|command| command.get_name().to_owned());
    flags.into_iter().chain(commands).collect()
}

fn assert_nothing_hidden(place: &str, text: &str) {
    for hidden in hidden() {
        assert!(!text.contains(&hidden), "{place} has {hidden}");
    }
}

#[test]
fn completions_have_all_visible_commands_and_flags_and_no_hidden_ones() {
    for shell in Shell::value_variants() {
        let script = script(*shell).unwrap();
        for shown in commands().into_iter().chain(flags()) {
            assert!(script.contains(&shown), "{shell} lacks {shown}");
        }
        assert_nothing_hidden(&shell.to_string(), &script);
    }
}

#[test]
fn help_and_suggestions_do_not_name_internal_commands() {
    assert_nothing_hidden("--help", &Cli::command().render_long_help().to_string());
    for mistyped in ["probe-clien", "guard-plugi"] {
        let parsed = Cli::command().try_get_matches_from(["svclb", mistyped]);
        assert_nothing_hidden(mistyped, &parsed.unwrap_err().to_string());
    }
}
