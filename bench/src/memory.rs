//! The memory of this process, mapped files apart.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How often memory is looked at.
const INTERVAL: Duration = Duration::from_millis(10);

/// What `work` gives, and the most anonymous resident memory in bytes that was seen meanwhile; 0 where Linux does not tell.
pub fn peak<T>(work: impl FnOnce() -> T) -> (T, u64) {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut most = anonymous();
            while !done.load(Ordering::Relaxed) {
                std::thread::park_timeout(INTERVAL);
                most = most.max(anonymous());
            }
            most
        });
        let result = work();
        done.store(true, Ordering::Relaxed);
        watch.thread().unpark();
        (result, watch.join().unwrap_or_default())
    })
}

/// `RssAnon` of `/proc/self/status` (proc(5)).
fn anonymous() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kib.unwrap_or_default() << 10
}

#[cfg(test)]
mod tests {
    #[test]
    fn sees_what_is_allocated() {
        let (length, most) = super::peak(|| {
            let bytes = std::hint::black_box(vec![1u8; 64 << 20]);
            std::thread::sleep(super::INTERVAL * 5);
            bytes.len() as u64
        });
        assert!(most >= length, "{most}");
    }
}
