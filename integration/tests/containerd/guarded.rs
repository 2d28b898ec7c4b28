//! Ordinary pulls from a bad registry.

use anyhow::{Result, ensure};
use d4c_integration::Sandbox;
use d4c_integration::containerd::{Containerd, Version};
use d4c_integration::faults::{Proxy, random_fault};
use d4c_integration::images::Series;
use d4c_integration::program::d4c;
use d4c_integration::registry::Registry;
use d4c_integration::snapshotter::Snapshotter;

use super::registry::json;
use super::within::{MADE, PULLED, pull};
use crate::VERSION;

/// Makes the delta between two images of a registry, in the registry.
fn publish(registry: &Registry, old: &str, new: &str) -> Result<serde_json::Value> {
    let image = |tag: &str| format!("docker://{}", registry.reference(&format!("app:{tag}")));
    let words = ["diff", "--json", &image(old), &image(new), "docker://"].map(str::to_owned);
    json(d4c(words.into_iter().chain(registry.options()))?)
}

/// Random faults of the registry, for containerd as for the plugin, `D4C_PULL_FAULTS` of them (12 when that is not set): whoever pulls again until
/// it works has the image, every byte of it; nothing wrong is ever taken.
#[test]
fn many_faults() -> Result<()> {
    if VERSION != Version::Two {
        return Ok(());
    }
    let faults = std::env::var("D4C_PULL_FAULTS").ok().and_then(|text| text.parse().ok()).unwrap_or(12);
    let sandbox = Sandbox::new()?;
    let registry = Registry::start(&sandbox)?;
    let series = Series::named("tiny")?;
    for tag in ["v1", "v2"] {
        registry.push(&series, tag, &format!("app:{tag}"))?;
    }
    publish(&registry, "v1", "v2")?;
    let plugin = Snapshotter::start_pulling(&sandbox, 30, &["--route", "auto"])?;
    let containerd = Containerd::start(&sandbox, VERSION)?;
    let all = |name: &str| {
        let sums = "find / -xdev -type f -exec sha256sum {} + | sort | sha256sum; echo end";
        containerd.run("di3fs", name, &["sh", "-c", sums])
    };
    pull(&containerd, &registry.reference("app:v1"))?.success()?;
    pull(&containerd, &registry.reference("app:v2"))?.success()?;
    let expected = all(&registry.reference("app:v2"))?;
    containerd.ctr(["images", "rm", "--sync", &registry.reference("app:v2")])?.success()?;

    let proxy = Proxy::start(&registry.address(), Box::new(|_, number| random_fault(number)))?;
    let name = proxy.reference("app:v2");
    let (mut images, mut failed) = (0_u32, 0_u32);
    while proxy.faults() < faults {
        let mut tries = 0;
        while pull(&containerd, &name)?.code != 0 {
            (tries, failed) = (tries + 1, failed + 1);
            ensure!(tries < 40, "never pulled");
        }
        let seen = all(&name)?;
        ensure!(seen == expected, "after {} faults: {seen} instead of {expected}", proxy.faults());
        containerd.ctr(["images", "rm", "--sync", &name])?.success()?;
        images += 1;
    }
    let log = plugin.log();
    let (made, pulled) = (log.matches(MADE).count() - 1, log.matches(PULLED).count());
    println!(
        "{} faults: {images} images, {failed} pulls failed, {made} images by deltas, {pulled} not",
        proxy.faults()
    );
    ensure!(!log.contains("panicked"), "{log}");
    containerd.stop()?;
    plugin.terminate()?;
    registry.stop()?;
    sandbox.close()
}
