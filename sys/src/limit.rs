//! What a process may take of the system.

use std::io;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Lets this process, and those that it starts, open `most` files, or as many as it may: the limit is never lowered.
///
/// # Errors
/// Those of `setrlimit`.
pub fn raise_file_limit(most: u64) -> io::Result<()> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(setrlimit(Resource::RLIMIT_NOFILE, hard.min(most).max(soft), hard)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_raised_and_never_lowered() {
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        raise_file_limit(0).unwrap();
        assert_eq!(getrlimit(Resource::RLIMIT_NOFILE).unwrap(), (soft, hard));
        raise_file_limit(u64::MAX).unwrap();
        assert_eq!(getrlimit(Resource::RLIMIT_NOFILE).unwrap(), (hard, hard));
    }
}
