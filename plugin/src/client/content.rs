//! Small blobs in containerd's content store: manifests and configs.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use dimg::Digest;
use protobuf::MessageField;
use protobuf::well_known_types::field_mask::FieldMask;
use tokio::time::sleep;
use tokio_stream::StreamExt;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::ClientError;
use crate::api::Headers;
use crate::api::content::{Info, UpdateRequest, WriteAction, WriteContentRequest};
use crate::api::grpc::content_client::ContentClient;

/// How long another client may take to write a manifest or config.
const LOCKED: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(20);

pub(super) type Client = ContentClient<InterceptedService<Channel, Headers>>;

/// Writes `bytes` with `labels`; where the store has them already, adds the labels.
pub(super) async fn put(
    client: &mut Client,
    what: &'static str,
    bytes: &[u8],
    labels: HashMap<String, String>,
) -> Result<Digest, ClientError> {
    let digest = Digest::of(bytes);
    let total = i64::try_from(bytes.len())
        .map_err(|_| ClientError::Usage { why: format!("{what}: {digest}: too large") })?;
    let request = WriteContentRequest {
        action: WriteAction::COMMIT.into(),
        ref_: format!("d4c-{digest}"),
        total,
        expected: digest.to_string(),
        data: bytes.to_vec(),
        labels: labels.clone(),
        ..Default::default()
    };
    let until = Instant::now() + LOCKED;
    let written = loop {
        match write(client, request.clone()).await {
            // Another one writes the same, or has just been killed at it.
            Err(status) if is_locked(&status) && Instant::now() < until => sleep(PAUSE).await,
            written => break written,
        }
    };
    match written {
        Ok(()) => Ok(digest),
        Err(status) if status.code() == Code::AlreadyExists => {
            label(client, what, digest, labels).await.map(|()| digest)
        }
        Err(status) => Err(ClientError::call(what, digest.to_string())(status)),
    }
}

/// Whether containerd's store does not take a blob because it takes it from another client.
fn is_locked(status: &Status) -> bool {
    status.code() == Code::Unavailable && status.message().contains(" locked")
}

async fn write(client: &mut Client, request: WriteContentRequest) -> Result<(), Status> {
    let mut answers = client.write(tokio_stream::once(request)).await?.into_inner();
    while let Some(answer) = answers.next().await {
        answer?;
    }
    Ok(())
}

async fn label(
    client: &mut Client,
    what: &'static str,
    digest: Digest,
    labels: HashMap<String, String>,
) -> Result<(), ClientError> {
    let paths = labels.keys().map(|key| format!("labels.{key}")).collect();
    let request = UpdateRequest {
        info: MessageField::some(Info { digest: digest.to_string(), labels, ..Default::default() }),
        update_mask: MessageField::some(FieldMask { paths, ..Default::default() }),
        ..Default::default()
    };
    client.update(request).await.map_err(ClientError::call(what, digest.to_string()))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_locked_is_waited_for() {
        let locked = "ref default/1/d4c-sha256:77 locked for 1.3ms (since 2026-11-28)";
        assert!(is_locked(&Status::unavailable(locked)));
        assert!(!is_locked(&Status::unavailable("connection refused")));
        assert!(!is_locked(&Status::failed_precondition(locked)));
    }
}
