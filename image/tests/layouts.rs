//! `oci:`, `oci-archive:` and `docker-archive:` against images made by skopeo and umoci, and damaged ones.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::fs;
use std::io::Write;
use std::path::Path;

use common::*;
use d4c_image::manifest::media;
use d4c_image::platform::Platform;
use d4c_image::source::Options;
use dimg::Digest;

/// The same image read from everything that skopeo can make of it.
#[test]
fn every_container_gives_the_same_layers() {
    let base = layout();
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let from = format!("oci:{base}:two");
    let original = open(&from);
    assert_eq!(original.layers().len(), 2);
    assert_eq!(original.manifest().media_type, media::OCI_MANIFEST);
    assert!(original.layers().iter().all(|layer| layer.media_type.ends_with("+gzip")));
    assert!(!original.is_synthesized());
    let ids: Vec<_> = original.layers().iter().map(|layer| layer.diff_id).collect();
    let bytes = read_all(&original);
    let raw = fs::read(blob(base, original.manifest_digest())).unwrap();
    assert_eq!(original.manifest_bytes(), raw);

    let zstd = ["--dest-compress-format", "zstd", "--dest-compress"];
    let cases: [(&str, &str, &[&str]); 5] = [
        ("oci:", ":t", &zstd),
        ("oci:", "", &["--format", "v2s2"]),
        ("oci-archive:", ":t", &[]),
        ("docker-archive:", ":example.com/x:1", &[]),
        ("docker-archive:", "", &[]),
    ];
    for (number, (kind, tag, flags)) in cases.iter().enumerate() {
        let to = format!("{kind}{}{tag}", path(&number.to_string()));
        copy(&from, &to, flags);
        let image = open(&to);
        let same: Vec<_> = image.layers().iter().map(|layer| layer.diff_id).collect();
        assert_eq!(same, ids, "{to}");
        assert_eq!(read_all(&image), bytes, "{to}");
        assert_eq!(image.manifest_digest(), Digest::of(image.manifest_bytes()));
        assert_eq!(image.config_digest(), Digest::of(image.config_bytes()));
        assert_eq!(image.is_synthesized(), kind.starts_with("docker"), "{to}");
    }
    let saved = open(&format!("docker-archive:{}", path("3")));
    let unnamed = open(&format!("docker-archive:{}", path("4")));
    assert_eq!(saved.manifest_digest(), unnamed.manifest_digest());

    let plain = format!("oci:{}:docker.io/library/x:1", path("plain"));
    copy(&format!("docker-archive:{}", path("4")), &plain, &["--dest-oci-accept-uncompressed-layers"]);
    let plain = open(&plain);
    assert!(plain.layers().iter().all(|layer| layer.digest == layer.diff_id));
    assert_eq!(read_all(&plain), bytes);

    for (program, file) in [("gzip", "2"), ("zstd", "2"), ("xz", "3")] {
        let compressed = path(&format!("{file}.{program}"));
        let script = format!("{program} -c {} > {compressed}", path(file));
        run("sh", &["-c", &script]);
        let kind = if file == "2" { "oci-archive" } else { "docker-archive" };
        assert_eq!(read_all(&open(&format!("{kind}:{compressed}"))), bytes, "{program}");
    }
}

#[test]
fn tags_are_chosen_and_listed() {
    let base = layout();
    fails(&format!("oci:{base}"), 2, "add :TAG; tags present: arm, one, two");
    fails(&format!("oci:{base}:three"), 3, "no image tagged \"three\"; tags present: arm, one, two");
    fails("oci:/nonexistent", 3, "open image: /nonexistent: No such file");
    fails("oci:/etc/passwd", 4, "is not a directory");
    fails("oci:/etc", 4, "no index.json");
    fails("oci-archive:/nonexistent", 3, "No such file");
    fails("oci-archive:/etc", 4, "is a directory");
    fails("oci-archive:/etc/passwd", 4, "not a tar header");
    fails("docker-archive:/dev/null", 4, "no manifest.json");
    let options = Options { platform: Some("linux/arm64".parse().unwrap()), ..Options::default() };
    let error = failure_with(&format!("oci:{base}:two"), &options);
    assert!(error.to_string().ends_with("no image for linux/arm64; present: linux/amd64"), "{error}");
    assert_eq!(open_with(&format!("oci:{base}:arm"), &options).unwrap().layers().len(), 2);
}

#[test]
fn docker_names_are_normalised() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("saved.tar").display().to_string();
    let to = format!("docker-archive:{path}:nginx:1");
    copy(&format!("oci:{}:one", layout()), &to, &[]);
    for name in ["nginx:1", "docker.io/library/nginx:1", "library/nginx:1"] {
        assert_eq!(open(&format!("docker-archive:{path}:{name}")).layers().len(), 1, "{name}");
    }
    fails(&format!("docker-archive:{path}:nginx"), 3, "names present: docker.io/library/nginx:1");
    fails(&format!("docker-archive:{path}:NGINX"), 2, "invalid reference");
}

/// An index over the images `two` and `arm`, as its own entry `multi` and as two entries of one tag.
fn multi(dir: &Path, nested: bool) -> String {
    let layout = damaged(dir);
    let entries: Vec<_> = [("two", "amd64", ""), ("arm", "arm64", r#","variant":"v8""#)]
        .map(|(tag, architecture, variant)| {
            let image = open(&format!("oci:{layout}:{tag}"));
            let name = if nested {
                ""
            } else {
                r#","annotations":{"org.opencontainers.image.ref.name":"multi"}"#
            };
            format!(
                r#"{{"mediaType":"{}","digest":"{}","size":{},"platform":{{"os":"linux","architecture":"{architecture}"{variant}}}{name}}}"#,
                media::OCI_MANIFEST,
                image.manifest_digest(),
                image.manifest_bytes().len()
            )
        })
        .into();
    let index = |entries: &str| {
        format!(r#"{{"schemaVersion":2,"mediaType":"{}","manifests":[{entries}]}}"#, media::OCI_INDEX)
    };
    let mut top = index(&entries.join(","));
    if nested {
        let digest = Digest::of(top.as_bytes());
        fs::write(blob(&layout, digest), &top).unwrap();
        let entry =
            format!(r#"{{"mediaType":"{}","digest":"{digest}","size":{}}}"#, media::OCI_INDEX, top.len());
        top = index(&entry);
    }
    fs::write(Path::new(&layout).join("index.json"), top).unwrap();
    layout
}

#[test]
fn an_index_gives_the_platform_asked_for() {
    for nested in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let layout = multi(dir.path(), nested);
        for source in [format!("oci:{layout}"), format!("oci:{layout}:multi")] {
            if nested && source.ends_with("multi") {
                fails(&source, 3, "tags present: none");
                continue;
            }
            for architecture in ["amd64", "arm64"] {
                let platform: Platform = format!("linux/{architecture}").parse().unwrap();
                let image =
                    open_with(&source, &Options { platform: Some(platform.clone()), ..Options::default() })
                        .unwrap();
                assert_eq!(image.config().platform, platform);
            }
            let host = open(&source).config().platform.clone();
            assert_eq!(host, Platform::host());
            let options = Options { platform: Some("linux/s390x".parse().unwrap()), ..Options::default() };
            let error = failure_with(&source, &options);
            assert_eq!(error.class().exit_code(), 3);
            assert!(
                error.to_string().ends_with("no image for linux/s390x; present: linux/amd64, linux/arm64/v8"),
                "{error}"
            );
        }
    }
}

#[test]
fn damaged_blobs_are_refused() {
    let original = open(&format!("oci:{}:two", layout()));
    let layer = original.layers()[0].digest;
    let cases: [(&str, Digest, &str); 8] = [
        ("flip", layer, "verify blob"),
        ("cut", layer, "verify blob"),
        ("grow", layer, "verify blob"),
        ("remove", layer, "missing from the layout"),
        ("flip", original.config_digest(), "read config"),
        ("cut", original.manifest_digest(), "read manifest"),
        ("remove", original.manifest_digest(), "missing from the layout"),
        ("dir", layer, "is not a file"),
    ];
    for (what, digest, why) in cases {
        let dir = tempfile::tempdir().unwrap();
        let layout = damaged(dir.path());
        let path = blob(&layout, digest);
        let mut bytes = fs::read(&path).unwrap();
        match what {
            "flip" => {
                let middle = bytes.len() / 2;
                bytes[middle] ^= 1;
                fs::write(&path, bytes).unwrap();
            }
            "cut" => fs::write(&path, &bytes[..bytes.len() - 1]).unwrap(),
            "grow" => fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"x").unwrap(),
            "dir" => {
                fs::remove_file(&path).unwrap();
                fs::create_dir(&path).unwrap();
            }
            _ => fs::remove_file(&path).unwrap(),
        }
        fails(&format!("oci:{layout}:two"), 4, why);
        let error = failure(&format!("oci:{layout}:two"));
        assert!(error.on().ends_with(&digest.hex()), "{error}");
    }
}

/// Rewrites config and manifest of `two` with the diff IDs changed by `change`.
fn with_config(layout: &str, change: impl Fn(String) -> String) {
    let source = format!("oci:{layout}:two");
    let image = open(&source);
    let config = change(String::from_utf8(image.config_bytes().to_vec()).unwrap());
    let config_digest = Digest::of(config.as_bytes());
    fs::write(blob(layout, config_digest), &config).unwrap();
    let manifest = String::from_utf8(image.manifest_bytes().to_vec()).unwrap();
    let size = format!("\"size\":{}", image.config_bytes().len());
    let manifest = manifest.replace(&image.config_digest().to_string(), &config_digest.to_string()).replacen(
        &size,
        &format!("\"size\":{}", config.len()),
        1,
    );
    let digest = Digest::of(manifest.as_bytes());
    fs::write(blob(layout, digest), &manifest).unwrap();
    let index = format!(
        r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"{}","digest":"{digest}","size":{},"annotations":{{"org.opencontainers.image.ref.name":"two"}}}}]}}"#,
        media::OCI_MANIFEST,
        manifest.len()
    );
    fs::write(Path::new(layout).join("index.json"), index).unwrap();
}

#[test]
fn diff_ids_are_verified_and_counted() {
    let original = open(&format!("oci:{}:two", layout()));
    let id = original.layers()[0].diff_id.to_string();
    let dir = tempfile::tempdir().unwrap();
    let layout = damaged(dir.path());
    let wrong = Digest([7; 32]).to_string();
    with_config(&layout, |config| config.replace(&id, &wrong));
    fails(&format!("oci:{layout}:two"), 4, &format!("digest is {id}, expected {wrong}"));

    let dir = tempfile::tempdir().unwrap();
    let layout = damaged(dir.path());
    with_config(&layout, |config| config.replace(&format!("\"{id}\","), ""));
    fails(&format!("oci:{layout}:two"), 4, "the config has 1 diff IDs, the manifest 2 layers");
}

#[test]
fn limits_and_full_disks_have_their_class() {
    let source = format!("oci:{}:two", layout());
    let error = failure_with(&source, &Options { max_layer_bytes: Some(1_000_000), ..Options::default() });
    assert_eq!(error.class().exit_code(), 5);
    assert!(error.to_string().contains("larger than the limit of 1000000 bytes"), "{error}");
    let error =
        failure_with(&source, &Options { temp_dir: Some("/nonexistent".into()), ..Options::default() });
    assert!(error.to_string().starts_with("make temporary file: /nonexistent: "), "{error}");

    let small = Tmpfs::mount("1m");
    let error =
        failure_with(&source, &Options { temp_dir: Some(small.0.path().into()), ..Options::default() });
    assert_eq!(error.class().exit_code(), 5, "{error}");
    assert!(error.to_string().starts_with("write layer to: "), "{error}");
}

#[test]
fn layers_open_in_parallel() {
    let image = open(&format!("oci:{}:two", layout()));
    std::thread::scope(|scope| {
        for number in [0, 1, 0, 1] {
            let image = &image;
            scope.spawn(move || {
                let file = image.layer(number).unwrap();
                assert_eq!(Digest::of(&file), file.diff_id());
            });
        }
    });
    let error = image.layer(2).unwrap_err();
    assert_eq!((error.class().exit_code(), error.to_string().contains("no layer 2")), (3, true));
}
