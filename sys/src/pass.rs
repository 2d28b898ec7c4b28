//! Descriptors passed between processes over a Unix socket (unix(7), `SCM_RIGHTS`).

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::socket::sockopt::AcceptConn;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, getsockname, getsockopt, recvmsg, sendmsg,
};

/// Sends all of `bytes` by one call, and `fd` with their first one.
///
/// # Errors
/// Those of the call; `EMSGSIZE` when the socket took only a part.
pub fn send_with_fd(socket: impl AsFd, bytes: &[u8], fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let raw = fd.map(|fd| [fd.as_raw_fd()]);
    let control: Vec<ControlMessage<'_>> = raw.iter().map(|fds| ControlMessage::ScmRights(fds)).collect();
    let (socket, flags) = (socket.as_fd().as_raw_fd(), MsgFlags::MSG_NOSIGNAL);
    let sent = sendmsg::<()>(socket, &[IoSlice::new(bytes)], &control, flags, None)?;
    if sent == bytes.len() { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::EMSGSIZE)) }
}

/// Fills `buffer` with bytes that were sent by one call of [`send_with_fd`]: how many there were, less only at the end of a
/// stream, and the descriptor that came with them, closed on exec. Further ones are closed.
///
/// # Errors
/// Those of the call.
pub fn receive_with_fd(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)> {
    let mut space = nix::cmsg_space!([RawFd; 1]);
    let mut slices = [IoSliceMut::new(buffer)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_WAITALL;
    let message = recvmsg::<()>(socket.as_fd().as_raw_fd(), &mut slices, Some(&mut space), flags)?;
    let mut received = None;
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(fds) = control {
            for fd in fds {
                // SAFETY: the kernel has just made this descriptor for this process, and nobody else knows it.
                received = Some(unsafe { OwnedFd::from_raw_fd(fd) });
            }
        }
    }
    Ok((message.bytes, received))
}

/// A socket that listens and that this process was started with as descriptor `number`: a duplicate of it, closed on exec.
///
/// # Errors
/// `EBADF`, `ENOTSOCK`; `EINVAL` when it is not of Unix or does not listen.
pub fn inherited_listener(number: RawFd) -> io::Result<UnixListener> {
    if number < 0 {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: the number is not -1; it is used for no more than a duplicate, which the kernel refuses when it is not open.
    let inherited = unsafe { BorrowedFd::borrow_raw(number) };
    let socket = inherited.try_clone_to_owned()?;
    getsockname::<nix::sys::socket::UnixAddr>(socket.as_raw_fd())?;
    if !getsockopt(&socket, AcceptConn)? {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    Ok(UnixListener::from(socket))
}

/// The first descriptor that a service manager passes (sd_listen_fds(3)).
const FIRST_PASSED: RawFd = 3;
/// The most of them that are taken.
const MOST_PASSED: RawFd = 1 << 16;
static TAKEN: AtomicBool = AtomicBool::new(false);

/// What a service manager passed to this process, `count` descriptors from number 3 on, closed on exec from now on; none
/// that is not open. They can be taken once: nothing comes the second time.
pub fn passed_descriptors(count: RawFd) -> Vec<Option<OwnedFd>> {
    if count <= 0 || TAKEN.swap(true, Ordering::Relaxed) {
        return Vec::new();
    }
    let take = |number: RawFd| {
        // SAFETY: the number is not -1; it is used for a flag, which the kernel refuses when it is not open.
        let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
        fcntl(borrowed, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).ok()?;
        // SAFETY: it is open, and was so before this process began, whose code knows it only from here, which is run once.
        Some(unsafe { OwnedFd::from_raw_fd(number) })
    };
    (FIRST_PASSED..).take(count.min(MOST_PASSED).cast_unsigned() as usize).map(take).collect()
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek, Write};
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_descriptor_arrives_with_its_bytes() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"content").unwrap();
        send_with_fd(&ours, b"name", Some(file.as_fd())).unwrap();
        send_with_fd(&ours, b"next", None).unwrap();
        let mut buffer = [0; 4];
        let (bytes, fd) = receive_with_fd(&theirs, &mut buffer).unwrap();
        assert_eq!((bytes, &buffer), (4, b"name"));
        drop(file);
        let mut copy = std::fs::File::from(fd.unwrap());
        copy.rewind().unwrap();
        let mut text = String::new();
        copy.read_to_string(&mut text).unwrap();
        assert_eq!(text, "content");
        let (bytes, fd) = receive_with_fd(&theirs, &mut buffer).unwrap();
        assert!(bytes == 4 && &buffer == b"next" && fd.is_none());
        drop(ours);
        assert_eq!(receive_with_fd(&theirs, &mut buffer).unwrap().0, 0);
    }

    #[test]
    fn only_a_socket_that_listens_is_inherited() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let inherited = inherited_listener(listener.as_raw_fd()).unwrap();
        let other = UnixStream::connect(&path).unwrap();
        inherited.accept().unwrap();
        let refused = |fd: RawFd| inherited_listener(fd).unwrap_err().raw_os_error();
        assert_eq!(refused(other.as_raw_fd()), Some(libc::EINVAL));
        let file = tempfile::tempfile().unwrap();
        assert_eq!(refused(file.as_raw_fd()), Some(libc::ENOTSOCK));
        assert_eq!(refused(-1), Some(libc::EBADF));
        assert_eq!(refused(1 << 20), Some(libc::EBADF));
    }
}
