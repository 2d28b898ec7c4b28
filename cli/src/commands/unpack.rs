//! `d4c unpack F.cdimg DIR`: manifest, config and dimg as files of their own.

use std::fs;
use std::io::Write;
use std::path::PathBuf;

use serde_json::json;

use crate::config::Config;
use crate::failure::Failure;
use crate::files::OutFile;
use crate::image::Delta;
use crate::interrupt::Pending;

/// Options of `unpack`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// The file; - is standard input
    #[arg(value_name = "FILE.cdimg")]
    file: PathBuf,
    /// Directory for manifest.json, config.json and image.dimg, made when it is not there
    dir: PathBuf,
}

/// Writes the parts.
///
/// # Errors
/// The file is no cdimg, or a part cannot be written.
pub(crate) fn run(options: &Options, config: &Config) -> Result<(), Failure> {
    let delta = Delta::open(&options.file, &config.tmpdir)?;
    let Some(cdimg) = delta.file.cdimg() else {
        return Err(Failure::usage(options.file.display(), "is a dimg already, without manifest and config"));
    };
    let dir = &options.dir;
    // A link to nothing is there.
    let new = fs::symlink_metadata(dir).is_err().then(|| Pending::new(dir.clone()));
    fs::create_dir_all(dir).map_err(Failure::io("make directory", dir))?;
    let (head, data) = cdimg.dimg().alone();
    let parts: [(&str, &[&[u8]]); 3] = [
        ("manifest.json", &[cdimg.manifest()]),
        ("config.json", &[cdimg.config()]),
        ("image.dimg", &[&head, data]),
    ];
    let mut value = json!({});
    let mut text = String::new();
    // None gets its name before all are written.
    let mut outs = Vec::with_capacity(parts.len());
    for (name, bytes) in parts {
        let path = dir.join(name);
        let mut out = OutFile::create(&path, &config.tmpdir)?;
        for bytes in bytes {
            out.file().write_all(bytes).map_err(Failure::io("write file", &path))?;
        }
        outs.push((name, path, out));
    }
    for (name, path, out) in outs {
        out.finish()?;
        let shown = path.display().to_string();
        text.push_str(&shown);
        text.push('\n');
        value[name] = shown.into();
    }
    if let Some(new) = new {
        new.keep(|_| Ok::<_, Failure>(()))?;
    }
    config.output.report(&value, || text)
}
