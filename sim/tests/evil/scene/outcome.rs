//! What came of it.

use super::*;

impl Scene {
    /// The number of the victim's next record.
    pub(crate) fn victims_next(&self) -> u64 {
        let records = self.packets.iter().filter(|(_, p)| matches!(p[0], 4 | 6));
        let number = |packet: &[u8]| u64::from_be_bytes(packet[1..9].try_into().unwrap());
        records
            .map(|(_, packet)| number(packet) + 1)
            .max()
            .unwrap_or(0)
    }

    /// How many datagrams the victim's owner was given.
    pub(crate) fn datagrams(&self) -> usize {
        let is_one = |event: &&Event| matches!(event, Event::Datagram { .. });
        self.events.iter().filter(is_one).count()
    }

    pub(super) fn closed(&self) -> Option<&'static str> {
        self.events.iter().find_map(|event| match event {
            Event::Closed { refusal, .. } => Some(refusal.word()),
            _ => None,
        })
    }

    /// The word of the CLOSE that the evil peer has heard.
    fn told(&self) -> Option<&'static str> {
        self.find(|frame| match frame {
            Heard::Close { code } => Some(code::word(Code(*code as u32))),
            _ => None,
        })
    }

    pub(super) fn check(&mut self, ends: Ends) -> Result<(), String> {
        let (closed, told) = (self.closed(), self.told());
        let is = |is: bool, text: &str| match is {
            true => Ok(()),
            false => Err(format!("{text}; closed {closed:?}, told {told:?}")),
        };
        match ends {
            Ends::Closes(word) => {
                is(closed == Some(word), word)?;
                is(told == Some(word), "the evil peer is not told")
            }
            Ends::ClosesSilently(word) => {
                is(closed == Some(word), word)?;
                is(told.is_none(), "the evil peer is told")
            }
            Ends::Goes => {
                is(closed.is_none(), "the session should go on")?;
                is(self.answers(), "the session does not answer")
            }
            Ends::Resets(word) => {
                let reset = self.find(|frame| match frame {
                    Heard::Reset { code, .. } => Some(code::word(Code(*code as u32))),
                    _ => None,
                });
                is(closed.is_none(), "the session should go on")?;
                is(reset == Some(word), "the stream should be reset")?;
                is(self.answers(), "the session does not answer")
            }
        }
    }

    /// Whether the victim acknowledges a good record.
    fn answers(&mut self) -> bool {
        let number = self.evil.next;
        let path = self.victim.active_path().unwrap_or(FIRST);
        self.say_on(path, text().ping());
        self.pass(Time::from_millis(50));
        let is_it = |(_, frame): &(PathId, Heard)| frame.acknowledges(number);
        self.victim.is_established() && self.heard.iter().any(is_it)
    }

    /// What the victim's owner can read of a stream.
    pub(crate) fn read(&mut self, stream: u64) -> Vec<u8> {
        let mut all = Vec::new();
        let now = at(self.at);
        let id = self.stream_id(stream);
        while let Ok(ReadOutcome::Chunk(chunk)) = self.victim.read(now, id) {
            all.extend_from_slice(&chunk);
        }
        self.drain();
        all
    }

    /// The id of a stream that the victim's owner was shown.
    fn stream_id(&self, stream: u64) -> StreamId {
        let mut ids = self.grants.iter().map(Grant::stream);
        ids.find(|id| id.get() == stream).expect("it was accepted")
    }
}
