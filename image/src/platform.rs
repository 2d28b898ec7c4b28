//! Platforms (`os/arch[/variant]`), and the choice of one manifest from an index.

use std::fmt;
use std::str::FromStr;

use crate::error::SourceError;

/// An operating system, a processor architecture, and a variant of it, in the words of Go (`linux/arm64/v8`).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Platform {
    /// Operating system, e.g. `linux`.
    pub os: String,
    /// Architecture, e.g. `amd64`.
    pub architecture: String,
    /// Variant, e.g. `v7`; none means the architecture's usual one.
    pub variant: Option<String>,
}

impl Platform {
    /// The platform of this machine.
    pub fn host() -> Self {
        let (architecture, variant) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", None),
            "aarch64" => ("arm64", None),
            "x86" => ("386", None),
            "arm" => ("arm", Some("v7")),
            "powerpc64" if cfg!(target_endian = "little") => ("ppc64le", None),
            "powerpc64" => ("ppc64", None),
            "loongarch64" => ("loong64", None),
            other => (other, None),
        };
        Self {
            os: std::env::consts::OS.to_owned(),
            architecture: architecture.to_owned(),
            variant: variant.map(str::to_owned),
        }
    }

    /// How well an image made for `offered` fits a machine of this platform: larger is better, `None` not at
    /// all.
    ///
    /// Variants count upwards (`v5`, `v6`, `v7`): a machine runs its own and all lower ones, and the highest
    /// it can run fits best.
    pub fn fitness(&self, offered: &Self) -> Option<u32> {
        if self.os != offered.os || self.architecture != offered.architecture {
            return None;
        }
        match (self.level(), offered.level()) {
            (Some(own), Some(theirs)) => (theirs <= own).then_some(theirs),
            _ => (self.variant == offered.variant).then_some(0),
        }
    }

    /// The variant as a number; `None` for a variant that is not `v` and a number.
    fn level(&self) -> Option<u32> {
        match &self.variant {
            Some(variant) => variant.strip_prefix('v')?.parse().ok(),
            None => Some(match self.architecture.as_str() {
                "arm64" => 8,
                "arm" => 7,
                _ => 1,
            }),
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.as_ref().map_or(Ok(()), |variant| write!(f, "/{variant}"))
    }
}

impl FromStr for Platform {
    type Err = SourceError;

    fn from_str(text: &str) -> Result<Self, SourceError> {
        let parts: Vec<_> = text.split('/').collect();
        let (os, architecture, variant) = match parts[..] {
            [os, architecture] => (os, architecture, None),
            [os, architecture, variant] => (os, architecture, Some(variant)),
            _ => return Err(SourceError::usage(text, "a platform is os/arch or os/arch/variant")),
        };
        if parts.iter().any(|part| part.is_empty()) {
            return Err(SourceError::usage(text, "a platform has no empty parts"));
        }
        let architecture = match architecture {
            "x86_64" | "x86-64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        Ok(Self { os: os.into(), architecture: architecture.into(), variant: variant.map(str::to_owned) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(text: &str) -> Platform {
        text.parse().unwrap()
    }

    #[test]
    fn parses_and_prints() {
        for text in ["linux/amd64", "linux/arm/v7"] {
            assert_eq!(platform(text).to_string(), text);
        }
        assert_eq!(platform("linux/aarch64").to_string(), "linux/arm64");
        for text in ["", "linux", "linux/", "/amd64", "a/b/c/d", "linux/arm/"] {
            assert_eq!(text.parse::<Platform>().unwrap_err().class().exit_code(), 2, "{text}");
        }
    }

    #[test]
    fn a_machine_runs_its_variant_and_lower_ones() {
        let fits = |machine, image| platform(machine).fitness(&platform(image));
        assert_eq!(fits("linux/amd64", "linux/amd64"), Some(1));
        assert_eq!(fits("linux/amd64", "linux/amd64/v3"), None);
        assert_eq!(fits("linux/amd64/v3", "linux/amd64"), Some(1));
        assert_eq!(fits("linux/amd64/v3", "linux/amd64/v2"), Some(2));
        assert_eq!(fits("linux/arm64", "linux/arm64/v8"), Some(8));
        assert!(fits("linux/arm/v7", "linux/arm/v7") > fits("linux/arm/v7", "linux/arm/v6"));
        assert_eq!(fits("linux/arm/v6", "linux/arm/v7"), None);
        assert_eq!(fits("linux/amd64", "linux/arm64"), None);
        assert_eq!(fits("linux/amd64", "windows/amd64"), None);
        assert_eq!(fits("linux/mips64le/hardfloat", "linux/mips64le/hardfloat"), Some(0));
        assert_eq!(fits("linux/mips64le/hardfloat", "linux/mips64le"), None);
    }
}
