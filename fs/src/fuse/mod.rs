//! File systems in user space: the whole tree ([`TreeFs`]), or the objects that a tree refers to ([`ObjectFs`]), served on
//! `/dev/fuse` by several threads ([`Session`]). The tree is served to virtual machines, too, by whoever speaks with them.
//!
//! Requests are decoded by fuse-backend-rs but for two that it cannot answer: the reply to INIT, which asks for
//! passthrough, and OPEN on such a mount, whose reply names a file that the kernel reads without us.

mod backing;
mod files;
mod objects;
mod session;
mod tree;

use std::io;
use std::time::Duration;

pub(crate) use objects::ObjectFs;
pub(crate) use session::Session;
pub use tree::TreeFs;

/// Nothing that we serve ever changes: as long as the kernel can count.
const FOR_EVER: Duration = Duration::from_secs(86_400 * 365);

/// An error by its number, which is all that the kernel gets.
fn errno(number: i32) -> io::Error {
    io::Error::from_raw_os_error(number)
}
