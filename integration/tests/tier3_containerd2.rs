//! Tier 3: containerd 2.x, built by `hack/containerd.sh`, as root.

use d4c_integration::containerd::Version;

const VERSION: Version = Version::Two;

#[path = "containerd/mod.rs"]
mod containerd;
