//! axum, and so hyper, on tokio's runtime of one thread.

use axum::Router;
use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::net::TcpListener;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(serde::Deserialize)]
struct List {
    limit: u32,
}

async fn todos(State(bodies): State<Arc<BTreeMap<u32, Bytes>>>, Query(list): Query<List>) -> Response {
    match bodies.get(&list.limit) {
        Some(body) => ([(header::CONTENT_TYPE, "application/json")], body.clone()).into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

fn main() -> std::io::Result<()> {
    let start = peer_common::start();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async move {
        let app = Router::new().route("/todos", get(todos)).with_state(Arc::new(start.bodies));
        let listener = TcpListener::bind(("127.0.0.1", start.port)).await?;
        // As axum's example of serving with hyper does it: only there can hyper be told to answer a pipeline by one write.
        let mut http = http1::Builder::new();
        http.pipeline_flush(true);
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let service = TowerToHyperService::new(app.clone());
            let connection = http.serve_connection(TokioIo::new(stream), service);
            tokio::spawn(async move {
                // A client that went away is no fault.
                let _ = connection.await;
            });
        }
    })
}
