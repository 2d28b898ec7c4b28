//! Lower layers as options of an overlay mount.

use std::path::{Path, PathBuf};

use super::MountError;

/// The lower layers of an overlay mount.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lower {
    /// Those that are seen, the uppermost first.
    pub layers: Vec<PathBuf>,
    /// Those that only give contents to files of the former, the first asked first.
    pub data_only: Vec<PathBuf>,
    /// Where the last of `layers` is mounted together with `data_only`: for who reads layers as directories.
    pub merged: Option<PathBuf>,
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

    /// The same without data-only layers, where they are mounted as [`Lower::merged`].
    #[must_use]
    pub fn as_directories(&self) -> Self {
        let mut lower = self.clone();
        if let (Some(merged), Some(last)) = (lower.merged.take(), lower.layers.last_mut()) {
            *last = merged;
            lower.data_only.clear();
        }
        lower
    }

    /// The options of a container's mount by way of containerd, each one of a list: with `directly` on data-only layers
    /// where there are any, else on [`Lower::as_directories`].
    ///
    /// containerd reads `lowerdir` itself: it takes the value apart at each colon, looks into the directories for users, and
    /// puts `upperdir` before it for a mount to be read only, from which it drops `workdir`. None of that may see data-only
    /// layers, or miss the others. So `lowerdir` is for containerd, and the same option once more, which is the
    /// one that counts for the kernel, stands behind a comma in the option `workdir`.
    ///
    /// # Errors
    /// As [`Lower::option`].
    pub fn container(&self, upper: &Path, work: &Path, directly: bool) -> Result<Vec<String>, MountError> {
        let directories = self.as_directories();
        let mut options =
            vec![format!("upperdir={}", plain(upper)?), format!("lowerdir={}", directories.option()?)];
        let mut work = format!("workdir={}", plain(work)?);
        if directly && directories != *self {
            work.push_str(",lowerdir=");
            work.push_str(&self.option()?);
        }
        options.push(work);
        Ok(options)
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

    fn paths(names: &[&str]) -> Vec<PathBuf> {
        names.iter().map(PathBuf::from).collect()
    }

    #[test]
    fn layers_become_one_option() {
        let lower =
            Lower { layers: paths(&["/a", "/b"]), data_only: paths(&["/c", "/d"]), ..Lower::default() };
        assert_eq!(lower.option().unwrap(), "/a:/b::/c::/d");
        let bad = Lower { layers: paths(&["/a:b"]), ..Lower::default() };
        assert_eq!(
            bad.option().unwrap_err().to_string(),
            "mount image: /a:b: ':' cannot stand in mount options"
        );
    }

    #[test]
    fn containerd_sees_directories_and_the_kernel_all_layers() {
        let (layers, data_only) = (paths(&["/a", "/b"]), paths(&["/c", "/d"]));
        let lower = Lower { layers, data_only, merged: Some("/m".into()) };
        let container =
            |lower: &Lower, directly| lower.container(Path::new("/u"), Path::new("/w"), directly).unwrap();
        let directories = ["upperdir=/u", "lowerdir=/a:/m", "workdir=/w"];
        assert_eq!(container(&lower, false), directories);
        assert_eq!(
            container(&lower, true),
            ["upperdir=/u", "lowerdir=/a:/m", "workdir=/w,lowerdir=/a:/b::/c::/d"]
        );
        assert_eq!(container(&lower.as_directories(), true), directories);
    }
}
