//! The metrics edge: OpenMetrics text over HTTP, on `metrics.sock` and a loopback port.
//!
//! Lives here: listening, HTTP, and what the controller's figures are called. Nothing is gathered between two scrapes:
//! while nobody looks the edge costs its listening sockets. Everything in it anybody may ask `ioasid.sock` too, so the
//! socket is open to all users.

mod exposition;
mod http;

pub use exposition::{MOST_CGROUPS, render};
pub use http::{CONTENT_TYPE, serve_port, serve_socket};
