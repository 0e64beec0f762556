//! The mapped set: what a holder pays without a system call, beside the cheapest one.

use ioasid::bench::{Case, FastPath, Measure, Report, interleave};
use ioasid::model::{Pasid, SetId};
use ioasid::shm::SetRegion;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::hint::black_box;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command};

const CHUNK: u64 = 256;

pub fn run(rounds: usize, measure: &Measure) -> Report {
    let fast_path = FastPath::new().unwrap();
    let socket = std::os::unix::net::UnixStream::pair().unwrap().0;
    let region = SetRegion::create(SetId(1), 1 << 20).unwrap();
    (2000..2064).filter_map(Pasid::new).for_each(|id| region.lease(id, false));
    let neighbour = Neighbour::on(&region);
    let mut cases = fast_path.cases();
    cases.extend([
        Case::new("mapped_set_pair", |m| m.one(|| pairs(&region))).against("set_and_clear"),
        Case::new("mapped_set_pair_2p", |m| neighbour.beside(|| m.one(|| pairs(&region)))).against("mapped_set_pair"),
        Case::new("ioctl_fionread", |m| {
            m.one(|| {
                assert!((0..CHUNK).all(|_| fionread::pending(&socket) == 0));
                CHUNK
            })
        })
        .against("mapped_pair"),
    ]);
    interleave(rounds, measure, &mut cases)
}

fn pairs(region: &SetRegion) -> u64 {
    (0..CHUNK).filter(|_| region.alloc().is_ok_and(|id| region.free(black_box(id.unwrap())).is_ok())).count() as u64
}

/// Another process that takes and frees ids of the same set, on the other core; stopped but while it is needed.
struct Neighbour(Child);

impl Neighbour {
    fn on(region: &SetRegion) -> Self {
        let file: OwnedFd = region.as_fd().try_clone_to_owned().unwrap();
        let neighbour = Command::new(std::env::current_exe().unwrap()).arg("--neighbour").stdin(file).spawn();
        let neighbour = Self(neighbour.unwrap());
        neighbour.signal(Signal::SIGSTOP);
        neighbour
    }

    fn beside<T>(&self, work: impl FnOnce() -> T) -> T {
        self.signal(Signal::SIGCONT);
        let done = work();
        self.signal(Signal::SIGSTOP);
        done
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.0.id() as i32), signal).unwrap();
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What the other process does until it is killed. Its set is its standard input.
pub fn neighbour() -> ! {
    let region = SetRegion::open(std::io::stdin().as_fd().try_clone_to_owned().unwrap()).unwrap();
    loop {
        black_box(pairs(&region));
    }
}

/// The cheapest question a descriptor answers: what an allocation by `ioctl` could cost at best.
mod fionread {
    #![allow(unsafe_code)]
    use std::os::fd::AsRawFd;

    nix::ioctl_read_bad!(ask, nix::libc::FIONREAD, nix::libc::c_int);

    pub fn pending(fd: &impl AsRawFd) -> i32 {
        let mut bytes = 0;
        // SAFETY: FIONREAD writes one int to the address given, which is `bytes`, alive through the call.
        unsafe { ask(fd.as_raw_fd(), &mut bytes) }.unwrap();
        bytes
    }
}
