//! Making containerd know an image whose layers the snapshotter has.
//!
//! Everything happens under a lease, so that garbage collection leaves what is half done alone: each layer is asked for
//! through containerd's Snapshots service with the label of the remote snapshot flow, which makes containerd adopt the
//! snapshotter's committed snapshot; config and manifest are written with the labels that keep the chain of snapshots
//! and each other alive; last comes the image record. Doing it again is harmless.

use std::collections::HashMap;

use dimg::Digest;
use protobuf::MessageField;
use protobuf::well_known_types::field_mask::FieldMask;
use tonic::Code;

use super::content;
use super::{ClientError, Containerd};
use crate::api::Headers;
use crate::api::descriptor::Descriptor;
use crate::api::grpc::content_client::ContentClient;
use crate::api::grpc::images_client::ImagesClient;
use crate::api::grpc::snapshots_client::SnapshotsClient;
use crate::api::images::{CreateImageRequest, Image, UpdateImageRequest};
use crate::api::snapshots::{PrepareSnapshotRequest, RemoveSnapshotRequest};

const REF_LABEL: &str = "containerd.io/snapshot.ref";

/// An image to make known: its documents, byte for byte.
#[derive(Debug, Clone)]
pub struct NewImage<'a> {
    /// The name that the image gets, e.g. `docker.io/library/nginx:1.27`.
    pub name: &'a str,
    /// The manifest.
    pub manifest: &'a [u8],
    /// The manifest's media type.
    pub media_type: &'a str,
    /// The config.
    pub config: &'a [u8],
    /// Digests of the layer blobs that the manifest names; none of them needs to be in the store.
    pub layers: &'a [Digest],
    /// Chain IDs of the layers, lowest first.
    pub chain_ids: &'a [Digest],
}

/// What [`Containerd::load`] did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    /// The image's name.
    pub name: String,
    /// Its manifest's digest.
    pub manifest: Digest,
}

impl Containerd {
    /// Makes `image` known in this namespace, its layers in `snapshotter`. An image of that name is replaced.
    ///
    /// # Errors
    /// The snapshotter does not have a layer, or containerd refuses a call. Nothing but unreferenced records, which the
    /// next garbage collection removes, is left then.
    pub fn load(&self, image: &NewImage<'_>, snapshotter: &str) -> Result<Loaded, ClientError> {
        self.wait(async {
            let lease = self.begin_lease().await?;
            let result = self.load_under(&lease, image, snapshotter).await;
            let ended = self.end_lease(lease).await;
            let loaded = result?;
            ended.map(|()| loaded)
        })
    }

    async fn load_under(
        &self,
        lease: &str,
        image: &NewImage<'_>,
        snapshotter: &str,
    ) -> Result<Loaded, ClientError> {
        let headers = self.headers(Some(lease))?;
        let mut parent = String::new();
        for chain_id in image.chain_ids {
            let chain_id = chain_id.to_string();
            self.adopt(&headers, snapshotter, &parent, &chain_id).await?;
            parent = chain_id;
        }

        let mut blobs = ContentClient::with_interceptor(self.channel.clone(), headers.clone());
        let keeps_chain = (format!("containerd.io/gc.ref.snapshot.{snapshotter}"), parent);
        let labels = image.chain_ids.last().map(|_| keeps_chain).into_iter().collect();
        let config = content::put(&mut blobs, "write config", image.config, labels).await?;
        let mut labels =
            HashMap::from([("containerd.io/gc.ref.content.config".to_owned(), config.to_string())]);
        for (number, layer) in image.layers.iter().enumerate() {
            labels.insert(format!("containerd.io/gc.ref.content.l.{number}"), layer.to_string());
        }
        let manifest = content::put(&mut blobs, "write manifest", image.manifest, labels).await?;
        self.name(&headers, image, manifest).await?;
        Ok(Loaded { name: image.name.to_owned(), manifest })
    }

    /// Has containerd adopt the snapshotter's snapshot of one layer.
    async fn adopt(
        &self,
        headers: &Headers,
        snapshotter: &str,
        parent: &str,
        chain_id: &str,
    ) -> Result<(), ClientError> {
        let mut client = SnapshotsClient::with_interceptor(self.channel.clone(), headers.clone());
        let key = format!("d4c-load-{} {chain_id}", std::process::id());
        let request = PrepareSnapshotRequest {
            snapshotter: snapshotter.to_owned(),
            key: key.clone(),
            parent: parent.to_owned(),
            labels: HashMap::from([(REF_LABEL.to_owned(), chain_id.to_owned())]),
            ..Default::default()
        };
        match client.prepare(request).await {
            Err(status) if status.code() == Code::AlreadyExists => Ok(()),
            Err(status) => Err(ClientError::call("load layer", chain_id)(status)),
            Ok(_) => {
                // It gave an empty snapshot to unpack into instead.
                let request =
                    RemoveSnapshotRequest { snapshotter: snapshotter.to_owned(), key, ..Default::default() };
                client.remove(request).await.map_err(ClientError::call("remove snapshot", chain_id))?;
                Err(ClientError::NotThere {
                    chain_id: chain_id.to_owned(),
                    snapshotter: snapshotter.to_owned(),
                })
            }
        }
    }

    async fn name(
        &self,
        headers: &Headers,
        image: &NewImage<'_>,
        manifest: Digest,
    ) -> Result<(), ClientError> {
        let size = i64::try_from(image.manifest.len()).unwrap_or(i64::MAX);
        let target = Descriptor {
            media_type: image.media_type.to_owned(),
            digest: manifest.to_string(),
            size,
            ..Default::default()
        };
        let record =
            Image { name: image.name.to_owned(), target: MessageField::some(target), ..Default::default() };
        let record = MessageField::some(record);
        let mut images = ImagesClient::with_interceptor(self.channel.clone(), headers.clone());
        let create = CreateImageRequest { image: record.clone(), ..Default::default() };
        match images.create(create).await {
            Ok(_) => return Ok(()),
            Err(status) if status.code() == Code::AlreadyExists => {}
            Err(status) => return Err(ClientError::call("create image", image.name)(status)),
        }
        let mask = FieldMask { paths: vec!["target".to_owned()], ..Default::default() };
        let update =
            UpdateImageRequest { image: record, update_mask: MessageField::some(mask), ..Default::default() };
        images.update(update).await.map_err(ClientError::call("update image", image.name))?;
        Ok(())
    }
}
