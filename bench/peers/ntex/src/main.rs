//! ntex on tokio, one worker.

use bytes::Bytes;
use ntex::web::{self, App, HttpResponse, HttpServer};
use std::collections::BTreeMap;
use std::sync::Arc;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(serde::Deserialize)]
struct List {
    limit: u32,
}

#[web::get("/todos")]
async fn todos(
    bodies: web::types::State<Arc<BTreeMap<u32, ntex::util::Bytes>>>,
    list: web::types::Query<List>,
) -> HttpResponse {
    match bodies.get(&list.limit) {
        Some(body) => HttpResponse::Ok().content_type("application/json").body(body.clone()),
        None => HttpResponse::NotFound().finish(),
    }
}

#[ntex::main]
async fn main() -> std::io::Result<()> {
    let start = peer_common::start();
    let own = |bytes: &Bytes| ntex::util::Bytes::copy_from_slice(bytes);
    let bodies: BTreeMap<u32, ntex::util::Bytes> =
        start.bodies.iter().map(|(limit, body)| (*limit, own(body))).collect();
    let bodies = Arc::new(bodies);
    HttpServer::new(async move || App::new().state(Arc::clone(&bodies)).service(todos))
        .workers(1)
        .bind(("127.0.0.1", start.port))?
        .run()
        .await
}
