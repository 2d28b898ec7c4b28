//! Layers of several images, read together.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::*;
use d4c_image::error::SourceError;
use d4c_image::layers::{LayerError, ReadLayer, ReadLayers};
use d4c_image::source::OpenImage;
use dimg::Digest;
use dimg::content::open_exact;

/// The layers of `images`, and how many were read for it.
fn read(layers: &ReadLayers, images: &[&OpenImage], dir: &Path) -> (Vec<Vec<Arc<ReadLayer>>>, usize) {
    let told = AtomicUsize::new(0);
    let threads = NonZeroUsize::new(3).unwrap();
    let read = layers.read(images, threads, dir, &|| _ = told.fetch_add(1, Ordering::Relaxed));
    (read.unwrap(), told.into_inner())
}

#[test]
fn what_images_have_in_common_is_read_once() {
    let dir = tempfile::tempdir().unwrap();
    let [one, two] = ["one", "two"].map(|tag| open(&format!("oci:{}:{tag}", layout())));
    let layers = ReadLayers::default();
    let (both, count) = read(&layers, &[&one, &two], dir.path());
    assert_eq!((both[0].len(), both[1].len(), count), (1, 2, 2));
    assert!(Arc::ptr_eq(&both[0][0], &both[1][0]));
    for (read, layer) in both[1].iter().zip(two.layers()) {
        assert_eq!(read.layer.diff_id, layer.diff_id);
        for content in read.layer.index.contents() {
            assert_eq!(Digest::of(&open_exact(read, &content).unwrap()), content.digest);
        }
    }
    let held = both.into_iter().next();
    let (again, count) = read(&layers, &[&two], dir.path());
    assert!(Arc::ptr_eq(&again[0][0], &held.as_ref().unwrap()[0]));
    assert_eq!(count, 1);
    drop((held, again));
    assert_eq!(read(&layers, &[&two, &two], dir.path()).1, 2);
}

#[test]
fn a_layer_that_is_missing_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let layout = damaged(dir.path());
    let image = open(&format!("oci:{layout}:two"));
    std::fs::remove_file(blob(&layout, image.layers()[1].digest)).unwrap();
    let failed = ReadLayers::default().read(&[&image], NonZeroUsize::MIN, dir.path(), &|| ());
    assert!(matches!(failed, Err(LayerError::Source(SourceError::Corrupt { .. }))), "{failed:?}");
}
