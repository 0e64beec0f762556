//! One resource over HTTP/1: `GET /metrics`.

use super::{MOST_CGROUPS, render};
use crate::controller::Controller;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE as TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

/// What the text is; with any other type scrapers take counters for something else.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Connections that are served at once; others wait in the listener's queue.
const AT_ONCE: usize = 8;
/// How long a connection may last: a scrape takes milliseconds, who dawdles must not keep others out.
const LONGEST: Duration = Duration::from_secs(10);

/// Serves on an AF_UNIX socket at `path`, for all users. A file that an earlier service left there is replaced.
///
/// Must be called inside a runtime; aborting the task ends it.
pub fn serve_socket(controller: Arc<Controller>, path: &Path) -> io::Result<JoinHandle<()>> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666))?;
    Ok(tokio::spawn(accept(controller, listener)))
}

/// Serves on a TCP port: of the loopback address, for there is no password.
pub fn serve_port(controller: Arc<Controller>, listener: std::net::TcpListener) -> io::Result<JoinHandle<()>> {
    listener.set_nonblocking(true)?;
    Ok(tokio::spawn(accept(controller, TcpListener::from_std(listener)?)))
}

/// Something to accept connections on.
trait Accept: Send + 'static {
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;
    fn accept_one(&self) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

impl Accept for UnixListener {
    type Stream = tokio::net::UnixStream;
    async fn accept_one(&self) -> io::Result<Self::Stream> {
        self.accept().await.map(|(stream, _)| stream)
    }
}

impl Accept for TcpListener {
    type Stream = tokio::net::TcpStream;
    async fn accept_one(&self) -> io::Result<Self::Stream> {
        self.accept().await.map(|(stream, _)| stream)
    }
}

async fn accept(controller: Arc<Controller>, listener: impl Accept) {
    let places = Arc::new(Semaphore::new(AT_ONCE));
    // The semaphore is never closed.
    while let Ok(place) = Arc::clone(&places).acquire_owned().await {
        match listener.accept_one().await {
            Ok(stream) => {
                let controller = Arc::clone(&controller);
                tokio::spawn(async move {
                    // What goes wrong with a scraper is the scraper's to tell.
                    let _ = tokio::time::timeout(LONGEST, converse(controller, stream)).await;
                    drop(place);
                });
            }
            Err(error) => {
                // Out of descriptors, or the peer went away: wait a little rather than spin.
                tracing::debug!(%error, "accept on the metrics socket");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn converse(
    controller: Arc<Controller>,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> hyper::Result<()> {
    let answer = service_fn(|request: Request<Incoming>| {
        let response = respond(&controller, request.method(), request.uri().path());
        async move { Ok::<_, Infallible>(response) }
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(LONGEST)
        .max_buf_size(16 << 10)
        .serve_connection(TokioIo::new(stream), answer)
        .await
}

fn respond(controller: &Controller, method: &Method, path: &str) -> Response<String> {
    let plain = |status: StatusCode, text: &str| {
        let mut response = Response::new(text.to_owned());
        *response.status_mut() = status;
        response
    };
    if !matches!(path, "/metrics" | "/") {
        return plain(StatusCode::NOT_FOUND, "it is at /metrics\n");
    }
    // For HEAD hyper sends the head of the same response.
    if !matches!(*method, Method::GET | Method::HEAD) {
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "");
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    match render(controller.figures(MOST_CGROUPS), controller.backend()) {
        Ok(text) => {
            let mut response = Response::new(text);
            response.headers_mut().insert(TYPE, HeaderValue::from_static(CONTENT_TYPE));
            response
        }
        Err(error) => {
            tracing::error!(MESSAGE_ID = crate::proto::message_ids::FAULT, %error, "render metrics");
            plain(StatusCode::INTERNAL_SERVER_ERROR, "")
        }
    }
}
