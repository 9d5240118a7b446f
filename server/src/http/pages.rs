//! Pages that never change while the process lives: what is here, the API's description, and what each problem means.
//!
//! They are for people and their tools, and loaded once: put together when asked for, in the pool like every other answer.

use std::borrow::Cow;
use std::fmt::Write;

use super::reject::{Problem, Reject};

const LANDING: &str = include_str!("page_files/landing.html");
const DASHBOARD: &str = include_str!("page_files/dashboard.html");
/// `docs/openapi.yaml` as JSON; the test command compares the two.
const OPENAPI: &str = include_str!("page_files/openapi.json");

const HTML: &str = "text/html; charset=utf-8";
// A page of ours has nothing to load and nothing to run.
const HTML_FIELDS: &str =
    "Cache-Control: max-age=300\r\nContent-Security-Policy: default-src 'none'\r\nX-Content-Type-Options: nosniff\r\n";
// This one runs its own script and no other: it is named by its sum, and a test says which.
const DASHBOARD_FIELDS: &str = concat!(
    "Cache-Control: max-age=300\r\nContent-Security-Policy: default-src 'none'; script-src 'sha256-",
    "3NVe7G3tBLfiy2YGFwQP2iRA/+L0xy+UILm+DYsqeKI=",
    "'; style-src 'sha256-",
    "4ipLSfDqmjBhNIrypjXJ2ACXN23NJmb/s10tsLImTLc=",
    "'; img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'\r\n",
    "Referrer-Policy: no-referrer\r\nX-Content-Type-Options: nosniff\r\n"
);
const JSON_FIELDS: &str = "Cache-Control: max-age=300\r\n";
const OPENING: &str = "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width\">\n<meta name=\"color-scheme\" content=\"light dark\">\n";

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StaticPage {
    /// `/`
    Landing,
    /// `/openapi.json`
    OpenApi,
    /// `/dashboard`
    Dashboard,
    /// `/problems`: all of them.
    Problems,
    /// `/problems/{slug}`: what the type of a problem stands for (RFC 9457 3.1.1).
    Problem(&'static str),
}

impl StaticPage {
    /// The page of the problem type with this slug.
    pub fn of_problem(slug: &str) -> Option<StaticPage> {
        let known = (0..Reject::KINDS).map(Reject::slug).find(|known| *known == slug);
        known.map(StaticPage::Problem)
    }

    /// Its media type.
    pub fn content_type(self) -> &'static str {
        match self {
            StaticPage::OpenApi => "application/json",
            _ => HTML,
        }
    }

    /// Further field lines of its head, each with its CRLF.
    pub fn fields(self) -> &'static str {
        match self {
            StaticPage::OpenApi => JSON_FIELDS,
            StaticPage::Dashboard => DASHBOARD_FIELDS,
            _ => HTML_FIELDS,
        }
    }

    /// Its body: at most some tens of KiB.
    pub fn body(self) -> Cow<'static, [u8]> {
        match self {
            StaticPage::Landing => Cow::Borrowed(LANDING.as_bytes()),
            StaticPage::OpenApi => Cow::Borrowed(OPENAPI.as_bytes()),
            StaticPage::Dashboard => Cow::Borrowed(DASHBOARD.as_bytes()),
            StaticPage::Problems => Cow::Owned(problems().into_bytes()),
            StaticPage::Problem(slug) => Cow::Owned(problem(slug).into_bytes()),
        }
    }
}

/// The catalogue: each type once, in the order of the table that it comes from.
fn problems() -> String {
    let mut page = format!("{OPENING}<title>Problems</title>\n<h1>Problems</h1>\n<ul>\n");
    let mut last = "";
    for Problem { slug, title, status, .. } in Reject::PROBLEMS {
        if *slug != last {
            writeln!(page, "<li><a href=\"/problems/{slug}\">{title}</a> ({status})</li>").expect("a String takes all");
        }
        last = slug;
    }
    page.push_str("</ul>\n</html>\n");
    page
}

fn problem(slug: &str) -> String {
    let mut faults = Reject::PROBLEMS.iter().filter(|problem| problem.slug == slug).peekable();
    let (title, status) = faults.peek().map_or(("", 0), |problem| (problem.title, problem.status));
    let mut page = format!("{OPENING}<title>{title}</title>\n<h1>{title}</h1>\n<p>Status {status}.</p>\n");
    for Problem { detail, closes, .. } in faults {
        let end = if *closes { " The connection closes behind it." } else { "" };
        writeln!(page, "<p>{detail}{end}</p>").expect("a String takes all");
    }
    page.push_str("<p><a href=\"/problems\">All problems</a></p>\n</html>\n");
    page
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::REPLY_HEAD_BYTES_MAX;

    fn text(page: StaticPage) -> String {
        String::from_utf8(page.body().into_owned()).unwrap()
    }

    #[test]
    fn every_problem_has_its_page() {
        let all = text(StaticPage::Problems);
        for Problem { slug, title, detail, status, .. } in Reject::PROBLEMS {
            let page = StaticPage::of_problem(slug).unwrap();
            let body = text(page);
            assert!(body.contains(title) && body.contains(detail) && body.contains(&status.to_string()), "{slug}");
            assert_eq!(all.matches(&format!("\"/problems/{slug}\"")).count(), 1, "{slug}");
            assert!(!detail.contains(['<', '>', '&']) && !title.contains(['<', '>', '&']), "{slug}: no markup");
        }
        for slug in ["", "no-such", "not-found/"] {
            assert_eq!(StaticPage::of_problem(slug), None, "{slug}");
        }
    }

    #[test]
    fn links_of_the_landing_page_lead_somewhere() {
        let body = text(StaticPage::Landing);
        let links: Vec<&str> = body.split("href=\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
        assert!(links.len() > 3);
        for link in links {
            let bytes = format!("GET {link} HTTP/1.1\r\nHost: a\r\n\r\n");
            let head = crate::http::head::Head::parse(bytes.as_bytes()).unwrap();
            assert!(crate::http::route::route(&head, 100).is_ok(), "{link}");
        }
    }

    #[test]
    fn the_dashboard_may_run_its_own_script_and_load_nothing() {
        use base64::Engine;
        use sha2::Digest;
        let body = text(StaticPage::Dashboard);
        for (element, source) in [("script", "script-src"), ("style", "style-src")] {
            let (open, end) = (format!("<{element}>"), format!("</{element}>"));
            assert_eq!(body.matches(&format!("<{element}")).count(), 1, "one {element}, without attributes");
            let inside = body.split_once(&open).and_then(|(_, rest)| rest.split_once(&end)).expect("it is there").0;
            let sum = base64::engine::general_purpose::STANDARD.encode(sha2::Sha256::digest(inside));
            let named = format!("{source} 'sha256-{sum}';");
            assert!(StaticPage::Dashboard.fields().contains(&named), "the page has changed: {named}");
        }
        for outside in ["http://", "https://", "src=", "@import", "url(", " style=", " onclick="] {
            assert!(!body.contains(outside), "{outside}");
        }
    }

    #[test]
    fn the_description_is_json_of_our_version() {
        let description: serde_json::Value = serde_json::from_str(&text(StaticPage::OpenApi)).unwrap();
        assert!(description["openapi"].as_str().unwrap().starts_with("3.1."));
        assert_eq!(description["info"]["version"], env!("CARGO_PKG_VERSION"));
        for page in [StaticPage::Landing, StaticPage::OpenApi, StaticPage::Dashboard] {
            assert!(page.fields().len() < REPLY_HEAD_BYTES_MAX / 2);
        }
    }
}
