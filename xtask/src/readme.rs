//! README.md's first minute is a real one.

use crate::libtest::Programs;
use crate::report::Tally;
use crate::transcript::Transcript;

/// Replays README.md with the programs that the tests have built.
pub fn check(programs: &Programs) -> Result<Tally, String> {
    let server = programs.server.as_deref().ok_or("the tests have built no todo-server")?;
    let bench = programs.bench.as_deref().ok_or("the tests have built no todo-bench")?;
    Transcript { name: "README.md", server, bench, adapt: str::to_owned }.replay()
}
