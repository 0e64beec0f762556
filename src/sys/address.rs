//! Addresses of AF_UNIX sockets.

use super::size_of_socklen;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::mem;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Calls `call` with the address of `path`. A path longer than the address has room for goes by its directory's
/// descriptor.
pub(super) fn with_address<R>(
    path: &Path,
    call: impl FnOnce(*const libc::sockaddr, libc::socklen_t) -> io::Result<R>,
) -> io::Result<R> {
    // SAFETY: a sockaddr_un of zeros is an unnamed address.
    let mut address: libc::sockaddr_un = unsafe { mem::zeroed() };
    address.sun_family = libc::AF_UNIX as libc::sa_family_t;
    let directory;
    let mut bytes = path.as_os_str().as_bytes().to_vec();
    // One byte stays zero: the end of the text.
    if bytes.len() >= address.sun_path.len() {
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        directory = fs::File::open(parent)?;
        let name = path.file_name().unwrap_or(OsStr::new(""));
        bytes = format!("/proc/self/fd/{}/", directory.as_raw_fd()).into_bytes();
        bytes.extend_from_slice(name.as_bytes());
    }
    if bytes.len() >= address.sun_path.len() || bytes.contains(&0) || bytes.is_empty() {
        return Err(io::Error::from_raw_os_error(libc::ENAMETOOLONG));
    }
    for (to, from) in address.sun_path.iter_mut().zip(&bytes) {
        *to = from.cast_signed() as libc::c_char;
    }
    call((&raw const address).cast(), size_of_socklen::<libc::sockaddr_un>())
}

/// The same for an address as the service manager writes it: a path, or `@NAME` for an abstract one.
pub(super) fn with_manager_address<R>(
    name: &OsStr,
    call: impl FnOnce(*const libc::sockaddr, libc::socklen_t) -> io::Result<R>,
) -> io::Result<R> {
    let Some(name) = name.as_bytes().strip_prefix(b"@") else { return with_address(Path::new(name), call) };
    // SAFETY: a sockaddr_un of zeros is an unnamed address.
    let mut address: libc::sockaddr_un = unsafe { mem::zeroed() };
    address.sun_family = libc::AF_UNIX as libc::sa_family_t;
    if name.is_empty() || name.len() >= address.sun_path.len() {
        return Err(io::Error::from_raw_os_error(libc::ENAMETOOLONG));
    }
    // The first byte stays zero: that is what makes it abstract. Its length counts, not a NUL at the end.
    for (to, from) in address.sun_path.iter_mut().skip(1).zip(name) {
        *to = from.cast_signed() as libc::c_char;
    }
    let size = mem::offset_of!(libc::sockaddr_un, sun_path) + 1 + name.len();
    call((&raw const address).cast(), size as libc::socklen_t)
}
