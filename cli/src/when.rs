//! Spans of time, as people write and read them.

use jiff::Timestamp;

/// Why a span was not understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("write a number and a unit: 30s, 15m, 2h or 7d")]
pub struct SpanError;

/// Reads `30s`, `15m`, `2h` or `7d`, into seconds.
pub fn parse_seconds(text: &str) -> Result<u64, SpanError> {
    let unit = text.chars().last().ok_or(SpanError)?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 24 * 3600,
        _ => return Err(SpanError),
    };
    let number = &text[..text.len() - 1];
    if number.is_empty() || !number.bytes().all(|b| b.is_ascii_digit()) {
        return Err(SpanError);
    }
    let number: u64 = number.parse().map_err(|_| SpanError)?;
    number.checked_mul(seconds).ok_or(SpanError)
}

/// A span in its two largest units: `45s`, `12m 5s`, `3h 20m`, `9d 4h`.
pub fn span(seconds: u64) -> String {
    const UNITS: [(u64, &str); 4] = [(24 * 3600, "d"), (3600, "h"), (60, "m"), (1, "s")];
    let at = UNITS
        .iter()
        .position(|(size, _)| seconds >= *size)
        .unwrap_or(3);
    let (size, unit) = UNITS[at];
    let rest = UNITS
        .get(at + 1)
        .map(|(small, unit)| (seconds % size / small, unit));
    match rest {
        Some((rest, small)) if rest > 0 => format!("{}{unit} {rest}{small}", seconds / size),
        _ => format!("{}{unit}", seconds / size),
    }
}

/// A time with its distance from now: `2026-11-23T07:00:00Z (in 3h 20m)`.
pub fn relative(time: Timestamp, now: Timestamp) -> String {
    let distance = time.as_second() - now.as_second();
    let text = span(distance.unsigned_abs());
    match distance {
        0 => format!("{} (now)", whole(time)),
        1.. => format!("{} (in {text})", whole(time)),
        _ => format!("{} ({text} ago)", whole(time)),
    }
}

/// The time without fractions of a second.
pub fn whole(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_read() {
        for (text, want) in [
            ("30s", 30),
            ("15m", 900),
            ("2h", 7200),
            ("7d", 604_800),
            ("0s", 0),
        ] {
            assert_eq!(parse_seconds(text), Ok(want), "{text}");
        }
        for bad in [
            "",
            "h",
            "5",
            "-1h",
            "+1h",
            "1.5h",
            "1w",
            "1hh",
            "99999999999999999999d",
            "ü",
        ] {
            assert_eq!(parse_seconds(bad), Err(SpanError), "{bad}");
        }
    }

    #[test]
    fn spans_are_told() {
        for (seconds, want) in [
            (0, "0s"),
            (45, "45s"),
            (60, "1m"),
            (725, "12m 5s"),
            (3600, "1h"),
            (12_000, "3h 20m"),
            (86_400, "1d"),
            (792_000, "9d 4h"),
        ] {
            assert_eq!(span(seconds), want);
        }
        let at = |second| Timestamp::from_second(second).unwrap();
        assert_eq!(relative(at(60), at(0)), "1970-01-01T00:01:00Z (in 1m)");
        assert_eq!(relative(at(0), at(60)), "1970-01-01T00:00:00Z (1m ago)");
        assert_eq!(relative(at(0), at(0)), "1970-01-01T00:00:00Z (now)");
    }
}
