//! The time that work takes: on the clock, and of processors.

use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};

/// What `work` gives, the time that it took, and the processor time of this process and of those that it waited for.
pub fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration, Duration) {
    let (start, before) = (Instant::now(), processor());
    let result = work();
    (result, start.elapsed(), processor().saturating_sub(before))
}

/// In user and system mode since the start; 0 where it cannot be told.
fn processor() -> Duration {
    let of =
        |who| getrusage(who).map_or([0; 2], |usage| [usage.user_time(), usage.system_time()].map(micros));
    let sum = [UsageWho::RUSAGE_SELF, UsageWho::RUSAGE_CHILDREN].into_iter().flat_map(of).sum();
    Duration::from_micros(sum)
}

fn micros(time: nix::sys::time::TimeVal) -> u64 {
    use nix::sys::time::TimeValLike;
    time.num_microseconds().unsigned_abs()
}
