//! Ordinary pulls where something stands in the way of a delta: a login, signatures, a full disk, a bad registry.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use d4c_integration::Sandbox;
use d4c_integration::containerd::{Containerd, Version};
use d4c_integration::faults::{Proxy, random_fault};
use d4c_integration::images::Series;
use d4c_integration::program::{Output, d4c};
use d4c_integration::registry::{Kind, Registry};
use d4c_integration::snapshotter::Snapshotter;

use super::registry::json;
use super::signed::{Form, key, sign};
use super::within::{MADE, PULLED, pull, release};
use crate::VERSION;

/// Makes the delta between two images of a registry, in the registry.
fn publish(registry: &Registry, old: &str, new: &str) -> Result<serde_json::Value> {
    let image = |tag: &str| format!("docker://{}", registry.reference(&format!("app:{tag}")));
    let words = ["diff", "--json", &image(old), &image(new), "docker://"].map(str::to_owned);
    json(d4c(words.into_iter().chain(registry.options()))?)
}

/// A registry with a certificate of its own authority and a login: the plugin uses what its configuration names, and without that
/// sees no deltas; containerd has its own way in.
fn a_registry_with_a_login(kind: Kind) -> Result<()> {
    if VERSION != Version::Two {
        return Ok(());
    }
    let sandbox = Sandbox::new()?;
    let registry = Registry::start_as(&sandbox, kind, true)?;
    let series = Series::named("tiny")?;
    for tag in ["v1", "v2", "v3"] {
        registry.push(&series, tag, &format!("app:{tag}"))?;
    }
    publish(&registry, "v1", "v2")?;
    publish(&registry, "v2", "v3")?;
    let options = registry.options();
    let [_, auth_file, _, hosts_dir] = options.as_slice() else { anyhow::bail!("{options:?}") };
    let hosts = format!("hosts_dirs = [{hosts_dir:?}]\n");
    let with_login = format!("auth_file = {auth_file:?}\n{hosts}");
    let plugin = Snapshotter::start_pulling_with(&sandbox, 30, "", &with_login, &[])?;
    let containerd = Containerd::start(&sandbox, VERSION)?;
    let name = |tag: &str| registry.reference(&format!("app:{tag}"));
    let pull = |tag: &str| {
        let words =
            ["images", "pull", "--hosts-dir", hosts_dir, "--user", "tester:secret", "--snapshotter", "di3fs"];
        containerd.ctr(words.into_iter().chain([name(tag).as_str()]))?.success()
    };
    pull("v1")?;
    pull("v2")?;
    ensure!(plugin.log().matches(MADE).count() == 1, "{}", plugin.log());
    plugin.terminate()?;
    let without = format!("auth_file = \"/nonexistent\"\n{hosts}");
    let plugin = Snapshotter::start_pulling_with(&sandbox, 30, "", &without, &[])?;
    containerd.wait_for_plugin()?;
    pull("v3")?;
    let log = plugin.log();
    ensure!(log.matches(MADE).count() == 1, "{log}");
    let told = log.lines().filter(|line| line.contains(PULLED) && line.contains("wants a login")).count();
    ensure!(told == 1, "{log}");
    ensure!(!log.contains("secret") && !log.contains("dGVzdGVyOnNlY3JldA"), "{log}");
    for (tag, expected) in [("v2", "v1\nversion 2\n"), ("v3", "v3\nversion 2\n")] {
        let seen = release(&containerd, &name(tag))?;
        ensure!(seen == expected, "{tag}: {seen}");
    }
    containerd.stop()?;
    plugin.terminate()?;
    registry.stop()?;
    sandbox.close()
}

#[test]
fn a_registry_with_a_login_and_no_referrers() -> Result<()> {
    a_registry_with_a_login(Kind::WithoutReferrers)
}

#[test]
fn a_registry_with_a_login_and_referrers() -> Result<()> {
    a_registry_with_a_login(Kind::Strict)
}

/// With a key to be trusted, a delta that it signed is taken; one that another key signed, or nobody, is refused, that is told, and the
/// image comes by its layers.
#[test]
fn only_deltas_of_trusted_keys() -> Result<()> {
    if VERSION != Version::Two {
        return Ok(());
    }
    for (signer, told) in [
        (Some("trusted"), MADE),
        (Some("other"), "its signature is by none of the trusted keys"),
        (None, "it is not signed"),
    ] {
        let sandbox = Sandbox::new()?;
        let registry = Registry::start(&sandbox)?;
        let series = Series::named("tiny")?;
        for tag in ["v1", "v2"] {
            registry.push(&series, tag, &format!("app:{tag}"))?;
        }
        let delta = publish(&registry, "v1", "v2")?;
        let trusted = key(&sandbox, "trusted")?;
        match signer {
            Some("trusted") => sign(&sandbox, &registry, &delta, &trusted.0, Form::Tag)?,
            Some(other) => sign(&sandbox, &registry, &delta, &key(&sandbox, other)?.0, Form::Tag)?,
            None => {}
        }
        let keys = format!("trusted_keys = [{:?}]", trusted.1);
        let plugin = Snapshotter::start_pulling_with(&sandbox, 30, &keys, "", &[])?;
        let containerd = Containerd::start(&sandbox, VERSION)?;
        let name = |tag: &str| registry.reference(&format!("app:{tag}"));
        pull(&containerd, &name("v1"))?.success()?;
        pull(&containerd, &name("v2"))?.success()?;
        let log = plugin.log();
        ensure!(log.lines().filter(|line| line.contains(told)).count() == 1, "{log}");
        let made = if told == MADE { 1 } else { 0 };
        ensure!(log.matches(MADE).count() == made, "{log}");
        let seen = release(&containerd, &name("v2"))?;
        ensure!(seen == "v1\nversion 2\n", "{seen}");
        containerd.stop()?;
        plugin.terminate()?;
        registry.stop()?;
        sandbox.close()?;
    }
    Ok(())
}

/// On a full disk the pull fails, as it would without deltas, and nothing of it stays; when there is room again the delta is used.
#[test]
fn a_full_disk() -> Result<()> {
    if VERSION != Version::Two {
        return Ok(());
    }
    let sandbox = Sandbox::new()?;
    let registry = Registry::start(&sandbox)?;
    let series = Series::named("tiny")?;
    for tag in ["v1", "v2"] {
        registry.push(&series, tag, &format!("app:{tag}"))?;
    }
    publish(&registry, "v1", "v2")?;
    sandbox.tmpfs("di3fs", 64 << 20)?;
    let plugin = Snapshotter::start_pulling(&sandbox, 30, &["--route", "overlay"])?;
    let containerd = Containerd::start(&sandbox, VERSION)?;
    let name = |tag: &str| registry.reference(&format!("app:{tag}"));
    pull(&containerd, &name("v1"))?.success()?;
    let filler = Snapshotter::root(&sandbox).join("filler");
    let mut fill = Command::new("dd");
    fill.args(["if=/dev/zero", "bs=4096", "status=none"]).arg(format!("of={}", filler.display()));
    ensure!(Output::of(&mut fill)?.code != 0, "the disk is not full");
    let refused = pull(&containerd, &name("v2"))?;
    ensure!(
        refused.code != 0 && refused.stderr.to_ascii_lowercase().contains("no space left"),
        "{}",
        refused.stderr
    );
    let log = plugin.log();
    ensure!(log.contains(PULLED) && !log.contains("panicked"), "{log}");
    fs::remove_file(&filler).context("remove what fills the disk")?;
    pull(&containerd, &name("v2"))?.success()?;
    ensure!(plugin.log().matches(MADE).count() == 1, "{}", plugin.log());
    let seen = release(&containerd, &name("v2"))?;
    ensure!(seen == "v1\nversion 2\n", "{seen}");
    containerd.stop()?;
    plugin.terminate()?;
    registry.stop()?;
    sandbox.close()
}

/// Random faults of registries, for containerd as for the plugin, `D4C_PULL_FAULTS` of them in all (12 when that is not set): whoever pulls again
/// until it works has the image, every byte of it; nothing wrong is ever taken. Nodes beside each other share them, since most of the time is waiting.
#[test]
fn many_faults() -> Result<()> {
    if VERSION != Version::Two {
        return Ok(());
    }
    let faults: u64 = std::env::var("D4C_PULL_FAULTS").ok().and_then(|text| text.parse().ok()).unwrap_or(12);
    let nodes = (faults / 100).clamp(1, 8);
    let seen = std::thread::scope(|scope| {
        let node = |node: u64| scope.spawn(move || faults_of_a_node(node << 32, faults.div_ceil(nodes)));
        let nodes: Vec<_> = (0..nodes).map(node).collect();
        let seen =
            nodes.into_iter().map(|node| node.join().map_err(|_| anyhow::anyhow!("a node panicked"))?);
        seen.collect::<Result<Vec<[u64; 5]>>>()
    })?;
    let all = |what: usize| seen.iter().map(|node| node[what]).sum::<u64>();
    let [faults, images, failed, made, pulled] = [0, 1, 2, 3, 4].map(all);
    println!(
        "{faults} faults: {images} images, {failed} pulls failed, {made} images by deltas, {pulled} not; {nodes} nodes"
    );
    Ok(())
}

/// On one node, with the requests numbered from `first`: faults, images, pulls that failed, images by deltas, tries without.
fn faults_of_a_node(first: u64, faults: u64) -> Result<[u64; 5]> {
    let sandbox = Sandbox::new()?;
    let registry = Registry::start(&sandbox)?;
    let series = Series::named("tiny")?;
    for tag in ["v1", "v2"] {
        registry.push(&series, tag, &format!("app:{tag}"))?;
    }
    publish(&registry, "v1", "v2")?;
    let plugin = Snapshotter::start_pulling(&sandbox, 30, &["--route", "auto"])?;
    let containerd = Containerd::start(&sandbox, VERSION)?;
    let all = |name: &str| -> Result<String> {
        let sums = "find / -xdev -type f -exec sha256sum {} + | sort | sha256sum; echo end";
        for _ in 0..5 {
            let seen = containerd.run("di3fs", name, &["sh", "-c", sums])?;
            // `ctr` loses the output of a process that ends while it is slow.
            if seen.ends_with("end\n") {
                return Ok(seen);
            }
        }
        anyhow::bail!("{name}: output is lost again and again")
    };
    pull(&containerd, &registry.reference("app:v1"))?.success()?;
    pull(&containerd, &registry.reference("app:v2"))?.success()?;
    let expected = all(&registry.reference("app:v2"))?;
    containerd.ctr(["images", "rm", "--sync", &registry.reference("app:v2")])?.success()?;

    let proxy = Proxy::start(&registry.address(), Box::new(move |_, number| random_fault(first + number)))?;
    let name = proxy.reference("app:v2");
    let (mut images, mut failed) = (0, 0);
    while proxy.faults() < faults {
        let mut tries = 0;
        loop {
            let pulled = pull(&containerd, &name)?;
            if pulled.code == 0 {
                break;
            }
            (tries, failed) = (tries + 1, failed + 1);
            let after = proxy.faults();
            ensure!(tries < 40, "never pulled after {after} faults, {images} images: {}", pulled.stderr);
            if [10, 20, 30].contains(&tries) {
                // What came damaged may stay in containerd's ingests, and be committed in vain at each pull until it collects.
                println!("after {tries} pulls: {}", pulled.stderr.lines().last().unwrap_or_default());
                containerd.collect()?;
            }
        }
        let seen = all(&name)?;
        ensure!(seen == expected, "after {} faults: {seen} instead of {expected}", proxy.faults());
        containerd.ctr(["images", "rm", "--sync", &name])?.success()?;
        images += 1;
    }
    let log = plugin.log();
    ensure!(!log.contains("panicked"), "{log}");
    let (made, pulled) = (log.matches(MADE).count() as u64 - 1, log.matches(PULLED).count() as u64);
    containerd.stop()?;
    plugin.terminate()?;
    registry.stop()?;
    sandbox.close()?;
    Ok([proxy.faults(), images, failed, made, pulled])
}
