use std::path::Path;

use dimg::build::{BuildOptions, Codec, Side, SideLayer, build};
use dimg::content::Bytes;
use dimg::engine::compress::Level;
use dimg::index::LayerIndex;

use super::*;
use crate::testing::{Counting, Members, Memory};

/// A text that a patch of another one makes in few bytes.
fn text(name: &str) -> String {
    (0..400).map(|line| format!("line {} of {name}\n", line * line)).collect()
}

fn layer(memory: &Memory, names: &[&str], text: &dyn Fn(&str) -> String) -> Vec<SideLayer> {
    let members =
        names.iter().fold(Members::default(), |members, name| members.file("file", memory, &text(name)));
    let members = names.iter().fold(members, |members, name| members.file(name, memory, &text(name)));
    let index = members.index();
    vec![SideLayer { diff_id: Digest::of(names.concat().as_bytes()), tar_bytes: 0, index }]
}

/// A chain of images, and what makes each from the one before.
fn chain(dir: &Path, memory: &Memory, images: &[&[&str]]) -> Vec<Step> {
    chain_of(dir, memory, images, &text)
}

fn chain_of(dir: &Path, memory: &Memory, images: &[&[&str]], text: &dyn Fn(&str) -> String) -> Vec<Step> {
    let options = BuildOptions {
        level: Level::Fast,
        codec: Codec::Auto,
        threads: NonZeroUsize::MIN,
        memory_bytes: 64 << 20,
        name: String::new(),
        dir: dir.to_owned(),
    };
    let mut steps = Vec::new();
    let mut before: Option<(Vec<SideLayer>, Vec<Arc<LayerIndex>>)> = None;
    for (number, names) in images.iter().enumerate() {
        let layers = layer(memory, names, text);
        let named = Digest::of(&[u8::try_from(number).unwrap()]);
        let side = |layers| Side { manifest: named, config: named, layers, contents: memory };
        let parent = before.as_ref().map(|(layers, _)| side(layers));
        let mut bytes = Vec::new();
        build(parent.as_ref(), &side(&layers), &options, &mut ()).unwrap().write_to(&mut bytes).unwrap();
        let file = DeltaFile::open(Bytes::from(bytes)).unwrap();
        let indexes = before.as_ref().map(|(_, indexes)| indexes.as_slice());
        let image = file.dimg().resolve(indexes).unwrap();
        steps.push(Step { file: Arc::new(file), recipes: image.recipes });
        before = Some((layers, image.layers));
    }
    steps
}

fn content(name: &str) -> Content {
    let text = text(name);
    Content { digest: Digest::of(text.as_bytes()), size: text.len() as u64 }
}

fn read(contents: &Contents, name: &str) -> String {
    io::read_to_string(contents.ensure(&content(name)).unwrap()).unwrap()
}

fn volatile(dir: &Path) -> Arc<ObjectStore> {
    Arc::new(ObjectStore::open_volatile(&dir.join("store")).unwrap())
}

#[test]
fn a_content_is_made_with_the_bases_on_its_way_and_no_others() {
    let (dir, memory) = (tempfile::tempdir().unwrap(), Memory::default());
    // "a" goes and comes back, so that each could seem to need the other.
    let steps = chain(dir.path(), &memory, &[&["a", "other"], &["b"], &["a", "c"]]);
    assert!(steps[1].recipes[&content("b").digest].base.is_some(), "b was to be a patch");
    let contents = Contents::new(volatile(dir.path()), steps, Vec::new());
    assert_eq!(read(&contents, "a"), text("a"));
    assert_eq!(contents.store().counts().made, 1);
    assert_eq!(read(&contents, "c"), text("c"));
    assert!(!contents.store().has(&content("other")).unwrap());
    assert_eq!(contents.opened(), ["a", "c"].map(|name| content(name).digest));
    assert_eq!(contents.failed(), 0);
}

#[test]
fn all_are_made_at_once() {
    let (dir, memory) = (tempfile::tempdir().unwrap(), Memory::default());
    let steps = chain(dir.path(), &memory, &[&["a"], &["b", "d"], &["c", "e"]]);
    let contents = Contents::new(volatile(dir.path()), steps, Vec::new());
    let wanted = ["c", "e"].map(content);
    contents.ensure_all(&wanted, NonZeroUsize::new(3).unwrap()).unwrap();
    assert!(wanted.iter().all(|content| contents.store().has(content).unwrap()));
    let made = contents.store().counts().made;
    contents.ensure_all(&wanted, NonZeroUsize::MIN).unwrap();
    assert_eq!(contents.store().counts().made, made);
}

#[test]
fn bases_come_from_the_image_before_the_chain() {
    let (dir, memory) = (tempfile::tempdir().unwrap(), Memory::default());
    let steps = chain(dir.path(), &memory, &[&["a"], &["b"]]);
    let later = |steps: Vec<Step>| steps.into_iter().skip(1).collect::<Vec<_>>();
    let without = Contents::new(volatile(dir.path()), later(steps), Vec::new());
    for times in 1..=2 {
        let error = without.ensure(&content("b")).unwrap_err().to_string();
        assert!(error.contains("is in no source"), "{error}");
        assert_eq!(without.failed(), times);
    }
    drop(without);
    let (memory, dir) = (Arc::new(memory), tempfile::tempdir().unwrap());
    let steps = later(chain(dir.path(), &memory, &[&["a"], &["b"]]));
    let source: Arc<dyn ContentSource> = memory;
    let with = Contents::new(volatile(dir.path()), steps, vec![source]);
    assert_eq!(read(&with, "b"), text("b"));
    assert_eq!(read(&with, "a"), text("a"));
}

#[test]
fn what_comes_back_is_made_of_the_image_before_the_chain() {
    let (dir, memory) = (tempfile::tempdir().unwrap(), Arc::new(Memory::default()));
    let steps = || chain(dir.path(), &memory, &[&["a"], &["b"], &["a", "c"]]).split_off(1);
    for step in steps() {
        assert!(
            step.recipes.values().any(|recipe| recipe.base.is_some()),
            "a and b were to be patches of each other"
        );
    }
    for wanted in ["a", "b", "c"] {
        let (root, source): (_, Arc<dyn ContentSource>) =
            (tempfile::tempdir().unwrap(), Arc::<Memory>::clone(&memory));
        let contents = Contents::new(volatile(root.path()), steps(), vec![source]);
        assert_eq!(read(&contents, wanted), text(wanted));
        contents.ensure_all(&["a", "b", "c"].map(content), NonZeroUsize::MIN).unwrap();
        assert_eq!(read(&contents, "a"), text("a"));
    }
}

#[test]
fn who_opens_one_after_the_other_has_the_next_ones_made() {
    let (dir, memory) = (tempfile::tempdir().unwrap(), Memory::default());
    let names =
        |prefix: &str| -> Vec<String> { (10..50).map(|number| format!("{prefix}{number}")).collect() };
    let images = [names("old"), names("new")];
    let images: Vec<Vec<&str>> =
        images.iter().map(|names| names.iter().map(String::as_str).collect()).collect();
    let steps = || chain(dir.path(), &memory, &[&images[0], &images[1]]);
    let mut order: Vec<Recipe> = steps()[1].recipes.values().cloned().collect();
    order.sort_unstable_by_key(|recipe| (recipe.place(), recipe.content.digest));
    assert!(order.len() == 40 && order.iter().all(|recipe| recipe.base.is_some()));
    let asked = |places: &[usize]| {
        let dir = tempfile::tempdir().unwrap();
        let contents = Contents::new(volatile(dir.path()), steps(), Vec::new());
        let before: Vec<Content> = images[0].iter().map(|name| content(name)).collect();
        contents.ensure_all(&before, NonZeroUsize::MIN).unwrap();
        let missing = |place: &&usize| !contents.store().has(&order[**place].content).unwrap();
        let asked: Vec<usize> = places
            .iter()
            .filter(missing)
            .map(|place| {
                contents.ensure(&order[*place].content).unwrap();
                *place
            })
            .collect();
        let made = contents.store().counts().made - 40;
        assert_eq!(contents.opened().len() as u64, made);
        (asked, made)
    };
    assert_eq!(asked(&(0..40).collect::<Vec<_>>()), (vec![0, 1, 3, 6, 11, 20, 37], 40));
    assert_eq!(asked(&[39, 20, 0]), (vec![39, 20, 0], 3));
}

/// Fills a file system to its end, until it is dropped.
fn fill(dir: &Path) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new_in(dir).unwrap();
    while io::Write::write_all(&mut file, &[0; 4096]).is_ok() {}
    file
}

/// Removes one object each time that it is asked to.
#[derive(Debug)]
struct GivesBack(Mutex<Vec<std::path::PathBuf>>);

impl crate::store::Room for GivesBack {
    fn grown(&self) {}

    fn full(&self, bytes: u64) -> bool {
        assert!(bytes > 4096);
        self.0.lock().unwrap().pop().is_some_and(|path| std::fs::remove_file(path).is_ok())
    }
}

#[test]
fn root_on_a_full_disk_one_file_fails_others_are_read_and_room_helps() {
    let small = crate::testing::Tmpfs::new("1m");
    let (dir, memory) = (tempfile::tempdir().unwrap(), Memory::default());
    let steps = chain(dir.path(), &memory, &[&["a", "b", "c"]]);
    let source = Arc::new(Counting::default());
    source.memory.put(text("d").as_bytes());
    let contents = Contents::new(volatile(small.path()), steps, vec![Arc::clone(&source) as _]);
    let store = contents.store();
    assert_eq!(read(&contents, "a"), text("a"));
    let filler = fill(small.path());
    let fails = || contents.ensure(&content("b")).unwrap_err();
    assert!(matches!(fails(), StoreError::NoSpace { .. }));
    // What is there can be read, and what is asked for again fails again.
    assert_eq!(read(&contents, "a"), text("a"));
    assert!(matches!(fails(), StoreError::NoSpace { .. }));
    assert_eq!((contents.failed(), store.counts().failed), (2, 2));
    drop(filler);
    assert_eq!(read(&contents, "b"), text("b"));
    let _filler = fill(small.path());
    assert!(matches!(contents.ensure(&content("c")), Err(StoreError::NoSpace { .. })));
    store.set_room(Arc::new(GivesBack(Mutex::new(vec![store.path(&content("a"))]))));
    assert_eq!(read(&contents, "c"), text("c"));
    assert!(!store.has(&content("a")).unwrap());
    // Where nothing gives room it is not made again in vain.
    assert!(matches!(contents.ensure(&content("d")), Err(StoreError::NoSpace { .. })));
    assert_eq!(source.asked.load(Ordering::Relaxed), 1);
}

/// The group that a content is decoded from takes none of the room that was made for the content, and what one removal gives may be less than it
/// takes.
#[test]
fn root_room_that_was_made_is_for_what_is_waited_for() {
    const BYTES: usize = 500 << 10;
    let small = crate::testing::Tmpfs::new("24m");
    let (dir, memory) = (tempfile::tempdir().unwrap(), Memory::default());
    let text = |name: &str| name.repeat(BYTES / name.len());
    let content = |name| {
        let text = text(name);
        Content { digest: Digest::of(text.as_bytes()), size: text.len() as u64 }
    };
    let names = ["aa", "bb", "cc", "dd", "ee", "ff"];
    let contents =
        Contents::new(volatile(small.path()), chain_of(dir.path(), &memory, &[&names], &text), Vec::new());
    let store = contents.store();
    // With room the group is kept beside the objects.
    for name in &names[..2] {
        contents.ensure(&content(name)).unwrap();
    }
    let filler = fill(small.path());
    contents.ensure(&content("cc")).unwrap();
    drop(filler);
    // Not enough for a group, and a content takes what two of these gave.
    let fillers = ["one", "two", "three"].map(|name| {
        let path = small.path().join(name);
        std::fs::write(&path, vec![1; BYTES / 2 + 4096]).unwrap();
        path
    });
    let _filler = fill(small.path());
    store.set_room(Arc::new(GivesBack(Mutex::new(fillers.to_vec()))));
    contents.ensure(&content("dd")).unwrap();
    assert!(fillers[0].exists() && !fillers[1].exists());
    assert!(matches!(contents.ensure(&content("ee")), Err(StoreError::NoSpace { .. })));
    assert_eq!(contents.failed(), 1);
}
