//! Formats numbers, money, times and foreign text for the page.
//!
//! Money is whole millionths of a dollar inside the page, and dollars on an axis. Text from tables is hostile:
//! characters that HTML forbids or that would reorder the text around them are replaced here, and long text is
//! shortened. Escaping is the template's task.

use chrono::{DateTime, Utc};
use indicatif::HumanCount;
use serde::Serialize;

/// Converts a number to a float, for charts and ratios.
#[expect(clippy::cast_precision_loss, reason = "it is shown, not reckoned with")]
pub(super) fn float(number: u64) -> f64 {
    number as f64
}

/// Converts a count to a float.
pub(super) fn float_of(count: usize) -> f64 {
    u64::try_from(count).map_or(f64::MAX, float)
}

/// Divides one number by another. Returns `None` if the divisor is zero.
pub(super) fn ratio(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| float(part) / float(whole))
}

/// Formats a number: `12,345`.
pub(super) fn count(number: u64) -> String {
    HumanCount(number).to_string()
}

/// Formats a number where there is little room: `12,345`, `123k`, `4.6M`.
pub(super) fn short_count(number: u64) -> String {
    if number < 100_000 { count(number) } else { short(float(number)) }
}

/// Formats a value: `0.02`, `3.4`, `42`, `12.5k`, `1.2M`.
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

/// Formats a share: `0.8%`, `12%`, `100%`. Small shares are not rounded to zero.
pub(super) fn percent(share: f64) -> String {
    if !share.is_finite() {
        return "–".to_owned();
    }
    let percent = share * 100.0;
    if percent > 0.0 && percent < 0.01 {
        return "under 0.01%".to_owned();
    }
    // 99.96% must not read as 100%.
    if (99.5..100.0).contains(&percent) {
        return format!("{}%", (percent * 100.0).floor() / 100.0);
    }
    format!("{}%", significant(percent))
}

/// Formats a value with about three digits and without zeros at the end.
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

/// Rounds to a whole number and separates its thousands.
fn whole(value: f64) -> String {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the caller keeps it small")]
    let size = value.abs().round() as u64;
    format!("{}{}", if value < 0.0 { "-" } else { "" }, count(size))
}

/// Formats millionths of a dollar: `$1.24`, `$0.031`, `$1,204.00`.
pub(super) fn money(microdollars: i64) -> String {
    let sign = if microdollars < 0 { "-" } else { "" };
    format!("{sign}{}", dollars(float(microdollars.unsigned_abs()) / 1e6))
}

/// Formats dollars with two digits after the point, or with two significant digits if the amount is small.
pub(super) fn dollars(dollars: f64) -> String {
    if !dollars.is_finite() {
        return "–".to_owned();
    }
    if dollars >= 10_000.0 {
        return format!("${}", short(dollars));
    }
    if dollars >= 1_000.0 {
        let cents = format!("{dollars:.2}");
        let (whole, cents) = cents.split_once('.').unwrap_or((&cents, "00"));
        return format!("${}.{cents}", count(whole.parse().unwrap_or_default()));
    }
    let digits = match dollars {
        size if size >= 0.1 || size <= 0.0 => 2,
        size if size >= 0.01 => 3,
        size if size >= 0.001 => 4,
        size if size >= 0.000_1 => 5,
        _ => 6,
    };
    let text = format!("{dollars:.digits$}");
    let least = text.find('.').map_or(text.len(), |point| point + 3);
    let kept = text.trim_end_matches('0').len().max(least);
    format!("${}", text.chars().take(kept).collect::<String>())
}

/// A sum of costs that may each be unknown: the known part, and whether that is all.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct PartialSum {
    known: Option<i64>,
    is_partial: bool,
}

impl PartialSum {
    /// Adds the cost of a row of metrics.
    pub(super) fn add(&mut self, cost: Option<i64>, is_unpriced: bool) {
        if let Some(cost) = cost {
            self.known = Some(self.known.unwrap_or_default().saturating_add(cost));
        }
        self.is_partial |= is_unpriced;
    }

    /// Returns the known part, in millionths of a dollar.
    pub(super) fn known(self) -> Option<i64> {
        self.known
    }

    /// Whether a part of the sum is unknown.
    pub(super) fn is_partial(self) -> bool {
        self.is_partial
    }

    /// Formats the sum: `$1.24`, `over $1.24`, `unknown`.
    pub(super) fn words(self) -> String {
        match (self.known, self.is_partial) {
            (None, true) => "unknown".to_owned(),
            (None, false) => "–".to_owned(),
            (Some(0), true) => "unknown".to_owned(),
            (Some(known), true) => format!("over {}", money(known)),
            (Some(known), false) => money(known),
        }
    }

    /// Returns the cost of a thousand rows, or `None` if the sum is not known in full.
    pub(super) fn per_thousand(self, rows: u64) -> Option<String> {
        let known = self.known.filter(|_| !self.is_partial && rows > 0)?;
        Some(dollars(float(known.unsigned_abs()) / float(rows) / 1e3))
    }
}

/// Formats milliseconds: `350 ms`, `1.2 s`, `42 s`, `3 min 20 s`, `1 h 12 min`, `2 d 3 h`.
pub(super) fn millis(millis: f64) -> String {
    if !millis.is_finite() {
        return "–".to_owned();
    }
    if millis < 999.5 {
        return format!("{} ms", short(millis.round()));
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

/// Formats whole milliseconds.
pub(super) fn whole_millis(value: u64) -> String {
    millis(float(value))
}

/// Formats seconds.
pub(super) fn seconds(value: f64) -> String {
    millis(value * 1e3)
}

/// Formats a time: `12 Mar 2026, 14:05`.
pub(super) fn moment(time: DateTime<Utc>) -> String {
    time.format("%-d %b %Y, %H:%M").to_string()
}

/// Unit of time of a rate: the shortest one in which the rate is at least 1.
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
    /// Returns the unit in which rates up to `per_second` are shown.
    pub(super) fn for_rate(per_second: f64) -> Per {
        match per_second {
            rate if rate >= 1.0 => Per::Second,
            rate if rate >= 1.0 / 60.0 => Per::Minute,
            _ => Per::Hour,
        }
    }

    /// Returns the length of the unit in seconds.
    pub(super) fn seconds(self) -> f64 {
        match self {
            Per::Second => 1.0,
            Per::Minute => 60.0,
            Per::Hour => 3_600.0,
        }
    }

    /// Returns the unit in words: `a second`.
    pub(super) fn words(self) -> &'static str {
        match self {
            Per::Second => "a second",
            Per::Minute => "a minute",
            Per::Hour => "an hour",
        }
    }
}

/// Returns ticks from zero to at least `max`, about `number` of them, in steps of 1, 2, 2.5 or 5 times a power of ten.
pub(super) fn ticks(max: f64, number: f64) -> Vec<f64> {
    if !max.is_finite() || max <= 0.0 {
        return vec![0.0, 1.0];
    }
    let step = round_up(max / number);
    // The smallest floats have no such power of ten, and so no step.
    if !step.is_normal() {
        return vec![0.0, max];
    }
    let mut ticks = vec![0.0];
    while let Some(last) = ticks.last().copied().filter(|last| *last < max * (1.0 - 1e-9)) {
        ticks.push(step * (last / step + 1.0).round());
    }
    ticks
}

/// Rounds up to 1, 2, 2.5 or 5 times a power of ten.
fn round_up(value: f64) -> f64 {
    let power = 10_f64.powf(value.log10().floor());
    let times = [1.0, 2.0, 2.5, 5.0].into_iter().find(|times| times * power >= value * (1.0 - 1e-9));
    times.unwrap_or(10.0) * power
}

/// Durations in milliseconds, each about three times the one before, that are round in the unit in which they are
/// shown.
const DURATIONS: [f64; 18] = [
    1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1e3, 3e3, 1e4, 3e4, 6e4, 1.8e5, 6e5, 1.8e6, 3.6e6, 1.08e7, 3.6e7,
    8.64e7,
];
const MOST_DURATIONS: usize = 6;

/// Returns ticks for a logarithmic axis of durations, from at most `min` to at least `max` if the list reaches that
/// far.
pub(super) fn duration_ticks(min: f64, max: f64) -> Vec<f64> {
    let last = DURATIONS.len() - 1;
    let low = DURATIONS.iter().rposition(|duration| *duration <= min).unwrap_or(0).min(last - 1);
    let high = DURATIONS.iter().position(|duration| *duration >= max).unwrap_or(last).max(low + 1);
    let step = (high - low) / MOST_DURATIONS + 1;
    // The highest and the lowest always stay, so that the axis reaches every value.
    let mut ticks: Vec<f64> = DURATIONS[low..=high].iter().copied().rev().step_by(step).collect();
    if let [.., lowest] = &mut ticks[..] {
        *lowest = DURATIONS[low];
    }
    ticks.reverse();
    ticks
}

/// Text on the page: the part that is shown at once, and the part that is shown on demand.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct PageText {
    /// The beginning, shown at once.
    pub(super) head: String,
    /// The text after the beginning; empty if there is none.
    pub(super) rest: String,
    /// Length of `rest`, in words; empty if `rest` is.
    pub(super) more: String,
    /// Length of the text that is not on the page at all, in words; empty if there is none.
    pub(super) left_out: String,
}

const HEAD_CHARACTERS: usize = 280;
const HEAD_LINES: usize = 8;
/// Number of characters below which the rest of a text is shown with its beginning.
const LEAST_REST: usize = 60;

impl PageText {
    /// Shows as much of a text as takes at most `bytes` bytes of the page.
    pub(super) fn new(text: &str, bytes: usize) -> PageText {
        let mut room = bytes;
        let fits = |(_, char): &(usize, char)| {
            let size = escaped_bytes(clean(*char));
            let fits = size <= room;
            room = room.saturating_sub(size);
            fits
        };
        let kept = text.char_indices().take_while(fits).map(|(at, char)| at + char.len_utf8()).last();
        let (kept, left_out) = text.split_at_checked(kept.unwrap_or(0)).unwrap_or((text, ""));
        let (head, rest) = kept.split_at_checked(head_bytes(kept)).unwrap_or((kept, ""));
        PageText {
            head: head.chars().map(clean).collect(),
            rest: rest.chars().map(clean).collect(),
            more: characters(rest),
            left_out: characters(left_out),
        }
    }
}

/// Formats the length of a text: `1,204 characters`; empty for an empty text.
fn characters(text: &str) -> String {
    match u64::try_from(text.chars().count()).unwrap_or(u64::MAX) {
        0 => String::new(),
        1 => "1 character".to_owned(),
        number => format!("{} characters", count(number)),
    }
}

/// Returns where the beginning of a text ends, in bytes: after a word or a line if one ends nearby.
fn head_bytes(text: &str) -> usize {
    let by_lines = text.match_indices('\n').nth(HEAD_LINES - 1).map(|(at, _)| at);
    let by_characters = text.char_indices().nth(HEAD_CHARACTERS).map(|(at, _)| at);
    let Some(end) = by_lines.into_iter().chain(by_characters).min() else {
        return text.len();
    };
    let (head, rest) = text.split_at_checked(end).unwrap_or((text, ""));
    if rest.chars().count() < LEAST_REST && rest.lines().count() <= 2 {
        return text.len();
    }
    if by_lines == Some(end) {
        return end;
    }
    let near = end.saturating_sub(HEAD_CHARACTERS / 5);
    head.rfind(char::is_whitespace).filter(|space| *space > near).unwrap_or(end)
}

/// Shortens a text to one line of at most `characters` characters.
pub(super) fn in_line(text: &str, characters: usize) -> String {
    let flat = |char| {
        if matches!(char, '\n' | '\r' | '\t') { ' ' } else { clean(char) }
    };
    let line: String = text.chars().take(characters + 1).map(flat).collect();
    if line.chars().count() <= characters {
        return line;
    }
    line.chars().take(characters - 1).chain(['…']).collect()
}

/// Replaces a character that HTML forbids or that reorders others.
///
/// Control characters become their pictures. Marks that switch the direction of text, and code points that are no
/// characters, become the replacement character.
pub(super) fn clean(char: char) -> char {
    match char {
        '\t' | '\n' => char,
        // Half of a Windows line break; alone, HTML would make a line break of it.
        '\r' => ' ',
        '\0'..='\x1f' => char::from_u32(0x2400 + u32::from(char)).unwrap_or(char::REPLACEMENT_CHARACTER),
        '\x7f' => '\u{2421}',
        '\u{80}'..='\u{9f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
            char::REPLACEMENT_CHARACTER
        }
        '\u{fdd0}'..='\u{fdef}' => char::REPLACEMENT_CHARACTER,
        _ if u32::from(char) & 0xfffe == 0xfffe => char::REPLACEMENT_CHARACTER,
        _ => char,
    }
}

/// Returns the number of bytes that the template writes for a character.
fn escaped_bytes(char: char) -> usize {
    match char {
        '<' | '>' => "&lt;".len(),
        '&' => "&amp;".len(),
        '"' | '\'' | '/' => "&#x2f;".len(),
        _ => char.len_utf8(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_take_the_room_that_they_need() {
        let shown = [0.0, 0.021, 3.4, 42.0, 512.4, 1_200.0, 12_500.0, 1_234_567.0].map(short);
        assert_eq!(shown, ["0", "0.021", "3.4", "42", "512", "1,200", "12.5k", "1.23M"]);
        assert_eq!(short(f64::NAN), "–");
        assert_eq!(short(f64::INFINITY), "–");
    }

    #[test]
    fn a_share_never_rounds_to_none_or_to_all() {
        let shown = [0.0, 0.000_01, 0.008, 0.123_4, 0.999_6, 1.0].map(percent);
        assert_eq!(shown, ["0%", "under 0.01%", "0.8%", "12.3%", "99.96%", "100%"]);
    }

    #[test]
    fn money_shows_cents_or_what_says_something() {
        let shown = [0, 1_240_000, 31_200, 13, 1_204_500_000, -500_000, 100_000].map(money);
        assert_eq!(shown, ["$0.00", "$1.24", "$0.031", "$0.000013", "$1,204.50", "-$0.50", "$0.10"]);
        assert_eq!(dollars(f64::NAN), "–");
    }

    #[test]
    fn a_bill_says_when_it_is_not_whole() {
        let mut bill = PartialSum::default();
        assert_eq!(bill.words(), "–");
        bill.add(Some(1_000_000), false);
        assert_eq!((bill.words(), bill.per_thousand(1000)), ("$1.00".to_owned(), Some("$1.00".to_owned())));
        bill.add(None, true);
        assert_eq!((bill.words(), bill.per_thousand(1000)), ("over $1.00".to_owned(), None));
    }

    #[test]
    fn durations_have_two_units_at_most() {
        let latencies =
            [0.0, 350.0, 1_240.0, 9_960.0, 42_000.0, 59_980.0, 200_000.0, 4_320_000.0, 183_600_000.0];
        assert_eq!(
            latencies.map(millis),
            ["0 ms", "350 ms", "1.2 s", "10 s", "42 s", "1 min", "3 min 20 s", "1 h 12 min", "2 d 3 h"]
        );
        assert_eq!(millis(f64::NAN), "–");
    }

    #[test]
    fn ticks_are_round_and_reach_the_highest_value() {
        assert_eq!(ticks(97.0, 4.0), [0.0, 25.0, 50.0, 75.0, 100.0]);
        assert_eq!(ticks(0.04, 4.0), [0.0, 0.01, 0.02, 0.03, 0.04]);
        assert_eq!(ticks(1.0, 4.0), [0.0, 0.25, 0.5, 0.75, 1.0]);
        for odd in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert_eq!(ticks(odd, 4.0), [0.0, 1.0]);
        }
        for odd in [5e-324, 1e-300, 1e300, f64::MAX] {
            assert!(ticks(odd, 4.0).len() < 12, "{odd}");
        }
    }

    #[test]
    fn durations_span_the_values() {
        assert_eq!(duration_ticks(400.0, 9_000.0), [300.0, 1e3, 3e3, 1e4]);
        assert_eq!(duration_ticks(1.0, 9e4), [1.0, 30.0, 300.0, 3e3, 3e4, 1.8e5]);
        for (min, max) in [(0.0, 0.0), (f64::NAN, f64::NAN), (1e12, 1e12), (1.0, 1e12)] {
            let ticks = duration_ticks(min, max);
            assert!((2..=7).contains(&ticks.len()) && ticks.is_sorted(), "{min} to {max}: {ticks:?}");
        }
    }

    #[test]
    fn short_text_is_shown_whole() {
        let shown = PageText::new("one\ttwo\nthree", 4_000);
        assert_eq!(shown, PageText { head: "one\ttwo\nthree".to_owned(), ..PageText::default() });
    }

    #[test]
    fn long_text_breaks_at_a_word_and_says_what_is_left_out() {
        let shown = PageText::new(&"word ".repeat(1_000), 1_000);
        assert!(shown.head.ends_with("word") && shown.head.len() <= HEAD_CHARACTERS, "{:?}", shown.head);
        assert_eq!(shown.head.len() + shown.rest.len(), 1_000);
        assert_eq!(shown.left_out, "4,000 characters");
        assert_eq!(PageText::new("🦀🦀", 5).left_out, "1 character");
    }

    #[test]
    fn text_of_many_lines_is_cut_by_its_lines() {
        let shown = PageText::new(&"x\n".repeat(100), 4_000);
        assert_eq!((shown.head.lines().count(), shown.more.as_str()), (HEAD_LINES, "185 characters"));
    }

    #[test]
    fn characters_that_act_are_shown_instead() {
        let cleaned: String = "a\0b\x1b[1m\u{202e}c\u{ffff}\u{7f}\r\n".chars().map(clean).collect();
        assert_eq!(cleaned, "a␀b␛[1m\u{fffd}c\u{fffd}␡ \n");
        assert_eq!(in_line("a\nb\u{2066}cdefgh", 6), "a b\u{fffd}c…");
    }
}
