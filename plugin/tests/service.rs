//! The real binary over its real socket: a gRPC and a ttrpc client get the same answers and the same codes.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::HashMap;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use common::Plugin;
use di3fs_snapshotter::api::grpc::snapshots_client::SnapshotsClient as Grpc;
use di3fs_snapshotter::api::snapshots::*;
use di3fs_snapshotter::api::snapshots_ttrpc::SnapshotsClient as Ttrpc;
use nix::sys::signal::Signal;
use protobuf::{MessageField, MessageFull};
use tonic::transport::Channel;
use ttrpc::context::{Context, with_duration};

/// An answer, or a code and a message.
type Answer = Result<String, (i32, String)>;

fn from_grpc<T: MessageFull>(answer: Result<tonic::Response<T>, tonic::Status>) -> Answer {
    answer.map(|a| shown(&a.into_inner())).map_err(|s| (i32::from(s.code()), s.message().to_owned()))
}

fn from_ttrpc<T: MessageFull>(answer: ttrpc::Result<T>) -> Answer {
    answer.map(|a| shown(&a)).map_err(|e| match e {
        ttrpc::Error::RpcStatus(s) => (s.code.value(), s.message),
        other => panic!("not a status: {other}"),
    })
}

/// The message as text, without times and without what differs by the number of the directory.
fn shown<T: MessageFull>(message: &T) -> String {
    let text = protobuf::text_format::print_to_string_pretty(message);
    // Maps are printed in no order.
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    let text: String = lines.join("\n").chars().filter(|c| !c.is_ascii_digit()).collect();
    text.replace("grpc", "WIRE").replace("ttWIRE", "WIRE").replace("ttrpc", "WIRE")
}

struct Both {
    grpc: Grpc<Channel>,
    ttrpc: Ttrpc,
}

fn context() -> Context {
    with_duration(Duration::from_secs(10))
}

macro_rules! same {
    ($both:expr, $call:ident, $request:expr, $code:expr) => {{
        let request = |wire: &str| {
            let make: &dyn Fn(&str) -> _ = &$request;
            make(wire)
        };
        let a = from_grpc($both.grpc.$call(request("grpc")).await);
        let b = from_ttrpc($both.ttrpc.$call(context(), &request("ttrpc")).await);
        let a = a.map_err(|(code, text)| (code, text.replace("grpc", "WIRE")));
        let b = b.map_err(|(code, text)| (code, text.replace("ttrpc", "WIRE")));
        assert_eq!(a, b, stringify!($call));
        assert_eq!(a.as_ref().err().map_or(0, |(code, _)| *code), $code, "{a:?}");
        a.unwrap_or_default()
    }};
}

fn prepare(key: String, parent: String) -> PrepareSnapshotRequest {
    let labels = HashMap::from([("l".to_owned(), "v".to_owned()), ("empty".to_owned(), String::new())]);
    PrepareSnapshotRequest { key, parent, labels, ..Default::default() }
}

#[tokio::test]
async fn both_wires_give_the_same_answers_and_codes() {
    const INVALID: i32 = 3;
    const NOT_FOUND: i32 = 5;
    const EXISTS: i32 = 6;
    const PRECONDITION: i32 = 9;
    let tmp = tempfile::tempdir().unwrap();
    let plugin = Plugin::start(tmp.path());
    assert_eq!(std::fs::metadata(&plugin.socket).unwrap().permissions().mode() & 0o777, 0o600);
    let channel = di3fs_snapshotter::api::connect(&plugin.socket).await.unwrap();
    let address = format!("unix://{}", plugin.socket.display());
    let ttrpc = Ttrpc::new(ttrpc::r#async::Client::connect(&address).await.unwrap());
    let mut both = Both { grpc: Grpc::new(channel), ttrpc };

    let mounts = same!(both, prepare, |w| prepare(format!("a-{w}"), String::new()), 0);
    assert!(mounts.contains("bind") && mounts.contains("rbind"), "{mounts}");
    same!(both, prepare, |w| prepare(format!("a-{w}"), String::new()), EXISTS);
    same!(both, prepare, |w| prepare(format!("b-{w}"), "none".into()), NOT_FOUND);
    same!(both, prepare, |w| prepare(format!("b-{w}"), format!("a-{w}")), INVALID);
    same!(both, mounts, |w| MountsRequest { key: format!("a-{w}"), ..Default::default() }, 0);
    same!(both, usage, |w| UsageRequest { key: format!("a-{w}"), ..Default::default() }, 0);

    let commit = |name: String, key: String, parent: &str| CommitSnapshotRequest {
        name,
        key,
        parent: parent.into(),
        ..Default::default()
    };
    same!(both, commit, |w| commit(format!("n-{w}"), "none".into(), ""), NOT_FOUND);
    same!(both, commit, |w| commit(format!("n-{w}"), format!("a-{w}"), ""), 0);
    same!(both, commit, |w| commit(format!("n-{w}"), "none".into(), ""), EXISTS);
    same!(both, commit, |w| commit(format!("m-{w}"), format!("n-{w}"), ""), PRECONDITION);
    same!(both, mounts, |w| MountsRequest { key: format!("n-{w}"), ..Default::default() }, PRECONDITION);
    let overlay = same!(both, prepare, |w| prepare(format!("c-{w}"), format!("n-{w}")), 0);
    assert!(overlay.contains("upperdir=") && overlay.contains("lowerdir="), "{overlay}");
    same!(both, commit, |w| commit(format!("m-{w}"), format!("c-{w}"), "other"), INVALID);
    let view = |w: &str| ViewSnapshotRequest {
        key: format!("v-{w}"),
        parent: format!("n-{w}"),
        ..Default::default()
    };
    assert!(same!(both, view, view, 0).contains("ro"));
    same!(both, view, view, EXISTS);

    let stat = |w: &str| StatSnapshotRequest { key: format!("c-{w}"), ..Default::default() };
    let info = same!(both, stat, stat, 0);
    assert!(info.contains("ACTIVE") && info.contains("\"v\"") && !info.contains("empty"), "{info}");
    same!(both, stat, |_| StatSnapshotRequest { key: "none".into(), ..Default::default() }, NOT_FOUND);
    let update = |w: &str, path: &str| {
        let mut request = UpdateSnapshotRequest::new();
        let labels = HashMap::from([("new".to_owned(), "x".to_owned())]);
        request.info = MessageField::some(Info { name: format!("c-{w}"), labels, ..Default::default() });
        request.update_mask.mut_or_insert_default().paths = vec![path.to_owned()];
        request
    };
    assert!(same!(both, update, |w| update(w, "labels.new"), 0).contains("\"x\""));
    same!(both, update, |w| update(w, "parent"), INVALID);

    let remove = |key: String| RemoveSnapshotRequest { key, ..Default::default() };
    same!(both, remove, |w| remove(format!("n-{w}")), PRECONDITION);
    same!(both, remove, |w| remove(format!("v-{w}")), 0);
    same!(both, remove, |w| remove(format!("v-{w}")), NOT_FOUND);
    same!(both, cleanup, |_| CleanupRequest::new(), 0);
    lists(&mut both).await;
    drop(plugin);
}

async fn lists(both: &mut Both) {
    for n in 0..230 {
        both.grpc.prepare(prepare(format!("many-{n:03}"), String::new())).await.unwrap();
    }
    let request = |filter: &str| ListSnapshotsRequest { filters: vec![filter.into()], ..Default::default() };
    for (filter, count) in [("name~=/^many-/,kind==active", 230), ("name==many-007", 1), ("name==none", 0)] {
        let mut stream = both.grpc.list(request(filter)).await.unwrap().into_inner();
        let (mut names, mut others) = (Vec::new(), Vec::new());
        while let Some(batch) = stream.message().await.unwrap() {
            assert!((1..=100).contains(&batch.info.len()));
            names.extend(batch.info.into_iter().map(|i| i.name));
        }
        let mut stream = both.ttrpc.list(context(), &request(filter)).await.unwrap();
        while let Some(batch) = stream.recv().await.unwrap() {
            assert!((1..=100).contains(&batch.info.len()));
            others.extend(batch.info.into_iter().map(|i| i.name));
        }
        assert_eq!(names.len(), count, "{filter}");
        assert_eq!(names, others);
    }
    let grpc = both.grpc.list(request("name==")).await.unwrap_err();
    let mut stream = both.ttrpc.list(context(), &request("name==")).await.unwrap();
    let Err(ttrpc::Error::RpcStatus(status)) = stream.recv().await else { panic!("no status") };
    assert_eq!((i32::from(grpc.code()), grpc.message()), (3, status.message.as_str()));
    assert_eq!(status.code.value(), 3);
}

#[test]
fn one_plugin_per_root_and_socket_and_a_clean_end() {
    let tmp = tempfile::tempdir().unwrap();
    let socket = tmp.path().join("s.sock");
    // A socket that a dead process left is replaced.
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    let mut plugin = Plugin::start(tmp.path());
    let (status, text) = Plugin::refused(tmp.path(), "other.sock", "");
    assert_eq!(status, Some(1));
    assert!(
        text.ends_with("root: in use by another di3fs-snapshotter\n") || text.contains("in use"),
        "{text}"
    );
    let (status, text) = Plugin::refused(tmp.path(), "other.sock", "rot = 1\n");
    assert_eq!(status, Some(1));
    assert!(text.contains("unknown field `rot`"), "{text}");
    plugin.signal(Signal::SIGTERM);
    assert_eq!(plugin.child.wait().unwrap().code(), Some(0));
    assert!(!socket.exists() && !socket.with_extension("control").exists());
}
