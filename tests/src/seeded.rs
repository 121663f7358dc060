//! Bugs that are put back to see whether the checks catch them: the patches in `tests/seeded_bugs`,
//! read here and applied by `git`. `bin/seeded_bugs.rs` runs them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// One patch, with what its head says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeededBug {
    pub name: String,
    pub path: PathBuf,
    /// What is wrong then.
    pub what: String,
    /// Who would make it, and why.
    pub who: String,
    pub check: Check,
}

/// What has to catch a bug.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Check {
    /// `cargo test` of what is to be built, then what the tests' program is given.
    Tests {
        build: Vec<String>,
        filter: Vec<String>,
    },
    /// Runs of the simulator, seed by seed.
    Seeds,
}

impl SeededBug {
    /// All in a folder, in the order of their names. The error is for people.
    pub fn all(folder: &Path) -> Result<Vec<SeededBug>, String> {
        let entries = fs::read_dir(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
        let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        paths.retain(|path| path.extension().is_some_and(|ending| ending == "patch"));
        paths.sort();
        paths.into_iter().map(SeededBug::read).collect()
    }

    fn read(path: PathBuf) -> Result<SeededBug, String> {
        let text = fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        let told = |key: &str| {
            let mut lines = text.lines().take_while(|line| !line.starts_with("diff "));
            let line = lines.find_map(|line| line.strip_prefix(key));
            line.map(|rest| rest.trim().to_owned())
                .ok_or_else(|| format!("{}: its head has no line {key:?}", path.display()))
        };
        let (what, who, check) = (told("What:")?, told("Who:")?, told("Check:")?);
        let check = Check::parse(&check).map_err(|e| format!("{}: {e}", path.display()))?;
        let name = path.file_stem().unwrap_or_default();
        Ok(SeededBug {
            name: name.to_string_lossy().into_owned(),
            path,
            what,
            who,
            check,
        })
    }

    /// Whether the patch applies to a tree; nothing is changed.
    pub fn check_applies(&self, tree: &Path) -> Result<(), String> {
        self.apply(tree, &["--check"])
    }

    /// Runs `git apply` in a tree.
    pub fn apply(&self, tree: &Path, flags: &[&str]) -> Result<(), String> {
        let mut command = Command::new("git");
        command.current_dir(tree).arg("apply").args(flags);
        let output = command.arg(&self.path).output();
        let output = output.map_err(|e| format!("git: {e}"))?;
        if output.status.success() {
            return Ok(());
        }
        Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
    }
}

impl Check {
    fn parse(text: &str) -> Result<Check, String> {
        if text == "seeds" {
            return Ok(Check::Seeds);
        }
        let rest = text.strip_prefix("cargo test ");
        let rest =
            rest.ok_or_else(|| format!("{text:?} is neither `seeds` nor `cargo test ..`"))?;
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect();
        let (build, filter) = rest.split_once(" -- ").unwrap_or((rest, ""));
        Ok(Check::Tests {
            build: words(build),
            filter: words(filter),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_is_seeds_or_a_test() {
        assert_eq!(Check::parse("seeds"), Ok(Check::Seeds));
        let parsed = Check::parse("cargo test -p journal --lib -- writer:: spare::");
        let words = |text: &str| text.split(' ').map(str::to_owned).collect();
        let (build, filter) = (words("-p journal --lib"), words("writer:: spare::"));
        assert_eq!(parsed, Ok(Check::Tests { build, filter }));
        assert!(Check::parse("make test").is_err());
    }
}
