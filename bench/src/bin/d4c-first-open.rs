//! The first open of a file that a delta patches, beside the bare patch: `d4c-first-open BASE DELTA`, as root.
//!
//! Bare: the recipe run in this process by as many threads as a mount has for it, its digest verified, from the same base, an object in
//! the same directory, to a new file there, which is then opened and read. Mounted: the file opened and read through a writable
//! overlay, as a container has it. The bases are objects, and in the page cache; what the file makes is removed before
//! each try. With `--readers` also all small files that the delta makes, in the order of their names, by so many threads: as a whole, in wall and
//! processor time of this process, which is the kernel's for it, too. Bare and mounted take turns. For each file its shortest try counts; a class's line has their sums, and the median of the files' ratios.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::num::NonZeroUsize;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Parser;
use d4c_sys::Map;
use di3fs::lazy::{Contents, Step};
use di3fs::mount::{Changes, Image, Options, Route, Served};
use di3fs::store::ObjectStore;
use di3fs::tree::{Body, Tree};
use dimg::Digest;
use dimg::content::Bytes;
use dimg::format::{DeltaFile, Recipe};

/// First opens of patched files through mounts, beside the bare patch.
#[derive(Debug, Parser)]
#[command(name = "d4c-first-open")]
struct Args {
    /// A base file
    base: PathBuf,
    /// A delta on it
    delta: PathBuf,
    /// Routes to mount by
    #[arg(long, value_name = "ROUTE,…", value_delimiter = ',', default_values = ["erofs", "fuse"])]
    routes: Vec<String>,
    /// Files of each class
    #[arg(long, default_value = "30")]
    files: usize,
    /// Tries of each file
    #[arg(long, default_value = "5")]
    tries: usize,
    /// Readers of all small files, the numbers to be tried
    #[arg(long, value_name = "N,…", value_delimiter = ',')]
    readers: Vec<usize>,
    /// Make them in a store as the plugin's, and not in one as `d4c mount` has by default
    #[arg(long)]
    kept: bool,
    /// Where contents are made
    #[arg(long, default_value = "/var/tmp")]
    dir: PathBuf,
}

/// Names of classes, and up to which size a file is of one.
const CLASSES: [(&str, u64); 4] = [
    ("up to 64 KiB", 64 << 10),
    ("up to 512 KiB", 512 << 10),
    ("up to 8 MiB", 8 << 20),
    ("larger", u64::MAX),
];
/// As `fs::lazy` has it.
const SEVERAL_THREADS: u64 = 4 << 20;

/// A file that is measured, and its shortest tries: bare, then by route.
struct Patched {
    path: PathBuf,
    recipe: Recipe,
    best: Vec<Duration>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let routes = args.routes.iter().map(|name| name.parse()).collect::<Result<Vec<Route>, _>>()?;
    let dir = tempfile::tempdir_in(&args.dir).context("make directory")?;
    let open = |path: &Path| -> Result<DeltaFile> {
        let map = Map::path(path).with_context(|| format!("read file: {}", path.display()))?;
        Ok(DeltaFile::open(Bytes::new(map))?)
    };
    let open_store = if args.kept { ObjectStore::open } else { ObjectStore::open_volatile };
    let store = Arc::new(open_store(&dir.path().join("store"))?);
    let contents = || -> Result<(Contents, Tree)> {
        let (base, delta) = (open(&args.base)?, open(&args.delta)?);
        let first = base.dimg().resolve(None)?;
        let second = delta.dimg().resolve(Some(&first.layers))?;
        let tree = Tree::merge(&second.layers)?;
        let step = |file, recipes| Step { file: Arc::new(file), recipes };
        let steps = vec![step(base, first.recipes), step(delta, second.recipes)];
        Ok((Contents::new(Arc::clone(&store), steps, Vec::new()), tree))
    };
    let delta = open(&args.delta)?;
    let (all, tree) = contents()?;
    let recipes = delta.dimg().resolve(Some(&open(&args.base)?.dimg().resolve(None)?.layers))?.recipes;
    let mut classes = choose(&tree, &recipes, args.files);
    // The image before is complete, as in the plugin.
    let before: Vec<_> =
        open(&args.base)?.dimg().resolve(None)?.recipes.values().map(|recipe| recipe.content).collect();
    all.ensure_all(&before, std::thread::available_parallelism()?)?;
    drop(all);
    for base in classes.iter().flatten().filter_map(|file| file.recipe.base) {
        read(&store.path(&base))?;
    }
    delta.dimg().keep_groups(NonZeroUsize::new(8).context("no groups")?);

    for _ in 0..args.tries {
        delta.dimg().forget_groups();
        for file in classes.iter_mut().flatten() {
            let took = bare(&delta, &file.recipe, &store)?;
            file.best[0] = file.best[0].min(took);
        }
        for (number, route) in routes.iter().enumerate() {
            for file in classes.iter().flatten() {
                absent(fs::remove_file(store.path(&file.recipe.content)))?;
            }
            let (contents, tree) = contents()?;
            let image = Image { tree: Arc::new(tree), contents: Arc::new(contents) };
            let options = Options { route: Some(*route), ..Options::default() };
            let (at, state) = (dir.path().join("at"), dir.path().join("state"));
            fs::create_dir_all(&at)?;
            let changes = Changes::below(&dir.path().join("changes"))?;
            let mounted = Served::start(&image, &state, &options)?.mount(&at, Some(&changes))?;
            for file in classes.iter_mut().flatten() {
                let path = at.join(&file.path);
                // The way to it costs the same whoever made it.
                fs::symlink_metadata(&path)?;
                let start = Instant::now();
                let bytes = read(&path)?;
                file.best[number + 1] = file.best[number + 1].min(start.elapsed());
                if bytes != file.recipe.content.size {
                    bail!("{}: {bytes} bytes", path.display());
                }
            }
            mounted.unmount()?;
            image.contents.rest();
            di3fs::mount::remove(&state)?;
            fs::remove_dir_all(dir.path().join("changes"))?;
        }
    }
    report(&classes, &args.routes);
    let Some(erofs) = routes.iter().find(|route| **route == Route::Erofs) else { return Ok(()) };
    for readers in &args.readers {
        let (_, tree) = contents()?;
        let small: Vec<Patched> = choose(&tree, &recipes, usize::MAX).swap_remove(0);
        let mut best = [[Duration::MAX; 2]; 2];
        for _ in 0..args.tries {
            delta.dimg().forget_groups();
            let took = together(*readers, &small, |number, file| {
                bare_at(&delta, &file.recipe, &store, &format!("bare{number}"), false).map(drop)
            })?;
            keep(&mut best[0], took);
            for number in 0..small.len() {
                fs::remove_file(store.root().join(format!("bare{number}")))?;
            }
            for file in &small {
                absent(fs::remove_file(store.path(&file.recipe.content)))?;
            }
            let (contents, tree) = contents()?;
            let image = Image { tree: Arc::new(tree), contents: Arc::new(contents) };
            let options = Options { route: Some(*erofs), ..Options::default() };
            let (mount, state) = (dir.path().join("at"), dir.path().join("state"));
            let changes = Changes::below(&dir.path().join("changes"))?;
            let mounted = Served::start(&image, &state, &options)?.mount(&mount, Some(&changes))?;
            for file in &small {
                fs::symlink_metadata(mount.join(&file.path))?;
            }
            let took = together(*readers, &small, |_, file| Ok(read(&mount.join(&file.path)).map(drop)?))?;
            keep(&mut best[1], took);
            mounted.unmount()?;
            image.contents.rest();
            di3fs::mount::remove(&state)?;
            fs::remove_dir_all(dir.path().join("changes"))?;
        }
        println!("{} small files, {readers} readers:", small.len());
        for (name, took) in ["bare", "erofs"].iter().zip(best) {
            let ratio = |at: usize| took[at].as_secs_f64() / best[0][at].as_secs_f64();
            println!(
                "  {name}: wall {:.2?} ({:.2}), cpu {:.2?} ({:.2})",
                took[0],
                ratio(0),
                took[1],
                ratio(1)
            );
        }
    }
    Ok(())
}

/// Does `one` for each of `files`, on so many threads that take the next one each: wall and processor time.
fn together(
    threads: usize,
    files: &[Patched],
    one: impl Fn(usize, &Patched) -> Result<()> + Sync,
) -> Result<[Duration; 2]> {
    let (next, cpu, start) = (AtomicUsize::new(0), cpu()?, Instant::now());
    let work = || -> Result<()> {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some(file) = files.get(number) else { return Ok(()) };
            one(number, file)?;
        }
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("it does not panic"))
    })?;
    let wall = start.elapsed();
    Ok([wall, self::cpu()?.saturating_sub(cpu)])
}

fn keep(best: &mut [Duration; 2], took: [Duration; 2]) {
    best.iter_mut().zip(took).for_each(|(best, took)| *best = took.min(*best));
}

/// Processor time of this process so far, in user space and in the kernel.
fn cpu() -> Result<Duration> {
    let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_SELF)?;
    let time = |time: nix::sys::time::TimeVal| {
        Duration::from_micros(u64::try_from(time.tv_sec() * 1_000_000 + time.tv_usec()).unwrap_or(0))
    };
    Ok(time(usage.user_time()) + time(usage.system_time()))
}

/// Files of each class that are made from another content, the first of each content.
fn choose(tree: &Tree, recipes: &HashMap<Digest, Recipe>, most: usize) -> Vec<Vec<Patched>> {
    let mut classes: Vec<Vec<Patched>> = CLASSES.iter().map(|_| Vec::new()).collect();
    let mut seen = std::collections::HashSet::new();
    for (path, id) in tree.walk() {
        let Body::Regular(Some(content)) = tree.node(id).body else { continue };
        let Some(recipe) = recipes.get(&content.digest).filter(|recipe| recipe.base.is_some()) else {
            continue;
        };
        let class = CLASSES.iter().position(|(_, most)| content.size <= *most).unwrap_or_default();
        if classes[class].len() < most && seen.insert(content.digest) {
            let path = PathBuf::from(std::ffi::OsStr::from_bytes(&path));
            classes[class].push(Patched { path, recipe: recipe.clone(), best: vec![Duration::MAX; 8] });
        }
    }
    classes
}

/// Makes a content without any file system of ours, and reads it.
fn bare(delta: &DeltaFile, recipe: &Recipe, store: &ObjectStore) -> Result<Duration> {
    bare_at(delta, recipe, store, "bare", true)
}

fn bare_at(
    delta: &DeltaFile,
    recipe: &Recipe,
    store: &ObjectStore,
    name: &str,
    remove: bool,
) -> Result<Duration> {
    let path = store.root().join(name);
    let scratch = || tempfile::tempfile_in(store.root());
    let threads = match recipe.content.size >= SEVERAL_THREADS {
        true => std::thread::available_parallelism()?.get(),
        false => 1,
    };
    let start = Instant::now();
    let base = recipe.base.map(|base| store.get(&base)).transpose()?.flatten();
    let base = Map::file(&base.context("a base is not there")?)?;
    let mut file = File::create_new(&path)?;
    delta.dimg().make_on(threads, recipe, Some(&base), &mut file, &scratch)?;
    file.flush()?;
    drop(file);
    read(&path)?;
    let took = start.elapsed();
    if remove {
        fs::remove_file(&path)?;
    }
    Ok(took)
}

fn read(path: &Path) -> io::Result<u64> {
    let (mut file, mut buffer, mut bytes) = (File::open(path)?, vec![0; 1 << 20], 0);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(bytes),
            count => bytes += count as u64,
        }
    }
}

fn absent(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn report(classes: &[Vec<Patched>], routes: &[String]) {
    println!("| patched files | count | KiB | bare, ms | {} |", routes.join(", ms | "));
    println!("|---|--:|--:|--:|{}", "--:|".repeat(routes.len()));
    for (files, (name, _)) in classes.iter().zip(CLASSES).filter(|(files, _)| !files.is_empty()) {
        let ms = |at: usize| files.iter().map(|file| file.best[at].as_secs_f64() * 1e3).sum::<f64>();
        let cells = (1..=routes.len()).map(|at| {
            let ratio = |file: &Patched| file.best[at].as_secs_f64() / file.best[0].as_secs_f64();
            let mut ratios: Vec<f64> = files.iter().map(ratio).collect();
            ratios.sort_by(f64::total_cmp);
            format!("{:.2} ({:.2}, median {:.2})", ms(at), ms(at) / ms(0), ratios[ratios.len() / 2])
        });
        let cells: Vec<String> = cells.collect();
        let kib = files.iter().map(|file| file.recipe.content.size).sum::<u64>() >> 10;
        println!("| {name} | {} | {kib} | {:.2} | {} |", files.len(), ms(0), cells.join(" | "));
    }
}
