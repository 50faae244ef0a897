//! Randomness of the operating system.

use zeroize::Zeroizing;

/// Fresh random bytes.
///
/// # Panics
/// The operating system has no randomness: nothing that needs some may go on.
pub fn bytes<const N: usize>() -> [u8; N] {
    let mut out = [0; N];
    getrandom::fill(&mut out).expect("the operating system gives randomness");
    out
}

/// A fresh seed of a key.
pub fn seed() -> Zeroizing<[u8; 32]> {
    Zeroizing::new(bytes())
}

/// A number from 0 to `below - 1`; 0 if `below` is 0. Good for jitter only.
pub fn jitter(below: u64) -> u64 {
    u64::from_be_bytes(bytes()).checked_rem(below).unwrap_or(0)
}
