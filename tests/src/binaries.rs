//! Builds what is started, with the profile of whoever asks, so that a test never meets a stale
//! binary.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// How the names begin of what cargo tells a program of its package (The Cargo Book, "Environment
/// variables").
const TOLD_BY_CARGO: [&str; 2] = ["CARGO_MANIFEST_", "CARGO_PKG_"];

/// Where the three programs lie.
#[derive(Debug, Clone)]
pub struct Binaries {
    pub aggregator: PathBuf,
    pub agent: PathBuf,
    pub cli: PathBuf,
}

impl Binaries {
    /// Builds them once for this process, unless `TRIBUTARY_BIN_DIR` names a folder that has them:
    /// so what was built to be shipped is tested as it is. The error is for people.
    pub fn build() -> Result<Binaries, String> {
        static BUILT: OnceLock<Result<Binaries, String>> = OnceLock::new();
        let find = || match env::var_os("TRIBUTARY_BIN_DIR") {
            Some(folder) => ready_made(Path::new(&folder)),
            None => build(),
        };
        BUILT.get_or_init(find).clone()
    }
}

fn ready_made(folder: &Path) -> Result<Binaries, String> {
    let find = |name: &str| {
        let path = folder.join(name);
        let missing = || {
            format!(
                "TRIBUTARY_BIN_DIR has no {name}: {} is no file",
                path.display()
            )
        };
        path.is_file().then(|| path.clone()).ok_or_else(missing)
    };
    Ok(Binaries {
        aggregator: find("tributary-aggregator")?,
        agent: find("tributary-agent")?,
        cli: find("tributary")?,
    })
}

/// Builds one more program of the workspace, as the quickstart for its own test.
pub fn build_package(package: &str, binary: &str) -> Result<PathBuf, String> {
    build_all(&[package], &[binary]).map(|mut found| found.remove(0))
}

fn build() -> Result<Binaries, String> {
    let packages = ["aggregator", "edge-agent", "query-cli"];
    let names = ["tributary-aggregator", "tributary-agent", "tributary"];
    let [aggregator, agent, cli] =
        <[PathBuf; 3]>::try_from(build_all(&packages, &names)?).expect("one path for each name");
    Ok(Binaries {
        aggregator,
        agent,
        cli,
    })
}

/// Runs cargo and takes the paths from its own report: a target folder may be set in four places.
fn build_all(packages: &[&str], names: &[&str]) -> Result<Vec<PathBuf>, String> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .current_dir(workspace())
        .arg("build")
        .args(profile()?);
    for package in packages {
        command.args(["-p", package]);
    }
    // What cargo tells the program that it runs is not for the cargo that it runs: crates that look
    // at it would be built anew, and all that stands on them.
    for (name, _) in env::vars_os() {
        if TOLD_BY_CARGO
            .iter()
            .any(|start| name.to_string_lossy().starts_with(start))
        {
            command.env_remove(name);
        }
    }
    // With this package, whose features are then theirs: nothing is compiled twice.
    command.args(["-p", env!("CARGO_PKG_NAME")]);
    command.args(["--bins", "--message-format", "json-render-diagnostics"]);
    // Progress and diagnostics go to stderr: shown, because a first build takes minutes.
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .map_err(|e| format!("cannot run {command:?}: {e}. Is Rust's cargo on the PATH?"))?;
    if !output.status.success() {
        return Err(format!("{command:?} failed: its messages stand above"));
    }
    let report = String::from_utf8_lossy(&output.stdout);
    names
        .iter()
        .map(|name| {
            executable(&report, name)
                .ok_or_else(|| format!("{command:?} built no binary named {name}"))
        })
        .collect()
}

fn executable(report: &str, name: &str) -> Option<PathBuf> {
    report.lines().find_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        let is_it = message["reason"] == "compiler-artifact" && message["target"]["name"] == name;
        is_it
            .then(|| message["executable"].as_str().map(PathBuf::from))
            .flatten()
    })
}

/// The flags that select the profile this program was built with: the folder it lies in tells.
fn profile() -> Result<Vec<String>, String> {
    let own = env::current_exe().map_err(|e| format!("cannot find the own program: {e}"))?;
    let mut folder = own.parent().unwrap_or(Path::new(""));
    if folder.ends_with("deps") {
        folder = folder.parent().unwrap_or(folder);
    }
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    Ok(match name.as_ref() {
        "debug" => Vec::new(),
        profile => vec!["--profile".to_owned(), profile.to_owned()],
    })
}

/// The root of the workspace: above the package that cargo runs, else where this source was when it
/// was compiled. Two checkouts may share a target folder, and then cargo takes what one compiled for
/// the other's as well.
pub fn workspace() -> &'static Path {
    static ROOT: OnceLock<PathBuf> = OnceLock::new();
    ROOT.get_or_init(|| {
        let own = env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
        let own = own.unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")));
        let is_root = |folder: &&Path| folder.join("Cargo.lock").is_file();
        own.ancestors().find(is_root).unwrap_or(&own).to_path_buf()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_without_a_binary_is_named() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("tributary-aggregator"), "").unwrap();
        let error = ready_made(folder.path()).unwrap_err();
        assert!(error.contains("has no tributary-agent:"), "{error}");
        for name in ["tributary-agent", "tributary"] {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        let found = ready_made(folder.path()).unwrap();
        assert_eq!(found.cli, folder.path().join("tributary"));
    }

    #[test]
    fn paths_come_from_cargos_report() {
        let report = concat!(
            "not json\n",
            r#"{"reason":"compiler-artifact","target":{"name":"tributary"},"executable":null}"#,
            "\n",
            r#"{"reason":"compiler-artifact","target":{"name":"tributary"},"executable":"/t/x"}"#,
        );
        assert_eq!(executable(report, "tributary"), Some(PathBuf::from("/t/x")));
        assert_eq!(executable(report, "tributary-agent"), None);
    }
}
