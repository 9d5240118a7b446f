//! actix-web on one worker.

use actix_web::http::header::ContentType;
use actix_web::{App, HttpResponse, HttpServer, get, web};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::Arc;

#[derive(serde::Deserialize)]
struct List {
    limit: u32,
}

#[get("/todos")]
async fn todos(bodies: web::Data<BTreeMap<u32, Bytes>>, list: web::Query<List>) -> HttpResponse {
    match bodies.get(&list.limit) {
        Some(body) => HttpResponse::Ok().content_type(ContentType::json()).body(body.clone()),
        None => HttpResponse::NotFound().finish(),
    }
}

#[actix_web::main]
async fn main() -> std::io::Result<()> {
    let start = peer_common::start();
    let bodies = web::Data::from(Arc::new(start.bodies));
    HttpServer::new(move || App::new().app_data(bodies.clone()).service(todos))
        .workers(1)
        .tcp_nodelay(true)
        .keep_alive(std::time::Duration::from_secs(3_600))
        .bind(("127.0.0.1", start.port))?
        .run()
        .await
}
