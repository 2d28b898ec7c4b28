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
use dimg::engine::elf::sample::{Sample, archive};
use dimg::engine::elf::sample32::Sample32;
use dimg::engine::elf::{derive, look};
use dimg::engine::frame::{
    BsdiffFrame, ParameterFrame, ProgramFrame, ReferenceFrame, RelocationFrame, StoredFrame,
};
use dimg::engine::matcher::{MatchOptions, diff};
use dimg::engine::member::wasm_sample::Sample as Module;
use dimg::engine::member::{MAX_OPENED_BYTES, Plan, bitcode_sample, deflated, find_parameters, places};
use dimg::format::{Dimg, LayerSource};
use dimg::index::encode_layers;
use libfuzzer_sys::fuzz_target;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
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
            let edit = read.edit().and_then(|edit| Ok(edit.to_bytes()?)).map_err(io::Error::other)?;
            index.seed(&format!("{kind}-{name}"), &[&claims(&file)?, &edit])?;
        }
    }
    merges(&Target::new(dir, "merge")?, &old, &new)?;
    frames(&program)?;
    executables(&Target::new(dir, "elf")?)?;
    members(&Target::new(dir, "pack")?, dir)?;
    modules(&Target::new(dir, "bitcode")?, dir)?;
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

/// Libraries of the machine that fit into an input; which of them there are differs.
const LIBRARIES: [&str; 4] = ["libBrokenLocale.so.1", "libdl.so.2", "libutil.so.1", "libpthread.so.0"];

/// WebAssembly modules with so many functions, with some more, and with numbers that are longer than need be.
fn wasm(functions: u32) -> [Vec<u8>; 3] {
    let module = |more, padded| Module { functions, more, padded }.build();
    [module(0, false), module(3, false), module(3, true)]
}

fn opened(content: &[u8]) -> io::Result<Vec<u8>> {
    let mut form = Vec::new();
    Plan::open(content, MAX_OPENED_BYTES, &mut form).map_err(io::Error::other)?;
    Ok(form)
}

/// Executables, an archive of classes, WebAssembly, and maps to relocate them by, as the target `elf` reads them.
fn executables(target: &Target) -> io::Result<()> {
    let mut last = Vec::new();
    let [module, longer, _] = wasm(60);
    for bits in 0u8..14 {
        let (arm, fixed, sections) = (bits & 1 != 0, bits & 2 != 0, bits & 4 != 0);
        let sample = Sample { arm, fixed, sections, functions: 40, ..Sample::default() };
        let small = Sample32 { fixed, sections: arm, functions: 40, ..Sample32::default() };
        let (old, new) = match bits {
            8 => (archive(120, usize::MAX), archive(120, 7)),
            9 => (opened(&module)?, opened(&longer)?),
            10.. => (small.build(), Sample32 { longer: 7, ..small }.build()),
            _ => (sample.build(), Sample { longer: 7, ..sample }.build()),
        };
        let options = MatchOptions::default();
        let seen = look(&old, &new, &options).map_err(io::Error::other)?;
        let relocated =
            derive(&old, &new, &seen, 2, &options, &tempfile::tempfile).map_err(io::Error::other)?;
        let relocated = relocated.ok_or_else(|| io::Error::other("nothing moved"))?;
        let maps = [&relocated.map, &relocated.map];
        for count in 1..3 {
            last = RelocationFrame::encode(&maps[..count], Level::Fast).map_err(io::Error::other)?;
            let flags = u8::try_from(count - 1).map_err(io::Error::other)?;
            target.seed(&format!("{bits}-{count}"), &[&[flags], &short(last.len()), &last, &old])?;
        }
    }
    for name in LIBRARIES {
        for dir in ["x86_64-linux-gnu", "aarch64-linux-gnu"] {
            let Ok(library) = fs::read(Path::new("/lib").join(dir).join(name)) else { continue };
            if library.len() < 60_000 {
                target.seed(&format!("{name}-{dir}"), &[&[0], &short(last.len()), &last, &library])?;
            }
        }
    }
    Ok(())
}

/// Contents made by the machine's gzip, xz, zip, python and compiler, their opened forms and parameters, as the target `pack` reads them.
fn members(target: &Target, dir: &Path) -> io::Result<()> {
    let texts = [text(0, 1), text(1, 4), Vec::new()];
    let work = dir.join("members");
    fs::create_dir_all(&work)?;
    for (number, text) in texts.iter().enumerate() {
        fs::write(work.join(format!("file-{number}")), text)?;
    }
    fs::write(work.join("file.c"), "int twice(int x) { return 2 * x; }\n")?;
    let commands: [(&str, &[&str]); 14] = [
        ("elf", &["sh", "-c", "cc -g -gz=zlib -c -o file.o file.c && cat file.o"]),
        ("gzip-1", &["gzip", "-1nc", "file-0"]),
        ("gzip-6", &["gzip", "-6c", "file-1"]),
        ("gzip-9", &["gzip", "-9nc", "file-0"]),
        ("gzips", &["gzip", "-nc", "file-0", "file-2", "file-1"]),
        ("xz-crc32", &["xz", "--check=crc32", "--lzma2=dict=1MiB", "-c", "file-0"]),
        ("xz-lengths", &["xz", "-T2", "-6e", "-c", "file-1"]),
        ("xz-sha256", &["xz", "-0", "--check=sha256", "-c", "file-0"]),
        ("zip-1", &["zip", "-q1X", "-", "file-0", "file-1", "file-2"]),
        ("zip-6", &["zip", "-q", "-", "file-0", "file-1", "file-2"]),
        ("zip-0", &["zip", "-q0", "-", "file-0"]),
        (
            "jar",
            &[
                "python3",
                "-c",
                "import zipfile,io,sys; out=io.BytesIO(); z=zipfile.ZipFile(out,'w',8); \
                 [z.write('file-%d' % n) for n in range(3)]; z.close(); sys.stdout.buffer.write(out.getvalue())",
            ],
        ),
        (
            "war",
            &["sh", "-c", "zip -q a.jar file-0 file-2; zip -q b.jar file-1; zip -q - a.jar file-2 b.jar"],
        ),
        ("tar.gz", &["sh", "-c", "tar -c a.jar file-2 | gzip -9n"]),
    ];
    for (name, command) in commands {
        let made =
            Command::new(command[0]).args(&command[1..]).current_dir(&work).stderr(Stdio::null()).output();
        // A program that is not there leaves its seeds out.
        let Some(content) = made.ok().filter(|made| made.status.success()).map(|made| made.stdout) else {
            continue;
        };
        target.seed(&format!("{name}-content"), &[&[0, 0, 0], &content])?;
        let members = deflated(&content, Some(0..content.len()));
        for (kind, step) in [("all", 1), ("some", 2)] {
            let places = places(&content, members.iter().step_by(step));
            target.seed(&format!("{name}-{kind}"), &[&[4], &short(places.len()), &places, &content])?;
        }
        let Some(plan) = Plan::of(&content, MAX_OPENED_BYTES) else { continue };
        let mut form = Vec::new();
        plan.unpack(&content, &mut form).map_err(io::Error::other)?;
        let parameters = find_parameters(&plan, &content, &form, 1).map_err(io::Error::other)?.encode();
        target.seed(&format!("{name}-form"), &[&[1], &short(parameters.len()), &parameters, &form])?;
        let frame =
            ParameterFrame::encode(&[&parameters, &[1, 0x16]], Level::Fast).map_err(io::Error::other)?;
        target.seed(&format!("{name}-frame"), &[&[2, 0, 0], &frame])?;
        if Plan::of(&form, MAX_OPENED_BYTES).is_some() {
            target.seed(&format!("{name}-again"), &[&[0, 0, 0], &form])?;
        }
    }
    for (number, content) in wasm(12).iter().enumerate() {
        target.seed(&format!("wasm-content-{number}"), &[&[0, 0, 0], content])?;
        target.seed(&format!("wasm-form-{number}"), &[&[1, 0, 0], &opened(content)?])?;
    }
    let forms = [bitcode_sample::module(3, 1), bitcode_sample::index(2, 3, 1)];
    for (number, form) in forms.iter().enumerate() {
        target.seed(&format!("bitcode-content-{number}"), &[&[0, 0, 0], &form.content()])?;
        target.seed(&format!("bitcode-form-{number}"), &[&[1, 0, 0], &form.0])?;
    }
    for (number, text) in texts.iter().enumerate() {
        // GNU gzip 3, zlib 6 with its usual memory, zlib 9 with the least, Go.
        for code in [0x13u8, 0x96, 0x29, 0xb1] {
            target.seed(&format!("encoder-{code:x}-{number}"), &[&[3, 1, 0, code], text])?;
        }
    }
    fs::remove_dir_all(work)
}

/// Modules by hand and of the machine's compilers, and their opened forms, as the target `bitcode` reads them.
fn modules(target: &Target, dir: &Path) -> io::Result<()> {
    let work = dir.join("modules");
    fs::create_dir_all(&work)?;
    fs::write(work.join("a.c"), "int f(int); int g[3]; int h(int x) { return x ? f(g[x & 1]) * 3 : 7; }\n")?;
    fs::write(work.join("a.rs"), "#[no_mangle] pub fn h(x: &[u32]) -> u32 { x.iter().sum::<u32>() ^ 7 }\n")?;
    let mut contents = vec![bitcode_sample::module(3, 1).content(), bitcode_sample::index(2, 3, 1).content()];
    for command in [
        "clang -g -O1 -emit-llvm -c a.c -o a.bc",
        "clang -O2 -flto=thin -c a.c -o a.bc",
        "rustc --crate-type=lib -O --emit=llvm-bc a.rs -o a.bc",
    ] {
        let made = Command::new("sh").args(["-c", command]).current_dir(&work).stderr(Stdio::null()).status();
        // A compiler that is not there leaves its seeds out.
        if made.is_ok_and(|status| status.success()) {
            contents.push(fs::read(work.join("a.bc"))?);
        }
    }
    for (number, content) in contents.iter().enumerate() {
        target.seed(&format!("content-{number}"), &[&[0], &content[4..]])?;
        let Some(plan) = Plan::of(content, MAX_OPENED_BYTES) else { continue };
        let mut form = Vec::new();
        plan.unpack(content, &mut form).map_err(io::Error::other)?;
        target.seed(&format!("form-{number}"), &[&[1], &form[4..]])?;
    }
    fs::remove_dir_all(work)
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
            if let Some(frame) = ReferenceFrame::encode(&old, new, level).map_err(io::Error::other)? {
                target.seed(&format!("reference-{name}-{number}"), &[&[3, 0], &length, &frame])?;
            }
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
