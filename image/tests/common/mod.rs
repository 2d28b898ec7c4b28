//! Real images for the tests, made by skopeo and umoci.

#![allow(dead_code, reason = "each test file uses its own part")]

pub mod server;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use d4c_image::error::SourceError;
use d4c_image::source::{OpenImage, Options, Source};

/// Runs a program that the tests need, and fails with the way to get it where it is missing.
pub fn run(program: &str, args: &[&str]) -> String {
    let output = match Command::new(program).args(args).output() {
        Ok(output) => output,
        Err(error) => {
            panic!("{program}: {error}; install it: apt-get install -y skopeo umoci docker-registry")
        }
    };
    assert!(
        output.status.success(),
        "{program} {}: {}{}",
        args.join(" "),
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub fn skopeo(args: &[&str]) -> String {
    run("skopeo", &[&["--insecure-policy"], args].concat())
}

pub fn copy(from: &str, to: &str, flags: &[&str]) {
    skopeo(&[&["copy", "--quiet"], flags, &[from, to]].concat());
}

/// A layout made by umoci: `base:one` of one gzip layer, `base:two` of the same and another, `base:arm` as `two`
/// for arm64. Made once per test program; the next one removes it.
pub fn layout() -> &'static str {
    static LAYOUT: OnceLock<String> = OnceLock::new();
    LAYOUT.get_or_init(|| {
        let dirs = Path::new(env!("CARGO_TARGET_TMPDIR"));
        remove_layouts_of_the_dead(dirs);
        let dir = dirs.join(format!("layout-{}", std::process::id()));
        let tree = dir.join("tree");
        std::fs::create_dir_all(tree.join("etc")).unwrap();
        std::fs::write(tree.join("etc/hello"), "hello\n").unwrap();
        let big: Vec<u8> = (0..3_000_000_u32).flat_map(|n| (n / 7).to_le_bytes()).collect();
        std::fs::write(tree.join("big"), big).unwrap();
        std::os::unix::fs::symlink("etc/hello", tree.join("link")).unwrap();
        let base = dir.join("base").display().to_string();
        let image = |tag: &str| format!("{base}:{tag}");
        run("umoci", &["init", "--layout", &base]);
        run("umoci", &["new", "--image", &image("one")]);
        let tree = tree.display().to_string();
        let insert = |tag: &str, to: &str, path: &str| {
            run("umoci", &["insert", "--rootless", "--image", &image(tag), "--tag", to, path, "/data"]);
        };
        insert("one", "one", &tree);
        insert("one", "two", &format!("{tree}/etc"));
        let args = ["config", "--image", &image("two"), "--tag", "arm", "--architecture", "arm64"];
        run("umoci", &args);
        base
    })
}

/// Layouts of test programs that have ended.
fn remove_layouts_of_the_dead(dirs: &Path) {
    for entry in std::fs::read_dir(dirs).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let owner = name.to_str().and_then(|name| name.strip_prefix("layout-"));
        let is_left = owner.is_some_and(|owner| !Path::new("/proc").join(owner).exists());
        // Another test program may remove it at the same time.
        let _ = is_left.then(|| std::fs::remove_dir_all(entry.path()));
    }
}

pub fn open_with(source: &str, options: &Options) -> Result<OpenImage, SourceError> {
    Source::parse(source).unwrap().open(options)
}

pub fn open(source: &str) -> OpenImage {
    open_with(source, &Options::default()).unwrap()
}

/// The error of opening `source` or one of its layers.
pub fn failure(source: &str) -> SourceError {
    failure_with(source, &Options::default())
}

pub fn failure_with(source: &str, options: &Options) -> SourceError {
    let image = match open_with(source, options) {
        Ok(image) => image,
        Err(error) => return error,
    };
    (0..image.layers().len())
        .find_map(|number| image.layer(number).err())
        .unwrap_or_else(|| panic!("{source} opened without an error"))
}

/// Asserts exit status and a part of the message.
pub fn fails(source: &str, code: u8, why: &str) {
    let error = failure(source);
    assert!(error.to_string().contains(why), "{source}: {error}");
    assert_eq!(error.class().exit_code(), code, "{source}: {error}");
    assert!(!error.to_string().contains('\n'), "{error}");
}

/// Reads every layer; the sum of their sizes.
pub fn read_all(image: &OpenImage) -> usize {
    (0..image.layers().len())
        .map(|number| {
            let file = image.layer(number).unwrap();
            assert_eq!(dimg::Digest::of(&file), image.layers()[number].diff_id);
            file.len()
        })
        .sum()
}

/// A copy of the layout that a test may damage.
pub fn damaged(dir: &Path) -> String {
    run("cp", &["-r", layout(), &dir.join("l").display().to_string()]);
    dir.join("l").display().to_string()
}

pub fn blob(layout: &str, digest: dimg::Digest) -> PathBuf {
    Path::new(layout).join("blobs/sha256").join(digest.hex())
}

/// A small file system in memory, to be filled; needs root.
pub struct Tmpfs(pub tempfile::TempDir);

impl Tmpfs {
    pub fn mount(size: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = format!("size={size}");
        run("mount", &["-t", "tmpfs", "-o", &options, "tmpfs", &dir.path().display().to_string()]);
        Self(dir)
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        run("umount", &[&self.0.path().display().to_string()]);
    }
}
