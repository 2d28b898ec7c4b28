//! Whole files: a dimg or cdimg as it is, or the sections of a dimg (`parts::dimg_of_sections`).
//!
//! All that d4c does with a file: open, list, print, resolve against a parent, make the contents.

#![no_main]

use d4c_fuzz::Bounded;
use d4c_fuzz::images::Image;
use d4c_fuzz::parts::dimg_of_sections;
use dimg::format::{DeltaFile, Dimg, DimgError, Recipe, Stage, Stat, dump};
use dimg::index::{Content, LayerIndex};
use libfuzzer_sys::fuzz_target;
use std::sync::{Arc, LazyLock};

/// Contents that say to be longer are not made: they are bounded by the disk alone.
const MAX_BYTES: u64 = 4 << 20;
/// Contents that are made of one file.
const MAX_MADE: usize = 32;

static PARENT: LazyLock<(Image, Vec<Arc<LayerIndex>>)> = LazyLock::new(|| {
    let image = Image::old();
    let indexes = image.indexes();
    (image, indexes)
});

fuzz_target!(|input: &[u8]| {
    let bytes = if input.first() == Some(&0x89) { input.to_vec() } else { dimg_of_sections(input) };
    let length = bytes.len() as u64;
    let Ok(file) = DeltaFile::open(bytes.into()) else { return };
    let dimg = file.dimg();
    let _ = dump(&file, &mut Bounded { left: 64 << 20 });
    let _ = Stat::of(&file, length);
    let _ = make_all(dimg);
});

/// Resolves the file, and makes its contents whether or not the ids of the layers are right, which a fuzzer cannot see to.
fn make_all(dimg: &Dimg) -> Result<(), DimgError> {
    let (image, parent) = &*PARENT;
    if let Ok(made) = dimg.resolve(dimg.parent().map(|_| parent.as_slice())) {
        made.recipes.values().take(MAX_MADE).for_each(|recipe| make(dimg, recipe, image));
    }
    let frames = dimg.frames()?;
    for (content, row) in dimg.contents()?.take(MAX_MADE) {
        let entry =
            row.base.and_then(|base| parent.get(base.layer as usize)?.entries.get(base.entry as usize));
        let base: Option<Content> = entry.and_then(|entry| entry.content);
        let stages = row.stages.iter().filter_map(|stage| {
            Some(Stage {
                codec: stage.codec,
                version: stage.codec.version(),
                kind: frames.get(stage.frame as usize)?.kind,
                frame: stage.frame,
                slot: stage.slot,
                out_bytes: stage.out_bytes,
            })
        });
        let recipe = Recipe { content, base, stages: stages.collect() };
        make(dimg, &recipe, image);
    }
    Ok(())
}

fn make(dimg: &Dimg, recipe: &Recipe, image: &Image) {
    if recipe.stages.iter().any(|stage| stage.out_bytes > MAX_BYTES) {
        return;
    }
    let base = recipe.base.and_then(|base| image.content(&base));
    let mut out = Bounded { left: recipe.content.size };
    let made = dimg.make(recipe, base, &mut out, &tempfile::tempfile);
    assert!(made.is_err() || out.left == 0, "it was made but has another length");
}
