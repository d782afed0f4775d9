//! The program `svclb`: everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    svclb_agent::cli::main()
}
