//! The command line as typed.

use std::ffi::OsString;
use std::path::PathBuf;

use lexopt::prelude::*;

pub(crate) const HELP: &str = "\
Reads devices, keeps their readings, and sends them to a Tributary cluster.

Usage: tributary-agent run FILE       run with this configuration until SIGTERM or Ctrl-C
       tributary-agent check FILE     check a configuration and the certificates it names
       tributary-agent inspect PATH   describe a batch, a file of the buffer's journal, or all of a
                                      data_dir (or its journal folder); reads only

FILE is a TOML file with these tables (paths in it start at its own folder):
  [agent]           id, data_dir
  [uplink]          servers = [\"host:8883\", ...], ca, cert, key, keep_alive_seconds,
                    bytes_per_second_max, backlog_hours = [\"22:00-06:00\", ...]
  [batch]           rows_max, bytes_max, linger_ms
  [buffer]          bytes_max, ram_bytes_max, max_unsafe_ms
  [[class]]         name, overflow = \"drop_oldest\", \"thin\" or \"reject\": whose readings go
                    when the buffer is full, most worth keeping first
  [window]          batches_max, bytes_max, backlog_share_percent
  [health]          listen = \"127.0.0.1:9100\": / for people, /status (JSON), /metrics (Prometheus)
  [ledger]          file: every kept reading as line protocol
  [intake.health]   enabled, interval_ms, class: the agent itself, table agent_health; on by default
  [intake.host]     enabled, interval_ms, class: this machine
  [[intake.line]]   listen = \"tcp://host:port\", \"unix://path\" or \"stdin\", ack, precision,
                    device_key, connections_max, line_bytes_max, class: Influx line protocol
  [[intake.replay]] file, format, speed, precision, device_key, table, time_column,
                    device_column, tags, texts, class: a CSV or line protocol file

Options:
  -h, --help      print this
  -V, --version   print the version

The log goes to standard error; RUST_LOG=debug shows more. Changes of FILE and of the certificates
are followed within seconds, at once on SIGHUP; bad ones are refused whole and told in the log and
by /status. SIGTERM and Ctrl-C stop gently: what was kept is on disk. Exit codes: 0 good; 1 it failed,
or what was inspected is damaged; 2 wrong usage or configuration.";

/// What to do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Run(PathBuf),
    Check(PathBuf),
    Inspect(PathBuf),
    Help,
    Version,
}

/// Reads what stands behind the program's name.
///
/// # Errors
/// A text for whoever typed it.
pub(crate) fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Command, String> {
    let mut parser = lexopt::Parser::from_args(arguments);
    let mut words: Vec<OsString> = Vec::new();
    while let Some(argument) = parser.next().map_err(|e| e.to_string())? {
        match argument {
            Short('h') | Long("help") => return Ok(Command::Help),
            Short('V') | Long("version") => return Ok(Command::Version),
            Value(word) => words.push(word),
            other @ (Short(_) | Long(_)) => return Err(other.unexpected().to_string()),
        }
    }
    let mut words = words.into_iter();
    let Some(verb) = words.next() else {
        return Err("what shall it do? `run FILE`, `check FILE` or `inspect FILE`".to_owned());
    };
    let command: fn(PathBuf) -> Command = match verb.to_str() {
        Some("run") => Command::Run,
        Some("check") => Command::Check,
        Some("inspect") => Command::Inspect,
        Some("help") => return Ok(Command::Help),
        Some(_) | None => {
            let verb = verb.to_string_lossy();
            return Err(format!(
                "there is no command {verb:?}; there are run, check, inspect"
            ));
        }
    };
    let verb = verb.to_string_lossy();
    match (words.next(), words.next()) {
        (Some(file), None) => Ok(command(PathBuf::from(file))),
        (None, _) => Err(format!(
            "{verb} needs a file: `tributary-agent {verb} FILE`"
        )),
        (Some(_), Some(more)) => Err(format!(
            "{verb} takes one file; {} is too much",
            more.display()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(typed: &str) -> Result<Command, String> {
        parse(typed.split_whitespace().map(OsString::from))
    }

    #[test]
    fn commands_are_read() {
        assert_eq!(check("run a.toml"), Ok(Command::Run("a.toml".into())));
        assert_eq!(check("check a.toml"), Ok(Command::Check("a.toml".into())));
        assert_eq!(check("inspect -- -x"), Ok(Command::Inspect("-x".into())));
        assert_eq!(check("run --help"), Ok(Command::Help));
        assert_eq!(check("-V"), Ok(Command::Version));
    }

    #[test]
    fn wrong_usage_is_told() {
        for (typed, part) in [
            ("", "run FILE"),
            ("run", "run FILE"),
            ("run a b", "b is too much"),
            ("walk a", "\"walk\""),
            ("run --fast a", "--fast"),
        ] {
            let error = check(typed).unwrap_err();
            assert!(error.contains(part), "{typed}: {error}");
        }
    }
}
