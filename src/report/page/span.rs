//! Durations and times of day in words.

use chrono::{DateTime, Utc};

use super::number;

/// `350 ms`, `1.2 s`, `42 s`, `3 min 20 s`, `1 h 12 min`, `2 d 3 h`, from milliseconds.
pub(super) fn millis(millis: f64) -> String {
    if !millis.is_finite() {
        return "–".to_owned();
    }
    if millis < 999.5 {
        return format!("{} ms", number::short(millis.round()));
    }
    let seconds = millis / 1e3;
    if seconds < 59.95 {
        let digits = if seconds < 9.95 { 1 } else { 0 };
        let text = format!("{seconds:.digits$}");
        return format!("{} s", text.strip_suffix(".0").unwrap_or(&text));
    }
    let (large, small, per, size) = match seconds {
        s if s < 3_599.5 => ("min", "s", 60.0, 1.0),
        s if s < 86_370.0 => ("h", "min", 60.0, 60.0),
        _ => ("d", "h", 24.0, 3_600.0),
    };
    let units = (seconds / size).round();
    let (first, second) = ((units / per).floor(), units % per);
    match second {
        second if second > 0.0 => format!("{first:.0} {large} {second:.0} {small}"),
        _ => format!("{first:.0} {large}"),
    }
}

/// The same, from whole milliseconds.
pub(super) fn whole_millis(value: u64) -> String {
    millis(number::float(value))
}

/// The same, from seconds.
pub(super) fn seconds(value: f64) -> String {
    millis(value * 1e3)
}

/// `12 Mar 2026, 14:05`.
pub(super) fn moment(time: DateTime<Utc>) -> String {
    time.format("%-d %b %Y, %H:%M").to_string()
}

/// What happens in one of these is counted: the shortest one that gives numbers above 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Per {
    /// A second.
    Second,
    /// A minute.
    Minute,
    /// An hour.
    Hour,
}

impl Per {
    /// The one for rates of which this is the highest in a second.
    pub(super) fn for_rate(per_second: f64) -> Per {
        match per_second {
            rate if rate >= 1.0 => Per::Second,
            rate if rate >= 1.0 / 60.0 => Per::Minute,
            _ => Per::Hour,
        }
    }

    /// Its seconds.
    pub(super) fn seconds(self) -> f64 {
        match self {
            Per::Second => 1.0,
            Per::Minute => 60.0,
            Per::Hour => 3_600.0,
        }
    }

    /// `a second`.
    pub(super) fn words(self) -> &'static str {
        match self {
            Per::Second => "a second",
            Per::Minute => "a minute",
            Per::Hour => "an hour",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_said_in_two_units_at_most() {
        let said = [0.0, 350.0, 1_240.0, 9_960.0, 42_000.0, 59_980.0, 200_000.0, 4_320_000.0, 183_600_000.0];
        assert_eq!(
            said.map(millis),
            ["0 ms", "350 ms", "1.2 s", "10 s", "42 s", "1 min", "3 min 20 s", "1 h 12 min", "2 d 3 h"]
        );
        assert_eq!(millis(f64::NAN), "–");
    }
}
