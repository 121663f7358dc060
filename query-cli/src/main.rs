//! `tributary`: asks a Tributary cluster, over its public HTTPS protocol only.
//!
//! A guest of the cluster: it shares no code with agent or aggregator, so what it can do, any HTTP
//! client can. The way of a question: `args` (as typed) -> `settings` (made valid) ->
//! `connection` (TLS, HTTP) -> `rows` (JSON lines) -> `output` (table, CSV, JSON lines);
//! `status` draws the cluster; `failure` owns the exit codes.

mod args;
mod settings;
mod connection;
mod rows;
mod output;
mod status;
mod failure;

use std::io::{self, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser as _;

use crate::args::{Args, Command};
use crate::connection::Connection;
use crate::failure::Failure;
use crate::output::Output;
use crate::settings::Settings;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(usage) => {
            // A closed terminal is the only way for this to fail, and there is nobody to tell.
            let _ = usage.print();
            return ExitCode::from(u8::try_from(usage.exit_code()).unwrap_or(failure::USAGE));
        }
    };
    match run(args).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) if failure.is_broken_pipe() => ExitCode::SUCCESS,
        Err(failure) => {
            let _ = writeln!(io::stderr(), "tributary: {failure}");
            ExitCode::from(failure.exit_code())
        }
    }
}

async fn run(args: Args) -> Result<(), Failure> {
    let settings = Settings::resolve(&args.connection, &|name| std::env::var(name).ok())?;
    let deadline = Duration::from_secs(args.connection.timeout_seconds);
    let answer = tokio::time::timeout(deadline, answer(args.command, &settings)).await;
    answer.unwrap_or_else(|_elapsed| {
        Err(Failure::Timeout(format!(
            "no whole answer within {} s. Ask for less (WHERE time > ..., LIMIT), or wait longer \
             with --timeout-seconds",
            deadline.as_secs()
        )))
    })
}

async fn answer(command: Command, settings: &Settings) -> Result<(), Failure> {
    match command {
        Command::Sql { statement, format } => {
            let statement = args::statement(statement)?;
            let mut connection = Connection::open(settings).await?;
            let mut answer = connection.sql(&statement).await?;
            let mut output = Output::new(format, io::stdout().lock());
            while let Some(row) = answer.next().await? {
                output.row(&row)?;
            }
            output.finish()
        }
        Command::Status { format } => {
            let mut connection = Connection::open(settings).await?;
            let status = connection.status().await?;
            status::print(&status, format, &mut io::stdout().lock())
        }
    }
}
