//! Beside the tiers, because building it takes minutes: nerdctl on containerd 2.x, as root.

use anyhow::{Result, ensure};
use d4c_integration::Sandbox;
use d4c_integration::containerd::{Containerd, Version};
use d4c_integration::images::Series;
use d4c_integration::program::d4c;
use d4c_integration::registry::Registry;
use d4c_integration::snapshotter::Snapshotter;

/// Pulls and runs two images of which a delta leads from one to the other; how many came by deltas, and how many pulls the plugin was asked for.
fn pulls(tool: &str, plugin_name: &'static str) -> Result<(usize, usize)> {
    let sandbox = Sandbox::new()?;
    let registry = Registry::start(&sandbox)?;
    let series = Series::named("tiny")?;
    for tag in ["v1", "v2"] {
        registry.push(&series, tag, &format!("app:{tag}"))?;
    }
    let name = |tag: &str| registry.reference(&format!("app:{tag}"));
    let image = |tag: &str| format!("docker://{}", name(tag));
    d4c(["diff", &image("v1"), &image("v2"), "docker://"])?.success()?;
    let plugin = Snapshotter::start_pulling(&sandbox, 30, &[])?;
    let containerd = Containerd::start_with_plugin(&sandbox, Version::Two, plugin_name)?;
    for (tag, expected) in [("v1", "v1\nversion 1\n"), ("v2", "v1\nversion 2\n")] {
        containerd.nerdctl(tool, &["pull", "--quiet", &name(tag)])?.success()?;
        let read = ["run", "--rm", "--net", "none", &name(tag), "cat", "/etc/release", "/app/release"];
        let seen = containerd.nerdctl(tool, &read)?.success()?.stdout;
        ensure!(seen == expected, "{tag}: {seen}");
    }
    let log = plugin.log();
    for tag in ["v1", "v2"] {
        containerd.nerdctl(tool, &["rmi", "--force", &name(tag)])?.success()?;
    }
    containerd.stop()?;
    plugin.terminate()?;
    registry.stop()?;
    sandbox.close()?;
    Ok((log.matches("image made from deltas").count(), log.matches("containerd pulls the layers").count()))
}

/// nerdctl 2.3 has containerd pull, as `ctr` does: a delta is used under the plugin's own name.
#[test]
fn later_ones_use_deltas() -> Result<()> {
    let counted = pulls("nerdctl2", "di3fs")?;
    ensure!(counted == (1, 1), "{counted:?}");
    Ok(())
}

/// Under its own name the plugin is a snapshotter like others to nerdctl 1.7 and 2.2, which fetch all layers before they ask.
#[test]
fn it_pulls_and_runs() -> Result<()> {
    for tool in ["nerdctl", "nerdctl22"] {
        let counted = pulls(tool, "di3fs")?;
        ensure!(counted == (0, 0), "{tool}: {counted:?}");
    }
    Ok(())
}

/// Under the name of a snapshotter that nerdctl knows to fetch by itself, it is asked first, and a delta is used.
#[test]
fn it_uses_deltas_under_a_name_that_it_knows() -> Result<()> {
    for tool in ["nerdctl", "nerdctl22"] {
        let counted = pulls(tool, "nydus")?;
        ensure!(counted == (1, 1), "{tool}: {counted:?}");
    }
    Ok(())
}
