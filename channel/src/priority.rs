//! How soon a stream gets its turn.

/// How soon a stream gets its turn when several have something to send. Local:
/// the peer is not told. Within one priority all have turns of equal size, and
/// a stream that sends little and seldom goes before those that send much.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Priority {
    /// Before all others: control messages.
    Urgent,
    /// For most.
    #[default]
    Normal,
    /// When no other wants to send, and at least one turn in sixteen.
    Background,
}
