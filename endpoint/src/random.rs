//! Randomness from the operating system.

/// Fresh random bytes: seeds, keys, nonces.
///
/// The system's generator does not fail once it has worked, and
/// [`Endpoint::start`](crate::Endpoint::start) has tried it.
pub(crate) fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the system's randomness worked at start");
    bytes
}

/// A random number, for jitter and choice.
pub(crate) fn random_u64() -> u64 {
    u64::from_le_bytes(random_bytes())
}
