//! Gives memory that the heap has free back to the system.
//!
//! glibc keeps what lies below a block in use: after a thousand connections have
//! come and gone a process would keep, for as long as it lives, most of what they
//! had needed. Asking it to look is a foreign function, so this is the one module
//! of Fairway with `unsafe` in it (`make lint` sees to that).

use std::time::Duration;

use tokio::sync::Notify;

static QUIET: Notify = Notify::const_new();

/// Before a look at the heap, and after it: each walks through all that is free.
const REST: Duration = Duration::from_secs(1);

/// Says that something has just given up its buffers.
pub fn has_released_memory() {
    QUIET.notify_one();
}

/// Gives free memory back, each time that [`has_released_memory`] was called, but
/// not more often than every other second. For the `main` of a process that
/// lives long; without it nothing is done.
pub async fn keep_heap_small() {
    loop {
        QUIET.notified().await;
        // Others are likely to release theirs right after.
        tokio::time::sleep(REST).await;
        trim();
        tokio::time::sleep(REST).await;
    }
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn trim() {
    // SAFETY: malloc_trim(3) takes a number, is MT-Safe, and touches nothing that
    // is in use.
    #[allow(unsafe_code)]
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Other allocators see to it by themselves.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn trim() {}

#[cfg(test)]
#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod tests {
    use super::*;

    fn resident_kib() -> usize {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find(|line| line.starts_with("RssAnon:"));
        let number = line.and_then(|line| line.split_ascii_whitespace().nth(1));
        number.unwrap().parse().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn what_lies_below_a_block_in_use_is_given_back() {
        let n_blocks = 64 * 1024;
        let mut blocks: Vec<_> = (0..n_blocks).map(|_| Box::new([1_u8; 1024])).collect();
        let last = blocks.split_off(n_blocks - 1);
        drop(blocks);
        let before = resident_kib();
        tokio::spawn(keep_heap_small());
        has_released_memory();
        tokio::time::sleep(2 * REST).await;
        let after = resident_kib();
        assert!(after + 32 * 1024 < before, "{before} KiB, then {after} KiB");
        drop(last);
    }
}
