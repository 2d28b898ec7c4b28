//! kill -9 at random moments under load: every operation that was acknowledged is there after a restart, none that
//! was not is half there, and no directory is left over.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use common::Plugin;
use di3fs_snapshotter::api::grpc::snapshots_client::SnapshotsClient;
use di3fs_snapshotter::api::snapshots::*;
use nix::sys::signal::Signal;
use tonic::transport::Channel;

/// How often the plugin is killed.
const ROUNDS: u32 = 12;

/// What must be there: key → committed. A key in `unsure` had an operation that was not answered.
#[derive(Default)]
struct Model {
    sure: BTreeMap<String, bool>,
    unsure: BTreeSet<String>,
    next: u32,
}

/// Works until the connection breaks.
async fn work(client: &mut SnapshotsClient<Channel>, model: &mut Model, root: &Path) {
    loop {
        model.next += 1;
        let (key, name) = (format!("k{}", model.next), format!("n{}", model.next));
        model.unsure.insert(key.clone());
        let request = PrepareSnapshotRequest { key: key.clone(), ..Default::default() };
        let Ok(made) = client.prepare(request).await else { return };
        let made = made.into_inner();
        std::fs::write(Path::new(&made.mounts[0].source).join("file"), &key).unwrap();
        assert!(Path::new(&made.mounts[0].source).starts_with(root));
        model.unsure.remove(&key);
        model.sure.insert(key.clone(), false);
        if model.next.is_multiple_of(3) {
            continue;
        }
        let request = CommitSnapshotRequest { key: key.clone(), name: name.clone(), ..Default::default() };
        model.sure.remove(&key);
        model.unsure.extend([key.clone(), name.clone()]);
        let Ok(_) = client.commit(request).await else { return };
        model.unsure.remove(&key);
        model.unsure.remove(&name);
        model.sure.insert(name.clone(), true);
        if model.next.is_multiple_of(2) {
            model.sure.remove(&name);
            model.unsure.insert(name.clone());
            let request = RemoveSnapshotRequest { key: name.clone(), ..Default::default() };
            let Ok(_) = client.remove(request).await else { return };
            model.unsure.remove(&name);
        }
    }
}

/// Compares what the plugin says with the model, and settles what was unsure.
async fn check(client: &mut SnapshotsClient<Channel>, model: &mut Model, root: &Path) {
    let mut found = BTreeMap::new();
    let mut stream = client.list(ListSnapshotsRequest::new()).await.unwrap().into_inner();
    while let Some(batch) = stream.message().await.unwrap() {
        for info in batch.info {
            found.insert(info.name, info.kind.enum_value() == Ok(Kind::COMMITTED));
        }
    }
    for (name, committed) in &model.sure {
        assert_eq!(found.get(name), Some(committed), "{name} was acknowledged");
    }
    for (name, committed) in &found {
        let known = model.sure.contains_key(name) || model.unsure.contains(name);
        assert!(known, "{name} was never asked for, or was removed");
        let number: u32 = name[1..].parse().unwrap();
        assert!(!(found.contains_key(&format!("k{number}")) && found.contains_key(&format!("n{number}"))));
        if *committed {
            client.usage(UsageRequest { key: name.clone(), ..Default::default() }).await.unwrap();
            let key = format!("view-{name}");
            let view = ViewSnapshotRequest { key: key.clone(), parent: name.clone(), ..Default::default() };
            let mounts = client.view(view).await.unwrap().into_inner().mounts;
            let file = std::fs::read_to_string(Path::new(&mounts[0].source).join("file")).unwrap();
            assert_eq!(file, format!("k{number}"));
            client.remove(RemoveSnapshotRequest { key, ..Default::default() }).await.unwrap();
        } else {
            let mounts =
                client.mounts(MountsRequest { key: name.clone(), ..Default::default() }).await.unwrap();
            assert!(Path::new(&mounts.into_inner().mounts[0].source).is_dir());
        }
    }
    client.cleanup(CleanupRequest::new()).await.unwrap();
    let dirs = std::fs::read_dir(root.join("snapshots")).unwrap().count();
    assert_eq!(dirs, found.len(), "one directory per snapshot");
    model.sure = found;
    model.unsure.clear();
}

#[tokio::test]
async fn what_was_acknowledged_outlives_a_kill() {
    let tmp = tempfile::tempdir().unwrap();
    let root = tmp.path().canonicalize().unwrap().join("root");
    let mut model = Model::default();
    let mut seed = 0x9e37_79b9_u32;
    for round in 0..ROUNDS {
        let mut plugin = Plugin::start(tmp.path());
        let channel = di3fs_snapshotter::api::connect(&plugin.socket).await.unwrap();
        let mut client = SnapshotsClient::new(channel);
        check(&mut client, &mut model, &root).await;
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let pause = Duration::from_micros(u64::from(seed % 250_000));
        let killer = async {
            tokio::time::sleep(pause).await;
            plugin.signal(Signal::SIGKILL);
        };
        tokio::join!(work(&mut client, &mut model, &root), killer);
        assert!(!plugin.child.wait().unwrap().success(), "round {round}");
    }
    assert!(model.next > ROUNDS, "the load was no load: {}", model.next);
    let plugin = Plugin::start(tmp.path());
    let channel = di3fs_snapshotter::api::connect(&plugin.socket).await.unwrap();
    check(&mut SnapshotsClient::new(channel), &mut model, &root).await;
}
