//! containerd without us: that the images and the harness itself are sound.

use anyhow::{Result, ensure};
use d4c_integration::Sandbox;
use d4c_integration::containerd::Containerd;
use d4c_integration::images::{Series, TAGS};
use d4c_integration::tree::Tree;

use crate::VERSION;

/// containerd's own overlayfs runs every image of the series, and its tree is the one that umoci unpacks.
#[test]
fn overlayfs_runs_what_umoci_unpacks() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let series = Series::named("tiny")?;
    let containerd = Containerd::start(&sandbox, VERSION)?;
    for tag in TAGS {
        let name = format!("example.com/tiny:{tag}");
        let archive = sandbox.path(&format!("{tag}.tar"));
        series.copy(tag, &format!("docker-archive:{}:{name}", archive.display()))?;
        containerd.import(&archive, "overlayfs")?;
        let greeting = containerd.run("overlayfs", &name, &["sh", "-c", "cat /etc/release; ls -d /odd"])?;
        ensure!(greeting.starts_with('v'), "{greeting}");
        // containerd keeps the name of a mount until it collects.
        let target = sandbox.path(&format!("mounted-{tag}"));
        let mounted = containerd.with_mounted("overlayfs", &name, &target, Tree::of)?;
        // containerd sets neither the time of the root nor one before 1970; a folder without an entry has the time of unpacking.
        let other_times = ["", "app/no-entry-for-this", "odd/before-1970"];
        let reference = Tree::of(&series.unpack(tag, &sandbox)?)?.without_mtime_of(&other_times);
        reference.must_equal(&mounted.without_mtime_of(&other_times))?;
    }
    containerd.stop()?;
    sandbox.close()
}
