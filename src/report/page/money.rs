//! Money in words. Inside the page it is whole millionths of a dollar, or dollars on an axis.

use super::number;

/// `$1.24`, `$0.031`, `$1,204.00`, from millionths of a dollar.
pub(super) fn money(microdollars: i64) -> String {
    let sign = if microdollars < 0 { "-" } else { "" };
    format!("{sign}{}", dollars(number::float(microdollars.unsigned_abs()) / 1e6))
}

/// The same, from dollars: two digits after the point, or two that say something.
pub(super) fn dollars(dollars: f64) -> String {
    if !dollars.is_finite() {
        return "–".to_owned();
    }
    if dollars >= 10_000.0 {
        return format!("${}", number::short(dollars));
    }
    if dollars >= 1_000.0 {
        let cents = format!("{dollars:.2}");
        let (whole, cents) = cents.split_once('.').unwrap_or((&cents, "00"));
        return format!("${}.{cents}", number::count(whole.parse().unwrap_or_default()));
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
        Some(dollars(number::float(known.unsigned_abs()) / number::float(rows) / 1e3))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
