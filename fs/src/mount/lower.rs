//! Lower layers as an option of an overlay mount.

use std::path::{Path, PathBuf};

use super::MountError;

/// The lower layers of an overlay mount.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lower {
    /// Those that are seen, the uppermost first.
    pub layers: Vec<PathBuf>,
    /// Those that only give contents to files of the former, the first asked first.
    pub data_only: Vec<PathBuf>,
}

impl Lower {
    /// The value of the option `lowerdir`.
    ///
    /// # Errors
    /// A path has a character that the option gives a meaning of its own.
    pub fn option(&self) -> Result<String, MountError> {
        let mut option = String::new();
        for (number, path) in self.layers.iter().enumerate() {
            option.push_str(if number == 0 { "" } else { ":" });
            option.push_str(plain(path)?);
        }
        for path in &self.data_only {
            option.push_str("::");
            option.push_str(plain(path)?);
        }
        Ok(option)
    }
}

fn plain(path: &Path) -> Result<&str, MountError> {
    let refused = |character| MountError::Path { path: path.to_owned(), character };
    let text = path.to_str().ok_or_else(|| refused('\u{fffd}'))?;
    match text.chars().find(|c| matches!(c, ':' | ',' | '\\' | '"') || c.is_control()) {
        Some(character) => Err(refused(character)),
        None => Ok(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_become_one_option() {
        let paths = |names: &[&str]| names.iter().map(PathBuf::from).collect::<Vec<_>>();
        let lower = Lower { layers: paths(&["/a", "/b"]), data_only: paths(&["/c", "/d"]) };
        assert_eq!(lower.option().unwrap(), "/a:/b::/c::/d");
        let bad = Lower { layers: paths(&["/a:b"]), ..Lower::default() };
        assert_eq!(
            bad.option().unwrap_err().to_string(),
            "mount image: /a:b: ':' cannot stand in mount options"
        );
    }
}
