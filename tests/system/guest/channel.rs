//! The CUSE channel under a real kernel, with an echo for a device.

use ioasid::sys::cuse;
use ioasid::sys::fuse::{Channel, Ioctl, Message, Request, abi, parse};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const NUMBER: u64 = 0x6964;
const ADD_ONE: u64 = 0x6965;

/// A device that returns 7 for [`NUMBER`] and adds one to the word at the argument of [`ADD_ONE`].
struct Echo {
    thread: Option<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
}

impl Echo {
    fn serve(channel: Channel) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut buffer = vec![0; Channel::BUFFER];
            while !stopped.load(Ordering::Relaxed) {
                match channel.receive(&mut buffer) {
                    Ok(Some(message)) => answer(&channel, message),
                    Ok(None) => wait_readable(&channel, Duration::from_millis(20)),
                    Err(_) => return,
                }
            }
        });
        Self { thread: Some(thread), stop }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn answer(channel: &Channel, message: &[u8]) {
    let (header, request) = parse(message).expect("a request from the kernel");
    let reply = match request {
        Request::Open { .. } => Message::opened(header.unique, 42, abi::OPEN_DIRECT_IO),
        Request::Release { handle: 42 } => Message::done(header.unique),
        Request::Ioctl(ioctl) => echo(header.unique, ioctl),
        Request::Interrupt { .. } => return,
        _ => Message::error(header.unique, 38),
    };
    channel.send(&reply).expect("reply");
}

fn echo(unique: u64, ioctl: Ioctl<'_>) -> Message {
    match (u64::from(ioctl.command), ioctl.input) {
        (NUMBER, _) => Message::ioctl(unique, 7, &[]),
        (ADD_ONE, []) => Message::ioctl_retry(unique, ioctl.argument, 4, 4),
        (ADD_ONE, &[a, b, c, d]) => {
            Message::ioctl(unique, 3, &(u32::from_ne_bytes([a, b, c, d]).wrapping_add(1)).to_ne_bytes())
        }
        _ => Message::error(unique, 25),
    }
}

fn wait_readable(channel: &Channel, at_most: Duration) {
    let mut ready = libc::pollfd { fd: channel.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one pollfd, as said; poll writes only its revents.
    unsafe { libc::poll(&mut ready, 1, at_most.as_millis() as i32) };
}

fn ioctl(file: &File, command: u64, argument: usize) -> io::Result<i32> {
    // SAFETY: the device asks for four bytes at the argument, which is a u32's address or one that EFAULT is expected of.
    match unsafe { libc::ioctl(file.as_raw_fd(), command, argument) } {
        -1 => Err(io::Error::last_os_error()),
        result => Ok(result),
    }
}

fn opened(path: &Path) -> File {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        match File::options().read(true).write(true).open(path) {
            Ok(file) => return file,
            Err(error) => assert!(Instant::now() < deadline, "{}: {error}", path.display()),
        }
        std::thread::yield_now();
    }
}

/// What a call takes in seconds where nothing gets in its way: a tenth of the calls are quicker.
fn quick<T>(mut call: impl FnMut() -> T) -> f64 {
    let mut times: Vec<f64> = (0..501)
        .map(|_| {
            let begun = Instant::now();
            std::hint::black_box(call());
            begun.elapsed().as_secs_f64()
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[times.len() / 10]
}

fn device(name: &str) -> (Channel, PathBuf) {
    (cuse::create(name).expect("create a device"), Path::new("/dev").join(name))
}

#[test]
#[ignore = "runs in the virtual machine"]
fn an_ioctl_reads_and_writes_the_callers_memory() {
    let (channel, path) = device("echo-memory");
    let _echo = Echo::serve(channel);
    let file = opened(&path);
    assert_eq!(ioctl(&file, NUMBER, 0).unwrap(), 7);
    let mut word = 41u32;
    assert_eq!(ioctl(&file, ADD_ONE, &raw mut word as usize).unwrap(), 3);
    assert_eq!(word, 42);
    assert_eq!(ioctl(&file, ADD_ONE, 16).unwrap_err().raw_os_error(), Some(libc::EFAULT));
    assert_eq!(ioctl(&file, 0x1234, 0).unwrap_err().raw_os_error(), Some(libc::ENOTTY));
}

/// Prints the ioctls beside those of an echo of the same shape; next to nothing is asserted, for the build is a debug one and this
/// machine an emulated one.
#[test]
#[ignore = "runs in the virtual machine"]
fn an_ioctl_of_the_service_costs_what_an_echo_costs() {
    use super::device::{Device, with_device};
    let (channel, path) = device("echo-cost");
    let _echo = Echo::serve(channel);
    let file = opened(&path);
    let daemon = crate::common::Daemon::start_with(
        "version = 1\n[[rule]]\nname = \"all\"\ncgroup = \"/**\"\nusers = [\"*\"]\naction = \"allow\"\n",
        &with_device(),
    );
    let ours = Device(File::options().read(true).write(true).open("/dev/ioasid").unwrap().into());
    let mut word = 0u32;
    let number = quick(|| ioctl(&file, NUMBER, 0).unwrap());
    let memory = quick(|| ioctl(&file, ADD_ONE, &raw mut word as usize).unwrap());
    let version = quick(|| ours.version().unwrap());
    let info = quick(|| ours.bits().unwrap());
    let pair = quick(|| ours.free(ours.alloc_any().unwrap()).unwrap());
    let ratios = [version / number, info / memory, pair / 2.0 / memory];
    println!(
        "times an echo: GET_API_VERSION {:.2}, GET_INFO {:.2}, ALLOC and FREE {:.2}",
        ratios[0], ratios[1], ratios[2]
    );
    assert!(ratios.iter().all(|ratio| *ratio < 100.0));
    drop(ours);
    daemon.finish();
}

/// The channel's promise: another server goes on with a copy of the descriptor, without INIT.
#[test]
#[ignore = "runs in the virtual machine"]
fn a_kept_copy_of_the_channel_serves_files_that_were_open_before() {
    let (channel, path) = device("echo-kept");
    let copy = channel.as_fd().try_clone_to_owned().unwrap();
    let first = Echo::serve(channel);
    let file = opened(&path);
    assert_eq!(ioctl(&file, NUMBER, 0).unwrap(), 7);
    drop(first);
    let channel = Channel::resume(copy).expect("the channel still lives");
    let waiting = std::thread::spawn(move || ioctl(&file, NUMBER, 0));
    let _second = Echo::serve(channel);
    assert_eq!(waiting.join().unwrap().unwrap(), 7);
}

#[test]
#[ignore = "runs in the virtual machine"]
fn a_request_that_was_read_and_not_answered_comes_again() {
    let (channel, path) = device("echo-again");
    let copy = channel.as_fd().try_clone_to_owned().unwrap();
    let first = Echo::serve(channel);
    let file = opened(&path);
    drop(first);
    let channel = Channel::resume(copy).unwrap();
    let waiting = std::thread::spawn(move || (ioctl(&file, NUMBER, 0), file));
    let mut buffer = vec![0; Channel::BUFFER];
    let lost = loop {
        match channel.receive(&mut buffer).unwrap() {
            Some(message) => break parse(message).unwrap().0,
            None => wait_readable(&channel, Duration::from_secs(10)),
        }
    };
    channel.resend().expect("Linux 6.9 sends again");
    let again = channel.receive(&mut buffer).unwrap().map(|message| parse(message).unwrap().0).expect("sent again");
    assert!(again.is_resent() && again.first_unique() == lost.unique);
    channel.send(&Message::ioctl(again.unique, 9, &[])).unwrap();
    let (result, file) = waiting.join().unwrap();
    assert_eq!(result.unwrap(), 9);
    // Closing waits for the server's answer, or for its end.
    drop(channel);
    drop(file);
}

#[test]
#[ignore = "runs in the virtual machine"]
fn a_channel_without_a_copy_ends_with_its_server() {
    let (channel, path) = device("echo-ended");
    let echo = Echo::serve(channel);
    let file = opened(&path);
    drop(echo);
    assert_eq!(ioctl(&file, NUMBER, 0).unwrap_err().raw_os_error(), Some(libc::ENOTCONN));
    assert!(!path.exists());
}
