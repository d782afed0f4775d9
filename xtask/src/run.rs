//! `cargo xtask run` builds the program and starts it, by default in a demonstration. Other tasks call
//! cargo by the functions here too.

use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;

use anyhow::Context as _;
use cargo_metadata::{Artifact, Message};

use crate::{demo, setup, shell};

/// Selects every crate that is built for the host. cargo enables the features that the selected crates
/// ask of a dependency, so tasks that select the same ones share the build of most dependencies.
pub(crate) const HOST: [&str; 3] = ["--workspace", "--exclude", "svclb-ebpf"];

/// Builds `svclb` and runs `svclb agent ARGS`, or the demonstration without ARGS.
///
/// # Errors
/// Something is missing that cannot be installed, the build fails, or the demonstration does.
pub(crate) fn run(args: &[String]) -> anyhow::Result<()> {
    setup::ensure(setup::Need::Run)?;
    shell::log("building svclb");
    // Unoptimized: the optimized build takes minutes longer, and the tests need this one anyway.
    let svclb = build(&[&HOST[..], &["--bin", "svclb"]].concat(), &[])?;

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

/// Builds the program `svclb`, with these variables for cargo, and returns its path.
///
/// # Errors
/// The build fails.
pub(crate) fn build(arguments: &[&str], variables: &[(&str, &str)]) -> anyhow::Result<PathBuf> {
    let mut found = None;
    artifacts("build", arguments, variables, |artifact| {
        found = program(&artifact).or(found.take());
    })?;
    found.context("cargo built no program `svclb`")
}

/// Returns the path of the program `svclb` if cargo has just made it.
pub(crate) fn program(artifact: &Artifact) -> Option<PathBuf> {
    let is_program = artifact.target.name == "svclb" && artifact.target.is_bin();
    let path = artifact.executable.as_ref().filter(|_| is_program && !artifact.profile.test)?;
    Some(path.into())
}

/// Runs `cargo COMMAND ARGUMENTS` and hands each thing that it made to `each`.
///
/// # Errors
/// cargo fails.
pub(crate) fn artifacts(
    command: &str,
    arguments: &[&str],
    variables: &[(&str, &str)],
    mut each: impl FnMut(Artifact),
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
    anyhow::ensure!(status.success(), "`{}` failed ({status})", shell::command_line(&cargo));
    Ok(())
}

/// Returns the name of the package that cargo has made something of.
pub(crate) fn package(artifact: &Artifact) -> String {
    let id = &artifact.package_id.repr;
    package_of(id).unwrap_or_else(|| id.clone())
}

/// Reads the name in a package's id, which leaves it out where the folder has the same name:
/// `path+file:///svclb/tests#svclb-tests@0.1.0`, `path+file:///svclb/xtask#0.1.0`.
fn package_of(id: &str) -> Option<String> {
    let (url, rest) = id.rsplit_once('#')?;
    let (_, folder) = url.rsplit_once('/')?;
    Some(rest.split_once('@').map_or(folder, |(name, _)| name).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_is_known_by_its_name_or_else_its_folder() {
        let rows = [
            ("path+file:///svclb/tests#svclb-tests@0.1.0", "svclb-tests"),
            ("path+file:///svclb/xtask#0.1.0", "xtask"),
        ];
        for (id, expected) in rows {
            assert_eq!(package_of(id).as_deref(), Some(expected), "{id}");
        }
    }
}
