//! Tier 1: `d4c mount` on real images, by every route, as root.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use d4c_integration::Sandbox;
use d4c_integration::deltas::deltas;
use d4c_integration::images::{Series, TAGS};
use d4c_integration::program::{built, d4c};
use d4c_integration::sandbox::{Daemon, wait_for};
use d4c_integration::tree::Tree;
use nix::mount::{MntFlags, umount2};

const ROUTES: [&str; 4] = ["erofs", "fuse-passthrough", "fuse", "overlay"];

/// A process of `d4c mount` and where it mounts.
struct Mount {
    daemon: Daemon,
    at: PathBuf,
    temporary: PathBuf,
}

impl Mount {
    fn new(sandbox: &Sandbox, route: &str, files: &[String]) -> Result<Self> {
        let (at, temporary) = (sandbox.dir(&format!("at-{route}"))?, sandbox.dir(&format!("tmp-{route}"))?);
        let mut command = sandbox.command(built("d4c"));
        command.args(["mount", "--json", "--log-level", "error", "--route", route, "--tmpdir"]);
        command.arg(&temporary).args(files).arg(&at);
        let mut daemon = sandbox.start(&format!("mount-{route}"), command)?;
        let mut mounted = || -> Result<bool> {
            ensure!(daemon.is_running()?, "d4c mount ended: {}", daemon.log());
            Ok(daemon.log().contains("\"mounted\""))
        };
        // By one of the routes all contents are made first, which takes its time on a busy machine.
        let patience = if route == "overlay" { 10 } else { 1 };
        let waited = (1..patience).any(|_| wait_for("the image to be mounted", &mut mounted).is_ok());
        if !waited {
            wait_for("the image to be mounted", &mut mounted)?;
        }
        Ok(Self { daemon, at, temporary })
    }

    /// Ends it; what it said at last.
    fn end(self) -> Result<String> {
        let Self { daemon, at, temporary } = self;
        let log = daemon.log();
        let name = at.display().to_string();
        let status = daemon.terminate()?;
        ensure!(status.code() == Some(0), "{status}: {log}");
        ensure!(fs::read_dir(&at)?.next().is_none(), "{name} is still mounted");
        ensure!(fs::read_dir(&temporary)?.next().is_none(), "something is left in {}", temporary.display());
        Ok(log)
    }
}

/// The number by this name in the last object that was printed.
fn last_number(log: &str, name: &str) -> Result<u64> {
    let line = log.lines().rev().find(|line| line.starts_with('{')).context("no object was printed")?;
    let value: serde_json::Value = serde_json::from_str(line)?;
    value[name].as_u64().with_context(|| format!("no {name} in {line}"))
}

/// By every route the image is the tree that `d4c patch` writes.
fn mounted_equals_patched(name: &str) -> Result<()> {
    let sandbox = Sandbox::new()?;
    let files = deltas(name)?;
    let patched = sandbox.path("patched");
    let mut arguments = vec!["patch".to_owned()];
    arguments.extend(files.iter().cloned());
    arguments.push(format!("dir:{}", patched.display()));
    d4c(&arguments)?.success()?;
    let expected = Tree::of(&patched)?;
    for route in ROUTES {
        let mount = Mount::new(&sandbox, route, &files)?;
        expected.must_equal(&Tree::of(&mount.at)?).with_context(|| format!("route {route}"))?;
        mount.end()?;
    }
    sandbox.close()
}

#[test]
fn every_kind_of_entry_is_mounted() -> Result<()> {
    mounted_equals_patched("tiny")
}

#[test]
fn debian_nginx_is_mounted() -> Result<()> {
    mounted_equals_patched("debian-nginx")
}

#[test]
fn npm_node_is_mounted() -> Result<()> {
    mounted_equals_patched("npm-node")
}

#[test]
fn pypi_numpy_is_mounted() -> Result<()> {
    mounted_equals_patched("pypi-numpy")
}

/// A delta whose base is another source; an unmount by someone else ends the process.
#[test]
fn a_delta_lies_on_any_base() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let series = Series::named("tiny")?;
    let files = deltas("tiny")?;
    let patched = sandbox.path("patched");
    let dest = format!("dir:{}", patched.display());
    d4c(["patch", &series.source(TAGS[0]), &files[1], &dest])?.success()?;
    for route in ROUTES {
        let arguments = ["--base".to_owned(), series.source(TAGS[0]), files[1].clone()];
        let mut mount = Mount::new(&sandbox, route, &arguments)?;
        Tree::of(&patched)?.must_equal(&Tree::of(&mount.at)?)?;
        umount2(&mount.at, MntFlags::empty())?;
        wait_for("d4c to notice that it is unmounted", || Ok(!mount.daemon.is_running()?))?;
        ensure!(mount.daemon.log().contains("\"unmounted\""), "{}", mount.daemon.log());
        ensure!(fs::read_dir(&mount.temporary)?.next().is_none(), "something is left");
    }
    sandbox.close()
}

/// After kill -9 the mount can be unmounted, and on the `erofs` route what was made can be opened until then.
#[test]
fn a_killed_process_leaves_a_mount_that_goes() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let files = deltas("tiny")?;
    for route in ROUTES {
        let mount = Mount::new(&sandbox, route, &files)?;
        let all = Tree::of(&mount.at)?;
        mount.daemon.kill()?;
        if matches!(route, "erofs" | "overlay") {
            all.must_equal(&Tree::of(&mount.at)?)?;
        }
        umount2(&mount.at, MntFlags::empty()).with_context(|| format!("unmount {route}"))?;
        ensure!(fs::read_dir(&mount.at)?.next().is_none(), "{route}: still mounted");
    }
    sandbox.close()
}

/// Of a file that is damaged where contents are, what is damaged cannot be read, and all else can.
#[test]
fn damaged_contents_are_errors_and_the_others_are_read() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let mut files = deltas("debian-nginx")?;
    let mut bytes = fs::read(&files[0])?;
    files[0] = sandbox.path("damaged.cdimg").to_string_lossy().into_owned();
    let middle = bytes.len() / 2;
    bytes[middle..middle + 16].fill(0x5a);
    fs::write(&files[0], &bytes)?;
    for route in &ROUTES[..3] {
        let mount = Mount::new(&sandbox, route, &files)?;
        let (mut read, mut failed) = (0, 0);
        read_all(&mount.at, &mut |result| match result {
            Ok(_) => read += 1,
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(5), "{route}: {error}");
                failed += 1;
            }
        })?;
        // A frame of small contents holds some hundreds.
        ensure!(failed > 0 && read > 10 * failed, "{route}: {read} read, {failed} failed");
        let daemon = mount.daemon;
        let log = sandbox.path(&format!("mount-{route}.log"));
        ensure!(daemon.terminate()?.code() == Some(0), "{route}");
        let log = fs::read_to_string(log)?;
        let lines: Vec<&str> = log.lines().filter(|line| line.contains("content not made")).collect();
        let why: BTreeSet<_> = lines
            .iter()
            .filter_map(|line| line.split_once("read section DATA"))
            .map(|(_, why)| why)
            .collect();
        ensure!(!lines.is_empty() && why.len() == 1, "{route}: one frame is damaged: {why:?}");
        ensure!(last_number(&log, "failed")? > 0, "{route}: {log}");
    }
    sandbox.close()
}

fn read_all(at: &Path, judge: &mut dyn FnMut(std::io::Result<Vec<u8>>)) -> Result<()> {
    for entry in fs::read_dir(at)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            read_all(&entry.path(), judge)?;
        } else if kind.is_file() {
            judge(fs::read(entry.path()));
        }
    }
    Ok(())
}

#[test]
fn what_cannot_be_mounted_is_refused() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let files = deltas("tiny")?;
    let at = sandbox.dir("at")?.display().to_string();
    d4c(["mount", &files[1], &at])?.refused(3, "a delta from")?;
    d4c(["mount", &files[0], &files[2], &at])?.refused(4, "match parent")?;
    d4c(["mount", &files[0], &format!("{at}/missing")])?.refused(3, "missing")?;
    d4c(["mount", &files[0], &files[0]])?.refused(3, "not a directory")?;
    d4c(["mount", "--route", "boat", &files[0], &at])?.refused(2, "boat")?;
    sandbox.close()
}
