//! The control calls of `/dev/fuse` (`include/uapi/linux/fuse.h`).

use std::io;
use std::os::fd::{AsFd, AsRawFd};

mod call {
    //! The calls by number; each function made here is unsafe and used once, below.

    /// `struct fuse_backing_map`.
    #[repr(C)]
    pub(super) struct Backing {
        pub(super) fd: i32,
        pub(super) flags: u32,
        pub(super) padding: u64,
    }

    const _: () = assert!(size_of::<Backing>() == 16);

    nix::ioctl_write_ptr!(backing_open, 229, 1, Backing);
    nix::ioctl_write_ptr!(backing_close, 229, 2, u32);
}

/// Registers `file` with the mount that `device` serves, to be named in the reply to an open: the kernel then reads it
/// without asking. It holds the file; ours may be closed.
///
/// # Errors
/// Those of the call: `EPERM` without privilege or where the mount was not set up for it, `ELOOP` where the file's own
/// file system is stacked too deep, `ENOTTY` before Linux 6.9.
pub fn fuse_backing_open(device: impl AsFd, file: impl AsFd) -> io::Result<u32> {
    let backing = call::Backing { fd: file.as_fd().as_raw_fd(), flags: 0, padding: 0 };
    // SAFETY: both descriptors are borrowed from open files for the length of the call, which reads the 16 bytes of
    // `backing`, a live local.
    let id = unsafe { call::backing_open(device.as_fd().as_raw_fd(), &raw const backing) }?;
    u32::try_from(id).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
}

/// Takes back what [`fuse_backing_open`] gave; files that are open keep it.
///
/// # Errors
/// Those of the call; `ENOENT` where there is no such id.
pub fn fuse_backing_close(device: impl AsFd, id: u32) -> io::Result<()> {
    // SAFETY: the descriptor is borrowed from an open file for the length of the call, which reads one number, a live
    // local.
    unsafe { call::backing_close(device.as_fd().as_raw_fd(), &raw const id) }?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;

    use super::*;

    #[test]
    fn a_device_without_a_mount_is_refused() {
        let Ok(device) = OpenOptions::new().read(true).write(true).open("/dev/fuse") else { return };
        fuse_backing_open(&device, &device).unwrap_err();
        fuse_backing_close(&device, 1).unwrap_err();
    }
}
