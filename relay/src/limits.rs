//! Every bound of the relay on outside input, with its reason.

use std::time::Duration;

use crate::core::{Budget, Budgets, Rate};

/// Links that may be in their handshake at once. At about 10 KiB of handshake
/// state each this is 10 MiB; when there are more, the oldest of the source that
/// has most of them gives way, so that connections which say nothing cannot
/// keep others out.
pub const HALF_OPEN_LINKS_MAX: usize = 1_024;

/// Connections at once, in whatever state: the links of all budgets, and those
/// in their handshake.
pub const CONNECTIONS_MAX: usize = BUDGETS.workload.links
    + BUDGETS.device.links
    + BUDGETS.expired.links
    + BUDGETS.anonymous.links
    + HALF_OPEN_LINKS_MAX;

/// New connections from everywhere together. A handshake takes 0.15 ms at this
/// end, so this is a third of a core; a fleet of 30,000 devices is back in a
/// quarter of a minute.
pub const ACCEPTS: Rate = Rate {
    per_second: 2_000,
    burst: 4_000,
};

/// New connections from one source, which may be a node that hides the
/// addresses of a whole fleet: so half of all.
pub const ACCEPTS_PER_SOURCE: Rate = Rate {
    per_second: 1_000,
    burst: 2_000,
};

/// A link must be authenticated this long after it was accepted. Generous for
/// a radio link with a round trip of a second.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Bytes of DATA that wait in this process for links that are slower than
/// their senders. When there are more, the circuit that holds most is reset.
pub const QUEUED_BYTES_MAX: usize = 256 << 20;

/// The same for one link, so that a device on a slow radio keeps at most this
/// much of the whole: sixteen circuits with the credit of slow readers, or four
/// with that of fast ones.
pub const LINK_QUEUED_BYTES_MAX: usize = 16 << 20;

/// What a queued piece costs beside its bytes (queue entry, allocation); counted
/// so that many tiny frames are as expensive in the books as in memory.
pub const QUEUED_PIECE_OVERHEAD: usize = 128;

/// Bytes of DATAGRAMs that wait for one link; what comes then is thrown away.
/// A session of ours lets 64 datagrams of 1,200 bytes wait.
pub const DATAGRAM_BYTES_QUEUED_MAX: usize = 80 * 1024;

/// A queued piece below this size is copied out of the read buffer it lies
/// in; one above keeps the buffer (256 KiB) alive. So at most four times the
/// queued bytes are held.
pub const QUEUED_PIECE_COPIED_BELOW: usize = 64 * 1024;

/// Buffers that links read into, together. Beyond it, reads are small and
/// buffers are given back after each turn.
pub const READ_BYTES_MAX: usize = 256 << 20;

/// Largest read of a link: one write of a batch. Of one without a valid
/// credential, and of all when memory is short, the smallest that a frame fits.
pub const READ_SIZE_MAX: usize = 256 * 1024;

/// Links that register one name: pods behind a Service. Routing looks at each.
pub const LINKS_PER_NAME_MAX: usize = 1_024;

/// Circuits between one identity, over all of its links, and one link. A
/// session needs one, and a second while it moves; a device that calls each of
/// the 16 Services of a pod has 32.
pub const CIRCUITS_PER_PAIR_MAX: usize = 32;

/// Names that one link registers: as in one registration message.
pub const NAMES_PER_LINK_MAX: usize = fairway_control::limits::NAMES_MAX;

/// Links of one identity (one pod, one device). There is one, and while the
/// network changes a few that are dead and not yet found out; beyond it the
/// oldest is closed, so that one device cannot take the places of others.
pub const LINKS_PER_IDENTITY_MAX: usize = 8;

/// Control messages that wait for one link, beside a few for each circuit it
/// may have. A link that does not even take these is closed.
pub const MESSAGES_BASE_MAX: usize = 256;

/// Encoded control messages handed to the link's session at once. What is
/// more stays in the core's outbox, where it is counted.
pub const CONTROL_BYTES_MAX: usize = 64 * 1024;

/// Credit of a link's control stream: four of the largest messages.
pub const CONTROL_WINDOW: u64 = 64 * 1024;

/// Packets of a link's own session that are queued as one piece.
pub const CONTROL_BATCH: usize = 8;

/// Bytes taken off the read buffer as one run: one large write.
pub const RUN_BYTES_MAX: usize = 256 * 1024;

/// Reads per turn of a link's driver, so that other links get their turn.
pub const READS_PER_TURN: usize = 4;

/// Runs handled under one lock of the core.
pub const RUNS_PER_LOCK: usize = 16;

/// Pieces in one vectored write.
pub const WRITE_SLICES_MAX: usize = 64;

/// A link that was quiet for this long gives its read buffer back.
pub const QUIET_AFTER: Duration = Duration::from_millis(500);

/// Buffers for packets of the links' own sessions that are kept for reuse: as
/// many as threads use at once.
pub const SPARE_BATCHES_MAX: usize = 8;

/// How often the core's timers are looked at. They are seconds long.
pub const TICK: Duration = Duration::from_millis(50);

/// Links that are judged by a new trust set before other work has its turn: at
/// 40 us each this is a millisecond.
pub const JUDGED_AT_ONCE: usize = 32;

/// Gauges are brought up to date this often.
pub const TICKS_PER_MEASUREMENT: u64 = 20;

/// A new relay is ready when no pod has linked to it for so long...
pub const SETTLED_AFTER: Duration = Duration::from_secs(1);

/// ...and after this time in any case.
pub const SETTLE_TIMEOUT: Duration = Duration::from_secs(15);

/// Over how long a drain tells links to move, unless the configuration says
/// otherwise.
pub const DRAIN_SPAN: Duration = Duration::from_secs(5);

/// How long links have to leave after the last one was told. With the span this
/// stays below Kubernetes' 30 s.
pub const DRAIN_GRACE: Duration = Duration::from_secs(10);

/// Links that `/debug/state` lists.
pub const DEBUG_LINKS_MAX: usize = 1_000;

/// Refused registrations of one link that are logged.
pub const NAME_REFUSALS_LOGGED_MAX: u32 = 8;

/// How often a drain tells a few more links to move.
pub const DRAIN_TICK: Duration = Duration::from_millis(100);

/// A link that was closed has this long to take the reason.
pub const CLOSE_LINGER: Duration = Duration::from_secs(1);

/// Names that one link may register or deregister: all of them at each change
/// of a pod, and that a few times in a row.
const NAME_CHANGES: Rate = Rate {
    per_second: 10,
    burst: 10 * NAMES_PER_LINK_MAX as u32,
};

/// What each kind of peer may use.
pub const BUDGETS: Budgets = Budgets {
    workload: Budget {
        links: 8_192,
        circuits: 262_144,
        circuits_per_link: 16_384,
        opens: Rate {
            per_second: 10_000,
            burst: 40_000,
        },
        opens_per_link: Rate {
            per_second: 2_000,
            burst: 20_000,
        },
        names_per_link: NAME_CHANGES,
        bytes_per_circuit: None,
        lifetime: None,
    },
    // A device talks with a few Services and is called by a few sidecars, each
    // over a circuit of its own, whatever the number of streams.
    device: Budget {
        links: 32_768,
        circuits: 262_144,
        circuits_per_link: 1_024,
        opens: Rate {
            per_second: 2_000,
            burst: 40_000,
        },
        opens_per_link: Rate {
            per_second: 50,
            burst: 500,
        },
        names_per_link: NAME_CHANGES,
        bytes_per_circuit: None,
        lifetime: None,
    },
    // A fleet whose credentials all expired in an outage comes back at this rate.
    expired: Budget {
        circuits: 1_024,
        opens: Rate {
            per_second: 100,
            burst: 400,
        },
        ..TO_THE_AUTHORITY
    },
    // Whoever holds a ticket that has not expired.
    ticket: TO_THE_AUTHORITY,
    // Whoever shows nothing at all shares this with noise, and nobody else does:
    // a newcomer whose ticket this relay has not heard of yet.
    anonymous: TO_THE_AUTHORITY,
};

/// For those who may speak with the authority only: to renew or to enrol takes
/// one circuit, about 10 KiB and a few round trips.
const TO_THE_AUTHORITY: Budget = Budget {
    links: 1_024,
    circuits: 512,
    circuits_per_link: 4,
    opens: Rate {
        per_second: 50,
        burst: 200,
    },
    opens_per_link: Rate {
        per_second: 1,
        burst: 8,
    },
    names_per_link: NAME_CHANGES,
    bytes_per_circuit: Some(256 * 1024),
    lifetime: Some(Duration::from_secs(60)),
};

/// Beyond so many connections in their handshake, whoever comes by QUIC first
/// shows that they are where they say (a Retry, which costs nothing here).
pub const QUIC_RETRY_ABOVE: usize = HALF_OPEN_LINKS_MAX / 4;

/// How often the certificate's files are looked at. A Secret takes a minute to
/// reach the pod anyway.
pub const CERTIFICATE_LOOK: Duration = Duration::from_secs(10);

/// Circuits that the other end of a QUIC link may open at once: a device's.
/// Sidecars, which have more, come by TCP.
pub const QUIC_CIRCUITS_MAX: usize = 1_024;

/// The same for one without a valid credential: to the authority, and again.
pub const QUIC_CIRCUITS_UNTRUSTED_MAX: usize = 8;
