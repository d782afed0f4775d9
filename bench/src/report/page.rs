//! Writes docs/performance.md and its plots from a stored run.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, bail};

use super::{plots, table, with_unit};
use crate::book::Unit;
use crate::run::{Machine, Run};

/// The part of the page between these lines is generated; the rest is written by hand.
const BEGIN: &str = "<!-- begin: made of a run by `cargo xtask bench --bless` -->\n";
const END: &str = "<!-- end -->";
/// The folder of the plots, in that of the page.
const PLOTS: &str = "performance";

/// Writes page and plots into a folder, or checks that they agree with the run.
///
/// # Errors
/// A file cannot be read or written, or differs from the run.
pub(crate) fn write(run: &Run, folder: &Path, check: bool) -> anyhow::Result<()> {
    let page = folder.join("performance.md");
    let text =
        fs::read_to_string(&page).with_context(|| format!("cannot read {}", page.display()))?;
    let plots = plots::all(&run.book)?;
    let (before, rest) = text.split_once(BEGIN).context("the page has no begin")?;
    let (_old, after) = rest.split_once(END).context("the page has no end")?;
    let mut made = about(run);
    made.push_str(&format!("\n## Targets\n{}\n", table::targets(&run.book)));
    for bench in table::benches(&run.book) {
        made.push_str(&format!("\n## {bench}\n{}\n", table::figures(&run.book, bench)));
        for plot in plots.iter().filter(|plot| plot.bench == bench) {
            made.push_str(&format!("\n![{}]({PLOTS}/{})\n", plot.title, plot.file));
        }
    }
    put(&page, &format!("{before}{BEGIN}{made}{END}{after}"), check)?;
    let folder = folder.join(PLOTS);
    if !check {
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    plots.iter().try_for_each(|plot| put(&folder.join(&plot.file), &plot.svg, check))
}

fn about(run: &Run) -> String {
    let Machine { kernel, processor, processors, memory, jit } = &run.machine;
    let (jit, memory) = (if *jit { "on" } else { "off" }, with_unit(bytes(*memory), Unit::Bytes));
    let kubernetes = run.kubernetes.as_deref().unwrap_or("no kube-proxy");
    format!(
        "svclb {}, {kubernetes}; kernel {kernel} with its JIT compiler {jit}; {processors} processors \
         ({processor}), {memory} of memory; {} rounds, {} calls of a kind in each.\n",
        run.svclb, run.rounds, run.calls
    )
}

#[expect(clippy::cast_precision_loss, reason = "shown with three digits")]
fn bytes(count: u64) -> f64 {
    count as f64
}

fn put(file: &Path, text: &str, check: bool) -> anyhow::Result<()> {
    if check {
        let found = fs::read_to_string(file).unwrap_or_default();
        if found != text {
            bail!("{} differs from the stored run: `cargo xtask bench --bless`", file.display());
        }
        return Ok(());
    }
    fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_agrees_with_the_stored_run() {
        let docs = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs"));
        let run = Run::read(&docs.join("performance.json")).unwrap();
        write(&run, docs, true).unwrap();
    }
}
