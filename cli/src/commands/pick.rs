//! What `d4c load` takes of many files, in a folder or a tar file: for each image that no other file goes on from, the cheapest way there
//! from what is on the node.

use std::fs::File;
use std::io::{Cursor, Read};
use std::path::{Path, PathBuf};

use dimg::Digest;
use dimg::content::Bytes;

use super::reach::{Named, Reach, Way};
use crate::failure::{Failure, Kind};

/// The cdimgs in a folder, by their names.
///
/// # Errors
/// The folder cannot be read.
pub(super) fn files(folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    let mut files = Vec::new();
    for entry in folder.read_dir().map_err(Failure::io("read folder", folder))? {
        let path = entry.map_err(Failure::io("read folder", folder))?.path();
        if is_cdimg(&path) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Whether it is called like a whole one: a name that starts with a dot is of a file that is being written.
fn is_cdimg(path: &Path) -> bool {
    let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
    !hidden && path.extension().is_some_and(|extension| extension == "cdimg")
}

const BLOCK: u64 = 512;
/// Where a tar header says that it is one.
const MAGIC_AT: usize = 257;
const MAGIC: &[u8] = b"ustar";

/// Whether the file at `path` is a tar file; no cdimg begins so.
pub(super) fn is_tar(path: &Path) -> bool {
    let mut start = [0; MAGIC_AT + MAGIC.len()];
    let read = File::open(path).and_then(|mut file| {
        // A pipe would be read empty.
        if file.metadata()?.is_file() { file.read_exact(&mut start).map(|()| true) } else { Ok(false) }
    });
    read.unwrap_or(false) && start.ends_with(MAGIC) && !start.starts_with(&dimg::format::CDIMG_MAGIC)
}

/// The cdimgs in the tar file `bytes` at `path`, by their names, which tell of both.
///
/// # Errors
/// It is damaged.
pub(super) fn members(path: &Path, bytes: &Bytes) -> Result<Vec<(PathBuf, Bytes)>, Failure> {
    let bad = |why: &str| Failure::new(Kind::Corrupt, "read archive", path.display(), why);
    let mut archive = tar::Archive::new(Cursor::new(bytes.clone()));
    let mut found = Vec::new();
    let mut end = 0u64;
    for entry in archive.entries_with_seek().map_err(|_| bad("cannot be read as a tar"))? {
        let entry = entry.map_err(|_| bad("not a tar header"))?;
        end = entry.raw_file_position().saturating_add(entry.size()).div_ceil(BLOCK).saturating_mul(BLOCK);
        let name = entry.path().map_err(|_| bad("a name that is none"))?.into_owned();
        if !entry.header().entry_type().is_file() || !is_cdimg(&name) {
            continue;
        }
        let range = || {
            let start = usize::try_from(entry.raw_file_position()).ok()?;
            bytes.slice(start..start.checked_add(usize::try_from(entry.size()).ok()?)?)
        };
        let part = range().ok_or_else(|| bad("it ends within a member"))?;
        found.push((format!("{}({})", path.display(), name.display()).into(), part));
    }
    // One that was cut between members reads like a whole one, but for the zeros at its end.
    let zeros = || bytes.slice(usize::try_from(end).ok()?..usize::try_from(end.checked_add(BLOCK)?).ok()?);
    if !zeros().is_some_and(|zeros| zeros.iter().all(|&byte| byte == 0)) {
        return Err(bad("its end is missing"));
    }
    found.sort_by(|one: &(PathBuf, Bytes), other| one.0.cmp(&other.0));
    Ok(found)
}

/// What to do with the files.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Picked {
    /// Those to be loaded, one after the other, by their numbers.
    pub(super) files: Vec<usize>,
    /// Files whose images are on the node.
    pub(super) there: Vec<usize>,
    /// Files to whose images none leads from what is on the node.
    pub(super) barred: Vec<usize>,
}

/// Picks from files that do these things. Where they go in circles, no image is the last: then nothing is picked.
pub(super) fn pick(ways: &[Way], present: &[Named]) -> Picked {
    let mut present = present.to_vec();
    let mut picked = Picked::default();
    let mut seen = Vec::new();
    for (number, way) in ways.iter().enumerate() {
        let end = way.target;
        // A file that changes nothing but the config starts from the same layers.
        let goes_on =
            |way: &Way| way.source.is_some_and(|source| source.chain == end.chain) && !way.is_within();
        if seen.contains(&end) || ways.iter().any(goes_on) {
            continue;
        }
        seen.push(end);
        let mut steps = match Reach::find(end, &present, ways.to_vec()).steps() {
            None => {
                picked.barred.push(number);
                continue;
            }
            Some(steps) => steps.to_vec(),
        };
        present.extend(steps.iter().map(|&step| ways[step].target));
        // What has its layers may be another image.
        let starts = |source: Named| present.iter().any(|image| image.chain == source.chain);
        if !present.contains(&end) && way.source.is_none_or(starts) {
            steps.push(number);
            present.push(end);
        }
        if steps.is_empty() {
            picked.there.push(number);
        }
        picked.files.extend(steps);
    }
    picked
}

/// A way that starts from an image that is neither there nor where another one goes, and that image's manifest.
pub(super) fn missing<'a>(ways: &'a [Way], present: &[Named]) -> Option<(&'a Way, Digest)> {
    ways.iter().find_map(|way| {
        let source = way.source?;
        let mut known = present.iter().chain(ways.iter().map(|other| &other.target));
        (!known.any(|image| image.chain == source.chain)).then_some((way, source.manifest))
    })
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
        // 2 is needed for 4 only; 9 is out of reach.
        assert_eq!(picked(&[1]), Picked { files: vec![2, 0, 4], there: vec![], barred: vec![5] });
        assert_eq!(picked(&[]), Picked { files: vec![3, 2, 0, 4], there: vec![], barred: vec![5] });
        let all = Picked { files: vec![5], there: vec![1, 4], barred: vec![] };
        assert_eq!(picked(&[3, 4, 8]), all);
        // Of 2 nothing but the config changes, twice.
        let same = |manifest| Named { manifest: Digest([manifest; 32]), ..image(2) };
        let within = |source, target| Way { source: Some(source), target, ..way(0, 0, 1) };
        let ways = [way(1, 2, 10), within(image(2), same(1)), within(same(1), same(2))];
        let picked = |present: &[Named]| pick(&ways, present);
        assert_eq!(picked(&[image(1)]), Picked { files: vec![0, 1, 2], ..Picked::default() });
        assert_eq!(picked(&[image(2)]), Picked { files: vec![1, 2], there: vec![0], barred: vec![] });
        assert_eq!(picked(&[same(1)]), Picked { files: vec![2], there: vec![0, 1], barred: vec![] });
        // A way back makes a circle, in which none is the last.
        let circle = [way(1, 2, 1), way(2, 1, 1)];
        assert_eq!(pick(&circle, &[image(1)]), Picked::default());
    }

    #[test]
    fn what_no_file_leads_to_is_missing() {
        let ways = [way(2, 3, 10), way(1, 2, 10)];
        let missing = |present: &[Named]| missing(&ways, present).map(|(way, base)| (way.file.clone(), base));
        assert_eq!(missing(&[image(4)]), Some((Some("1-2".into()), image(1).manifest)));
        assert_eq!(missing(&[image(1)]), None);
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

    #[test]
    fn cdimgs_are_found_in_a_tar_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("all.tar");
        let mut builder = tar::Builder::new(File::create(&path).unwrap());
        for (name, bytes) in [("b.cdimg", "bb"), ("in/a.cdimg", "a"), ("c.txt", "c"), (".d.cdimg", "d")] {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            builder.append_data(&mut header, name, bytes.as_bytes()).unwrap();
        }
        builder.into_inner().unwrap();
        assert!(is_tar(&path) && !is_tar(dir.path()) && !is_tar(&dir.path().join("none")));
        let bytes = std::fs::read(&path).unwrap();
        let found = members(&path, &Bytes::from(bytes.clone())).unwrap();
        let shown = |name: &str| PathBuf::from(format!("{}({name})", path.display()));
        let names: Vec<_> = found.iter().map(|(name, part)| (name.clone(), part.to_vec())).collect();
        assert_eq!(names, [(shown("b.cdimg"), b"bb".to_vec()), (shown("in/a.cdimg"), b"a".to_vec())]);
        for cut in [100, 600, 1024, 1100, 1536, bytes.len() - 1024] {
            let found = members(&path, &Bytes::from(bytes[..cut].to_vec()));
            assert!(found.is_err_and(|failure| failure.kind == Kind::Corrupt), "{cut}");
        }
    }
}
