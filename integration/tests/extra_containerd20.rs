//! Beside the tiers, because building it takes minutes: containerd 2.0, built by `hack/containerd.sh`, as root.

use d4c_integration::containerd::Version;

const VERSION: Version = Version::Twenty;

#[path = "containerd/mod.rs"]
mod containerd;
