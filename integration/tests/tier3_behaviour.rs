//! Tier 3: what a container's root file system does when it is used is the same by every route as over containerd's own overlayfs.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use d4c_integration::Sandbox;
use d4c_integration::behaviour::behaviour;
use d4c_integration::containerd::{Containerd, Version};
use d4c_integration::deltas::deltas;
use d4c_integration::images::Series;
use d4c_integration::sandbox::wait_for;
use d4c_integration::snapshotter::Snapshotter;

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

/// Runs the image in a container and uses its file system.
fn uses(containerd: &Containerd<'_>, snapshotter: &str) -> Result<Vec<String>> {
    containerd.run_detached(snapshotter, NAME, "used", &["sleep", "1000"])?;
    let stranger = containerd.exec_as("used", "1000:1000", &["sh", "-c", STRANGER])?;
    let root = PathBuf::from(format!("/proc/{}/root", containerd.pid("used")?));
    let mut seen: Vec<String> = stranger.lines().map(str::to_owned).collect();
    seen.extend(behaviour(&root));
    containerd.remove("used")?;
    Ok(seen)
}

fn by_route(route: &str) -> Result<Vec<String>> {
    let sandbox = Sandbox::new()?;
    let plugin = Snapshotter::start(&sandbox, &["--route", route, "--finish-after", "1000"])?;
    let containerd = Containerd::start(&sandbox, Version::Two)?;
    for file in &deltas("tiny")?[..2] {
        containerd.d4c(["load", file, "--name", NAME])?.success()?;
    }
    let seen = uses(&containerd, "di3fs")?;
    containerd.ctr(["images", "rm", "--sync", NAME])?.success()?;
    wait_for("the snapshots to be collected", || Ok(containerd.snapshots("di3fs")?.is_empty()))?;
    containerd.stop()?;
    plugin.terminate()?;
    sandbox.close()?;
    Ok(seen)
}

#[test]
fn every_route_behaves_as_overlayfs() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let containerd = Containerd::start(&sandbox, Version::Two)?;
    let archive = sandbox.path("tiny.tar").to_string_lossy().into_owned();
    Series::named("tiny")?.copy("v2", &format!("docker-archive:{archive}:{NAME}"))?;
    containerd.ctr(["images", "import", "--snapshotter", "overlayfs", &archive])?.success()?;
    let expected = uses(&containerd, "overlayfs")?;
    containerd.stop()?;
    sandbox.close()?;
    let made = expected.iter().filter(|line| line.starts_with("at the end")).count();
    ensure!(made > 300 && expected.len() > made + 130, "{} lines", expected.len());
    let mut wrong = Vec::new();
    for route in ["overlay", "erofs", "fuse"] {
        let seen = by_route(route)?;
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
