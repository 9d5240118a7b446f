//! Does a result of autocannon, wrk or h2load agree with itself, and with what it says was asked?
//!
//! - `figure` is a written number with its rounding, and the two meanings of a byte unit.
//! - `claim` is what the client said; `autocannon`, `wrk` and `h2load` read it.
//! - `checks` judge it. Nothing is measured here: every finding shows its arithmetic and can be repeated by hand.

mod autocannon;
mod checks;
mod claim;
mod figure;
mod h2load;
mod wrk;

pub use claim::{Claim, Latency, Tool};
pub use figure::{Bytes, Figure, Reading};

use crate::error::Result;
use serde::Serialize;

/// What the reader knows beside the result.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Bytes of one answer, head included.
    pub response_bytes: Option<u64>,
    /// Bytes of its body.
    pub body_bytes: Option<u64>,
    /// Todos in each answer.
    pub items: Option<u64>,
    /// Requests that each connection has in flight, where the tool does not say it.
    pub depth: Option<u64>,
    /// Threads or processes of the client, where the tool does not say it.
    pub threads_count: Option<u64>,
}

/// How a finding weighs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// The figures agree.
    Holds,
    /// Worth knowing.
    Note,
    /// Possible, but something else is more likely.
    Doubt,
    /// Two figures cannot both be true.
    Contradiction,
}

/// One check and what it found, in a line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was checked.
    pub check: &'static str,
    /// How it weighs.
    pub level: Level,
    /// The arithmetic, and what follows.
    pub words: String,
}

impl Finding {
    fn new(check: &'static str, level: Level, words: String) -> Finding {
        Finding { check, level, words }
    }
}

/// All findings on one result.
#[derive(Debug, Serialize)]
pub struct Audit {
    /// What was read.
    pub claim: Claim,
    /// In the order of the checks.
    pub findings: Vec<Finding>,
    /// In plain words.
    pub verdict: String,
}

impl Audit {
    /// Reads and checks.
    ///
    /// # Errors
    /// The text is no result that can be read.
    pub fn of(text: &str, options: &Options) -> Result<Audit> {
        let mut claim = Claim::parse(text)?;
        claim.depth = options.depth.map(|depth| depth as f64).or(claim.depth);
        claim.threads_count = options.threads_count.map(|count| count as f64).or(claim.threads_count);
        let findings = checks::all(&claim, options);
        let verdict = verdict(&claim, &findings);
        Ok(Audit { claim, findings, verdict })
    }

    /// No two figures exclude each other.
    pub fn is_consistent(&self) -> bool {
        self.worst() < Level::Contradiction
    }

    /// The finding of this check.
    pub fn finding(&self, check: &str) -> Option<&Finding> {
        self.findings.iter().find(|finding| finding.check == check)
    }

    fn worst(&self) -> Level {
        self.findings.iter().map(|finding| finding.level).max().unwrap_or(Level::Holds)
    }
}

fn verdict(claim: &Claim, findings: &[Finding]) -> String {
    let at = |level: Level| -> Vec<&str> {
        findings.iter().filter(|finding| finding.level == level).map(|finding| finding.check).collect()
    };
    let (contradictions, doubts) = (at(Level::Contradiction), at(Level::Doubt));
    let is_client_bound = findings.iter().any(|finding| finding.check == "client" && finding.level == Level::Note);
    let mut sentences = Vec::new();
    if contradictions.is_empty() {
        sentences.push("Consistent: no two figures exclude each other".to_owned());
    } else {
        sentences.push(format!("Inconsistent: {} cannot be true as written", contradictions.join(", ")));
    }
    if !doubts.is_empty() {
        sentences.push(format!("in doubt: {}", doubts.join(", ")));
    }
    if is_client_bound {
        sentences.push(format!("the rate is likely {}'s own limit, not the server's", claim.tool.name()));
    }
    sentences.join("; ") + "."
}

/// Prints one line for each finding, and the verdict.
pub fn print(audit: &Audit) {
    println!("{}", audit.claim.tool.name());
    for Finding { check, level, words } in &audit.findings {
        let level = match level {
            Level::Holds => "holds",
            Level::Note => "note",
            Level::Doubt => "DOUBT",
            Level::Contradiction => "CANNOT BE",
        };
        println!("  {level:<10} {check}: {words}");
    }
    println!("{}", audit.verdict);
}
