//! The command line of the aggregator.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
