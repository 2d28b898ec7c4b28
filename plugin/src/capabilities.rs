//! The capabilities that the plugin keeps; all others are dropped at start, for good.

use caps::errors::CapsError;
use caps::{CapSet, Capability, CapsHashSet};

use crate::error::{Error, Result};

/// What is kept, and why.
const KEPT: [Capability; 11] = [
    // Files of images: their owners, modes, devices and file capabilities, whoever may read them.
    Capability::CAP_CHOWN,
    Capability::CAP_DAC_OVERRIDE,
    Capability::CAP_DAC_READ_SEARCH,
    Capability::CAP_FOWNER,
    Capability::CAP_FSETID,
    Capability::CAP_MKNOD,
    Capability::CAP_SETFCAP,
    // Maps of user namespaces, for the owners that containers in them see.
    Capability::CAP_SETUID,
    Capability::CAP_SETGID,
    // Overlay's trusted.* attributes, and mounts.
    Capability::CAP_SYS_ADMIN,
    // More open files than the limit of the unit allows.
    Capability::CAP_SYS_RESOURCE,
];

/// Without these nothing can be served.
const NEEDED: [Capability; 4] =
    [Capability::CAP_CHOWN, Capability::CAP_DAC_OVERRIDE, Capability::CAP_FOWNER, Capability::CAP_SYS_ADMIN];

/// Whether this thread has the capabilities without which nothing can be served.
///
/// # Errors
/// It lacks some, which are named; or the kernel does not tell.
pub fn require() -> Result<()> {
    let failed = |e: CapsError| Error::Unavailable { what: format!("read capabilities: {e}") };
    let permitted = caps::read(None, CapSet::Permitted).map_err(failed)?;
    let lacked = NEEDED.iter().filter(|needed| !permitted.contains(needed));
    let lacked: Vec<String> = lacked.map(ToString::to_string).collect();
    match lacked.is_empty() {
        true => Ok(()),
        false => Err(Error::Unavailable { what: format!("start: not root, lacks {}", lacked.join(", ")) }),
    }
}

/// Drops all but [`KEPT`] from this thread's every set, the bounding and ambient ones too, and returns what is
/// left. Call it before any thread is started: threads inherit it.
///
/// # Errors
/// If the kernel refuses.
pub fn drop_all_but_needed() -> Result<Vec<String>> {
    let failed = |e: CapsError| Error::Unavailable { what: format!("drop capabilities: {e}") };
    let permitted = caps::read(None, CapSet::Permitted).map_err(failed)?;
    let kept: CapsHashSet = KEPT.into_iter().filter(|c| permitted.contains(c)).collect();
    caps::clear(None, CapSet::Ambient).map_err(failed)?;
    // The bounding set may be lowered only while SETPCAP is still there.
    if permitted.contains(&Capability::CAP_SETPCAP) {
        for capability in caps::read(None, CapSet::Bounding).map_err(failed)? {
            if !kept.contains(&capability) {
                caps::drop(None, CapSet::Bounding, capability).map_err(failed)?;
            }
        }
    }
    caps::set(None, CapSet::Inheritable, &CapsHashSet::new()).map_err(failed)?;
    caps::set(None, CapSet::Effective, &kept).map_err(failed)?;
    caps::set(None, CapSet::Permitted, &kept).map_err(failed)?;
    let mut names: Vec<String> = kept.iter().map(ToString::to_string).collect();
    names.sort_unstable();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lacked_is_named() {
        let why = std::thread::spawn(|| {
            for set in [CapSet::Effective, CapSet::Permitted] {
                caps::set(None, set, &CapsHashSet::new()).unwrap();
            }
            require().unwrap_err().to_string()
        });
        let all = "CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_FOWNER, CAP_SYS_ADMIN";
        assert!(why.join().unwrap().ends_with(&format!("start: not root, lacks {all}")));
    }

    #[test]
    fn nothing_but_what_is_kept_is_left() {
        // Capabilities belong to a thread: this one goes away with them.
        let left = std::thread::spawn(|| {
            let names = drop_all_but_needed().unwrap();
            let read = |set| caps::read(None, set).unwrap();
            assert_eq!(read(CapSet::Effective), read(CapSet::Permitted));
            assert!(read(CapSet::Permitted).iter().all(|c| KEPT.contains(c)));
            assert!(read(CapSet::Inheritable).is_empty() && read(CapSet::Ambient).is_empty());
            assert!(read(CapSet::Bounding).iter().all(|c| KEPT.contains(c)) || names.is_empty());
            (names, read(CapSet::Permitted).len())
        });
        let (names, count) = left.join().unwrap();
        assert_eq!(names.len(), count);
    }
}
