//! A mapped region.

use super::memfd;
use crate::sync::AtomicU64;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;

/// The largest region that is mapped: 2^20 ids in a handful of bitmaps take well below it.
const MAX_BYTES: usize = 64 << 20;

/// A sealed memfd, mapped for reading and writing, as atomic words. Unmapped when dropped.
///
/// Others write to it at any time: every access is atomic, nothing read once is there the second time.
#[derive(Debug)]
pub struct Region {
    file: OwnedFd,
    words: NonNull<AtomicU64>,
    count: usize,
}

// SAFETY: the mapping belongs to the Region alone, lives until its drop, and is only reached through atomics.
unsafe impl Send for Region {}
// SAFETY: as for Send; shared use is what atomics are for.
unsafe impl Sync for Region {}

impl Region {
    /// Makes a region of `bytes` zeros (a multiple of 8, above 0), sealed in its size, and maps it.
    pub fn create(bytes: usize, name: &str) -> io::Result<Self> {
        if bytes == 0 || !bytes.is_multiple_of(size_of::<AtomicU64>()) || bytes > MAX_BYTES {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let name = CString::new(name)?;
        Self::map(memfd::create(&name, bytes)?, bytes)
    }

    /// Maps a region that somebody else made: a client what the service sent, the service what it parked before a restart.
    ///
    /// `InvalidData` where it is no memfd, can change its size, is sealed against writing, or has a size that no region
    /// has; PermissionDenied where it is open for reading only.
    pub fn open(file: OwnedFd) -> io::Result<Self> {
        let bytes = memfd::size_of_sealed(file.as_fd())?;
        if bytes == 0 || !bytes.is_multiple_of(size_of::<AtomicU64>()) || bytes > MAX_BYTES {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a region of {bytes} bytes")));
        }
        Self::map(file, bytes)
    }

    /// `bytes` is the file's size, which its seals keep.
    fn map(file: OwnedFd, bytes: usize) -> io::Result<Self> {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let (null, fd) = (std::ptr::null_mut(), file.as_raw_fd());
        // SAFETY: a new mapping at an address of the kernel's choice: no memory of ours is touched.
        let at = unsafe { libc::mmap(null, bytes, access, libc::MAP_SHARED, fd, 0) };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let words = NonNull::new(at.cast()).ok_or_else(|| io::Error::other("mapped at address 0"))?;
        Ok(Self { file, words, count: bytes / size_of::<AtomicU64>() })
    }

    /// The words.
    pub fn words(&self) -> &[AtomicU64] {
        // SAFETY: `words` is a mapping of `count` words (page-aligned, so aligned for u64) that lives as long as self: only
        // drop unmaps it. The seals keep the file from shrinking, so no access faults. Everybody, other processes
        // included, writes it as atomics or not at all as far as this program relies on it; any bits are a valid u64.
        unsafe { std::slice::from_raw_parts(self.words.as_ptr(), self.count) }
    }

    /// Its size in bytes.
    pub fn bytes(&self) -> usize {
        self.count * size_of::<AtomicU64>()
    }
}

impl AsFd for Region {
    /// The memfd: to send to a holder, or to park.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: `words` is the mapping made in `map` with this length; slices of it borrow self and are gone.
        unsafe { libc::munmap(self.words.as_ptr().cast(), self.bytes()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::sync::atomic::Ordering::SeqCst;

    #[test]
    fn both_mappings_see_one_memory() {
        let made = Region::create(4096, "ioasid-test").unwrap();
        let opened = Region::open(made.as_fd().try_clone_to_owned().unwrap()).unwrap();
        assert_eq!((made.words().len(), opened.bytes()), (512, 4096));
        assert!(made.words().iter().all(|word| word.load(SeqCst) == 0));
        made.words()[511].store(7, SeqCst);
        assert_eq!(opened.words()[511].load(SeqCst), 7);
        drop(made);
        assert_eq!(opened.words()[511].load(SeqCst), 7);
    }

    #[test]
    fn a_holder_can_change_neither_size_nor_seals() {
        let region = Region::create(64, "ioasid-test").unwrap();
        let file = File::from(region.as_fd().try_clone_to_owned().unwrap());
        for size in [0, 32, 128] {
            assert_eq!(file.set_len(size).unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        }
        // SAFETY: no pointers.
        assert_eq!(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, libc::F_SEAL_FUTURE_WRITE) }, -1);
    }

    #[test]
    fn what_is_no_region_is_refused() {
        assert!(Region::create(0, "x").is_err() && Region::create(9, "x").is_err());
        assert!(Region::create(MAX_BYTES + 8, "x").is_err());
        let refused = |file: OwnedFd| Region::open(file).unwrap_err().kind();
        assert_eq!(refused(File::open("/dev/zero").unwrap().into()), io::ErrorKind::InvalidData);
        let (a, _b) = std::os::unix::net::UnixStream::pair().unwrap();
        assert_eq!(refused(a.into()), io::ErrorKind::InvalidData);
        let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
        // SAFETY: a literal that ends with NUL; the new number is nobody else's.
        let unsealed = unsafe {
            use std::os::fd::FromRawFd;
            OwnedFd::from_raw_fd(libc::memfd_create(c"x".as_ptr(), flags))
        };
        assert_eq!(refused(unsealed), io::ErrorKind::InvalidData);
        assert_eq!(refused(memfd::create(c"x", 12).unwrap()), io::ErrorKind::InvalidData);
        let region = Region::create(64, "x").unwrap();
        let read_only = File::open(format!("/proc/self/fd/{}", region.as_fd().as_raw_fd())).unwrap();
        assert_eq!(refused(read_only.into()), io::ErrorKind::PermissionDenied);
    }
}
