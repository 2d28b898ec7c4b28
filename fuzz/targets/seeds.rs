//! Writes the seeds of every target to folders of their names: `seeds FOLDER`. Real files, made by the library and by the machine's tars.
//!
//! It is linked as a target is, because the instrumentation of the crates needs libFuzzer's run time, but it ends before anything is run.

#![no_main]

use d4c_fuzz::images::{Image, text};
use d4c_fuzz::parts::{dimg_of_sections, input_of_sections, sections, short};
use d4c_fuzz::tars;
use dimg::build::Codec;
use dimg::engine::bsdiff;
use dimg::engine::compress::Level;
use dimg::engine::frame::{BsdiffFrame, ProgramFrame, StoredFrame};
use dimg::engine::matcher::{MatchOptions, diff};
use dimg::format::{Dimg, LayerSource};
use dimg::index::encode_layers;
use libfuzzer_sys::fuzz_target;
use std::path::{Path, PathBuf};
use std::{env, fs, io, process};

fuzz_target!(init: end(), |_input: &[u8]| {});

/// Writes the seeds and ends the program.
fn end() {
    process::exit(run());
}

/// The exit status.
fn run() -> i32 {
    let Some(dir) = env::args_os().nth(1) else {
        eprintln!("seeds: no folder given");
        return 2;
    };
    match write_all(Path::new(&dir)) {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("seeds: {error}");
            1
        }
    }
}

struct Target(PathBuf);

impl Target {
    fn new(dir: &Path, name: &str) -> io::Result<Self> {
        let dir = dir.join(name);
        fs::create_dir_all(&dir)?;
        Ok(Self(dir))
    }

    fn seed(&self, name: &str, parts: &[&[u8]]) -> io::Result<()> {
        fs::write(self.0.join(name), parts.concat())
    }
}

fn write_all(dir: &Path) -> io::Result<()> {
    let (old, new) = (Image::old(), Image::new_one());
    let [index, dimg, program, tar] = ["index", "dimg", "program", "tar"].map(|name| Target::new(dir, name));
    let (index, dimg, program, tar) = (index?, dimg?, program?, tar?);
    for (name, image) in [("old", &old), ("new", &new)] {
        let layers = encode_layers(&image.indexes()).map_err(io::Error::other)?;
        index.seed(name, &[&[0], &layers])?;
    }
    let codecs =
        [("auto", Codec::Auto), ("plain", Codec::Plain), ("bsdiff", Codec::Bsdiff), ("store", Codec::Store)];
    for (name, codec) in codecs {
        for (kind, parent) in [("base", None), ("delta", Some(&old))] {
            let (file, whole) = new.delta(parent, codec);
            dimg.seed(&format!("{kind}-{name}.dimg"), &[&file])?;
            dimg.seed(&format!("{kind}-{name}.cdimg"), &[&whole])?;
            let sections = sections(&file)?;
            let input = input_of_sections(parent.is_some(), &sections);
            // A seed that is refused at once would go unnoticed.
            let read = Dimg::open(dimg_of_sections(&input).into()).map_err(io::Error::other)?;
            read.resolve(parent.map(Image::indexes).as_deref()).map_err(io::Error::other)?;
            dimg.seed(&format!("{kind}-{name}.sections"), &[&input])?;
            index.seed(&format!("{kind}-{name}"), &[&claims(&file)?, &sections[1]])?;
        }
    }
    merges(&Target::new(dir, "merge")?, &old, &new)?;
    frames(&program)?;
    for (name, bytes) in tars::all()? {
        tar.seed(&name, &[&bytes])?;
    }
    Ok(())
}

/// Pairs of files that follow each other, as the target `merge` reads them: whole, and as sections.
fn merges(target: &Target, old: &Image, new: &Image) -> io::Result<()> {
    for (name, codec) in [("auto", Codec::Auto), ("bsdiff", Codec::Bsdiff), ("store", Codec::Store)] {
        let there = new.delta(Some(old), codec).0;
        let back = old.delta(Some(new), codec).0;
        let base = old.delta(None, codec).0;
        let parts = |file: &[u8], has_parent| io::Result::Ok(input_of_sections(has_parent, &sections(file)?));
        let pairs = [
            ("files", there.clone(), back.clone()),
            ("base", base.clone(), there.clone()),
            ("sections", parts(&there, true)?, parts(&back, true)?),
            ("base-sections", parts(&base, false)?, parts(&there, true)?),
            ("first", parts(&there, true)?, Vec::new()),
            ("second", Vec::new(), parts(&back, true)?),
        ];
        for (kind, first, second) in pairs {
            let length = u32::try_from(first.len()).map_err(io::Error::other)?.to_le_bytes();
            target.seed(&format!("{kind}-{name}"), &[&length[..3], &first, &second])?;
        }
    }
    Ok(())
}

/// The claims of a dimg's layers, as the target `index` reads them.
fn claims(file: &[u8]) -> io::Result<Vec<u8>> {
    let dimg = Dimg::open(file.to_vec().into()).map_err(io::Error::other)?;
    let layers = &dimg.target().layers;
    let mut out = vec![u8::try_from(layers.len()).map_err(io::Error::other)?];
    for layer in layers {
        out.extend_from_slice(&match layer.source {
            LayerSource::Parent(_) => [0xff; 2],
            LayerSource::Made { .. } => short(usize::try_from(layer.entries).map_err(io::Error::other)?),
        });
    }
    Ok(out)
}

/// Frames of all kinds that apply to what the target `program` has.
fn frames(target: &Target) -> io::Result<()> {
    let old = text(0, 1);
    let new: Vec<Vec<u8>> = (2..5).map(|version| text(version % 3, version)).collect();
    let programs: Vec<_> = new.iter().map(|new| diff(&old, new, &MatchOptions::default())).collect();
    for (level, name) in [(Level::Fast, "fast"), (Level::Best, "best")] {
        for (number, (new, program)) in new.iter().zip(&programs).enumerate() {
            let length = short(new.len());
            let frame = ProgramFrame::encode(&[program], level).map_err(io::Error::other)?;
            target.seed(&format!("program-{name}-{number}"), &[&[0, 0], &length, &frame])?;
            let frame = StoredFrame::encode(&[new], level).map_err(io::Error::other)?;
            target.seed(&format!("stored-{name}-{number}"), &[&[1, 0], &length, &frame])?;
            let patch = bsdiff::diff(&old, new).map_err(io::Error::other)?;
            let frame = BsdiffFrame::encode(&patch, level).map_err(io::Error::other)?;
            target.seed(&format!("bsdiff-{name}-{number}"), &[&[2, 0], &length, &frame])?;
        }
        let group: Vec<_> = programs.iter().collect();
        let frame = ProgramFrame::encode(&group, level).map_err(io::Error::other)?;
        for (slot, new) in (0u8..).zip(&new) {
            target.seed(&format!("group-{name}-{slot}"), &[&[0, slot], &short(new.len()), &frame])?;
        }
    }
    // Short inputs of raw streams are what a fuzzer changes best.
    for (name, old_kept) in [("tiny", 3), ("small", 40)] {
        let new = [&old[..old_kept], b"inserted", &old[60..70]].concat();
        let program = diff(&old, &new, &MatchOptions::default());
        let frame = ProgramFrame::encode(&[&program], Level::Fast).map_err(io::Error::other)?;
        target.seed(&format!("program-{name}"), &[&[0, 0], &short(new.len()), &frame])?;
        let patch = bsdiff::diff(&old, &new).map_err(io::Error::other)?;
        let frame = BsdiffFrame::encode(&patch, Level::Fast).map_err(io::Error::other)?;
        target.seed(&format!("bsdiff-{name}"), &[&[2, 0], &short(new.len()), &frame])?;
    }
    Ok(())
}
