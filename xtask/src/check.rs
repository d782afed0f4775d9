//! `cargo xtask check`: what must hold before a change is taken, without running the tests.

use std::time::Instant;

use anyhow::bail;

use crate::counts::Counts;
use crate::{licences, locks, named_tests, setup, shell, vm};

/// Tells tests to write what they would compare.
const BLESS: &str = "SVCLB_BLESS";
/// The tests that hold goldens and generated files have this in their names.
const GOLDEN: &str = "golden";
/// How cargo shows a warning of the inner build of svclb-ebpf.
const INNER_WARNING: &str = "warning: svclb-dataplane@";
/// All crates that are built for the host.
const HOST: [&str; 4] = ["--workspace", "--exclude", "svclb-ebpf", "--locked"];

/// Runs every step, also after one has failed.
///
/// # Errors
/// Names the steps that failed: their own output says why.
pub(crate) fn run(bless: bool) -> anyhow::Result<()> {
    setup::ensure(setup::Need::All)?;
    type Step = (&'static str, fn(bool) -> anyhow::Result<()>);
    let steps: [Step; 8] = [
        ("dependencies and licences", |_| licences::check()),
        ("versions of what is fuzzed", |_| locks::check()),
        ("format", |_| format()),
        ("clippy", |_| clippy()),
        ("docs", |_| docs()),
        ("goldens and generated files", goldens),
        ("kernels in the README", vm::record::check),
        ("tests named in docs", |_| named_tests::check()),
    ];
    let mut failed = Vec::new();
    for (name, step) in steps {
        let start = Instant::now();
        shell::say(name);
        let result = step(bless);
        let verdict = if result.is_ok() { "ok" } else { "FAILED" };
        if let Err(error) = result {
            eprintln!("{error:#}");
            failed.push(name);
        }
        shell::print(&format!("{name}: {verdict} ({})", shell::seconds(start)));
    }
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    Ok(())
}

fn format() -> anyhow::Result<()> {
    shell::show(shell::cargo(["fmt", "--all", "--check"]))
}

/// Lints of all targets, and warnings of the programs for the kernel: svclb-dataplane's build compiles
/// them, and cargo repeats what it said also if nothing was built anew.
fn clippy() -> anyhow::Result<()> {
    let mut clippy = shell::cargo(["clippy", "--all-targets"]);
    clippy.args(HOST).args(["--", "--deny", "warnings"]);
    let mut warned = false;
    shell::watch_errors(clippy, |line| warned |= line.starts_with(INNER_WARNING))?;
    if warned {
        bail!("svclb-ebpf compiles with warnings, see above");
    }
    Ok(())
}

fn docs() -> anyhow::Result<()> {
    let mut doc = shell::cargo(["doc", "--no-deps", "--document-private-items"]);
    doc.args(HOST).env("RUSTDOCFLAGS", "--deny warnings");
    shell::show(doc)
}

fn goldens(bless: bool) -> anyhow::Result<()> {
    let mut test = shell::cargo(["test", "--quiet"]);
    test.args(HOST).args(["--no-fail-fast", "--", GOLDEN]);
    if bless {
        test.env(BLESS, "1");
    }
    let mut total = Counts::default();
    let mut output = String::new();
    let succeeded = shell::read_lines(test, |line| {
        total.add(Counts::parse(line).unwrap_or_default());
        output.push_str(line);
        output.push('\n');
    })?;
    shell::say(&format!("goldens: {total}"));
    if succeeded {
        return Ok(());
    }
    eprint!("{output}");
    if total.failed == 0 {
        bail!("the tests that compare goldens did not build or run");
    }
    bail!("a golden differs: `cargo xtask check --bless` writes it anew, look at the difference")
}
