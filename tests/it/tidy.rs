//! What a machine can check of the repository itself, so that no review has to.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tests::binaries::workspace;

/// Lines of one source file. It only ratchets down.
const FILE_LINES_MAX: usize = 700;
/// Crates of a binary, itself included: each is code that someone has to trust.
const CRATES_MAX: [(&str, usize); 2] = [("edge-agent", 105), ("query-cli", 90)];
const SKIPPED_FOLDERS: [&str; 6] = ["target", ".git", "corpus", "artifacts", "coverage", "data"];

/// A dependency and the only places that may name it; a path may be the start of a name.
const HOMES: [(&str, &[&str]); 15] = [
    ("openraft", &["aggregator/src/cluster/"]),
    ("datafusion", &["aggregator/src/query/"]),
    // `users.rs` writes the verifiers that its SCRAM handshake reads.
    (
        "pgwire",
        &["aggregator/src/serve/pg", "aggregator/src/users.rs"],
    ),
    ("axum", &["aggregator/src/serve/"]),
    (
        "mqtt_protocol_core",
        &["aggregator/src/ingest/", "benches/"],
    ),
    ("rcgen", &["aggregator/src/pki/"]),
    // The other is a client that the front door is tested with.
    (
        "rumqttc",
        &[
            "edge-agent/src/uplink",
            "aggregator/src/ingest/listener/tests.rs",
        ],
    ),
    (
        "redb",
        &[
            "aggregator/src/store/",
            "aggregator/src/cluster/",
            "edge-agent/src/buffer/",
            "benches/",
        ],
    ),
    ("pco", &["aggregator/src/store/"]),
    (
        "mimalloc",
        &["aggregator/src/main.rs", "benches/store/main.rs"],
    ),
    ("prometheus_client", &["aggregator/src/"]),
    ("lexopt", &["edge-agent/src/args.rs"]),
    (
        "rustix",
        &["edge-agent/src/clock/", "edge-agent/src/random.rs"],
    ),
    ("comfy_table", &["query-cli/src/output.rs"]),
    (
        "crc32c",
        &[
            "shared/src/",
            "journal/src/",
            "aggregator/src/state/bytes.rs",
            "aggregator/src/store/",
            "edge-agent/src/buffer/",
            // Forged ones, to get past the check.
            "fuzz/",
            "benches/limits/",
        ],
    ),
];

#[test]
fn every_path_that_the_documents_name_exists() {
    let files = files_below(workspace());
    for document in ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"] {
        let text = read(document);
        let missing: Vec<_> = named_paths(&text)
            .into_iter()
            .filter(|named| !files.iter().any(|file| is_named(file, named)))
            .collect();
        assert!(
            missing.is_empty(),
            "{document} names what does not exist: {missing:?}"
        );
    }
}

#[test]
fn no_file_is_too_long() {
    for file in sources() {
        let lines = read(&file).lines().count();
        assert!(
            lines <= FILE_LINES_MAX,
            "{file} has {lines} lines, at most {FILE_LINES_MAX}"
        );
    }
}

#[test]
fn no_file_is_an_orphan() {
    let manifests: String = files_below(workspace())
        .iter()
        .filter(|f| f.ends_with("Cargo.toml"))
        .map(|f| read(f))
        .collect();
    let all: BTreeSet<String> = sources().into_iter().collect();
    for file in &all {
        assert!(
            is_root(file, &manifests) || is_declared(file, &all),
            "{file} belongs to no module: declare it or remove it"
        );
    }
}

#[test]
fn every_dependency_stays_in_its_home() {
    for file in sources() {
        // Comments may name what they explain.
        let code: String = read(&file)
            .lines()
            .filter(|line| !line.trim_start().starts_with("//"))
            .flat_map(|line| [line, "\n"])
            .collect();
        for (dependency, homes) in HOMES {
            let at_home = homes.iter().any(|home| file.starts_with(home));
            assert!(
                at_home || !names_crate(&code, dependency),
                "{file} names {dependency}, whose home is {homes:?}"
            );
        }
    }
}

#[test]
fn nothing_is_left_for_later() {
    // Put together here, so that this file does not find itself.
    let marks = [["TO", "DO"], ["FIX", "ME"], ["XX", "X"], ["dbg", "!("]].map(|mark| mark.concat());
    for file in sources() {
        let text = read(&file);
        for mark in &marks {
            let line = text.lines().position(|line| line.contains(mark.as_str()));
            assert!(
                line.is_none(),
                "{file}:{} holds {mark}",
                line.unwrap_or_default() + 1
            );
        }
    }
}

#[test]
fn binaries_stay_light() {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    for (package, crates_max) in CRATES_MAX {
        let output = Command::new(&cargo)
            .current_dir(workspace())
            .args([
                "tree", "--locked", "--edges", "normal", "--prefix", "none", "-p", package,
            ])
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let text = String::from_utf8_lossy(&output.stdout);
        // "(*)" marks a crate that was listed before.
        let crates: BTreeSet<_> = text
            .lines()
            .map(|line| line.trim_end_matches(" (*)"))
            .filter(|l| !l.is_empty())
            .collect();
        let count = crates.len();
        assert!(
            count <= crates_max,
            "{package} has {count} crates, at most {crates_max}"
        );
    }
}

/// Every file of the repository, relative to its root, without what builds and fuzzing leave.
fn files_below(folder: &Path) -> Vec<String> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap().map(Result::unwrap) {
            let path = entry.path();
            let name = entry.file_name();
            if !entry.file_type().unwrap().is_dir() {
                files.push(relative(&path));
            } else if !SKIPPED_FOLDERS.iter().any(|skipped| name == *skipped) {
                folders.push(path);
            }
        }
    }
    files
}

fn relative(path: &Path) -> String {
    path.strip_prefix(workspace())
        .unwrap()
        .to_string_lossy()
        .into_owned()
}

fn sources() -> Vec<String> {
    files_below(workspace())
        .into_iter()
        .filter(|file| has_ending(file, "rs"))
        .collect()
}

fn read(file: &str) -> String {
    fs::read_to_string(workspace().join(file)).unwrap_or_else(|e| panic!("{file}: {e}"))
}

/// What stands in backticks and looks like a path of this repository, `{a,b}` expanded.
fn named_paths(markdown: &str) -> Vec<String> {
    // Fenced blocks hold commands and output.
    let mut prose = String::new();
    let mut fenced = false;
    for line in markdown.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if !fenced {
            prose.push_str(line);
            prose.push('\n');
        }
    }
    prose
        .split('`')
        .skip(1)
        .step_by(2)
        .flat_map(expand)
        .filter(|text| looks_like_path(text))
        .collect()
}

fn looks_like_path(text: &str) -> bool {
    const ENDINGS: [&str; 7] = [".rs", ".md", ".toml", ".sh", ".lock", ".lp", ".csv"];
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.' | b'/');
    let top = text.split('/').next().unwrap_or_default();
    let in_repository = text.contains('/') && workspace().join(top).exists();
    let is_name = ENDINGS
        .iter()
        .any(|ending| text.len() > ending.len() && text.ends_with(ending));
    // Files of users, such as `aggregator.toml`, have no folder here and are no sources.
    let is_ours = text.contains('/') || has_ending(text, "rs") || has_ending(text, "md");
    text.bytes().all(plain)
        && !text.starts_with(['/', '.', '-', '~'])
        && (in_repository || (is_name && is_ours))
}

fn has_ending(file: &str, ending: &str) -> bool {
    Path::new(file).extension().is_some_and(|own| own == ending)
}

/// `a/{b,c}.rs` to `a/b.rs` and `a/c.rs`.
fn expand(text: &str) -> Vec<String> {
    let braces = text.split_once('{').and_then(|(before, rest)| {
        let (inside, after) = rest.split_once('}')?;
        Some((before, inside, after))
    });
    match braces {
        None => vec![text.to_owned()],
        Some((before, inside, after)) => inside
            .split(',')
            .map(|one| format!("{before}{}{after}", one.trim()))
            .collect(),
    }
}

/// A path is named from the root, or from any folder on: `session.rs`, `ingest/session.rs`.
fn is_named(file: &str, named: &str) -> bool {
    let named = named.trim_end_matches('/');
    let from = |start: usize| {
        let rest = &file[start..];
        rest == named
            || rest
                .strip_prefix(named)
                .is_some_and(|after| after.starts_with('/'))
    };
    from(0) || file.match_indices('/').any(|(at, _)| from(at + 1))
}

/// Cargo starts here: nobody declares it.
fn is_root(file: &str, manifests: &str) -> bool {
    let path = Path::new(file);
    let folder = |name: &str| path.parent().is_some_and(|parent| parent.ends_with(name));
    let in_manifest = || {
        let tail: PathBuf = path.components().skip(1).collect();
        manifests.contains(&format!("path = \"{}\"", tail.display()))
    };
    matches!(
        path.file_name().and_then(|name| name.to_str()),
        Some("main.rs" | "lib.rs" | "build.rs")
    ) || [
        "bin",
        "benches",
        "examples",
        "fuzz_targets",
        "journal/tests",
        "edge-agent/tests",
    ]
    .iter()
    .any(|name| folder(name))
        || in_manifest()
}

/// A `mod` in one of the files that can hold it names the file.
fn is_declared(file: &str, all: &BTreeSet<String>) -> bool {
    let path = Path::new(file);
    let (module, folder) = if path.ends_with("mod.rs") {
        let own = path.parent().unwrap();
        (own.file_name().unwrap(), own.parent().unwrap())
    } else {
        (path.file_stem().unwrap(), path.parent().unwrap())
    };
    let module = module.to_str().unwrap();
    let file_name = path.file_name().unwrap().to_str().unwrap();
    let holders: Vec<_> = all
        .iter()
        .filter(|holder| *holder != file && Path::new(holder).parent() == Some(folder))
        .map(|holder| read(holder))
        .collect();
    holders.iter().any(|text| {
        text.contains(&format!("mod {module};"))
            || text.contains(&format!("path = \"{file_name}\""))
    })
}

/// Whether code uses a crate by its name.
fn names_crate(code: &str, name: &str) -> bool {
    code.match_indices(name).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        let after = &code[at + name.len()..];
        let is_word =
            before.is_none_or(|c| !c.is_alphanumeric() && c != '_' && c != ':' && c != '.');
        let used = code[..at].ends_with("use ") && after.starts_with([';', ' ']);
        is_word && (after.starts_with("::") || used)
    })
}

#[test]
fn the_checks_see_what_they_are_for() {
    let text = "See `shared/src/nowhere.rs`, `ingest/{a,b}.rs`, `POST /v1/sql` and `x.md`.\n\
                ```\n`tests/not/checked.rs`\n```\n`agent.toml` `tributary/v1/<id>/live`";
    let named = named_paths(text);
    assert_eq!(
        named,
        [
            "shared/src/nowhere.rs",
            "ingest/a.rs",
            "ingest/b.rs",
            "x.md"
        ]
    );
    assert!(is_named("aggregator/src/ingest/a.rs", "ingest/a.rs"));
    assert!(is_named("aggregator/src/ingest/a.rs", "aggregator/src/"));
    assert!(!is_named("aggregator/src/ingest/aa.rs", "a.rs"));
    assert!(names_crate("use abc::Database;", "abc") && names_crate("    abc::X", "abc"));
    assert!(!names_crate("my_abc::X; crate::abc::Y; abc_x", "abc"));
}
