//! What the integration tests share: a sandbox that leaves nothing behind, the real programs started in it, image series, and comparisons.
//!
//! The tests are in `tests/`, one binary per tier of privilege, and run by `hack/tiers.sh`; `docs/testing.md` tells how. Nothing here knows the
//! crates under test: only their binaries, as a user has them.

pub mod behaviour;
pub mod bits;
pub mod containerd;
pub mod deltas;
pub mod faults;
pub mod guest;
pub mod images;
pub mod leftovers;
pub mod memory;
pub mod platforms;
pub mod program;
pub mod random;
pub mod registry;
pub mod sandbox;
pub mod serve;
pub mod snapshotter;
pub mod tree;

pub use program::{Output, d4c};
pub use sandbox::Sandbox;
