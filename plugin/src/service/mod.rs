//! The Snapshots service on both wires: each request is turned into one call of [`Snapshotter`] on a blocking
//! thread, in one place for gRPC (`grpc`) and ttrpc (`ttrpc`).

mod grpc;
mod ttrpc;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use protobuf::well_known_types::empty::Empty;
use protobuf::well_known_types::timestamp::Timestamp;
use protobuf::{EnumOrUnknown, MessageField};

use crate::api::mount::Mount;
use crate::api::snapshots::{
    self as api, CleanupRequest, CommitSnapshotRequest, ListSnapshotsRequest, ListSnapshotsResponse,
    MountsRequest, MountsResponse, PrepareSnapshotRequest, PrepareSnapshotResponse, RemoveSnapshotRequest,
    StatSnapshotRequest, StatSnapshotResponse, UpdateSnapshotRequest, UpdateSnapshotResponse, UsageRequest,
    UsageResponse, ViewSnapshotRequest, ViewSnapshotResponse,
};
use crate::error::{Error, Result};
use crate::mounts::MountSpec;
use crate::snapshot::{Info, Kind, Labels};
use crate::snapshotter::Snapshotter;

/// Infos in one message of a List.
const BATCH: usize = 100;

/// The service; cheap to clone.
#[derive(Clone)]
pub struct Service(Arc<Snapshotter>);

impl Service {
    /// Serves a snapshotter.
    #[must_use]
    pub fn new(snapshotter: Arc<Snapshotter>) -> Self {
        Self(snapshotter)
    }

    /// Runs `call` where it may block. One that has begun ends even if its client goes away.
    async fn run<Q, A>(&self, request: Q, call: fn(&Snapshotter, Q) -> Result<A>) -> Result<A>
    where
        Q: Send + 'static,
        A: Send + 'static,
    {
        let snapshotter = self.0.clone();
        tokio::task::spawn_blocking(move || call(&snapshotter, request))
            .await
            .map_err(|e| Error::Internal { what: format!("run request: {e}") })?
            .inspect_err(|e| tracing::debug!(code = ?e.code(), error = %e, "request failed"))
    }
}

fn prepare(s: &Snapshotter, r: PrepareSnapshotRequest) -> Result<PrepareSnapshotResponse> {
    let mounts = mounts_message(s.prepare(&r.key, &r.parent, labels(r.labels))?);
    Ok(PrepareSnapshotResponse { mounts, ..Default::default() })
}

fn view(s: &Snapshotter, r: ViewSnapshotRequest) -> Result<ViewSnapshotResponse> {
    let mounts = mounts_message(s.view(&r.key, &r.parent, labels(r.labels))?);
    Ok(ViewSnapshotResponse { mounts, ..Default::default() })
}

fn mounts(s: &Snapshotter, r: MountsRequest) -> Result<MountsResponse> {
    Ok(MountsResponse { mounts: mounts_message(s.mounts(&r.key)?), ..Default::default() })
}

fn commit(s: &Snapshotter, r: CommitSnapshotRequest) -> Result<Empty> {
    s.commit(&r.name, &r.key, &r.parent, labels(r.labels)).map(|()| Empty::new())
}

fn remove(s: &Snapshotter, r: RemoveSnapshotRequest) -> Result<Empty> {
    s.remove(&r.key).map(|()| Empty::new())
}

fn stat(s: &Snapshotter, r: StatSnapshotRequest) -> Result<StatSnapshotResponse> {
    let info = MessageField::some(info_message(s.stat(&r.key)?));
    Ok(StatSnapshotResponse { info, ..Default::default() })
}

fn update(s: &Snapshotter, r: UpdateSnapshotRequest) -> Result<UpdateSnapshotResponse> {
    let paths = r.update_mask.into_option().unwrap_or_default().paths;
    let info = r.info.into_option().unwrap_or_default();
    let updated = s.update(&info.name, &labels(info.labels), &paths)?;
    Ok(UpdateSnapshotResponse { info: MessageField::some(info_message(updated)), ..Default::default() })
}

fn list(s: &Snapshotter, r: ListSnapshotsRequest) -> Result<Vec<ListSnapshotsResponse>> {
    let mut batches = Vec::new();
    let mut batch = ListSnapshotsResponse::new();
    for info in s.list(&r.filters)? {
        if batch.info.len() == BATCH {
            batches.push(std::mem::take(&mut batch));
        }
        batch.info.push(info_message(info));
    }
    if !batch.info.is_empty() {
        batches.push(batch);
    }
    Ok(batches)
}

fn usage(s: &Snapshotter, r: UsageRequest) -> Result<UsageResponse> {
    let usage = s.usage(&r.key)?;
    Ok(UsageResponse { size: clamp(usage.bytes), inodes: clamp(usage.inodes), ..Default::default() })
}

fn cleanup(s: &Snapshotter, _: CleanupRequest) -> Result<Empty> {
    s.cleanup().map(|()| Empty::new())
}

fn clamp(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// A label with an empty value is no label, as in containerd's own store.
fn labels(labels: HashMap<String, String>) -> Labels {
    labels.into_iter().filter(|(_, value)| !value.is_empty()).collect()
}

fn mounts_message(mounts: Vec<MountSpec>) -> Vec<Mount> {
    let message = |m: MountSpec| Mount {
        type_: m.kind.to_owned(),
        source: m.source,
        options: m.options,
        ..Default::default()
    };
    mounts.into_iter().map(message).collect()
}

fn info_message(info: Info) -> api::Info {
    api::Info {
        name: info.name,
        parent: info.parent,
        kind: EnumOrUnknown::new(match info.kind {
            Kind::View => api::Kind::VIEW,
            Kind::Active => api::Kind::ACTIVE,
            Kind::Committed => api::Kind::COMMITTED,
        }),
        created_at: MessageField::some(timestamp(info.created)),
        updated_at: MessageField::some(timestamp(info.updated)),
        labels: info.labels.into_iter().collect(),
        ..Default::default()
    }
}

/// A clock before 1970 gives 1970.
fn timestamp(time: SystemTime) -> Timestamp {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp {
        seconds: clamp(since.as_secs()),
        nanos: i32::try_from(since.subsec_nanos()).unwrap_or_default(),
        ..Default::default()
    }
}
