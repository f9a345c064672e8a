//! What a dispatcher has reported of its state, so that it reports changes only.

use std::time::Duration;

use crate::clock::Instant;
use crate::event::{Event, LimitGauge, Voice, Waiting};

/// Time between two reports of figures that change with every request.
const GAUGED_EVERY: Duration = Duration::from_millis(500);

/// The state that was reported last.
#[derive(Debug, Default)]
pub(super) struct StateReporter {
    in_flight: u32,
    waiting: Option<(Waiting, Instant)>,
    gauged: Option<Instant>,
}

impl StateReporter {
    /// Reports requests in flight and what is waited for, if they changed, and the limits, if they are due. Returns
    /// whether they were.
    pub(super) fn report(
        &mut self,
        voice: &Voice,
        provider: &str,
        now: Instant,
        in_flight: u32,
        waiting: Option<(Waiting, Instant)>,
        gauge: impl FnOnce() -> LimitGauge,
    ) -> bool {
        let is_due = self.gauged.is_none_or(|gauged| now.saturating_duration_since(gauged) >= GAUGED_EVERY);
        if is_due {
            self.gauged = Some(now);
            voice.say(&Event::Gauged { provider, gauge: &gauge() });
        }
        if self.in_flight != in_flight {
            self.in_flight = in_flight;
            voice.say(&Event::InFlight { provider, requests: in_flight });
        }
        if is_news(self.waiting, waiting) {
            let left = waiting.map(|(_, until)| until.saturating_duration_since(now)).unwrap_or_default();
            voice.say(&Event::Waiting { provider, waiting: waiting.map(|(what, _)| what), left });
            self.waiting = waiting;
        }
        is_due
    }
}

/// Whether a wait is worth a report. The next request of a quota is always a moment away, and the moment moves with
/// each request: that is no news.
fn is_news(reported: Option<(Waiting, Instant)>, now: Option<(Waiting, Instant)>) -> bool {
    match (reported, now) {
        (Some((Waiting::RequestsPerMinute, _)), Some((Waiting::RequestsPerMinute, _)))
        | (Some((Waiting::TokensPerMinute, _)), Some((Waiting::TokensPerMinute, _)))
        | (Some((Waiting::Budget, _)), Some((Waiting::Budget, _))) => false,
        (reported, now) => reported != now,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::clock;
    use crate::event::Listener;

    #[derive(Clone, Default)]
    struct ReportedState(Arc<Mutex<Vec<String>>>);

    impl Listener for ReportedState {
        fn on(&self, event: &Event<'_>) {
            let text = match event {
                Event::InFlight { requests, .. } => format!("{requests} in flight"),
                Event::Waiting { waiting, left, .. } => format!("{waiting:?} {left:?}"),
                Event::Gauged { .. } => return,
                other => panic!("{other:?}"),
            };
            self.0.lock().unwrap().push(text);
        }
    }

    #[test]
    fn only_changes_are_reported() {
        let reports = ReportedState::default();
        let voice = Voice::new(vec![Box::new(reports.clone())]);
        let now = clock::now();
        let mut reporter = StateReporter::default();
        let at = |seconds| now + Duration::from_secs(seconds);
        reporter.report(&voice, "p", now, 0, None, LimitGauge::default);
        reporter.report(&voice, "p", now, 4, Some((Waiting::RequestsPerMinute, at(1))), LimitGauge::default);
        reporter.report(
            &voice,
            "p",
            at(1),
            4,
            Some((Waiting::RequestsPerMinute, at(2))),
            LimitGauge::default,
        );
        reporter.report(&voice, "p", at(1), 4, Some((Waiting::Pause, at(5))), LimitGauge::default);
        reporter.report(&voice, "p", at(2), 4, Some((Waiting::Pause, at(5))), LimitGauge::default);
        reporter.report(&voice, "p", at(2), 4, Some((Waiting::Pause, at(9))), LimitGauge::default);
        reporter.report(&voice, "p", at(9), 3, None, LimitGauge::default);
        assert_eq!(
            *reports.0.lock().unwrap(),
            [
                "4 in flight",
                "Some(RequestsPerMinute) 1s",
                "Some(Pause) 4s",
                "Some(Pause) 7s",
                "3 in flight",
                "None 0ns"
            ]
        );
    }
}
