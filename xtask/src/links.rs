//! Documents that can go stale are checked: relative links lead somewhere, and the paths that the text names exist.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

use crate::command::{capture, command, root};
use crate::report::Tally;

/// Checks every Markdown file of the repository.
pub fn check() -> Result<Tally, String> {
    let listing = capture(&mut command("git", &["ls-files", "--cached", "--others", "--exclude-standard"]))?;
    let tree = Tree::new(listing.lines().filter(|path| root().join(path).exists()));
    let mut faults = Vec::new();
    for document in tree.documents() {
        let text = read(document)?;
        for target in link_targets(&text) {
            if let Err(reason) = check_link(&tree, document, target) {
                faults.push(format!("{document}: link to {target}: {reason}"));
            }
        }
        for path in paths_named(&text).filter(|path| tree.claims(path) && !tree.holds(path)) {
            faults.push(format!("{document}: `{path}` does not exist"));
        }
    }
    if faults.is_empty() { Ok(Tally::ONE) } else { Err(faults.join("\n")) }
}

/// The files of the repository and the directories they lie in, relative to the root.
struct Tree<'a> {
    files: BTreeSet<&'a str>,
    directories: BTreeSet<&'a str>,
}

impl<'a> Tree<'a> {
    fn new(paths: impl Iterator<Item = &'a str>) -> Self {
        let files: BTreeSet<&str> = paths.collect();
        let parents = files.iter().flat_map(|file| file.match_indices('/').map(|(end, _)| &file[..end]));
        Self { directories: parents.collect(), files }
    }

    fn documents(&self) -> impl Iterator<Item = &'a str> {
        self.files.iter().copied().filter(|path| path.ends_with(".md"))
    }

    fn holds(&self, path: &str) -> bool {
        let path = path.trim_end_matches('/');
        self.files.contains(path) || self.directories.contains(path)
    }

    /// Whether a word in the text speaks of this tree: it has a slash and begins with one of the top directories.
    /// A path below `target/` or in somebody else's tree is not ours to check, nor is one with a place-holder.
    fn claims(&self, path: &str) -> bool {
        let plain = |character: char| character.is_ascii_alphanumeric() || "/._-".contains(character);
        path.chars().all(plain)
            && path.split_once('/').is_some_and(|(first, _)| self.directories.contains(first) && first != "target")
    }
}

fn check_link(tree: &Tree<'_>, document: &str, target: &str) -> Result<(), String> {
    if target.contains("://") || target.starts_with("mailto:") {
        return Ok(());
    }
    let (path, anchor) = target.split_once('#').map_or((target, None), |(path, anchor)| (path, Some(anchor)));
    let path = if path.is_empty() { document.to_owned() } else { resolve(document, path)? };
    if !tree.holds(&path) {
        return Err("no such file".to_owned());
    }
    match anchor {
        Some(anchor) if !headings(&read(&path)?).any(|heading| heading == anchor) => Err("no such heading".to_owned()),
        Some(_) | None => Ok(()),
    }
}

/// `path` as seen from the directory of `document`, from the root.
fn resolve(document: &str, path: &str) -> Result<String, String> {
    let mut resolved = PathBuf::from(document);
    resolved.pop();
    for component in Path::new(path).components() {
        match component {
            Component::Normal(name) => resolved.push(name),
            Component::CurDir => {}
            Component::ParentDir if resolved.pop() => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => {
                return Err("leaves the repository".to_owned());
            }
        }
    }
    Ok(resolved.to_string_lossy().into_owned())
}

fn read(path: &str) -> Result<String, String> {
    std::fs::read_to_string(root().join(path)).map_err(|error| format!("{path}: {error}"))
}

/// The lines outside of fenced blocks.
fn prose(text: &str) -> impl Iterator<Item = &str> {
    let mut fenced = false;
    text.lines().filter(move |line| {
        let fence = line.trim_start().starts_with("```");
        fenced ^= fence;
        !fenced && !fence
    })
}

/// The targets of `[text](target)`.
fn link_targets(text: &str) -> impl Iterator<Item = &str> {
    prose(text)
        .flat_map(|line| line.split("](").skip(1))
        .filter_map(|rest| rest.split_once(')').map(|(target, _)| target))
}

/// The words in back-ticks that could be paths.
fn paths_named(text: &str) -> impl Iterator<Item = &str> {
    prose(text).flat_map(|line| line.split('`').skip(1).step_by(2)).filter(|word| word.contains('/'))
}

/// The anchors that a Markdown file offers: headings in lower case, spaces as hyphens, other punctuation gone.
fn headings(text: &str) -> impl Iterator<Item = String> {
    prose(text).filter(|line| line.starts_with('#')).map(|line| {
        let title = line.trim_start_matches('#').trim().to_lowercase();
        title
            .chars()
            .filter(|character| character.is_alphanumeric() || " -_".contains(*character))
            .map(|character| if character == ' ' { '-' } else { character })
            .collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# One page: all\nSee [it](a/b.md#top) and [that](../c.md), `server/src/main.rs`.\n```sh\n[no](x)\n`y/z`\n```\n## End\n";

    #[test]
    fn links_paths_and_headings_are_found_outside_of_fences() {
        assert_eq!(link_targets(TEXT).collect::<Vec<_>>(), ["a/b.md#top", "../c.md"]);
        assert_eq!(paths_named(TEXT).collect::<Vec<_>>(), ["server/src/main.rs"]);
        assert_eq!(headings(TEXT).collect::<Vec<_>>(), ["one-page-all", "end"]);
    }

    #[test]
    fn links_resolve_from_their_document() {
        assert_eq!(resolve("docs/a.md", "../README.md").as_deref(), Ok("README.md"));
        assert_eq!(resolve("docs/decisions/a.md", "./b.md").as_deref(), Ok("docs/decisions/b.md"));
        assert!(resolve("README.md", "../elsewhere.md").is_err());
    }

    #[test]
    fn only_words_about_this_tree_are_claimed() {
        let tree = Tree::new(["server/src/main.rs", "README.md"].into_iter());
        assert!(tree.holds("server/src") && tree.holds("server/src/") && !tree.holds("server/src/mein.rs"));
        for (path, expected) in [
            ("server/src/mein.rs", true),
            ("server/src/*.rs", false),
            ("target/debug/todo-server", false),
            ("/todos/ID", false),
            ("and/or", false),
        ] {
            assert_eq!(tree.claims(path), expected, "{path}");
        }
    }
}
