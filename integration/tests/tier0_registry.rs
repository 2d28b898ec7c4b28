//! Tier 0: many random faults of a registry, at once and without privilege. What is fetched is right, or it is an error.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result, bail, ensure};
use d4c_image::delta::{self, Place};
use d4c_image::error::{Class, SourceError};
use d4c_image::registry::RegistryOptions;
use d4c_image::source::{Options, RemoteImage, Source};
use d4c_integration::Sandbox;
use d4c_integration::faults::{Proxy, random_fault};
use d4c_integration::images::Series;
use d4c_integration::platforms;
use d4c_integration::program::d4c;
use d4c_integration::registry::{Kind, Registry};
use dimg::Digest;
use dimg::content::Bytes;
use dimg::format::Cdimg;
use serde_json::{Value, json};

const FAULTS: u64 = 1000;
const CLIENTS: usize = 24;

/// How a client fared.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    /// The delta is there.
    Fetched,
    /// No delta was seen: the layers would be pulled.
    NoDelta,
    /// An error of this class.
    Failed(&'static str),
}

/// Resolves the image and fetches its delta, as `d4c pull` does.
fn update(source: &Source, expected: &Digest, tag: &Digest) -> Result<End> {
    let Source::Registry(reference) = source else { bail!("{source} is no registry's") };
    let registry = RegistryOptions { auth_file: Some("/nonexistent".into()), ..RegistryOptions::default() };
    let options = Options { registry, ..Options::default() };
    let failed = |error: SourceError| -> Result<End> {
        let text = error.to_string();
        ensure!(!text.contains('\n') && error.class() != Class::Usage, "{text}");
        Ok(End::Failed(error.class().name()))
    };
    let image = match RemoteImage::resolve(reference, &options) {
        Ok(image) => image,
        Err(error) => return failed(error),
    };
    ensure!(image.digest() == *tag, "the tag led to {}", image.digest());
    let published = match delta::list(image.repository(), image.digest()) {
        Ok(list) => list,
        Err(error) => return failed(error),
    };
    let Some(published) = published.first() else { return Ok(End::NoDelta) };
    let place = Place::File(tempfile::tempfile()?);
    let partial = match delta::fetch(image.repository(), published, &[], place, None) {
        Ok(partial) => partial,
        Err(error) => return failed(error),
    };
    let map = d4c_sys::Map::file(partial.file())?;
    ensure!(Digest::of(&map) == *expected, "another delta");
    let cdimg = Cdimg::open(Bytes::new(map))?;
    ensure!(cdimg.dimg().target().manifest == *tag, "a delta of another image");
    Ok(End::Fetched)
}

#[test]
fn a_thousand_faults() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let series = Series::named("tiny")?;
    let registry = Registry::start(&sandbox)?;
    for tag in ["v1", "v2"] {
        registry.push(&series, tag, &format!("app:{tag}"))?;
    }
    let file = sandbox.path("delta.cdimg");
    let path = file.to_string_lossy();
    d4c(["diff", &series.source("v1"), &series.source("v2"), &path])?.success()?;
    d4c(["push", &path, &registry.reference("app")])?.success()?;
    let expected = Digest::of(&std::fs::read(&file)?);
    let tag: Digest = series.image("v2")?.digest.parse()?;

    let proxy = Proxy::start(&registry.address(), Box::new(|_, number| random_fault(number)))?;
    let source = Source::parse(&format!("docker://{}", proxy.reference("app:v2")))?;
    let ends: Mutex<BTreeMap<End, u64>> = Mutex::default();
    let wrong: Mutex<Option<anyhow::Error>> = Mutex::default();
    let updates = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                while proxy.faults() < FAULTS {
                    updates.fetch_add(1, Ordering::Relaxed);
                    match update(&source, &expected, &tag) {
                        Ok(end) => *ends.lock().expect("no client panics").entry(end).or_default() += 1,
                        Err(error) => {
                            wrong.lock().expect("no client panics").get_or_insert(error);
                            return;
                        }
                    }
                }
            });
        }
    });
    if let Some(error) = wrong.into_inner()? {
        return Err(error);
    }
    let ends = ends.into_inner()?;
    let updates = updates.into_inner();
    println!("{} faults in {updates} updates: {ends:?}", proxy.faults());
    ensure!(ends.values().sum::<u64>() == updates, "updates were lost: {ends:?}");
    let fetched = ends.get(&End::Fetched).context("none was fetched")?;
    ensure!(fetched * 2 > updates, "few got through: {ends:?}");
    registry.stop()?;
    sandbox.close()
}

/// `d4c publish` makes the deltas from the tags before it, once; where all were made at the same time, in the order of the tags.
fn publishes_from_the_last_tags(kind: Kind) -> Result<()> {
    let sandbox = Sandbox::new()?;
    let series = Series::named("tiny")?;
    let registry = Registry::start_as(&sandbox, kind, true)?;
    for (tag, name) in [("v1", "1.9"), ("v2", "1.10"), ("v3", "1.11"), ("v3", "latest"), ("v1", "old")] {
        registry.push(&series, tag, &format!("app:{name}"))?;
    }
    let publish = |tag: &str, words: &[&str]| -> Result<Value> {
        let mut all = vec!["publish".to_owned(), registry.reference(&format!("app:{tag}")), "--json".into()];
        all.extend(words.iter().map(|&word| word.to_owned()));
        all.extend(registry.options());
        Ok(serde_json::from_str(&d4c(all)?.success()?.stdout)?)
    };
    let told = |said: &Value| -> Vec<(Value, bool)> {
        let deltas = said["deltas"].as_array().into_iter().flatten();
        deltas.map(|delta| (delta["source"].clone(), delta["pushed"] == true)).collect()
    };
    let digest = |tag: &str| series.image(tag).map(|image| Value::from(image.digest));
    let (v1, v2) = (digest("v1")?, digest("v2")?);
    let first = publish("1.9", &[])?;
    ensure!(told(&first).is_empty(), "{first}");
    let last = publish("1.11", &[])?;
    ensure!(told(&last) == [(v2.clone(), true)] && last["target"] == digest("v3")?, "{last}");
    ensure!(last["deltas"][0]["tags"] == json!(["1.10"]), "{last}");
    let two = publish("1.11", &["--from-last", "2"])?;
    ensure!(told(&two) == [(v2.clone(), false), (v1.clone(), true)], "{two}");
    ensure!(two["deltas"][1]["tags"] == json!(["1.9", "old"]), "{two}");
    // Lists of referrers, at their tags, are no images.
    ensure!(two["skipped"] == json!([]), "{two}");
    let again = publish("latest", &["--from", "1.9", "--from", "1.10"])?;
    ensure!(told(&again) == [(v1, false), (v2, false)], "{again}");
    let none = publish("1.11", &["--match", "2\\..*", "--from-last", "9"])?;
    ensure!(told(&none).is_empty(), "{none}");
    let wrong = |words: &[&str]| {
        let all = ["publish".to_owned(), registry.reference("app:1.11")].into_iter();
        d4c(all.chain(words.iter().map(|&word| word.to_owned())).chain(registry.options()))
    };
    wrong(&["--from", "2.0"])?.refused(3, "2.0")?;
    wrong(&["--match", "("])?.refused(2, "(")?;
    registry.stop()?;
    sandbox.close()
}

#[test]
fn publishes_without_referrers() -> Result<()> {
    publishes_from_the_last_tags(Kind::WithoutReferrers)
}

#[test]
fn publishes_with_referrers() -> Result<()> {
    publishes_from_the_last_tags(Kind::Strict)
}

/// Of images for several platforms the deltas for all are made by one command, each from what was tagged before for the same platform.
fn publishes_for_all_platforms(kind: Kind) -> Result<()> {
    let sandbox = Sandbox::new()?;
    let series = Series::named("tiny")?;
    let registry = Registry::start_as(&sandbox, kind, false)?;
    let push =
        |name: &str, images: &[(&str, &str)]| platforms::push(&registry, &series, name, images, &sandbox);
    let (amd, arm, old_arm) = ("linux/amd64", "linux/arm64", "linux/arm/v6");
    registry.push(&series, "v1", "app:1")?;
    let first = series.image("v1")?.digest;
    let second = push("2", &[(amd, "v2"), (arm, "v1")])?;
    let third = push("3", &[(amd, "v3"), (arm, "v2"), (old_arm, "v3")])?;
    let run = |words: &[&str]| {
        let all = ["publish".to_owned(), registry.reference("app:3")].into_iter();
        d4c(all.chain(words.iter().map(|&word| word.to_owned())))
    };
    let publish = |words: &[&str]| -> Result<Value> {
        Ok(serde_json::from_str(&run(&[words, &["--json"]].concat())?.success()?.stdout)?)
    };
    type Pairs = Vec<(String, String, String, bool)>;
    let told = |said: &Value| -> Pairs {
        let text = |delta: &Value, name: &str| delta[name].as_str().unwrap_or_default().to_owned();
        let deltas = said["deltas"].as_array().into_iter().flatten();
        let pair = |one: &Value| {
            (text(one, "platform"), text(one, "source"), text(one, "target"), one["pushed"] == true)
        };
        deltas.map(pair).collect()
    };
    let pair = |platform: &str, source: &str, target: &str, pushed| {
        (platform.to_owned(), source.to_owned(), target.to_owned(), pushed)
    };
    let one = publish(&["--platform", arm])?;
    ensure!(told(&one) == [pair(arm, &second[1], &third[1], true)], "{one}");
    ensure!(one["target"] == third[1] && one["images"].as_array().map(Vec::len) == Some(1), "{one}");
    let all = publish(&["--from-last", "2"])?;
    let expected = [
        pair(amd, &second[0], &third[0], true),
        pair(amd, &first, &third[0], true),
        pair(arm, &second[1], &third[1], false),
    ];
    ensure!(told(&all) == expected, "{all}");
    let images: Vec<_> = all["images"].as_array().into_iter().flatten().map(|one| &one["target"]).collect();
    ensure!(images == third.iter().collect::<Vec<_>>(), "{all}");
    // The first is for one platform only, the second lacks one.
    let skipped = all["skipped"].as_array().into_iter().flatten();
    let skipped: Vec<_> = skipped.map(|one| (one["tag"].clone(), one["platform"].clone())).collect();
    let expected = [("1", arm), ("1", old_arm), ("2", old_arm)].map(|(tag, it)| (json!(tag), json!(it)));
    ensure!(skipped == expected, "{all}");
    let named = publish(&["--from", "2", "--platform", &format!("{arm},{amd}")])?;
    let expected = [pair(arm, &second[1], &third[1], false), pair(amd, &second[0], &third[0], false)];
    ensure!(told(&named) == expected, "{named}");
    ensure!(told(&publish(&["--from", "1"])?) == [pair(amd, &first, &third[0], false)], "not from the first");
    let refused = |words: &[&str], code, about| run(words)?.refused(code, about);
    refused(&["--platform", "linux/s390x"], 3, "linux/s390x")?;
    refused(&["--from", "1", "--platform", arm], 3, "linux/arm64")?;
    refused(&["--platform", "linux"], 2, "os/arch")?;
    // Nodes find them by the manifests of their platform.
    let reference = format!("docker://{}", registry.reference("app:3"));
    let Source::Registry(reference) = Source::parse(&reference)? else { bail!("no reference") };
    for (platform, target, deltas) in [(amd, &third[0], 2), (arm, &third[1], 1), (old_arm, &third[2], 0)] {
        let options = Options { platform: Some(platform.parse()?), ..Options::default() };
        let image = RemoteImage::resolve(&reference, &options)?;
        ensure!(image.digest().to_string() == *target, "{platform}: {}", image.digest());
        let found = delta::list(image.repository(), image.digest())?.len();
        ensure!(found == deltas, "{platform}: {found} deltas");
    }
    registry.stop()?;
    sandbox.close()
}

#[test]
fn publishes_for_all_platforms_without_referrers() -> Result<()> {
    publishes_for_all_platforms(Kind::WithoutReferrers)
}

#[test]
fn publishes_for_all_platforms_with_referrers() -> Result<()> {
    publishes_for_all_platforms(Kind::Strict)
}
