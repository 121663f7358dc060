//! The command line as typed. `settings` makes it valid together with environment and file.

use std::io::Read as _;
use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};

use crate::failure::Failure;

/// Bytes of one statement: what the server accepts.
const STATEMENT_BYTES_MAX: u64 = 1 << 20;

const AFTER_HELP: &str = "\
Exit codes: 0 answered; 1 the query failed; 2 wrong usage; 3 no connection or TLS failed;
4 not authorised; 5 out of time.

Settings are taken from flags, then the environment (TRIBUTARY_SERVER, TRIBUTARY_CA,
TRIBUTARY_USER, TRIBUTARY_PASSWORD, TRIBUTARY_PASSWORD_FILE, TRIBUTARY_CERT, TRIBUTARY_KEY), then
~/.config/tributary/cli.toml (keys server, ca, user, password_file, cert, key; TRIBUTARY_CONFIG
names another file).";

/// Asks a Tributary cluster: SQL and status, over HTTPS.
#[derive(Debug, Parser)]
#[command(name = "tributary", version, after_help = AFTER_HELP)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) connection: ConnectionArgs,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ConnectionArgs {
    /// Nodes to ask, the first that answers is taken: https://host:port[,https://host:port...]
    #[arg(long, global = true, value_name = "URL", value_delimiter = ',')]
    pub(crate) server: Vec<String>,
    /// Certificates (PEM) that sign the nodes: the cluster's nodes-ca.pem
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
    /// User name; the password comes from TRIBUTARY_PASSWORD or --password-file
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) user: Option<String>,
    /// File with the password on its first line
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) password_file: Option<PathBuf>,
    /// Certificate (PEM) of this user, instead of a password
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) cert: Option<PathBuf>,
    /// Private key (PEM) of --cert
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) key: Option<PathBuf>,
    /// Give up after so many seconds
    #[arg(long, global = true, value_name = "N", default_value_t = 60)]
    pub(crate) timeout_seconds: u64,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run one SQL statement and print its rows
    Sql {
        /// The statement; `-` reads it from standard input
        statement: String,
        #[arg(long, value_enum, default_value_t = Format::Table)]
        format: Format,
    },
    /// Show nodes, leader and agents with their lag
    Status {
        #[arg(long, value_enum, default_value_t = Format::Table)]
        format: Format,
    },
}

/// How rows are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Aligned columns, for people
    Table,
    /// RFC 4180, header first; NULL is an empty unquoted field
    Csv,
    /// One JSON object per row, as the server sent it
    Jsonl,
}

/// The statement itself: what was typed, or standard input for `-`.
pub(crate) fn statement(typed: String) -> Result<String, Failure> {
    if typed != "-" {
        return Ok(typed);
    }
    let mut text = String::new();
    std::io::stdin()
        .lock()
        .take(STATEMENT_BYTES_MAX + 1)
        .read_to_string(&mut text)
        .map_err(|e| Failure::Usage(format!("cannot read the statement from stdin: {e}")))?;
    if text.len() as u64 > STATEMENT_BYTES_MAX {
        return Err(Failure::Usage(format!(
            "the statement is over {STATEMENT_BYTES_MAX} bytes"
        )));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        use clap::CommandFactory as _;
        Args::command().debug_assert();
    }

    #[test]
    fn flags_may_stand_on_either_side_of_the_command() {
        let args = Args::try_parse_from([
            "tributary",
            "--server",
            "https://a:1,https://b:2",
            "sql",
            "SELECT 1",
            "--format",
            "csv",
            "--user",
            "ops",
        ])
        .unwrap();
        assert_eq!(args.connection.server, ["https://a:1", "https://b:2"]);
        assert_eq!(args.connection.user.as_deref(), Some("ops"));
        assert!(matches!(
            args.command,
            Command::Sql {
                format: Format::Csv,
                ..
            }
        ));
    }
}
