//! `di3fs-virtiofsd`: an image, made as it is read, or a directory of the host, for virtual machines.
//!
//! It ends when the monitor has gone that its socket was made for, with all of them when there are several, or by a signal. Sockets lose
//! their names when a monitor has connected; what an image's contents were made into is removed in the end, or by the next
//! process when this one was killed.

mod args;
mod syslog;

use std::ffi::OsString;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::time::{Duration, SystemTime};

use clap::Parser;
use d4c_image::source::Source;
use di3fs::store::ObjectStore;
use di3fs_virtiofs::{
    Options as DeviceOptions, Place, ShareOptions, Socket, VirtioError, confine, raise_file_limit, serve,
    share,
};
use fuse_backend_rs::api::filesystem::FileSystem;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde_json::json;
use tracing_subscriber::fmt::writer::BoxMakeWriter;

use crate::config::Config;
use crate::failure::{Failure, Kind, Reason};
use crate::image::{Delta, LazyImage, Opener};
use crate::interrupt;
use crate::progress::Progress;
use crate::{output, usage};
use args::Args;

/// What directories of contents are named after.
const STATE: &str = "d4c-virtiofs";
/// What writes log lines at a guest's wish, without end.
const GUESTS: [&str; 2] = ["fuse_backend_rs", "virtio_queue"];
/// A directory of contents that is younger than this may not be locked yet.
const SETTLED: Duration = Duration::from_secs(5);

/// Runs the program.
///
/// # Errors
/// The command line is wrong, the image or the directory cannot be opened, or a monitor does not keep to the protocol.
pub(crate) fn run(arguments: Vec<OsString>) -> Result<(), Failure> {
    d4c_sys::rest_small();
    let args = match Args::try_parse_from(arguments) {
        Ok(args) => args.with_options()?,
        Err(error) if error.use_stderr() => return Err(usage::failure(&error)),
        Err(error) => return error.print().map_err(output::not_written(Kind::Closed)),
    };
    let mut global = args.global.clone();
    global.quiet |= args.syslog;
    let config = Config::new(global)?;
    let system = args.syslog.then(syslog::Syslog::connect).and_then(Result::ok);
    crate::start_logging(&config, system.map(BoxMakeWriter::new), &GUESTS);
    interrupt::watch()?;
    let sockets = sockets(&args)?;
    raise_file_limit();
    match &args.shared_dir {
        Some(dir) => serve_dir(dir, sockets, &args, &config),
        None => serve_image(sockets, &args, &config),
    }
}

fn sockets(args: &Args) -> Result<Vec<Socket>, Failure> {
    let named = args.socket_path.iter().map(|path| Socket::bind(path));
    let inherited = args.fd.iter().map(|number| Socket::inherited(*number));
    Ok(named.chain(inherited).collect::<Result<_, _>>()?)
}

fn serve_dir(dir: &Path, sockets: Vec<Socket>, args: &Args, config: &Config) -> Result<(), Failure> {
    if sockets.len() > 1 {
        // The numbers that one guest has got would be forgotten by the other.
        return Err(Failure::usage("--shared-dir", "is for one machine: one --socket-path or --fd"));
    }
    let signal = interrupt::stream()?;
    let options = ShareOptions { cache: args.cache, xattr: args.xattr, confinement: args.sandbox };
    let shared = share(dir, options)?;
    let value = json!({
        "serving": dir.display().to_string(),
        "sockets": names(&sockets),
        "pid": std::process::id(),
    });
    let text = || format!("{}: for machines at {}\n", dir.display(), names(&sockets).join(", "));
    config.output.report(&value, text)?;
    serve_all(sockets, &shared, args, &signal)
}

fn serve_image(sockets: Vec<Socket>, args: &Args, config: &Config) -> Result<(), Failure> {
    sweep(&config.tmpdir);
    let progress = Progress::new(config.progress);
    let opener = Opener::new(&args.opening, config, &progress)?;
    let (mut base, mut deltas) =
        (args.base.as_deref().map(|base| opener.open(base)).transpose()?, Vec::new());
    for (number, word) in args.image.iter().enumerate() {
        match file_or_source(word) {
            Ok(path) => deltas.push(Delta::open(&path, &config.tmpdir)?),
            Err(source) if number == 0 && base.is_none() => base = Some(opener.open(&source)?),
            Err(source) => return Err(Failure::usage(source, "only files can follow another image")),
        }
    }
    let LazyImage { image, manifest, state, lock: _lock, .. } =
        LazyImage::open(base, deltas, args.store.as_deref(), STATE, (opener.memory, config))?;
    drop(progress);
    let signal = interrupt::stream()?;
    let entries = image.tree.walk().count();
    let value = json!({
        "serving": manifest.to_string(),
        "sockets": names(&sockets),
        "entries": entries,
        "pid": std::process::id(),
    });
    let at = names(&sockets).join(", ");
    config.output.report(&value, || format!("{entries} entries of {manifest}, for machines at {at}\n"))?;
    // Whoever asks for contents on behalf of a guest needs no more than to read and write files.
    confine(None, args.sandbox)?;
    let served = serve_all(sockets, &Arc::new(image.file_system()), args, &signal);
    drop(state);
    served?;
    let (counts, failed) = (image.contents.store().counts(), image.contents.failed());
    let value = json!({"made": counts.made, "made_bytes": counts.made_bytes, "failed": failed});
    config.output.report(&value, || format!("{} contents made\n", counts.made))
}

fn names(sockets: &[Socket]) -> Vec<&str> {
    sockets.iter().map(Socket::name).collect()
}

/// A file of ours, or the words of another source; what is neither is the name of an image in containerd.
fn file_or_source(word: &str) -> Result<PathBuf, String> {
    match Source::parse(word) {
        Ok(Source::Delta(path)) => Ok(path),
        Ok(_) => Err(word.to_owned()),
        Err(_) if Path::new(word).exists() => Ok(word.into()),
        Err(_) => Err(format!("containerd:{word}")),
    }
}

/// Serves one machine at each socket until all have gone, or a signal comes.
fn serve_all<F: FileSystem + Send + Sync + 'static>(
    sockets: Vec<Socket>,
    fs: &Arc<F>,
    args: &Args,
    signal: &UnixStream,
) -> Result<(), Failure> {
    let failed = |error: std::io::Error| Failure::new(Kind::Failed, "serve", "machines", Reason(&error));
    let (done, told) = UnixStream::pair().map_err(failed)?;
    let (results, ended) = mpsc::channel();
    // The threads that wait for monitors do not end when the process does.
    let _places = Hidden(sockets.iter().map(Socket::place).collect());
    let mut left = sockets.len();
    for socket in sockets {
        let options = DeviceOptions { threads: args.threads(), tag: args.tag.clone() };
        let (fs, results) = (Arc::clone(fs), results.clone());
        let mut told = told.try_clone().map_err(failed)?;
        let serving = move || {
            let result = serve(socket, &fs, &options);
            // When nobody listens any more, the process ends.
            drop(results.send(result));
            drop(told.write_all(&[1]));
        };
        std::thread::Builder::new().name("machine".into()).spawn(serving).map_err(failed)?;
    }
    while left > 0 {
        let mut fds = [&done, signal].map(|stream| PollFd::new(stream.as_fd(), PollFlags::POLLIN));
        match poll(&mut fds, PollTimeout::NONE) {
            Err(Errno::EINTR) => continue,
            polled => polled.map_err(|errno| failed(errno.into()))?,
        };
        if fds[1].any().unwrap_or(false) {
            return Ok(());
        }
        // One byte was written for each result, so this one is there.
        let mut byte = [0];
        std::io::Read::read_exact(&mut &done, &mut byte).map_err(failed)?;
        if let Ok(result) = ended.recv() {
            result?;
        }
        left -= 1;
    }
    Ok(())
}

/// Names of sockets, removed when this is dropped.
struct Hidden(Vec<Place>);

impl Drop for Hidden {
    fn drop(&mut self) {
        self.0.iter().for_each(Place::hide);
    }
}

/// Removes the directories of contents that processes left which were killed. Nobody sees them: the machines ended with them.
fn sweep(tmpdir: &Path) {
    let found = std::fs::read_dir(tmpdir).into_iter().flatten().flatten();
    for entry in found {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let is_ours = name.strip_prefix('.').and_then(|name| name.strip_prefix(STATE)?.strip_suffix(".d4c"));
        let age = entry
            .metadata()
            .and_then(|meta| meta.modified())
            .ok()
            .and_then(|time| SystemTime::now().duration_since(time).ok());
        if is_ours.is_none() || age.is_none_or(|age| age < SETTLED) {
            continue;
        }
        let path = entry.path();
        // Whoever lives has it locked.
        if let Ok(store) = ObjectStore::open_volatile(&path.join("store")) {
            tracing::info!(path = %path.display(), "removing what a killed process left");
            if let Err(error) = std::fs::remove_dir_all(&path) {
                tracing::warn!(path = %path.display(), %error, "not removed");
            }
            drop(store);
        }
    }
}

impl From<VirtioError> for Failure {
    fn from(error: VirtioError) -> Self {
        match error {
            VirtioError::Io { action, path, source } => Self::io(action, &path)(source),
            VirtioError::Device { socket, why } => Self::new(Kind::Failed, "serve machine", socket, why),
        }
    }
}
