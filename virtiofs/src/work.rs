//! Requests of a guest, answered by several threads: making a content takes its time, and the others go on meanwhile.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use crossbeam::channel::Receiver;
use fuse_backend_rs::abi::fuse_abi::{InHeader, Opcode, OutHeader};
use fuse_backend_rs::api::filesystem::FileSystem;
use fuse_backend_rs::api::server::{MetricsHook, Server};
use fuse_backend_rs::transport::{Reader, VirtioFsWriter, Writer};
use vhost_user_backend::{VringRwLock, VringT};
use virtio_queue::{DescriptorChain, QueueT};
use vm_memory::{GuestMemoryLoadGuard, GuestMemoryMmap};

/// A request and the ring that it came by.
pub(crate) struct Job {
    pub(crate) vring: VringRwLock,
    pub(crate) chain: DescriptorChain<GuestMemoryLoadGuard<GuestMemoryMmap>>,
}

/// Answers requests until there is nobody to give more.
pub(crate) fn work<F: FileSystem + Send + Sync>(server: &Server<Arc<F>>, fs: &F, jobs: &Receiver<Job>) {
    for Job { vring, chain } in jobs {
        let head = chain.head_index();
        // Foreign code reads what a guest wrote: whatever it makes of it ends with the request.
        let answered = catch_unwind(AssertUnwindSafe(|| answer(server, fs, chain)));
        let bytes = answered.unwrap_or_else(|panic| Err(text(&*panic))).unwrap_or_else(|error| {
            tracing::debug!(head, error, "virtio-fs: a request was not answered");
            0
        });
        // A ring that was stopped meanwhile belongs to the guest again.
        let mut ring = vring.get_mut();
        if !ring.get_queue().ready() {
            continue;
        }
        let given = ring.add_used(head, u32::try_from(bytes).unwrap_or(0)).map_err(|error| error.to_string());
        let given = given.and_then(|()| ring.signal_used_queue().map_err(|error| error.to_string()));
        if let Err(error) = given {
            tracing::debug!(head, error, "virtio-fs: a request was not given back");
        }
    }
}

/// Answers one request; the bytes of the answer.
fn answer<F: FileSystem + Send + Sync>(
    server: &Server<Arc<F>>,
    fs: &F,
    chain: DescriptorChain<GuestMemoryLoadGuard<GuestMemoryMmap>>,
) -> Result<usize, String> {
    let again = chain.clone();
    let memory = again.memory();
    let reader = Reader::from_descriptor_chain(memory, chain.clone()).map_err(|error| error.to_string())?;
    let writer = VirtioFsWriter::new(memory, chain).map_err(|error| error.to_string())?;
    let writer = Writer::VirtioFs(writer);
    server.handle_message(reader, writer, None, Some(&Restart(fs))).map_err(|error| error.to_string())
}

/// A guest that starts anew did not say that it had ended.
struct Restart<'a, F>(&'a F);

impl<F: FileSystem> MetricsHook for Restart<'_, F> {
    fn collect(&self, header: &InHeader) {
        if header.opcode == Opcode::Init as u32 {
            self.0.destroy();
        }
    }

    fn release(&self, _: Option<&OutHeader>) {}
}

/// What a panic said.
fn text(panic: &(dyn Any + Send)) -> String {
    let message = panic.downcast_ref::<&str>().copied();
    let message = message.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("panic: {}", message.unwrap_or("of no text"))
}
