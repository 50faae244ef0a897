//! Bytes as a script for a state machine.

/// Reads decisions out of a fuzzer's bytes. At their end it gives zeros, so
/// every decision has a value.
#[derive(Debug)]
pub struct Script<'a> {
    bytes: &'a [u8],
}

impl<'a> Script<'a> {
    /// A script of these bytes.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    /// Whether nothing is left.
    pub fn is_over(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The next byte.
    pub fn byte(&mut self) -> u8 {
        match self.bytes.split_first() {
            Some((&first, rest)) => {
                self.bytes = rest;
                first
            }
            None => 0,
        }
    }

    /// A number below `end`, of up to 16 bits.
    pub fn below(&mut self, end: usize) -> usize {
        let (high, low) = match end {
            0..=256 => (0, self.byte()),
            _ => (self.byte(), self.byte()),
        };
        usize::from(u16::from_be_bytes([high, low])) % end.max(1)
    }

    /// The next bytes, up to 255 after one that says how many.
    pub fn piece(&mut self) -> &'a [u8] {
        let length = usize::from(self.byte()).min(self.bytes.len());
        let (piece, rest) = self.bytes.split_at(length);
        self.bytes = rest;
        piece
    }

    /// All that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        core::mem::take(&mut self.bytes)
    }
}
