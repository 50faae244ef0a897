//! What goes to and fro: records, time, renewals.

use super::*;

impl Scene {
    /// Seals a text in the evil peer's next record and sends it.
    pub(crate) fn say(&mut self, text: Text) {
        self.say_on(FIRST, text);
    }

    /// The same on another path.
    pub(crate) fn say_on(&mut self, path: PathId, text: Text) {
        let record = self.evil.seal(&text.0);
        self.deliver_on(path, &record);
    }

    /// An ATTACH on a path.
    pub(crate) fn attach(&mut self, path: PathId, text: Text) {
        let attach = self.evil.seal_attach(&text.0);
        self.deliver_on(path, &attach);
    }

    /// Hands the victim a packet.
    pub(crate) fn deliver(&mut self, packet: &[u8]) {
        self.deliver_on(FIRST, packet);
    }

    pub(crate) fn deliver_on(&mut self, path: PathId, packet: &[u8]) {
        // As endpoints do: the session is found by the connection id.
        if path != FIRST
            && packet.first() == Some(&5)
            && peek_attach(packet) != self.victim.connection_id()
        {
            return;
        }
        let now = at(self.at);
        self.victim.handle_input(now, path, BytesMut::from(packet));
        self.drain();
    }

    /// Hands the victim many packets before it can say a word.
    pub(crate) fn deliver_all(&mut self, packets: &[Vec<u8>]) {
        let now = at(self.at);
        for packet in packets {
            let packet = BytesMut::from(&packet[..]);
            self.victim.handle_input(now, FIRST, packet);
        }
        self.drain();
    }

    /// Lets time pass for everybody.
    pub(crate) fn pass(&mut self, time: Time) {
        let end = self.at + time;
        loop {
            self.drain();
            let timeouts = [self.timeout, self.bystander.timeout];
            let next = timeouts.into_iter().flatten().min();
            let Some(next) = next.filter(|&next| next <= end) else {
                self.at = end;
                return;
            };
            self.at = self.at.max(next);
            self.victim.handle_timeout(at(self.at));
            self.bystander.on_timeout(self.at);
        }
    }

    pub(crate) fn drain(&mut self) {
        let mut batch = Batch::new(0);
        loop {
            match self.victim.poll_output(at(self.at), &mut batch) {
                Output::Transmit { path } => {
                    let packets: Vec<_> = batch.packets_mut().map(|p| p.to_vec()).collect();
                    batch.clear();
                    for packet in packets {
                        self.hear(path, packet);
                    }
                }
                Output::Event(Event::Incoming { grant, .. }) => {
                    // Opened and reset in one record: too late.
                    let _ = self.victim.accept(at(self.at), &grant);
                    self.grants.push(grant);
                }
                Output::Event(event) => self.events.push(event),
                Output::Timeout(timeout) => {
                    self.timeout = timeout;
                    return;
                }
            }
        }
    }

    fn hear(&mut self, path: PathId, packet: Vec<u8>) {
        if matches!(packet[0], 4..=6)
            && let Some(text) = self.evil.open(&packet)
        {
            let frames = wire::frames(&text).into_iter();
            self.heard.extend(frames.map(|frame| (path, frame)));
        }
        self.packets.push((path, packet));
    }

    /// The first frame that was heard and is liked.
    pub(crate) fn find<T>(&self, wanted: impl Fn(&Heard) -> Option<T>) -> Option<T> {
        self.heard.iter().find_map(|(_, frame)| wanted(frame))
    }

    /// The victim's challenge on a path.
    pub(crate) fn challenge_on(&self, path: PathId) -> Option<[u8; 8]> {
        self.heard.iter().find_map(|(on, frame)| match frame {
            Heard::Challenge(challenge) if *on == path => Some(*challenge),
            _ => None,
        })
    }

    /// The prologue of a renewal to `epoch`.
    pub(crate) fn renewal_prologue(&self, epoch: u64) -> Vec<u8> {
        peer::renewal_prologue(&self.evil.keys().secret, epoch)
    }

    /// The evil peer, who has dialled, renews the keys, with these claims; the
    /// switch is left to be done.
    pub(crate) fn renew(&mut self, secret: u8, hello: &[u8]) -> Split {
        let epoch = self.evil.epoch + 1;
        let mut noise = Noise::new(
            true,
            secret,
            &self.renewal_prologue(epoch),
            Trick::default(),
        );
        let first = noise.first();
        self.say(text().renew(epoch, 1, &first));
        let second = self.part(epoch, 2).expect("the victim's part 2");
        let (third, _) = noise.third(&second, hello);
        let before = self.evil.keys().secret;
        self.say(text().renew(epoch, 3, &third));
        noise.split(&before)
    }

    /// A part of a renewal that the victim has sent.
    pub(crate) fn part(&self, epoch: u64, part: u64) -> Option<Vec<u8>> {
        self.find(|frame| match frame {
            Heard::Renew {
                epoch: e,
                part: p,
                message,
            } if (*e, *p) == (epoch, part) => Some(message.clone()),
            _ => None,
        })
    }

    /// Reads what the victim has sealed with new keys already.
    pub(crate) fn switch_heard(&mut self, next: &Split) {
        let key = match self.evil.role {
            Role::Dials => &next.to_initiator,
            Role::Answers => &next.to_responder,
        };
        let records = self.packets.iter().filter(|(_, p)| matches!(p[0], 4..=6));
        let texts = records.filter_map(|(path, packet)| Some((*path, key.open(packet)?)));
        for (path, text) in texts {
            let frames = wire::frames(&text).into_iter();
            self.heard.extend(frames.map(|frame| (path, frame)));
        }
    }

    /// Goes over to new keys.
    pub(crate) fn switch(&mut self, next: Split) {
        self.evil.old_keys = self.evil.keys.replace(next);
        self.evil.epoch += 1;
    }
}
