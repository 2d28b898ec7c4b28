//! Generates containerd's messages (rust-protobuf), the ttrpc server and client of Snapshots, and the gRPC
//! servers and clients, from the protos vendored under `proto/`. No protoc is needed: the parser is Rust.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use tonic_build::manual::{Builder, Method, Service};

const API: &str = "proto/github.com/containerd/containerd/api";
const PROTOS: [&str; 11] = [
    "services/content/v1/content.proto",
    "services/events/v1/events.proto",
    "services/images/v1/images.proto",
    "services/leases/v1/leases.proto",
    "services/namespaces/v1/namespace.proto",
    "services/snapshots/v1/snapshots.proto",
    "services/version/v1/version.proto",
    "types/descriptor.proto",
    "types/event.proto",
    "types/fieldpath.proto",
    "types/mount.proto",
];
const CONTROL: &str = "proto/d4c/control.proto";
const EMPTY: &str = "::protobuf::well_known_types::empty::Empty";
const ENVELOPE: &str = "crate::api::event::Envelope";

fn main() -> Result<(), Box<dyn Error>> {
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    messages(&out.join("pb"))?;
    services(&out)?;
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=proto");
    Ok(())
}

/// Writes one module per proto file, and the ttrpc stubs, to `dir`.
fn messages(dir: &Path) -> Result<(), Box<dyn Error>> {
    fs::create_dir_all(dir)?;
    ttrpc_codegen::Codegen::new()
        .inputs(PROTOS.map(|p| format!("{API}/{p}")).into_iter().chain([CONTROL.to_owned()]))
        .include("proto")
        .rust_protobuf()
        .rust_protobuf_customize(ttrpc_codegen::ProtobufCustomize::default().gen_mod_rs(true))
        .customize(ttrpc_codegen::Customize { async_all: true, ..Default::default() })
        .out_dir(dir)
        .run()?;
    // The files are brought in with `include!`, where inner attributes and inner docs are not allowed.
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let text = fs::read_to_string(&path)?;
        let kept: Vec<&str> =
            text.lines().filter(|l| !l.starts_with("#!") && !l.starts_with("//!")).collect();
        fs::write(&path, kept.join("\n"))?;
    }
    Ok(())
}

/// One remote call: the name in Rust, the route, its input and output, and which sides stream.
struct Call(&'static str, &'static str, &'static str, &'static str, Streams);

#[derive(Clone, Copy, PartialEq)]
enum Streams {
    None,
    Server,
    Both,
}

fn service(name: &str, package: &str, module: &str, calls: &[Call]) -> Service {
    let message = |m: &str| {
        if m.contains("::") { m.to_owned() } else { format!("crate::api::{module}::{m}") }
    };
    let mut built = Service::builder().name(name).package(package);
    for Call(rust, route, input, output, streams) in calls {
        let mut method = Method::builder()
            .name(rust)
            .route_name(route)
            .input_type(message(input))
            .output_type(message(output))
            .codec_path("crate::api::codec::ProtobufCodec");
        if *streams != Streams::None {
            method = method.server_streaming();
        }
        if *streams == Streams::Both {
            method = method.client_streaming();
        }
        built = built.method(method.build());
    }
    built.build()
}

/// Writes the gRPC stubs: client and server of Snapshots, clients of what `d4c load` needs.
fn services(out: &Path) -> Result<(), Box<dyn Error>> {
    use Streams::{Both, None, Server};
    let snapshots = service(
        "Snapshots",
        "containerd.services.snapshots.v1",
        "snapshots",
        &[
            Call("prepare", "Prepare", "PrepareSnapshotRequest", "PrepareSnapshotResponse", None),
            Call("view", "View", "ViewSnapshotRequest", "ViewSnapshotResponse", None),
            Call("mounts", "Mounts", "MountsRequest", "MountsResponse", None),
            Call("commit", "Commit", "CommitSnapshotRequest", EMPTY, None),
            Call("remove", "Remove", "RemoveSnapshotRequest", EMPTY, None),
            Call("stat", "Stat", "StatSnapshotRequest", "StatSnapshotResponse", None),
            Call("update", "Update", "UpdateSnapshotRequest", "UpdateSnapshotResponse", None),
            Call("list", "List", "ListSnapshotsRequest", "ListSnapshotsResponse", Server),
            Call("usage", "Usage", "UsageRequest", "UsageResponse", None),
            Call("cleanup", "Cleanup", "CleanupRequest", EMPTY, None),
        ],
    );
    let content = service(
        "Content",
        "containerd.services.content.v1",
        "content",
        &[
            Call("info", "Info", "InfoRequest", "InfoResponse", None),
            Call("update", "Update", "UpdateRequest", "UpdateResponse", None),
            Call("list", "List", "ListContentRequest", "ListContentResponse", Server),
            Call("delete", "Delete", "DeleteContentRequest", EMPTY, None),
            Call("read", "Read", "ReadContentRequest", "ReadContentResponse", Server),
            Call("status", "Status", "StatusRequest", "StatusResponse", None),
            Call("list_statuses", "ListStatuses", "ListStatusesRequest", "ListStatusesResponse", None),
            Call("write", "Write", "WriteContentRequest", "WriteContentResponse", Both),
            Call("abort", "Abort", "AbortRequest", EMPTY, None),
        ],
    );
    let images = service(
        "Images",
        "containerd.services.images.v1",
        "images",
        &[
            Call("get", "Get", "GetImageRequest", "GetImageResponse", None),
            Call("list", "List", "ListImagesRequest", "ListImagesResponse", None),
            Call("create", "Create", "CreateImageRequest", "CreateImageResponse", None),
            Call("update", "Update", "UpdateImageRequest", "UpdateImageResponse", None),
            Call("delete", "Delete", "DeleteImageRequest", EMPTY, None),
        ],
    );
    let leases = service(
        "Leases",
        "containerd.services.leases.v1",
        "leases",
        &[
            Call("create", "Create", "CreateRequest", "CreateResponse", None),
            Call("delete", "Delete", "DeleteRequest", EMPTY, None),
            Call("list", "List", "ListRequest", "ListResponse", None),
            Call("add_resource", "AddResource", "AddResourceRequest", EMPTY, None),
            Call("delete_resource", "DeleteResource", "DeleteResourceRequest", EMPTY, None),
            Call("list_resources", "ListResources", "ListResourcesRequest", "ListResourcesResponse", None),
        ],
    );
    let namespaces = service(
        "Namespaces",
        "containerd.services.namespaces.v1",
        "namespace",
        &[
            Call("get", "Get", "GetNamespaceRequest", "GetNamespaceResponse", None),
            Call("list", "List", "ListNamespacesRequest", "ListNamespacesResponse", None),
            Call("create", "Create", "CreateNamespaceRequest", "CreateNamespaceResponse", None),
            Call("update", "Update", "UpdateNamespaceRequest", "UpdateNamespaceResponse", None),
            Call("delete", "Delete", "DeleteNamespaceRequest", EMPTY, None),
        ],
    );
    let events = service(
        "Events",
        "containerd.services.events.v1",
        "events",
        &[
            Call("publish", "Publish", "PublishRequest", EMPTY, None),
            Call("forward", "Forward", "ForwardRequest", EMPTY, None),
            Call("subscribe", "Subscribe", "SubscribeRequest", ENVELOPE, Server),
        ],
    );
    let version = service(
        "Version",
        "containerd.services.version.v1",
        "version",
        &[Call("version", "Version", EMPTY, "VersionResponse", None)],
    );
    let clients = [content, images, leases, namespaces, events, version];
    Builder::new().out_dir(out).compile(&[snapshots]);
    Builder::new().out_dir(out).build_server(false).compile(&clients);
    Ok(())
}
