//! gRPC: what containerd's proxy plugin dials.

use protobuf::well_known_types::empty::Empty;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::Service;
use crate::api::grpc::snapshots_server::Snapshots;
use crate::api::snapshots::{
    CleanupRequest, CommitSnapshotRequest, ListSnapshotsRequest, ListSnapshotsResponse, MountsRequest,
    MountsResponse, PrepareSnapshotRequest, PrepareSnapshotResponse, RemoveSnapshotRequest,
    StatSnapshotRequest, StatSnapshotResponse, UpdateSnapshotRequest, UpdateSnapshotResponse, UsageRequest,
    UsageResponse, ViewSnapshotRequest, ViewSnapshotResponse,
};

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl Snapshots for Service {
    type ListStream = ReceiverStream<Result<ListSnapshotsResponse, Status>>;

    async fn prepare(&self, r: Request<PrepareSnapshotRequest>) -> Answer<PrepareSnapshotResponse> {
        Ok(Response::new(self.run(r.into_inner(), super::prepare).await?))
    }

    async fn view(&self, r: Request<ViewSnapshotRequest>) -> Answer<ViewSnapshotResponse> {
        Ok(Response::new(self.run(r.into_inner(), super::view).await?))
    }

    async fn mounts(&self, r: Request<MountsRequest>) -> Answer<MountsResponse> {
        Ok(Response::new(self.run(r.into_inner(), super::mounts).await?))
    }

    async fn commit(&self, r: Request<CommitSnapshotRequest>) -> Answer<Empty> {
        Ok(Response::new(self.run(r.into_inner(), super::commit).await?))
    }

    async fn remove(&self, r: Request<RemoveSnapshotRequest>) -> Answer<Empty> {
        Ok(Response::new(self.run(r.into_inner(), super::remove).await?))
    }

    async fn stat(&self, r: Request<StatSnapshotRequest>) -> Answer<StatSnapshotResponse> {
        Ok(Response::new(self.run(r.into_inner(), super::stat).await?))
    }

    async fn update(&self, r: Request<UpdateSnapshotRequest>) -> Answer<UpdateSnapshotResponse> {
        Ok(Response::new(self.run(r.into_inner(), super::update).await?))
    }

    async fn list(&self, r: Request<ListSnapshotsRequest>) -> Answer<Self::ListStream> {
        let batches = self.run(r.into_inner(), super::list).await?;
        let (send, receive) = mpsc::channel(1);
        tokio::spawn(async move {
            for batch in batches {
                // The client may have seen enough.
                if send.send(Ok(batch)).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(receive)))
    }

    async fn usage(&self, r: Request<UsageRequest>) -> Answer<UsageResponse> {
        Ok(Response::new(self.run(r.into_inner(), super::usage).await?))
    }

    async fn cleanup(&self, r: Request<CleanupRequest>) -> Answer<Empty> {
        Ok(Response::new(self.run(r.into_inner(), super::cleanup).await?))
    }
}
