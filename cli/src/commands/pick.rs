//! What `d4c load FOLDER` takes of many files: for each image that no other file goes on from, the cheapest way there from what is on the node.

use std::path::{Path, PathBuf};

use dimg::Digest;

use super::reach::{Named, Reach, Way};
use crate::failure::Failure;

/// The cdimgs in a folder, by their names.
///
/// # Errors
/// The folder cannot be read.
pub(super) fn files(folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    let mut files = Vec::new();
    for entry in folder.read_dir().map_err(Failure::io("read folder", folder))? {
        let path = entry.map_err(Failure::io("read folder", folder))?.path();
        // A name that starts with a dot is of a file that is being written.
        let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if !hidden && path.extension().is_some_and(|extension| extension == "cdimg") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// What to do with the files.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Picked {
    /// Those to be loaded, one after the other, by their numbers.
    pub(super) files: Vec<usize>,
    /// Images that the files lead to and that are on the node.
    pub(super) there: Vec<Digest>,
    /// Images that the files lead to, but not from what is on the node.
    pub(super) barred: Vec<Digest>,
}

/// Picks from files that do these things. Where they go in circles, no image is the last: then nothing is picked.
pub(super) fn pick(ways: &[Way], present: &[Named]) -> Picked {
    let mut present = present.to_vec();
    let mut picked = Picked::default();
    let mut seen = Vec::new();
    for end in ways.iter().map(|way| way.target) {
        let goes_on = |way: &Way| way.source.is_some_and(|source| source.chain == end.chain);
        if seen.contains(&end.chain) || ways.iter().any(goes_on) {
            continue;
        }
        seen.push(end.chain);
        match Reach::find(end, &present, ways.to_vec()).steps() {
            None => picked.barred.push(end.manifest),
            Some([]) => picked.there.push(end.manifest),
            Some(steps) => {
                picked.files.extend(steps);
                present.extend(steps.iter().map(|&step| ways[step].target));
            }
        }
    }
    picked
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(number: u8) -> Named {
        Named { chain: Digest([number; 32]), manifest: Digest([number + 100; 32]) }
    }

    fn way(source: u8, target: u8, fetch_bytes: u64) -> Way {
        Way {
            file: Some(format!("{source}-{target}")),
            source: (source > 0).then(|| image(source)),
            target: image(target),
            fetch_bytes,
            made_bytes: 10,
            apply_factor: 1,
        }
    }

    #[test]
    fn the_last_images_are_reached_by_the_cheapest_files() {
        let ways = [way(1, 2, 10), way(2, 3, 10), way(1, 3, 15), way(0, 1, 500), way(2, 4, 10), way(8, 9, 1)];
        let picked = |present: &[u8]| {
            let present: Vec<Named> = present.iter().map(|&number| image(number)).collect();
            pick(&ways, &present)
        };
        let manifest = |number| image(number).manifest;
        // 2 is needed for 4 only; 9 is out of reach.
        assert_eq!(picked(&[1]), Picked { files: vec![2, 0, 4], there: vec![], barred: vec![manifest(9)] });
        assert_eq!(picked(&[]), Picked { files: vec![3, 2, 0, 4], there: vec![], barred: vec![manifest(9)] });
        let all = Picked { files: vec![5], there: vec![manifest(3), manifest(4)], barred: vec![] };
        assert_eq!(picked(&[3, 4, 8]), all);
        // A way back makes a circle, in which none is the last.
        let circle = [way(1, 2, 1), way(2, 1, 1)];
        assert_eq!(pick(&circle, &[image(1)]), Picked::default());
    }

    #[test]
    fn only_whole_cdimgs_of_a_folder_count() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["b.cdimg", "a.cdimg", ".c.cdimg", "d.dimg", "e"] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        let names = ["a.cdimg", "b.cdimg"].map(|name| dir.path().join(name));
        assert_eq!(files(dir.path()).unwrap(), names);
        assert!(files(&dir.path().join("none")).is_err());
    }
}
