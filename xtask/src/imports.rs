//! Imports point one way: `server -> worker -> proto`, and the data plane knows neither tokio nor the control plane.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::command::{capture, cargo, root};
use crate::report::Tally;

/// All that `todo-proto` may pull in: words and rules, no I/O. A new name here is a decision, not a formality.
const PROTO_MAY_USE: &[&str] = &[
    "itoa",
    "jiff",
    "jiff-core",
    "memchr",
    "proc-macro2",
    "quote",
    "serde",
    "serde_core",
    "serde_derive",
    "serde_json",
    "siphasher",
    "syn",
    "thiserror",
    "thiserror-impl",
    "todo-proto",
    "unicode-ident",
    "uuid",
    "zmij",
];

/// Which crates of this workspace each crate may reach, itself included.
const WORKSPACE_MAY_USE: &[(&str, &[&str])] = &[
    ("todo-worker", &["todo-worker", "todo-proto"]),
    ("todo-server", &["todo-server", "todo-worker", "todo-proto"]),
    ("xtask", &["xtask"]),
];

/// Words that must not stand in the code of a part of the server.
struct Ban {
    directories: &'static [&'static str],
    words: &'static [&'static str],
    why: &'static str,
}

const BANS: &[Ban] = &[
    Ban {
        directories: &["server/src/admission", "server/src/http", "server/src/snapshot", "server/src/shard"],
        words: &["tokio", "control"],
        why: "the data plane reaches the control plane through server/src/bridge.rs only",
    },
    Ban {
        directories: &["server/src/admission", "server/src/http", "server/src/snapshot"],
        words: &["monoio", "TcpStream", "TcpListener", "UnixStream", "std::fs", "rustix", "Instant", "SystemTime"],
        why: "pure modules take bytes and times from their caller",
    },
];

/// Checks the dependency trees of the crates.
pub fn check_crates() -> Result<Tally, String> {
    check_tree("todo-proto", |_| true, PROTO_MAY_USE)?;
    for (package, allowed) in WORKSPACE_MAY_USE {
        check_tree(package, |name| name.starts_with("todo-") || name == "xtask", allowed)?;
    }
    Ok(Tally::ONE)
}

/// Checks the words in the data plane's sources.
pub fn check_sources() -> Result<Tally, String> {
    let mut found = Vec::new();
    for ban in BANS {
        for directory in ban.directories {
            let files = rust_files(&root().join(directory))?;
            // Without this a renamed directory would pass for ever.
            if files.is_empty() {
                return Err(format!("{directory} holds no Rust file: has it moved?"));
            }
            for file in files {
                let text = std::fs::read_to_string(&file).map_err(|error| format!("{}: {error}", file.display()))?;
                for (line, word) in banned_words(&text, ban.words) {
                    found.push(format!("{}:{line} names `{word}`: {}", file.display(), ban.why));
                }
            }
        }
    }
    if found.is_empty() { Ok(Tally::ONE) } else { Err(found.join("\n")) }
}

fn check_tree(package: &str, relevant: impl Fn(&str) -> bool, allowed: &[&str]) -> Result<(), String> {
    let tree = capture(&mut cargo(&["tree", "--locked", "-p", package, "-e", "normal", "--prefix", "none"]))?;
    let names = package_names(&tree);
    if !names.contains(package) {
        return Err(format!("`cargo tree -p {package}` does not name {package} itself"));
    }
    let foreign: Vec<&str> = names.into_iter().filter(|name| relevant(name) && !allowed.contains(name)).collect();
    if foreign.is_empty() { Ok(()) } else { Err(format!("{package} must not depend on {}", foreign.join(", "))) }
}

/// The names in what `cargo tree --prefix none` prints: the first word of each line.
fn package_names(tree: &str) -> BTreeSet<&str> {
    tree.lines().filter_map(|line| line.split_whitespace().next()).collect()
}

fn rust_files(directory: &Path) -> Result<Vec<PathBuf>, String> {
    let mut files = Vec::new();
    let mut directories = vec![directory.to_path_buf()];
    while let Some(directory) = directories.pop() {
        let entries = std::fs::read_dir(&directory).map_err(|error| format!("{}: {error}", directory.display()))?;
        for entry in entries {
            let path = entry.map_err(|error| format!("{}: {error}", directory.display()))?.path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

/// Line number and word of each banned word in the code. Strings and comments do not count, and neither do tests, which
/// come last in a file: those may use what they like.
fn banned_words<'w>(text: &str, words: &[&'w str]) -> Vec<(usize, &'w str)> {
    let lines: Vec<&str> = text.lines().collect();
    // A test-only file that is merely named here does not end the code.
    let begins_tests = |pair: &[&str]| pair[0] == "#[cfg(test)]" && !pair[1].ends_with(';');
    let end = lines.windows(2).position(begins_tests).unwrap_or(lines.len());
    let code = lines[..end].iter();
    let mut found = Vec::new();
    for (index, line) in code.enumerate() {
        let line = without_strings(line);
        let line = line.split("//").next().unwrap_or_default();
        found.extend(words.iter().filter(|word| names(line, word)).map(|word| (index + 1, *word)));
    }
    found
}

/// The line without what stands between quotation marks. A string over several lines is read as code after its first:
/// that can only find too much.
fn without_strings(line: &str) -> String {
    let plain = line.replace("'\"'", "").replace("\\\\", "").replace("\\\"", "");
    plain.split('"').step_by(2).collect::<Vec<_>>().join("\"\"")
}

/// Whether `word` stands in `line` as a word of its own, not as a part of a longer name.
fn names(line: &str, word: &str) -> bool {
    let part_of_name = |character: char| character.is_alphanumeric() || character == '_';
    line.match_indices(word).any(|(start, _)| {
        !line[..start].ends_with(part_of_name) && !line[start + word.len()..].starts_with(part_of_name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_a_tree() {
        let tree = "todo-proto v0.1.0 (/somewhere/proto)\njiff v1.0.2\njiff v1.0.2 (*)\n\nserde v1.0.229\n";
        assert_eq!(package_names(tree).into_iter().collect::<Vec<_>>(), ["jiff", "serde", "todo-proto"]);
    }

    #[test]
    fn words_in_code() {
        let check = |text: &str, expected: &[(usize, &str)]| {
            assert_eq!(banned_words(text, &["tokio", "control", "std::net"]), expected, "{text}");
        };
        check("use tokio::sync::mpsc;", &[(1, "tokio")]);
        check("use crate::{bridge, control};", &[(1, "control")]);
        check("\n\nlet stream = std::net::TcpStream::connect(address)?;", &[(3, "std::net")]);
        check(r#"let a = "without control bytes"; tokio::spawn(a);"#, &[(1, "tokio")]);
        check(r#"let a = "a \" b // c"; control::start(); // d"#, &[(1, "control")]);
        check("let quote = '\"'; control::start();", &[(1, "control")]);
        check("//! Unlike tokio, ...\nlet a = 1; // control plane\n/// std::net", &[]);
        check("let flow_control = cache_control(controlled);", &[]);
        check("fn a() {}\n#[cfg(test)]\nmod tests {\n    use std::net::TcpStream;\n}", &[]);
    }

    #[test]
    fn the_crates_of_this_workspace_import_one_way() {
        assert_eq!(check_crates(), Ok(Tally::ONE));
    }
}
