//! `d4c serve`: deltas on demand, for nodes that ask by what they have and what they want (`docs/registry.md`).
//!
//! Nothing is kept between requests but files that can be made again: any number of servers may stand side by side. `http` reads
//! requests and writes answers, `answer` decides what a client may have and how it is got, `jobs` sees that it is made once however many
//! ask, and by how many at once, `store` is the directory of deltas with its limit, `metrics` counts.

mod answer;
mod http;
mod jobs;
mod metrics;
mod store;

use std::net::{SocketAddr, TcpListener};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;

use answer::Answers;
use jobs::Jobs;
use metrics::Metrics;
use store::Store;

use crate::config::Config;
use crate::failure::{Failure, Kind, Reason};
use crate::interrupt;
use crate::memory::give_back;

/// How to serve, decided.
#[derive(Debug)]
pub(crate) struct ServeOptions {
    pub(crate) listen: SocketAddr,
    /// `HOST[/PREFIX]` of the repositories that are served; none: only what the directory has.
    pub(crate) registries: Vec<String>,
    /// The directory of deltas; a temporary one when not set.
    pub(crate) dir: Option<PathBuf>,
    pub(crate) store_bytes: u64,
    pub(crate) jobs: NonZeroUsize,
    pub(crate) queue: usize,
    pub(crate) threads: NonZeroUsize,
    pub(crate) memory_bytes: u64,
    /// Largest image, in bytes of its layers' blobs, that deltas are made of.
    pub(crate) max_image_bytes: u64,
    pub(crate) registry: d4c_image::registry::RegistryOptions,
    pub(crate) level: dimg::engine::compress::Level,
}

/// Serves until a signal ends the process, with status 0.
///
/// # Errors
/// The address is taken, or the directory cannot be used.
pub(crate) fn serve(options: ServeOptions, config: &Config) -> Result<(), Failure> {
    // It stays, and jobs come and go.
    give_back();
    let listen = options.listen;
    let failed = |error: std::io::Error| Failure::new(Kind::Failed, "listen", listen, Reason(&error));
    let listener = TcpListener::bind(listen).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    let metrics = Arc::new(Metrics::default());
    let jobs = Jobs::new(options.jobs, options.queue);
    let store = Store::open(options.dir.clone(), options.store_bytes, &config.tmpdir)?;
    let answers = Arc::new(Answers::new(options, store, config.clone(), Arc::clone(&metrics)));
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().map_err(failed)?;
    config.output.report(&serde_json::json!({"listen": address.to_string()}), || {
        format!("listening on http://{address}\n")
    })?;
    interrupt::is_the_end();
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener).map_err(failed)?;
        let router = http::router(answers, jobs, metrics);
        axum::serve(listener, router).await.map_err(failed)
    })
}
