//! Running a case for many seeds, and keeping those that failed.

use std::ops::Range;
use std::panic::{RefUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

/// Which seeds a test runs: these, unless `FAIRWAY_SEEDS` says otherwise. With
/// `5000` it is so many from the same on, with `17..18` only those.
///
/// # Panics
/// The variable cannot be read.
pub fn seeds(default: Range<u64>) -> Range<u64> {
    let Ok(text) = std::env::var("FAIRWAY_SEEDS") else {
        return default;
    };
    match text.split_once("..") {
        Some((from, to)) => number(from)..number(to),
        None => default.start..default.start + number(&text),
    }
}

/// Runs `case` for the seeds that `regressions` lists, and then for [`seeds`],
/// on all cores.
///
/// `regressions` is the text of a file with one seed a line (and remarks after
/// a `#`), which `path` names. A seed that fails is printed; write it there.
///
/// # Panics
/// A case has failed, or `FAIRWAY_SEEDS` cannot be read.
pub fn for_seeds(
    name: &str,
    default: Range<u64>,
    (path, regressions): (&str, &str),
    case: impl Fn(u64) + RefUnwindSafe + Sync,
) {
    let kept = parse(regressions);
    let range = seeds(default);
    let total = kept.len() as u64 + range.end.saturating_sub(range.start);
    let seed_of = |at: u64| match kept.get(at as usize) {
        Some(&seed) => seed,
        None => range.start + at - kept.len() as u64,
    };
    let (next, failed) = (AtomicU64::new(0), Mutex::new(None));
    let work = || {
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            if at >= total {
                return;
            }
            let seed = seed_of(at);
            if catch_unwind(|| case(seed)).is_err() {
                next.store(total, Ordering::Relaxed);
                let mut failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
                failed.get_or_insert(seed);
            }
        }
    };
    let cores = thread::available_parallelism().map_or(1, |cores| cores.get());
    thread::scope(|scope| {
        for _ in 1..cores {
            scope.spawn(work);
        }
        work();
    });
    let failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
    if let Some(seed) = failed {
        panic!(
            "{name} fails with seed {seed}. Again: FAIRWAY_SEEDS={seed}..{} cargo test -p \
             fairway-sim {name}. When it is mended, keep the seed{}{path}",
            seed + 1,
            if path.is_empty() { "" } else { " in " },
        );
    }
}

fn parse(text: &str) -> Vec<u64> {
    let lines = text
        .lines()
        .map(|line| line.split('#').next().unwrap_or_default().trim());
    lines.filter(|line| !line.is_empty()).map(number).collect()
}

fn number(text: &str) -> u64 {
    text.trim()
        .parse()
        .expect("seeds are numbers: 5000, or 17..18")
}
