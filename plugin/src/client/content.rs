//! Small blobs in containerd's content store: manifests and configs.

use std::collections::HashMap;

use dimg::Digest;
use protobuf::MessageField;
use protobuf::well_known_types::field_mask::FieldMask;
use tokio_stream::StreamExt;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::ClientError;
use crate::api::Headers;
use crate::api::content::{Info, UpdateRequest, WriteAction, WriteContentRequest};
use crate::api::grpc::content_client::ContentClient;

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
    match write(client, request).await {
        Ok(()) => Ok(digest),
        Err(status) if status.code() == Code::AlreadyExists => {
            label(client, what, digest, labels).await.map(|()| digest)
        }
        Err(status) => Err(ClientError::call(what, digest.to_string())(status)),
    }
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
