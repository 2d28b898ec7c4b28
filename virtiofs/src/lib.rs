//! File systems for virtual machines: virtio-fs over vhost-user.
//!
//! - [`Socket`]: where a machine's monitor (QEMU, Cloud Hypervisor) connects.
//! - [`serve`]: one monitor's device, until it goes away: requests of the guest, answered by any file system that
//!   fuse-backend-rs can serve; [`di3fs::mount::TreeFs`] is one.
//! - [`share`]: a directory of the host, read and written.
//! - [`confine`]: what the process gives up before it hears of a guest.
//!
//! The guest is not trusted. What its queues hold is read by virtio-queue and fuse-backend-rs, which compare every descriptor
//! with the guest's memory; a request that makes no sense is logged and given back without an answer.

#![forbid(unsafe_code)]

mod confine;
mod device;
mod error;
mod share;
mod socket;
mod work;

pub use confine::{Confinement, confine, raise_file_limit};
pub use device::{Options, serve};
pub use error::VirtioError;
pub use share::{Cache, ShareOptions, share};
pub use socket::{Place, Socket};
