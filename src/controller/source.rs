//! Where ids come from besides our own bitmap.

use crate::model::{Pasid, PasidRange};
use std::fmt;

/// Somebody who has the last word on the ids of the global space: a kernel with an allocator of its own.
///
/// Asked under the controller's lock, so it must answer at once.
pub trait IdSource: Send + Sync + fmt::Debug {
    /// How wide its ids are.
    fn bits(&self) -> u32;
    /// Takes an id in the range, both ends included; `None` where somebody else has them all.
    fn take(&self, range: PasidRange) -> Option<Pasid>;
    /// Gives back what was taken.
    fn give(&self, pasid: Pasid);
}
