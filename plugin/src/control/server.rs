//! The plugin's side.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use dimg::Digest;
use protobuf::EnumOrUnknown;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::Code;
use ttrpc::r#async::{Server, TtrpcContext};
use ttrpc::asynchronous::transport::Listener;

use crate::api::control::{
    ExportRequest, ExportResponse, Image, ImagesRequest, ImagesResponse, ImportRequest, ImportResponse,
    PrefetchRequest, PrefetchResponse, PruneRequest, PruneResponse, ReleaseRequest, ReleaseResponse,
    StatusRequest, StatusResponse,
};
use crate::api::control_ttrpc::{Control, create_control};
use crate::error::{Error, Result};
use crate::import::{ImportError, Importer, What};
use crate::pull::Puller;

/// A running control service. Dropped or shut down, it takes its socket away.
pub struct ControlServer {
    server: Server,
    socket: PathBuf,
}

impl ControlServer {
    /// Serves `importer`, whose images are served by `route`, and what `puller` keeps, at `socket`; a socket that nobody listens at any more is replaced. Needs a tokio runtime.
    ///
    /// # Errors
    /// `InUse` when another process listens there, or the socket cannot be made.
    pub async fn start(
        socket: &Path,
        importer: Arc<Importer>,
        puller: Option<Arc<Puller>>,
        route: &'static str,
    ) -> Result<Self> {
        if std::os::unix::net::UnixStream::connect(socket).is_ok() {
            return Err(Error::InUse { what: "socket", path: socket.to_owned() });
        }
        match std::fs::remove_file(socket) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::io("remove stale socket", socket)(error));
            }
            _ => {}
        }
        if let Some(dir) = socket.parent() {
            std::fs::create_dir_all(dir).map_err(Error::io("make directory", dir))?;
        }
        let listener =
            std::os::unix::net::UnixListener::bind(socket).map_err(Error::io("listen at", socket))?;
        let private = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(socket, private).map_err(Error::io("set mode", socket))?;
        listener.set_nonblocking(true).map_err(Error::io("listen at", socket))?;
        let listener =
            tokio::net::UnixListener::from_std(listener).map_err(Error::io("listen at", socket))?;
        let service = create_control(Arc::new(Service { importer, puller, route }));
        let failed = |error: ttrpc::Error| Error::Unavailable {
            what: format!("serve control socket: {}: {error}", socket.display()),
        };
        let mut server = Server::new()
            .add_listener(Listener::new(UnixListenerStream::new(listener)))
            .register_service(service);
        server.start().await.map_err(failed)?;
        Ok(Self { server, socket: socket.to_owned() })
    }

    /// Stops listening and waits for what is being done.
    pub async fn shutdown(mut self) {
        if let Err(error) = self.server.shutdown().await {
            tracing::warn!(%error, "control socket not shut down");
        }
        if let Err(error) = std::fs::remove_file(&self.socket) {
            tracing::warn!(path = %self.socket.display(), %error, "control socket not removed");
        }
    }
}

impl std::fmt::Debug for ControlServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ControlServer({})", self.socket.display())
    }
}

struct Service {
    importer: Arc<Importer>,
    puller: Option<Arc<Puller>>,
    route: &'static str,
}

impl Service {
    /// Runs blocking work on a thread of its own.
    async fn run<T, E>(
        &self,
        work: impl FnOnce(&Importer) -> std::result::Result<T, E> + Send + 'static,
    ) -> ttrpc::Result<T>
    where
        T: Send + 'static,
        E: Into<ttrpc::Error> + Send + 'static,
    {
        let importer = Arc::clone(&self.importer);
        match tokio::task::spawn_blocking(move || work(&importer)).await {
            Ok(result) => result.map_err(Into::into),
            Err(error) => Err(Error::Internal { what: format!("control: {error}") }.into()),
        }
    }
}

impl From<ImportError> for ttrpc::Error {
    fn from(error: ImportError) -> Self {
        use dimg::format::Class;
        let code = match error.class() {
            Class::NotFound => Code::NotFound,
            Class::Corrupt => Code::DataLoss,
            Class::NoSpace => Code::ResourceExhausted,
            Class::Failed => Code::Internal,
        };
        let mut status = ttrpc::Status::new();
        status.code = EnumOrUnknown::from_i32(i32::from(code));
        status.message = error.to_string();
        Self::RpcStatus(status)
    }
}

fn digest(what: &str, text: &str) -> Result<Digest> {
    text.parse().map_err(|error| Error::InvalidArgument { what: format!("{what} image: {text:?}: {error}") })
}

#[async_trait]
impl Control for Service {
    async fn import(&self, _: &TtrpcContext, request: ImportRequest) -> ttrpc::Result<ImportResponse> {
        self.run(move |importer| -> std::result::Result<_, ImportError> {
            let started = std::time::Instant::now();
            let done = if request.manifest_digest.is_empty() {
                let what = if request.base_only { What::Base } else { What::Image };
                importer.import(Path::new(&request.path), what)?
            } else {
                importer.restore(digest("import", &request.manifest_digest)?)?
            };
            let manifest = done.image.parsed()?;
            tracing::info!(
                file = request.path,
                image = %done.image.digest,
                contents = done.contents,
                bytes = done.bytes,
                layers = done.layers,
                ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
                "imported"
            );
            Ok(ImportResponse {
                manifest_digest: done.image.digest.to_string(),
                media_type: manifest.media_type,
                layer_digests: manifest.layers.iter().map(|layer| layer.digest.to_string()).collect(),
                manifest: done.image.manifest,
                config: done.image.config,
                chain_ids: done.chain_ids.iter().map(ToString::to_string).collect(),
                contents_made: done.contents,
                bytes_made: done.bytes,
                layers_made: done.layers,
                ..Default::default()
            })
        })
        .await
    }

    async fn release(&self, _: &TtrpcContext, request: ReleaseRequest) -> ttrpc::Result<ReleaseResponse> {
        self.run(move |importer| -> Result<_> {
            importer.release(digest("release", &request.manifest_digest)?);
            Ok(ReleaseResponse::new())
        })
        .await
    }

    async fn export(&self, _: &TtrpcContext, request: ExportRequest) -> ttrpc::Result<ExportResponse> {
        self.run(move |importer| -> Result<_> {
            let done = importer.export(digest("export", &request.manifest_digest)?)?;
            let text = |path: PathBuf| path.to_string_lossy().into_owned();
            Ok(ExportResponse {
                manifest: done.image.manifest,
                config: done.image.config,
                layers_path: text(done.layers),
                objects_path: text(done.objects),
                ..Default::default()
            })
        })
        .await
    }

    async fn images(&self, _: &TtrpcContext, _: ImagesRequest) -> ttrpc::Result<ImagesResponse> {
        self.run(|importer| -> Result<_> {
            let images = importer.images()?.into_iter().map(|image| Image {
                manifest_digest: image.digest.to_string(),
                chain_ids: image.chain_ids.iter().map(ToString::to_string).collect(),
                bytes: image.bytes,
                used: image.used,
                ..Default::default()
            });
            Ok(ImagesResponse { images: images.collect(), ..Default::default() })
        })
        .await
    }

    async fn status(&self, _: &TtrpcContext, _: StatusRequest) -> ttrpc::Result<StatusResponse> {
        let route = self.route;
        self.run(move |importer| -> Result<_> {
            let (counts, room) = (importer.counts(), importer.room()?);
            Ok(StatusResponse {
                version: env!("CARGO_PKG_VERSION").to_owned(),
                route: route.to_owned(),
                images: importer.images()?.len() as u64,
                trees: importer.store().trees()?.len() as u64,
                contents_made: counts.made,
                bytes_made: counts.made_bytes,
                contents_reused: counts.reused,
                contents_removed: counts.removed,
                bytes_removed: counts.removed_bytes,
                contents_failed: counts.failed,
                store_bytes: room.used,
                store_limit: room.limit.unwrap_or(0),
                free_bytes: room.free,
                ..Default::default()
            })
        })
        .await
    }

    async fn prefetch(&self, _: &TtrpcContext, request: PrefetchRequest) -> ttrpc::Result<PrefetchResponse> {
        self.run(move |importer| -> Result<_> {
            let made = importer.prefetch(digest("prefetch", &request.manifest_digest)?)?;
            let (contents_made, bytes_made) = (made.contents, made.bytes);
            Ok(PrefetchResponse { contents_made, bytes_made, ..Default::default() })
        })
        .await
    }

    async fn prune(&self, _: &TtrpcContext, request: PruneRequest) -> ttrpc::Result<PruneResponse> {
        let puller = self.puller.clone();
        self.run(move |importer| -> Result<_> {
            if let Some(puller) = puller {
                puller.sweep();
            }
            let (images, mut removed) = importer.prune()?;
            let mut left_bytes = 0;
            if request.keep_bytes > 0 {
                let evicted = importer.evict(request.keep_bytes)?;
                removed.objects += evicted.removed.objects;
                removed.bytes += evicted.removed.bytes;
                left_bytes = evicted.left_bytes;
            }
            let (objects, bytes) = (removed.objects, removed.bytes);
            Ok(PruneResponse { images, objects, bytes, left_bytes, ..Default::default() })
        })
        .await
    }
}
