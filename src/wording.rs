//! Numbers and lengths of time in the words of messages.

use std::time::Duration;

use indicatif::HumanCount;

/// Returns a number with its noun in the right form: `1 row`, `2,000 batches`.
#[must_use]
pub fn counted(number: u64, noun: &str) -> String {
    let words = match (number, noun.strip_suffix("ch"), noun.strip_suffix("ry")) {
        (1, _, _) => noun.to_owned(),
        (_, Some(_), _) => format!("{noun}es"),
        (_, _, Some(stem)) => format!("{stem}ries"),
        _ => format!("{noun}s"),
    };
    format!("{} {words}", HumanCount(number))
}

/// Returns a length of time in its two largest units, rounded up to seconds: `1m 5s`, `2d 3h`.
#[must_use]
pub fn brief(time: Duration) -> String {
    let seconds = time.as_secs() + u64::from(time.subsec_nanos() > 0);
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m {}s", seconds % 60),
        (0, _, _) => format!("{hours}h {minutes}m"),
        _ => format!("{days}d {hours}h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nouns_agree_with_their_numbers() {
        let phrases = [(1, "row"), (0, "row"), (2000, "batch"), (1, "retry"), (3, "retry")];
        let phrases = phrases.map(|(number, noun)| counted(number, noun));
        assert_eq!(phrases, ["1 row", "0 rows", "2,000 batches", "1 retry", "3 retries"]);
    }

    #[test]
    fn times_are_brief() {
        let shown = [0, 59, 61, 3_600, 90_061].map(|seconds| brief(Duration::from_secs(seconds)));
        assert_eq!(shown, ["0s", "59s", "1m 1s", "1h 0m", "1d 1h"]);
    }
}
