//! Tier 0: the file commands on damaged and wrong input. No privilege.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use d4c_integration::Sandbox;
use d4c_integration::images::Series;
use d4c_integration::program::d4c;

/// A delta of the tiny series.
fn delta(sandbox: &Sandbox) -> Result<(Series, String)> {
    let series = Series::named("tiny")?;
    let delta = sandbox.path("delta.cdimg").to_string_lossy().into_owned();
    d4c(["diff", &series.source("v1"), &series.source("v2"), &delta])?.success()?;
    Ok((series, delta))
}

/// The names in a folder.
fn names(dir: &Path) -> Result<Vec<String>> {
    let mut names: Vec<String> = fs::read_dir(dir)?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<Result<_>>()?;
    names.sort();
    Ok(names)
}

#[test]
fn wrong_names_are_told_in_one_line_and_leave_nothing() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let (series, delta) = delta(&sandbox)?;
    let out = sandbox.dir("out")?;
    let file = out.join("x.cdimg").to_string_lossy().into_owned();
    let layout = format!("oci:{}", series.layout().display());
    let (absent, other) = ("/nonexistent/image.cdimg", "/etc/hostname");
    let root = format!("dir:{}", out.join("root").display());
    let cases: [(&[&str], i32, &str); 13] = [
        (&["show", absent], 3, absent),
        (&["stat", absent, "--json"], 3, absent),
        (&["verify", absent], 3, absent),
        (&["show", other], 4, other),
        (&["verify", other], 4, other),
        (&["convert", &format!("{layout}:v9"), &file], 3, "v9"),
        (&["convert", "oci:/nonexistent:v1", &file], 3, "/nonexistent"),
        (&["convert", "nonsense:x", &file], 2, "nonsense"),
        (&["diff", &format!("{layout}:v1"), &format!("{layout}:v9"), &file], 3, "v9"),
        (&["convert", &format!("{layout}:v1"), "/nonexistent/x.cdimg"], 3, "/nonexistent"),
        (&["patch", &format!("{layout}:v3"), &delta, &root], 4, "delta.cdimg"),
        (&["patch", &format!("{layout}:v1"), absent, &root], 3, absent),
        (&["convert"], 2, "SRC"),
    ];
    for (arguments, code, about) in cases {
        let ended = d4c(arguments)?;
        if arguments.contains(&"--json") {
            ensure!(ended.code == code && ended.stderr.contains(about), "{ended:?}");
        } else {
            ended.refused(code, about)?;
        }
        ensure!(names(&out)?.is_empty(), "{arguments:?} left {:?}", names(&out)?);
    }
    sandbox.close()
}

#[test]
fn a_truncated_file_is_refused_wherever_it_ends() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let (_, delta) = delta(&sandbox)?;
    let whole = fs::read(&delta)?;
    let cut = sandbox.path("cut.cdimg");
    for end in (0..whole.len()).step_by(1000) {
        fs::write(&cut, &whole[..end])?;
        d4c(["verify", &cut.to_string_lossy()])?
            .refused(4, "cut.cdimg")
            .with_context(|| format!("at {end}"))?;
    }
    sandbox.close()
}

#[test]
fn a_flipped_bit_is_found_wherever_it_is() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let (_, delta) = delta(&sandbox)?;
    let whole = fs::read(&delta)?;
    let flipped = sandbox.path("flipped.cdimg");
    // Dense where headers, documents and tables are, sparse in the frames.
    let places = (0..whole.len().min(8192)).step_by(61).chain((8192..whole.len()).step_by(4099));
    for at in places {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (at % 8);
        fs::write(&flipped, bytes)?;
        d4c(["verify", &flipped.to_string_lossy()])?
            .refused(4, "flipped.cdimg")
            .with_context(|| format!("byte {at} of {}", whole.len()))?;
    }
    sandbox.close()
}

#[test]
fn threads_and_repetition_change_no_byte() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let (series, delta) = delta(&sandbox)?;
    for threads in ["1", "2", "8"] {
        let again = sandbox.path(&format!("again-{threads}.cdimg")).to_string_lossy().into_owned();
        d4c(["diff", &series.source("v1"), &series.source("v2"), &again, "--threads", threads])?.success()?;
        ensure!(fs::read(&again)? == fs::read(&delta)?, "{threads} threads give other bytes");
    }
    sandbox.close()
}
