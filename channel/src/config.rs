//! The settings of a channel.

use std::sync::{Arc, LazyLock};

use thiserror::Error;

use crate::{Time, limits};

const MAX_KEY_LIMIT: u64 = limits::MAX_KEY_RECORDS - 1024;

/// Settings of one side. They need not agree between the two: each limit is
/// told to the peer by credit. Cheap to clone: make one and use it for many
/// channels, which then share it.
#[derive(Debug, Clone)]
pub struct Config(Arc<Settings>);

#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) session_window: u64,
    pub(crate) session_window_max: u64,
    pub(crate) session_memory: u64,
    pub(crate) stream_window: u64,
    pub(crate) stream_window_max: u64,
    pub(crate) send_buffer: usize,
    pub(crate) send_buffer_max: usize,
    pub(crate) send_memory: usize,
    pub(crate) max_streams: u64,
    pub(crate) keepalive: Option<Time>,
    pub(crate) idle_timeout: Option<Time>,
    pub(crate) handshake_timeout: Time,
    pub(crate) key_limit: u64,
    pub(crate) renew_after: Time,
    pub(crate) renew_records: u64,
    pub(crate) renew_bytes: u64,
    pub(crate) path_timeout: Time,
    pub(crate) path_silence: Time,
    pub(crate) attach_timeout: Time,
}

/// A setting is out of its range.
#[derive(Debug, Error, Clone, Copy, PartialEq, Eq)]
#[error("{name} must be between {min} and {max}, not {value}")]
pub struct ConfigError {
    name: &'static str,
    min: u64,
    max: u64,
    value: u64,
}

impl Config {
    /// The defaults: a session window of 4 MiB that grows to 16 MiB, within 32
    /// MiB of memory; a stream window of 512 KiB that grows to 8 MiB; send
    /// buffers of 1 MiB that grow to 8 MiB, within 32 MiB; 1,024 streams of the
    /// peer at once; keepalive 30 s, idle timeout 90 s, handshake timeout 10 s;
    /// 2 minutes without a path, 1 to 5 s until a path is called silent, 10 s for a
    /// new one to prove itself; new keys after an hour, 2^23 records or 64 GiB.
    pub fn new() -> Self {
        static DEFAULT: LazyLock<Arc<Settings>> = LazyLock::new(|| Arc::new(Settings::new()));
        Self(Arc::clone(&DEFAULT))
    }

    pub(crate) fn into_settings(self) -> Arc<Settings> {
        self.0
    }

    fn change(&mut self) -> &mut Settings {
        Arc::make_mut(&mut self.0)
    }

    /// How many bytes of all streams together the peer may have on the way or
    /// unread here: bounds the memory of the whole channel. The window does not
    /// grow then; see [`Config::session_windows`].
    pub fn session_window(self, bytes: u64) -> Result<Self, ConfigError> {
        self.session_windows(bytes, bytes, bytes)
    }

    /// How many bytes of all streams together the peer may have on the way: at
    /// first, and at most when bandwidth and delay want it. What waits here to
    /// be read comes on top, up to `memory` in all.
    pub fn session_windows(
        mut self,
        first: u64,
        most: u64,
        memory: u64,
    ) -> Result<Self, ConfigError> {
        let settings = self.change();
        settings.session_window = in_range("session window", first, 1 << 10, 1 << 30)?;
        settings.session_window_max = in_range("largest session window", most, first, 1 << 30)?;
        settings.session_memory = in_range("session memory", memory, most, 1 << 30)?;
        Ok(self)
    }

    /// How many bytes of one stream the peer may have on the way or unread
    /// here: bounds what one slow reader holds. The window does not grow then;
    /// see [`Config::stream_windows`].
    pub fn stream_window(self, bytes: u64) -> Result<Self, ConfigError> {
        self.stream_windows(bytes, bytes)
    }

    /// How many bytes of one stream the peer may have on the way or unread
    /// here: at first, and at most when bandwidth and delay want it and the
    /// reader keeps up. By how much all windows grow together is bounded by half
    /// of the session's memory.
    pub fn stream_windows(mut self, first: u64, most: u64) -> Result<Self, ConfigError> {
        let settings = self.change();
        settings.stream_window = in_range("stream window", first, 1 << 10, 1 << 30)?;
        settings.stream_window_max = in_range("largest stream window", most, first, 1 << 30)?;
        Ok(self)
    }

    /// How many bytes one stream buffers here until the peer has acknowledged
    /// them, however much the peer would take.
    pub fn send_buffer(mut self, bytes: usize) -> Result<Self, ConfigError> {
        in_range("send buffer", bytes as u64, 1 << 10, 1 << 30)?;
        let settings = self.change();
        (settings.send_buffer, settings.send_buffer_max) = (bytes, bytes);
        Ok(self)
    }

    /// How many bytes all streams together buffer here until the peer has
    /// acknowledged them; 16 KiB a stream are allowed beyond it.
    pub fn send_memory(mut self, bytes: usize) -> Result<Self, ConfigError> {
        in_range("send memory", bytes as u64, 1 << 10, 1 << 30)?;
        self.change().send_memory = bytes;
        Ok(self)
    }

    /// How many streams opened by the peer may exist at once.
    pub fn max_streams(mut self, count: u64) -> Result<Self, ConfigError> {
        self.change().max_streams = in_range("stream limit", count, 0, 1 << 16)?;
        Ok(self)
    }

    /// Silence after which a PING is sent, so that NATs keep the path and a
    /// dead peer is found. `None`: never. While something is unacknowledged the
    /// peer is probed much sooner anyway.
    pub fn keepalive(mut self, every: Option<Time>) -> Self {
        self.change().keepalive = every;
        self
    }

    /// Silence of the peer after which the channel is given up. `None`: never
    /// (a session above decides).
    pub fn idle_timeout(mut self, after: Option<Time>) -> Self {
        self.change().idle_timeout = after;
        self
    }

    /// How long the handshake, with its hellos, may take.
    pub fn handshake_timeout(mut self, after: Time) -> Self {
        self.change().handshake_timeout = after;
        self
    }

    /// How old keys may become: a renewal begins up to a quarter earlier, so
    /// that channels that were made together do not renew together. A peer that
    /// lets them grow twice as old is given up.
    pub fn renew_after(mut self, after: Time) -> Result<Self, ConfigError> {
        in_range("age of keys in seconds", after.as_secs(), 10, 3600)?;
        self.change().renew_after = after;
        Ok(self)
    }

    /// After how many records of this side new keys are wanted.
    pub fn renew_records(mut self, records: u64) -> Result<Self, ConfigError> {
        self.change().renew_records =
            in_range("records before a renewal", records, 16, MAX_KEY_LIMIT)?;
        Ok(self)
    }

    /// After how many bytes of this side new keys are wanted.
    pub fn renew_bytes(mut self, bytes: u64) -> Result<Self, ConfigError> {
        self.change().renew_bytes = in_range("bytes before a renewal", bytes, 1 << 16, 1 << 38)?;
        Ok(self)
    }

    /// How long the channel is kept without a path (see
    /// [`Channel::path_lost`](crate::Channel::path_lost)).
    pub fn path_timeout(mut self, after: Time) -> Self {
        self.change().path_timeout = after;
        self
    }

    /// Without any acknowledgement for so long, while one is due, a path is
    /// suspected ([`Event::PathSilent`](crate::Event::PathSilent)); sooner, from
    /// a second on and depending on the round trip time, when nothing comes from
    /// the peer at all.
    pub fn path_silence(mut self, after: Time) -> Self {
        self.change().path_silence = after;
        self
    }

    /// How long a new path may take to prove itself.
    pub fn attach_timeout(mut self, after: Time) -> Self {
        self.change().attach_timeout = after;
        self
    }

    /// After how many records of this side its key is used up and the channel
    /// closes. The largest, and the default, is 2^24 - 1024: what
    /// [`limits::MAX_KEY_RECORDS`] allows, less some for saying goodbye.
    pub fn key_limit(mut self, records: u64) -> Result<Self, ConfigError> {
        self.change().key_limit = in_range("key limit", records, 16, MAX_KEY_LIMIT)?;
        Ok(self)
    }
}

impl Settings {
    fn new() -> Self {
        Self {
            session_window: 4 << 20,
            session_window_max: 16 << 20,
            session_memory: 32 << 20,
            stream_window: 512 << 10,
            stream_window_max: 8 << 20,
            send_buffer: 1 << 20,
            send_buffer_max: 8 << 20,
            send_memory: 32 << 20,
            max_streams: 1024,
            keepalive: Some(Time::from_secs(30)),
            idle_timeout: Some(Time::from_secs(90)),
            handshake_timeout: Time::from_secs(10),
            key_limit: MAX_KEY_LIMIT,
            renew_after: Time::from_secs(3600),
            renew_records: 1 << 23,
            renew_bytes: 1 << 36,
            path_timeout: Time::from_secs(120),
            path_silence: Time::from_secs(5),
            attach_timeout: Time::from_secs(10),
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self::new()
    }
}

fn in_range(name: &'static str, value: u64, min: u64, max: u64) -> Result<u64, ConfigError> {
    if (min..=max).contains(&value) {
        Ok(value)
    } else {
        Err(ConfigError {
            name,
            min,
            max,
            value,
        })
    }
}
