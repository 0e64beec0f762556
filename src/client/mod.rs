//! The client: for programs that take sets and ids. Blocking; neither a runtime nor D-Bus.
//!
//! Two ways in, and they need nothing of each other:
//!
//! * [`Service`] is a connection to `ioasid.sock`: make sets, look at them, administer. Who asks matters.
//! * [`Set`] is a set FD, however it came (`ioasidctl exec`, SCM_RIGHTS, inheritance). Holding it is the authority; a
//!   [`Session`] on it allocates and frees. It works where there is no path and no bus.
//!
//! # While the service restarts
//!
//! The set FD outlives the service. A session whose other end is gone is opened again with the same key, and the
//! request that was under way is repeated with the same id, so that one that was done already is not done twice: its
//! answer is found again. A session that has holds or watches is kept open over the restart by the service; it says
//! [`Opened`](crate::proto::Opened) there a second time, and the request under way is repeated. A connection to the
//! service is made again and the request repeated: a set whose FD was lost on the way is gone with it. How long the
//! service may stay away before a call gives up is the *patience*, 10 seconds unless said otherwise.
//!
//! ```no_run
//! use ioasid::client::{Service, Set};
//! # fn main() -> Result<(), ioasid::client::ClientError> {
//! let mut service = Service::connect("/run/ioasidd/ioasid.sock")?;
//! let (set, info) = service.create_set(Default::default())?;
//! let mut session = set.session()?;
//! let pasid = session.alloc()?;
//! println!("set {} has pasid {pasid}", info.set);
//! session.free(&[pasid])?;
//! # Ok(()) }
//! ```
//!
//! A holder that allocates often [maps](Set::map) the set: [`MappedSet`] claims and frees without a system call.

mod connection;
mod error;
mod mapped;
mod service;
mod session;
mod set;

pub use error::ClientError;
pub use mapped::{FreeOutcome, MappedSet};
pub use service::{DEFAULT_SOCKET, Service};
pub use session::Session;
pub use set::{FD_NAME, FD_VARIABLE, Set};

/// How long the service may stay away before a call gives up, unless said otherwise.
pub const PATIENCE: std::time::Duration = std::time::Duration::from_secs(10);
