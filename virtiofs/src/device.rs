//! A virtio-fs device as its monitor sees it: features, rings, memory.
//!
//! One thread reads the rings, others answer ([`crate::work`]). Neither event indexes nor indirect descriptors are offered.

use std::io;
use std::num::NonZeroUsize;
use std::sync::Arc;

use crossbeam::channel::{Sender, bounded};
use fuse_backend_rs::api::filesystem::FileSystem;
use fuse_backend_rs::api::server::Server;
use vhost::vhost_user::message::{VhostUserProtocolFeatures, VhostUserVirtioFeatures};
use vhost::vhost_user::{Error as ProtocolError, Listener};
use vhost_user_backend::{Error as DaemonError, VhostUserBackend, VhostUserDaemon, VringRwLock, VringT};
use virtio_bindings::bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_queue::QueueOwnedT;
use vm_memory::{GuestAddressSpace, GuestMemoryAtomic, GuestMemoryMmap};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::event::{EventConsumer, EventFlag, EventNotifier, new_event_consumer_and_notifier};

use crate::work::{Job, work};
use crate::{Socket, VirtioError};

type Memory = GuestMemoryAtomic<GuestMemoryMmap>;

/// Rings: one for what must not wait, one for requests.
const QUEUES: usize = 2;
/// Requests that a ring holds at most.
const QUEUE_SIZE: usize = 1024;
/// Bytes of a tag in the device's configuration, the number of request rings behind it.
const TAG_BYTES: usize = 36;

/// How a machine is served.
#[derive(Debug, Clone)]
pub struct Options {
    /// Threads that answer.
    pub threads: NonZeroUsize,
    /// The name of the file system in the guest, for monitors that ask the device for it; QEMU is told by its user.
    pub tag: Option<String>,
}

/// Waits for a monitor at `socket`, serves `fs` to its guest, and returns when it has gone.
///
/// # Errors
/// The monitor does not keep to the protocol, or a thread cannot be started.
pub fn serve<F: FileSystem + Send + Sync + 'static>(
    socket: Socket,
    fs: &Arc<F>,
    options: &Options,
) -> Result<(), VirtioError> {
    let name = socket.name().to_owned();
    let failed = |why: String| VirtioError::Device { socket: name.clone(), why };
    let accepting = socket.listener.try_clone().map_err(VirtioError::io("listen at socket", &name))?;
    let memory = Memory::new(GuestMemoryMmap::new());
    let (jobs, waiting) = bounded(QUEUE_SIZE);
    let mut threads = Vec::new();
    // Negotiates with one guest, so there is one for each.
    let server = Arc::new(Server::new(Arc::clone(fs)));
    for number in 0..options.threads.get() {
        let (server, fs, waiting) = (Arc::clone(&server), Arc::clone(fs), waiting.clone());
        let thread = std::thread::Builder::new()
            .name(format!("virtiofs-{number}"))
            .spawn(move || work(&server, &*fs, &waiting))
            .map_err(VirtioError::io("start thread for", &name))?;
        threads.push(thread);
    }
    drop(waiting);
    let tag = options.tag.as_deref().map(str::as_bytes).map(configuration);
    let device = Arc::new(Device { memory: memory.clone(), jobs, configuration: tag });
    let mut daemon = VhostUserDaemon::new("vhost-user".to_owned(), device, memory)
        .map_err(|error| failed(error.to_string()))?;
    daemon.start(&mut Listener::from(accepting)).map_err(|error| failed(error.to_string()))?;
    socket.place().hide();
    tracing::info!(socket = name, "a machine has connected");
    let ended = daemon.wait();
    drop(daemon);
    for thread in threads {
        drop(thread.join());
    }
    match ended {
        // How monitors end.
        Ok(())
        | Err(DaemonError::HandleRequest(ProtocolError::Disconnected | ProtocolError::PartialMessage)) => {
            Ok(())
        }
        Err(error) => Err(failed(error.to_string())),
    }
}

/// The device's configuration: the tag, padded, and the number of request rings.
fn configuration(tag: &[u8]) -> Vec<u8> {
    let mut bytes = tag.to_vec();
    bytes.resize(TAG_BYTES, 0);
    bytes.extend(1_u32.to_le_bytes());
    bytes
}

struct Device {
    memory: Memory,
    jobs: Sender<Job>,
    configuration: Option<Vec<u8>>,
}

impl VhostUserBackend for Device {
    type Bitmap = ();
    type Vring = VringRwLock;

    fn num_queues(&self) -> usize {
        QUEUES
    }

    fn max_queue_size(&self) -> usize {
        QUEUE_SIZE
    }

    fn features(&self) -> u64 {
        1 << VIRTIO_F_VERSION_1 | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits()
    }

    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        let features = VhostUserProtocolFeatures::MQ
            | VhostUserProtocolFeatures::REPLY_ACK
            | VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS;
        match self.configuration {
            Some(_) => features | VhostUserProtocolFeatures::CONFIG,
            None => features,
        }
    }

    fn set_event_idx(&self, _: bool) {}

    fn get_config(&self, offset: u32, size: u32) -> Vec<u8> {
        let range = usize::try_from(offset).ok().zip(usize::try_from(size).ok());
        let range = range.and_then(|(offset, size)| Some(offset..offset.checked_add(size)?));
        let bytes = self.configuration.as_deref().zip(range).and_then(|(bytes, range)| bytes.get(range));
        bytes.unwrap_or_default().to_vec()
    }

    /// The memory is shared with whoever replaces it.
    fn update_memory(&self, _: Memory) -> io::Result<()> {
        Ok(())
    }

    fn exit_event(&self, _: usize) -> Option<(EventConsumer, EventNotifier)> {
        new_event_consumer_and_notifier(EventFlag::NONBLOCK | EventFlag::CLOEXEC).ok()
    }

    /// Hands the requests of a ring to the threads. One that is damaged is left alone until the guest kicks it again: only
    /// the guest is hurt.
    fn handle_event(&self, ring: u16, _: EventSet, vrings: &[VringRwLock], _: usize) -> io::Result<()> {
        let Some(vring) = vrings.get(usize::from(ring)) else { return Ok(()) };
        let chains: Vec<_> = match vring.get_mut().get_queue_mut().iter(self.memory.memory()) {
            Ok(chains) => chains.collect(),
            Err(error) => {
                tracing::debug!(ring, %error, "virtio-fs: a ring cannot be read");
                return Ok(());
            }
        };
        for chain in chains {
            let job = Job { vring: vring.clone(), chain };
            self.jobs.send(job).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        }
        Ok(())
    }
}
