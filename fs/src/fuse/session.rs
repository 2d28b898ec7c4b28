//! A mount of `/dev/fuse` and the threads that answer it.

use std::fs::{File, OpenOptions};
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::AsRawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fuse_backend_rs::api::filesystem::FileSystem;
use fuse_backend_rs::api::server::Server;
use fuse_backend_rs::transport::{FuseBuf, FuseDevWriter, Reader, Writer};
use nix::errno::Errno;
use nix::libc;
use nix::mount::{MntFlags, MsFlags};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

use crate::crew::{Crew, Duty};

/// Requests by number (`include/uapi/linux/fuse.h`).
const INIT: u32 = 26;
const OPEN: u32 = 14;
/// A notification: hand out again what was read and not answered. Linux 6.9.
const NOTIFY_RESEND: i32 = 7;
/// Bits of INIT's first and second word of flags.
const INIT_EXT: u32 = 1 << 30;
const PASSTHROUGH: u32 = 1 << 5;
const HAS_RESEND: u32 = 1 << 7;
const ALLOW_IDMAP: u32 = 1 << 8;
/// Bits of an open's reply.
const FOPEN_KEEP_CACHE: u32 = 1 << 1;
const FOPEN_NOFLUSH: u32 = 1 << 5;
const FOPEN_PASSTHROUGH: u32 = 1 << 7;
/// What a request takes at most: nothing is written here, and a name or a batch of forgotten nodes is short. A page is the
/// least that the kernel takes for `max_write`, whose bytes it wants room for in any case.
const REQUEST_BYTES: usize = 16 << 10;
const MAX_WRITE: u32 = 4096;

/// A file system that a session can serve.
pub(crate) trait Serve: FileSystem<Inode = u64, Handle = u64> + Send + Sync + 'static {
    /// The most that a reply takes: a megabyte that is read, and its header.
    const REPLY_BYTES: usize = (1 << 20) + 8192;

    /// The part that answers opens with files, where it has one.
    fn passthrough(&self) -> Option<&dyn Passthrough> {
        None
    }
}

/// Nothing is read through it.
impl Serve for super::ObjectFs {
    const REPLY_BYTES: usize = 64 << 10;
}

/// A file system that lets the kernel read its files.
pub(crate) trait Passthrough {
    /// From now on opens are answered with files registered with `device`.
    fn enable(&self, device: Arc<File>);

    /// The number of the file registered for an open of `inode`; none where the file system is to be read instead.
    fn open(&self, inode: u64) -> io::Result<Option<u32>>;
}

/// A mount and its threads.
///
/// All threads share one device: requests that were read from it are the device's until they are answered, and fail when
/// it is closed. Whoever else has it open can go on after this process ([`Session::resume`]).
#[derive(Debug)]
pub(crate) struct Session {
    mountpoint: PathBuf,
    device: Arc<File>,
    crew: Option<Arc<Crew>>,
    mounted: bool,
    resends: bool,
}

impl Session {
    /// Mounts `fs` read-only at `mountpoint`, and answers on `threads` threads.
    ///
    /// # Errors
    /// There is no FUSE, no privilege, or, with `passthrough`, no such thing: `EOPNOTSUPP`.
    pub(crate) fn start<F: Serve>(
        fs: Arc<F>,
        mountpoint: &Path,
        passthrough: bool,
        threads: NonZeroUsize,
    ) -> io::Result<Self> {
        let device = OpenOptions::new().read(true).write(true).open("/dev/fuse")?;
        let options = format!(
            "fd={},rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions,max_read=1048576",
            device.as_raw_fd()
        );
        let (flags, options) = (MsFlags::MS_RDONLY, Some(options.as_str()));
        nix::mount::mount(Some("di3fs"), mountpoint, Some("fuse.di3fs"), flags, options)?;
        let device = Arc::new(device);
        let mut session = Self::of(device, mountpoint);
        let server = Arc::new(Server::new(Arc::clone(&fs)));
        session.introduce(&server, passthrough)?;
        session.answer(&fs, &server, passthrough, threads)?;
        Ok(session)
    }

    /// Goes on with the mount at `mountpoint`, which a process that has ended served by `device` with the same `fs`, without
    /// passthrough. What it had taken and not answered is answered now.
    ///
    /// # Errors
    /// The device serves no mount any more, or the kernel cannot ask again. The mount stays, to be gone on with later.
    pub(crate) fn resume<F: Serve>(
        fs: Arc<F>,
        mountpoint: &Path,
        device: File,
        threads: NonZeroUsize,
    ) -> io::Result<Self> {
        let mut session = Self::of(Arc::new(device), mountpoint);
        (session.resends, session.mounted) = (true, false);
        let mut notification = Vec::with_capacity(16);
        notification.extend(16_u32.to_le_bytes());
        notification.extend(NOTIFY_RESEND.to_le_bytes());
        notification.extend(0_u64.to_le_bytes());
        nix::unistd::write(&*session.device, &notification)?;
        let server = Arc::new(Server::new(Arc::clone(&fs)));
        session.answer(&fs, &server, false, threads)?;
        session.mounted = true;
        Ok(session)
    }

    fn of(device: Arc<File>, mountpoint: &Path) -> Self {
        Self { mountpoint: mountpoint.to_owned(), device, crew: None, mounted: true, resends: false }
    }

    /// Starts the threads.
    fn answer<F: Serve>(
        &mut self,
        fs: &Arc<F>,
        server: &Arc<Server<Arc<F>>>,
        passthrough: bool,
        threads: NonZeroUsize,
    ) -> io::Result<()> {
        if passthrough {
            let served = fs.passthrough().ok_or_else(|| io::Error::from(Errno::EOPNOTSUPP))?;
            served.enable(Arc::clone(&self.device));
        }
        let duty = Requests {
            fs: Arc::clone(fs),
            server: Arc::clone(server),
            device: Arc::clone(&self.device),
            passthrough,
        };
        self.crew = Some(Crew::start(duty, threads)?);
        Ok(())
    }

    /// The device, to register files with, and to be kept by another process.
    pub(crate) fn device(&self) -> &File {
        &self.device
    }

    /// Whether [`Session::resume`] can work.
    pub(crate) fn can_resume(&self) -> bool {
        self.resends
    }

    /// Leaves the mount where it is when this is dropped.
    pub(crate) fn leave(&mut self) {
        self.mounted = false;
    }

    /// Takes the mount away from where it is: at once when nothing uses it, else when nothing does any more.
    pub(crate) fn detach(&mut self) -> io::Result<()> {
        if std::mem::take(&mut self.mounted) {
            nix::mount::umount2(&self.mountpoint, MntFlags::MNT_DETACH)?;
        }
        Ok(())
    }

    /// Waits until nothing uses the mount any more.
    pub(crate) fn join(mut self) {
        if let Some(crew) = self.crew.take() {
            crew.join();
        }
    }

    /// The first request: what the kernel can do, and what we want of it.
    fn introduce<F: Serve>(&mut self, server: &Server<Arc<F>>, passthrough: bool) -> io::Result<()> {
        let mut request = vec![0; REQUEST_BYTES];
        let bytes = loop {
            match nix::unistd::read(&*self.device, &mut request) {
                Err(Errno::EINTR | Errno::EAGAIN | Errno::ENOENT) => {}
                read => break read?,
            }
        };
        let request = &mut request[..bytes];
        if word(request, 4) != Some(INIT) {
            return Err(Errno::EPROTO.into());
        }
        let more = word(request, 52).filter(|flags| flags & INIT_EXT != 0).and_then(|_| word(request, 56));
        // A file that is open is tied to its number of registration, which a successor does not know.
        self.resends = !passthrough && more.is_some_and(|flags| flags & HAS_RESEND != 0);
        if passthrough && more.is_none_or(|flags| flags & PASSTHROUGH == 0) {
            return Err(Errno::EOPNOTSUPP.into());
        }
        // The decoder writes its reply to a socket, where it can be completed.
        let (ours, theirs) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        let mut buffer = vec![0; 8192];
        let writer = FuseDevWriter::<()>::new(theirs.as_raw_fd(), &mut buffer).map_err(protocol)?;
        let reader = Reader::from_fuse_buffer(FuseBuf::new(request)).map_err(protocol)?;
        server.handle_message(reader, Writer::from(writer), None, None).map_err(protocol)?;
        let mut reply = [0; 256];
        let bytes = nix::unistd::read(&ours, &mut reply)?;
        let reply = reply.get_mut(..bytes).unwrap_or_default();
        // After the header of 16 bytes: flags at 12, max_write at 20, more flags at 32, the depth of stacked file systems at 36.
        set(reply, 36, MAX_WRITE)?;
        if let Some(can) = more {
            // The kernel compares owners itself, and we look at nobody's: any mount of this may map them.
            let mut wanted = can & ALLOW_IDMAP;
            if passthrough {
                wanted |= PASSTHROUGH;
                set(reply, 52, 1)?;
            }
            let (flags, more) =
                (word(reply, 28).ok_or(Errno::EPROTO)?, word(reply, 48).ok_or(Errno::EPROTO)?);
            set(reply, 28, flags | INIT_EXT)?;
            set(reply, 48, more | wanted)?;
        }
        nix::unistd::write(&*self.device, reply)?;
        Ok(())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Err(error) = self.detach() {
            tracing::warn!(path = %self.mountpoint.display(), %error, "not unmounted");
        }
    }
}

/// Both ends are on one machine, and we are built for little-endian ones only.
const _: () = assert!(cfg!(target_endian = "little"));

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn set(bytes: &mut [u8], at: usize, value: u32) -> io::Result<()> {
    bytes.get_mut(at..at + 4).ok_or(Errno::EPROTO)?.copy_from_slice(&value.to_le_bytes());
    Ok(())
}

fn long(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

fn protocol(error: impl std::fmt::Display) -> io::Error {
    io::Error::other(format!("talk to the kernel: {error}"))
}

/// The requests of a mount.
struct Requests<F: Serve> {
    fs: Arc<F>,
    server: Arc<Server<Arc<F>>>,
    device: Arc<File>,
    passthrough: bool,
}

/// Room for a request, of which there are so many bytes, and for what is answered.
struct Buffers {
    request: Vec<u8>,
    bytes: usize,
    reply: Vec<u8>,
}

impl<F: Serve> Duty for Requests<F> {
    type Own = Buffers;

    fn begin(&self) -> Buffers {
        Buffers { request: vec![0; REQUEST_BYTES], bytes: 0, reply: vec![0; F::REPLY_BYTES] }
    }

    fn wait(&self, own: &mut Buffers) -> bool {
        loop {
            match nix::unistd::read(&*self.device, &mut own.request) {
                Ok(bytes) => {
                    own.bytes = bytes;
                    return true;
                }
                // Interrupted: the request, or we.
                Err(Errno::ENOENT | Errno::EINTR | Errno::EAGAIN) => {}
                Err(Errno::ENODEV) => return false,
                Err(error) => {
                    tracing::error!(%error, "fuse: no more requests");
                    return false;
                }
            }
        }
    }

    fn answer(&self, own: &mut Buffers) {
        // Whoever asked would wait for ever, and nobody would take this thread's place.
        if catch_unwind(AssertUnwindSafe(|| self.answer_one(own))).is_err()
            && let Some(unique) = long(&own.request, 8)
            && let Err(error) = reply(&self.device, unique, libc::EIO, &[])
        {
            tracing::debug!(%error, "fuse: a request was not answered");
        }
    }
}

impl<F: Serve> Requests<F> {
    fn answer_one(&self, own: &mut Buffers) {
        let request = &mut own.request[..own.bytes];
        if self.passthrough && word(request, 4) == Some(OPEN) {
            if let Err(error) = answer_open(&*self.fs, &self.device, request) {
                tracing::debug!(%error, "fuse: an open was not answered");
            }
            return;
        }
        let handled = FuseDevWriter::<()>::new(self.device.as_raw_fd(), &mut own.reply)
            .map_err(|error| error.to_string())
            .and_then(|writer| {
                let reader =
                    Reader::from_fuse_buffer(FuseBuf::new(request)).map_err(|error| error.to_string())?;
                self.server
                    .handle_message(reader, Writer::from(writer), None, None)
                    .map_err(|error| error.to_string())
            });
        // ENOENT when the asker was killed meanwhile: nothing to be done.
        if let Err(error) = handled {
            tracing::debug!(%error, "fuse: a request was not answered");
        }
    }
}

/// Answers an open with a registered file, which the decoder cannot.
fn answer_open<F: Serve>(fs: &F, device: &File, request: &[u8]) -> io::Result<()> {
    let (unique, inode) = (long(request, 8).ok_or(Errno::EPROTO)?, long(request, 16).ok_or(Errno::EPROTO)?);
    let opened = match fs.passthrough() {
        Some(passthrough) => passthrough.open(inode),
        None => Err(Errno::ENOSYS.into()),
    };
    match opened {
        Ok(id) => {
            let flags = match id {
                Some(_) => FOPEN_PASSTHROUGH | FOPEN_NOFLUSH,
                None => FOPEN_KEEP_CACHE | FOPEN_NOFLUSH,
            };
            let mut body = vec![0; 8];
            body.extend(flags.to_le_bytes());
            body.extend(id.unwrap_or(0).to_le_bytes());
            reply(device, unique, 0, &body)
        }
        Err(error) => reply(device, unique, error.raw_os_error().unwrap_or(libc::EIO), &[]),
    }
}

/// Answers the request `unique` with an error, or, where that is 0, with `body`.
fn reply(device: &File, unique: u64, error: i32, body: &[u8]) -> io::Result<()> {
    let bytes = u32::try_from(16 + body.len()).unwrap_or(16);
    let mut reply = Vec::with_capacity(32);
    reply.extend(bytes.to_le_bytes());
    reply.extend((-error).to_le_bytes());
    reply.extend(unique.to_le_bytes());
    reply.extend(body);
    nix::unistd::write(device, &reply)?;
    Ok(())
}
