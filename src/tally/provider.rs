//! The state of a provider's limits, in words and in figures.

use indicatif::HumanCount;

use crate::event::{LimitGauge, LimitShare};
use crate::fault::Scarce;

/// Figures of one provider in a run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ProviderFigures {
    /// State of the provider's limits when last reported.
    pub gauge: LimitGauge,
    /// Number of attempts that were repeated.
    pub retries: u64,
    /// Number of second requests sent beside requests that take far longer than others.
    pub hedged: u64,
}

impl ProviderFigures {
    /// Returns a line with the most important first: the used share of each limit, requests at once, refusals.
    #[must_use]
    pub fn in_words(&self, name: &str) -> String {
        let LimitGauge { throttled, concurrency, is_open, shares, .. } = &self.gauge;
        let mut words = Vec::new();
        if *is_open {
            words.push("fails, left alone".to_owned());
        }
        words.extend(shares.iter().map(share));
        words.push(format!("{concurrency} at once"));
        if *throttled > 0 {
            words.push(format!("429s {}", HumanCount(*throttled)));
        }
        format!("{name}: {}", words.join(", "))
    }
}

fn share(share: &LimitShare) -> String {
    let what = match share.of {
        Scarce::Tokens => "tokens",
        Scarce::Requests | Scarce::Capacity | Scarce::TierRoom => "requests",
    };
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a limit, saturating")]
    let limit = share.per_minute.round() as u64;
    format!("{:.0}% of {} {what}/min", share.used * 100.0, HumanCount(limit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_what_is_used_and_refused() {
        let gauge = LimitGauge {
            requests: 900,
            throttled: 2,
            concurrency: 64,
            shares: vec![LimitShare { of: Scarce::Requests, per_minute: 5_999.7, used: 0.987 }],
            is_open: true,
        };
        let figures = ProviderFigures { gauge, retries: 1, hedged: 0 };
        assert_eq!(
            figures.in_words("openai"),
            "openai: fails, left alone, 99% of 6,000 requests/min, 64 at once, 429s 2"
        );
        assert_eq!(ProviderFigures::default().in_words("ollama"), "ollama: 0 at once");
    }
}
