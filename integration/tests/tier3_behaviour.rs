//! Tier 3: what a container's root file system does when it is used is the same by every route as over containerd's own overlayfs.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use d4c_integration::Sandbox;
use d4c_integration::behaviour::behaviour;
use d4c_integration::containerd::{Containerd, Version};
use d4c_integration::deltas::deltas;
use d4c_integration::images::Series;
use d4c_integration::sandbox::wait_for;
use d4c_integration::snapshotter::Snapshotter;
use d4c_integration::tree::Tree;

const NAME: &str = "example.com/tiny:latest";

/// What someone does who is not root, in the container.
const STRANGER: &str = r#"
try() { "$@" 2>&1 | sed 's/^/  /'; echo "$*: $?"; }
id -u; umask 022
try cat /app/release; try cat /odd/mode-0; try cat /odd/acl; try cat /odd/owner
try sh -c 'echo x >>/app/kept.bin'; try sh -c 'echo x >/app/new'; try rm /odd/fifo; try mv /odd/owner /odd/mine
try touch /odd/own; try chmod 0600 /odd/own; try chmod 0600 /odd/owner; try chown 1 /odd/own; try rm /odd/own
try mkdir /odd/own; try touch -d 2001-02-03 /odd/owner; try ls /odd/own; try rmdir /odd/own; try mkdir /etc/own
try ln /app/release /odd/link; try readlink /odd/symlink; try [ -x /odd/setuid ]; try [ -r /odd/mode-0 ]; try [ -w /app/data.bin ]
"#;

/// Options of `ctr run` for a container in a user namespace, whose owners the snapshotter maps.
const MAPPED: &[&str] = &["--uidmap", "0:100000:65536", "--gidmap", "0:200000:65536", "--remap-labels"];

/// Runs the image in a container and uses its file system.
fn uses(containerd: &Containerd<'_>, snapshotter: &str, options: &[&str]) -> Result<Vec<String>> {
    containerd.run_detached_with(snapshotter, NAME, "used", options, &["sleep", "1000"])?;
    let stranger = containerd.exec_as("used", "1000:1000", &["sh", "-c", STRANGER])?;
    let root = PathBuf::from(format!("/proc/{}/root", containerd.pid("used")?));
    let mut seen: Vec<String> = stranger.lines().map(str::to_owned).collect();
    seen.extend(behaviour(&root));
    containerd.remove("used")?;
    Ok(seen)
}

fn by_route(route: &str, options: &[&str]) -> Result<Vec<String>> {
    let sandbox = Sandbox::new()?;
    let plugin = Snapshotter::start(&sandbox, &["--route", route, "--finish-after", "1000"])?;
    let containerd = Containerd::start(&sandbox, Version::Two)?;
    for file in &deltas("tiny")?[..2] {
        containerd.d4c(["load", file, "--name", NAME])?.success()?;
    }
    let seen = uses(&containerd, "di3fs", options)?;
    let root = Snapshotter::root(&sandbox);
    let image = root.join("images").join(Series::named("tiny")?.image("v2")?.digest.replace("sha256:", ""));
    ensure!(route == "overlay" || image.join("delta").exists(), "{route}: everything was made");
    containerd.ctr(["images", "rm", "--sync", NAME])?.success()?;
    wait_for("the snapshots to be collected", || Ok(containerd.snapshots("di3fs")?.is_empty()))?;
    // Nothing is mounted for a container that has gone.
    let mapped = fs::read_dir(root.join("mapped")).into_iter().flatten().count();
    ensure!(mapped == 0, "{route}: {mapped} directories of mapped layers");
    containerd.stop()?;
    plugin.terminate()?;
    sandbox.close()?;
    Ok(seen)
}

/// Every attribute of an image that containerd mounts is the same by every route, the times of the root and of directories that no layer
/// describes among them.
#[test]
fn every_route_shows_the_same_tree() -> Result<()> {
    let mut first: Option<Tree> = None;
    for route in ["overlay", "erofs", "fuse"] {
        let sandbox = Sandbox::new()?;
        let plugin = Snapshotter::start(&sandbox, &["--route", route, "--finish-after", "1000"])?;
        let containerd = Containerd::start(&sandbox, Version::Two)?;
        for file in &deltas("tiny")? {
            containerd.d4c(["load", file, "--name", NAME])?.success()?;
        }
        let seen = containerd.with_mounted("di3fs", NAME, &sandbox.path("mounted"), Tree::of)?;
        containerd.ctr(["images", "rm", "--sync", NAME])?.success()?;
        wait_for("the snapshots to be collected", || Ok(containerd.snapshots("di3fs")?.is_empty()))?;
        containerd.stop()?;
        plugin.terminate()?;
        sandbox.close()?;
        match &first {
            Some(first) => first.must_equal(&seen).with_context(|| format!("route {route}"))?,
            None => first = Some(seen),
        }
    }
    Ok(())
}

fn every_route_behaves_as_overlayfs(options: &[&str]) -> Result<()> {
    let sandbox = Sandbox::new()?;
    let containerd = Containerd::start(&sandbox, Version::Two)?;
    let archive = sandbox.path("tiny.tar").to_string_lossy().into_owned();
    Series::named("tiny")?.copy("v2", &format!("docker-archive:{archive}:{NAME}"))?;
    containerd.ctr(["images", "import", "--snapshotter", "overlayfs", &archive])?.success()?;
    let expected = uses(&containerd, "overlayfs", options)?;
    containerd.stop()?;
    sandbox.close()?;
    let made = expected.iter().filter(|line| line.starts_with("at the end")).count();
    ensure!(made > 300 && expected.len() > made + 130, "{} lines", expected.len());
    let mut wrong = Vec::new();
    for route in ["overlay", "erofs", "fuse"] {
        let seen = by_route(route, options)?;
        ensure!(
            seen.len() == expected.len(),
            "{route}: {} of {} lines: {seen:#?}",
            seen.len(),
            expected.len()
        );
        let other = expected.iter().zip(&seen).filter(|(expected, seen)| expected != seen);
        wrong.extend(other.map(|(expected, seen)| format!("{route}: {seen}\n  instead of {expected}")));
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

#[test]
fn containers_behave_as_on_overlayfs() -> Result<()> {
    every_route_behaves_as_overlayfs(&[])
}

#[test]
fn containers_in_user_namespaces_behave_as_on_overlayfs() -> Result<()> {
    every_route_behaves_as_overlayfs(MAPPED)
}
