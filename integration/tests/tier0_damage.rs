//! Tier 0: ten thousand damaged copies of deltas of real images. Each is refused as corrupt, or says what the sound one says.

use std::fs;

use anyhow::{Context, Result, ensure};
use d4c_integration::Sandbox;
use d4c_integration::images::{Image, Series};
use d4c_integration::program::d4c;
use d4c_integration::random::Random;
use dimg::Digest;
use dimg::content::Bytes;
use dimg::format::{Class, DeltaFile, DimgError, dump};

/// Copies damaged and read in this process.
const DAMAGED: u64 = 10_000;
/// Every so many of them also goes through the program.
const RUN_EVERY: u64 = 100;

/// A delta and the images on both sides.
struct Case {
    base: String,
    target: Image,
    delta: Vec<u8>,
}

impl Case {
    fn new(sandbox: &Sandbox, name: &str, from: &str, to: &str) -> Result<Self> {
        let series = Series::named(name)?;
        let (base, file) = (series.source(from), sandbox.path(&format!("{name}.cdimg")));
        d4c(["diff", &base, &series.source(to), &file.to_string_lossy()])?.success()?;
        Ok(Self { base, target: series.image(to)?, delta: fs::read(file)? })
    }
}

/// A damaged copy: bits and bytes changed, a span zeroed, moved or doubled, the end cut, or a span of another delta.
fn damage(random: &mut Random, whole: &[u8], other: &[u8]) -> Vec<u8> {
    let mut bytes = whole.to_vec();
    let at = random.below(bytes.len());
    let length = 1 + random.below(64.min(bytes.len() - at));
    match random.below(8) {
        0 | 1 => bytes[at] ^= 1 << random.below(8),
        2 => bytes[at] = bytes[at].wrapping_add(1),
        3 => bytes[at..at + length].fill(0),
        4 => bytes.truncate(at),
        5 => drop(bytes.drain(at..at + length)),
        6 => {
            let to = random.below(bytes.len() - length + 1);
            bytes.copy_within(at..at + length, to);
        }
        _ => {
            let from = random.below(other.len());
            let length = length.min(other.len() - from);
            bytes[at..at + length].copy_from_slice(&other[from..from + length]);
        }
    }
    bytes
}

/// Everything that a file says, read to its last frame.
fn read(bytes: &[u8]) -> Result<Digest, DimgError> {
    let file = DeltaFile::open(Bytes::from(bytes.to_vec()))?;
    let mut said = Vec::new();
    dump(&file, &mut said)?;
    if let Some(cdimg) = file.cdimg() {
        said.extend([cdimg.manifest(), cdimg.config()].concat());
    }
    let dimg = file.dimg();
    dimg.recipes()?;
    for number in 0..u32::try_from(dimg.frames()?.len()).unwrap_or(u32::MAX) {
        said.extend(dimg.frame(number)?);
    }
    Ok(Digest::of(&said))
}

/// The program refuses a damaged delta with one line and leaves nothing, or it makes the right image.
fn patched(sandbox: &Sandbox, case: &Case, damaged: &[u8]) -> Result<()> {
    let (file, out) = (sandbox.path("damaged.cdimg"), sandbox.path("out"));
    fs::write(&file, damaged)?;
    let file = file.to_string_lossy();
    let patch = d4c(["patch", &case.base, &file, &format!("oci:{}:v", out.display())])?;
    if patch.code != 0 {
        ensure!(!out.exists(), "{}: something was left", patch.line);
        return patch.refused(4, &file);
    }
    let made = Series::at(&out).image("v")?;
    ensure!(made.config_digest == case.target.config_digest, "{}: another image", patch.line);
    Ok(fs::remove_dir_all(out)?)
}

#[test]
fn damaged_deltas_are_refused_or_harmless() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let cases = [
        Case::new(&sandbox, "tiny", "v1", "v2")?,
        Case::new(&sandbox, "debian-nginx", "v2", "v3")?,
        Case::new(&sandbox, "pypi-numpy", "v1", "v2")?,
    ];
    let said = cases.iter().map(|case| Ok(read(&case.delta)?)).collect::<Result<Vec<_>>>()?;
    let mut random = Random::default();
    let mut harmless = 0;
    for number in 0..DAMAGED {
        let which = random.below(cases.len());
        let (case, other) = (&cases[which], &cases[(which + 1) % cases.len()]);
        let damaged = damage(&mut random, &case.delta, &other.delta);
        let told = format!("number {number}, delta {which}");
        match read(&damaged) {
            Err(error) => ensure!(error.class() == Class::Corrupt, "{told}: {error}"),
            Ok(again) if again == said[which] => harmless += 1,
            Ok(_) => anyhow::bail!("{told}: says something else"),
        }
        if number % RUN_EVERY == 0 {
            let damaged = damage(&mut random, &cases[0].delta, &cases[1].delta);
            patched(&sandbox, &cases[0], &damaged).context(told)?;
        }
    }
    ensure!(harmless < DAMAGED / 20, "{harmless} of {DAMAGED} changed nothing");
    println!("{DAMAGED} damaged copies, {harmless} harmless");
    sandbox.close()
}
