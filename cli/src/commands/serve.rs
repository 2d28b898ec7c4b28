//! `d4c serve`: deltas on demand for other nodes.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use super::build::LevelChoice;
use crate::config::Config;
use crate::failure::Failure;
use crate::image::RegistryArgs;
use crate::memory::parse_memory;
use crate::serve::{ServeOptions, serve};
use crate::units::{parse_count, parse_size, parse_threads};

/// Options of `serve`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Where to listen; plain HTTP: logins of clients on other machines need a proxy with TLS in front
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:5080")]
    listen: SocketAddr,
    /// Serve the images below HOST[/PREFIX], to whoever may fetch them there; without --dir, what is made is pushed there
    #[arg(long, value_name = "HOST[/PREFIX]", required_unless_present = "dir")]
    registry: Vec<String>,
    /// Keep what is made here, and use the cdimgs that are there; without --registry, they are for everyone
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Bytes of files made that are kept at most
    #[arg(long, value_name = "SIZE", default_value = "10GiB", value_parser = parse_size)]
    cache_size: u64,
    /// Deltas made at once
    #[arg(long, value_name = "N", default_value = "1", value_parser = parse_count)]
    jobs: NonZeroUsize,
    /// Deltas that may wait for their turn; more are put off
    #[arg(long, value_name = "N", default_value_t = 64)]
    queue: usize,
    /// Worker threads of each (default: all cores)
    #[arg(long, value_name = "N", value_parser = parse_threads)]
    threads: Option<NonZeroUsize>,
    /// Memory of each, mapped files apart; 64MiB at least
    #[arg(long, value_name = "SIZE", default_value = "1GiB", value_parser = parse_memory)]
    memory: u64,
    /// Make no deltas of images whose layers, compressed, have more bytes than this
    #[arg(long, value_name = "SIZE", default_value = "4GiB", value_parser = parse_size)]
    max_image: u64,
    /// How hard to compress
    #[arg(long, value_enum, default_value_t = LevelChoice::Default)]
    level: LevelChoice,
    #[command(flatten)]
    registry_options: RegistryArgs,
}

/// Serves until a signal comes.
///
/// # Errors
/// The address is taken, or the directory cannot be used.
pub(crate) fn run(options: Options, config: &Config) -> Result<(), Failure> {
    let cores = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    let serve_options = ServeOptions {
        listen: options.listen,
        registries: options.registry,
        dir: options.dir,
        store_bytes: options.cache_size,
        jobs: options.jobs,
        queue: options.queue,
        threads: options.threads.unwrap_or(cores),
        memory_bytes: options.memory,
        max_image_bytes: options.max_image,
        registry: options.registry_options.options(),
        level: options.level.level(),
    };
    serve(serve_options, config)
}
