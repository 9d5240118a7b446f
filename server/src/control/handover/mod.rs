//! Restart without loss: the running process starts its successor, gives it the listening sockets and the data file, and
//! passes its connections on.
//!
//! ```text
//! old                                               new
//!   starts the new one, its end of a socket pair as standard input
//!   OFFER version, store, position, LISTENERS  ->     reads and checks its settings
//!                                              <-   LOADED: its snapshot is in memory
//!   (a file) holds new writes, ends those that have begun, gives the lock on the file back
//!   RELEASED positions                         ->     takes the lock, reads what has changed meanwhile
//!                                              <-   READY: every thread runs, nothing is accepted yet
//!   GO                                         ->     takes the command socket
//!                                              <-   SERVING; accepts on every listener
//!   accepts nothing more; lets go of its listeners (never `shutdown(2)`: that would end them for both)
//!   POSITIONS, CONNECTION, CONNECTION, …       ->     has reached the positions, goes on with each
//!   ends when it is empty
//! ```
//!
//! Whatever goes wrong before SERVING leaves the old one serving: it takes the file back and looks at the writes that it held.
//!
//! - [`protocol`]: the frames, pure.
//! - [`channel`]: frames and descriptors through a Unix socket.
//! - [`give`]: the old one's side.
//! - [`take`]: the new one's side.
//! - [`command`]: the socket on which `todo-server upgrade` asks for it.

pub mod channel;
pub mod command;
pub mod give;
pub mod protocol;
pub mod take;
