//! Todos in and out: `export` and `seed`, on a file and on a cluster, so that the todos of one can move into the other.
//!
//! A line of NDJSON is a todo as the API shows it, and what an import needs besides:
//!
//! ```text
//! {"id":"…","title":"…","description":"…","completed":false,"created_at":"…","updated_at":"…","born":"0123456789abcdef"}
//! ```
//!
//! `born` is the fingerprint of the POST that made the todo, 16 hexadecimal digits, where it is known: a retry of that POST
//! still makes nothing twice. Read, `id` and `title` must be there and `created_at`, where it is given, must be the id's
//! time; `updated_at` is the id's time when it is missing, and members of other names are read over.

pub mod export;
pub mod line;
pub mod seed;
pub mod seed_cluster;
