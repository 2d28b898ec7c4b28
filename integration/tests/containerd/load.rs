//! Images loaded from cdimgs, and their containers.

use anyhow::{Result, ensure};
use d4c_integration::Sandbox;
use d4c_integration::containerd::{Containerd, Version};
use d4c_integration::deltas::deltas;
use d4c_integration::images::{Series, TAGS};
use d4c_integration::program::d4c;
use d4c_integration::sandbox::wait_for;
use d4c_integration::snapshotter::Snapshotter;

use crate::VERSION;

const NAME: &str = "example.com/tiny:latest";
/// What the releases of the series say of themselves in `/etc/release` (the base) and `/app/release`.
const RELEASES: [&str; 3] = ["v1 version 1", "v1 version 2", "v3 version 2"];

/// The release that a container of the image sees; it writes a file as well.
fn release(containerd: &Containerd<'_>) -> Result<String> {
    let command = "cat /etc/release /app/release; touch /written && ls -d /odd > /dev/null";
    let words = containerd.run("di3fs", NAME, &["sh", "-c", command])?;
    Ok(words.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// A base, then two deltas in a row: each runs, with the original manifest and no layer blobs; a kill -9 of the plugin leaves
/// its container running and a new plugin serves it; removed images give their space back.
fn base_and_deltas_run_survive_and_go(route: &str) -> Result<()> {
    let sandbox = Sandbox::new()?;
    let series = Series::named("tiny")?;
    let options = ["--route", route];
    let plugin = Snapshotter::start(&sandbox, &options)?;
    let mut containerd = Containerd::start(&sandbox, VERSION)?;
    for ((file, tag), expected) in deltas("tiny")?.iter().zip(TAGS).zip(&RELEASES) {
        containerd.d4c(["load", file, "--name", NAME])?.success()?;
        let image = series.image(tag)?;
        let known = containerd.ctr(["images", "ls"])?.success()?.stdout;
        ensure!(known.contains(&image.digest), "{tag} is not {}: {known}", image.digest);
        let blobs = containerd.blobs()?;
        ensure!(
            image.layers().iter().all(|(layer, _)| !blobs.contains(layer)),
            "layers were stored: {blobs:?}"
        );
        let seen = release(&containerd)?;
        ensure!(seen == *expected, "{tag}: {seen}");
    }

    containerd.run_detached("di3fs", NAME, "survivor", &["sleep", "1000"])?;
    containerd.exec("survivor", &["sh", "-c", "echo kept > /kept"])?;
    one_overlay(&containerd, route)?;
    plugin.kill()?;
    // Over FUSE it would wait for the next plugin.
    if !route.starts_with("fuse") {
        ensure!(containerd.exec("survivor", &["cat", "/kept"])?.trim() == "kept", "lost with the plugin");
    }
    let plugin = Snapshotter::start(&sandbox, &options)?;
    containerd.restart()?;
    ensure!(
        containerd.exec("survivor", &["cat", "/kept", "/etc/release"])?.contains("v3"),
        "lost by restarts"
    );
    ensure!(release(&containerd)? == RELEASES[2], "not served any more");
    containerd.start_again("survivor")?;
    ensure!(containerd.exec("survivor", &["cat", "/kept"])?.trim() == "kept", "lost by a new start");
    containerd.end("survivor")?;
    commits(&sandbox, &containerd, &containerd.container("survivor"))?;
    containerd.remove("survivor")?;

    containerd.ctr(["images", "rm", "--sync", NAME])?.success()?;
    wait_for("the snapshots to be collected", || Ok(containerd.snapshots("di3fs")?.is_empty()))?;
    let objects = Snapshotter::root(&sandbox).join("contents/objects");
    let free = || -> Result<bool> {
        let fans = std::fs::read_dir(&objects)?.flatten();
        Ok(fans
            .map(|fan| std::fs::read_dir(fan.path()))
            .all(|entries| entries.is_ok_and(|mut entries| entries.next().is_none())))
    };
    containerd.d4c(["prune"])?.success()?;
    wait_for("the objects to be removed", free)?;
    containerd.stop()?;
    ensure!(plugin.terminate()?.success(), "the plugin did not end well");
    sandbox.close()
}

#[test]
fn made_in_advance() -> Result<()> {
    base_and_deltas_run_survive_and_go("overlay")
}

#[test]
fn made_when_opened_on_erofs() -> Result<()> {
    base_and_deltas_run_survive_and_go("erofs")
}

#[test]
fn made_when_opened_over_fuse() -> Result<()> {
    base_and_deltas_run_survive_and_go("fuse")
}

/// Nothing is made but what is opened; who opens a content while there is no plugin waits for the next one; and at last
/// all is made, after which nothing needs a plugin.
fn nothing_is_made_before_it_is_opened(route: &str, options: &[&str]) -> Result<()> {
    let sandbox = Sandbox::new()?;
    let series = Series::named("tiny")?;
    let late = ["--route", route, "--finish-after", "1000"];
    let plugin = Snapshotter::start(&sandbox, &late)?;
    let mut containerd = Containerd::start(&sandbox, VERSION)?;
    // The base is completed when the delta comes.
    for file in &deltas("tiny")?[..2] {
        containerd.d4c(["load", file, "--name", NAME])?.success()?;
    }
    let record = series.image(TAGS[1])?.digest.replace("sha256:", "");
    let delta = Snapshotter::root(&sandbox).join("images").join(record).join("delta");
    containerd.run_detached_with("di3fs", NAME, "reader", options, &["sleep", "1000"])?;
    ensure!(delta.exists(), "the image is complete before it was read");

    plugin.kill()?;
    let read = std::thread::scope(|scope| -> Result<String> {
        let reader =
            scope.spawn(|| containerd.exec("reader", &["cat", "/app/release", "/odd/opaque-later/on-top"]));
        std::thread::sleep(std::time::Duration::from_millis(500));
        ensure!(!reader.is_finished(), "did not wait for the plugin: {:?}", reader.join());
        let plugin = Snapshotter::start(&sandbox, &late)?;
        let read = reader.join().map_err(|_| anyhow::anyhow!("the reader panicked"))??;
        wait_for("the order of first opens", || Ok(delta.with_file_name("opened").exists()))?;
        plugin.terminate()?;
        Ok(read)
    })?;
    ensure!(read == "version 2\non top\n", "{read}");
    ensure!(delta.exists(), "the image was completed");

    let plugin = Snapshotter::start(&sandbox, &["--route", route, "--finish-after", "0"])?;
    wait_for("the image to be complete", || Ok(!delta.exists()))?;
    containerd.restart()?;
    ensure!(release(&containerd)? == RELEASES[1], "a new container sees something else");
    if route == "erofs" {
        plugin.kill()?;
        containerd.exec("reader", &["sh", "-c", "cat /app/* > /dev/null && cat /etc/passwd"])?;
    } else {
        plugin.terminate()?;
    }
    let plugin = Snapshotter::start(&sandbox, &late)?;
    containerd.restart()?;
    containerd.remove("reader")?;
    containerd.ctr(["images", "rm", "--sync", NAME])?.success()?;
    wait_for("the snapshots to be collected", || Ok(containerd.snapshots("di3fs")?.is_empty()))?;
    containerd.stop()?;
    ensure!(plugin.terminate()?.success(), "the plugin did not end well");
    sandbox.close()
}

#[test]
fn nothing_is_made_before_it_is_opened_on_erofs() -> Result<()> {
    nothing_is_made_before_it_is_opened("erofs", &[])
}

#[test]
fn nothing_is_made_before_it_is_opened_over_fuse() -> Result<()> {
    nothing_is_made_before_it_is_opened("fuse", &[])
}

#[test]
fn nothing_is_made_before_it_is_opened_in_a_user_namespace() -> Result<()> {
    let mapped = ["--uidmap", "0:100000:65536", "--gidmap", "0:100000:65536", "--remap-labels"];
    for route in ["erofs", "fuse"] {
        // ctr 1.x knows neither.
        if VERSION == Version::Two {
            nothing_is_made_before_it_is_opened(route, &mapped)?;
        }
    }
    Ok(())
}

/// Where layers are to be checked before a load ends, all is made by then; else nothing is.
#[test]
fn layers_are_checked_when_it_is_asked_for() -> Result<()> {
    for (when, complete) in [("eager", true), ("off", false)] {
        let sandbox = Sandbox::new()?;
        let flags = ["--route", "erofs", "--finish-after", "1000", "--diff-ids", when];
        let plugin = Snapshotter::start(&sandbox, &flags)?;
        let containerd = Containerd::start(&sandbox, VERSION)?;
        containerd.d4c(["load", &deltas("tiny")?[0], "--name", NAME])?.success()?;
        let record = Series::named("tiny")?.image(TAGS[0])?.digest.replace("sha256:", "");
        let pending = Snapshotter::root(&sandbox).join("images").join(record).join("delta").exists();
        ensure!(pending != complete, "{when}: pending: {pending}");
        containerd.stop()?;
        plugin.terminate()?;
        sandbox.close()?;
    }
    Ok(())
}

/// Without the background nothing is made but what is opened, until it is asked for; and what no container sees is given back
/// and made again.
#[test]
fn made_when_asked_for_and_given_back() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let series = Series::named("tiny")?;
    let plugin =
        Snapshotter::start(&sandbox, &["--route", "erofs", "--prefetch", "false", "--finish-after", "0"])?;
    let containerd = Containerd::start(&sandbox, VERSION)?;
    for file in &deltas("tiny")?[..2] {
        containerd.d4c(["load", file, "--name", NAME])?.success()?;
    }
    let record = |tag: &str| -> Result<std::path::PathBuf> {
        let digest = series.image(tag)?.digest.replace("sha256:", "");
        Ok(Snapshotter::root(&sandbox).join("images").join(digest))
    };
    let number = |arguments: &[&str], field: &str| -> Result<u64> {
        let said = containerd.d4c(["--json"].iter().chain(arguments))?.success()?.stdout;
        let said: serde_json::Value = serde_json::from_str(&said)?;
        said[field].as_u64().ok_or_else(|| anyhow::anyhow!("no {field}: {said}"))
    };
    containerd.run_detached("di3fs", NAME, "reader", &["sleep", "1000"])?;
    containerd.exec("reader", &["cat", "/app/release"])?;
    // The first image has lost its name, and is given back once containerd has collected its snapshots.
    containerd.collect()?;
    let all = number(&["prune", "--keep", "1"], "left_bytes")?;
    ensure!(number(&["prune", "--keep", "1"], "objects")? == 0, "taken from a container");
    containerd.remove("reader")?;
    // Its snapshot goes when containerd collects, which it puts off when its last collection took long.
    containerd.collect()?;
    ensure!(number(&["prune", "--keep", &all.to_string()], "objects")? == 0, "more than asked for");
    wait_for("what only the container saw to be given back", || {
        Ok(number(&["prune", "--keep", "1"], "left_bytes")? < all)
    })?;
    ensure!(release(&containerd)? == RELEASES[1], "not made again");
    ensure!(record(TAGS[1])?.join("delta").exists(), "completed by itself");

    containerd.d4c(["prefetch", "example.com/none:latest"])?.refused(3, "example.com/none:latest")?;
    ensure!(number(&["prefetch", NAME], "contents")? > 0, "nothing was left to make");
    ensure!(!record(TAGS[1])?.join("delta").exists(), "not complete");
    ensure!(number(&["prefetch", &series.image(TAGS[1])?.digest], "contents")? == 0, "made twice");
    let opened = std::fs::read(record(TAGS[1])?.join("opened"))?;
    ensure!(!opened.is_empty() && opened.len() % 32 == 0, "{} bytes of order", opened.len());
    containerd.d4c(["load", &deltas("tiny")?[2], "--name", NAME])?.success()?;
    ensure!(record(TAGS[2])?.join("carried").exists(), "the order is not carried over");
    ensure!(release(&containerd)? == RELEASES[2], "not served");

    containerd.ctr(["images", "rm", "--sync", NAME])?.success()?;
    wait_for("the snapshots to be collected", || Ok(containerd.snapshots("di3fs")?.is_empty()))?;
    containerd.stop()?;
    ensure!(plugin.terminate()?.success(), "the plugin did not end well");
    sandbox.close()
}

/// On a full disk what can be made again and no container sees goes; when there is nothing of that, one file cannot be opened and
/// the others can; with room it can be opened. And a limit is kept without being asked.
#[test]
fn a_full_disk_fails_a_file_and_not_the_others() -> Result<()> {
    const OTHER: &str = "example.com/tiny:other";
    let sandbox = Sandbox::new()?;
    let root = sandbox.ext4("di3fs", 48 << 20)?;
    let flags = ["--route", "erofs", "--prefetch", "false", "--finish-after", "0", "--store-reserve", "0"];
    let plugin = Snapshotter::start(&sandbox, &flags)?;
    let containerd = Containerd::start(&sandbox, VERSION)?;
    containerd.d4c(["load", &deltas("tiny")?[0], "--name", NAME])?.success()?;
    let other = sandbox.path("other.cdimg").to_string_lossy().into_owned();
    d4c(["convert", &Series::named("tiny")?.source(TAGS[1]), &other])?.success()?;
    containerd.d4c(["load", &other, "--name", OTHER])?.success()?;
    let status = |field: &str| -> Result<u64> {
        let said = containerd.d4c(["status", "--json"])?.success()?.stdout;
        let said: serde_json::Value = serde_json::from_str(&said)?;
        said[field].as_u64().ok_or_else(|| anyhow::anyhow!("no {field}: {said}"))
    };
    let read = |path: &str| -> Result<bool> {
        let command = format!("cat {path} > /dev/null 2>&1 && echo yes || echo no");
        Ok(containerd.exec("reader", &["sh", "-c", &command])?.trim() == "yes")
    };
    let fill = || -> Result<tempfile::NamedTempFile> {
        let mut filler = tempfile::NamedTempFile::new_in(&root)?;
        // What is only promised to a file takes more room than what is written.
        for _ in 0..5 {
            while std::io::Write::write_all(&mut filler, &[0; 4096]).is_ok() {}
            filler.as_file().sync_all()?;
        }
        Ok(filler)
    };
    // Much more than what will be asked for: the file system takes some for itself.
    containerd.run("di3fs", NAME, &["cat", "/app/data.bin"])?;
    containerd.run_detached("di3fs", OTHER, "reader", &["sleep", "1000"])?;
    ensure!(read("/app/release")?, "not read with room");
    // The first container's snapshot, which containerd removes when it has time.
    containerd.collect()?;
    let (first, removed) = (fill()?, status("contents_removed")?);
    ensure!(read("/app/new-in-2")?, "no room was made");
    ensure!(status("contents_removed")? > removed && status("contents_failed")? == 0, "nothing given back");
    let second = fill()?;
    ensure!(!read("/app/kept.bin")? && !read("/app/kept.bin")?, "read without room");
    ensure!(read("/app/release")? && read("/app/new-in-2")?, "others fail, too");
    let lines = plugin.log().matches("content not made").count();
    let failed = status("contents_failed")?;
    ensure!((lines, failed) == (1, 2), "{lines} lines, {failed} failures");
    // A plugin that starts now cannot try the route, also where the one before it left a little room as it ended.
    ensure!(plugin.terminate()?.success(), "the plugin did not end well");
    let third = fill()?;
    let plugin = Snapshotter::start(&sandbox, &flags)?;
    ensure!(plugin.log().contains("takes the last one"), "{}", plugin.log());
    ensure!(read("/app/release")? && read("/app/new-in-2")?, "not read after a start without room");
    drop((first, second, third));
    ensure!(read("/app/kept.bin")?, "not read with room again");
    containerd.remove("reader")?;
    // Its snapshot goes while there is someone to remove it.
    containerd.collect()?;
    ensure!(plugin.terminate()?.success(), "the plugin did not end well");
    let plugin = Snapshotter::start(&sandbox, &[&flags[..], &["--store-limit", "1KiB"]].concat())?;
    wait_for("the limit", || Ok(status("store_bytes")? <= 1024))?;
    containerd.stop()?;
    ensure!(plugin.terminate()?.success(), "the plugin did not end well");
    sandbox.command("umount").arg(&root).status()?;
    sandbox.close()
}

/// On a full disk a complete image that no container lies on gives its contents back, which are made again; one that has a container does
/// not, nor one whose base has gone.
fn complete_images_are_given_back(route: &str) -> Result<()> {
    const BASE: &str = "example.com/tiny:base";
    const OTHER: &str = "example.com/tiny:other";
    const ALL: &str = "/bin/busybox find / -xdev -type f -exec /bin/busybox sha256sum {} + | /bin/busybox sort | /bin/busybox sha256sum";
    let sandbox = Sandbox::new()?;
    let root = sandbox.ext4("di3fs", 48 << 20)?;
    let flags = ["--route", route, "--prefetch", "false", "--finish-after", "0", "--store-reserve", "0"];
    let plugin = Snapshotter::start(&sandbox, &flags)?;
    let containerd = Containerd::start(&sandbox, VERSION)?;
    let files = deltas("tiny")?;
    // The first image with one file more.
    let (tree, source) = (sandbox.path("tree"), Series::named("tiny")?.source(TAGS[0]));
    let target = format!("dir:{}", tree.display());
    let [same, other] = ["same.cdimg", "other.cdimg"].map(|name| sandbox.path(name).display().to_string());
    d4c(["diff", &source, &source, &same])?.success()?;
    d4c(["patch", &source, &same, &target])?.success()?;
    let mut random = Vec::new();
    std::io::Read::read_to_end(
        &mut std::io::Read::take(std::fs::File::open("/dev/urandom")?, 300_000),
        &mut random,
    )?;
    std::fs::write(tree.join("random"), random)?;
    d4c(["convert", &target, &other])?.success()?;
    for (file, name) in files.iter().zip([BASE, NAME]) {
        containerd.d4c(["load", file, "--name", name])?.success()?;
    }
    let number = |arguments: &[&str], field: &str| -> Result<u64> {
        let said = containerd.d4c(["--json"].iter().chain(arguments))?.success()?.stdout;
        let said: serde_json::Value = serde_json::from_str(&said)?;
        said[field].as_u64().ok_or_else(|| anyhow::anyhow!("no {field}: {said}"))
    };
    let digest = Series::named("tiny")?.image(TAGS[1])?.digest.replace("sha256:", "");
    let record = Snapshotter::root(&sandbox).join("images").join(digest);
    let state = || (record.join("delta").exists(), record.join("kept").exists());
    let read = |path: &str| -> Result<bool> {
        let command = format!("cat {path} > /dev/null 2>&1 && echo yes || echo no");
        Ok(containerd.exec("reader", &["sh", "-c", &command])?.trim() == "yes")
    };
    let all = || containerd.run("di3fs", NAME, &["sh", "-c", ALL]);
    ensure!(number(&["prefetch", NAME], "contents")? > 0 && state() == (false, true), "{:?}", state());
    let before = all()?;

    containerd.run_detached("di3fs", NAME, "reader", &["sleep", "1000"])?;
    containerd.collect()?;
    ensure!(number(&["prune", "--keep", "1"], "objects")? == 0, "taken from a container");
    ensure!(state() == (false, true), "{:?}", state());
    containerd.remove("reader")?;
    containerd.d4c(["load", &other, "--name", OTHER])?.success()?;
    containerd.run_detached("di3fs", OTHER, "reader", &["sleep", "1000"])?;
    containerd.collect()?;
    let mut filler = tempfile::NamedTempFile::new_in(&root)?;
    for _ in 0..5 {
        while std::io::Write::write_all(&mut filler, &[0; 4096]).is_ok() {}
        filler.as_file().sync_all()?;
    }
    let removed = number(&["status"], "contents_removed")?;
    ensure!(read("/random")?, "no room was made");
    let failed = number(&["status"], "contents_failed")?;
    ensure!(number(&["status"], "contents_removed")? > removed && failed == 0, "nothing given back");
    ensure!(state() == (true, false), "{:?}", state());
    drop(filler);

    plugin.kill()?;
    let plugin = Snapshotter::start(&sandbox, &flags)?;
    wait_for("containerd to find the plugin again", || {
        Ok(containerd.ctr(["snapshots", "--snapshotter", "di3fs", "ls"])?.code == 0)
    })?;
    ensure!(read("/random")? && all()? == before, "not as it was");
    number(&["prefetch", NAME], "contents")?;
    ensure!(state() == (false, true), "{:?}", state());
    // Without a base there is nothing to make them from.
    containerd.remove("reader")?;
    for name in [BASE, OTHER] {
        containerd.ctr(["images", "rm", "--sync", name])?.success()?;
    }
    containerd.collect()?;
    wait_for("what cannot serve any more to go", || {
        number(&["prune", "--keep", "1"], "objects")?;
        Ok(state() == (false, false))
    })?;
    ensure!(all()? == before, "given back without a base");
    containerd.stop()?;
    ensure!(plugin.terminate()?.success(), "the plugin did not end well");
    sandbox.command("umount").arg(&root).status()?;
    sandbox.close()
}

/// What a pending image that a container lies on has of its parent stays when that one's contents are given back.
#[test]
fn what_a_used_image_inherits_stays() -> Result<()> {
    const NAMES: [&str; 3] = ["example.com/tiny:1", "example.com/tiny:2", NAME];
    const ALL: &str =
        "/bin/busybox find / -xdev -type f -exec /bin/busybox sha256sum {} + | /bin/busybox sort";
    let sandbox = Sandbox::new()?;
    let flags = ["--route", "erofs", "--prefetch", "false", "--finish-after", "0", "--store-reserve", "0"];
    let plugin = Snapshotter::start(&sandbox, &flags)?;
    let containerd = Containerd::start(&sandbox, VERSION)?;
    for (file, name) in deltas("tiny")?.iter().zip(NAMES) {
        containerd.d4c(["load", file, "--name", name])?.success()?;
    }
    containerd.run_detached("di3fs", NAME, "reader", &["sleep", "1000"])?;
    containerd.collect()?;
    containerd.d4c(["prune", "--keep", "1"])?.success()?;
    let read = || containerd.exec("reader", &["sh", "-c", ALL]);
    let seen = read()?;
    containerd.d4c(["prefetch", NAME])?.success()?;
    ensure!(read()? == seen && !plugin.log().contains("content not made"), "{}", plugin.log());
    containerd.remove("reader")?;
    containerd.stop()?;
    ensure!(plugin.terminate()?.success(), "the plugin did not end well");
    sandbox.close()
}

#[test]
fn complete_images_are_given_back_on_erofs() -> Result<()> {
    complete_images_are_given_back("erofs")
}

#[test]
fn complete_images_are_given_back_over_fuse() -> Result<()> {
    complete_images_are_given_back("fuse")
}

/// The container's mount lies on what is served itself; where containerd looks into it without mounting it, or mounts it to
/// be read only, it sees the container's files.
fn one_overlay(containerd: &Containerd<'_>, route: &str) -> Result<()> {
    let mounts = std::fs::read_to_string(format!("/proc/{}/mountinfo", containerd.pid("survivor")?))?;
    let root = mounts.lines().find(|line| line.contains(" / / ")).unwrap_or_default();
    ensure!((route == "erofs") == root.contains("/metadata::"), "{route}: {root}");
    if VERSION == Version::Two {
        containerd.run_with("di3fs", NAME, &["--user", "root"], &["true"])?;
    }
    let kind = "application/vnd.oci.image.layer.v1.tar";
    let words = ["snapshots", "--snapshotter", "di3fs", "diff", "--media-type", kind];
    let container = containerd.container("survivor");
    let diff = containerd.ctr(words.into_iter().chain([container.as_str()]))?.success()?.stdout;
    ensure!(diff.contains("kept\n") && !diff.contains("bin/"), "not what was written: {diff}");
    Ok(())
}

/// A container's snapshot is committed, and a new one on it has what the container wrote.
fn commits(sandbox: &Sandbox, containerd: &Containerd<'_>, container: &str) -> Result<()> {
    let target = sandbox.dir("committed")?;
    let ctr = |arguments: &[&str]| {
        containerd.ctr(["snapshots", "--snapshotter", "di3fs"].iter().chain(arguments))?.success()
    };
    ctr(&["commit", "frozen", container])?;
    let mount = ctr(&["prepare", "--target", &target.to_string_lossy(), "thawed", "frozen"])?.stdout;
    let mounted = sandbox.command("sh").args(["-c", &mount]).status()?;
    let kept = std::fs::read_to_string(target.join("kept"));
    sandbox.command("umount").arg(&target).status()?;
    ensure!(mounted.success() && kept? == "kept\n", "not in the committed snapshot");
    ctr(&["rm", "thawed"])?;
    ctr(&["rm", "frozen"]).map(drop)
}

/// Other namespaces get the same layers, and what containerd collects in one stays in the other.
#[test]
fn namespaces_share_layers() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let plugin = Snapshotter::start(&sandbox, &[])?;
    let containerd = Containerd::start(&sandbox, VERSION)?;
    let files = deltas("tiny")?;
    for namespace in ["default", "other"] {
        for file in &files[..2] {
            containerd.d4c(["--namespace", namespace, "load", file, "--name", NAME])?.success()?;
        }
    }
    containerd.ctr(["--namespace", "other", "images", "rm", "--sync", NAME])?.success()?;
    ensure!(release(&containerd)? == RELEASES[1], "gone with the other's");
    containerd.stop()?;
    plugin.terminate()?;
    sandbox.close()
}

/// Who holds a lease, as `d4c load` writes it.
fn owner(pid: u32) -> Result<String> {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let started = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(19));
    let namespace = std::fs::read_link("/proc/self/ns/pid")?;
    Ok(format!("{} {} {pid} {}", boot.trim(), namespace.display(), started.unwrap_or_default()))
}

/// The lease of a load that was killed goes with the next load, those of others stay.
#[test]
fn a_load_removes_the_lease_of_a_killed_one() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let plugin = Snapshotter::start(&sandbox, &[])?;
    let containerd = Containerd::start(&sandbox, VERSION)?;
    let mut ended = std::process::Command::new("sleep").arg("60").spawn()?;
    let of_ended = owner(ended.id())?;
    ended.kill()?;
    ended.wait()?;
    let lease = |id: &str, owner: &str| {
        let label = format!("io.d4c.load.owner={owner}");
        containerd.ctr(["leases", "create", "--id", id, &label])?.success()
    };
    lease("of-ended", &of_ended)?;
    lease("of-another", &owner(std::process::id())?)?;
    lease("of-elsewhere", &of_ended.replace("pid:[", "pid:[9"))?;
    containerd.d4c(["load", &deltas("tiny")?[0], "--name", NAME])?.success()?;
    let left = containerd.ctr(["leases", "ls", "-q"])?.success()?.stdout;
    let mut left: Vec<&str> = left.split_whitespace().collect();
    left.sort_unstable();
    ensure!(left == ["of-another", "of-elsewhere"], "{left:?}");
    containerd.stop()?;
    plugin.terminate()?;
    sandbox.close()
}

/// What a newcomer gets wrong with `load`.
#[test]
fn loads_at_once_wait_for_each_other() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let files = deltas("tiny")?;
    let plugin = Snapshotter::start(&sandbox, &[])?;
    let containerd = Containerd::start(&sandbox, VERSION)?;
    let load = |_| containerd.d4c_command().args(["load", &files[0], "--name", NAME]).spawn();
    let loads = (0..8).map(load).collect::<std::io::Result<Vec<_>>>()?;
    for load in loads {
        let ended = load.wait_with_output()?;
        ensure!(ended.status.success(), "one of several failed: {}", ended.status);
    }
    containerd.stop()?;
    plugin.terminate()?;
    sandbox.close()
}

#[test]
fn wrong_loads_are_told_in_one_line() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let files = deltas("tiny")?;
    let alone = |arguments: &[&str]| {
        let control = Snapshotter::control(&sandbox).to_string_lossy().into_owned();
        d4c(["--control", &control, "--address", "/nonexistent/c.sock"].iter().chain(arguments))
    };
    alone(&["load", &files[0], "--name", NAME])?.refused(1, "control.sock")?;
    let plugin = Snapshotter::start(&sandbox, &[])?;
    let containerd = Containerd::start(&sandbox, VERSION)?;
    containerd.d4c(["load", "/nonexistent.cdimg", "--name", NAME])?.refused(3, "/nonexistent.cdimg")?;
    containerd.d4c(["load", "/etc/hostname", "--name", NAME])?.refused(4, "/etc/hostname")?;
    containerd.d4c(["load", &files[1], "--name", NAME])?.refused(3, "base image")?;
    containerd.stop()?;
    plugin.terminate()?;
    sandbox.close()
}
