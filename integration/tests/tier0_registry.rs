//! Tier 0: many random faults of a registry, at once and without privilege. What is fetched is right, or it is an error.

use std::collections::BTreeMap;
use std::fs::File;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result, bail, ensure};
use d4c_image::delta;
use d4c_image::error::{Class, SourceError};
use d4c_image::registry::RegistryOptions;
use d4c_image::source::{Options, RemoteImage, Source};
use d4c_integration::Sandbox;
use d4c_integration::faults::{Proxy, random_fault};
use d4c_integration::images::Series;
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
    let file: File = match delta::fetch(image.repository(), published, &[], tempfile::tempfile()?, None) {
        Ok(file) => file,
        Err(error) => return failed(error),
    };
    let map = d4c_sys::Map::file(&file)?;
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
