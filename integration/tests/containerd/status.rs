//! `d4c status FILE…` and `d4c load FOLDER`: how an image is reached from what the node has.

use anyhow::{Result, ensure};
use d4c_integration::Sandbox;
use d4c_integration::containerd::Containerd;
use d4c_integration::deltas::deltas;
use d4c_integration::images::Series;
use d4c_integration::program::d4c;
use d4c_integration::snapshotter::Snapshotter;
use serde_json::{Value, json};

use crate::VERSION;

/// With the first release there, one delta is cheaper than two; with the second, its own; a delta from elsewhere is told.
#[test]
fn the_way_from_what_is_there_is_told() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let series = Series::named("tiny")?;
    let plugin = Snapshotter::start(&sandbox, &[])?;
    let containerd = Containerd::start(&sandbox, VERSION)?;
    let file = |name: &str| sandbox.path(&format!("{name}.cdimg")).to_string_lossy().into_owned();
    containerd.d4c(["convert", &series.source("v1"), &file("1")])?.success()?;
    for (from, to) in [("1", "2"), ("2", "3"), ("1", "3")] {
        let [old, new] = [from, to].map(|tag| series.source(&format!("v{tag}")));
        containerd.d4c(["diff", &old, &new, &file(&format!("{from}{to}"))])?.success()?;
    }
    let reach = || -> Result<Value> {
        let said = containerd.d4c(["status", "--json", &file("12"), &file("23"), &file("13")])?.success()?;
        Ok(serde_json::from_str::<Value>(&said.stdout)?["reach"].take())
    };
    let steps = |path: &Value| -> Vec<Value> {
        path["steps"].as_array().into_iter().flatten().map(|step| step["file"].clone()).collect()
    };
    let alone = reach()?;
    ensure!(alone["path"]["start"].is_null() && steps(&alone["path"])[0].is_null(), "no pull first: {alone}");
    containerd.d4c(["load", &file("1"), "--name", "example.com/tiny:v1"])?.success()?;
    let one = reach()?;
    ensure!(
        one["path"]["start"] == json!(series.image("v1")?.digest)
            && steps(&one["path"]) == [json!(file("13"))],
        "{one}"
    );
    ensure!(one["target"] == json!(series.image("v3")?.digest), "{one}");
    containerd.d4c(["load", &file("12"), "--name", "example.com/tiny:v2"])?.success()?;
    let two = reach()?;
    ensure!(steps(&two["path"]) == [json!(file("23"))], "{two}");
    let text = containerd.d4c(["status", &file("23")])?.success()?.stdout;
    ensure!(text.contains(&format!("by        {}, ", file("23"))), "{text}");
    containerd.stop()?;
    plugin.terminate()?;
    sandbox.close()
}

/// A folder with ways forward and back and a delta of another image: what leads on from the first release is loaded, and no more.
#[test]
fn a_folder_is_loaded_as_far_as_it_leads() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let series = Series::named("tiny")?;
    let plugin = Snapshotter::start(&sandbox, &[])?;
    let containerd = Containerd::start(&sandbox, VERSION)?;
    let stick = sandbox.dir("stick")?;
    let (tiny, other) = (deltas("tiny")?, deltas("pypi-numpy")?);
    for (name, file) in [("to-v2", &tiny[1]), ("to-v3", &tiny[2]), ("other", &other[1])] {
        std::fs::copy(file, stick.join(format!("{name}.cdimg")))?;
    }
    let back = stick.join("back.cdimg").to_string_lossy().into_owned();
    d4c(["diff", &series.source("v2"), &series.source("v1"), &back])?.success()?;
    let stick = stick.to_string_lossy().into_owned();
    containerd.d4c(["load", &stick])?.refused(3, "stick")?;
    containerd.d4c(["load", &tiny[0], "--name", "example.com/tiny:v1"])?.success()?;
    let load = || -> Result<Value> {
        let said = containerd.d4c(["load", &stick, "--name", "example.com/tiny:v3", "--json"])?.success()?;
        Ok(serde_json::from_str(&said.stdout)?)
    };
    let said = load()?;
    let loaded: Vec<_> =
        said["images"].as_array().into_iter().flatten().map(|image| &image["manifest"]).collect();
    let [second, third] = ["v2", "v3"].map(|tag| series.image(tag).map(|image| json!(image.digest)));
    let (second, third) = (second?, third?);
    ensure!(loaded == [&second, &third], "{said}");
    ensure!(said["out_of_reach"] == json!([Series::named("pypi-numpy")?.image("v2")?.digest]), "{said}");
    let seen = containerd.run("di3fs", "example.com/tiny:v3", &["cat", "/etc/release"])?;
    ensure!(seen == "v3\n", "{seen}");
    let again = load()?;
    ensure!(again["images"] == json!([]) && again["present"] == json!([third]), "{again}");
    // In another namespace, and by another name.
    let named = containerd.d4c(["--namespace", "other", "load", &stick, "--json"])?.success()?;
    let named: Value = serde_json::from_str(&named.stdout)?;
    let (image, none) = (&named["images"][0], named["present"] == json!([]));
    let listed = containerd.ctr(["--namespace", "other", "images", "ls", "-q"])?.success()?.stdout;
    ensure!(none && image["manifest"] == third && image["name"] == listed.trim(), "{listed}: {named}");
    containerd.d4c(["load", &stick, "--name", "example.com/tiny:other"])?.success()?;
    let seen = containerd.run("di3fs", "example.com/tiny:other", &["cat", "/etc/release"])?;
    ensure!(seen == "v3\n", "{seen}");
    containerd.ctr(["--namespace", "other", "images", "rm", "--sync", listed.trim()])?.success()?;
    // One that is damaged is told after what the others lead to.
    containerd.ctr(["images", "rm", "--sync", "example.com/tiny:v3"])?.success()?;
    std::fs::write(std::path::Path::new(&stick).join("a.cdimg"), "d4c!")?;
    let said = containerd.d4c(["load", &stick, "--name", "example.com/tiny:v3"])?;
    ensure!(said.code == 4 && said.stderr.contains("a.cdimg"), "{}: {}", said.code, said.stderr);
    let seen = containerd.run("di3fs", "example.com/tiny:v3", &["cat", "/etc/release"])?;
    ensure!(seen == "v3\n", "{seen}");
    containerd.stop()?;
    plugin.terminate()?;
    sandbox.close()
}
