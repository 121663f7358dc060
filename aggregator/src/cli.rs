//! Arguments to calls: parse, run one command, print what it did or why it did not.

use std::io::{self, BufRead, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use aggregator::config::Config;
use aggregator::pki::{LEAF_DAYS, Pki};
use aggregator::tls::Role;
use aggregator::users::Users;
use clap::{Args, Parser, Subcommand};

/// One node of a Tributary cluster.
#[derive(Parser)]
#[command(name = "tributary-aggregator", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Check a configuration file.
    Check {
        #[arg(long)]
        config: PathBuf,
    },
    /// Make a new cluster of which this is the first node; once for each cluster.
    Init {
        #[arg(long)]
        config: PathBuf,
    },
    /// Run this node until SIGTERM or Ctrl-C.
    Run {
        #[arg(long)]
        config: PathBuf,
    },
    /// Make and revoke certificates.
    #[command(subcommand)]
    Pki(PkiCommand),
    /// Who may log in with a password.
    #[command(subcommand)]
    User(UserCommand),
    /// Say what stored bytes are; reads only. Exit code 1 if some of them are damaged.
    Inspect(Inspect),
}

#[derive(Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
struct Inspect {
    #[command(subcommand)]
    kind: Option<InspectKind>,
    /// A batch, a segment (.seg), a file of the Raft log (.journal) or a node's data folder.
    #[arg(required = true)]
    path: Option<PathBuf>,
    /// Print the rows of a segment, too.
    #[arg(long)]
    rows: bool,
}

#[derive(Subcommand)]
enum InspectKind {
    /// One encoded batch, for example of an agent's dead letters.
    Batch { file: PathBuf },
}

#[derive(Subcommand)]
enum PkiCommand {
    /// Make the three certificate authorities of a cluster.
    Init {
        /// Folder of the certificates; made if absent. Keep its *-ca.key files offline.
        #[arg(long)]
        dir: PathBuf,
        /// Name of the cluster; every certificate carries it.
        #[arg(long)]
        cluster: String,
    },
    /// Issue the certificate of a node.
    Node {
        #[command(flatten)]
        leaf: Leaf,
        /// IP address or DNS name under which the node is reached; may be given several times.
        #[arg(long = "host", required = true)]
        hosts: Vec<String>,
    },
    /// Issue the certificate of an agent; its name is the agent's id.
    Agent(Leaf),
    /// Issue the certificate of a user who reads.
    User(Leaf),
    /// Put a certificate on the revocation list.
    Revoke {
        /// Serial number in hex, or the file's name without its ending, like agent-gw1.
        what: String,
        #[arg(long)]
        dir: PathBuf,
        #[arg(long)]
        reason: String,
    },
}

#[derive(Args)]
struct Leaf {
    name: String,
    /// Folder that `pki init` made.
    #[arg(long)]
    dir: PathBuf,
    /// Days until it expires.
    #[arg(long, default_value_t = LEAF_DAYS, value_parser = clap::value_parser!(u32).range(1..=36_500))]
    days: u32,
}

#[derive(Subcommand)]
enum UserCommand {
    /// Add a user or change a password; it is read from TRIBUTARY_PASSWORD or one line of stdin.
    Add {
        name: String,
        /// Configuration of the node; its users.file is written.
        #[arg(long)]
        config: PathBuf,
    },
}

type Failure = Box<dyn std::error::Error>;

pub(crate) fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nothing is left to be done if even stderr is closed.
            let _ = writeln!(io::stderr(), "error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Check { config } => {
            let config = Config::load(&config)?;
            for warning in aggregator::inspect::table_warnings(&config) {
                writeln!(io::stderr(), "warning: {warning}")?;
            }
            say(&format!(
                "node {} of cluster {}: valid",
                config.name, config.cluster
            ))
        }
        Command::Init { config } => {
            let config = Config::load(&config)?;
            runtime()?.block_on(aggregator::node::init(&config))?;
            say(&format!(
                "cluster {}: made, with node {} as the first in {}",
                config.cluster,
                config.name,
                config.data_dir.display()
            ))
        }
        Command::Run { config } => {
            let config = Config::load(&config)?;
            log_to_stderr();
            Ok(runtime()?.block_on(aggregator::node::run(config))?)
        }
        Command::Pki(command) => pki(command),
        Command::Inspect(what) => inspect(what),
        Command::User(UserCommand::Add { name, config }) => {
            let path = Config::load(&config)?.users_file;
            let mut users = Users::load(&path)?;
            let known = users.set(&name, &password()?)?;
            users.save(&path)?;
            let what = if known { "password changed" } else { "added" };
            say(&format!("user {name}: {what} in {}", path.display()))
        }
    }
}

fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
}

/// Without `RUST_LOG`. What openraft warns of is peers that do not answer, each request anew; we say so
/// ourselves, once a minute.
const LOG_FILTER: &str = "info,openraft=error";

/// `RUST_LOG` says what.
fn log_to_stderr() {
    use tracing_subscriber::EnvFilter;
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(LOG_FILTER));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(io::stderr().is_terminal())
        .with_writer(io::stderr)
        .init();
}

fn pki(command: PkiCommand) -> Result<(), Failure> {
    let (role, leaf, hosts) = match command {
        PkiCommand::Init { dir, cluster } => {
            let pki = Pki::init(&dir, &cluster)?;
            return say(&format!(
                "certificate authorities of cluster {} in {}",
                pki.cluster(),
                pki.folder().display()
            ));
        }
        PkiCommand::Revoke { what, dir, reason } => {
            let pki = Pki::open(&dir)?;
            let entry = pki.revoke(&what, &reason)?;
            return say(&format!(
                "revoked {} {}; copy {} to every node",
                entry.serial,
                entry.identity,
                pki.revoked_path().display()
            ));
        }
        PkiCommand::Node { leaf, hosts } => (Role::Node, leaf, hosts),
        PkiCommand::Agent(leaf) => (Role::Agent, leaf, Vec::new()),
        PkiCommand::User(leaf) => (Role::User, leaf, Vec::new()),
    };
    let issued = Pki::open(&leaf.dir)?.issue(role, &leaf.name, &hosts, leaf.days)?;
    say(&format!(
        "{}: {} and {}",
        issued.identity,
        issued.cert.display(),
        issued.key.display()
    ))
}

fn inspect(what: Inspect) -> Result<(), Failure> {
    let mut written = Ok(());
    let mut out = io::stdout().lock();
    let mut show = |text: &str| {
        if written.is_ok() {
            written = writeln!(out, "{}", text.trim_end());
        }
    };
    let (path, damaged) = match (what.kind, what.path) {
        (Some(InspectKind::Batch { file }), _) => {
            let damaged = aggregator::inspect::batch(&file, &mut show)?;
            (file, damaged)
        }
        (None, Some(path)) => {
            let damaged = aggregator::inspect::describe(&path, what.rows, &mut show)?;
            (path, damaged)
        }
        (None, None) => return Err("inspect needs a path".into()),
    };
    written?;
    if damaged {
        return Err(format!("{}: some of it is damaged", path.display()).into());
    }
    Ok(())
}

fn password() -> Result<String, Failure> {
    if let Ok(password) = std::env::var("TRIBUTARY_PASSWORD") {
        return Ok(password);
    }
    if io::stdin().is_terminal() {
        write!(
            io::stderr(),
            "password (shown as you type; pipe it in to avoid that): "
        )?;
    }
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line)?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

fn say(line: &str) -> Result<(), Failure> {
    Ok(writeln!(io::stdout(), "{line}")?)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(typed: &str) -> Result<Command, clap::Error> {
        Cli::try_parse_from(typed.split_whitespace()).map(|cli| cli.command)
    }

    #[test]
    fn inspect_takes_a_path_or_a_kind_and_a_file() {
        Cli::command().debug_assert();
        let Ok(Command::Inspect(what)) = parse("aggregator inspect a.seg --rows") else {
            panic!("a path is enough");
        };
        assert_eq!(what.path, Some(PathBuf::from("a.seg")));
        assert!(what.rows && what.kind.is_none());
        let Ok(Command::Inspect(what)) = parse("aggregator inspect batch a") else {
            panic!("a kind and a file");
        };
        assert!(matches!(what.kind, Some(InspectKind::Batch { .. })));
        assert!(parse("aggregator inspect").is_err());
    }
}
