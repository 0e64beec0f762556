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
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::task::{AbortHandle, JoinHandle};

/// What the text is; with any other type scrapers take counters for something else.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Connections of one party that are open at once: of one uid on the AF_UNIX socket, of all together on the port, where
/// nobody knows who connects. One more takes the place of the oldest that has asked for nothing yet, else of the oldest.
const SHARE: usize = 8;
/// Connections of all parties that are open at once; root may have its share beyond that.
const AT_ONCE: usize = 32;
/// How long a request's head may take to arrive, from when the connection is accepted or the answer before it is out.
const HEAD_WITHIN: Duration = Duration::from_secs(1);
/// How long a connection may last: a scrape takes milliseconds.
const LONGEST: Duration = Duration::from_secs(10);

/// Serves on an AF_UNIX socket at `path`, for all users. A file that an earlier service left there is replaced.
///
/// Must be called inside a runtime; aborting the task ends it, and connections that are open then by themselves.
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

/// Who shares places: a uid, or everybody whose uid is not known.
type Party = Option<u32>;

const ROOT: Party = Some(0);

/// Something to accept connections on.
trait Accept: Send + 'static {
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;
    fn accept_one(&self) -> impl Future<Output = io::Result<(Self::Stream, Party)>> + Send;
}

impl Accept for UnixListener {
    type Stream = tokio::net::UnixStream;
    async fn accept_one(&self) -> io::Result<(Self::Stream, Party)> {
        let (stream, _) = self.accept().await?;
        let uid = stream.peer_cred()?.uid();
        Ok((stream, Some(uid)))
    }
}

impl Accept for TcpListener {
    type Stream = tokio::net::TcpStream;
    async fn accept_one(&self) -> io::Result<(Self::Stream, Party)> {
        self.accept().await.map(|(stream, _)| (stream, None))
    }
}

/// A connection that is open.
struct Open {
    party: Party,
    task: AbortHandle,
    /// Set when its first request is there.
    asked: Arc<OnceLock<()>>,
}

/// The connections that are open, oldest first.
#[derive(Default)]
struct Places(Vec<Open>);

impl Places {
    /// Ends a connection where one more of `party` would be too many: the party's own, else one of the party with the most.
    fn make_way(&mut self, party: Party) {
        self.0.retain(|open| !open.task.is_finished());
        let count = |of: Party| self.0.iter().filter(|open| open.party == of).count();
        let from = if count(party) >= SHARE {
            Some(party)
        } else if party != ROOT && self.0.len() >= AT_ONCE {
            self.0.iter().map(|open| open.party).filter(|party| *party != ROOT).max_by_key(|party| count(*party))
        } else {
            None
        };
        let Some(from) = from else { return };
        let of_party = || self.0.iter().enumerate().filter(|(_, open)| open.party == from);
        let idle = of_party().find(|(_, open)| open.asked.get().is_none());
        if let Some((at, _)) = idle.or_else(|| of_party().next()) {
            self.0.remove(at).task.abort();
        }
    }
}

async fn accept(controller: Arc<Controller>, listener: impl Accept) {
    let mut places = Places::default();
    loop {
        match listener.accept_one().await {
            Ok((stream, party)) => {
                places.make_way(party);
                let (controller, asked) = (Arc::clone(&controller), Arc::<OnceLock<()>>::default());
                let seen = Arc::clone(&asked);
                let task = tokio::spawn(async move {
                    // What goes wrong with a scraper is the scraper's to tell.
                    let _ = tokio::time::timeout(LONGEST, converse(controller, stream, &seen)).await;
                });
                places.0.push(Open { party, task: task.abort_handle(), asked });
                // While others wait to be accepted nothing here would: those that are open have their turn in between.
                tokio::task::yield_now().await;
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
    asked: &OnceLock<()>,
) -> hyper::Result<()> {
    let answer = service_fn(|request: Request<Incoming>| {
        let _ = asked.set(());
        let response = respond(&controller, request.method(), request.uri().path());
        async move { Ok::<_, Infallible>(response) }
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN)
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
