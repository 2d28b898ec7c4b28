//! Diff IDs recomputed: each layer's tar is written again, into a hash.

use std::io::Cursor;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use d4c_image::tar;
use d4c_sys::on_threads;
use dimg::Digest;
use dimg::build::SideLayer;
use dimg::content::{ContentSource, open_exact};

use super::{Image, Opener};
use crate::failure::{Failure, Kind};
use crate::progress::Unit;

impl Image {
    /// Writes the tar of `layer`, one of ours, to `out`; its bytes.
    ///
    /// # Errors
    /// A content is missing, `out` fails, or the index is not one of a tar.
    pub(super) fn write_layer(
        &self,
        layer: &SideLayer,
        out: &mut dyn std::io::Write,
    ) -> Result<u64, Failure> {
        let contents: &dyn ContentSource = &self.contents;
        let mut open = |content: &dimg::index::Content| {
            open_exact(contents, content).map(|bytes| Box::new(Cursor::new(bytes)) as Box<dyn std::io::Read>)
        };
        tar::write(&layer.index, &mut open, out).map_err(Failure::tar_write(layer.diff_id))
    }

    /// Checks that the tar of `layer` has the digest `found`, and as many bytes as a manifest is going to say.
    ///
    /// # Errors
    /// It has not.
    pub(super) fn check_layer(&self, layer: &SideLayer, found: Digest, bytes: u64) -> Result<(), Failure> {
        let (expected, said) = (layer.diff_id, layer.tar_bytes);
        let why = match (found == expected, bytes == said) {
            (true, true) => return Ok(()),
            (false, _) => format!("the diff ID of a layer is {found}, expected {expected}"),
            (true, false) => format!("layer {expected} has {bytes} bytes, not the {said} that are told"),
        };
        Err(Failure::new(Kind::Corrupt, "verify image", &self.name, why))
    }

    /// Recomputes the diff IDs of the layers that have not been seen yet; how many were.
    ///
    /// # Errors
    /// One is another, or cannot be made.
    pub(crate) fn verify(&mut self, opener: &Opener<'_>) -> Result<usize, Failure> {
        let todo: Vec<&SideLayer> =
            self.layers.iter().filter(|layer| !self.verified.contains(&layer.diff_id)).collect();
        opener.progress.stage("verify layers", Unit::Layers, todo.len() as u64);
        let next = AtomicUsize::new(0);
        let failed: Mutex<Option<Failure>> = Mutex::new(None);
        let image = &*self;
        on_threads(opener.threads.get().min(todo.len()), || {
            while let Some(layer) = todo.get(next.fetch_add(1, Ordering::Relaxed)) {
                let mut hasher = dimg::Hasher::new();
                let checked = image
                    .write_layer(layer, &mut hasher)
                    .and_then(|bytes| image.check_layer(layer, hasher.finish(), bytes));
                if let Err(failure) = checked {
                    failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(failure);
                    return;
                }
                opener.progress.add(1);
            }
        });
        if let Some(failure) = failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err(failure);
        }
        let ids: Vec<Digest> = todo.iter().map(|layer| layer.diff_id).collect();
        let count = ids.len();
        self.verified.extend(ids);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::sync::Arc;

    use dimg::index::{LayerIndex, Tail};

    use super::*;

    #[test]
    fn a_layer_has_the_digest_and_the_bytes_that_are_told() {
        let tail = Tail { zero_bytes: 1024, rest: Box::default() };
        let index = Arc::new(LayerIndex { tail, ..LayerIndex::default() });
        let image = Image {
            name: "i".to_owned(),
            manifest_digest: Digest([0; 32]),
            config_digest: Digest([0; 32]),
            documents: None,
            layers: Vec::new(),
            contents: Vec::new(),
            verified: HashSet::new(),
        };
        let written = |diff_id, tar_bytes| {
            let layer = SideLayer { diff_id, tar_bytes, index: Arc::clone(&index) };
            let mut hasher = dimg::Hasher::new();
            let bytes = image.write_layer(&layer, &mut hasher)?;
            image.check_layer(&layer, hasher.finish(), bytes)
        };
        let diff_id = Digest::of(&[0; 1024]);
        written(diff_id, 1024).unwrap();
        let failure = written(diff_id, 1023).unwrap_err();
        assert_eq!(failure.kind, Kind::Corrupt);
        assert!(failure.to_string().ends_with("has 1024 bytes, not the 1023 that are told"), "{failure}");
        assert!(written(Digest([1; 32]), 1024).unwrap_err().to_string().contains("expected sha256:0101"));
    }
}
