//! Queues with anything in them: a monitor of our own writes random descriptors and requests into a guest's memory. Nothing panics, no
//! request is lost, and a proper request is answered afterwards.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::fs::File;
use std::num::NonZeroUsize;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use di3fs::lazy::Contents;
use di3fs::mount::Image;
use di3fs::store::ObjectStore;
use di3fs::tree::Tree;
use di3fs_virtiofs::{Cache, Confinement, Options, ShareOptions, Socket, serve, share};
use fuse_backend_rs::api::filesystem::FileSystem;
use vhost::vhost_user::message::VhostUserProtocolFeatures;
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use vmm_sys_util::eventfd::EventFd;

/// Where the guest has its memory, and the monitor.
const GUEST: u64 = 0x10_0000;
const MONITOR: u64 = 0x7000_0000_0000;
const MEMORY_BYTES: u64 = 1 << 20;
/// Within the memory: the ring of requests, then what descriptors may mean.
const TABLE: u64 = 0x1000;
const AVAIL: u64 = 0x2000;
const USED: u64 = 0x3000;
const BUFFERS: u64 = 0x8000;
const RING: u16 = 16;
const ROUNDS: usize = 4000;

static PANICS: AtomicU64 = AtomicU64::new(0);

/// xorshift64*.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, end: u64) -> u64 {
        (self.next() >> 8) % end
    }

    fn one_of<const N: usize>(&mut self, values: [u64; N]) -> u64 {
        values[usize::try_from(self.below(N as u64)).unwrap()]
    }
}

struct Monitor {
    memory: File,
    kick: EventFd,
    /// Not dropped: that ends the connection.
    _frontend: Frontend,
    published: u16,
    given_back: u16,
}

impl Monitor {
    fn connect(socket: &Path) -> Self {
        let memory = tempfile::tempfile().unwrap();
        memory.set_len(MEMORY_BYTES).unwrap();
        let mut frontend = Frontend::connect(socket, 2).unwrap();
        frontend.set_owner().unwrap();
        let features = frontend.get_features().unwrap();
        frontend.set_features(features).unwrap();
        let protocol = frontend.get_protocol_features().unwrap();
        assert!(protocol.contains(VhostUserProtocolFeatures::CONFIG));
        frontend.set_protocol_features(protocol & VhostUserProtocolFeatures::MQ).unwrap();
        let region = VhostUserMemoryRegionInfo {
            guest_phys_addr: GUEST,
            memory_size: MEMORY_BYTES,
            userspace_addr: MONITOR,
            mmap_offset: 0,
            mmap_handle: memory.as_raw_fd(),
        };
        frontend.set_mem_table(&[region]).unwrap();
        let (kick, call) = (EventFd::new(0).unwrap(), EventFd::new(nix::libc::EFD_NONBLOCK).unwrap());
        let ring = VringConfigData {
            queue_max_size: RING,
            queue_size: RING,
            flags: 0,
            desc_table_addr: MONITOR + TABLE,
            used_ring_addr: MONITOR + USED,
            avail_ring_addr: MONITOR + AVAIL,
            log_addr: None,
        };
        frontend.set_vring_num(1, RING).unwrap();
        frontend.set_vring_addr(1, &ring).unwrap();
        frontend.set_vring_base(1, 0).unwrap();
        frontend.set_vring_call(1, &call).unwrap();
        frontend.set_vring_kick(1, &kick).unwrap();
        frontend.set_vring_enable(1, true).unwrap();
        Self { memory, kick, _frontend: frontend, published: 0, given_back: 0 }
    }

    fn write(&self, at: u64, bytes: &[u8]) {
        self.memory.write_all_at(bytes, at).unwrap();
    }

    fn word(&self, at: u64) -> u16 {
        let mut bytes = [0; 2];
        self.memory.read_exact_at(&mut bytes, at).unwrap();
        u16::from_le_bytes(bytes)
    }

    fn descriptor(&self, number: u64, address: u64, bytes: u32, flags: u16, next: u16) {
        let mut entry = Vec::with_capacity(16);
        entry.extend(address.to_le_bytes());
        entry.extend(bytes.to_le_bytes());
        entry.extend(flags.to_le_bytes());
        entry.extend(next.to_le_bytes());
        self.write(TABLE + 16 * number, &entry);
    }

    /// Publishes chains that start at `heads`, and waits until they are given back but for those that do not exist.
    fn publish(&mut self, heads: &[u16]) {
        for head in heads {
            self.write(AVAIL + 4 + 2 * u64::from(self.published % RING), &head.to_le_bytes());
            self.published = self.published.wrapping_add(1);
            self.given_back = self.given_back.wrapping_add(u16::from(*head < RING));
        }
        self.write(AVAIL + 2, &self.published.to_le_bytes());
        self.kick.write(1).unwrap();
        let end = Instant::now() + Duration::from_secs(60);
        while self.word(USED + 2) != self.given_back {
            let (seen, wanted) = (self.word(USED + 2), self.given_back);
            assert!(Instant::now() < end, "a request is lost: {seen} of {wanted} are given back, {heads:?}");
            std::thread::yield_now();
        }
    }

    /// INIT as a guest's kernel says it; whether it was answered.
    fn introduce(&mut self) -> bool {
        let mut request = Vec::new();
        for word in [104_u32, 26] {
            request.extend(word.to_le_bytes());
        }
        request.extend(77_u64.to_le_bytes());
        request.extend([0; 24]);
        for word in [7_u32, 36, 1 << 17, 0] {
            request.extend(word.to_le_bytes());
        }
        request.resize(104, 0);
        self.write(BUFFERS, &request);
        self.descriptor(0, GUEST + BUFFERS, 104, 1, 1);
        self.descriptor(1, GUEST + BUFFERS + 0x1000, 80, 2, 0);
        self.publish(&[0]);
        let mut reply = [0; 28];
        self.memory.read_exact_at(&mut reply, BUFFERS + 0x1000).unwrap();
        reply[4..8] == [0; 4] && reply[8..16] == 77_u64.to_le_bytes() && reply[16..20] == 7_u32.to_le_bytes()
    }

    fn disturb(&mut self, random: &mut Random) {
        for number in 0..u64::from(RING) {
            let within = GUEST + BUFFERS + random.below(MEMORY_BYTES - BUFFERS);
            let wild = random.next();
            let table = GUEST + TABLE;
            let address = random.one_of([within, within, within, within, wild, table, GUEST - 1, u64::MAX]);
            let bytes = random.one_of([0, 16, 40, 80, 4096, 4096, MEMORY_BYTES, 0xffff_fff0]);
            let flags = random.one_of([0, 1, 1, 1, 2, 3, 3, 4, 5, 7]);
            let any = random.below(16);
            let next = random.one_of([number + 1, number + 1, any, 0xffff]);
            let [bytes, flags, next] = [bytes, flags, next].map(|value| u32::try_from(value).unwrap());
            let [flags, next] = [flags, next].map(|value| u16::try_from(value).unwrap());
            self.descriptor(number, address, bytes, flags, next);
        }
        // A request that is almost one, sometimes where a chain begins.
        let mut request = Vec::new();
        let length = random.one_of([40, 48, 56, 80, 104, 4096, 0, 0xffff_ffff]);
        request.extend(u32::try_from(length).unwrap().to_le_bytes());
        request.extend(u32::try_from(random.below(54)).unwrap().to_le_bytes());
        request.extend(random.next().to_le_bytes());
        request.extend(random.one_of([0, 1, 1, 1, 2, u64::MAX]).to_le_bytes());
        request.extend([0; 16]);
        while request.len() < 200 {
            request
                .extend(random.one_of([0, 1, 0x61, 0x2e2e, 0x2f61, u64::MAX, 1 << 40, 4096]).to_le_bytes());
        }
        let at = BUFFERS + random.below(MEMORY_BYTES - BUFFERS - 8192);
        self.write(at, &request);
        self.descriptor(0, GUEST + at, u32::try_from(random.one_of([40, 64, 200])).unwrap(), 1, 1);
        let reply = random.one_of([8, 16, 144, 4096]);
        self.descriptor(1, GUEST + at + 4096, u32::try_from(reply).unwrap(), 2, 0);
        let count = random.below(u64::from(RING));
        let heads = (0..count).map(|_| {
            let any = random.below(16);
            random.one_of([0, 0, 0, any, any, 16, 0xffff])
        });
        // The last one is given back, so that all have been read when the next are written.
        let heads = heads.map(|head| u16::try_from(head).unwrap());
        let heads: Vec<u16> = heads.chain([0]).collect();
        // An index that is ahead by more than the ring has is not followed.
        if random.below(16) == 0 {
            self.write(AVAIL + 2, &self.published.wrapping_add(1000).to_le_bytes());
            self.kick.write(1).unwrap();
        }
        self.publish(&heads);
    }
}

fn bear<F: FileSystem + Send + Sync + 'static>(dir: &Path, fs: Arc<F>) {
    let path = dir.join("socket");
    let socket = Socket::bind(&path).unwrap();
    let threads = NonZeroUsize::new(3).unwrap();
    let options = Options { threads, tag: Some("tag".to_owned()) };
    let serving = std::thread::spawn(move || serve(socket, &fs, &options));
    let mut monitor = Monitor::connect(&path);
    assert!(!path.exists(), "the socket has a name still");
    assert!(monitor.introduce());
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for _ in 0..ROUNDS {
        monitor.disturb(&mut random);
    }
    assert!(monitor.introduce());
    drop(monitor);
    serving.join().unwrap().unwrap();
    assert_eq!(PANICS.load(Ordering::Relaxed), 0);
}

/// Panics in threads that serve are caught, but they are not to be.
fn count_panics() {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        PANICS.fetch_add(1, Ordering::Relaxed);
        hook(info);
    }));
}

#[test]
fn an_image_bears_whatever_a_queue_holds() {
    count_panics();
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(ObjectStore::open_volatile(&dir.path().join("store")).unwrap());
    let contents = Arc::new(Contents::new(store, Vec::new(), Vec::new()));
    let image = Image { tree: Arc::new(Tree::merge(&[]).unwrap()), contents };
    bear(dir.path(), Arc::new(image.file_system()));
}

#[test]
fn a_directory_bears_whatever_a_queue_holds() {
    count_panics();
    let dir = tempfile::tempdir().unwrap();
    let shared = dir.path().join("shared");
    std::fs::create_dir(&shared).unwrap();
    let options = ShareOptions { cache: Cache::Auto, xattr: true, confinement: Confinement::None };
    bear(dir.path(), share(&shared, options).unwrap());
}
