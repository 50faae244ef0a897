//! Frames by hand: written as one pleases, and read as far as the cases need.

/// What a record of the evil peer holds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Text(pub(crate) Vec<u8>);

/// An empty record's text.
pub(crate) fn text() -> Text {
    Text::default()
}

/// A number in its shortest form.
pub(crate) fn varint(value: u64) -> Vec<u8> {
    match value {
        0..0x40 => vec![value as u8],
        0x40..0x4000 => (value as u16 | 0x4000).to_be_bytes().to_vec(),
        0x4000..0x4000_0000 => (value as u32 | 0x8000_0000).to_be_bytes().to_vec(),
        _ => (value | 0xc000_0000_0000_0000).to_be_bytes().to_vec(),
    }
}

/// A number in more bytes than it needs.
pub(crate) fn long(value: u8) -> Vec<u8> {
    vec![0x40, value & 0x3f]
}

impl Text {
    pub(crate) fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    pub(crate) fn number(self, value: u64) -> Self {
        self.raw(&varint(value))
    }

    fn bytes(self, bytes: &[u8]) -> Self {
        self.number(bytes.len() as u64).raw(bytes)
    }

    pub(crate) fn padding(self, count: usize) -> Self {
        self.raw(&vec![0; count])
    }

    pub(crate) fn ping(self) -> Self {
        self.raw(&[1])
    }

    /// Acknowledges the numbers `from..=to`.
    pub(crate) fn ack(self, from: u64, to: u64) -> Self {
        let head = self.raw(&[2]).number(to).number(0).number(0);
        head.number(to - from)
    }

    pub(crate) fn hello(self, hello: &[u8]) -> Self {
        self.raw(&[3]).bytes(hello)
    }

    pub(crate) fn settings(self, pairs: &[(u64, u64)]) -> Self {
        let mut text = self.raw(&[4]).number(pairs.len() as u64);
        for &(id, value) in pairs {
            text = text.number(id).number(value);
        }
        text
    }

    /// Settings that allow all that the cases need.
    pub(crate) fn good_settings(self) -> Self {
        self.settings(&[(1, 1 << 20), (2, 1 << 20), (3, 100)])
    }

    pub(crate) fn open(self, stream: u64, header: &[u8]) -> Self {
        self.raw(&[5]).number(stream).bytes(header)
    }

    /// An OPEN for the port that the victim offers to the evil peer.
    pub(crate) fn open_port(self, stream: u64) -> Self {
        self.open(stream, &port(1883))
    }

    pub(crate) fn accept(self, stream: u64) -> Self {
        self.raw(&[6]).number(stream)
    }

    pub(crate) fn stream(self, stream: u64, offset: u64, data: &[u8]) -> Self {
        let head = self.raw(&[8]).number(stream).number(offset);
        head.bytes(data)
    }

    /// The last data of a stream.
    pub(crate) fn end(self, stream: u64, offset: u64, data: &[u8]) -> Self {
        let head = self.raw(&[9]).number(stream).number(offset);
        head.bytes(data)
    }

    pub(crate) fn reset(self, stream: u64, final_size: u64) -> Self {
        let head = self.raw(&[10]).number(stream).number(final_size);
        head.number(0x10f).bytes(b"")
    }

    pub(crate) fn stop(self, stream: u64) -> Self {
        self.raw(&[11]).number(stream).number(0x10f).bytes(b"")
    }

    pub(crate) fn max_data(self, limit: u64) -> Self {
        self.raw(&[12]).number(limit)
    }

    pub(crate) fn max_stream_data(self, stream: u64, limit: u64) -> Self {
        self.raw(&[13]).number(stream).number(limit)
    }

    pub(crate) fn max_streams(self, limit: u64) -> Self {
        self.raw(&[14]).number(limit)
    }

    pub(crate) fn datagram(self, data: &[u8]) -> Self {
        self.raw(&[16]).bytes(data)
    }

    /// A datagram of stream 0, which comes to its owner only while that is open.
    pub(crate) fn on_0(self, data: &[u8]) -> Self {
        self.datagram(&[&[0], data].concat())
    }

    pub(crate) fn close(self, code: u64, reason: &[u8]) -> Self {
        self.raw(&[17]).number(code).bytes(reason)
    }

    pub(crate) fn challenge(self, data: [u8; 8]) -> Self {
        self.raw(&[18]).raw(&data)
    }

    pub(crate) fn response(self, data: [u8; 8]) -> Self {
        self.raw(&[19]).raw(&data)
    }

    pub(crate) fn renew(self, epoch: u64, part: u64, message: &[u8]) -> Self {
        self.raw(&[20]).number(epoch).number(part).bytes(message)
    }

    pub(crate) fn renew_request(self) -> Self {
        self.raw(&[21])
    }
}

/// The header of an OPEN for a port, as CBOR.
pub(crate) fn port(port: u16) -> Vec<u8> {
    let [high, low] = port.to_be_bytes();
    vec![0xa1, 0x00, 0x82, 0x00, 0x81, 0x19, high, low]
}

/// A frame of the victim's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    Ack {
        largest: u64,
        first: u64,
        rest: Vec<(u64, u64)>,
    },
    Hello(Vec<u8>),
    Settings(Vec<(u64, u64)>),
    Open(u64),
    Accept(u64),
    Stream {
        stream: u64,
        data: Vec<u8>,
    },
    Reset {
        stream: u64,
        code: u64,
    },
    Stop {
        stream: u64,
        code: u64,
    },
    Close {
        code: u64,
    },
    Challenge([u8; 8]),
    Response([u8; 8]),
    Renew {
        epoch: u64,
        part: u64,
        message: Vec<u8>,
    },
    /// A frame that no case looks into.
    Other(u8),
}

impl Heard {
    /// Whether it acknowledges this number.
    pub(crate) fn acknowledges(&self, number: u64) -> bool {
        let Self::Ack {
            largest,
            first,
            rest,
        } = self
        else {
            return false;
        };
        let mut low = largest - first;
        if (low..=*largest).contains(&number) {
            return true;
        }
        rest.iter().any(|(gap, length)| {
            let high = low - gap - 2;
            low = high - length;
            (low..=high).contains(&number)
        })
    }
}

/// The frames of a record of the victim's, which keeps to SPEC.md.
pub(crate) fn frames(mut text: &[u8]) -> Vec<Heard> {
    let mut frames = Vec::new();
    while let Some((&kind, rest)) = text.split_first() {
        text = rest;
        let mut take = Take(&mut text);
        frames.push(match kind {
            0 | 1 | 21 => Heard::Other(kind),
            2 => {
                let (largest, _delay, more) = (take.number(), take.number(), take.number());
                let first = take.number();
                let rest = (0..more).map(|_| (take.number(), take.number()));
                Heard::Ack {
                    largest,
                    first,
                    rest: rest.collect(),
                }
            }
            3 => Heard::Hello(take.bytes()),
            4 => {
                let count = take.number();
                Heard::Settings((0..count).map(|_| (take.number(), take.number())).collect())
            }
            5 => {
                let stream = take.number();
                take.bytes();
                Heard::Open(stream)
            }
            6 => Heard::Accept(take.number()),
            8 | 9 => {
                let (stream, _offset) = (take.number(), take.number());
                let data = take.bytes();
                Heard::Stream { stream, data }
            }
            10 => {
                let (stream, _size, code) = (take.number(), take.number(), take.number());
                take.bytes();
                Heard::Reset { stream, code }
            }
            11 => {
                let (stream, code) = (take.number(), take.number());
                take.bytes();
                Heard::Stop { stream, code }
            }
            12 | 14 => {
                take.number();
                Heard::Other(kind)
            }
            13 => {
                take.number();
                take.number();
                Heard::Other(kind)
            }
            16 => {
                take.bytes();
                Heard::Other(kind)
            }
            17 => {
                let code = take.number();
                take.bytes();
                Heard::Close { code }
            }
            18 => Heard::Challenge(take.eight()),
            19 => Heard::Response(take.eight()),
            20 => {
                let (epoch, part) = (take.number(), take.number());
                let message = take.bytes();
                Heard::Renew {
                    epoch,
                    part,
                    message,
                }
            }
            unknown => panic!("the victim sent a frame of type {unknown:#x}"),
        });
    }
    frames
}

struct Take<'a, 'b>(&'a mut &'b [u8]);

impl Take<'_, '_> {
    fn number(&mut self) -> u64 {
        let length = 1 << (self.0[0] >> 6);
        let (head, tail) = self.0.split_at(length);
        *self.0 = tail;
        let all = head.iter().fold(0, |all, &byte| all << 8 | u64::from(byte));
        all & (u64::MAX >> (64 - 8 * length as u32) >> 2)
    }

    fn bytes(&mut self) -> Vec<u8> {
        let length = self.number() as usize;
        let (head, tail) = self.0.split_at(length);
        *self.0 = tail;
        head.to_vec()
    }

    fn eight(&mut self) -> [u8; 8] {
        let (head, tail) = self.0.split_first_chunk().expect("eight bytes");
        *self.0 = tail;
        *head
    }
}
