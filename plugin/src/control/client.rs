//! The command line's side. Calls block.

use std::path::{Path, PathBuf};

use tonic::Code;
use ttrpc::r#async::Client;
use ttrpc::context::{Context, with_duration};

use crate::api::control::{
    ExportRequest, ExportResponse, ImagesRequest, ImagesResponse, ImportRequest, ImportResponse,
    PrefetchRequest, PrefetchResponse, PruneRequest, PruneResponse, ReleaseRequest, StatusRequest,
    StatusResponse,
};
use crate::api::control_ttrpc::ControlClient as Stub;

/// How long an answer may take; an import of a large image on a slow disk takes its time.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(24 * 3600);

/// A failed call of the plugin.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ControlError {
    /// Nothing answers at the socket.
    #[error("connect to di3fs-snapshotter: {}: {why}", socket.display())]
    Connect {
        /// The control socket.
        socket: PathBuf,
        /// Why not.
        why: String,
    },
    /// The plugin refused, in its own words.
    #[error("{message}")]
    Refused {
        /// gRPC's code for the kind of failure.
        code: Code,
        /// One line: what failed, on what, why.
        message: String,
    },
    /// The plugin went away meanwhile.
    #[error("{what}: the connection to di3fs-snapshotter broke: {why}")]
    Broken {
        /// What was asked.
        what: &'static str,
        /// The cause.
        why: String,
    },
}

/// A connection to the plugin.
pub struct ControlClient {
    stub: Stub,
    runtime: tokio::runtime::Runtime,
}

impl std::fmt::Debug for ControlClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ControlClient")
    }
}

impl ControlClient {
    /// Connects to the plugin that listens at `socket`.
    ///
    /// # Errors
    /// Nothing does.
    pub fn connect(socket: &Path) -> Result<Self, ControlError> {
        let failed = |why: String| ControlError::Connect { socket: socket.to_owned(), why };
        // ttrpc's own message for this hides the cause.
        std::os::unix::net::UnixStream::connect(socket).map_err(|error| failed(error.to_string()))?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .map_err(|error| failed(error.to_string()))?;
        let address = format!("unix://{}", socket.display());
        let client =
            runtime.block_on(Client::connect(&address)).map_err(|error| failed(error.to_string()))?;
        Ok(Self { stub: Stub::new(client), runtime })
    }

    /// Imports the cdimg at `path`, which is absolute. The image is kept until [`ControlClient::release`], or an hour.
    ///
    /// # Errors
    /// The plugin refuses it.
    pub fn import(&self, path: &str) -> Result<ImportResponse, ControlError> {
        let request = ImportRequest { path: path.to_owned(), ..Default::default() };
        self.wait("import", self.stub.import(context(), &request))
    }

    /// As [`ControlClient::import`], of an image that is only what deltas start from.
    ///
    /// # Errors
    /// The plugin refuses it.
    pub fn import_base(&self, path: &str) -> Result<ImportResponse, ControlError> {
        let request = ImportRequest { path: path.to_owned(), base_only: true, ..Default::default() };
        self.wait("import", self.stub.import(context(), &request))
    }

    /// Has the plugin make an image that it knows ready to be run, and hold it.
    ///
    /// # Errors
    /// It does not know it.
    pub fn restore(&self, manifest_digest: &str) -> Result<ImportResponse, ControlError> {
        let request = ImportRequest { manifest_digest: manifest_digest.to_owned(), ..Default::default() };
        self.wait("import", self.stub.import(context(), &request))
    }

    /// Ends the hold of one import of the image.
    ///
    /// # Errors
    /// No digest, or the plugin is gone.
    pub fn release(&self, manifest_digest: &str) -> Result<(), ControlError> {
        let request = ReleaseRequest { manifest_digest: manifest_digest.to_owned(), ..Default::default() };
        self.wait("release", self.stub.release(context(), &request)).map(drop)
    }

    /// Has the plugin complete an image that it knows, and hold it as an import does; where it lies.
    ///
    /// # Errors
    /// It does not know it, or cannot complete it.
    pub fn export(&self, manifest_digest: &str) -> Result<ExportResponse, ControlError> {
        let request = ExportRequest { manifest_digest: manifest_digest.to_owned(), ..Default::default() };
        self.wait("export", self.stub.export(context(), &request))
    }

    /// The images that the plugin knows.
    ///
    /// # Errors
    /// It cannot read its records.
    pub fn images(&self) -> Result<ImagesResponse, ControlError> {
        self.wait("list images", self.stub.images(context(), &ImagesRequest::new()))
    }

    /// How the plugin is.
    ///
    /// # Errors
    /// It cannot read its records.
    pub fn status(&self) -> Result<StatusResponse, ControlError> {
        self.wait("status", self.stub.status(context(), &StatusRequest::new()))
    }

    /// Makes all that is missing of an image that the plugin knows.
    ///
    /// # Errors
    /// It does not know it, or something cannot be made.
    pub fn prefetch(&self, manifest_digest: &str) -> Result<PrefetchResponse, ControlError> {
        let request = PrefetchRequest { manifest_digest: manifest_digest.to_owned(), ..Default::default() };
        self.wait("prefetch", self.stub.prefetch(context(), &request))
    }

    /// Forgets images that containerd does not use; with `keep_bytes` also removes contents that can be made again and are not
    /// in use until the store has no more than this.
    ///
    /// # Errors
    /// Something cannot be removed.
    pub fn prune(&self, keep_bytes: Option<u64>) -> Result<PruneResponse, ControlError> {
        let request = PruneRequest { keep_bytes: keep_bytes.unwrap_or(0), ..Default::default() };
        self.wait("prune", self.stub.prune(context(), &request))
    }

    fn wait<T>(
        &self,
        what: &'static str,
        call: impl Future<Output = ttrpc::Result<T>>,
    ) -> Result<T, ControlError> {
        self.runtime.block_on(call).map_err(|error| match error {
            ttrpc::Error::RpcStatus(status) => {
                ControlError::Refused { code: Code::from_i32(status.code.value()), message: status.message }
            }
            other => ControlError::Broken { what, why: other.to_string() },
        })
    }
}

fn context() -> Context {
    with_duration(PATIENCE)
}
