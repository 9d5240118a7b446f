//! Every dependency can be used under a licence that suits `MIT OR Apache-2.0`.

use serde_json::Value;

use crate::command::{capture, cargo};
use crate::report::Tally;

/// Permissive licences, and the public-domain dedications.
const ALLOWED: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "CC0-1.0",
    "ISC",
    "MIT",
    "MIT-0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// Checks the licence of each package in the lock file.
pub fn check() -> Result<Tally, String> {
    let metadata = capture(&mut cargo(&["metadata", "--format-version", "1", "--locked"]))?;
    let metadata: Value = serde_json::from_str(&metadata).map_err(|error| format!("cargo metadata: {error}"))?;
    let packages = metadata["packages"].as_array().map_or(&[][..], Vec::as_slice);
    if packages.is_empty() {
        return Err("cargo metadata names no package".to_owned());
    }
    let refused: Vec<String> = packages
        .iter()
        .filter(|package| !package["license"].as_str().is_some_and(is_allowed))
        .map(|package| format!("{} is under {}", package["name"], package["license"]))
        .collect();
    if refused.is_empty() { Ok(Tally::ONE) } else { Err(refused.join("\n")) }
}

/// Whether an SPDX expression can be satisfied with allowed licences alone. `/` is the old spelling of `OR`; what cannot be read is
/// refused.
fn is_allowed(expression: &str) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut words = words.as_slice();
    any_of(&mut words) == Some(true) && words.is_empty()
}

/// `all_of (OR all_of)*`. `None` when it cannot be read.
fn any_of(words: &mut &[&str]) -> Option<bool> {
    let mut allowed = all_of(words)?;
    while take(words, "OR") {
        // Not `||`: the right side must be read in any case.
        allowed |= all_of(words)?;
    }
    Some(allowed)
}

/// `licence (AND licence)*`: AND binds tighter than OR.
fn all_of(words: &mut &[&str]) -> Option<bool> {
    let mut allowed = licence(words)?;
    while take(words, "AND") {
        allowed &= licence(words)?;
    }
    Some(allowed)
}

/// A name, a name WITH an exception (which only gives more rights), or an expression in parentheses.
fn licence(words: &mut &[&str]) -> Option<bool> {
    if take(words, "(") {
        let allowed = any_of(words)?;
        return take(words, ")").then_some(allowed);
    }
    let (name, rest) = words.split_first()?;
    *words = rest;
    if take(words, "WITH") {
        *words = words.split_first()?.1;
    }
    Some(ALLOWED.contains(name))
}

fn take(words: &mut &[&str], word: &str) -> bool {
    let found = words.first() == Some(&word);
    if found {
        *words = &words[1..];
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions() {
        for (expression, expected) in [
            ("MIT", true),
            ("MIT/Apache-2.0", true),
            ("GPL-3.0-only", false),
            ("MIT OR GPL-3.0-only", true),
            ("GPL-3.0-only OR MIT", true),
            ("MIT AND GPL-3.0-only", false),
            ("GPL-3.0-only OR MIT AND ISC", true),
            ("(GPL-3.0-only OR MIT) AND MPL-2.0", false),
            ("ISC AND (Apache-2.0 OR ISC) AND BSD-3-Clause", true),
            ("Apache-2.0 WITH LLVM-exception OR GPL-2.0-only", true),
            ("MIT OR", false),
            ("(MIT", false),
            ("MIT ISC", false),
            ("", false),
        ] {
            assert_eq!(is_allowed(expression), expected, "{expression}");
        }
    }

    #[test]
    fn the_lock_file_is_clean() {
        assert_eq!(check(), Ok(Tally::ONE));
    }
}
