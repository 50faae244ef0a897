//! How many handshakes one processor makes: both ends of the channel, without
//! any I/O, and without the credentials that sessions show in them.

use std::fs;

use anyhow::{Context as _, Result};
use bytes::BytesMut;
use fairway_channel::{Batch, Channel, Config, Event, Output, PathId, StaticSecret, Time};

use crate::measure::Figure;

const NOW: Time = Time::from_secs(1);

/// Makes `n` channels, one after another, and counts this thread's CPU time.
///
/// # Errors
/// The kernel does not say how much that was.
pub fn rate(n: usize) -> Result<Figure> {
    // The first ones pay for what the crypto library sets up.
    let mut batch = Batch::new(0);
    (0..10).for_each(|i| shake(&seed(i), &mut batch));
    let before = cpu_seconds()?;
    (0..n).for_each(|i| shake(&seed(i), &mut batch));
    Ok(Figure {
        name: "handshakes-a-core".to_owned(),
        value: n as f64 / (cpu_seconds()? - before),
        unit: "1/s",
    })
}

fn seed(i: usize) -> [u8; 32] {
    let mut seed = [7; 32];
    seed[..8].copy_from_slice(&i.to_le_bytes());
    seed
}

fn shake(seed: &[u8; 32], batch: &mut Batch) {
    let secret = |byte| StaticSecret::from_bytes([byte; 32]);
    let name = "pump-7.factory.device.fairway.internal";
    let mut a = Channel::initiator(Config::new(), &secret(1), *seed, 0, name, NOW)
        .expect("the name is short");
    let mut b = Channel::responder(Config::new(), &secret(2), *seed, Vec::new(), NOW);
    while !(a.is_ready() && b.is_ready()) {
        carry(&mut a, &mut b, batch);
        carry(&mut b, &mut a, batch);
    }
}

fn carry(from: &mut Channel, to: &mut Channel, batch: &mut Batch) {
    loop {
        match from.poll_output(NOW, batch) {
            Output::Timeout(_) => return,
            Output::Event(Event::PeerHello { .. }) => from.proceed(NOW, Vec::new()),
            Output::Event(_) => {}
            Output::Transmit { .. } => {
                for packet in batch.packets_mut() {
                    to.handle_input(NOW, PathId::FIRST, BytesMut::from(&*packet));
                }
                batch.clear();
            }
        }
    }
}

/// On a processor, by this thread (proc(5): the first number is nanoseconds).
fn cpu_seconds() -> Result<f64> {
    let text = fs::read_to_string("/proc/thread-self/schedstat")?;
    let nanos = text.split(' ').next().context("schedstat is empty")?;
    Ok(nanos.parse::<f64>()? / 1e9)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_comes_out() {
        assert!(rate(3).unwrap().value > 1.0);
    }
}
