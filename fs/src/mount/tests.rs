//! One suite for all routes: mounts need root. Names begin with `root_`.

use std::fs;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::Ordering;

use dimg::content::ContentSource;
use dimg::index::{Content, Kind};

use super::*;
use crate::store::ObjectStore;
use crate::testing::{Counting, Members, need_root, scan};

struct Fixture {
    dir: tempfile::TempDir,
    source: Arc<Counting>,
    tree: Arc<Tree>,
}

impl Fixture {
    /// A tree with a file of every type, directories of more than a block, long links, attributes of all name spaces,
    /// owners of 32 bits, times before 1970.
    fn whole() -> Self {
        Self::with(&[])
    }

    /// The same with files that cannot be made.
    fn new() -> Self {
        Self::with(&["broken", "panics"])
    }

    fn with(broken: &[&str]) -> Self {
        need_root();
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let source = Arc::new(Counting::default());
        let memory = &source.memory;
        let long = "x".repeat(255);
        let mut lower =
            Members::default().dir("gone").file("gone/file", memory, "gone").dir("many").dir("deep");
        for number in 0..400 {
            lower =
                lower.file(&format!("many/file-with-a-name-{number}"), memory, &format!("content {number}"));
        }
        lower = lower
            .file(&format!("deep/{long}"), memory, "long name")
            .empty("empty")
            .file("plain", memory, "v1");
        let large = "large ".repeat(500_000);
        let mut upper = Members::default()
            .empty(".wh.gone")
            .file("plain", memory, "v2")
            .file("large", memory, &large)
            .file("many/-minus", memory, "sorts before a dot")
            .file("many/!bang", memory, "too")
            .link("deep/linked", "plain")
            .symlink("symlink", "many/../plain")
            .symlink("longlink", &"l/".repeat(2047))
            .add(Kind::CharDevice, b"null", |entry| (entry.dev_major, entry.dev_minor) = (1, 3))
            .add(Kind::BlockDevice, b"disk", |entry| (entry.dev_major, entry.dev_minor) = (259, 300_000))
            .add(Kind::Fifo, b"pipe", |entry| entry.mode = 0o620)
            .add(Kind::Directory, b"sticky", |entry| {
                (entry.mode, entry.uid, entry.gid) = (0o3777, 4_000_000_000, 70_000);
                (entry.mtime, entry.mtime_nsec) = (-5, 999_999_999);
            })
            .with_xattrs(
                Kind::Regular,
                b"sticky/setuid",
                &[("user.one", b"\0\xff"), ("trusted.big", &[7; 3000]), ("security.capability", CAPABILITY)],
                |entry| {
                    entry.mode = 0o4755;
                    entry.content = Some(memory.put(b"setuid"));
                    entry.mtime_nsec = 123_456_789;
                },
            )
            .with_xattrs(
                Kind::Directory,
                b"overlay",
                &[("trusted.overlay.opaque", b"x"), ("trusted.overlay.redirect", b"/many")],
                |_| {},
            )
            .with_xattrs(Kind::Regular, b"overlay/whiteout", &[("trusted.overlay.whiteout", b"y")], |_| {})
            .with_xattrs(
                Kind::Regular,
                b"overlay/metacopy",
                &[("trusted.overlay.metacopy", b""), ("trusted.overlay.overlay.redirect", b"/plain")],
                |entry| entry.content = Some(memory.put(b"of its own")),
            )
            .with_xattrs(Kind::Directory, b"acl", &[("system.posix_acl_default", ACL)], |_| {})
            .with_xattrs(Kind::Symlink, b"marked", &[("trusted.mark", b"m")], |entry| {
                entry.link = (*b"nowhere").into();
            });
        for name in broken {
            upper = upper.file(name, memory, name);
        }
        let tree = Arc::new(Tree::merge(&[lower.index(), upper.index()]).unwrap());
        Self { dir, source, tree }
    }

    fn image(&self, name: &str) -> Image {
        self.image_of(ObjectStore::open_volatile(&self.dir.path().join(name)).unwrap())
    }

    /// In a store as the plugin's.
    fn durable(&self, name: &str) -> Image {
        self.image_of(ObjectStore::open(&self.dir.path().join(name)).unwrap())
    }

    fn image_of(&self, store: ObjectStore) -> Image {
        let store = Arc::new(store);
        let contents =
            Contents::new(store, Vec::new(), vec![Arc::clone(&self.source) as Arc<dyn ContentSource>]);
        Image { tree: Arc::clone(&self.tree), contents: Arc::new(contents) }
    }

    fn mount(&self, image: &Image, route: Route) -> Mounted {
        let root = self.dir.path().join(format!("mount-{route}"));
        fs::create_dir_all(&root).unwrap();
        let options = Options { route: Some(route), alone: true, ..Options::default() };
        let state = self.dir.path().join(format!("state-{route}"));
        Served::start(image, &state, &options).unwrap().mount(&root, None).unwrap()
    }
}

/// `cap_net_raw=ep`.
const CAPABILITY: &[u8] = b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
/// Version 2: owner, a user by number, group, mask, others.
const ACL: &[u8] = b"\x02\0\0\0\x01\0\x07\0\xff\xff\xff\xff\x02\0\x05\0\xe8\x03\0\0\x04\0\x05\0\xff\xff\xff\xff\x10\0\x07\0\xff\xff\xff\xff\x20\0\x05\0\xff\xff\xff\xff";

/// Routes that make contents when they are opened.
const LAZY: [Route; 3] = [Route::Erofs, Route::FusePassthrough, Route::Fuse];

#[test]
fn root_all_routes_show_the_tree_that_a_checkout_writes() {
    let fixture = Fixture::whole();
    let plain = fixture.dir.path().join("plain");
    checkout_root(&fixture.tree, &fixture.source.memory, &plain, &checkout::Options::default()).unwrap();
    let expected = scan(&plain);
    for route in Route::ALL {
        let image = fixture.image(&format!("store-{route}"));
        let mounted = fixture.mount(&image, route);
        assert_eq!(mounted.route(), route);
        let found = scan(mounted.path());
        let other: Vec<_> = found.iter().filter(|line| !expected.contains(line)).collect();
        assert!(other.is_empty(), "{route}: {other:?}");
        assert_eq!(found, expected, "{route}");
        assert!(mounted.unmount().unwrap(), "{route}");
    }
    // And so does an overlay mount, in whose layers some attributes have a meaning.
    for route in Route::ALL {
        let options = Options { route: Some(route), ..Options::default() };
        let [state, root, changes] =
            ["state", "root", "changes"].map(|name| fixture.dir.path().join(format!("below-{name}-{route}")));
        fs::create_dir(&root).unwrap();
        let served =
            Served::start(&fixture.image(&format!("store-below-{route}")), &state, &options).unwrap();
        let mounted = served.mount(&root, Some(&Changes::below(&changes).unwrap())).unwrap();
        // The root is that of the changes.
        assert_eq!(scan(mounted.path())[1..], expected[1..], "{route}");
        assert!(mounted.unmount().unwrap(), "{route}");
    }
}

#[test]
fn root_looking_makes_nothing_and_many_readers_make_each_content_once() {
    let fixture = Fixture::new();
    for route in LAZY {
        let image = fixture.durable(&format!("store-{route}"));
        let mounted = fixture.mount(&image, route);
        let many = mounted.path().join("many");
        let names: Vec<_> = fs::read_dir(&many).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(names.len(), 402);
        names.iter().for_each(|path| assert!(path.symlink_metadata().unwrap().is_file()));
        assert_eq!(image.contents.store().counts().made, 0, "{route}");
        let asked = fixture.source.asked.load(Ordering::Relaxed);
        std::thread::scope(|scope| {
            for first in 0..64 {
                let names = &names;
                scope.spawn(move || {
                    for number in 0..names.len() {
                        let path = &names[(first * 5 + number) % names.len()];
                        assert!(!fs::read(path).unwrap().is_empty());
                    }
                });
            }
        });
        assert_eq!(image.contents.store().counts().made, 402, "{route}");
        assert_eq!(fixture.source.asked.load(Ordering::Relaxed) - asked, 402, "{route}");
        assert_eq!(image.contents.failed(), 0, "{route}");
        assert!(mounted.unmount().unwrap());
    }
}

#[test]
fn root_second_names_of_objects_are_needed_by_nobody() {
    let fixture = Fixture::new();
    let image = fixture.durable("store");
    let store = image.contents.store();
    let mounted = fixture.mount(&image, Route::Erofs);
    let read = |name: &str| fs::read_to_string(mounted.path().join(name)).unwrap();
    let links = |text: &[u8]| {
        let content = Content { digest: dimg::Digest::of(text), size: text.len() as u64 };
        fs::metadata(store.path(&content)).unwrap().nlink()
    };
    assert_eq!(read("plain"), "v2");
    assert_eq!(links(b"v2"), 2);
    image.contents.rest();
    assert_eq!(links(b"v2"), 1);
    assert_eq!(read("plain"), "v2");
    // Where there can be none the open starts again.
    let fresh = store.fresh().unwrap();
    fs::remove_dir_all(fresh).unwrap();
    fs::write(fresh, "").unwrap();
    assert_eq!(read("many/file-with-a-name-1"), "content 1");
    assert_eq!(links(b"content 1"), 1);
    let error = fs::read(mounted.path().join("broken")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(5));
    assert_eq!(image.contents.failed(), 1);
    assert!(mounted.unmount().unwrap());
}

/// Containers that an earlier version has started have another layout, and the kernel the inode numbers of then.
#[test]
fn root_mounts_of_an_earlier_version_go_on() {
    let fixture = Fixture::new();
    let image = fixture.durable("store");
    let store = image.contents.store();
    let [state, old, new] = ["state", "old", "new"].map(|name| fixture.dir.path().join(name));
    [&old, &new].iter().for_each(|path| fs::create_dir(path).unwrap());
    let options = Options { route: Some(Route::Erofs), ..Options::default() };
    let first = Served::start(&image, &state, &options).unwrap();
    let session = state.join("objects");
    for byte in 0..=255_u8 {
        let number = fs::metadata(session.join(format!("{byte:02x}"))).unwrap().ino();
        assert_eq!(number, 2 + u64::from(byte));
    }
    assert!(["0", "+1", "AB", "abc", "none"].iter().all(|name| !session.join(name).exists()));
    let lower = Lower { data_only: vec![store.objects(), session], ..first.lower().clone() };
    mount_merged(&lower, &old).unwrap();
    let read = |at: &Path, name: &str| fs::read_to_string(at.join(name));
    assert_eq!(read(&old, "plain").unwrap(), "v2");
    let device = first.device().unwrap().try_clone_to_owned().unwrap();
    first.leave();
    let next = Served::resume(&image, &state, &options, device).unwrap();
    mount_merged(next.lower(), &new).unwrap();
    for number in 0..20 {
        let at = if number % 2 == 0 { &old } else { &new };
        let name = format!("many/file-with-a-name-{number}");
        assert_eq!(read(at, &name).unwrap(), format!("content {number}"));
    }
    for at in [&old, &new] {
        assert_eq!(read(at, "broken").unwrap_err().raw_os_error(), Some(5));
        assert_eq!(read(at, "large").unwrap().len(), 3_000_000);
        nix::mount::umount2(at, MntFlags::empty()).unwrap();
    }
    assert_eq!(image.contents.failed(), 2);
}

#[test]
fn root_what_cannot_be_made_is_an_error_and_the_others_are_read() {
    let fixture = Fixture::new();
    for route in LAZY {
        let image = fixture.image(&format!("store-{route}"));
        let mounted = fixture.mount(&image, route);
        for _ in 0..2 {
            let error = fs::read(mounted.path().join("broken")).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(5), "{route}");
        }
        assert!(image.contents.failed() >= 2, "{route}");
        // More often than there are threads.
        for _ in 0..20 {
            let error = fs::read(mounted.path().join("panics")).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(5), "{route}");
        }
        assert_eq!(fs::read(mounted.path().join("plain")).unwrap(), b"v2");
        assert_eq!(fs::read(mounted.path().join("large")).unwrap(), b"large ".repeat(500_000));
        let error = fs::metadata(mounted.path().join("x".repeat(256))).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(36), "{route}");
        let error = fs::write(mounted.path().join("plain"), "x").unwrap_err();
        assert_eq!(error.raw_os_error(), Some(30), "{route}");
        assert!(mounted.unmount().unwrap());
    }
}

#[test]
fn root_a_used_mount_goes_when_it_is_unused_and_one_unmounted_by_others_is_noticed() {
    let fixture = Fixture::new();
    let (wake, _other) = std::os::unix::net::UnixStream::pair().unwrap();
    for route in LAZY {
        let image = fixture.image(&format!("store-{route}"));
        let mounted = fixture.mount(&image, route);
        let file = File::open(mounted.path().join("large")).unwrap();
        let path = mounted.path().to_owned();
        assert!(!mounted.unmount().unwrap(), "{route}");
        assert_eq!(fs::read_dir(&path).unwrap().count(), 0);
        assert_eq!(io::read_to_string(&file).unwrap().len(), 3_000_000, "{route}");
        drop(file);
    }
    for route in Route::ALL {
        let fixture = Fixture::whole();
        let image = fixture.image(&format!("store-{route}"));
        let mounted = fixture.mount(&image, route);
        let path = mounted.path().to_owned();
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| mounted.wait(wake.as_fd()).unwrap());
            std::thread::sleep(std::time::Duration::from_millis(20));
            nix::mount::umount2(&path, MntFlags::empty()).unwrap();
            assert_eq!(waiter.join().unwrap(), Ended::Unmounted);
        });
        assert!(mounted.unmount().unwrap());
    }
}

#[test]
fn root_a_writable_overlay_lies_on_what_is_served() {
    let fixture = Fixture::new();
    for route in [Route::Erofs, Route::Fuse, Route::FusePassthrough] {
        let image = fixture.durable(&format!("store-{route}"));
        let options = Options { route: Some(route), ..Options::default() };
        let state = fixture.dir.path().join(format!("state-{route}"));
        let served = Served::start(&image, &state, &options).unwrap();
        let root = fixture.dir.path().join(format!("root-{route}"));
        fs::create_dir(&root).unwrap();
        let changes = Changes::below(&fixture.dir.path().join(format!("changes-{route}"))).unwrap();
        let mounted = served.mount(&root, Some(&changes)).unwrap();
        assert_eq!(fs::read(root.join("plain")).unwrap(), b"v2");
        fs::OpenOptions::new()
            .append(true)
            .open(root.join("many/file-with-a-name-7"))
            .unwrap()
            .write_all(b"!")
            .unwrap();
        assert_eq!(fs::read(root.join("many/file-with-a-name-7")).unwrap(), b"content 7!");
        fs::rename(root.join("sticky/setuid"), root.join("moved")).unwrap();
        assert_eq!(fs::read(root.join("moved")).unwrap(), b"setuid");
        fs::hard_link(root.join("many/!bang"), root.join("bang")).unwrap();
        fs::remove_file(root.join("many/!bang")).unwrap();
        assert_eq!(fs::read(root.join("bang")).unwrap(), b"too");
        File::options().write(true).truncate(true).open(root.join("many/-minus")).unwrap();
        assert_eq!(fs::read(root.join("many/-minus")).unwrap(), b"");
        assert!(mounted.unmount().unwrap());
        assert_eq!(fs::read(changes.upper.join("moved")).unwrap(), b"setuid");
    }
}

#[test]
fn root_an_image_of_metadata_is_taken_again_and_a_damaged_one_is_not() {
    let fixture = Fixture::whole();
    let image = fixture.image("store");
    image.contents.ensure_all(&image.tree.contents(), NonZeroUsize::MIN).unwrap();
    let (state, name) = (fixture.dir.path().join("state"), Some("sha256:a".to_owned()));
    let options = Options { route: Some(Route::Erofs), complete: true, name, ..Options::default() };
    let (store, file) = (image.contents.store(), state.join(METADATA));
    let again = |name| Served::again(store, &state, name).unwrap();
    assert!(again("sha256:a").is_none());
    let mut trees = Vec::new();
    let mut see = |served: Served, name: &str| {
        let at = fixture.dir.path().join(name);
        fs::create_dir(&at).unwrap();
        let mounted = served.mount(&at, None).unwrap();
        trees.push(scan(&at));
        mounted.unmount().unwrap();
    };
    see(Served::start(&image, &state, &options).unwrap(), "first");
    let written = fs::metadata(&file).unwrap().ino();
    see(again("sha256:a").unwrap(), "again");
    see(Served::start(&image, &state, &options).unwrap(), "start");
    assert_eq!(fs::metadata(&file).unwrap().ino(), written);
    assert!(again("sha256:b").is_none());
    fs::OpenOptions::new().write(true).open(&file).unwrap().write_all(b"!").unwrap();
    assert!(again("sha256:a").is_none());
    see(Served::start(&image, &state, &options).unwrap(), "anew");
    assert_ne!(fs::metadata(&file).unwrap().ino(), written);
    assert!(again("sha256:a").is_some());
    assert!(trees.iter().all(|tree| *tree == trees[0]));
}
