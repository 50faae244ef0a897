//! Every bound of the runtime on outside input, with its reason.

use std::time::Duration;

use fairway_daemon::Rate;

// What a session makes of datagrams, links carry as such.
const _: () = assert!(
    fairway_channel::limits::MAX_DATAGRAM_PACKET <= fairway_control::limits::LINK_DATAGRAM_MAX
);

/// A call waits this long for credential, link, session and the peer's yes
/// together: a person's patience, and less than most HTTP clients' timeout.
pub const OPEN_TIMEOUT: Duration = Duration::from_secs(10);

/// Reconnecting begins here and doubles, with jitter.
pub const BACKOFF_MIN: Duration = Duration::from_millis(100);

/// Reconnecting is never slower than this: a relay that comes back is found
/// within half a minute.
pub const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// An address that has not answered by then is not waited for alone: the next
/// one is tried beside it. As RFC 8305 has it.
pub const RACE_STEP: Duration = Duration::from_millis(300);

/// An address that has not answered by then is tried once more, beside the first
/// attempt, then after twice that time again: it may lead to one of several
/// relays, and have led to one that is gone. Not sooner, for the sake of a relay
/// to which thousands come back.
pub const RACE_AGAIN: Duration = Duration::from_millis(600);

/// How often each address is tried in one race.
pub const RACE_ROUNDS: usize = 4;

/// A race without a winner is over after this: less than [`OPEN_TIMEOUT`], so that
/// whoever waits for a link is told why there is none.
pub const RACE_TIMEOUT: Duration = Duration::from_secs(8);

/// Addresses that are tried at the same time: two relays by every transport.
pub const RACERS_MAX: usize = 8;

/// A TCP connect that takes longer has failed.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A link must be authenticated this long after it was accepted or connected.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Accepted links that have not been authenticated. At about 10 KiB of
/// handshake state each this is 2.5 MiB. When there are more, the oldest of the
/// address that has most of them gives way.
pub const HALF_OPEN_LINKS_MAX: usize = 256;

/// New links at the authority's front, from everywhere together: each is a
/// handshake of 0.15 ms at this end.
pub const ACCEPTS: Rate = Rate {
    per_second: 1_000,
    burst: 2_000,
};

/// The same from one address. A pod has no use for more than one at a time,
/// but some networks hide all pods of a node behind one address.
pub const ACCEPTS_PER_SOURCE: Rate = Rate {
    per_second: 250,
    burst: 500,
};

/// Links accepted in all, by the authority's front.
pub const ACCEPTED_LINKS_MAX: usize = 8_192;

/// What nobody waits for (a yes that an answer will follow, the end of what the
/// peer has ended) waits this long for something to go along with: a packet by
/// itself wakes three processes.
pub const LINGER: Duration = Duration::from_millis(2);

/// Largest single read from a link: measured, batching stops paying beyond it.
pub const READ_SIZE_MAX: usize = 256 * 1024;

/// Reads of this size go to the stack; one that is filled is followed by
/// larger ones.
pub const SMALL_READ: usize = 2 * 1024;

/// First of the larger reads; each is four times as large while reads are filled.
pub const READ_SIZE_MIN: usize = 16 * 1024;

/// Reads per turn of a driver, so that other tasks get their turn.
pub const READS_PER_TURN: usize = 4;

/// Batches written per turn of a driver.
pub const BATCHES_PER_TURN: usize = 8;

/// Circuits on one relay link, both directions together.
pub const CIRCUITS_PER_LINK_MAX: usize = 16_384;

/// Circuits of one link whose dialler has not shown who they are: as for
/// accepted links, and as there the oldest gives way to the next. The relay knows
/// its callers, but not what they are up to.
pub const HALF_OPEN_CIRCUITS_MAX: usize = 256;

/// What the control stream of a link may hold up: all names and a message for
/// each of thousands of circuits.
pub const LINK_CONTROL_OUTPUT_MAX: usize = 1024 * 1024;

/// Sessions that wait to be established by calls of this endpoint.
pub const DIALS_MAX: usize = 1_024;

/// A session without streams is closed after this time: a handshake is cheap
/// (0.25 ms), but not one per request.
pub const SESSION_IDLE: Duration = Duration::from_secs(120);

/// Read buffers that are kept for reuse while their pieces may be in use.
pub const SPARE_BUFFERS_MAX: usize = 8;

/// Pieces in one vectored write: 64 of 16 KiB are 1 MiB, more than a socket takes.
pub const WRITE_SLICES_MAX: usize = 64;

/// Copied by one `poll_write` of the `AsyncWrite` form; `write_chunk` copies nothing.
pub const WRITE_COPY_MAX: usize = 64 * 1024;

/// What a caller may say before the peer's yes: the head of a request.
pub const EARLY_MAX: usize = 4 * 1024;

/// Batches that one session may send before the others on its link have a turn.
pub const BATCHES_PER_SESSION: usize = 2;

/// A link that was quiet for so long gives its buffers back.
pub const QUIET: Duration = Duration::from_secs(2);

/// A link over which nothing has come for so long, while answers are due, may
/// be dead: another one is looked for.
pub const LINK_QUIET: Duration = Duration::from_millis(900);

/// It is asked, and has this long to answer before that.
pub const LINK_ANSWER: Duration = Duration::from_millis(50);

/// A link whose other end answers nothing is as good as dead after this time
/// more, though other things still come.
pub const LINK_UNANSWERED_MAX: Duration = Duration::from_secs(4);

/// A name that a relay refused is asked for again after this time.
pub const REGISTER_RETRY: Duration = Duration::from_secs(30);

/// Renewal of a credential that failed is tried again from this wait on...
pub const RENEW_BACKOFF_MIN: Duration = Duration::from_millis(500);

/// ...up to this one: a credential lives for hours.
pub const RENEW_BACKOFF_MAX: Duration = Duration::from_secs(60);

/// No credential is asked for sooner after the last one, whatever the
/// authority says about it.
pub const RENEW_INTERVAL_MIN: Duration = Duration::from_secs(1);

/// An answer of the authority must come within this time; attesting asks the
/// API server.
pub const AUTHORITY_TIMEOUT: Duration = Duration::from_secs(15);

/// Control streams that the front pipes to the authority at once. Each is a
/// connection of the Unix socket and two copies of 8 KiB.
pub const PIPED_STREAMS_MAX: usize = 16_384;

/// A session of a peer without a credential ends after this time: enrolling
/// and renewing take less than a second.
pub const ANONYMOUS_SESSION_MAX: Duration = Duration::from_secs(30);

/// What ends a session or stream at shutdown goes out within this time.
pub const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// A new link takes over from an old one after this time at the latest, even
/// if the relay has not answered for all names.
pub const REGISTER_TIMEOUT: Duration = Duration::from_secs(2);

/// A link that ends has this long to bring out its last words.
pub const LINK_CLOSE_TIMEOUT: Duration = Duration::from_millis(500);

/// Datagrams of one stream that wait for its user; then the oldest gives way to
/// the next. On the 1,024 streams that a peer may have this is 40 MiB, about what
/// their unread data may take.
pub const DATAGRAMS_KEPT_MAX: usize = 32;

// --- transports --------------------------------------------------------------

/// Connecting over anything but bare TCP must be done within this time: on a
/// bad radio TLS and WebSocket take four round trips, some of them twice.
pub const TRANSPORT_TIMEOUT: Duration = Duration::from_secs(10);

/// A link over a lesser transport is left for a better one that works; how
/// often that is tried begins here and doubles...
pub const UPGRADE_MIN: Duration = Duration::from_secs(60);

/// ...up to so many times that (a quarter of an hour): most networks that block
/// something do so for good.
pub const UPGRADE_SPREAD: u32 = 15;

/// Largest message of a WebSocket, and so the most that is kept for somebody
/// who has not said who they are.
pub const WEBSOCKET_MESSAGE_MAX: usize = 64 * 1024;

/// What a WebSocket reads at once while little comes; held as long as it lives.
pub const WEBSOCKET_BUFFER: usize = 4 * 1024;

/// QUIC connections whose handshake has begun; more are refused. At about 20 KiB
/// each this is 5 MiB.
pub const QUIC_INCOMING_MAX: usize = 256;

/// What is kept of one QUIC connection before it is looked at: two flights of
/// a handshake with a post-quantum key.
pub const QUIC_INCOMING_BUFFER: u64 = 8 * 1024;

/// The same of all together.
pub const QUIC_INCOMING_BUFFER_ALL: u64 = 2 * 1024 * 1024;

/// What a relay takes in over QUIC from somebody who has not shown who they
/// are: a handshake and a few messages.
pub const QUIC_HALF_OPEN_WINDOW: u32 = 64 * 1024;

/// What may lie unread on all streams of a link: more than a circuit's credit
/// for several of them, so that one that waits for a lost packet stalls no
/// other.
pub const QUIC_RECEIVE_WINDOW: u32 = 8 * 1024 * 1024;

/// The same on one stream: a circuit's first credit with its frame headers, and
/// as much as may be under way.
pub const QUIC_STREAM_WINDOW: u32 = 2 * 1024 * 1024;

/// What may be under way to the other end: 80 Mbit/s at 200 ms.
pub const QUIC_SEND_WINDOW: u64 = 2 * 1024 * 1024;

/// Datagrams that wait to go out on one link, and as many that came and were
/// not read: what a session lets wait (64 of 1,200 bytes). More would only get
/// older.
pub const QUIC_DATAGRAMS_MAX: usize = 80 * 1024;

/// Frames that wait for their streams; then the sessions keep theirs.
pub const QUIC_UNSENT_MAX: usize = 256 * 1024;

/// Bytes of frames that are begun and not ended, on all streams of a link
/// together: a thousand circuits with half a frame each. Beyond it the link ends.
pub const QUIC_HELD_MAX: usize = 8 * 1024 * 1024;

/// Pieces of a stream that are read at once: a frame comes in a dozen packets.
pub const QUIC_CHUNKS_PER_READ: usize = 8;

/// Circuits that are over and still known, so that what comes late for them
/// opens no new stream: what is under way takes far less than a thousand ends.
pub const QUIC_CIRCUITS_OVER_KEPT: usize = 1_024;

/// A QUIC connection on which nothing came for so long is gone.
pub const QUIC_IDLE: Duration = Duration::from_secs(60);

/// A device says something at least this often: many routers forget UDP after
/// 30 s.
pub const QUIC_KEEPALIVE: Duration = Duration::from_secs(20);

/// The last words on a QUIC link are waited for so long.
pub const QUIC_CLOSE_TIMEOUT: Duration = Duration::from_millis(400);

// --- sessions that outlive links ------------------------------------------------

/// A session without a link is kept for this time, within its credit.
pub const SESSION_WAIT: Duration = Duration::from_secs(120);

/// Circuits that one session may have: the one it runs over, one that it
/// moves to, one that it has just left, and one of somebody who pretends.
pub const ROUTES_MAX: usize = 4;

/// Looking for another circuit for a session begins with this wait...
pub const MOVE_BACKOFF_MIN: Duration = Duration::from_millis(50);

/// ...and is never slower than this: a device that changes its relay is found
/// again about as soon as it has registered.
pub const MOVE_BACKOFF_MAX: Duration = Duration::from_secs(1);

/// A relay answers, and a peer shows itself on a new circuit, within this time.
pub const ATTACH_TIMEOUT: Duration = Duration::from_secs(5);

/// The first attempt on a circuit is given up sooner: its relay may not know yet
/// that the peer is not at the other end any more.
pub const ATTACH_FIRST: Duration = Duration::from_millis(1_500);

/// When one relay has said no, the others are waited for this long.
pub const ASK_REST: Duration = Duration::from_millis(500);

/// A circuit that a session has left is closed after this time: the peer may
/// still be sending there.
pub const LEAVE_AFTER: Duration = Duration::from_secs(1);

/// A process that all relays say is not there, or is another, is gone after
/// this time; until then its links may be coming back.
pub const ABSENT_GRACE: Duration = Duration::from_secs(5);

/// Sessions that peers dialled and that wait for a link. Each holds at most its
/// windows; mostly they hold a few KiB.
pub const LINKLESS_MAX: usize = 4_096;

/// The same of one peer: a session for each name of a pod.
pub const LINKLESS_PER_PEER_MAX: usize = 32;
