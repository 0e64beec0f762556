//! Where the metrics are served.

use super::privileged::Privileged;
use crate::controller::Controller;
use crate::metrics::{serve_port, serve_socket};
use crate::model::Fault;
use std::num::NonZeroU16;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::task::JoinHandle;

/// The listeners. Dropped, they are gone, the socket's file too.
#[derive(Debug)]
pub(super) struct Served {
    socket: PathBuf,
    tasks: Vec<JoinHandle<()>>,
}

impl Served {
    /// Serves on `metrics.sock` in the runtime directory and on the loopback port that the policy names. Another port
    /// takes a restart.
    pub(super) fn start(
        controller: &Arc<Controller>,
        runtime_dir: &Path,
        privileged: &Privileged,
    ) -> Result<Self, Fault> {
        let socket = runtime_dir.join("metrics.sock");
        let step = |place: String| {
            move |error: std::io::Error| Fault::from(error).while_doing(format!("serve metrics on {place}"))
        };
        let mut tasks =
            vec![serve_socket(Arc::clone(controller), &socket).map_err(step(socket.display().to_string()))?];
        if let Some(port) = controller.policy().metrics.port.and_then(NonZeroU16::new) {
            let served = privileged.listen(port).and_then(|listener| serve_port(Arc::clone(controller), listener));
            tasks.push(served.map_err(step(format!("127.0.0.1:{port}")))?);
        }
        Ok(Self { socket, tasks })
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
        // Where it fails the next service replaces it.
        let _ = std::fs::remove_file(&self.socket);
    }
}
