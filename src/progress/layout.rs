//! Formats the figures of a run as lines of a given width. Pure: the same figures give the same lines.
//!
//! If there is not room for everything, parts become shorter and are then left out, the least important first.

use console::{measure_text_width, truncate_str};
use indicatif::HumanCount;

use super::run_progress::RunProgress;
use crate::wording::brief;

const GAP: &str = "  ";
const LONGEST_BAR: usize = 40;
const SHORTEST_BAR: usize = 10;
/// Smallest height of a terminal, in rows, that has room for the limits of providers.
const FEWEST_ROWS_FOR_LIMITS: usize = 10;
const MOST_PROVIDERS: usize = 4;

/// Content of a part of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LinePart {
    Percent,
    Rows,
    Pace,
    Left,
    InFlight,
    Errors,
    Retries,
    Throttled,
    Tokens,
}

/// Order in which parts yield if a line is too long. Each entry makes its part shorter, or removes a part that has no
/// shorter form.
const PROGRESS_YIELDS: [LinePart; 5] =
    [LinePart::Pace, LinePart::Rows, LinePart::Percent, LinePart::Pace, LinePart::Left];
const COUNTS_YIELD: [LinePart; 8] = [
    LinePart::Tokens,
    LinePart::Errors,
    LinePart::Tokens,
    LinePart::Retries,
    LinePart::Retries,
    LinePart::Errors,
    LinePart::Throttled,
    LinePart::InFlight,
];

/// Parts in their order, each with its forms, the longest first.
type Parts = Vec<(LinePart, Vec<String>)>;

/// Returns lines for a terminal of this size. No line takes the whole width.
pub(super) fn lines(figures: &RunProgress, columns: usize, rows: usize) -> Vec<String> {
    // Some terminals wrap a line that takes the last column.
    let width = columns.saturating_sub(1).max(1);
    let mut lines = vec![progress(figures, width)];
    lines.extend(figures.waiting.as_ref().map(|what| format!("waiting: {what}")));
    // In a terminal of very few rows, what the run waits for matters more than its counts.
    lines.insert(lines.len().min(1), counts(figures, width));
    // Limits are shown only if there is plenty of room.
    if rows >= FEWEST_ROWS_FOR_LIMITS {
        lines.splice(2..2, figures.providers.iter().take(MOST_PROVIDERS).cloned());
    }
    if lines.len() >= rows.max(2) && lines.len() > 1 {
        lines.remove(1);
    }
    lines.iter().map(|line| truncate_str(line, width, "…").into_owned()).collect()
}

fn progress(figures: &RunProgress, width: usize) -> String {
    let RunProgress { rows, of, per_second, left, .. } = figures;
    let mut parts = Parts::new();
    match of {
        Some(of) => {
            parts.push((LinePart::Percent, vec![format!("{}%", percent(*rows, *of))]));
            let long = format!("{} of {} rows", HumanCount(*rows), HumanCount(*of));
            parts.push((LinePart::Rows, vec![long, format!("{}/{} rows", si(*rows), si(*of))]));
        }
        None => {
            parts.push((
                LinePart::Rows,
                vec![format!("{} rows", HumanCount(*rows)), format!("{} rows", si(*rows))],
            ));
        }
    }
    if let Some(pace) = per_second {
        let pace = digits(*pace);
        parts.push((LinePart::Pace, vec![format!("{pace} rows/s"), format!("{pace}/s")]));
    }
    if let Some(left) = left {
        parts.push((LinePart::Left, vec![format!("{} left", brief(*left))]));
    }
    let text = fit(parts, &PROGRESS_YIELDS, width);
    let room = width.saturating_sub(measure_text_width(&text) + GAP.len() + 2).min(LONGEST_BAR);
    match of {
        Some(of) if room >= SHORTEST_BAR => format!("[{}]{GAP}{text}", bar(*rows, *of, room)),
        _ => text,
    }
}

fn counts(figures: &RunProgress, width: usize) -> String {
    let RunProgress { in_flight, retries, throttled, tokens, .. } = figures;
    let errors = figures.error_count();
    let plain = format!("errors {}", HumanCount(errors));
    let classes = figures.errors_by_class();
    // Always three forms, so that the number stays when the classes are left out.
    let error_forms = match classes.as_slice() {
        [] => vec![plain.clone(), plain.clone(), plain],
        [only] => vec![format!("{plain} ({only})"), format!("{plain} ({only})"), plain],
        [first, ..] => {
            vec![format!("{plain} ({})", classes.join(", ")), format!("{plain} ({first}, …)"), plain]
        }
    };
    let (prompt, completion) = (tokens.prompt, tokens.completion);
    let token_forms = vec![
        format!("tokens {} + {}", HumanCount(prompt), HumanCount(completion)),
        format!("tokens {} + {}", si(prompt), si(completion)),
    ];
    let parts = vec![
        (LinePart::InFlight, vec![format!("in flight {in_flight}")]),
        (LinePart::Errors, error_forms),
        (
            LinePart::Retries,
            vec![format!("retries {}", HumanCount(*retries)), format!("retries {}", si(*retries))],
        ),
        (LinePart::Throttled, vec![format!("429s {}", HumanCount(*throttled))]),
        (LinePart::Tokens, token_forms),
    ];
    fit(parts, &COUNTS_YIELD, width)
}

/// Joins the parts. While they do not fit the width, the next part in `yields` becomes shorter or is left out.
fn fit(mut parts: Parts, yields: &[LinePart], width: usize) -> String {
    for yielding in yields {
        if measure_text_width(&joined(&parts)) <= width {
            break;
        }
        for (part, forms) in &mut parts {
            if part == yielding {
                forms.remove(0);
            }
        }
        parts.retain(|(_, forms)| !forms.is_empty());
    }
    joined(&parts)
}

fn joined(parts: &Parts) -> String {
    let texts: Vec<&str> = parts.iter().filter_map(|(_, forms)| forms.first()).map(String::as_str).collect();
    texts.join(GAP)
}

fn bar(done: u64, of: u64, width: usize) -> String {
    let filled =
        usize::try_from(u128::from(done) * width as u128 / u128::from(of.max(1))).unwrap_or(width).min(width);
    format!("{}{}", "█".repeat(filled), "░".repeat(width - filled))
}

/// Returns a percentage, rounded down so that 100 is not shown before the end.
pub(super) fn percent(done: u64, of: u64) -> u128 {
    match of {
        0 => 100,
        of => u128::from(done) * 100 / u128::from(of),
    }
}

/// Formats a number in about four characters: `950`, `12.3k`, `4.5M`.
fn si(number: u64) -> String {
    let units = [(1_000_000_000_000, "T"), (1_000_000_000, "G"), (1_000_000, "M"), (1_000, "k")];
    match units.into_iter().find(|(size, _)| number >= *size) {
        Some((size, unit)) if number >= size * 100 => format!("{}{unit}", number / size),
        Some((size, unit)) => format!("{}.{}{unit}", number / size, number % size * 10 / size),
        None => number.to_string(),
    }
}

/// Formats a rate with about three digits.
fn digits(pace: f64) -> String {
    match pace {
        pace if pace >= 100.0 => format!("{pace:.0}"),
        pace if pace >= 1.0 => format!("{pace:.1}"),
        pace => format!("{pace:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::ident::Tokens;

    fn early() -> RunProgress {
        RunProgress { of: Some(60), in_flight: 1, ..RunProgress::default() }
    }

    fn busy() -> RunProgress {
        RunProgress {
            rows: 1_234_567,
            of: Some(10_000_000),
            per_second: Some(123.4),
            left: Some(Duration::from_secs(71_032)),
            in_flight: 64,
            errors: [("bad_request", 1_012), ("content_filter", 77), ("timeout", 3)].into(),
            retries: 4_321,
            throttled: 17,
            submitted: None,
            tokens: Tokens { prompt: 123_456_789, cached: 0, completion: 45_678_901, reasoning: 0 },
            providers: vec!["openrouter: 99% of 500 requests/min, 64 at once, 429s 17".into()],
            waiting: Some("requests per minute of openrouter".into()),
        }
    }

    fn unknown() -> RunProgress {
        RunProgress {
            of: None,
            left: None,
            waiting: None,
            providers: Vec::new(),
            rows: 17,
            per_second: Some(0.25),
            ..busy()
        }
    }

    #[test]
    fn lines_fit_narrow_and_wide_terminals() {
        let mut shown = String::new();
        for columns in [20, 40, 80, 200] {
            for (name, figures) in [("early", early()), ("busy", busy()), ("no total", unknown())] {
                let lines = lines(&figures, columns, 24);
                assert!(lines.iter().all(|line| measure_text_width(line) < columns), "{lines:?}");
                shown.push_str(&format!("--- {columns} columns, {name}\n{}\n", lines.join("\n")));
            }
        }
        insta::assert_snapshot!(shown);
    }

    #[test]
    fn a_terminal_of_few_rows_shows_progress_and_what_is_waited_for() {
        assert_eq!(lines(&busy(), 80, 4).len(), 3);
        let lines = lines(&busy(), 80, 3);
        assert_eq!(lines.len(), 2);
        assert!(lines[1].starts_with("waiting: "), "{lines:?}");
        let wide = RunProgress { waiting: Some("コンコンコン".into()), ..busy() };
        assert!(super::lines(&wide, 12, 24).iter().all(|line| measure_text_width(line) < 12));
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!(
            [0, 999, 1_000, 99_950, 123_456, 4_560_000].map(si),
            ["0", "999", "1.0k", "99.9k", "123k", "4.5M"]
        );
        assert_eq!([0.034, 1.26, 99.9, 15_999.6].map(digits), ["0.03", "1.3", "99.9", "16000"]);
        assert_eq!([percent(0, 0), percent(999, 1_000), percent(7, 7)], [100, 99, 100]);
    }
}
