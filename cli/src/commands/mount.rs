//! `d4c mount FILE… DIR`: the image that delta files make, as a file system, without containerd.
//!
//! Nothing is made but what is opened. The command stays in the foreground until the image is unmounted, by a signal or
//! by someone else; a mount that its process has left (`kill -9`) can be unmounted as any other.

use std::fs;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Instant;

use di3fs::mount::{Changes, Ended, MountError, Options as ServeOptions, Served};
use di3fs_snapshotter::config::Route;
use nix::unistd::geteuid;
use serde_json::json;

use super::abandoned;
use crate::config::Config;
use crate::failure::{Failure, Kind};
use crate::image::{Delta, ImageOptions, LazyImage, Opener};
use crate::interrupt;
use crate::progress::Progress;
use crate::units::counted;

/// Options of `mount`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// The files, then the directory
    #[arg(value_names = ["FILE", "DIR"], num_args = 1.., required = true)]
    files_and_dir: Vec<String>,
    /// The image that the first file starts from, when that is a delta: any source
    #[arg(long, value_name = "SRC")]
    base: Option<String>,
    /// How to serve the image
    #[arg(long, value_name = "ROUTE", value_enum, default_value_t)]
    route: Route,
    /// Keep made contents here for the next mount (default: removed at the end)
    #[arg(long, value_name = "DIR")]
    store: Option<PathBuf>,
    /// Mount it to be written to, as a container's root: what is changed is kept below this directory
    #[arg(long, value_name = "DIR")]
    changes: Option<PathBuf>,
    #[command(flatten)]
    image: ImageOptions,
}

/// Mounts the image and waits until it is unmounted.
///
/// # Errors
/// A file is damaged or does not follow the one before it, or no route works; nothing stays mounted.
pub(crate) fn run(options: Options, config: &Config) -> Result<(), Failure> {
    d4c_sys::rest_small();
    let started = Instant::now();
    let mut files = options.files_and_dir;
    if files.len() < 2 {
        return Err(Failure::usage("<FILE>... <DIR>", "needs more values"));
    }
    let dir = PathBuf::from(files.pop().unwrap_or_default());
    if !fs::metadata(&dir).map_err(Failure::io("mount image", &dir))?.is_dir() {
        return Err(Failure::new(Kind::NotFound, "mount image", dir.display(), "not a directory"));
    }
    let deltas: Vec<Delta> =
        files.iter().map(|path| Delta::open(Path::new(path), &config.tmpdir)).collect::<Result<_, _>>()?;
    let progress = Progress::new(config.progress);
    let opener = Opener::new(&options.image, config, &progress)?;
    let base = options.base.as_deref().map(|base| opener.open(base)).transpose()?;
    abandoned::sweep(&config.tmpdir);
    // Locked until the end: what is not may be swept.
    let LazyImage { image, manifest, config: config_digest, state, lock: _lock } =
        LazyImage::open(base, deltas, options.store.as_deref(), abandoned::NAME, (opener.memory, config))?;
    let alone = options.changes.is_none();
    let mut serve = ServeOptions { route: options.route.wanted(), alone, ..ServeOptions::default() };
    if let Some(threads) = options.image.threads {
        serve.threads = threads;
    }
    let signal = interrupt::stream()?;
    let changes = options.changes.as_deref().map(Changes::below).transpose()?;
    let served = Served::start(&image, &state.path().join("mount"), &serve).map_err(not_mounted)?;
    let mounted = served.mount(&dir, changes.as_ref()).map_err(not_mounted)?;
    drop(progress);
    let (route, entries) = (mounted.route(), image.tree.names());
    let value = json!({
        "mounted": dir.display().to_string(),
        "route": route.name(),
        "entries": entries,
        "manifest": manifest.to_string(),
        "config": config_digest.to_string(),
        "ms": u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
        "pid": std::process::id(),
    });
    let text = || format!("{}: {} of {manifest}, by {route}\n", dir.display(), counted(entries, "entry"));
    config.output.report(&value, text)?;
    let ended = mounted.wait(signal.as_fd())?;
    let unused = mounted.unmount()?;
    if ended == Ended::Woken && !unused {
        tracing::warn!(path = %dir.display(), "still in use: open files end with this process");
    }
    let (counts, failed) = (image.contents.store().counts(), image.contents.failed());
    let value = json!({
        "unmounted": dir.display().to_string(),
        "made": counts.made,
        "made_bytes": counts.made_bytes,
        "failed": failed,
    });
    config.output.report(&value, || {
        format!("{}: unmounted, {} made\n", dir.display(), counted(counts.made, "content"))
    })
}

/// Why nothing is mounted, and for whom it could be.
fn not_mounted(error: MountError) -> Failure {
    let failure = Failure::from(error);
    if geteuid().is_root() || failure.kind != Kind::Failed {
        failure
    } else {
        failure.and("mounting needs root")
    }
}
