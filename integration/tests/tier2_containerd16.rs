//! Tier 2: the distribution's containerd (1.6 on Debian 12), as root.

use d4c_integration::containerd::Version;

const VERSION: Version = Version::System;

#[path = "containerd/mod.rs"]
mod containerd;
