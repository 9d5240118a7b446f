//! Who has read a 202 sees the write, on any connection: each write is read back at once on another one.

use crate::error::{Error, Result};
use crate::process::child::Server;
use crate::request;
use crate::single::SingleClient;
use crate::writes::plan::{Mix, Plan};
use serde::Serialize;

/// Connections in turn, so that pairs cross shards and connection states.
const CONNECTIONS_COUNT: usize = 8;

/// What it showed.
#[derive(Debug, Default, Serialize)]
pub struct PairsReport {
    /// Writes acknowledged and read back.
    pub pairs_count: u64,
    /// Lists that did not show the acknowledged todo first.
    pub list_misses: u64,
    /// Acknowledged todos that were not found by their id.
    pub todo_misses: u64,
}

/// POST on one connection, then the list and the todo itself on two others. The first refused write ends the run.
pub fn run(server: &Server, pairs_count: u64) -> Result<PairsReport> {
    let mut plan = Plan::new(Mix::Creates, &server.address().to_string(), &server.token()?, 0);
    let mut clients = (0..CONNECTIONS_COUNT)
        .map(|_| SingleClient::connect(server.address()))
        .collect::<Result<Vec<SingleClient>>>()?;
    let mut report = PairsReport::default();
    for pair in 0..pairs_count {
        clients.rotate_left(1);
        let [writer, lister, reader, ..] = &mut clients[..] else { unreachable!("there are eight") };
        let mut post = Vec::new();
        plan.append_next(pair, &mut post);
        let answer = writer.send(&post)?;
        let id = accepted_id(answer.head.status, answer.body())?;
        let list = lister.get_ok(&request::list_target(10))?;
        report.list_misses += u64::from(!list.body().starts_with(format!("[{{\"id\":\"{id}\"").as_bytes()));
        let todo = reader.get(&format!("/todos/{id}"))?;
        report.todo_misses += u64::from(todo.head.status != 200);
        report.pairs_count += 1;
    }
    Ok(report)
}

fn accepted_id(status: u16, body: &[u8]) -> Result<String> {
    let text = String::from_utf8_lossy(body);
    let id = text.split_once("\"id\":\"").and_then(|(_, rest)| rest.split_once('"'));
    match (status, id) {
        (202, Some((id, _))) => Ok(id.to_owned()),
        _ => Err(Error::Unusable(format!("a write was answered {status}: {text}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids() {
        assert_eq!(accepted_id(202, b"{\"id\":\"a-b\"}").unwrap(), "a-b");
        assert!(accepted_id(503, b"{\"id\":\"a-b\"}").is_err());
        assert!(accepted_id(202, b"{}").is_err());
    }
}
