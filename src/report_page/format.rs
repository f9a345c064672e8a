//! Numbers, money, times and foreign text, as the page shows them.
//!
//! Money is whole millionths of a dollar inside the page, and dollars on an axis. Text from tables is hostile: the
//! characters that HTML forbids and those that would reorder what stands around them are replaced here, and long text
//! is shortened. Escaping is the template's.

use chrono::{DateTime, Utc};
use indicatif::HumanCount;
use serde::Serialize;

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

/// `$1.24`, `$0.031`, `$1,204.00`, from millionths of a dollar.
pub(super) fn money(microdollars: i64) -> String {
    let sign = if microdollars < 0 { "-" } else { "" };
    format!("{sign}{}", dollars(float(microdollars.unsigned_abs()) / 1e6))
}

/// The same, from dollars: two digits after the point, or two that say something.
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

/// A sum of prices that may each be unknown: what is known of it, and whether that is all.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct PartialSum {
    known: Option<i64>,
    is_partial: bool,
}

impl PartialSum {
    /// Adds what a row of metrics cost.
    pub(super) fn add(&mut self, cost: Option<i64>, is_unpriced: bool) {
        if let Some(cost) = cost {
            self.known = Some(self.known.unwrap_or_default().saturating_add(cost));
        }
        self.is_partial |= is_unpriced;
    }

    /// What is known of it, in millionths of a dollar.
    pub(super) fn known(self) -> Option<i64> {
        self.known
    }

    /// Whether a part of it is not known.
    pub(super) fn is_partial(self) -> bool {
        self.is_partial
    }

    /// In words: `$1.24`, `over $1.24`, `unknown`.
    pub(super) fn words(self) -> String {
        match (self.known, self.is_partial) {
            (None, true) => "unknown".to_owned(),
            (None, false) => "–".to_owned(),
            (Some(0), true) => "unknown".to_owned(),
            (Some(known), true) => format!("over {}", money(known)),
            (Some(known), false) => money(known),
        }
    }

    /// What a thousand rows cost; none when the whole is not known.
    pub(super) fn per_thousand(self, rows: u64) -> Option<String> {
        let known = self.known.filter(|_| !self.is_partial && rows > 0)?;
        Some(dollars(float(known.unsigned_abs()) / float(rows) / 1e3))
    }
}

/// `350 ms`, `1.2 s`, `42 s`, `3 min 20 s`, `1 h 12 min`, `2 d 3 h`, from milliseconds.
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

/// The same, from whole milliseconds.
pub(super) fn whole_millis(value: u64) -> String {
    millis(float(value))
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

/// Round steps of 1, 2 or 5 times a power of ten, from zero to no less than `max`, about `number` of them.
pub(super) fn ticks(max: f64, number: f64) -> Vec<f64> {
    if !max.is_finite() || max <= 0.0 {
        return vec![0.0, 1.0];
    }
    let step = round_up(max / number);
    // A power of ten that is not to be had (the smallest floats) leaves no step.
    if !step.is_normal() {
        return vec![0.0, max];
    }
    let mut ticks = vec![0.0];
    while let Some(last) = ticks.last().copied().filter(|last| *last < max * (1.0 - 1e-9)) {
        ticks.push(step * (last / step + 1.0).round());
    }
    ticks
}

/// The least number of 1, 2, 2.5 or 5 times a power of ten that is no smaller.
fn round_up(value: f64) -> f64 {
    let power = 10_f64.powf(value.log10().floor());
    let times = [1.0, 2.0, 2.5, 5.0].into_iter().find(|times| times * power >= value * (1.0 - 1e-9));
    times.unwrap_or(10.0) * power
}

/// Durations in milliseconds, each about three times the last, that are round in the unit in which they are written.
const DURATIONS: [f64; 18] = [
    1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1e3, 3e3, 1e4, 3e4, 6e4, 1.8e5, 6e5, 1.8e6, 3.6e6, 1.08e7, 3.6e7,
    8.64e7,
];
const MOST_DURATIONS: usize = 6;

/// Durations for an axis by powers of ten, from no more than `min` to no less than `max` where there are such.
pub(super) fn duration_ticks(min: f64, max: f64) -> Vec<f64> {
    let last = DURATIONS.len() - 1;
    let low = DURATIONS.iter().rposition(|duration| *duration <= min).unwrap_or(0).min(last - 1);
    let high = DURATIONS.iter().position(|duration| *duration >= max).unwrap_or(last).max(low + 1);
    let step = (high - low) / MOST_DURATIONS + 1;
    // The highest always stands, so that the axis reaches every value; so does the lowest.
    let mut ticks: Vec<f64> = DURATIONS[low..=high].iter().copied().rev().step_by(step).collect();
    if let [.., lowest] = &mut ticks[..] {
        *lowest = DURATIONS[low];
    }
    ticks.reverse();
    ticks
}

/// Text on the page: what is seen at once, and what is seen on demand.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct PageText {
    /// The beginning.
    pub(super) head: String,
    /// What follows the beginning; empty when nothing does.
    pub(super) rest: String,
    /// How much `rest` holds, in words; empty when nothing.
    pub(super) more: String,
    /// How much is not on the page at all, in words; empty when nothing.
    pub(super) left_out: String,
}

const HEAD_CHARACTERS: usize = 280;
const HEAD_LINES: usize = 8;
/// A rest that is shorter stays with the beginning.
const LEAST_REST: usize = 60;

impl PageText {
    /// Shows a text within so many bytes of the page.
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

/// `1,204 characters`; nothing for none.
fn characters(text: &str) -> String {
    match u64::try_from(text.chars().count()).unwrap_or(u64::MAX) {
        0 => String::new(),
        1 => "1 character".to_owned(),
        number => format!("{} characters", count(number)),
    }
}

/// Where the beginning of a text ends: behind a word or a line if there is one near.
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

/// A text in one line of so many characters at most.
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

/// A character that HTML allows and that leaves the order of others alone.
///
/// Controls become their pictures. Marks that switch the direction of text, and numbers that are no characters,
/// become the sign for what cannot be shown.
pub(super) fn clean(char: char) -> char {
    match char {
        '\t' | '\n' => char,
        // Half of a Windows line end; alone, HTML would make a line end of it.
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

/// Bytes that the template writes for a character.
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

    #[test]
    fn money_shows_cents_or_what_says_something() {
        let said = [0, 1_240_000, 31_200, 13, 1_204_500_000, -500_000, 100_000].map(money);
        assert_eq!(said, ["$0.00", "$1.24", "$0.031", "$0.000013", "$1,204.50", "-$0.50", "$0.10"]);
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
    fn durations_are_said_in_two_units_at_most() {
        let said = [0.0, 350.0, 1_240.0, 9_960.0, 42_000.0, 59_980.0, 200_000.0, 4_320_000.0, 183_600_000.0];
        assert_eq!(
            said.map(millis),
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
