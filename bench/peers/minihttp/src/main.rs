//! may_minihttp: coroutines on one worker.

use may_minihttp::{HttpService, HttpServiceFactory, Request, Response};
use std::collections::BTreeMap;
use std::io;
use std::os::fd::BorrowedFd;

/// The bodies, which last as long as the process: the framework takes what is static without a copy of its own.
type Bodies = &'static BTreeMap<u32, &'static str>;

struct Factory(Bodies);

struct Service(Bodies);

impl HttpServiceFactory for Factory {
    type Service = Service;

    fn new_service(&self, id: usize) -> Service {
        // The framework gives a connection's descriptor as its id, and leaves TCP_NODELAY to whoever wants it. Without it
        // a client that waits for a whole batch stalls for 40 ms.
        // SAFETY: the stream that owns the descriptor lives until this service has been made and used.
        let socket = unsafe { BorrowedFd::borrow_raw(id as i32) };
        rustix::net::sockopt::set_tcp_nodelay(socket, true).expect("TCP_NODELAY can be set");
        Service(self.0)
    }
}

impl HttpService for Service {
    fn call(&mut self, request: Request, response: &mut Response) -> io::Result<()> {
        let limit = request.path().strip_prefix("/todos?limit=").and_then(|limit| limit.parse::<u32>().ok());
        match limit.and_then(|limit| self.0.get(&limit)) {
            Some(body) => {
                response.header("Content-Type: application/json");
                response.body(body);
            }
            None => {
                response.status_code(404, "Not Found");
            }
        }
        Ok(())
    }
}

fn main() {
    let start = peer_common::start();
    let leaked = |bytes: &[u8]| -> &'static str {
        Box::leak(String::from_utf8(bytes.to_vec()).expect("JSON is UTF-8").into_boxed_str())
    };
    let bodies: BTreeMap<u32, &'static str> =
        start.bodies.iter().map(|(limit, body)| (*limit, leaked(body))).collect();
    may::config().set_workers(1);
    let handle = Factory(Box::leak(Box::new(bodies))).start(("127.0.0.1", start.port)).expect("the port is free");
    handle.join().expect("the listener goes on");
}
