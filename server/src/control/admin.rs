//! Metrics and dashboard on an address of their own, which is nobody's but the operator's: the same pages, not on the API's
//! port any more; and profiles, which are nowhere else.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use futures_util::stream;
use socket2::{Domain, Protocol, Socket, Type};
use todo_worker::exposition::Format;

use crate::bridge::Watching;
use crate::control::pages::Pages;
use crate::control::profile::{Asked, Form, Profiler};
use crate::control::watching::Frames;
use crate::http::connection::{DeferredAnswer, Page};
use crate::http::pages::StaticPage;
use crate::http::reject::Reject;
use crate::limits::ADMIN_BACKLOG;

/// What the address answers with.
#[derive(Clone)]
struct Administration {
    pages: Arc<Pages>,
    watching: Watching,
    frames: Frames,
    profiler: Profiler,
}

/// Listens on `address`. A successor may do so as well while this process goes: that is what `SO_REUSEPORT` is for.
///
/// # Errors
/// As `bind(2)`.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(ADMIN_BACKLOG)?;
    Ok(socket.into())
}

/// Answers on `listener` until the process begins to go. Within a runtime.
///
/// # Errors
/// The listener cannot be registered.
pub async fn serve(listener: TcpListener, pages: Arc<Pages>, watching: Watching, frames: Frames) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let mut until_going = frames.clone();
    tokio::select! {
        result = axum::serve(listener, router(Administration { pages, watching, frames, profiler: Profiler::new() })).into_future() => result,
        // No more frames are made: the process is going, and a successor may listen here.
        () = async { while until_going.changed().await.is_ok() {} } => Ok(()),
    }
}

fn router(administration: Administration) -> Router {
    let metrics = async |State(own): State<Administration>, fields: HeaderMap| {
        let format = Format::of_accept(fields.get(header::ACCEPT).map(HeaderValue::as_bytes));
        answer(own.pages.answer(Page::Metrics(format)))
    };
    let pprof =
        async |State(own): State<Administration>, RawQuery(query): RawQuery| profile(own, Form::Pprof, query).await;
    let flame_graph = async |State(own): State<Administration>, RawQuery(query): RawQuery| {
        profile(own, Form::FlameGraph, query).await
    };
    Router::new()
        .route("/", get(async || Redirect::temporary("/dashboard")))
        .route("/health", get(async || "alive\n"))
        .route("/ready", get(async |State(own): State<Administration>| answer(own.pages.answer(Page::Ready))))
        .route("/metrics", get(metrics))
        .route("/dashboard", get(async || page(StaticPage::Dashboard)))
        .route("/dashboard/events", get(async |State(own): State<Administration>| events(own)))
        .route("/debug/pprof/profile", get(pprof))
        .route("/debug/pprof/flamegraph", get(flame_graph))
        .with_state(administration)
}

/// A page that a shard would have given.
fn page(page: StaticPage) -> Response {
    let mut response =
        ([(header::CONTENT_TYPE, page.content_type())], Body::from(page.body().into_owned())).into_response();
    add_lines(response.headers_mut(), page.fields());
    response
}

fn answer(answer: DeferredAnswer) -> Response {
    match answer {
        DeferredAnswer::Body { status, content_type, extra, body, .. } => {
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            let mut response = (status, [(header::CONTENT_TYPE, content_type)], body).into_response();
            add_lines(response.headers_mut(), &extra);
            response
        }
        DeferredAnswer::Reject(reject) => refusal(reject),
    }
}

fn refusal(reject: Reject) -> Response {
    let status = StatusCode::from_u16(reject.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response =
        (status, [(header::CONTENT_TYPE, "application/problem+json")], reject.body().concat()).into_response();
    add_lines(response.headers_mut(), reject.fields());
    response
}

/// Adds whole field lines, as shards write them.
fn add_lines(fields: &mut HeaderMap, lines: &str) {
    let pairs = lines.split("\r\n").filter_map(|line| line.split_once(": "));
    for (name, value) in pairs {
        let name = HeaderName::from_bytes(name.as_bytes()).expect("a name of ours");
        fields.insert(name, HeaderValue::from_str(value).expect("a value of ours"));
    }
}

/// A profile, when its time is over. Who goes before ends it: this future is dropped then.
async fn profile(own: Administration, form: Form, query: Option<String>) -> Response {
    let taken = match Asked::parse(form, query.as_deref().unwrap_or_default()) {
        Ok(asked) => own.profiler.profile(asked).await,
        Err(reject) => Err(reject),
    };
    let body = match taken {
        Ok(body) => body,
        Err(reject) => return refusal(reject),
    };
    let fields = [
        (header::CONTENT_TYPE, form.content_type()),
        (header::CONTENT_DISPOSITION, form.disposition()),
        (header::CACHE_CONTROL, "no-store"),
        // It draws, and does nothing else.
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'"),
    ];
    (fields, body).into_response()
}

/// The frames, as long as the client takes them; a place is held meanwhile.
fn events(own: Administration) -> Response {
    let Some(place) = own.watching.place() else { return refusal(Reject::WatchersFull) };
    let mut frames = own.frames;
    // The next one: what stands there may be from when somebody last watched.
    frames.mark_unchanged();
    let sent = stream::unfold((frames, place), async |(mut frames, place)| {
        frames.changed().await.ok()?;
        let frame = frames.borrow_and_update().clone();
        Some((Ok::<Bytes, io::Error>(frame), (frames, place)))
    });
    let fields = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-store")];
    (fields, Body::from_stream(sent)).into_response()
}
