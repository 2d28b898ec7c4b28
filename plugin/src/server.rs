//! One Unix socket for both wires. The first byte of a connection tells them apart: `P` begins the HTTP/2 preface,
//! zero the length of a ttrpc frame (no frame is longer than 4 MiB).

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener as StdListener, UnixStream as StdStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use std::{fs, future::Future};

use nix::sys::socket::{MsgFlags, recv};
use tokio::io::Interest;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;

use crate::api::grpc::snapshots_server::SnapshotsServer;
use crate::api::snapshots_ttrpc::create_snapshots;
use crate::error::{Error, Result};
use crate::service::Service;

/// The largest request taken, as in containerd.
const MAX_MESSAGE_BYTES: usize = 16 << 20;
/// A client that says nothing for so long is let go.
const FIRST_BYTE: Duration = Duration::from_secs(30);
/// How long clients may take to leave when the server ends.
const GRACE: Duration = Duration::from_secs(10);

/// A listening socket file, mode 0600, removed when dropped.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    path: PathBuf,
    inode: u64,
}

impl Socket {
    /// Listens at `path`. A file that a dead process left is replaced. Needs a tokio runtime.
    ///
    /// # Errors
    /// `InUse` if a process listens there; `Io` if it is something else than a socket, or cannot be made.
    pub fn bind(path: &Path) -> Result<Self> {
        if let Some(dir) = path.parent().filter(|d| !d.as_os_str().is_empty()) {
            let made = fs::DirBuilder::new().recursive(true).mode(0o711).create(dir);
            made.map_err(Error::io("make directory", dir))?;
        }
        match StdStream::connect(path) {
            Ok(_) => return Err(Error::InUse { what: "socket", path: path.to_owned() }),
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {}
            Err(e) => return Err(Error::io("look at socket", path)(e)),
        }
        if let Ok(meta) = fs::symlink_metadata(path) {
            use std::os::unix::fs::FileTypeExt;
            if !meta.file_type().is_socket() {
                return Err(Error::io("replace socket", path)(io::Error::other("not a socket")));
            }
        }
        // Under another name until its mode is right; the rename also replaces a stale file in one step.
        let mut fresh = path.as_os_str().to_owned();
        fresh.push(".new");
        let fresh = PathBuf::from(fresh);
        let _ = fs::remove_file(&fresh);
        let failed = |action| Error::io(action, path);
        let std = StdListener::bind(&fresh).map_err(failed("listen on socket"))?;
        fs::set_permissions(&fresh, fs::Permissions::from_mode(0o600)).map_err(failed("set mode"))?;
        let inode = fs::symlink_metadata(&fresh).map_err(failed("look at socket"))?.ino();
        fs::rename(&fresh, path).map_err(failed("rename socket"))?;
        std.set_nonblocking(true).map_err(failed("listen on socket"))?;
        let listener = UnixListener::from_std(std).map_err(failed("listen on socket"))?;
        Ok(Self { listener, path: path.to_owned(), inode })
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // Another plugin may have its own there by now.
        if fs::symlink_metadata(&self.path).is_ok_and(|m| m.ino() == self.inode) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Serves until `stop` resolves; then takes no new connection, lets requests under way end, and returns.
///
/// # Errors
/// If one of the two servers cannot start or fails.
pub async fn serve(socket: Socket, service: Service, stop: impl Future<Output = ()> + Send) -> Result<()> {
    let (to_grpc, grpc_streams) = mpsc::channel::<io::Result<UnixStream>>(16);
    let (to_ttrpc, ttrpc_streams) = mpsc::channel::<io::Result<UnixStream>>(16);
    let failed = |e: &dyn std::fmt::Display| Error::Unavailable { what: format!("serve: {e}") };

    let listener = ttrpc::asynchronous::transport::Listener::new(ReceiverStream::new(ttrpc_streams));
    let mut ttrpc = ttrpc::r#async::Server::new()
        .add_listener(listener)
        .register_service(create_snapshots(Arc::new(service.clone())));
    ttrpc.start().await.map_err(|e| failed(&e))?;

    let (end_grpc, grpc_ends) = tokio::sync::oneshot::channel::<()>();
    let snapshots = SnapshotsServer::new(service).max_decoding_message_size(MAX_MESSAGE_BYTES);
    let mut grpc = tokio::spawn(
        tonic::transport::Server::builder().add_service(snapshots).serve_with_incoming_shutdown(
            ReceiverStream::new(grpc_streams),
            async {
                let _ = grpc_ends.await;
            },
        ),
    );
    tracing::info!(socket = %socket.path.display(), "serving snapshots over grpc and ttrpc");
    tokio::select! {
        () = accept(&socket.listener, &to_grpc, &to_ttrpc) => {}
        () = stop => {}
        ended = &mut grpc => {
            let text = match ended {
                Ok(Ok(())) => "grpc server ended".to_owned(),
                Ok(Err(e)) => e.to_string(),
                Err(e) => e.to_string(),
            };
            return Err(failed(&text));
        }
    }
    drop(socket);
    tracing::info!("ending, requests under way are finished first");
    let _ = end_grpc.send(());
    if tokio::time::timeout(GRACE, grpc).await.is_err() {
        tracing::warn!("grpc clients did not leave in time");
    }
    match tokio::time::timeout(GRACE, ttrpc.shutdown()).await {
        Ok(Ok(())) => {}
        Ok(Err(e)) => tracing::warn!(error = %e, "ttrpc server did not end cleanly"),
        Err(_) => tracing::warn!("ttrpc clients did not leave in time"),
    }
    Ok(())
}

type Wire = mpsc::Sender<io::Result<UnixStream>>;

/// Hands each connection to the server of its wire; never returns.
async fn accept(listener: &UnixListener, grpc: &Wire, ttrpc: &Wire) {
    let mut undecided = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let (grpc, ttrpc) = (grpc.clone(), ttrpc.clone());
                    undecided.spawn(sort(stream, grpc, ttrpc));
                }
                Err(e) => {
                    // Out of file descriptors, most likely: one must close before the next can be accepted.
                    tracing::warn!(error = %e, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
            Some(_) = undecided.join_next() => {}
        }
    }
}

async fn sort(stream: UnixStream, grpc: Wire, ttrpc: Wire) {
    let sent = match tokio::time::timeout(FIRST_BYTE, first_byte(&stream)).await {
        Ok(Ok(Some(b'P'))) => grpc.send(Ok(stream)).await,
        Ok(Ok(Some(0))) => ttrpc.send(Ok(stream)).await,
        Ok(Ok(Some(other))) => {
            tracing::debug!(byte = other, "neither grpc nor ttrpc, connection closed");
            return;
        }
        Ok(Ok(None) | Err(_)) | Err(_) => return,
    };
    if sent.is_err() {
        tracing::debug!("connection closed, the server is ending");
    }
}

/// Looks at the first byte without taking it; `None` at the end of the stream.
async fn first_byte(stream: &UnixStream) -> io::Result<Option<u8>> {
    loop {
        stream.readable().await?;
        let peeked = stream.try_io(Interest::READABLE, || {
            let mut byte = [0];
            let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
            let n = recv(stream.as_raw_fd(), &mut byte, flags)?;
            Ok((n == 1).then_some(byte[0]))
        });
        match peeked {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            other => return other,
        }
    }
}
