//! Tier 1: the file commands on real images, as root (owners, devices, privileged attributes).

use std::fs;
use std::io;
use std::num::NonZeroUsize;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use d4c_integration::Sandbox;
use d4c_integration::deltas::deltas;
use d4c_integration::images::{Series, TAGS, script};
use d4c_integration::memory::measure;
use d4c_integration::program::{Output, built, d4c};
use d4c_integration::sandbox::wait_for;
use d4c_integration::snapshotter::Snapshotter as Daemon;
use d4c_integration::tree::{Tree, sha256};
use di3fs::mount::Route;
use di3fs::store::Removed;
use di3fs_snapshotter::Error;
use di3fs_snapshotter::config::DiffIds;
use di3fs_snapshotter::holder::Holder;
use di3fs_snapshotter::import::{Finisher, Importer, What};
use di3fs_snapshotter::mounts::OverlayOptions;
use di3fs_snapshotter::serving::{LowerProvider, Serving};
use di3fs_snapshotter::snapshot::{Kind, LABEL_SNAPSHOT_REF, Labels};
use di3fs_snapshotter::snapshotter::{LayerProvider, Snapshotter};
use di3fs_snapshotter::store::Store;
use nix::sys::signal::{Signal, kill};

/// Base, then two deltas: the tree is the one that umoci unpacks, every diff ID comes back, the config keeps its digest.
fn patched_equals_unpacked(name: &str) -> Result<()> {
    let sandbox = Sandbox::new()?;
    let series = Series::named(name)?;
    let files = deltas(name)?;
    for (file, tag) in files[1..].iter().zip(TAGS) {
        d4c(["verify", file, "--base", &series.source(tag)])?.success()?;
    }
    for (count, tag) in TAGS.iter().enumerate().skip(1) {
        let root = sandbox.path(&format!("patched-{tag}"));
        let layout = sandbox.path(&format!("layout-{tag}"));
        for destination in [format!("dir:{}", root.display()), format!("oci:{}:{tag}", layout.display())] {
            let mut arguments = vec!["patch".to_owned()];
            arguments.extend_from_slice(&files[..=count]);
            arguments.push(destination);
            d4c(&arguments)?.success()?;
        }
        // A folder without an entry has the time of unpacking with umoci, and the epoch with us.
        let tree = |root: &Path| {
            Ok::<_, anyhow::Error>(Tree::of(root)?.without_mtime_of(&["app/no-entry-for-this"]))
        };
        tree(&series.unpack(tag, &sandbox)?)?.must_equal(&tree(&root)?)?;
        let (image, made) = (series.image(tag)?, Series::at(&layout).image(tag)?);
        ensure!(made.config_digest == image.config_digest, "{tag}: another config");
        ensure!(made.diff_ids() == image.diff_ids(), "{tag}: other diff IDs");
    }
    merged_equals_one_by_one(&series, &files, &sandbox)?;
    sandbox.close()
}

/// The deltas merged make the image that they make one after the other; so does a base image that has taken them.
fn merged_equals_one_by_one(series: &Series, files: &[String], sandbox: &Sandbox) -> Result<()> {
    let [base, first, second] = files else { bail!("{} files of three releases", files.len()) };
    let [delta, whole] = ["merged", "base"].map(|name| sandbox.path(name).with_extension("cdimg"));
    let last = TAGS[2];
    for (out, inputs) in [(&delta, &[first, second][..]), (&whole, &[base, first, second])] {
        let words = std::iter::once("merge").chain(inputs.iter().map(|file| file.as_str()));
        d4c(words.chain([&*out.to_string_lossy()]))?.success()?;
    }
    d4c(["verify", &*whole.to_string_lossy()])?.success()?;
    let layout = sandbox.path("layout-merged");
    let destination = format!("oci:{}:{last}", layout.display());
    d4c(["patch", base, &*delta.to_string_lossy(), &destination])?.success()?;
    let (image, made) = (series.image(last)?, Series::at(&layout).image(last)?);
    ensure!(made.config_digest == image.config_digest, "merged: another config");
    ensure!(made.diff_ids() == image.diff_ids(), "merged: other diff IDs");
    let twice = Series::at(&sandbox.path(&format!("layout-{last}"))).image(last)?;
    ensure!(made.digest == twice.digest, "merged: another manifest is written");
    Ok(())
}

#[test]
fn every_kind_of_entry_comes_back() -> Result<()> {
    patched_equals_unpacked("tiny")
}

#[test]
fn debian_nginx_comes_back() -> Result<()> {
    patched_equals_unpacked("debian-nginx")
}

#[test]
fn npm_node_comes_back() -> Result<()> {
    patched_equals_unpacked("npm-node")
}

#[test]
fn pypi_numpy_comes_back() -> Result<()> {
    patched_equals_unpacked("pypi-numpy")
}

/// A collection by containerd between an import and what follows it takes nothing of the image; after the release it does.
#[test]
fn an_image_being_loaded_stays() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let series = Series::named("tiny")?;
    let file = sandbox.path("v1.cdimg");
    d4c(["convert", &series.source("v1"), &file.to_string_lossy()])?.success()?;
    let store = Arc::new(Store::open(&sandbox.path("root"))?);
    let importer = Importer::open(store.clone())?;
    let snapshotter =
        Snapshotter::new(store.clone(), store, Arc::new(()), Arc::new(()), OverlayOptions::default());
    let used_and_removed = |chain_ids: &[dimg::Digest]| -> Result<()> {
        let mut names = vec![String::new()];
        for id in chain_ids.iter().map(ToString::to_string) {
            let labels = Labels::from([(LABEL_SNAPSHOT_REF.to_owned(), id.clone())]);
            let answer = snapshotter.prepare(&format!("default/1/{id}"), names.last().unwrap(), labels);
            ensure!(matches!(answer, Err(Error::AlreadyExists { .. })), "layer {id} is not ready");
            importer.adopted(&id)?;
            let filter = format!("labels.\"{LABEL_SNAPSHOT_REF}\"==\"{id}\"");
            names.extend(snapshotter.list(&[filter])?.into_iter().map(|info| info.name));
        }
        for name in names[1..].iter().rev() {
            snapshotter.remove(name)?;
        }
        Ok(())
    };
    for imports in 1..=2 {
        let mut image = importer.import(&file, What::Image)?;
        for _ in 1..imports {
            image = importer.import(&file, What::Image)?;
        }
        used_and_removed(&image.chain_ids)?;
        for _ in 0..imports {
            importer.sweep()?;
            ensure!(importer.images()?.len() == 1, "forgotten while it is being loaded");
            importer.release(image.image.digest);
        }
        ensure!(importer.images()?.is_empty(), "kept for nobody");
    }
    sandbox.close()
}

/// What a prune may remove goes with that one prune, also while a content is made, and one that was kept by such a process goes by itself.
#[test]
fn what_is_pruned_goes_while_others_are_made() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let store = Arc::new(Store::open(&sandbox.path("root"))?);
    let importer = Arc::new(Importer::open(store.clone())?);
    let objects = || importer.objects().bytes();
    let import = || -> Result<()> {
        for file in deltas("tiny")? {
            let image = importer.import(Path::new(&file), What::Image)?;
            importer.unhold(image.image.digest);
        }
        Ok(())
    };
    import()?;
    let hold = importer.objects().hold();
    let (forgotten, removed) = thread::scope(|scope| {
        scope.spawn(|| {
            thread::sleep(Duration::from_millis(200));
            drop(hold);
        });
        importer.prune()
    })?;
    ensure!(forgotten == 3 && removed.objects > 0 && objects()? == 0, "{forgotten} images, {removed:?}");
    ensure!(importer.prune()? == (0, Removed::default()), "a second prune has something to do");

    import()?;
    importer.images()?.iter().try_for_each(|image| importer.set_forgettable(image.digest))?;
    let hold = importer.objects().hold();
    ensure!(importer.sweep()? == (3, Removed::default()) && objects()? > 0, "removed while it is held");
    drop(hold);
    let _finisher = Finisher::start(importer.clone(), None, || ())?;
    wait_for("objects that no image needs to go", || Ok(objects()? == 0))?;
    sandbox.close()
}

/// An image all of whose contents were there is removed with them and comes again as a delta before anyone looks at what is served: who asks
/// for it then does not get the mount that makes nothing.
#[test]
fn an_image_that_comes_again_at_once_is_served_anew() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let file = PathBuf::from(&deltas("tiny")?[0]);
    let store = Arc::new(Store::open(&sandbox.path("root"))?);
    let importer = Arc::new(Importer::open_lazy(store.clone())?);
    let holder = holder_of(&sandbox)?;
    let serving = Serving::open(importer.clone(), Holder::new(holder, store.root()), Route::Erofs)?;
    // Another file each time: the first stays open within the kernel's overlay.
    for (is_whole, name, expected) in [(true, "app/release", "version 1"), (false, "etc/release", "v1")] {
        let image = importer.import(&file, What::Image)?;
        let (digest, top) = (image.image.digest, image.chain_ids.last().context("no layer")?.to_string());
        ensure!(!is_whole || importer.finish(digest, NonZeroUsize::MIN)?, "not complete");
        ensure!(importer.is_complete(&top)? == is_whole, "complete: {}", !is_whole);
        let lower = serving.lower(&top)?.as_directories();
        let seen = fs::read_to_string(lower.layers[0].join(name)).with_context(|| format!("read {name}"))?;
        ensure!(seen.trim() == expected, "{name}: {seen}");
        importer.unhold(digest);
        let (forgotten, removed) = importer.prune()?;
        ensure!(forgotten == 1 && removed.objects > 0, "{forgotten} images, {removed:?}");
    }
    serving.close();
    sandbox.close()
}

/// What a holder has and does not give at the start is gone on with once it does.
#[test]
fn a_session_that_cannot_be_taken_over_yet_is_later() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let root = Daemon::root(&sandbox);
    let store = Arc::new(Store::open(&root)?);
    let importer = Arc::new(Importer::open_lazy(store.clone())?);
    let program = holder_of(&sandbox)?;
    let serve =
        || Serving::open(importer.clone(), Holder::new(program.clone(), &root), Route::Erofs).map(Arc::new);
    let serving = serve()?;
    let image = importer.import(&PathBuf::from(&deltas("tiny")?[0]), What::Image)?;
    let served: Arc<dyn LowerProvider> = serving.clone();
    let snapshotter =
        Snapshotter::new(store.clone(), store.clone(), served, Arc::new(()), OverlayOptions::default());
    let mut parent = String::new();
    for id in image.chain_ids.iter().map(ToString::to_string) {
        let tree = store.tree(&id)?.context("no tree")?;
        ensure!(store.adopt(&id, &parent, tree.number, Labels::new())?, "not there");
        parent = id;
    }
    snapshotter.view("view", &parent, Labels::new())?;
    let seen = serving.lower(&parent)?.as_directories().layers[0].join("app/release");
    drop(snapshotter);
    serving.close();
    drop(serving);

    let holder = Daemon::holder(&sandbox).context("no holder")?;
    kill(holder, Signal::SIGSTOP)?;
    let serving = serve();
    kill(holder, Signal::SIGCONT)?;
    let serving = serving?;
    ensure!(serving.count() == 0, "taken over from one that does not answer");
    serving.sweep();
    ensure!(serving.count() == 1, "given up");
    ensure!(fs::read_to_string(seen)?.trim() == "version 1", "read something else");
    store.remove("view")?;
    serving.close();
    sandbox.close()
}

/// A program that is a holder, which the sandbox ends should the test fail.
fn holder_of(sandbox: &Sandbox) -> Result<PathBuf> {
    let holder = sandbox.path("holder");
    let program = built("di3fs-snapshotter");
    let mark =
        format!("#!/bin/sh\nD4C_SANDBOX={} exec {} \"$@\"\n", sandbox.root().display(), program.display());
    fs::write(&holder, mark)?;
    fs::set_permissions(&holder, fs::Permissions::from_mode(0o755))?;
    Ok(holder)
}

/// An image whose file is damaged, or which was rejected for what that says, comes by a sound file after all; by a damaged one it does not.
#[test]
fn a_sound_file_mends_what_another_one_left() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let file = PathBuf::from(&deltas("tiny")?[0]);
    let mut bytes = fs::read(&file)?;
    // Within the last frame, which is looked at when it is read, not when the file is opened.
    let end = bytes.len() - 8;
    bytes[end..].fill(0x5a);
    let damaged = sandbox.path("damaged.cdimg");
    fs::write(&damaged, &bytes)?;
    for rejected in [false, true] {
        let root = sandbox.path(if rejected { "rejected" } else { "root" });
        let importer = Importer::open_lazy(Arc::new(Store::open(&root)?))?;
        let image = importer.import(&file, What::Image)?;
        let (digest, top) = (image.image.digest, image.chain_ids.last().context("no layer")?.to_string());
        let record = root.join("images").join(digest.hex());
        fs::copy(&damaged, record.join("delta"))?;
        ensure!(importer.finish(digest, NonZeroUsize::MIN).is_err(), "made from a damaged file");
        if rejected {
            fs::write(record.join("rejected"), "its layers are others")?;
        }
        ensure!(!importer.is_complete(&top).unwrap_or(false), "complete");
        importer.import(&file, What::Image)?;
        ensure!(importer.is_complete(&top)?, "not mended");
        ensure!(!record.join("rejected").exists() && !record.join("delta").exists(), "something is left");
    }
    let importer = Importer::open_lazy(Arc::new(Store::open(&sandbox.path("sound"))?))?;
    let image = importer.import(&file, What::Image)?;
    ensure!(importer.import(&damaged, What::Image).is_err(), "the damaged one was taken");
    ensure!(importer.finish(image.image.digest, NonZeroUsize::MIN)?, "it spoiled the sound one");
    sandbox.close()
}

/// Layers of an image that was rejected are given to nobody new, containerd unpacks its own; those of another image that has them too are.
#[test]
fn layers_of_a_rejected_image_are_not_offered() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let store = Arc::new(Store::open(&sandbox.path("root"))?);
    let importer = Arc::new(Importer::open_lazy(store.clone())?);
    let layers: Arc<dyn LayerProvider> = importer.clone();
    let snapshotter =
        Snapshotter::new(store.clone(), layers, Arc::new(()), Arc::new(()), OverlayOptions::default());
    let files = deltas("tiny")?;
    let image = importer.import(Path::new(&files[0]), What::Image)?;
    let layer = image.chain_ids[0].to_string();
    let is_offered = |namespace: &str, parent: &str| -> Result<bool> {
        let labels = Labels::from([(LABEL_SNAPSHOT_REF.to_owned(), layer.clone())]);
        match snapshotter.prepare(&format!("{namespace}/1/{layer}"), parent, labels) {
            Err(Error::AlreadyExists { .. }) => Ok(true),
            Ok(_) => Ok(false),
            Err(error) => Err(error.into()),
        }
    };
    ensure!(is_offered("one", "")?, "not offered");
    let record = |digest: dimg::Digest| sandbox.path("root").join("images").join(digest.hex());
    fs::write(record(image.image.digest).join("rejected"), "its layers are others")?;
    ensure!(!is_offered("two", "")?, "offered, as it was committed before");
    snapshotter.prepare("base", "", Labels::new())?;
    snapshotter.commit("three/1/base", "base", "", Labels::new())?;
    ensure!(!is_offered("three", "three/1/base")?, "offered");

    let other = sandbox.path("other.cdimg");
    d4c(["convert", &Series::named("tiny")?.source(TAGS[1]), &other.to_string_lossy()])?.success()?;
    let other = importer.import(&other, What::Image)?;
    ensure!(other.chain_ids[0].to_string() == layer, "they share no layer");
    ensure!(is_offered("four", "")?, "not offered, though a sound image has it");
    ensure!(importer.served_image(&layer)?.is_some(), "not served");
    sandbox.close()
}

/// What is given up on a full disk gives its space back.
#[test]
fn a_full_disk_has_room_again_when_something_goes() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let disk = sandbox.ext4("disk", 16 << 20)?;
    let store = Store::open(&disk.join("root"))?;
    let fill = |path: &Path| -> Result<()> {
        let mut file = fs::File::create(path)?;
        for bytes in [1 << 20, 4096, 512] {
            while io::Write::write_all(&mut file, &vec![1; bytes]).is_ok() && file.sync_all().is_ok() {}
        }
        Ok(())
    };
    let free = || -> Result<u64> {
        let free = nix::sys::statvfs::statvfs(&disk)?;
        Ok(free.blocks_available() * free.block_size())
    };
    for round in 0..5 {
        let key = format!("key {round}");
        let made = store.create(Kind::Active, &key, "", Labels::new())?;
        fs::write(store.fs_path(made.number).join("file"), vec![1; 1 << 20])?;
        let dir = store.new_tree_dir()?;
        fill(&dir.fs.join("file"))?;
        ensure!(free()? < 1 << 20, "not full");
        let discarded = store.discard_tree_dir(dir.number);
        store.cleanup()?;
        ensure!(free()? > 8 << 20, "round {round}: a directory stays: {discarded:?}");
        fill(&disk.join("filler"))?;
        let removed = store.remove(&key);
        ensure!(removed.is_ok(), "round {round}: a snapshot stays: {removed:?}");
        store.cleanup()?;
        ensure!(free()? >= 1 << 20, "round {round}: its space stays");
        fs::remove_file(disk.join("filler"))?;
    }
    drop(store);
    sandbox.command("umount").arg(&disk).status()?;
    sandbox.close()
}

/// An import that fails leaves its image for whoever tries again; where nobody does, a sweep forgets it.
#[test]
fn what_a_failed_import_left_is_forgotten_where_nobody_comes_back() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let file = PathBuf::from(&deltas("tiny")?[0]);
    // Room for the file and its record, not for its contents.
    let disk = sandbox.tmpfs("disk", 2 * fs::metadata(&file)?.len() + (3 << 20))?;
    let importer = Importer::open_lazy(Arc::new(Store::open(&disk.join("root"))?))?;
    let importer = importer.with_diff_ids(DiffIds::Eager);
    let filler = fs::File::create(disk.join("filler"))?;
    let free = nix::sys::statvfs::statvfs(&disk)?;
    let spare = fs::metadata(&file)?.len() + (256 << 10);
    nix::fcntl::posix_fallocate(
        &filler,
        0,
        i64::try_from(free.blocks_available() * free.block_size() - spare)?,
    )?;
    ensure!(importer.import(&file, What::Image).is_err(), "there was room");
    ensure!(importer.sweep()?.0 == 0 && importer.images()?.len() == 1, "not left for another try");
    importer.prune()?;
    ensure!(importer.import_unattended(&file, What::Image, true).is_err(), "there was room");
    ensure!(importer.sweep()?.0 == 1 && importer.images()?.is_empty(), "left");
    drop(importer);
    sandbox.close()
}

/// On a disk that is too small every command says so, with status 5, and leaves it as it was.
#[test]
fn a_full_disk_is_told_and_left_clean() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let series = Series::named("tiny")?;
    let disk = sandbox.tmpfs("disk", 256 << 10)?;
    let base = sandbox.path("v1.cdimg").to_string_lossy().into_owned();
    d4c(["convert", &series.source("v1"), &base])?.success()?;
    let on_disk = |name: &str| disk.join(name).to_string_lossy().into_owned();
    let delta = sandbox.path("v2.cdimg").to_string_lossy().into_owned();
    d4c(["diff", &series.source("v1"), &series.source("v2"), &delta])?.success()?;
    for arguments in [
        vec!["convert".to_owned(), series.source("v1"), on_disk("out.cdimg")],
        vec!["patch".to_owned(), base.clone(), delta.clone(), format!("dir:{}", on_disk("root"))],
        vec!["patch".to_owned(), base.clone(), delta.clone(), format!("oci:{}:x", on_disk("layout"))],
    ] {
        let ended = d4c(&arguments)?;
        ended.refused(5, "no space left")?;
        let left: Vec<_> = fs::read_dir(&disk)?.collect();
        ensure!(left.is_empty(), "{arguments:?} left {left:?}");
    }
    sandbox.close()
}

/// A file of 500 MB: the delta takes less than 1.5 GiB of memory of its own, applying it less than 64 MiB.
#[test]
fn large_files_need_bounded_memory() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let dir = |name: &str| Ok::<_, anyhow::Error>(format!("dir:{}", sandbox.dir(name)?.display()));
    let (old, new) = (dir("old")?, dir("new")?);
    let file = |dir: &str| sandbox.path(dir).join("large.bin");
    let mut big = sandbox.command("python3");
    Output::of(big.arg(script("big.py")).arg(file("old")).arg(file("new")).arg("500"))?.success()?;
    let delta = sandbox.path("delta.cdimg").to_string_lossy().into_owned();
    let out = sandbox.path("out");
    let run = |arguments: &[&str]| measure(sandbox.command(built("d4c")).args(arguments));
    let diff = run(&["diff", &old, &new, &delta])?;
    let patch = run(&["patch", &old, &delta, &format!("dir:{}", out.display())])?;
    ensure!(diff.peak_bytes < 1536 << 20, "diff took {} MiB", diff.peak_bytes >> 20);
    ensure!(patch.peak_bytes < 64 << 20, "patch took {} MiB", patch.peak_bytes >> 20);
    ensure!(sha256(&out.join("large.bin"))? == sha256(&file("new"))?, "another file");
    sandbox.close()
}
