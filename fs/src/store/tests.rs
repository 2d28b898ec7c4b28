use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::AtomicUsize;

use super::*;
use std::collections::HashSet;
use std::io::Write;
use std::num::NonZeroUsize;

use dimg::Digest;

const TWO: NonZeroUsize = NonZeroUsize::new(2).unwrap();

fn content(bytes: &[u8]) -> Content {
    Content { digest: Digest::of(bytes), size: bytes.len() as u64 }
}

/// Makes these contents, counts its runs, and does what a test wants in between.
struct Parts<F: Fn() + Send + Sync> {
    contents: Vec<Content>,
    bytes: Vec<Vec<u8>>,
    runs: AtomicUsize,
    before: F,
}

fn parts(bytes: &[&[u8]]) -> Parts<impl Fn() + Send + Sync + use<>> {
    parts_after(bytes, || {})
}

fn parts_after<F: Fn() + Send + Sync>(bytes: &[&[u8]], before: F) -> Parts<F> {
    let contents = bytes.iter().map(|bytes| content(bytes)).collect();
    Parts { contents, bytes: bytes.iter().map(|b| b.to_vec()).collect(), runs: AtomicUsize::new(0), before }
}

impl<F: Fn() + Send + Sync> Job for Parts<F> {
    fn contents(&self) -> &[Content] {
        &self.contents
    }

    fn make(&self, output: &mut Output<'_>) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        self.runs.fetch_add(1, Ordering::Relaxed);
        for (content, bytes) in self.contents.iter().zip(&self.bytes) {
            (self.before)();
            if output.begin(content)? {
                for piece in bytes.chunks(3) {
                    output.write_all(piece)?;
                }
            }
        }
        Ok(())
    }
}

fn nothing_staged(store: &ObjectStore) -> bool {
    fs::read_dir(store.root().join("staging")).unwrap().next().is_none()
}

#[test]
fn makes_once_and_keeps() {
    let root = tempfile::tempdir().unwrap();
    let store = ObjectStore::open(root.path()).unwrap();
    let (one, two) = (parts(&[b"one", b"", b"more bytes"]), parts(&[b"two", b"one"]));
    store.make(&[&one, &two], TWO).unwrap();
    for bytes in [&b"one"[..], b"", b"more bytes", b"two"] {
        let content = content(bytes);
        assert_eq!(fs::read(store.path(&content)).unwrap(), bytes);
        assert_eq!(store.path(&content).metadata().unwrap().permissions().mode() & 0o7777, 0o444);
        assert_eq!(&*ContentSource::open(&store, &content).unwrap().unwrap(), bytes);
        assert!(store.has(&content).unwrap());
    }
    assert!(store.get(&content(b"three")).unwrap().is_none());
    assert_eq!((store.counts().made, store.counts().made_bytes), (4, 16));
    assert!(nothing_staged(&store));
    let again = parts(&[b"one", b"two"]);
    store.make(&[&again], TWO).unwrap();
    assert_eq!(again.runs.into_inner(), 0);
    assert!(matches!(ObjectStore::open(root.path()), Err(StoreError::InUse { .. })));
    store.sync().unwrap();
    drop(store);
    assert!(ObjectStore::open(root.path()).unwrap().has(&content(b"two")).unwrap());
}

#[test]
fn one_maker_for_many_askers() {
    let root = tempfile::tempdir().unwrap();
    let store = ObjectStore::open(root.path()).unwrap();
    let slow = parts_after(&[b"shared", b"other"], || std::thread::sleep(Duration::from_millis(20)));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                store.make(&[&slow], TWO).unwrap();
                assert!(store.has(&content(b"shared")).unwrap() && store.has(&content(b"other")).unwrap());
            });
        }
    });
    assert_eq!(slow.runs.into_inner(), 1);
    assert_eq!(store.counts().made, 2);
}

#[test]
fn who_waits_for_a_content_does_not_wait_for_those_behind_it() {
    let root = tempfile::tempdir().unwrap();
    let store = ObjectStore::open(root.path()).unwrap();
    let begun = std::sync::Barrier::new(2);
    let first = parts_after(&[b"first"], || {
        begun.wait();
        std::thread::sleep(Duration::from_millis(50));
    });
    let (asked, next) = (parts(&[b"first"]), parts(&[b"second"]));
    let was_there = AtomicUsize::new(2);
    // Published before the third is begun.
    let third = parts_after(&[b"third"], || {
        was_there.store(store.has(&content(b"first")).unwrap().into(), Ordering::Relaxed);
    });
    std::thread::scope(|scope| {
        scope.spawn(|| store.make(&[&first, &next, &third], NonZeroUsize::MIN).unwrap());
        begun.wait();
        store.make(&[&asked], NonZeroUsize::MIN).unwrap();
    });
    assert_eq!((asked.runs.into_inner(), was_there.into_inner()), (0, 1));
    assert_eq!(store.counts().made, 3);
    assert!(nothing_staged(&store));
}

#[test]
fn askers_take_over_when_the_maker_fails() {
    let root = tempfile::tempdir().unwrap();
    let store = ObjectStore::open(root.path()).unwrap();
    let begun = std::sync::Barrier::new(2);
    let mut failing = parts_after(&[b"shared"], || {
        begun.wait();
        std::thread::sleep(Duration::from_millis(50));
    });
    failing.bytes[0] = b"wrong!".to_vec();
    let good = parts(&[b"shared"]);
    std::thread::scope(|scope| {
        let failed = scope.spawn(|| store.make(&[&failing], TWO));
        begun.wait();
        store.make(&[&good], TWO).unwrap();
        assert!(matches!(failed.join().unwrap(), Err(StoreError::Wrong { .. })));
    });
    assert!(store.has(&content(b"shared")).unwrap());
}

#[test]
fn a_wrong_recipe_leaves_nothing() {
    let root = tempfile::tempdir().unwrap();
    let store = ObjectStore::open(root.path()).unwrap();
    let good = parts(&[b"good"]);
    for bytes in [&b"shorter"[..], b"as long as it was", b"much longer than it should be"] {
        let mut wrong = parts(&[b"as long as it is "]);
        wrong.bytes[0] = bytes.to_vec();
        let error = store.make(&[&good, &wrong], NonZeroUsize::MIN).unwrap_err();
        assert!(matches!(error, StoreError::Wrong { .. }), "{error}");
    }
    let mut missing = parts(&[b"a", b"b"]);
    missing.bytes.pop();
    assert!(matches!(store.make(&[&missing], TWO), Err(StoreError::NotMade { .. })));
    assert!(nothing_staged(&store));
    assert!(!store.has(&content(b"good")).unwrap());
    assert_eq!(store.counts().made, 0);
}

#[test]
fn a_panicking_recipe_frees_its_claims() {
    let root = tempfile::tempdir().unwrap();
    let store = ObjectStore::open(root.path()).unwrap();
    let panicking = parts_after(&[b"x"], || panic!("on purpose"));
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| store.make(&[&panicking], TWO)));
    assert!(caught.is_err() && nothing_staged(&store));
    store.make(&[&parts(&[b"x"])], TWO).unwrap();
}

#[test]
fn opening_sweeps_what_was_half_made() {
    let root = tempfile::tempdir().unwrap();
    let left = root.path().join("staging/7");
    fs::create_dir_all(&left).unwrap();
    fs::write(left.join(Digest::of(b"x").hex()), b"hal").unwrap();
    let store = ObjectStore::open(root.path()).unwrap();
    assert!(nothing_staged(&store) && !store.has(&content(b"x")).unwrap());
}

#[test]
fn objects_of_a_wrong_size_are_made_again() {
    let root = tempfile::tempdir().unwrap();
    let store = ObjectStore::open(root.path()).unwrap();
    store.make(&[&parts(&[b"whole"])], TWO).unwrap();
    let path = store.path(&content(b"whole"));
    fs::remove_file(&path).unwrap();
    fs::write(&path, b"cut").unwrap();
    assert!(store.get(&content(b"whole")).unwrap().is_none());
    store.make(&[&parts(&[b"whole"])], TWO).unwrap();
    assert_eq!(fs::read(path).unwrap(), b"whole");
}

#[test]
fn removes_what_nothing_refers_to_unless_held() {
    let root = tempfile::tempdir().unwrap();
    let store = ObjectStore::open(root.path()).unwrap();
    store.make(&[&parts(&[b"keep", b"drop"])], TWO).unwrap();
    let keep = || Ok::<_, StoreError>(HashSet::from([Digest::of(b"keep")]));
    let hold = store.hold();
    assert_eq!(store.remove_unreferenced(keep).unwrap(), None);
    drop(hold);
    assert_eq!(store.remove_unreferenced(keep).unwrap(), Some(Removed { objects: 1, bytes: 4 }));
    assert!(store.has(&content(b"keep")).unwrap() && !store.has(&content(b"drop")).unwrap());
    assert_eq!(store.counts().removed_bytes, 4);
}

#[test]
fn evicts_the_oldest_that_can_be_made_again() {
    let root = tempfile::tempdir().unwrap();
    let store = ObjectStore::open(root.path()).unwrap();
    let names = [&b"needed"[..], b"older", b"newer"];
    store.make(&[&parts(&names)], TWO).unwrap();
    for (name, age) in names.iter().zip([9000, 8000, 7000]) {
        let file = File::open(store.path(&content(name))).unwrap();
        file.set_modified(std::time::SystemTime::now() - Duration::from_secs(age)).unwrap();
    }
    let evictable = HashSet::from([Digest::of(b"older"), Digest::of(b"newer")]);
    let evict = |keep_bytes, free_bytes| {
        let evicted =
            store.evict(|| Ok::<_, StoreError>(evictable.clone()), Until { keep_bytes, free_bytes });
        evicted.unwrap()
    };
    let hold = store.hold();
    assert_eq!(evict(0, 0), None);
    drop(hold);
    let removed = |objects, bytes| Removed { objects, bytes };
    assert_eq!(store.bytes().unwrap(), 16);
    assert_eq!(evict(16, 0), Some((removed(0, 0), 16)));
    assert_eq!(evict(16, 1), Some((removed(0, 0), 16)), "a byte is free");
    assert_eq!(evict(11, 0), Some((removed(1, 5), 11)));
    assert_eq!(store.bytes().unwrap(), 11);
    assert!(store.has(&content(b"newer")).unwrap() && !store.has(&content(b"older")).unwrap());
    assert_eq!(evict(16, u64::MAX), Some((removed(1, 5), 6)), "never so much");
    store.make(&[&parts(&[b"more"])], TWO).unwrap();
    assert_eq!(store.bytes().unwrap(), 10);
    assert!(store.has(&content(b"needed")).unwrap());
}

/// All links of an object: those in other folders keep its bytes, too.
fn links(path: &Path) -> u64 {
    std::os::unix::fs::MetadataExt::nlink(&fs::metadata(path).unwrap())
}

#[test]
fn second_names_keep_nothing_that_is_removed_and_no_other_bytes() {
    let root = tempfile::tempdir().unwrap();
    let all = [content(b"one"), content(b"two")];
    let [first, _] = all.map(|content| ObjectFiles::at(root.path().join("fresh")).path(&content));
    let store = ObjectStore::open(root.path()).unwrap();
    let none = || Ok::<_, StoreError>(HashSet::new());
    let removals: [&dyn Fn(); 2] = [&|| assert!(store.remove_unreferenced(none).unwrap().is_some()), &|| {
        let evictable = || Ok::<_, StoreError>(all.iter().map(|content| content.digest).collect());
        let until = Until { keep_bytes: 0, free_bytes: 0 };
        assert!(store.evict(evictable, until).unwrap().is_some());
    }];
    for remove in removals {
        store.make(&[&parts(&[b"one", b"two"])], TWO).unwrap();
        all.iter().for_each(|content| store.add_fresh(content).unwrap());
        store.add_fresh(&all[0]).unwrap();
        let open = File::open(&first).unwrap();
        remove();
        assert_eq!(std::os::unix::fs::MetadataExt::nlink(&open.metadata().unwrap()), 0);
        assert_eq!(io::read_to_string(open).unwrap(), "one");
        assert!(store.add_fresh(&all[0]).is_err() && !first.exists());
    }
    store.make(&[&parts(&[b"one"])], TWO).unwrap();
    store.add_fresh(&all[0]).unwrap();
    store.forget_fresh().unwrap();
    assert_eq!(links(&store.path(&all[0])), 1);
    // What a killed process left, and what has the name of an object that is another file by now.
    fs::write(&first, "cut").unwrap();
    store.add_fresh(&all[0]).unwrap();
    assert_eq!((fs::read(&first).unwrap(), links(&first)), (b"one".to_vec(), 2));
    let mark = root.path().join("fresh/mark");
    assert!(mark.exists());
    drop(store);
    assert!(!first.exists() && !mark.exists());
    [&first, &mark].iter().for_each(|path| fs::write(path, "cut").unwrap());
    let store = ObjectStore::open(root.path()).unwrap();
    assert!(!first.exists() && !mark.exists() && store.has(&all[0]).unwrap());
}

#[test]
fn root_a_full_disk_is_said_and_nothing_is_left() {
    let small = crate::testing::Tmpfs::new("256k");
    let store = ObjectStore::open(&small.path().join("store")).unwrap();
    store.make(&[&parts(&[b"fits"])], TWO).unwrap();
    let big = vec![7; 1 << 20];
    let error = store.make(&[&parts(&[b"small", &big])], TWO).unwrap_err();
    assert!(matches!(error, StoreError::NoSpace { .. }), "{error}");
    assert!(error.to_string().ends_with("no space left"), "{error}");
    assert!(nothing_staged(&store) && !store.has(&content(b"small")).unwrap());
    assert!(store.has(&content(b"fits")).unwrap());
}

#[test]
fn what_was_not_flushed_is_checked_after_the_machine_went_down() {
    let root = tempfile::tempdir().unwrap();
    let open = || ObjectStore::open(root.path()).unwrap();
    let mark = root.path().join("unflushed");
    let store = open();
    store.make(&[&parts(&[b"flushed"])], TWO).unwrap();
    assert!(!mark.exists());
    store.make_unflushed(&[&parts(&[b"right", b"wrong", b"short"])], TWO).unwrap();
    assert!(mark.exists());
    // What a crash may leave.
    for (name, bytes) in [(b"wrong", &b"\0\0\0\0\0"[..]), (b"short", b"")] {
        let path = store.path(&content(name));
        fs::remove_file(&path).unwrap();
        fs::write(path, bytes).unwrap();
    }
    drop(store);
    // The same start of the machine: nothing was lost.
    let store = open();
    assert!(mark.exists() && store.has(&content(b"wrong")).unwrap());
    drop(store);
    fs::write(&mark, "another start").unwrap();
    let store = open();
    let there =
        [&b"flushed"[..], b"right", b"wrong", b"short"].map(|name| store.path(&content(name)).exists());
    assert_eq!((there, mark.exists()), ([true, true, false, false], false));
    store.make_unflushed(&[&parts(&[b"wrong"])], TWO).unwrap();
    store.sync().unwrap();
    assert!(!mark.exists());
}
