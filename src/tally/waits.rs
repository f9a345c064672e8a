//! What a run waits for, provider by provider, in words.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::clock::Instant;
use crate::event::{Event, Hold, Waiting};
use crate::wording::brief;

/// Time for which a reason is still shown after its end, so that one that comes and goes with every row looks steady.
const LINGER: Duration = Duration::from_secs(1);

/// What a run waits for at every provider, and at the window.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Waits {
    providers: BTreeMap<String, ProviderWaits>,
    hold: Lasting<Hold>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct ProviderWaits {
    in_flight: u32,
    waiting: Lasting<(Waiting, Instant)>,
}

/// A state that is still shown for a moment after its end.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Lasting<T> {
    state: Option<T>,
    ended: Option<Instant>,
}

impl<T> Default for Lasting<T> {
    fn default() -> Self {
        Lasting { state: None, ended: None }
    }
}

impl<T: Copy> Lasting<T> {
    fn set(&mut self, state: Option<T>, now: Instant) {
        self.ended = None;
        match state {
            Some(state) => self.state = Some(state),
            None => self.ended = Some(now),
        }
    }

    fn get(&self, now: Instant) -> Option<T> {
        self.state.filter(|_| self.ended.is_none_or(|ended| now < ended + LINGER))
    }
}

impl Waits {
    /// Records an event about waiting; ignores all others.
    pub(super) fn note(&mut self, event: &Event<'_>, now: Instant) {
        match event {
            Event::InFlight { provider, requests } => self.provider(provider).in_flight = *requests,
            Event::Waiting { provider, waiting, left } => {
                self.provider(provider).waiting.set(waiting.map(|what| (what, now + *left)), now);
            }
            Event::Held(hold) => self.hold.set(*hold, now),
            _ => {}
        }
    }

    fn provider(&mut self, provider: &str) -> &mut ProviderWaits {
        if !self.providers.contains_key(provider) {
            self.providers.insert(provider.to_owned(), ProviderWaits::default());
        }
        self.providers.get_mut(provider).expect("it is there now")
    }

    /// Returns the number of requests in flight at all providers.
    pub(super) fn in_flight(&self) -> u64 {
        self.providers.values().map(|provider| u64::from(provider.in_flight)).sum()
    }

    /// Returns what the run waits for now, or `None` if it only waits for answers.
    pub(super) fn in_words(&self, now: Instant) -> Option<String> {
        let providers = self.providers.iter().filter_map(|(name, provider)| {
            let (waiting, until) = provider.waiting.get(now)?;
            let is_steady = matches!(waiting, Waiting::RequestsPerMinute | Waiting::TokensPerMinute);
            if !is_steady && until <= now {
                return None;
            }
            let left = brief(until.saturating_duration_since(now));
            Some(match waiting {
                Waiting::RequestsPerMinute => format!("requests per minute of {name}"),
                Waiting::TokensPerMinute => format!("tokens per minute of {name}"),
                Waiting::Pause => format!("{name} asked to pause, {left} left"),
                Waiting::Breaker => format!("{name} fails, next try in {left}"),
                Waiting::Budget => "what requests in flight leave of the budget".to_owned(),
                Waiting::Backoff => format!("retries at {name}, next in {left}"),
            })
        });
        let hold = self.hold.get(now).map(|hold| match hold {
            Hold::SlowRows(batch) => format!("slow rows of batch {batch}, the window is full"),
            Hold::Commit(batch) => format!("commit of batch {batch}, the window is full"),
        });
        let words: Vec<String> = providers.chain(hold).collect();
        (!words.is_empty()).then(|| words.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use crate::ident::BatchId;

    #[test]
    fn a_reason_is_shown_with_its_time_and_for_a_moment_after_it() {
        let start = clock::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut waits = Waits::default();
        assert_eq!(waits.in_words(start), None);
        let pause = |waiting, left| Event::Waiting { provider: "openrouter", waiting, left };
        waits.note(&pause(Some(Waiting::Pause), Duration::from_secs(90)), start);
        assert_eq!(waits.in_words(at(20)).as_deref(), Some("openrouter asked to pause, 1m 10s left"));
        waits.note(&pause(None, Duration::ZERO), at(90));
        assert_eq!(waits.in_words(at(90)), None, "a time that is over is not shown");

        waits.note(&pause(Some(Waiting::RequestsPerMinute), Duration::ZERO), at(91));
        waits.note(&pause(None, Duration::ZERO), at(98));
        waits.note(&Event::Held(Some(Hold::SlowRows(BatchId::FIRST))), at(91));
        assert_eq!(
            waits.in_words(at(98)).as_deref(),
            Some("requests per minute of openrouter; slow rows of batch 0, the window is full")
        );
        waits.note(&Event::Held(None), at(98));
        assert_eq!(waits.in_words(at(99)), None);
    }

    #[test]
    fn requests_in_flight_are_those_of_all_providers() {
        let now = clock::now();
        let mut waits = Waits::default();
        for (provider, requests) in [("a", 3), ("b", 4), ("a", 5)] {
            waits.note(&Event::InFlight { provider, requests }, now);
        }
        assert_eq!(waits.in_flight(), 9);
    }
}
