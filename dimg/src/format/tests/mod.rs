//! Whole files: written, read, dumped, damaged.

mod damage;
mod golden;
mod sample;

use super::*;
use crate::Digest;
use crate::content::Bytes;
use crate::engine::compress::Level;
use crate::engine::frame::ProgramFrame;
use crate::engine::matcher::{MatchOptions, diff};
use crate::engine::program::Program;
use crate::index::edit::testing::{content_bytes, series};
use proptest::prelude::*;
use sample::{Sample, original};
use std::collections::HashMap;

pub(super) fn scratch() -> std::io::Result<std::fs::File> {
    tempfile::tempfile()
}

/// Resolves the file and makes every content that it can make.
pub(super) fn make_all(dimg: &Dimg, sample: &Sample) -> Result<Image, DimgError> {
    let known: HashMap<_, _> = (0..=255).map(|n| (Digest::of(&content_bytes(n)), content_bytes(n))).collect();
    let image = dimg.resolve(Some(&sample.parent))?;
    for recipe in image.recipes.values() {
        let base = recipe.base.and_then(|base| known.get(&base.digest));
        let mut out = Vec::new();
        dimg.make(recipe, base.map(Vec::as_slice), &mut out, &scratch)?;
        assert_eq!(Digest::of(&out), recipe.content.digest);
    }
    Ok(image)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn files_come_back(images in series(2)) {
        let sample = Sample { parent: images[0].clone(), target: images[1].clone() };
        let bytes = sample.dimg();
        prop_assert_eq!(&bytes, &sample.dimg());
        let dimg = Dimg::open(Bytes::from(bytes)).unwrap();
        let image = make_all(&dimg, &sample).unwrap();
        prop_assert_eq!(&image.layers, &sample.target);
        let file = DeltaFile::Dimg(dimg);
        let stat = Stat::of(&file, 0).unwrap();
        prop_assert_eq!(stat.contents.new + stat.contents.patched, image.recipes.len() as u64);
        let mut text = Vec::new();
        dump(&file, &mut text).unwrap();
        prop_assert!(text.is_ascii());
    }
}

#[test]
fn a_base_image_needs_no_parent() {
    let sample = Sample { parent: Vec::new(), ..original() };
    let dimg = Dimg::open(Bytes::from(sample.dimg())).unwrap();
    assert!(dimg.parent().is_none());
    assert_eq!(dimg.resolve(None).unwrap().layers, sample.target);
}

#[test]
fn the_wrong_parent_is_refused() {
    let sample = original();
    let dimg = Dimg::open(Bytes::from(sample.dimg())).unwrap();
    let class = |error: DimgError| error.class();
    assert_eq!(class(dimg.resolve(None).unwrap_err()), Class::NotFound);
    assert_eq!(class(dimg.resolve(Some(&[])).unwrap_err()), Class::Corrupt);
    assert!(dimg.resolve(Some(&sample.target)).is_err());
    dimg.check_parent(&sample.meta().parent.unwrap().layers).unwrap();
    assert!(matches!(dimg.check_parent(&[Digest::of(b"x")]), Err(DimgError::ParentMismatch { .. })));
    assert!(matches!(dimg.check_parent(&[]), Err(DimgError::ParentMismatch { .. })));
}

#[test]
fn contents_of_the_wrong_base_are_refused() {
    let sample = original();
    let dimg = Dimg::open(Bytes::from(sample.dimg())).unwrap();
    let image = dimg.resolve(Some(&sample.parent)).unwrap();
    let patched = image.recipes.values().find(|recipe| recipe.base.is_some()).unwrap();
    let size = usize::try_from(patched.base.unwrap().size).unwrap();
    let make = |base: Option<&[u8]>| dimg.make(patched, base, &mut Vec::new(), &scratch).unwrap_err();
    assert!(matches!(make(None), DimgError::Make { .. }));
    assert!(matches!(make(Some(&vec![0; size + 1])), DimgError::Make { .. }));
    assert!(matches!(make(Some(&vec![0; size])), DimgError::WrongContent { .. }));
}

#[test]
fn a_frame_of_one_program_has_one() {
    let (sample, options) = (original(), MatchOptions::default());
    let edit = sample.edit();
    let program = diff(&content_bytes(100), &content_bytes(101), &options);
    let made = |programs: &[&Program]| {
        let (mut writer, mut recipes) = sample.frames(&edit);
        let frame = ProgramFrame::encode(programs, Level::Fast).unwrap();
        recipes[0].stages[0].frame = writer.frame(FrameKind::Program, &frame).unwrap();
        let mut bytes = Vec::new();
        let assembled = writer.finish(&sample.meta(), &edit, &recipes, Level::Fast);
        assembled.unwrap().write_to(&mut bytes).unwrap();
        make_all(&Dimg::open(Bytes::from(bytes)).unwrap(), &sample).map_err(|error| error.to_string())
    };
    made(&[&program]).unwrap();
    let error = made(&[&program, &program]).unwrap_err();
    assert!(error.contains("it holds 2 programs, not one"), "{error}");
}

#[test]
fn what_does_not_fit_is_not_written() {
    let sample = original();
    let (edit, meta) = (sample.edit(), sample.meta());
    let refused = |change: &dyn Fn(&mut Meta, &mut Vec<RecipeRow>)| {
        let (writer, mut recipes) = sample.frames(&edit);
        let mut meta = meta.clone();
        change(&mut meta, &mut recipes);
        let error = writer.finish(&meta, &edit, &recipes, Level::Fast).unwrap_err();
        assert!(matches!(error, DimgError::Refused(_)), "{error}");
    };
    refused(&|meta, _| meta.target.layers.truncate(1));
    refused(&|meta, _| meta.target.layers[1].entries += 1);
    refused(&|meta, _| meta.parent = None);
    refused(&|meta, _| meta.target.name = "n".repeat(5000));
    refused(&|_, recipes| recipes.truncate(1));
    refused(&|_, recipes| recipes[0].stages.clear());
    refused(&|_, recipes| recipes[0].stages[0].out_bytes += 1);
    refused(&|_, recipes| recipes[0].stages[0].frame += 99);
    refused(&|_, recipes| recipes[1] = recipes[0].clone());
}

#[test]
fn a_file_appears_whole_or_not_at_all() {
    use std::io::Write;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("out.dimg");
    let names =
        || std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>();
    let mut output = OutputFile::create(&path).unwrap();
    output.write_all(b"half").unwrap();
    assert!(!path.exists());
    drop(output);
    assert!(names().is_empty());
    let mut output = OutputFile::create(&path).unwrap();
    output.write_all(b"whole").unwrap();
    output.commit().unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"whole");
    assert_eq!(names(), ["out.dimg"]);
    assert_eq!(OutputFile::create(&dir.path().join("none/out")).unwrap_err().class(), Class::NotFound);
    assert!(OutputFile::create(dir.path()).is_err());
    // Whoever writes frames passes on why they could not be written.
    let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
    assert_eq!(DimgError::from(crate::engine::EngineError::Output(full)).class(), Class::NoSpace);
    assert!(DimgWriter::new(&dir.path().join("none")).is_err());
}
