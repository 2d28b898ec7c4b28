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

    /// Checks that the tar of `layer` has the digest `found`.
    ///
    /// # Errors
    /// It has not.
    pub(super) fn check_layer(&self, layer: &SideLayer, found: Digest) -> Result<(), Failure> {
        if found == layer.diff_id {
            return Ok(());
        }
        let why = format!("the diff ID of a layer is {found}, expected {}", layer.diff_id);
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
                    .and_then(|_| image.check_layer(layer, hasher.finish()));
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
