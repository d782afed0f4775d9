//! Everything that is generated from the command line has all visible commands and flags, and no others.

use std::ffi::OsStr;

use clap::ValueEnum as _;

use super::super::InternalCommand;
use super::super::golden::assert_golden;
use super::*;

/// The beginning of docs/cli.md.
const HEAD: &str = "\
# Reference of the command line
Every command and flag of `svclb`. This page is written from the definition of the command line: after a change there, `cargo xtask check --bless` writes it anew. [commands.md](commands.md) says what the commands do, and lists the fields that they print.

Every command also has `-h`, `--help`, and `svclb` itself `-V`, `--version`. Where a flag has an environment variable, the flag comes first.
";

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

#[test]
fn svclb_and_every_visible_command_have_a_man_page_without_anything_hidden() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().join("share/man1");
    man(&ManArgs { folder: folder.clone() }).unwrap();
    let mut expected: Vec<String> =
        commands().iter().map(|command| format!("svclb-{command}.1")).collect();
    expected.push("svclb.1".to_owned());
    expected.sort();
    let entries = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<String> = entries.map(|name| name.into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, expected);
    for name in names {
        // In roff a hyphen is `\-`.
        let page = fs::read_to_string(folder.join(&name)).unwrap().replace('\\', "");
        assert_nothing_hidden(&name, &page);
        if name == "svclb.1" {
            assert!(commands().iter().all(|command| page.contains(&format!("svclb-{command}(1)"))));
        } else {
            assert!(page.contains("--help"), "{page}");
        }
    }
    let agent = fs::read_to_string(folder.join("svclb-agent.1")).unwrap().replace('\\', "");
    assert!(agent.contains("--api-server") && agent.contains("NODE_NAME"), "{agent}");
}

#[test]
fn the_manual_has_each_command_in_its_tables_and_its_sections() {
    let manual = include_str!("../../../docs/commands.md");
    let (_, codes) = manual.split_once("| command | 0 | 1 |\n").unwrap();
    let (codes, _) = codes.split_once("\n\n").unwrap();
    let first_cells: String = codes.lines().filter_map(|row| row.split(" | ").next()).collect();
    for command in commands() {
        assert!(first_cells.contains(&format!("`{command}`")), "{command} has no exit codes");
        assert!(manual.contains(&format!("[`{command}`](#svclb-{command})")), "{command}");
        assert!(manual.contains(&format!("\n## svclb {command}\n")), "{command} has no section");
    }
    assert_nothing_hidden("docs/commands.md", manual);
}

#[test]
fn the_golden_reference_of_the_command_line_has_every_command_and_flag() {
    let mut command = visible().disable_help_subcommand(true);
    command.build();
    let sections: String = command.get_subcommands_mut().map(section).collect();
    let page = HEAD.to_owned() + &sections;
    assert_nothing_hidden("docs/cli.md", &page);
    assert_golden("docs/cli.md", &page);
}

/// The section of docs/cli.md on a command.
fn section(command: &mut clap::Command) -> String {
    let usage = command.render_usage().to_string();
    let usage = usage.trim_start_matches("Usage: ");
    let (name, about) = (command.get_bin_name().unwrap(), command.get_about().unwrap());
    let mut section = format!("\n## {name}\n{about}.\n\n```text\n{usage}\n```\n\n");
    section += "| flag or argument | meaning | default | environment |\n|---|---|---|---|\n";
    for argument in command.get_arguments().filter(|argument| argument.get_id() != "help") {
        section.push('|');
        for cell in cells(argument) {
            section += &match cell.as_str() {
                "" => " |".to_owned(),
                text => format!(" {} |", text.replace('|', "\\|")),
            };
        }
        section.push('\n');
    }
    section
}

/// Name, meaning, default and environment variable of a flag or an argument.
fn cells(argument: &clap::Arg) -> [String; 4] {
    let code = |text: &OsStr| format!("`{}`", text.display());
    let short = argument.get_short().map(|short| format!("`-{short}`, ")).unwrap_or_default();
    let help = argument.get_long_help().or(argument.get_help()).unwrap().to_string();
    // The text has a default that depends on the node, or is in code of its own.
    let described = help.strip_suffix(']').and_then(|text| text.split_once(" [default: "));
    let (mut meaning, default) = match described {
        Some((meaning, default)) => (meaning.to_owned(), default.to_owned()),
        // The default of a flag without a value is false.
        None if !argument.get_action().takes_values() => (help, String::new()),
        None => {
            let defaults = argument.get_default_values().iter().map(|value| code(value));
            (help, defaults.collect::<Vec<_>>().join(", "))
        }
    };
    for (index, value) in argument.get_possible_values().iter().enumerate() {
        meaning += if index == 0 { ": " } else { "; " };
        meaning += &format!("`{}`", value.get_name());
        meaning += &value.get_help().map(|help| format!(" ({help})")).unwrap_or_default();
    }
    let environment = argument.get_env().map(code).unwrap_or_default();
    [format!("{short}`{argument}`"), meaning, default, environment]
}
