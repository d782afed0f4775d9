//! `svclb support-bundle`: one archive with what is needed to find a fault from afar. It reads what the other
//! commands read, by running them, so that one that fails or hangs costs its own part only.
//!
//! * `parts`: where each part comes from. `redact`: placeholders for addresses and names.

mod parts;
mod redact;

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use clap::Args;
use flate2::Compression;
use flate2::write::GzEncoder;
use indicatif::ProgressBar;

use super::{PinsArgs, output};
use parts::{Content, PARTS};
use redact::Redactor;

/// The most time for all parts; what is not read by then is left out.
const LONGEST: Duration = Duration::from_secs(60);
/// The folder in the archive.
const FOLDER: &str = "svclb-support";
/// The file name that means standard output.
const STDOUT: &str = "-";

#[derive(Debug, Args)]
pub(super) struct BundleArgs {
    #[command(flatten)]
    pins: PinsArgs,
    /// Archive to write, which must not exist yet; - is standard output
    #[arg(short, long, value_name = "FILE", default_value = "svclb-support.tar.gz")]
    output: PathBuf,
    /// Put placeholders for addresses and names, the same one wherever the same appears, and leave out the log
    #[arg(long)]
    redact: bool,
}

/// `svclb support-bundle`.
///
/// # Errors
/// When the archive cannot be written. A part that cannot be read is a file with the reason.
pub(super) fn bundle(args: &BundleArgs) -> Result<()> {
    let path = args.output.display();
    if args.output == Path::new(STDOUT) {
        write(args, io::stdout().lock()).context("cannot write the archive")?;
        return Ok(());
    }
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&args.output);
    let file = file.with_context(|| format!("cannot create {path}"))?;
    let unread = write(args, file).with_context(|| format!("cannot write {path}"))?;
    output::line(&match unread {
        0 => format!("wrote {path}"),
        some => format!("wrote {path}; {some} parts could not be read, and say why"),
    })
}

/// Writes the archive. Returns the number of parts that could not be read.
fn write(args: &BundleArgs, to: impl Write) -> Result<usize> {
    let deadline = Instant::now() + LONGEST;
    let mut redactor = args.redact.then(Redactor::of_node);
    let mut archive = tar::Builder::new(GzEncoder::new(to, Compression::default()));
    let mut unread = Vec::new();
    // Nothing is shown where standard error is no terminal.
    let progress = ProgressBar::new(PARTS.len().try_into()?);
    for part in &PARTS {
        progress.set_message(part.name);
        let content = match part.read(&args.pins.pins, deadline, args.redact) {
            Ok(content) => match &mut redactor {
                Some(redactor) => redactor.content(content),
                None => content,
            },
            Err(error) => {
                let reason = format!("{error:#}\n");
                Content::Unread(redactor.as_mut().map_or(reason.clone(), |it| it.text(&reason)))
            }
        };
        let (name, bytes) = match content {
            Content::Json(value) => (part.name.to_owned(), output::json(&value)?),
            Content::Text(text) => (part.name.to_owned(), text),
            Content::Unread(reason) => {
                unread.push(part.name);
                (format!("{}.unread.txt", part.name), reason)
            }
        };
        add(&mut archive, &name, bytes.as_bytes())?;
        progress.inc(1);
    }
    progress.finish_and_clear();
    let redacted = if args.redact { "yes" } else { "no" };
    let list = format!("redacted: {redacted}\nnot read: {}\n", unread.join(" "));
    add(&mut archive, "contents.txt", list.as_bytes())?;
    archive.into_inner()?.finish()?.flush()?;
    Ok(unread.len())
}

fn add(archive: &mut tar::Builder<impl Write>, name: &str, bytes: &[u8]) -> Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(bytes.len().try_into()?);
    header.set_mode(0o600);
    header.set_mtime(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs()));
    Ok(archive.append_data(&mut header, format!("{FOLDER}/{name}"), bytes)?)
}
