//! Whose turn it is to send.
//!
//! Strict order between priorities, with a share for the lower ones. Within
//! one priority, streams that have just become ready go before those that have
//! used up a turn already (after fq_codel, RFC 8290 section 4.2): a stream that
//! sends little never waits behind a bulk transfer, and bulk transfers share
//! what is left in turns of equal size.

use std::collections::VecDeque;

use crate::{Priority, StreamId, limits};

/// What a stream may send before it goes behind the others.
const TURN: u32 = limits::MAX_STREAM_DATA as u32;
/// What newly ready streams may send before those that wait have a turn.
const FAVOUR: u32 = 3 * TURN;
/// What a priority may send before the lower ones have a turn.
const PRECEDENCE: u32 = 15 * TURN;

/// Where a stream is in the schedule, and what it has used of its turn.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Place {
    queued: bool,
    used: u32,
    pub(crate) priority: Priority,
}

/// Streams with something to send, in turn.
#[derive(Debug, Default)]
pub(crate) struct Schedule {
    normal: Level,
    /// Urgent and background: few channels have any.
    others: Option<Box<[Level; 2]>>,
    /// Bytes sent by a priority while a lower one was waiting.
    preceded: u32,
}

#[derive(Debug, Default)]
struct Level {
    fresh: VecDeque<StreamId>,
    waiting: VecDeque<StreamId>,
    /// Bytes sent by fresh streams while others were waiting.
    favoured: u32,
}

/// A stream whose turn it is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Turn {
    pub(crate) stream: StreamId,
    priority: Priority,
    fresh: bool,
}

impl Schedule {
    pub(crate) fn is_empty(&self) -> bool {
        self.normal.is_empty()
            && self
                .others
                .as_ref()
                .is_none_or(|others| others.iter().all(Level::is_empty))
    }

    /// The stream has something to send. One with much on its way is `bulk`
    /// from the start.
    pub(crate) fn add(&mut self, stream: StreamId, place: &mut Place, bulk: bool) {
        if place.queued {
            return;
        }
        place.queued = true;
        place.used = if bulk { TURN } else { 0 };
        let level = self.level(place.priority);
        match bulk {
            true => level.waiting.push_back(stream),
            false => level.fresh.push_back(stream),
        }
    }

    /// Takes the next stream; it goes back by [`Schedule::settle`].
    pub(crate) fn next(&mut self) -> Option<Turn> {
        let mut ready = [Priority::Urgent, Priority::Normal, Priority::Background]
            .into_iter()
            .filter(|&priority| !self.peek(priority).is_none_or(Level::is_empty));
        let first = ready.next()?;
        let priority = match ready.next() {
            Some(lower) if self.preceded >= PRECEDENCE => {
                self.preceded = 0;
                lower
            }
            Some(_) | None => first,
        };
        let (stream, fresh) = self.level(priority).next()?;
        Some(Turn {
            stream,
            priority,
            fresh,
        })
    }

    /// The stream has sent this much; `more` if it has more to send.
    pub(crate) fn settle(&mut self, turn: Turn, place: &mut Place, sent: usize, more: bool) {
        let sent = u32::try_from(sent).unwrap_or(u32::MAX);
        let lower_waits = [Priority::Normal, Priority::Background]
            .into_iter()
            .any(|lower| lower > turn.priority && !self.peek(lower).is_none_or(Level::is_empty));
        self.preceded = match lower_waits {
            true => self.preceded.saturating_add(sent),
            false => 0,
        };
        let level = self.level(turn.priority);
        level.favoured = match turn.fresh && !level.waiting.is_empty() {
            true => level.favoured.saturating_add(sent),
            false => 0,
        };
        if !more {
            place.queued = false;
            return;
        }
        place.used = place.used.saturating_add(sent);
        let (stream, level) = (turn.stream, self.level(place.priority));
        if place.used >= TURN {
            level.waiting.push_back(stream);
        } else if turn.fresh {
            level.fresh.push_front(stream);
        } else {
            level.waiting.push_front(stream);
        }
    }

    fn peek(&self, priority: Priority) -> Option<&Level> {
        match priority {
            Priority::Urgent => self.others.as_ref().map(|others| &others[0]),
            Priority::Normal => Some(&self.normal),
            Priority::Background => self.others.as_ref().map(|others| &others[1]),
        }
    }

    fn level(&mut self, priority: Priority) -> &mut Level {
        let index = match priority {
            Priority::Urgent => 0,
            Priority::Normal => return &mut self.normal,
            Priority::Background => 1,
        };
        &mut self.others.get_or_insert_default()[index]
    }
}

impl Level {
    fn is_empty(&self) -> bool {
        self.fresh.is_empty() && self.waiting.is_empty()
    }

    fn next(&mut self) -> Option<(StreamId, bool)> {
        if self.favoured >= FAVOUR
            && let Some(stream) = self.waiting.pop_front()
        {
            return Some((stream, false));
        }
        let fresh = self.fresh.pop_front().map(|stream| (stream, true));
        fresh.or_else(|| self.waiting.pop_front().map(|stream| (stream, false)))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// Streams by number, each with so much to send.
    struct Load {
        schedule: Schedule,
        streams: BTreeMap<u64, (Place, usize)>,
    }

    impl Load {
        fn new(streams: &[(u64, Priority, usize)]) -> Self {
            let mut load = Self {
                schedule: Schedule::default(),
                streams: BTreeMap::new(),
            };
            for &(id, priority, bytes) in streams {
                load.add(id, priority, bytes);
            }
            load
        }

        fn add(&mut self, id: u64, priority: Priority, bytes: usize) {
            let entry = self.streams.entry(id).or_default();
            entry.0.priority = priority;
            entry.1 += bytes;
            self.schedule
                .add(StreamId::from_wire(id), &mut entry.0, false);
        }

        /// Who sends the next piece of at most a record.
        fn send(&mut self) -> Option<u64> {
            let turn = self.schedule.next()?;
            let id = turn.stream.get();
            let (place, left) = self.streams.get_mut(&id).unwrap();
            let sent = (*left).min(TURN as usize);
            *left -= sent;
            self.schedule.settle(turn, place, sent, *left > 0);
            Some(id)
        }
    }

    const BULK: usize = 1 << 30;
    const NORMAL: Priority = Priority::Normal;

    #[test]
    fn bulk_transfers_share_and_small_ones_do_not_wait() {
        let mut load = Load::new(&[(0, NORMAL, BULK), (2, NORMAL, BULK), (4, NORMAL, BULK)]);
        let order: Vec<_> = (0..9).map(|_| load.send().unwrap()).collect();
        assert_eq!(order, [0, 2, 4, 0, 2, 4, 0, 2, 4]);
        load.add(6, NORMAL, 64);
        assert_eq!(load.send(), Some(6));
    }

    #[test]
    fn many_small_ones_do_not_starve_a_bulk_transfer() {
        let mut load = Load::new(&[(0, NORMAL, BULK)]);
        load.send();
        let mut bulk = 0;
        for round in 1..=400 {
            load.add(2 * round, NORMAL, 10_000);
            bulk += usize::from(load.send() == Some(0));
        }
        assert!((60..=110).contains(&bulk), "{bulk} of 400 turns");
    }

    #[test]
    fn urgent_goes_first_and_background_is_not_forgotten() {
        let mut load = Load::new(&[
            (0, Priority::Background, BULK),
            (2, NORMAL, BULK),
            (4, Priority::Urgent, 3 * TURN as usize),
        ]);
        assert_eq!([load.send(), load.send(), load.send()], [Some(4); 3]);
        let turns: Vec<_> = (0..160).map(|_| load.send().unwrap()).collect();
        let background = turns.iter().filter(|&&id| id == 0).count();
        assert!((9..=11).contains(&background), "{background} of 160");
    }

    #[test]
    fn it_comes_to_an_end() {
        let mut load = Load::new(&[(0, NORMAL, 100_000), (2, Priority::Background, 50_000)]);
        let mut turns = 0;
        while load.send().is_some() {
            turns += 1;
        }
        assert_eq!(turns, 7 + 4);
        assert!(load.schedule.is_empty());
    }
}
