//! Where to ask and as whom: flags, then environment, then file, made valid before any I/O to a
//! server. `connection` is its only reader.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::args::ConnectionArgs;
use crate::failure::Failure;

const SERVER_DEFAULT: &str = "https://localhost:8443";

/// What `connection` needs to know.
#[derive(Debug)]
pub(crate) struct Settings {
    /// Tried in this order; at least one.
    pub(crate) servers: Vec<Server>,
    pub(crate) ca: PathBuf,
    pub(crate) password: Option<Password>,
    pub(crate) certificate: Option<Certificate>,
}

/// One node's HTTPS address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Server {
    pub(crate) host: String,
    pub(crate) port: u16,
}

pub(crate) struct Password {
    pub(crate) user: String,
    pub(crate) secret: String,
}

#[derive(Debug)]
pub(crate) struct Certificate {
    pub(crate) chain: PathBuf,
    pub(crate) key: PathBuf,
}

/// `cli.toml`, each key optional.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct CliToml {
    server: Option<String>,
    ca: Option<PathBuf>,
    user: Option<String>,
    password_file: Option<PathBuf>,
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
}

/// How the environment is read; a test hands in its own.
pub(crate) type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

impl Settings {
    pub(crate) fn resolve(args: &ConnectionArgs, env: Lookup<'_>) -> Result<Self, Failure> {
        let file = CliToml::load(env)?;
        let path = |flag: &Option<PathBuf>, name: &str, file: Option<PathBuf>| {
            flag.clone()
                .or_else(|| env(name).map(PathBuf::from))
                .or(file)
        };
        let listed = match (args.server.is_empty(), env("TRIBUTARY_SERVER")) {
            (false, _) => args.server.join(","),
            (true, Some(list)) => list,
            (true, None) => file.server.unwrap_or_else(|| SERVER_DEFAULT.to_owned()),
        };
        let servers = listed
            .split(',')
            .map(Server::parse)
            .collect::<Result<_, _>>()?;
        let ca = path(&args.ca, "TRIBUTARY_CA", file.ca).ok_or_else(|| {
            Failure::Usage(
                "which certificates sign the nodes is unknown: pass the cluster's nodes-ca.pem \
                 with --ca, TRIBUTARY_CA or `ca` in cli.toml"
                    .to_owned(),
            )
        })?;
        let cert = path(&args.cert, "TRIBUTARY_CERT", file.cert);
        let key = path(&args.key, "TRIBUTARY_KEY", file.key);
        let user = args
            .user
            .clone()
            .or_else(|| env("TRIBUTARY_USER"))
            .or(file.user);
        let password_file = path(
            &args.password_file,
            "TRIBUTARY_PASSWORD_FILE",
            file.password_file,
        );
        let certificate = certificate(cert, key)?;
        let password = match user {
            Some(user) => {
                let secret = secret(args, env, password_file.as_deref())?;
                // A certificate alone is enough; its user's name may still be set in the file.
                if secret.is_none() && certificate.is_none() {
                    return Err(Failure::Usage(format!(
                        "no password for user {user:?}: set TRIBUTARY_PASSWORD or pass \
                         --password-file FILE"
                    )));
                }
                secret.map(|secret| Password { user, secret })
            }
            None => None,
        };
        if password.is_none() && certificate.is_none() {
            return Err(Failure::Usage(
                "no identity: pass --user NAME with TRIBUTARY_PASSWORD or --password-file, or \
                 --cert and --key"
                    .to_owned(),
            ));
        }
        Ok(Self {
            servers,
            ca,
            password,
            certificate,
        })
    }
}

impl CliToml {
    fn load(env: Lookup<'_>) -> Result<Self, Failure> {
        let named = env("TRIBUTARY_CONFIG").map(PathBuf::from);
        let usual = env("XDG_CONFIG_HOME")
            .map(PathBuf::from)
            .or_else(|| env("HOME").map(|home| Path::new(&home).join(".config")))
            .map(|folder| folder.join("tributary").join("cli.toml"));
        let must_exist = named.is_some();
        let Some(path) = named.or(usual) else {
            return Ok(Self::default());
        };
        match std::fs::read_to_string(&path) {
            Ok(text) => toml::from_str(&text)
                .map_err(|e| Failure::Usage(format!("{}: {e}", path.display()))),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && !must_exist => {
                Ok(Self::default())
            }
            Err(e) => Err(Failure::Usage(format!(
                "cannot read {}: {e}",
                path.display()
            ))),
        }
    }
}

impl Server {
    fn parse(text: &str) -> Result<Self, Failure> {
        let wrong = || {
            Failure::Usage(format!(
                "{text:?} is no server: write https://host:port (TLS always)"
            ))
        };
        let rest = text.trim().strip_prefix("https://").ok_or_else(wrong)?;
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = authority.rsplit_once(':').ok_or_else(wrong)?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let port = port.parse().map_err(|_| wrong())?;
        if host.is_empty() || host.contains(['/', '@', '?']) {
            return Err(wrong());
        }
        Ok(Self {
            host: host.to_owned(),
            port,
        })
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Password")
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

fn certificate(
    chain: Option<PathBuf>,
    key: Option<PathBuf>,
) -> Result<Option<Certificate>, Failure> {
    match (chain, key) {
        (Some(chain), Some(key)) => Ok(Some(Certificate { chain, key })),
        (None, None) => Ok(None),
        (Some(_), None) => Err(Failure::Usage(
            "--cert needs its private key: --key".to_owned(),
        )),
        (None, Some(_)) => Err(Failure::Usage(
            "--key needs its certificate: --cert".to_owned(),
        )),
    }
}

/// The password, from the place nearest to the user: `--password-file` on the command line, then
/// `TRIBUTARY_PASSWORD`, then a file named elsewhere.
fn secret(
    args: &ConnectionArgs,
    env: Lookup<'_>,
    file: Option<&Path>,
) -> Result<Option<String>, Failure> {
    if args.password_file.is_none()
        && let Some(secret) = env("TRIBUTARY_PASSWORD")
    {
        return Ok(Some(secret));
    }
    let Some(path) = file else { return Ok(None) };
    let text = std::fs::read_to_string(path)
        .map_err(|e| Failure::Usage(format!("cannot read {}: {e}", path.display())))?;
    match text.lines().next() {
        Some(line) if !line.is_empty() => Ok(Some(line.to_owned())),
        _ => Err(Failure::Usage(format!(
            "{}: its first line is empty",
            path.display()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Args;
    use clap::Parser as _;

    fn resolve(flags: &[&str], env: &[(&str, &str)]) -> Result<Settings, Failure> {
        let line = ["tributary"].iter().chain(flags).chain(&["status"]);
        let args = Args::try_parse_from(line).unwrap();
        let lookup = |name: &str| {
            env.iter()
                .find(|(key, _)| *key == name)
                .map(|(_, value)| (*value).to_owned())
        };
        Settings::resolve(&args.connection, &lookup)
    }

    #[test]
    fn flags_win_over_environment_over_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("cli.toml");
        std::fs::write(
            &file,
            "server = 'https://file:1'\nca = 'file.pem'\nuser = 'filer'\n",
        )
        .unwrap();
        let base = [
            ("TRIBUTARY_CONFIG", file.to_str().unwrap()),
            ("TRIBUTARY_PASSWORD", "x"),
        ];
        let settings = resolve(&[], &base).unwrap();
        assert_eq!(
            settings.servers,
            [Server {
                host: "file".into(),
                port: 1
            }]
        );
        assert_eq!(settings.password.unwrap().user, "filer");

        let env = [
            base[0],
            base[1],
            ("TRIBUTARY_SERVER", "https://env:2,https://env:3"),
        ];
        assert_eq!(resolve(&[], &env).unwrap().servers.len(), 2);
        let settings = resolve(&["--server", "https://[::1]:4", "--ca", "flag.pem"], &env).unwrap();
        assert_eq!(
            settings.servers,
            [Server {
                host: "::1".into(),
                port: 4
            }]
        );
        assert_eq!(settings.ca, Path::new("flag.pem"));
    }

    #[test]
    fn what_is_missing_or_wrong_is_named_with_the_remedy() {
        for (flags, env, word) in [
            (
                &["--user", "u"][..],
                &[("TRIBUTARY_PASSWORD", "p")][..],
                "nodes-ca.pem",
            ),
            (&["--ca", "c"], &[], "--user"),
            (&["--ca", "c", "--user", "u"], &[], "TRIBUTARY_PASSWORD"),
            (&["--ca", "c", "--cert", "u.pem"], &[], "--key"),
            (
                &["--ca", "c", "--server", "http://a:1"],
                &[],
                "https://host:port",
            ),
            (
                &["--ca", "c", "--server", "https://a"],
                &[],
                "https://host:port",
            ),
            (
                &[],
                &[("TRIBUTARY_CONFIG", "/nonexistent/cli.toml")],
                "/nonexistent/cli.toml",
            ),
        ] {
            let failure = resolve(flags, env).unwrap_err();
            assert_eq!(failure.exit_code(), 2, "{failure}");
            assert!(failure.to_string().contains(word), "{failure} lacks {word}");
        }
    }

    #[test]
    fn a_password_file_is_read_to_the_end_of_its_first_line() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("secret");
        std::fs::write(&file, "pa ss\nrest\n").unwrap();
        let flags = [
            "--ca",
            "c",
            "--user",
            "u",
            "--password-file",
            file.to_str().unwrap(),
        ];
        let settings = resolve(&flags, &[("TRIBUTARY_PASSWORD", "other")]).unwrap();
        assert_eq!(settings.password.as_ref().unwrap().secret, "pa ss");
        assert!(
            !format!("{settings:?}").contains("pa ss"),
            "secrets never reach a log"
        );
    }
}
