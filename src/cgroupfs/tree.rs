//! The tree: each request answered from the cgroup2 file system and the controller.

use super::attributes::directory_attributes;
use super::content;
use super::interest::Interest;
use super::node::{File, Node};
use super::open::Open;
use super::pollers::Pollers;
use super::recent::Recent;
use crate::controller::{Caller, Controller, Counters, Deed};
use crate::identity::{Host, Peer};
use crate::model::{CgroupId, CgroupPath, Failure};
use crate::proto::failure_errno;
use crate::sys::cgroup::Directory;
use crate::sys::fuse::{Entries, Header, Message, Request, Window, abi, parse};
use std::ffi::OsStr;
use std::fs::Metadata;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, Mutex, PoisonError};

pub(super) const ENOENT: i32 = 2;
const EIO: i32 = 5;
const EACCES: i32 = 13;
const ENODEV: i32 = 19;
const ENOTDIR: i32 = 20;
const EISDIR: i32 = 21;
const EINVAL: i32 = 22;
const EPERM: i32 = 1;
const ENOSYS: i32 = 38;

/// `poll(2)`: what every regular file says, and what an events file says that changed.
const POLL_ALWAYS: u32 = 0x001 | 0x004 | 0x040 | 0x100;
const POLL_CHANGED: u32 = 0x002 | 0x008;

/// O_ACCMODE, and what of it writes.
const ACCESS_MODE: u32 = 3;

/// The errno of a reply.
pub(super) type Errno = i32;

/// The cgroup files, as a server of FUSE requests.
#[derive(Debug)]
pub struct Tree {
    pub(super) controller: Arc<Controller>,
    pub(super) host: Arc<Host>,
    interest: Arc<Interest>,
    open: Open,
    pollers: Pollers,
    recent: Mutex<Recent>,
    /// The directory that was listed last.
    listed: Option<(Node, Vec<Entry>)>,
}

/// An entry of a directory.
#[derive(Debug)]
struct Entry {
    /// Where a reader goes on after it.
    cookie: u64,
    inode: u64,
    directory: bool,
    name: String,
}

/// A cgroup that exists, with its directory held open.
pub(super) struct Found {
    pub(super) id: Option<CgroupId>,
    pub(super) directory: Arc<Directory>,
}

impl Tree {
    /// A tree over the host's cgroups with the controller's values; who waits for it is noted in `pollers`.
    pub fn new(controller: Arc<Controller>, host: Arc<Host>, pollers: Pollers) -> Self {
        let interest = Arc::new(Interest::default());
        let teller = Arc::clone(&interest);
        controller.observe(Box::new(move |notice| teller.told(notice)));
        Self { controller, host, interest, open: Open::new(), pollers, recent: Mutex::default(), listed: None }
    }

    pub(super) fn interest(&self) -> Arc<Interest> {
        Arc::clone(&self.interest)
    }

    /// The reply to one request; `None` where none is wanted.
    pub fn answer(&mut self, message: &[u8]) -> Option<Message> {
        let (header, request) = match parse(message) {
            Ok(parsed) => parsed,
            Err(bad) => {
                tracing::warn!(%bad, "cgroup files");
                return Some(Message::error(bad.unique, EIO));
            }
        };
        if matches!(request, Request::Forget | Request::Interrupt { .. } | Request::Destroy) {
            return None;
        }
        let reply = self.dispatch(&header, request);
        Some(reply.unwrap_or_else(|errno| Message::error(header.unique, errno)))
    }

    fn dispatch(&mut self, header: &Header, request: Request<'_>) -> Result<Message, Errno> {
        let unique = header.unique;
        if let Request::Init(offer) = request {
            let speaks = offer.major == abi::MAJOR && offer.minor >= abi::MINOR_LEAST;
            return if speaks { Ok(Message::init(unique, offer)) } else { Err(EIO) };
        }
        let node = Node::of(header.node).ok_or(ENOENT)?;
        match request {
            Request::Lookup(name) => self.look_up(unique, node, name),
            Request::Getattr => self.attributes_of(unique, node),
            Request::Setattr { valid } => {
                // O_TRUNC comes as a size; times are nobody's business.
                if valid & abi::SET_MODE_OR_OWNER != 0 {
                    return Err(EPERM);
                }
                self.attributes_of(unique, node)
            }
            Request::Open { flags } => self.open_file(header, node, flags),
            Request::Opendir => {
                self.find_directory(node)?;
                // Nothing is kept for it: see `read_directory`.
                Ok(Message::opened(unique, 0, 0))
            }
            Request::Read(window) => self.read(unique, node, window),
            Request::Readdir(window) => self.read_directory(unique, node, window),
            Request::Write { data, .. } => self.write(header, node, data),
            Request::Releasedir { .. } => Ok(Message::done(unique)),
            Request::Release { handle } => {
                if let Some(slot) = self.open.close(handle) {
                    self.pollers.remove(slot);
                }
                Ok(Message::done(unique))
            }
            Request::Statfs => Ok(Message::statfs(unique)),
            Request::Poll { handle, wake, notify } => self.poll(unique, node, handle, notify.then_some(wake)),
            Request::Create => Err(EACCES),
            Request::Make => Err(EPERM),
            _ => Err(ENOSYS),
        }
    }

    /// The cgroup of a node. ENOENT where it was removed.
    pub(super) fn find(&self, node: Node) -> Result<Found, Errno> {
        let cgroups = &self.host.cgroups;
        let Some(id) = node.cgroup else {
            let directory = cgroups.open(&CgroupPath::root()).map_err(|error| errno_of(&error))?;
            return Ok(Found { id: None, directory: Arc::new(directory) });
        };
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(directory) = recent.get(id) {
            return Ok(Found { id: Some(id), directory });
        }
        let directory = Arc::new(cgroups.open_id(id).map_err(|error| errno_of(&error))?.ok_or(ENOENT)?);
        recent.keep(id, Arc::clone(&directory));
        Ok(Found { id: Some(id), directory })
    }

    /// Its path, for the policy and for people; costs some system calls.
    pub(super) fn path(&self, found: &Found) -> Result<CgroupPath, Errno> {
        let Some(id) = found.id else { return Ok(CgroupPath::root()) };
        self.host.cgroups.path_of(id).map_err(|error| errno_of(&error))?.ok_or(ENOENT)
    }

    fn look_up(&self, unique: u64, parent: Node, name: &OsStr) -> Result<Message, Errno> {
        if parent.file.is_some() {
            return Err(ENOTDIR);
        }
        let name = name.to_str().ok_or(ENOENT)?;
        let found = self.find(parent)?;
        if let Some(file) = File::named(name, parent == Node::ROOT) {
            if !self.has_files(&found)? {
                return Err(ENOENT);
            }
            let node = Node { file: Some(file), ..parent };
            let attributes = self.attributes_in(node, &found)?;
            return Ok(Message::entry(unique, attributes.inode, &attributes));
        }
        let directory = found.directory.child(name).map_err(|error| match errno_of(&error) {
            // One of the kernel's files, which are not here.
            ENOTDIR => ENOENT,
            errno => errno,
        })?;
        let metadata = metadata_of(&directory).map_err(|error| errno_of(&error))?;
        let number = Node { cgroup: Some(CgroupId(metadata.ino())), file: None }.number().ok_or(EIO)?;
        Ok(Message::entry(unique, number, &directory_attributes(number, &metadata)))
    }

    fn find_directory(&self, node: Node) -> Result<Found, Errno> {
        if node.file.is_some() { Err(ENOTDIR) } else { self.find(node) }
    }

    /// What is in a directory, in the order of cookies.
    fn list(&self, node: Node) -> Result<Vec<Entry>, Errno> {
        let found = self.find_directory(node)?;
        let number = node.number().ok_or(ENOENT)?;
        let entry = |inode, directory, name: &str, cookie| Entry { cookie, inode, directory, name: name.to_owned() };
        let mut entries = vec![entry(number, true, ".", 1), entry(number, true, "..", 2)];
        let files = if self.has_files(&found)? { File::of_directory(node == Node::ROOT) } else { &[] };
        for (cookie, file) in (3..).zip(files) {
            let inode = Node { file: Some(*file), ..node }.number().ok_or(ENOENT)?;
            entries.push(entry(inode, false, file.name(), cookie));
        }
        for (id, name) in found.directory.children_with_ids().map_err(|error| errno_of(&error))? {
            if let Some(inode) = (Node { cgroup: Some(id), file: None }).number() {
                // The root has id 1: those below it have numbers above all cookies of files.
                entries.push(entry(inode, true, &name, inode));
            }
        }
        entries.sort_by_key(|entry| entry.cookie);
        Ok(entries)
    }

    /// Goes on after an entry, by its cookie. Entries have the same cookie always, so nothing is kept for a reader: what
    /// comes or goes meanwhile is there or not, all else is listed once. The last listing is at hand for who goes on.
    fn read_directory(&mut self, unique: u64, node: Node, window: Window) -> Result<Message, Errno> {
        if window.offset == 0 || self.listed.as_ref().is_none_or(|(of, _)| *of != node) {
            self.listed = Some((node, self.list(node)?));
        }
        let entries = self.listed.as_ref().map(|(_, entries)| entries.as_slice()).unwrap_or_default();
        let mut listing = Entries::default();
        let from = entries.partition_point(|entry| entry.cookie <= window.offset);
        for entry in entries.iter().skip(from) {
            if !listing.push(window.size, entry.inode, entry.cookie, entry.directory, entry.name.as_bytes()) {
                break;
            }
        }
        Ok(Message::data(unique, listing.as_bytes()))
    }

    fn open_file(&mut self, header: &Header, node: Node, flags: u32) -> Result<Message, Errno> {
        let file = node.file.ok_or(EISDIR)?;
        let found = self.find(node)?;
        if flags & ACCESS_MODE != 0 && file.is_writable() {
            self.may_write(header, file, &self.path(&found)?)?;
        }
        let handle = self.open.file(node);
        Ok(Message::opened(header.unique, handle, abi::OPEN_DIRECT_IO))
    }

    fn read(&mut self, unique: u64, node: Node, window: Window) -> Result<Message, Errno> {
        let kind = node.file.ok_or(EISDIR)?;
        let unread = self.open.file_mut(window.handle, node).text.is_empty();
        if window.offset == 0 || unread {
            let counters = self.counters(node, kind).map_err(|errno| if errno == ENOENT { ENODEV } else { errno })?;
            let file = self.open.file_mut(window.handle, node);
            file.text = content::text(kind, &counters).into_bytes();
            file.seen = Some(content::version(kind, &counters));
        }
        let text = &self.open.file_mut(window.handle, node).text;
        let from = usize::try_from(window.offset).unwrap_or(usize::MAX).min(text.len());
        let size = usize::try_from(window.size).unwrap_or(usize::MAX);
        let rest = text.get(from..).unwrap_or_default();
        Ok(Message::data(unique, rest.get(..size.min(rest.len())).unwrap_or_default()))
    }

    fn counters(&self, node: Node, file: File) -> Result<Counters, Errno> {
        self.counters_in(&self.find(node)?, file)
    }

    /// What a file of a cgroup that exists is made of.
    pub(super) fn counters_in(&self, found: &Found, file: File) -> Result<Counters, Errno> {
        let mut counters = self.controller.counters(found.id);
        if counters.max.is_none() && file == File::Max {
            counters.max = Some(self.controller.unused_limit(&self.path(found)?));
        }
        Ok(counters)
    }

    fn write(&self, header: &Header, node: Node, data: &[u8]) -> Result<Message, Errno> {
        // Opened by one whom no mode stops.
        let file = node.file.filter(|file| file.is_writable()).ok_or(EINVAL)?;
        let length = u32::try_from(data.len()).map_err(|_| EINVAL)?;
        let gone = |errno| if errno == ENOENT { ENODEV } else { errno };
        let path = self.find(node).and_then(|found| self.path(&found)).map_err(gone)?;
        // Who opened it was allowed to; who writes must be, too: a file that was passed on to a privileged
        // program to write its messages to sets no limit by its privilege alone.
        let caller = self.caller(header).map_err(|failure| self.refused(&failure))?;
        let set = || {
            if file == File::Peak {
                // Whatever is written, as to memory.peak.
                let permit = self.controller.authorize(&caller, Deed::ResetPeak(&path))?.without_polkit()?;
                return self.controller.reset_peak(&caller, &permit);
            }
            let limit = content::limit(data)?;
            let permit = self.controller.authorize(&caller, Deed::SetLimit(&path))?.without_polkit()?;
            self.controller.set_limit(&caller, &permit, Some(limit), false)
        };
        set().map_err(|failure: Failure| self.refused(&failure))?;
        Ok(Message::written(header.unique, length))
    }

    /// EACCES where the caller may not write the file, as the kernel says of one that is not writable.
    fn may_write(&self, header: &Header, file: File, path: &CgroupPath) -> Result<(), Errno> {
        let deed = if file == File::Peak { Deed::ResetPeak(path) } else { Deed::SetLimit(path) };
        let allowed = || {
            let caller = self.caller(header)?;
            self.controller.authorize(&caller, deed)?.without_polkit()?;
            Ok(())
        };
        allowed().map_err(|failure: Failure| match self.refused(&failure) {
            EPERM => EACCES,
            errno => errno,
        })
    }

    /// The errno of a failure, which is reported: nobody else will.
    fn refused(&self, failure: &Failure) -> Errno {
        self.controller.report("cgroup files", failure);
        failure_errno(failure)
    }

    fn caller(&self, header: &Header) -> Result<Caller, Failure> {
        let peer = Peer::of_thread(header.tid, header.uid, &self.host)?;
        let located = peer.cgroup(&self.host)?;
        Ok(Caller::new(&peer, located))
    }

    fn poll(&mut self, unique: u64, node: Node, handle: u64, wake: Option<u64>) -> Result<Message, Errno> {
        let kind = node.file.ok_or(EISDIR)?;
        if !kind.is_events() {
            return Ok(Message::polled(unique, POLL_ALWAYS));
        }
        // Asked to be woken before the count is looked at: what comes in between wakes once too often, never too seldom.
        if let (Some(_), Some(cgroup)) = (wake, node.cgroup) {
            self.interest.poll(cgroup);
        }
        let now = match self.counters(node, kind) {
            Ok(counters) => Some(content::version(kind, &counters)),
            // Removed: reading tells.
            Err(_) => None,
        };
        let file = self.open.file_mut(handle, node);
        if let Some(wake) = wake {
            file.wake = Some(wake);
            // The number of an open file stays the same.
            file.noted.get_or_insert_with(|| self.pollers.add(wake));
        }
        let changed = now.is_none() || file.seen != now;
        Ok(Message::polled(unique, if changed { POLL_ALWAYS | POLL_CHANGED } else { POLL_ALWAYS }))
    }

    /// Wake-ups for who polls a cgroup that was hit.
    pub(super) fn wake_pollers(&mut self) -> Vec<Message> {
        let hit = self.interest.take();
        let polled = self.open.files.values_mut();
        let woken = polled.filter(|file| file.node.cgroup.is_some_and(|cgroup| hit.contains(&cgroup)));
        woken.filter_map(|file| file.wake.take()).map(Message::wake).collect()
    }
}

pub(super) fn metadata_of(directory: &Directory) -> io::Result<Metadata> {
    std::fs::File::from(directory.as_fd().try_clone_to_owned()?).metadata()
}

/// What the cgroup2 file system said, to the reader of ours.
pub(super) fn errno_of(error: &io::Error) -> Errno {
    match error.raw_os_error() {
        Some(errno) => errno,
        None if error.kind() == io::ErrorKind::NotFound => ENOENT,
        None => EIO,
    }
}
