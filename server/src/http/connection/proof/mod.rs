//! What proves the machine: a world of data, an oracle that answers one request at a time, a driver that moves bytes in
//! every way a mover could, and the tables of what the RFCs ask for.

pub mod drive;
mod oracle;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod rules;
#[cfg(test)]
mod streams;
mod world;
