//! containerd as a source of images, and ordinary layers beside ours.

use anyhow::{Result, ensure};
use d4c_integration::Sandbox;
use d4c_integration::containerd::Containerd;
use d4c_integration::images::Series;
use d4c_integration::snapshotter::Snapshotter;
use d4c_integration::tree::Tree;

use crate::VERSION;

/// A delta between two images of containerd's content store, applied to the first one there.
#[test]
fn images_are_read_from_the_content_store() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let series = Series::named("tiny")?;
    let containerd = Containerd::start(&sandbox, VERSION)?;
    let name = |tag: &str| format!("example.com/tiny:{tag}");
    for tag in ["v1", "v2"] {
        let archive = sandbox.path(&format!("{tag}.tar"));
        series.copy(tag, &format!("docker-archive:{}:{}", archive.display(), name(tag)))?;
        containerd.import(&archive, "overlayfs")?;
    }
    let source = |tag: &str| format!("containerd:{}", name(tag));
    let delta = sandbox.path("delta.cdimg").to_string_lossy().into_owned();
    containerd.d4c(["diff", &source("v1"), &source("v2"), &delta])?.success()?;
    let layout = sandbox.path("layout");
    let destination = format!("oci:{}:v2", layout.display());
    containerd.d4c(["patch", &source("v1"), &delta, &destination])?.success()?;
    let (image, made) = (series.image("v2")?, Series::at(&layout).image("v2")?);
    ensure!(made.config_digest == image.config_digest, "another config");
    ensure!(made.diff_ids() == image.diff_ids(), "other diff IDs");
    containerd.d4c(["convert", &source("v9"), &delta])?.refused(3, "example.com/tiny:v9")?;
    containerd.d4c(["--namespace", "none", "convert", &source("v1"), &delta])?.refused(3, "tiny:v1")?;
    containerd.stop()?;
    sandbox.close()
}

/// Layers that containerd unpacks itself, alone and on top of a loaded image's.
#[test]
fn ordinary_layers_work_alone_and_on_loaded_ones() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let series = Series::named("tiny")?;
    let plugin = Snapshotter::start(&sandbox, &[])?;
    let containerd = Containerd::start(&sandbox, VERSION)?;
    let archive = |tag: &str| -> Result<_> {
        let archive = sandbox.path(&format!("{tag}.tar"));
        series.copy(tag, &format!("docker-archive:{}:example.com/tiny:{tag}", archive.display()))?;
        Ok(archive)
    };
    containerd.import(&archive("v1")?, "di3fs")?;
    let seen = containerd.run("di3fs", "example.com/tiny:v1", &["cat", "/etc/release"])?;
    ensure!(seen == "v1\n", "{seen}");
    // Releases 2 and 3 share their base layer; only the upper one of 3 is unpacked.
    let (base, delta) = (sandbox.path("v1.cdimg"), sandbox.path("v2.cdimg"));
    let (base, delta) = (base.to_string_lossy(), delta.to_string_lossy());
    containerd.d4c(["convert", &series.source("v1"), &base])?.success()?;
    containerd.d4c(["diff", &series.source("v1"), &series.source("v2"), &delta])?.success()?;
    containerd.d4c(["load", &base, &delta, "--name", "example.com/tiny:loaded"])?.success()?;
    containerd.import(&archive("v3")?, "di3fs")?;
    let mounted =
        containerd.with_mounted("di3fs", "example.com/tiny:v3", &sandbox.path("mounted"), Tree::of)?;
    let other_times = ["", "app/no-entry-for-this", "odd/before-1970"];
    let reference = Tree::of(&series.unpack("v3", &sandbox)?)?.without_mtime_of(&other_times);
    reference.must_equal(&mounted.without_mtime_of(&other_times))?;
    containerd.stop()?;
    plugin.terminate()?;
    sandbox.close()
}
