//! The region of a mapped set, as the service sees it.

use crate::model::Pasid;

/// A region that holders have mapped. None can be made yet: holders go through the service.
#[derive(Debug)]
pub(super) enum MappedRegion {}

impl MappedRegion {
    pub(super) fn is_used(&self, _: Pasid) -> bool {
        match *self {}
    }

    pub(super) fn lease(&self, _: Pasid, _used: bool) {
        match *self {}
    }

    pub(super) fn take_back(&self, _: Pasid) -> bool {
        match *self {}
    }

    pub(super) fn clear(&self, _: Pasid) {
        match *self {}
    }

    pub(super) fn set_held(&self, _: Pasid, _held: bool) {
        match *self {}
    }

    pub(super) fn flag_revoked(&self) {
        match *self {}
    }
}
