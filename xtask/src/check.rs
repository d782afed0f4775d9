//! `cargo xtask check`: the checks that every change must pass, apart from the tests.

use std::time::Instant;

use anyhow::bail;

use crate::counts::Counts;
use crate::run::HOST;
use crate::{licences, locks, named_tests, setup, shell, vm};

/// Makes tests write goldens instead of comparing them.
const BLESS: &str = "SVCLB_BLESS";
/// Part of the names of the tests that compare goldens and generated files.
const GOLDEN: &str = "golden";
/// Start of the line in which cargo shows a warning of the inner build of svclb-ebpf.
const INNER_WARNING: &str = "warning: svclb-dataplane@";

/// Runs every step, also after one has failed.
///
/// # Errors
/// Names the steps that failed, whose output has the reasons.
pub(crate) fn run(bless: bool) -> anyhow::Result<()> {
    setup::ensure(setup::Need::All)?;
    type Step = (&'static str, fn(bool) -> anyhow::Result<()>);
    let steps: [Step; 8] = [
        ("dependencies and licences", |_| licences::check()),
        ("versions in the fuzz targets", |_| locks::check()),
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
        shell::log(name);
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
    shell::run(shell::cargo(["fmt", "--all", "--check"]))
}

/// Checks the lints of all targets and the warnings of the eBPF programs, which svclb-dataplane's build
/// script compiles. cargo repeats a script's warnings even if it does not run the script again.
fn clippy() -> anyhow::Result<()> {
    let mut clippy = shell::cargo(["clippy", "--all-targets"]);
    clippy.args(HOST).args(["--locked", "--", "--deny", "warnings"]);
    let mut warned = false;
    shell::watch_errors(clippy, |line| warned |= line.starts_with(INNER_WARNING))?;
    if warned {
        bail!("svclb-ebpf compiles with warnings, see above");
    }
    Ok(())
}

fn docs() -> anyhow::Result<()> {
    let mut doc = shell::cargo(["doc", "--no-deps", "--document-private-items"]);
    doc.args(HOST).arg("--locked").env("RUSTDOCFLAGS", "--deny warnings");
    shell::run(doc)
}

fn goldens(bless: bool) -> anyhow::Result<()> {
    let mut test = shell::cargo(["test", "--quiet"]);
    test.args(HOST).args(["--locked", "--no-fail-fast", "--", GOLDEN]);
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
    shell::log(&format!("goldens: {total}"));
    if succeeded {
        return Ok(());
    }
    eprint!("{output}");
    if total.failed == 0 {
        bail!("the tests that compare goldens did not build or run");
    }
    bail!("a golden differs: `cargo xtask check --bless` rewrites it; review the difference")
}
