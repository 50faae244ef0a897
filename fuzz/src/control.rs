//! Control messages, their framing, updates, link frames.

use bytes::BytesMut;
use fairway_control::authority::{Ack, Request, Response};
use fairway_control::front::Preamble;
use fairway_control::link::{CircuitId, Header, ToEndpoint, ToRelay, take_run};
use fairway_control::update::{Publisher, Subscriber, Watcher};
use fairway_control::{FrameReader, Message};

use crate::{Script, world};

/// Any bytes as a message of every kind; what is read can be written and read.
pub(crate) fn messages(data: &[u8]) {
    message::<ToRelay>(data);
    message::<ToEndpoint>(data);
    message::<Request>(data);
    message::<Response>(data);
    message::<Ack>(data);
    message::<Preamble>(data);
}

fn message<M: Message + PartialEq>(data: &[u8]) {
    let Ok(read) = M::from_bytes(data) else {
        return;
    };
    assert!(data.len() <= M::MAX);
    // A reader skips what it does not know, so what it writes may be shorter,
    // and it always fits.
    let Ok(written) = read.to_bytes() else {
        panic!("a message that was read cannot be written");
    };
    assert!(M::from_bytes(&written).is_ok_and(|again| again == read));
}

/// A stream in pieces: framing holds back one message at most.
pub(crate) fn stream(data: &[u8]) {
    fn read<M: Message>(mut script: Script<'_>) {
        let mut reader = FrameReader::new();
        while !script.is_over() {
            reader.push(script.piece());
            loop {
                match reader.next_message::<M>() {
                    Ok(Some(_)) => {}
                    Ok(None) => break,
                    Err(_) => return,
                }
            }
        }
        assert!(reader.into_rest().len() <= 4 + M::MAX + 255);
    }
    read::<ToRelay>(Script::new(data));
    read::<Request>(Script::new(data));
    read::<Ack>(Script::new(data));
}

/// One update after another, each of one section with any content, to one
/// subscriber: what it understood can be published again.
pub(crate) fn update(data: &[u8]) {
    let mut script = Script::new(data);
    let mut subscriber = Subscriber::new();
    let mut number = 0;
    while !script.is_over() && number < 24 {
        let kind = script.byte();
        let section = kind % 10;
        let content = script.piece();
        let base = (kind & 0x80 == 0 && number > 0).then_some(number);
        number += 1;
        let Ok(Response::Update(update)) =
            Response::from_bytes(&one_section(number, base, section, content))
        else {
            continue;
        };
        let _ = subscriber.apply(&update);
        let mut publisher = Publisher::new(1);
        if publisher.set(subscriber.state()).is_ok() {
            assert!(publisher.poll(&mut Watcher::new(None)).is_some());
        }
    }
}

/// The bytes of an update message with one section.
pub(crate) fn one_section(number: u8, base: Option<u8>, section: u8, content: &[u8]) -> Vec<u8> {
    // version 1, [2, [{0: [1, number], ? 1: base, 2: {section: content}}]]
    let mut out = vec![1, 0x82, 2, 0x81];
    out.push(if base.is_some() { 0xa3 } else { 0xa2 });
    out.extend([0, 0x82, 1]);
    world::head(&mut out, 0, number.into());
    if let Some(base) = base {
        out.push(1);
        world::head(&mut out, 0, base.into());
    }
    out.extend([2, 0xa1, section]);
    world::head(&mut out, 2, content.len());
    out.extend_from_slice(content);
    out
}

/// What comes on a link, in pieces: every byte is switched once or the link
/// ends, and rewriting a run changes circuit ids only.
pub(crate) fn link_frames(data: &[u8]) {
    let mut buffer = BytesMut::new();
    let (mut script, mut switched, mut came) = (Script::new(data), 0, 0);
    while !script.is_over() {
        let piece = script.piece();
        came += piece.len();
        buffer.extend_from_slice(piece);
        loop {
            let _ = Header::peek(&buffer);
            match take_run(&mut buffer, 1 << 16) {
                Ok(Some(run)) => {
                    let bytes = run.rewrite(CircuitId(77));
                    assert!(!bytes.is_empty());
                    switched += bytes.len();
                    whole_frames(&bytes);
                }
                Ok(None) => break,
                Err(_) => return,
            }
        }
    }
    assert_eq!(switched + buffer.len(), came);
}

fn whole_frames(mut bytes: &[u8]) {
    while !bytes.is_empty() {
        let header = Header::peek(bytes).unwrap().unwrap();
        assert_eq!(header.circuit, CircuitId(77));
        bytes = &bytes[header.frame_len()..];
    }
}
