//! Small images as OCI layouts, written by Python's own tar, and the command line run on them.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Writes the layout `DIR` with tags v1, v2 and v3: text that changes a little, a file that moves, one that does not
/// change, links, modes, times with nanoseconds, a second layer with a whiteout.
const PYTHON: &str = r#"
import gzip, hashlib, io, json, os, random, sys, tarfile
root = sys.argv[1]
os.makedirs(root + "/blobs/sha256")
def blob(data):
    name = hashlib.sha256(data).hexdigest()
    open(root + "/blobs/sha256/" + name, "wb").write(data)
    return {"digest": "sha256:" + name, "size": len(data)}
def tar(members):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as t:
        for name, kind, data, extra in members:
            info = tarfile.TarInfo(name)
            info.type, info.mtime, info.mode = kind, 1700000000.25, extra.get("mode", 0o644)
            info.linkname = extra.get("link", "")
            info.size = len(data)
            t.addfile(info, io.BytesIO(data))
    return out.getvalue()
F, D, L, S = tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.LNKTYPE, tarfile.SYMTYPE
def image(number):
    rng = random.Random(7)
    text = bytearray(b"".join(b"line %d %d\n" % (i, rng.randrange(10**9)) for i in range(20000)))
    for i in range(number):
        text[1000 + 90000 * i] ^= 1
    noise = bytes(rng.randrange(256) for _ in range(50000))
    base = tar([("etc/", D, b"", {"mode": 0o755}), ("etc/text", F, bytes(text), {"mode": 0o600}),
                ("noise-%d" % number, F, noise, {}), ("empty", F, b"", {}), ("hard", L, b"", {"link": "etc/text"}),
                ("soft", S, b"", {"link": "etc/text"}), ("gone", F, b"gone", {})])
    top = tar([(".wh.gone", F, b"", {}), ("new", F, b"version %d\n" % number, {"mode": 0o4755})])
    layers, ids = [], []
    for layer in (base, top):
        ids.append("sha256:" + hashlib.sha256(layer).hexdigest())
        layers.append({"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", **blob(gzip.compress(layer, 6, mtime=0))})
    config = json.dumps({"architecture": os.environ["ARCH"], "os": "linux", "rootfs": {"type": "layers", "diff_ids": ids}}).encode()
    manifest = json.dumps({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", **blob(config)}, "layers": layers}).encode()
    return {"mediaType": "application/vnd.oci.image.manifest.v1+json", **blob(manifest),
            "annotations": {"org.opencontainers.image.ref.name": "v%d" % number}}
index = {"schemaVersion": 2, "manifests": [image(n) for n in (1, 2, 3)]}
open(root + "/index.json", "w").write(json.dumps(index))
open(root + "/oci-layout", "w").write('{"imageLayoutVersion": "1.0.0"}')
"#;

/// A folder with the layout `i`, removed at the end.
pub struct Folder(pub tempfile::TempDir);

impl Folder {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let arch = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
        let status =
            Command::new("python3").args(["-c", PYTHON, "i"]).env("ARCH", arch).current_dir(&dir).status();
        assert!(status.unwrap().success());
        Self(dir)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Runs `d4c` with these words in the folder.
    pub fn run(&self, words: &str) -> Output {
        self.command(words).output().unwrap()
    }

    /// `d4c` with these words, to be run in the folder.
    pub fn command(&self, words: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_d4c"));
        command.args(words.split_whitespace()).current_dir(&self.0);
        command.env_remove("CONTAINERD_ADDRESS").env_remove("CONTAINERD_NAMESPACE").env_remove("TMPDIR");
        command
    }

    /// As [`Folder::run`], of what succeeds; gives what it printed.
    #[allow(dead_code, reason = "not every file of tests uses it")]
    pub fn ok(&self, words: &str) -> String {
        let output = self.run(words);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{words}: {error}");
        String::from_utf8(output.stdout).unwrap()
    }

    #[allow(dead_code, reason = "not every file of tests uses it")]
    /// As [`Folder::run`], of what fails: exit status and the line on standard error.
    pub fn fails(&self, words: &str) -> (i32, String) {
        let output = self.run(words);
        assert!(output.stdout.is_empty(), "{words} printed something");
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(error.matches('\n').count(), 1, "{words}: {error}");
        (output.status.code().unwrap(), error.trim_end().to_owned())
    }

    /// Names in the folder.
    #[allow(dead_code, reason = "not every file of tests uses it")]
    pub fn names(&self) -> Vec<String> {
        names(self.0.path())
    }
}

#[allow(dead_code, reason = "not every file of tests uses it")]
pub fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}
