//! `tributary-agent`: parse, load, run.

mod args;

use std::io::{self, IsTerminal as _, Write as _};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use edge_agent::clock::Stamper;
use edge_agent::config::Config;
use edge_agent::{agent, inspect, tls};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use args::Command;

const FAILED: u8 = 1;
const WRONG_USAGE: u8 = 2;
/// A read of standard input cannot be called off; the process does not wait for it.
const THREADS_LIMIT: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    let command = match args::parse(std::env::args_os().skip(1)) {
        Ok(command) => command,
        Err(why) => return fail(WRONG_USAGE, &format!("{why}\nTry `tributary-agent --help`")),
    };
    match command {
        Command::Help => print(args::HELP),
        Command::Version => print(concat!("tributary-agent ", env!("CARGO_PKG_VERSION"))),
        Command::Check(file) => check(&file),
        Command::Inspect(file) => match inspect::describe(&file) {
            Ok(inspect::Description { text, damaged }) => {
                let printed = print(&text);
                if damaged {
                    fail(
                        FAILED,
                        &format!("{}: some of it is damaged", file.display()),
                    )
                } else {
                    printed
                }
            }
            Err(error) => fail(FAILED, &error),
        },
        Command::Run(file) => run(&file),
    }
}

fn check(file: &Path) -> ExitCode {
    let config = match Config::load(file) {
        Ok(config) => config,
        Err(error) => return fail(WRONG_USAGE, &error),
    };
    match tls::client(&config.agent, &config.uplink, &Stamper::of_this_machine()) {
        Ok(_) => print(&format!("{} is good", file.display())),
        Err(error) => fail(WRONG_USAGE, &error),
    }
}

/// `RUST_LOG` says what: levels, and targets with levels of their own.
fn log_to_stderr() {
    let wanted = std::env::var("RUST_LOG").ok();
    let filter: Option<Targets> = wanted.and_then(|text| text.parse().ok());
    let lines = tracing_subscriber::fmt::layer()
        .with_ansi(io::stderr().is_terminal())
        // Standard output is for answers to standard input.
        .with_writer(io::stderr);
    tracing_subscriber::registry()
        .with(lines)
        .with(filter.unwrap_or_else(|| Targets::new().with_default(LevelFilter::INFO)))
        .init();
}

fn run(file: &Path) -> ExitCode {
    let config = match Config::load(file) {
        Ok(config) => config,
        Err(error) => return fail(WRONG_USAGE, &error),
    };
    log_to_stderr();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return fail(FAILED, &format!("the system gives no event loop: {error}")),
    };
    let ended = runtime.block_on(agent::run(file, config));
    runtime.shutdown_timeout(THREADS_LIMIT);
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(FAILED, &error),
    }
}

fn print(text: &str) -> ExitCode {
    // A closed pipe is the only way for this to fail, and there is nobody to tell.
    let _ = writeln!(io::stdout(), "{}", text.trim_end());
    ExitCode::SUCCESS
}

fn fail(code: u8, why: &dyn std::fmt::Display) -> ExitCode {
    let _ = writeln!(io::stderr(), "tributary-agent: {why}");
    ExitCode::from(code)
}
