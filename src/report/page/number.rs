//! Numbers in words: counts, rates, shares.

use indicatif::HumanCount;

/// The number as a float, for charts and ratios.
#[expect(clippy::cast_precision_loss, reason = "it is shown, not reckoned with")]
pub(super) fn float(number: u64) -> f64 {
    number as f64
}

/// The count as a float.
pub(super) fn float_of(count: usize) -> f64 {
    u64::try_from(count).map_or(f64::MAX, float)
}

/// One number over another; none when that is no number.
pub(super) fn ratio(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| float(part) / float(whole))
}

/// `12,345`.
pub(super) fn count(number: u64) -> String {
    HumanCount(number).to_string()
}

/// `12,345`, `12.3k`, `4.6M`: for places where a long number has no room.
pub(super) fn short_count(number: u64) -> String {
    if number < 100_000 { count(number) } else { short(float(number)) }
}

/// `0.02`, `3.4`, `42`, `12.5k`, `1.2M`.
pub(super) fn short(value: f64) -> String {
    if !value.is_finite() {
        return "–".to_owned();
    }
    let (scaled, unit) = match value.abs() {
        size if size >= 999_500_000.0 => (value / 1e9, "B"),
        size if size >= 999_500.0 => (value / 1e6, "M"),
        size if size >= 9_999.5 => (value / 1e3, "k"),
        _ => (value, ""),
    };
    if unit.is_empty() && scaled.abs() >= 999.5 {
        return whole(scaled);
    }
    format!("{}{unit}", significant(scaled))
}

/// `0.8%`, `12%`, `100%`; small shares are not rounded to nothing.
pub(super) fn percent(share: f64) -> String {
    if !share.is_finite() {
        return "–".to_owned();
    }
    let percent = share * 100.0;
    if percent > 0.0 && percent < 0.01 {
        return "under 0.01%".to_owned();
    }
    // Nearly all is not all: 99.96% must not read as 100%.
    if (99.5..100.0).contains(&percent) {
        return format!("{}%", (percent * 100.0).floor() / 100.0);
    }
    format!("{}%", significant(percent))
}

/// Three digits at most, two of them after the point, and no zeros at the end.
fn significant(value: f64) -> String {
    let digits = match value.abs() {
        size if size >= 99.95 => 0,
        size if size >= 9.995 => 1,
        size if size >= 0.1 || size == 0.0 => 2,
        _ => 4,
    };
    let text = format!("{value:.digits$}");
    if digits == 0 { text } else { text.trim_end_matches('0').trim_end_matches('.').to_owned() }
}

/// The nearest whole number, with its thousands apart.
fn whole(value: f64) -> String {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the caller keeps it small")]
    let size = value.abs().round() as u64;
    format!("{}{}", if value < 0.0 { "-" } else { "" }, count(size))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_take_the_room_that_they_need() {
        let said = [0.0, 0.021, 3.4, 42.0, 512.4, 1_200.0, 12_500.0, 1_234_567.0].map(short);
        assert_eq!(said, ["0", "0.021", "3.4", "42", "512", "1,200", "12.5k", "1.23M"]);
        assert_eq!(short(f64::NAN), "–");
        assert_eq!(short(f64::INFINITY), "–");
    }

    #[test]
    fn a_share_never_rounds_to_none_or_to_all() {
        let said = [0.0, 0.000_01, 0.008, 0.123_4, 0.999_6, 1.0].map(percent);
        assert_eq!(said, ["0%", "under 0.01%", "0.8%", "12.3%", "99.96%", "100%"]);
    }
}
