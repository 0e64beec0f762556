//! A peer by one of its threads: what FUSE and CUSE tell of who asks.

use super::{Host, Peer};
use crate::model::{Failure, Fault, Refusal};
use std::fs;
use std::io;

impl Peer {
    /// The process that the thread `tid` belongs to, with the file system uid that the kernel told with the request.
    ///
    /// The thread waits for the answer to its request, even when it is killed, so its number can mean nobody else.
    /// Refused: `Unsupported` for 0, which stands for a caller outside the service's pid namespace; else as
    /// [`Peer::of_pid`].
    pub fn of_thread(tid: u32, uid: u32, host: &Host) -> Result<Self, Failure> {
        if tid == 0 {
            let what = "a caller outside the service's pid namespace".to_owned();
            let why = "its process cannot be told; the set FD can be passed to it".to_owned();
            return Err(Refusal::Unsupported { what, why }.into());
        }
        let pid = match thread_group(tid) {
            Ok(Some(pid)) => pid,
            Ok(None) => return Err(Fault::new(format!("/proc/{tid}/status names no thread group")).into()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(Refusal::not_found("the caller's process").into());
            }
            Err(error) => return Err(Fault::from(error).while_doing("read /proc/TID/status").into()),
        };
        Self::of_pid(pid, uid, host)
    }
}

/// Source: `proc_pid_status(5)`.
fn thread_group(tid: u32) -> io::Result<Option<u32>> {
    let status = fs::read(format!("/proc/{tid}/status"))?;
    let line = status.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(b"Tgid:"));
    Ok(line.and_then(|number| std::str::from_utf8(number).ok()?.trim().parse().ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_thread_belongs_to_its_process() {
        let me = std::process::id();
        let group = std::thread::spawn(|| {
            let own = fs::read_link("/proc/thread-self").unwrap();
            let tid: u32 = own.file_name().unwrap().to_str().unwrap().parse().unwrap();
            (tid, thread_group(tid).unwrap())
        });
        let (tid, group) = group.join().unwrap();
        assert_ne!(tid, me);
        assert_eq!(group, Some(me));
    }

    #[test]
    fn nobody_is_thread_zero() {
        let host = Host::find(None, None).unwrap();
        let refused = Peer::of_thread(0, 0, &host).unwrap_err();
        assert!(matches!(refused.refusal(), Some(Refusal::Unsupported { .. })));
    }
}
