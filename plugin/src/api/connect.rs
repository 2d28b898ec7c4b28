//! A gRPC channel over a Unix socket, and the headers that containerd's services read.

use std::path::Path;

use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

use crate::error::Error;

/// Opens a channel to the gRPC service that listens at `socket`.
///
/// # Errors
/// `Unavailable` if nothing listens there, `InvalidArgument` if the path is not UTF-8.
pub async fn connect(socket: &Path) -> Result<Channel, Error> {
    let path = socket.to_str().ok_or_else(|| Error::InvalidArgument {
        what: format!("connect: {}: the path of a socket must be UTF-8", socket.display()),
    })?;
    let unavailable = |e: tonic::transport::Error| {
        // tonic's own text says only "transport error"; the reason stands at the end of the chain.
        let mut cause: &dyn std::error::Error = &e;
        while let Some(next) = cause.source() {
            cause = next;
        }
        Error::Unavailable { what: format!("connect: {path}: {cause}") }
    };
    Endpoint::from_shared(format!("unix://{path}")).map_err(unavailable)?.connect().await.map_err(unavailable)
}

/// Adds containerd's namespace, and a lease if there is one, to each call: give it to `with_interceptor` of
/// the generated clients.
#[derive(Clone, Debug)]
pub struct Headers {
    namespace: MetadataValue<Ascii>,
    lease: Option<MetadataValue<Ascii>>,
}

impl Headers {
    /// # Errors
    /// `InvalidArgument` if either is not visible ASCII, as a header must be.
    pub fn new(namespace: &str, lease: Option<&str>) -> Result<Self, Error> {
        let value = |what: &str, s: &str| {
            MetadataValue::try_from(s)
                .map_err(|_| Error::InvalidArgument { what: format!("{what} {s:?}: not visible ascii") })
        };
        Ok(Self {
            namespace: value("namespace", namespace)?,
            lease: lease.map(|l| value("lease", l)).transpose()?,
        })
    }
}

impl Interceptor for Headers {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let headers = request.metadata_mut();
        headers.insert("containerd-namespace", self.namespace.clone());
        if let Some(lease) = &self.lease {
            headers.insert("containerd-lease", lease.clone());
        }
        Ok(request)
    }
}
