//! The controller's clocks: one to date what is stored, one to agree on moments with agents.

use nix::time::{ClockId, clock_gettime};

/// Microseconds since 1970 (UTC), for what people read.
pub fn now_micros() -> i64 {
    jiff::Timestamp::now().as_microsecond()
}

/// CLOCK_BOOTTIME in nanoseconds: what beats and Go carry.
pub fn boottime_nanos() -> u64 {
    let Ok(now) = clock_gettime(ClockId::CLOCK_BOOTTIME) else { return 0 };
    u64::try_from(now.tv_sec()).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec()).unwrap_or(0)
}

/// Which clock that is: this kernel's boot id. Empty where it cannot be read.
pub fn boot_id() -> String {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    id.trim().to_owned()
}
