//! Arguments to calls: parse, run one command, print what it did or why it did not.

use std::fs::File;
use std::io::{self, BufRead, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use aggregator::config::Config;
use aggregator::pki::{LEAF_DAYS, Pki};
use aggregator::tls::Role;
use aggregator::users::Users;
use clap::{Args, Parser, Subcommand};
use shared::limits::BATCH_BYTES_MAX;

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
    /// Say what stored bytes are.
    #[command(subcommand)]
    Inspect(InspectCommand),
}

#[derive(Subcommand)]
enum InspectCommand {
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
        Command::Inspect(InspectCommand::Batch { file }) => {
            let bytes = read_at_most(&file, BATCH_BYTES_MAX)?;
            let text = aggregator::inspect::batch(&bytes)
                .map_err(|error| format!("{}: {error}", file.display()))?;
            say(text.trim_end())
        }
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

/// `RUST_LOG` says what, `info` if it is not set.
fn log_to_stderr() {
    use tracing_subscriber::EnvFilter;
    let filter =
        EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info,openraft=warn"));
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

/// Reads a file that may be larger than it should.
fn read_at_most(path: &Path, bytes_max: usize) -> Result<Vec<u8>, Failure> {
    let named = |error: io::Error| format!("{}: {error}", path.display());
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(named)?;
    file.take(bytes_max as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(named)?;
    Ok(bytes)
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
