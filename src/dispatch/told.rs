//! What a dispatcher has told of its state, so that it tells changes only.

use crate::clock::Instant;
use crate::event::{Event, Voice, Waiting};

/// What was told last.
#[derive(Debug, Default)]
pub(super) struct Told {
    in_flight: u32,
    waiting: Option<(Waiting, Instant)>,
}

impl Told {
    /// Tells what is in flight and what is waited for, where that is news.
    pub(super) fn tell(
        &mut self,
        voice: &Voice,
        provider: &str,
        now: Instant,
        in_flight: u32,
        waiting: Option<(Waiting, Instant)>,
    ) {
        if self.in_flight != in_flight {
            self.in_flight = in_flight;
            voice.say(&Event::InFlight { provider, requests: in_flight });
        }
        if is_news(self.waiting, waiting) {
            let left = waiting.map(|(_, until)| until.saturating_duration_since(now)).unwrap_or_default();
            voice.say(&Event::Waiting { provider, waiting: waiting.map(|(what, _)| what), left });
            self.waiting = waiting;
        }
    }
}

/// The quota's next request is a moment away, and another moment with each: that is no news.
fn is_news(told: Option<(Waiting, Instant)>, now: Option<(Waiting, Instant)>) -> bool {
    match (told, now) {
        (Some((Waiting::RequestsPerMinute, _)), Some((Waiting::RequestsPerMinute, _))) => false,
        (told, now) => told != now,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    use super::*;
    use crate::clock;
    use crate::event::Listener;

    #[derive(Clone, Default)]
    struct Heard(Arc<Mutex<Vec<String>>>);

    impl Listener for Heard {
        fn on(&self, event: &Event<'_>) {
            let text = match event {
                Event::InFlight { requests, .. } => format!("{requests} in flight"),
                Event::Waiting { waiting, left, .. } => format!("{waiting:?} {left:?}"),
                other => panic!("{other:?}"),
            };
            self.0.lock().unwrap().push(text);
        }
    }

    #[test]
    fn only_changes_are_told() {
        let heard = Heard::default();
        let voice = Voice::new(vec![Box::new(heard.clone())]);
        let now = clock::now();
        let mut told = Told::default();
        let at = |seconds| now + Duration::from_secs(seconds);
        told.tell(&voice, "p", now, 0, None);
        told.tell(&voice, "p", now, 4, Some((Waiting::RequestsPerMinute, at(1))));
        told.tell(&voice, "p", at(1), 4, Some((Waiting::RequestsPerMinute, at(2))));
        told.tell(&voice, "p", at(1), 4, Some((Waiting::Pause, at(5))));
        told.tell(&voice, "p", at(2), 4, Some((Waiting::Pause, at(5))));
        told.tell(&voice, "p", at(2), 4, Some((Waiting::Pause, at(9))));
        told.tell(&voice, "p", at(9), 3, None);
        assert_eq!(
            *heard.0.lock().unwrap(),
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
