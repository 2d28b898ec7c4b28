//! containerd snapshotter of delta images: the Snapshots service over gRPC and ttrpc.

#![forbid(unsafe_code)]
