//! What containerd has in one namespace: its images' names, and the blobs in its content store.

use std::collections::HashSet;

use dimg::Digest;
use tokio_stream::StreamExt;

use super::{ClientError, Containerd};
use crate::api::content::ListContentRequest;
use crate::api::grpc::content_client::ContentClient;
use crate::api::grpc::images_client::ImagesClient;
use crate::api::images::ListImagesRequest;

impl Containerd {
    /// The names of the images, sorted.
    ///
    /// # Errors
    /// containerd refuses the call.
    pub fn image_names(&self) -> Result<Vec<String>, ClientError> {
        let mut client = ImagesClient::with_interceptor(self.channel.clone(), self.headers(None)?);
        let answer = self
            .wait(client.list(ListImagesRequest::new()))
            .map_err(ClientError::call("list images", &*self.namespace))?;
        let mut names: Vec<String> = answer.into_inner().images.into_iter().map(|image| image.name).collect();
        names.sort_unstable();
        Ok(names)
    }

    /// The digests of the blobs.
    ///
    /// # Errors
    /// containerd refuses the call.
    pub fn blobs(&self) -> Result<HashSet<Digest>, ClientError> {
        let mut client = ContentClient::with_interceptor(self.channel.clone(), self.headers(None)?);
        let list = async {
            let mut answers = client.list(ListContentRequest::new()).await?.into_inner();
            let mut blobs = HashSet::new();
            while let Some(answer) = answers.next().await {
                blobs.extend(answer?.info.iter().filter_map(|info| info.digest.parse::<Digest>().ok()));
            }
            Ok(blobs)
        };
        self.wait(list).map_err(ClientError::call("list blobs", &*self.namespace))
    }
}
