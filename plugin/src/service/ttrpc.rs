//! ttrpc: the same service for clients without HTTP/2.

use async_trait::async_trait;
use protobuf::well_known_types::empty::Empty;
use ttrpc::r#async::{ServerStreamSender, TtrpcContext};

use super::Service;
use crate::api::snapshots::{
    CleanupRequest, CommitSnapshotRequest, ListSnapshotsRequest, ListSnapshotsResponse, MountsRequest,
    MountsResponse, PrepareSnapshotRequest, PrepareSnapshotResponse, RemoveSnapshotRequest,
    StatSnapshotRequest, StatSnapshotResponse, UpdateSnapshotRequest, UpdateSnapshotResponse, UsageRequest,
    UsageResponse, ViewSnapshotRequest, ViewSnapshotResponse,
};
use crate::api::snapshots_ttrpc::Snapshots;

#[async_trait]
impl Snapshots for Service {
    async fn prepare(
        &self,
        _: &TtrpcContext,
        r: PrepareSnapshotRequest,
    ) -> ttrpc::Result<PrepareSnapshotResponse> {
        Ok(self.run(r, super::prepare).await?)
    }

    async fn view(&self, _: &TtrpcContext, r: ViewSnapshotRequest) -> ttrpc::Result<ViewSnapshotResponse> {
        Ok(self.run(r, super::view).await?)
    }

    async fn mounts(&self, _: &TtrpcContext, r: MountsRequest) -> ttrpc::Result<MountsResponse> {
        Ok(self.run(r, super::mounts).await?)
    }

    async fn commit(&self, _: &TtrpcContext, r: CommitSnapshotRequest) -> ttrpc::Result<Empty> {
        Ok(self.run(r, super::commit).await?)
    }

    async fn remove(&self, _: &TtrpcContext, r: RemoveSnapshotRequest) -> ttrpc::Result<Empty> {
        Ok(self.run(r, super::remove).await?)
    }

    async fn stat(&self, _: &TtrpcContext, r: StatSnapshotRequest) -> ttrpc::Result<StatSnapshotResponse> {
        Ok(self.run(r, super::stat).await?)
    }

    async fn update(
        &self,
        _: &TtrpcContext,
        r: UpdateSnapshotRequest,
    ) -> ttrpc::Result<UpdateSnapshotResponse> {
        Ok(self.run(r, super::update).await?)
    }

    async fn list(
        &self,
        _: &TtrpcContext,
        r: ListSnapshotsRequest,
        sender: ServerStreamSender<ListSnapshotsResponse>,
    ) -> ttrpc::Result<()> {
        for batch in self.run(r, super::list).await? {
            sender.send(&batch).await?;
        }
        Ok(())
    }

    async fn usage(&self, _: &TtrpcContext, r: UsageRequest) -> ttrpc::Result<UsageResponse> {
        Ok(self.run(r, super::usage).await?)
    }

    async fn cleanup(&self, _: &TtrpcContext, r: CleanupRequest) -> ttrpc::Result<Empty> {
        Ok(self.run(r, super::cleanup).await?)
    }
}
