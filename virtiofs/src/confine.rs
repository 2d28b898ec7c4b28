//! What the process gives up before it hears of a guest.

use std::io;
use std::path::Path;
use std::str::FromStr;

use caps::{CapSet, Capability, CapsHashSet};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use crate::VirtioError;

/// More files than this are not kept open.
const MOST_FILES: u64 = 1 << 20;

/// How the process that shares a directory is shut in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Confinement {
    /// It has the directory as its root, and no network; mounts made on the host below the directory are seen.
    Namespace,
    /// It has the directory as its root.
    Chroot,
    /// Not at all, for those who are not root.
    None,
}

impl FromStr for Confinement {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "namespace" => Ok(Self::Namespace),
            "chroot" => Ok(Self::Chroot),
            "none" => Ok(Self::None),
            _ => Err("one of namespace, chroot, none".to_owned()),
        }
    }
}

/// What sharing a directory needs of root's privileges: files with any owner and mode, devices, attributes.
const SHARING: [Capability; 8] = [
    Capability::CAP_CHOWN,
    Capability::CAP_DAC_OVERRIDE,
    Capability::CAP_FOWNER,
    Capability::CAP_FSETID,
    Capability::CAP_MKNOD,
    Capability::CAP_SETFCAP,
    Capability::CAP_SETGID,
    Capability::CAP_SETUID,
];

/// Shuts in the calling thread, and those that it will start: in `dir`, when one is shared; without one, the root stays, and all
/// privileges but that of writing anywhere go.
///
/// # Errors
/// It cannot be done, for want of privileges.
pub fn confine(dir: Option<&Path>, how: Confinement) -> Result<(), VirtioError> {
    let wanted = if dir.is_some() { &SHARING[..] } else { &[Capability::CAP_DAC_OVERRIDE][..] };
    if let Some(dir) = dir.filter(|_| how != Confinement::None) {
        enter(dir, how).map_err(VirtioError::io("shut in (see --sandbox)", dir))?;
    }
    let drop_others = || -> Result<(), Box<dyn std::error::Error>> {
        nix::sys::prctl::set_no_new_privs()?;
        let held = caps::read(None, CapSet::Permitted)?;
        let kept: CapsHashSet = wanted.iter().copied().filter(|one| held.contains(one)).collect();
        caps::clear(None, CapSet::Inheritable)?;
        caps::set(None, CapSet::Effective, &kept)?;
        caps::set(None, CapSet::Permitted, &kept)?;
        Ok(())
    };
    drop_others()
        .map_err(|error| VirtioError::io("drop privileges", "process")(io::Error::other(error.to_string())))
}

fn enter(dir: &Path, how: Confinement) -> io::Result<()> {
    if how == Confinement::Namespace {
        unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWIPC)?;
        let flags = MsFlags::MS_SLAVE | MsFlags::MS_REC;
        mount(None::<&str>, "/", None::<&str>, flags, None::<&str>)?;
    }
    nix::unistd::chroot(dir)?;
    nix::unistd::chdir("/")?;
    Ok(())
}

/// Lets the process open as many files as it may: a shared directory needs one for each that its guest knows.
pub fn raise_file_limit() {
    if let Err(error) = d4c_sys::raise_file_limit(MOST_FILES) {
        tracing::warn!(%error, "limit of open files not raised");
    }
}
