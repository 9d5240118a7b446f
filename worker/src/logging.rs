//! What a process says on standard error.

use std::io::IsTerminal;
use std::sync::OnceLock;

use tracing_subscriber::EnvFilter;

/// The filter makes no sense: one sentence with the remedy.
#[derive(Debug, thiserror::Error)]
#[error("LOG `{filter}` is no filter ({why}): use error, warn, info, debug or trace")]
pub struct FilterError {
    filter: String,
    why: String,
}

/// Libraries that tell of each connection. A filter that names them hears them.
const QUIET: &str = "rskafka=warn,fred=warn,deadpool=error";

/// Looks whether `filter` makes sense.
///
/// # Errors
/// It does not.
pub fn check(filter: &str) -> Result<(), FilterError> {
    parse(filter).map(drop)
}

/// Logs what `filter` lets through, in color on a terminal.
///
/// # Errors
/// The filter makes no sense.
pub fn start(filter: &str) -> Result<(), FilterError> {
    let parsed = parse(filter)?;
    let terminal = std::io::stderr().is_terminal();
    let subscriber = tracing_subscriber::fmt().with_env_filter(parsed).with_writer(std::io::stderr).with_ansi(terminal);
    let subscriber = subscriber.with_filter_reloading();
    let handle = subscriber.reload_handle();
    subscriber.init();
    let replace = move |filter: EnvFilter| handle.reload(filter).map_err(|error| error.to_string());
    // A process starts logging once; a second start would have panicked above.
    let _ = REPLACE.set(Box::new(replace));
    Ok(())
}

/// Logs what `filter` lets through from here on.
///
/// # Errors
/// The filter makes no sense; the one before goes on.
pub fn change(filter: &str) -> Result<(), FilterError> {
    let parsed = parse(filter)?;
    let Some(replace) = REPLACE.get() else { return Ok(()) };
    replace(parsed).map_err(|why| FilterError { filter: filter.to_owned(), why })
}

/// Puts another filter in the place of the one that logging was started with.
static REPLACE: OnceLock<Replace> = OnceLock::new();

type Replace = Box<dyn Fn(EnvFilter) -> Result<(), String> + Send + Sync>;

fn parse(filter: &str) -> Result<EnvFilter, FilterError> {
    let parsed = EnvFilter::try_new(format!("{QUIET},{filter}"));
    parsed.map_err(|error| FilterError { filter: filter.to_owned(), why: error.to_string() })
}
