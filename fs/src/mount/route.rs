//! The ways to serve an image.

use std::fmt;
use std::str::FromStr;

/// How an image is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Route {
    /// An EROFS image of metadata, the objects on disk below it, and what makes missing ones below those. Once it is made a
    /// file is read as any other of an overlay mount. Linux 6.12.
    Erofs,
    /// The whole tree in user space, but for reading files, which the kernel does alone. Linux 6.9.
    FusePassthrough,
    /// The whole tree in user space.
    Fuse,
    /// Everything made in advance; nothing in user space.
    Overlay,
}

impl Route {
    /// All of them, in the order in which they are tried.
    pub const ALL: [Self; 4] = [Self::Erofs, Self::FusePassthrough, Self::Fuse, Self::Overlay];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Erofs => "erofs",
            Self::FusePassthrough => "fuse-passthrough",
            Self::Fuse => "fuse",
            Self::Overlay => "overlay",
        }
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A text that names no route.
#[derive(Debug, thiserror::Error)]
#[error("parse route: {0}: known are erofs, fuse-passthrough, fuse, overlay")]
pub struct ParseRouteError(String);

impl FromStr for Route {
    type Err = ParseRouteError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|route| route.name() == text);
        found.ok_or_else(|| ParseRouteError(text.to_owned()))
    }
}
