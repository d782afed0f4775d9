//! `cargo xtask run`: the program built and started, with a demonstration if nothing else is asked.

use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;

use anyhow::Context as _;
use cargo_metadata::Message;

use crate::{demo, setup, shell};

/// Builds `svclb` and runs `svclb agent ARGS`, or the demonstration without ARGS.
///
/// # Errors
/// Something is missing that cannot be installed, the build fails, or the demonstration does.
pub(crate) fn run(args: &[String]) -> anyhow::Result<()> {
    setup::ensure(setup::Need::Run)?;
    shell::say("building svclb");
    let svclb = build(&["--release", "--package", "svclb-agent", "--bin", "svclb"], &[])?;

    if !args.is_empty() {
        let mut agent = shell::as_root(&svclb, &[])?;
        agent.arg("agent").args(args);
        // Paths among ARGS are relative to where the user stands. It returns only if it fails.
        agent.current_dir(std::env::current_dir()?);
        return Err(agent.exec()).with_context(|| shell::cannot_start(&agent));
    }
    if shell::is_root() {
        return demo::run(&svclb);
    }
    let mut again = shell::as_root(std::env::current_exe()?, &[])?;
    again.arg("demo").arg(&svclb);
    Err(again.exec()).with_context(|| shell::cannot_start(&again))
}

/// Builds the program `svclb`, with these variables for cargo, and says where it is.
///
/// # Errors
/// The build fails.
pub(crate) fn build(arguments: &[&str], variables: &[(&str, &str)]) -> anyhow::Result<PathBuf> {
    let mut found = None;
    artifacts("build", arguments, variables, |artifact| {
        if artifact.target.name == "svclb" && artifact.target.is_bin() {
            found = artifact.executable.map(Into::into).or(found.take());
        }
    })?;
    found.context("cargo built no program `svclb`")
}

/// Runs `cargo COMMAND ARGUMENTS` and hands each thing that it made to `each`.
///
/// # Errors
/// cargo fails.
pub(crate) fn artifacts(
    command: &str,
    arguments: &[&str],
    variables: &[(&str, &str)],
    mut each: impl FnMut(cargo_metadata::Artifact),
) -> anyhow::Result<()> {
    let mut cargo = shell::cargo([command, "--locked", "--message-format=json-render-diagnostics"]);
    cargo.args(arguments).envs(variables.iter().copied()).stdout(std::process::Stdio::piped());
    let mut child = cargo.spawn().with_context(|| shell::cannot_start(&cargo))?;
    if let Some(stdout) = child.stdout.take() {
        for message in Message::parse_stream(std::io::BufReader::new(stdout)) {
            if let Message::CompilerArtifact(artifact) = message? {
                each(artifact);
            }
        }
    }
    let status = child.wait()?;
    anyhow::ensure!(status.success(), "`{}` failed ({status})", shell::typed(&cargo));
    Ok(())
}
