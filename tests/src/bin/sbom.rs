//! Writes what each shipped program is made of: one CycloneDX 1.5 file a program, from what cargo
//! itself says. The same tree gives the same bytes.
//!
//! ```sh
//! cargo run -p tests --bin sbom -- FOLDER
//! ```
//!
//! It lists what is linked on Linux, and what builds it, with the features of the whole workspace: at
//! times a crate more than one program alone would need, never one less.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use ::tests::binaries::workspace;
use serde_json::{Value, json};

/// A package and the program that it ships.
const SHIPPED: [(&str, &str); 3] = [
    ("aggregator", "tributary-aggregator"),
    ("edge-agent", "tributary-agent"),
    ("query-cli", "tributary"),
];
const PLATFORM: &str = "x86_64-unknown-linux-gnu";

fn main() -> ExitCode {
    let Some(folder) = env::args_os().nth(1).map(PathBuf::from) else {
        return failed("say where: `cargo run -p tests --bin sbom -- FOLDER`");
    };
    match write_all(&folder) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

fn failed(error: &str) -> ExitCode {
    // Nobody to tell if even stderr is closed.
    let _ = writeln!(io::stderr(), "{error}");
    ExitCode::FAILURE
}

fn write_all(folder: &Path) -> Result<(), String> {
    let metadata = metadata()?;
    let lock = fs::read_to_string(workspace().join("Cargo.lock"));
    let hashes = hashes(&lock.map_err(|e| format!("Cargo.lock: {e}"))?);
    fs::create_dir_all(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    for (package, program) in SHIPPED {
        let bill = bill(&metadata, &hashes, package, program)?;
        let text = serde_json::to_string_pretty(&bill).map_err(|e| e.to_string())?;
        let path = folder.join(format!("{program}.cdx.json"));
        fs::write(&path, text + "\n").map_err(|e| format!("{}: {e}", path.display()))?;
    }
    Ok(())
}

fn metadata() -> Result<Value, String> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .current_dir(workspace())
        .args(["metadata", "--locked", "--format-version", "1"])
        .args(["--filter-platform", PLATFORM])
        .output()
        .map_err(|e| format!("cargo: {e}"))?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    serde_json::from_slice(&output.stdout).map_err(|e| e.to_string())
}

/// The checksums of a lock file, by name and version.
fn hashes(lock: &str) -> BTreeMap<(String, String), String> {
    let value = |block: &str, key: &str| {
        let mut lines = block.lines();
        let quoted = lines.find_map(|line| line.strip_prefix(key)?.strip_prefix(" = \""));
        quoted.map(|text| text.trim_end_matches('"').to_owned())
    };
    let blocks = lock.split("[[package]]").skip(1);
    blocks
        .filter_map(|block| {
            let named = (value(block, "name")?, value(block, "version")?);
            Some((named, value(block, "checksum")?))
        })
        .collect()
}

fn bill(
    metadata: &Value,
    hashes: &BTreeMap<(String, String), String>,
    package: &str,
    program: &str,
) -> Result<Value, String> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let packages: BTreeMap<String, Value> = list(&metadata["packages"])
        .into_iter()
        .map(|one| (text(&one["id"]), one))
        .collect();
    let used: BTreeMap<String, BTreeSet<String>> = list(&metadata["resolve"]["nodes"])
        .iter()
        .map(|node| (text(&node["id"]), needs(node)))
        .collect();
    let members: BTreeSet<String> = list(&metadata["workspace_members"])
        .iter()
        .map(text)
        .collect();
    let root = packages
        .iter()
        .find(|(id, one)| members.contains(*id) && one["name"] == package);
    let root = root.map(|(id, _)| id.clone());
    let root = root.ok_or_else(|| format!("the workspace has no package {package}"))?;

    let (mut reached, mut open) = (BTreeSet::new(), vec![root.clone()]);
    while let Some(id) = open.pop() {
        if reached.insert(id.clone()) {
            open.extend(used.get(&id).into_iter().flatten().cloned());
        }
    }
    let purl = |id: &String| {
        let one = &packages[id];
        format!("pkg:cargo/{}@{}", text(&one["name"]), text(&one["version"]))
    };
    let component = |id: &String| {
        let one = &packages[id];
        let (name, version) = (text(&one["name"]), text(&one["version"]));
        let mut component = json!({
            "type": "library", "bom-ref": purl(id), "purl": purl(id), "name": name, "version": version,
        });
        if let Some(license) = one["license"].as_str() {
            // The older way to write a choice.
            let expression = license.replace('/', " OR ");
            component["licenses"] = json!([{ "expression": expression }]);
        }
        if let Some(hash) = hashes.get(&(name, version)) {
            component["hashes"] = json!([{ "alg": "SHA-256", "content": hash }]);
        }
        component
    };
    let mut shipped = component(&root);
    shipped["type"] = json!("application");
    shipped["name"] = json!(program);
    let others = reached.iter().filter(|id| **id != root);
    let edges = reached.iter().map(|id| {
        let on: BTreeSet<String> = used[id].iter().map(purl).collect();
        json!({ "ref": purl(id), "dependsOn": on })
    });
    Ok(json!({
        "bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1,
        "metadata": { "component": shipped },
        "components": others.map(component).collect::<Vec<_>>(),
        "dependencies": edges.collect::<Vec<_>>(),
    }))
}

/// What a package needs, but for its tests.
fn needs(node: &Value) -> BTreeSet<String> {
    let all = node["deps"].as_array().into_iter().flatten();
    let for_tests_alone = |one: &&Value| {
        let kinds = one["dep_kinds"].as_array();
        kinds.is_some_and(|kinds| kinds.iter().all(|kind| kind["kind"] == "dev"))
    };
    all.filter(|one| !for_tests_alone(one))
        .filter_map(|one| one["pkg"].as_str().map(str::to_owned))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_itself_and_what_it_needs_at_run_time() {
        let metadata = json!({
            "workspace_members": ["m 1"],
            "packages": [
                { "id": "m 1", "name": "m", "version": "1", "license": "MIT/Apache-2.0" },
                { "id": "a 2", "name": "a", "version": "2", "license": "MIT" },
                { "id": "t 3", "name": "t", "version": "3", "license": "MIT" },
            ],
            "resolve": { "nodes": [
                { "id": "m 1", "deps": [
                    { "pkg": "a 2", "dep_kinds": [{ "kind": null }, { "kind": "dev" }] },
                    { "pkg": "t 3", "dep_kinds": [{ "kind": "dev" }] },
                ] },
                { "id": "a 2", "deps": [] },
                { "id": "t 3", "deps": [] },
            ] },
        });
        let lock = "version = 4\n[[package]]\nname = \"a\"\nversion = \"2\"\nchecksum = \"00ff\"\n";
        let bill = bill(&metadata, &hashes(lock), "m", "prog").unwrap();
        assert_eq!(bill["metadata"]["component"]["name"], "prog");
        assert_eq!(bill["components"].as_array().map(Vec::len), Some(1));
        let only = &bill["components"][0];
        assert_eq!(only["purl"], "pkg:cargo/a@2");
        assert_eq!(only["hashes"][0]["content"], "00ff");
        assert_eq!(bill["dependencies"].as_array().map(Vec::len), Some(2));
        let license = &bill["metadata"]["component"]["licenses"][0]["expression"];
        assert_eq!(license, "MIT OR Apache-2.0");
    }
}
