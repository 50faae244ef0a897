//! Bounds of everything that grows with what comes from outside, each with
//! its reason.

use std::time::Duration;

/// Connections of the Unix socket at once. Each is one Control stream of a
/// session; an endpoint holds one for its watch. More endpoints than this
/// need another replica.
pub const CONNECTIONS_MAX: usize = 60_000;

/// Requests that may talk to the API server at once. The rest waits, so that
/// a wave of renewals is a queue here and not a flood there.
pub const REQUESTS_IN_FLIGHT_MAX: usize = 64;

/// How long a request waits for its turn before it is told to come back.
pub const TURN_WAIT: Duration = Duration::from_secs(10);

/// How long a connection may take for its preamble and its request. The front
/// writes the first at once; the second comes from an endpoint over a network.
pub const REQUEST_WAIT: Duration = Duration::from_secs(20);

/// How long one write to a connection may take. An endpoint that reads more
/// slowly than this has gone.
pub const WRITE_WAIT: Duration = Duration::from_secs(30);

/// How long an update may stay unacknowledged before its watch is ended.
pub const ACK_WAIT: Duration = Duration::from_secs(60);

/// Longest call of the API server, watches aside.
pub const API_CALL: Duration = Duration::from_secs(10);

/// Silence after which a connection to the API server is given up. A watch is
/// ended by the server after at most 5 minutes; a little more than that.
pub const API_READ: Duration = Duration::from_secs(330);

/// Bytes of one read from the Unix socket.
pub const READ_BYTES: usize = 16 * 1024;

/// Tries of a compare-and-swap. A conflict means that another replica, the
/// operator or a user wrote in between; that many in a row mean a fault.
pub const CAS_TRIES: usize = 5;

/// Events waiting to be written. When the API server does not keep up, the
/// newest are dropped and counted: they are a courtesy, not a record.
pub const EVENTS_QUEUED_MAX: usize = 256;

/// Status writes waiting (last-seen times): at most one a device is in it.
pub const STATUS_QUEUED_MAX: usize = 4096;

/// Services that one pod's credential lists (design). Beyond, an event.
pub const SERVICES_PER_POD_MAX: usize = 16;

/// Ports of one pod's Services that it can be reached on; as many as `control`
/// carries.
pub const DOORS_PER_POD_MAX: usize = fairway_control::limits::DOORS_MAX;

/// Entries of the revocation record: one ConfigMap of at most 1 MiB holds
/// them, and the wire carries 8,192. When it is full the trust set's floor is
/// raised, which ends every credential issued until then. Pods that came to
/// their end in order cannot fill it: see [`REVOCATIONS_SPARED`].
pub const REVOCATIONS_MAX: usize = 4096;

/// How many entries of pods whose sidecar had ended go at once when the record
/// is full: not one for each new entry, and few enough that churn of 900 pods
/// an hour (4 h of entries) takes none away.
pub const REVOCATIONS_SPARED: usize = 256;

/// DeviceIdentities per page of a list.
pub const LIST_PAGE: u32 = 500;

/// Devices whose revocation is reported at once in the acknowledgement record:
/// the newest. It keeps the object small.
pub const ACKNOWLEDGEMENTS_MAX: usize = 256;

/// Endpoints that are named in a device's status because they do not enforce
/// its revocation yet. More would not help anybody, nor fit into a condition.
pub const WAITING_NAMED_MAX: usize = 5;

/// Longest name of one of them, in characters: five of them and the rest of
/// the message have to stay below the 512 bytes of a condition.
pub const WAITING_NAME_MAX: usize = 64;

/// Shards of the record of issued credentials, by the first hexadecimal digit
/// of the UID. 100,000 devices are about 500 KiB a shard.
pub const ISSUED_SHARDS: usize = 16;

/// Relay addresses that an endpoint is told about.
pub const RELAYS_MAX: usize = fairway_control::limits::RELAYS_MAX;
