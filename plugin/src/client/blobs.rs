//! containerd's content store as an image source.

use std::io::{self, Read};

use d4c_image::error::SourceError;
use d4c_image::manifest::Descriptor;
use d4c_image::source::BlobStore;
use dimg::Digest;
use tokio_stream::StreamExt;
use tonic::Streaming;

use super::{ClientError, Containerd};
use crate::api::content::{ReadContentRequest, ReadContentResponse};
use crate::api::grpc::content_client::ContentClient;
use crate::api::grpc::images_client::ImagesClient;
use crate::api::images::GetImageRequest;

/// The images and blobs of one namespace.
#[derive(Debug, Clone)]
pub struct ContentBlobs(pub Containerd);

impl BlobStore for ContentBlobs {
    fn resolve(&self, reference: &str) -> Result<Descriptor, SourceError> {
        let get = || -> Result<_, ClientError> {
            let headers = self.0.headers(None)?;
            let mut client = ImagesClient::with_interceptor(self.0.channel.clone(), headers);
            let request = GetImageRequest { name: reference.to_owned(), ..Default::default() };
            self.0.wait(client.get(request)).map_err(ClientError::call("find image", reference))
        };
        let answer = get().map_err(|error| source_error("find image", reference, &error))?;
        let target = answer.into_inner().image.unwrap_or_default().target.unwrap_or_default();
        let bad = |why: String| SourceError::Corrupt {
            what: "find image",
            on: reference.to_owned(),
            offset: None,
            why,
        };
        Ok(Descriptor {
            media_type: target.media_type,
            digest: target.digest.parse().map_err(|error| bad(format!("{error}")))?,
            size: u64::try_from(target.size).map_err(|_| bad(format!("size {}", target.size)))?,
            platform: None,
            annotations: target.annotations.into_iter().collect(),
        })
    }

    fn open_blob(&self, digest: &Digest) -> Result<Box<dyn Read + Send>, SourceError> {
        let read = || -> Result<_, ClientError> {
            let headers = self.0.headers(None)?;
            let mut client = ContentClient::with_interceptor(self.0.channel.clone(), headers);
            let request = ReadContentRequest { digest: digest.to_string(), ..Default::default() };
            self.0
                .wait(async {
                    let mut answers = client.read(request).await?.into_inner();
                    // A missing blob is told only by the first answer.
                    let first = answers.next().await.transpose()?;
                    Ok((first, answers))
                })
                .map_err(ClientError::call("read blob", digest.to_string()))
        };
        let (first, answers) =
            read().map_err(|error| source_error("read blob", &digest.to_string(), &error))?;
        let chunk = first.map(|answer| answer.data).unwrap_or_default();
        Ok(Box::new(BlobReader { containerd: self.0.clone(), answers, chunk, at: 0 }))
    }
}

fn source_error(what: &'static str, on: &str, error: &ClientError) -> SourceError {
    let why = match error {
        // containerd's own message names it once more.
        ClientError::Call { .. } if error.is_not_found() => "not found in containerd".to_owned(),
        ClientError::Call { status, .. } => status.message().to_owned(),
        other => other.to_string(),
    };
    if error.is_not_found() {
        SourceError::NotFound { what, on: on.to_owned(), why }
    } else {
        SourceError::Remote { what, on: on.to_owned(), why }
    }
}

/// A blob as it comes, in the chunks that containerd sends.
struct BlobReader {
    containerd: Containerd,
    answers: Streaming<ReadContentResponse>,
    chunk: Vec<u8>,
    at: usize,
}

impl Read for BlobReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at == self.chunk.len() {
            match self.containerd.wait(self.answers.next()) {
                None => return Ok(0),
                Some(answer) => self.chunk = answer.map_err(io::Error::other)?.data,
            }
            self.at = 0;
        }
        let count = buffer.len().min(self.chunk.len() - self.at);
        buffer[..count].copy_from_slice(&self.chunk[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}
