//! `d4c load FILE.tar`, and images of a node as layouts again (`d4c export`).

use std::process::Command;

use anyhow::{Result, ensure};
use d4c_integration::Sandbox;
use d4c_integration::containerd::Containerd;
use d4c_integration::deltas::deltas;
use d4c_integration::images::Series;
use d4c_integration::program::Output;
use d4c_integration::registry::Registry;
use d4c_integration::snapshotter::Snapshotter;

use super::registry::json;
use crate::VERSION;

/// Two deltas of one tar file are loaded onto what containerd pulled itself; the image that nobody has opened yet is exported, and skopeo
/// and containerd read it; the one that was pulled comes out as it went in.
#[test]
fn deltas_of_a_tar_file_become_a_layout() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let series = Series::named("tiny")?;
    let registry = Registry::start(&sandbox)?;
    let plugin = Snapshotter::start(&sandbox, &["--route", "auto", "--finish-after", "3600"])?;
    let containerd = Containerd::start(&sandbox, VERSION)?;
    registry.push(&series, "v1", "app:v1")?;
    let v1 = registry.reference("app:v1");
    containerd.ctr(["images", "pull", "--plain-http", &v1])?.success()?;

    let dir = sandbox.dir("stick")?;
    for (name, file) in ["to-v2", "to-v3"].iter().zip(&deltas("tiny")?[1..]) {
        std::fs::copy(file, dir.join(format!("{name}.cdimg")))?;
    }
    let stick = sandbox.path("stick.tar").to_string_lossy().into_owned();
    let mut tar = Command::new("tar");
    Output::of(tar.arg("-C").arg(&dir).args(["-cf", &stick, "."]))?.success()?;
    let said = json(containerd.d4c(["load", &stick, "--name", "example.com/tiny:v3", "--json"])?)?;
    ensure!(said["images"].as_array().is_some_and(|images| images.len() == 2), "{said}");
    ensure!(said["images"][1]["file"] == format!("{stick}(./to-v3.cdimg)"), "{said}");

    let wanted = series.image("v3")?;
    let text = |path: &std::path::Path| path.to_string_lossy().into_owned();
    let (layout, archive, copied) =
        (sandbox.path("layout"), text(&sandbox.path("v3.tar")), sandbox.path("copied"));
    let to_layout = format!("oci:{}:v3", layout.display());
    let told = json(containerd.d4c(["export", "example.com/tiny:v3", &to_layout, "--json"])?)?;
    ensure!(told["layers"] == "uncompressed" && told["manifest"] == wanted.digest.as_str(), "{told}");
    let to_archive = format!("oci-archive:{archive}:v3");
    let by_digest = json(containerd.d4c(["export", &wanted.digest, &to_archive, "--json"])?)?;
    ensure!(by_digest["written_manifest"] == told["written_manifest"], "{by_digest}");
    let mut skopeo = Command::new("skopeo");
    skopeo.args(["copy", "--quiet", "--preserve-digests", &to_archive, &format!("oci:{}:v3", text(&copied))]);
    Output::of(&mut skopeo)?.success()?;
    for dir in [&layout, &copied] {
        let made = Series::at(dir).image("v3")?;
        ensure!(made.config_digest == wanted.config_digest && made.diff_ids() == wanted.diff_ids());
        ensure!(told["written_manifest"] == made.digest.as_str(), "{}: {told}", made.digest);
    }
    containerd.ctr(["images", "import", "--base-name", "example.com/again", &archive])?.success()?;
    let seen = containerd.run("overlayfs", "example.com/again:v3", &["cat", "/etc/release"])?;
    ensure!(seen == "v3\n", "{seen}");

    let pulled = format!("oci:{}:v1", layout.display());
    let told = json(containerd.d4c(["export", &v1, &pulled, "--json"])?)?;
    let (first, made) = (series.image("v1")?, Series::at(&layout).image("v1")?);
    ensure!(told["layers"] == "original" && made.digest == first.digest, "{told}");
    ensure!(made.layers() == first.layers() && Series::at(&layout).image("v3").is_ok(), "{told}");
    containerd.d4c(["export", "example.com/none", &pulled])?.refused(3, "example.com/none")?;
    containerd.d4c(["export", &v1, "dir:out"])?.refused(2, "dir:out")?;
    containerd.stop()?;
    plugin.terminate()?;
    registry.stop()?;
    sandbox.close()
}
