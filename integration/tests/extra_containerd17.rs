//! Beside the tiers, because building it takes minutes: containerd 1.7, built by `hack/containerd.sh`, as root.

use d4c_integration::containerd::Version;

const VERSION: Version = Version::Seventeen;

#[path = "containerd/mod.rs"]
mod containerd;
