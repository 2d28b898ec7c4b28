use super::*;
use crate::snapshot::{Kind, Labels, Usage};
use tonic::Code;

fn open(tmp: &tempfile::TempDir) -> Store {
    Store::open(&tmp.path().join("root")).unwrap()
}

fn code<T: std::fmt::Debug>(result: Result<T>) -> Code {
    result.unwrap_err().code()
}

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

fn committed(store: &Store, name: &str, parent: &str) -> u64 {
    let made = store.create(Kind::Active, "tmp", parent, Labels::new()).unwrap();
    store.commit(name, "tmp", "", Labels::new(), Usage { bytes: 5, inodes: 1 }).unwrap();
    made.number
}

#[test]
fn snapshots_stack_and_go_from_the_top() {
    let tmp = tempfile::tempdir().unwrap();
    let store = open(&tmp);
    let base = committed(&store, "base", "");
    let mid = committed(&store, "mid", "base");
    let top = store.create(Kind::Active, "top", "mid", labels(&[("a", "1")])).unwrap();
    assert_eq!(top.parents, [mid, base]);
    assert_eq!(store.layers("top").unwrap(), top);
    let mode = |n| fs::metadata(store.fs_path(n)).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(top.number), 0o755);
    assert_eq!(code(store.remove("mid")), Code::FailedPrecondition);
    assert_eq!(code(store.layers("mid")), Code::FailedPrecondition);
    assert_eq!(code(store.layers("none")), Code::NotFound);
    store.remove("top").unwrap();
    store.remove("mid").unwrap();
    store.remove("base").unwrap();
    assert_eq!(code(store.remove("base")), Code::NotFound);
    store.cleanup().unwrap();
    assert_eq!(fs::read_dir(store.root().join("snapshots")).unwrap().count(), 0);
}

#[test]
fn errors_are_those_that_containerd_expects() {
    let tmp = tempfile::tempdir().unwrap();
    let store = open(&tmp);
    committed(&store, "base", "");
    committed(&store, "other", "");
    store.create(Kind::Active, "active", "base", Labels::new()).unwrap();
    store.create(Kind::View, "view", "base", Labels::new()).unwrap();
    let create = |key, parent| code(store.create(Kind::Active, key, parent, Labels::new()));
    assert_eq!(create("k", "none"), Code::NotFound);
    assert_eq!(create("k", "active"), Code::InvalidArgument);
    assert_eq!(create("active", "base"), Code::AlreadyExists);
    assert_eq!(create("", "base"), Code::InvalidArgument);
    assert_eq!(code(store.create(Kind::Committed, "k", "", Labels::new())), Code::InvalidArgument);
    let commit = |name, key, parent| {
        let early = store.check_commit(name, key, parent).map_err(|e| e.code()).unwrap_err();
        assert_eq!(code(store.commit(name, key, parent, Labels::new(), Usage::default())), early);
        early
    };
    assert_eq!(commit("base", "active", ""), Code::AlreadyExists);
    assert_eq!(commit("n", "none", ""), Code::NotFound);
    assert_eq!(commit("n", "view", ""), Code::FailedPrecondition);
    assert_eq!(commit("n", "base", ""), Code::FailedPrecondition);
    assert_eq!(commit("n", "active", "other"), Code::InvalidArgument);
    assert_eq!(commit("", "active", ""), Code::InvalidArgument);
    store.create(Kind::Active, "bottom", "", Labels::new()).unwrap();
    assert_eq!(commit("n", "bottom", "none"), Code::NotFound);
    assert_eq!(commit("n", "bottom", "view"), Code::FailedPrecondition);
    assert_eq!(code(store.stat("none")), Code::NotFound);
    assert_eq!(code(store.usage("none")), Code::NotFound);
    assert_eq!(code(store.update("none", |l| Ok(l.clone()))), Code::NotFound);
    // A failed operation leaves no directory behind and takes no record away.
    assert_eq!(store.list(|_| true).unwrap().len(), 5);
    store.cleanup().unwrap();
    assert_eq!(fs::read_dir(store.root().join("snapshots")).unwrap().count(), 5);
}

#[test]
fn commit_replaces_labels_and_may_set_a_parent() {
    let tmp = tempfile::tempdir().unwrap();
    let store = open(&tmp);
    let base = committed(&store, "base", "");
    let made = store.create(Kind::Active, "k", "", labels(&[("old", "1")])).unwrap();
    let before = store.stat("k").unwrap();
    store.commit("n", "k", "base", labels(&[("new", "2")]), Usage { bytes: 9, inodes: 2 }).unwrap();
    let after = store.stat("n").unwrap();
    assert_eq!((after.parent.as_str(), after.kind), ("base", Kind::Committed));
    assert_eq!(after.labels, labels(&[("new", "2")]));
    assert!(after.created >= before.created && after.created == after.updated);
    assert_eq!(store.usage("n").unwrap(), Ok(Usage { bytes: 9, inodes: 2 }));
    let view = store.create(Kind::View, "v", "n", Labels::new()).unwrap();
    assert_eq!(view.parents, [made.number, base]);
    assert_eq!(store.usage("v").unwrap(), Err(view.number));
    assert_eq!(code(store.remove("base")), Code::FailedPrecondition);
}

#[test]
fn update_changes_labels_only() {
    let tmp = tempfile::tempdir().unwrap();
    let store = open(&tmp);
    store.create(Kind::Active, "k", "", labels(&[("a", "1")])).unwrap();
    let before = store.stat("k").unwrap();
    let after = store.update("k", |_| Ok(labels(&[("b", "2")]))).unwrap();
    assert_eq!(after.labels, labels(&[("b", "2")]));
    assert!(after.updated >= before.updated && after.created == before.created);
    assert_eq!(store.stat("k").unwrap(), after);
}

#[test]
fn ready_trees_are_shared_and_kept_while_wanted() {
    let tmp = tempfile::tempdir().unwrap();
    let store = open(&tmp);
    let dir = store.new_tree_dir().unwrap();
    fs::write(dir.fs.join("file"), vec![1; 5000]).unwrap();
    assert_eq!(store.tree("sha256:c").unwrap(), None);
    assert!(!store.adopt("n", "", dir.number, Labels::new()).unwrap(), "not ready yet");
    assert_eq!(store.register_tree("sha256:c", dir.number, "image-1").unwrap(), dir.number);
    assert_eq!(code(store.register_tree("sha256:c", dir.number, "image-1")), Code::FailedPrecondition);
    let info = store.tree("sha256:c").unwrap().unwrap();
    assert_eq!((info.refs, info.usage.inodes), (0, 2));
    assert!(store.list(|_| true).unwrap().is_empty(), "internal trees are never listed");

    // Two names share it, with the usage of the tree.
    assert!(store.adopt("one", "", dir.number, labels(&[("l", "1")])).unwrap());
    assert!(store.adopt("two", "", dir.number, Labels::new()).unwrap());
    assert_eq!(code(store.adopt("one", "", dir.number, Labels::new())), Code::AlreadyExists);
    assert_eq!(code(store.adopt("x", "none", dir.number, Labels::new())), Code::NotFound);
    assert_eq!(store.usage("one").unwrap(), Ok(info.usage));
    assert_eq!(store.create(Kind::View, "v", "two", Labels::new()).unwrap().parents, [dir.number]);
    store.remove("v").unwrap();

    // Built a second time: the first one counts and has two holders now.
    let again = store.new_tree_dir().unwrap();
    assert_eq!(store.register_tree("sha256:c", again.number, "image-2").unwrap(), dir.number);
    assert_eq!(store.hold_tree("sha256:c", "image-3").unwrap(), Some(dir.number));
    assert_eq!(store.hold_tree("sha256:d", "image-3").unwrap(), None);
    assert_eq!(store.trees().unwrap()[0].holders.len(), 3);
    for (holder, freed) in [("image-1", 0), ("image-2", 0), ("image-3", 0)] {
        assert_eq!(store.release_trees(holder, "").unwrap(), Some(freed));
    }
    store.remove("one").unwrap();
    store.cleanup().unwrap();
    assert!(dir.fs.join("file").exists() && !again.fs.exists());
    store.remove("two").unwrap();
    store.cleanup().unwrap();
    assert!(!dir.fs.exists());
    assert_eq!((store.tree("sha256:c").unwrap(), store.trees().unwrap()), (None, vec![]));
}

#[test]
fn a_held_tree_outlives_its_snapshots() {
    let tmp = tempfile::tempdir().unwrap();
    let store = open(&tmp);
    let dir = store.new_tree_dir().unwrap();
    store.register_tree("sha256:c", dir.number, "image").unwrap();
    store.adopt("n", "", dir.number, Labels::new()).unwrap();
    store.remove("n").unwrap();
    store.cleanup().unwrap();
    assert!(dir.fs.exists());
    assert_eq!(store.release_trees("image", "sha256:c").unwrap(), Some(1));
    store.cleanup().unwrap();
    assert!(!dir.fs.exists());
}

/// Whatever was looked at before: what snapshots need is kept, all of it.
#[test]
fn trees_that_snapshots_need_are_not_released() {
    let tmp = tempfile::tempdir().unwrap();
    let store = open(&tmp);
    for chain_id in ["sha256:low", "sha256:top"] {
        assert!(store.register_lazy(chain_id, "one").unwrap());
    }
    assert!(!store.register_lazy("sha256:low", "two").unwrap());
    let number = |chain_id| store.tree(chain_id).unwrap().unwrap().number;
    assert!(store.adopt("low", "", number("sha256:low"), Labels::new()).unwrap());
    // Another one has the lower layer.
    assert!(store.adopt("top", "low", number("sha256:top"), Labels::new()).unwrap());
    assert_eq!(store.release_trees("one", "sha256:top").unwrap(), None);
    store.remove("top").unwrap();
    assert_eq!(store.release_trees("one", "sha256:top").unwrap(), Some(1));
    assert_eq!(store.release_trees("two", "sha256:other").unwrap(), None);
    assert_eq!(store.tree("sha256:low").unwrap().unwrap().holders.len(), 1);
    store.remove("low").unwrap();
    assert_eq!(store.release_trees("two", "sha256:other").unwrap(), Some(1));
    assert_eq!(store.trees().unwrap(), vec![]);
}

#[test]
fn reopening_keeps_records_and_sweeps_the_rest() {
    let tmp = tempfile::tempdir().unwrap();
    let store = open(&tmp);
    let kept = committed(&store, "kept", "");
    let half = store.new_tree_dir().unwrap();
    let discarded = store.new_tree_dir().unwrap();
    store.discard_tree_dir(discarded.number).unwrap();
    assert_eq!(code(store.discard_tree_dir(kept)), Code::FailedPrecondition);
    store.cleanup().unwrap();
    assert!(half.fs.exists(), "an import under way is no orphan");
    let orphan = store.root().join("snapshots/900/fs/x");
    fs::create_dir_all(&orphan).unwrap();
    fs::write(store.root().join("snapshots/readme"), "not ours").unwrap();
    drop(store);

    let store = open(&tmp);
    store.cleanup().unwrap();
    assert!(store.fs_path(kept).exists() && store.root().join("snapshots/readme").exists());
    assert!(!half.fs.exists() && !orphan.exists() && !discarded.fs.exists());
    assert_eq!(store.stat("kept").unwrap().kind, Kind::Committed);
    let made = store.create(Kind::Active, "k", "kept", Labels::new()).unwrap();
    assert!(made.number > 900, "numbers are not used twice: {}", made.number);
}

#[test]
fn one_root_has_one_store_and_one_version() {
    let tmp = tempfile::tempdir().unwrap();
    let store = open(&tmp);
    let second = Store::open(&tmp.path().join("root")).unwrap_err();
    assert!(matches!(second, Error::InUse { what: "root", .. }), "{second}");
    store
        .write("test", |tx| {
            tx.open_table(META).unwrap().insert(KEY_VERSION, 99).unwrap();
            Ok(())
        })
        .unwrap();
    drop(store);
    let newer = Store::open(&tmp.path().join("root")).unwrap_err();
    assert_eq!(newer.to_string(), "metadata: version 99: this di3fs-snapshotter reads version 1");
}

#[test]
fn a_broken_record_is_an_error_that_names_it() {
    let tmp = tempfile::tempdir().unwrap();
    let store = open(&tmp);
    store
        .write("test", |tx| {
            tx.open_table(SNAPSHOTS).unwrap().insert("bad", b"{".as_slice()).unwrap();
            Ok(())
        })
        .unwrap();
    let error = store.stat("bad").unwrap_err();
    assert_eq!(error.code(), Code::DataLoss);
    assert!(error.to_string().starts_with("metadata: read snapshot: bad: "), "{error}");
}
