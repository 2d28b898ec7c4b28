//! Puts the plugin together and runs it until a signal ends it.

use std::io::IsTerminal;
use std::path::Path;
use std::sync::{Arc, Weak};

use containerd_shim_protos::events::snapshot::SnapshotCommit;
use di3fs::mount::{Found, Route};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use crate::capabilities;
use crate::config::{Config, Flags};
use crate::control::ControlServer;
use crate::error::{Error, Result};
use crate::events::Events;
use crate::import::{Finisher, Importer, Mounts, Sweeper};
use crate::mounts::OverlayOptions;
use crate::notify::notify;
use crate::pull::Puller;
use crate::route::choose_route;
use crate::server::{Socket, serve};
use crate::service::Service;
use crate::serving::{LowerProvider, Serving};
use crate::snapshotter::{Hooks, LayerProvider, Snapshotter};
use crate::store::Store;

/// More files than this are not kept open: each image that is served takes some.
const MOST_FILES: u64 = 1 << 20;

/// Runs the plugin. Call it on the main thread, before any other is started. Returns after SIGTERM or SIGINT.
///
/// # Errors
/// If the configuration is wrong, or the root or a socket is in use or cannot be made.
pub fn run(flags: Flags) -> Result<()> {
    if !flags.unprivileged {
        capabilities::require()?;
    }
    d4c_sys::rest_small();
    let config = Config::load(flags)?;
    log_to_stderr(&config.log_level)?;
    if let Err(error) = d4c_sys::raise_file_limit(MOST_FILES) {
        tracing::warn!(%error, "limit of open files not raised");
    }
    let kept = capabilities::drop_all_but_needed()?;
    tracing::info!(version = env!("CARGO_PKG_VERSION"), capabilities = kept.join(","), "starting");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(Error::io("start runtime", "tokio"))?;
    let result = runtime.block_on(serve_all(&config));
    // Waits for blocking work that its client has given up.
    drop(runtime);
    tracing::info!("ended");
    result
}

async fn serve_all(config: &Config) -> Result<()> {
    let store = Arc::new(Store::open(&config.root)?);
    let (Found { route, directly }, holder) = choose_route(config, store.root())?;
    tracing::info!(root = %store.root().display(), %route, directly, "store open");
    let open = if route == Route::Overlay { Importer::open } else { Importer::open_lazy };
    let importer = open(store.clone())?.with_diff_ids(config.diff_ids).with_space(config.space);
    let importer = Arc::new(importer.with_memory(config.memory_bytes));
    // Before containers depend on this process.
    let socket = Socket::bind(&config.address)?;
    let serving = Arc::new(Serving::open(importer.clone(), holder, route)?);
    let mounts = Arc::downgrade(&serving);
    importer.watch_room(mounts as Weak<dyn Mounts>);
    let (swept, finished) = ((importer.clone(), serving.clone()), serving.clone());
    let sweep = move || {
        swept.0.sweep_unused();
        swept.1.sweep();
        swept.0.look_for_room();
    };
    let finisher = Finisher::start(importer.clone(), config.finish_after(), move || finished.sweep())?;
    let puller = match config.pull.clone() {
        Some(settings) => Some(Puller::open(importer.clone(), settings)?),
        None => None,
    };
    let hooks = Arc::new(Told {
        sweeper: Sweeper::start(sweep)?,
        importer: importer.clone(),
        puller: puller.clone(),
        events: Events::start(&config.containerd),
    });
    let overlay = OverlayOptions::probe(config.redirect_dir, directly);
    let lower: Arc<dyn LowerProvider> = serving.clone();
    let layers: Arc<dyn LayerProvider> = match &puller {
        Some(puller) => Arc::new(puller.clone()),
        None => importer.clone(),
    };
    let snapshotter = Arc::new(Snapshotter::new(store, layers, lower, hooks, overlay));
    let mut terminate = signal(SignalKind::terminate()).map_err(Error::io("catch signal", "SIGTERM"))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Error::io("catch signal", "SIGINT"))?;
    let pruned = puller.clone();
    let stop = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        notify("STOPPING=1");
        if let Some(puller) = puller {
            puller.close();
        }
    };
    let control = start_control(&config.control, importer.clone(), pruned, route).await?;
    notify("READY=1");
    let served = serve(socket, Service::new(snapshotter), stop).await;
    control.shutdown().await;
    drop(finisher);
    importer.close();
    serving.close();
    served
}

async fn start_control(
    socket: &Path,
    importer: Arc<Importer>,
    puller: Option<Arc<Puller>>,
    route: Route,
) -> Result<ControlServer> {
    let control = ControlServer::start(socket, importer, puller, route.name()).await?;
    tracing::info!(socket = %socket.display(), "serving the command line");
    Ok(control)
}

fn log_to_stderr(level: &str) -> Result<()> {
    let filter =
        EnvFilter::try_new(level).map_err(|e| Error::Config { what: format!("log_level: {level}: {e}") })?;
    // It tells of every mount what the kernel can do.
    let filter = match "fuse_backend_rs=warn".parse() {
        Ok(directive) => filter.add_directive(directive),
        Err(_) => filter,
    };
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        // By default a line that cannot be written ends the process.
        .log_internal_errors(false)
        .try_init()
        .map_err(|e| Error::Unavailable { what: format!("start logging: {e}") })
}

/// Tells the importer and, by an event, containerd's other clients.
struct Told {
    importer: Arc<Importer>,
    puller: Option<Arc<Puller>>,
    sweeper: Sweeper,
    events: Events,
}

impl Hooks for Told {
    fn adopted(&self, chain_id: &str, key: &str, name: &str) {
        if let Err(e) = self.importer.adopted(chain_id) {
            tracing::warn!(chain_id, error = %e, "cannot note that a layer is in use");
        }
        if self.puller.as_ref().is_some_and(|puller| puller.adopted(chain_id)) {
            self.sweeper.wake();
        }
        let event = SnapshotCommit {
            key: key.to_owned(),
            name: name.to_owned(),
            snapshotter: "di3fs".to_owned(),
            ..Default::default()
        };
        let url = "containerd.events.SnapshotCommit";
        self.events.publish(namespace_of(key), "/di3fs/adopted", url, &event);
    }

    fn removed(&self) {
        self.sweeper.wake();
    }

    fn unused(&self) {
        self.importer.look_for_room();
    }

    fn cleanup(&self) {
        self.importer.sweep_unused();
    }
}

/// containerd's keys are `<namespace>/<number>/<key>`.
fn namespace_of(key: &str) -> &str {
    let mut parts = key.splitn(3, '/');
    match (parts.next(), parts.next(), parts.next()) {
        (Some(namespace), Some(_), Some(_)) if !namespace.is_empty() => namespace,
        _ => "default",
    }
}

#[cfg(test)]
mod tests {
    use super::namespace_of;

    #[test]
    fn the_namespace_stands_before_the_key() {
        assert_eq!(namespace_of("k8s.io/12/extract-1 sha256:a/b"), "k8s.io");
        for key in ["", "k", "/1/k", "a/b"] {
            assert_eq!(namespace_of(key), "default");
        }
    }
}
