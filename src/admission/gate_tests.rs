//! What the gate lets through, moment by moment.

use std::path::Path;
use std::time::Duration;

use super::gate::{Admission, Blame, Health, Held, LAST_PROBE, Ticket};
use super::{Cost, Learned};
use crate::clock::{self, Instant, Jitter};
use crate::config::Job;
use crate::event::Waiting;
use crate::fault::{Class, Failure};
use crate::ident::{BatchId, Cell, StepId};
use crate::wire::Limits;

fn admission(more: &str) -> (Admission, Instant) {
    admission_of(&format!("max_concurrency = 4\n{more}"))
}

/// The state of a provider that nothing was heard of, with these settings.
fn admission_of(settings: &str) -> (Admission, Instant) {
    let text = format!(
        "app_id = \"a\"\n[source]\npath = \"s\"\n[target]\npath = \"t\"\n[provider.p]\n\
         base_url = \"simulator\"\nmodel = \"m\"\n{settings}\n\
         [[step]]\noutput = \"o\"\nprompt = \"p\"\n"
    );
    let job = Job::parse(Path::new("/job.toml"), &text, |_| None).unwrap();
    let now = clock::now();
    (Admission::new(&job.providers[0], &Learned::default(), now, Jitter::seeded(1)), now)
}

fn failure(class: Class) -> Failure {
    Failure::new(class, "no")
}

/// Tickets of requests that are admitted at once.
fn burst(admission: &mut Admission, now: Instant) -> Vec<Ticket> {
    std::iter::from_fn(|| admission.admit(Cost::default(), now).ok()).collect()
}

fn sent(admission: &mut Admission, now: Instant) -> Ticket {
    admission.admit(Cost::default(), now).expect("it is admitted")
}

fn row(row: u32) -> Cell {
    Cell { batch: BatchId::FIRST, row, step: StepId::FIRST }
}

fn limits() -> Limits {
    Limits::default()
}

/// A state that has heard of its provider.
fn heard() -> (Admission, Instant) {
    let (mut admission, now) = admission("requests_per_minute = 600_000");
    let ticket = sent(&mut admission, now);
    admission.answered(&ticket, None, &limits(), now);
    (admission, now + Duration::from_millis(1))
}

fn fail(admission: &mut Admission, at: u32, is_last: bool, now: Instant) -> Blame {
    let ticket = sent(admission, now);
    admission.failed(&ticket, row(at), &failure(Class::ServerError), is_last, &limits(), now)
}

#[test]
fn one_request_goes_alone_until_something_is_heard() {
    let (mut admission, now) = admission("requests_per_minute = 600_000");
    let tickets = burst(&mut admission, now);
    assert_eq!(tickets.len(), 1);
    assert_eq!(admission.admit(Cost::default(), now).unwrap_err(), Held::WhenOneEnds);
    assert_eq!(admission.room(now), Err(Held::WhenOneEnds));
    admission.answered(&tickets[0], None, &limits(), now);
    assert_eq!(burst(&mut admission, now).len(), 4);
}

#[test]
fn answers_that_land_together_let_more_go_as_those_that_land_alone_do() {
    let grown = |together: bool| {
        let (mut admission, mut now) = admission_of("");
        let mut in_flight = burst(&mut admission, now);
        for _ in 0..40 {
            now += Duration::from_millis(500);
            for ticket in std::mem::take(&mut in_flight) {
                admission.answered(&ticket, None, &limits(), now);
                if !together {
                    in_flight.extend(burst(&mut admission, now));
                }
            }
            in_flight.extend(burst(&mut admission, now));
        }
        in_flight.len()
    };
    assert_eq!(grown(false), 64);
    assert_eq!(grown(true), 64);
}

#[test]
fn a_throttled_provider_is_left_alone_as_long_as_it_asks() {
    let (mut admission, now) = heard();
    let before = burst(&mut admission, now);
    assert_eq!(before.len(), 4);
    let busy = failure(Class::RateLimited).with_delay(Some(Duration::from_secs(7)));
    for ticket in &before[..3] {
        assert_eq!(admission.throttled(ticket, &busy, &limits(), now), Blame::Provider);
    }
    // An answer to what was sent before the pause does not cut it short.
    admission.answered(&before[3], None, &limits(), now);
    let held = Held::Until(now + Duration::from_secs(7), Waiting::Pause);
    assert_eq!(admission.admit(Cost::default(), now).unwrap_err(), held);
    assert_eq!(admission.room(now), Err(held));
    let later = now + Duration::from_secs(9);
    let ticket = sent(&mut admission, later);
    let hours = failure(Class::RateLimited).with_delay(Some(Duration::from_secs(7_200)));
    assert!(matches!(admission.throttled(&ticket, &hours, &limits(), later), Blame::Run(_)));
}

#[test]
fn failures_of_many_rows_open_the_breaker_and_then_cost_rows_nothing() {
    let (mut admission, mut now) = heard();
    for at in 0..9 {
        assert_eq!(fail(&mut admission, at, false, now), Blame::Row);
    }
    assert_eq!(fail(&mut admission, 9, false, now), Blame::Provider, "it opens");
    let mut probes = 0;
    loop {
        match admission.admit(Cost::default(), now) {
            Ok(ticket) => {
                probes += 1;
                let broken = failure(Class::Connection);
                match admission.failed(&ticket, row(probes), &broken, true, &limits(), now) {
                    Blame::Provider => {}
                    Blame::Run(failure) => {
                        assert_eq!(failure.class, Class::Unavailable);
                        break;
                    }
                    other => panic!("an outage is not the row's: {other:?}"),
                }
            }
            Err(Held::Until(at, why)) => {
                assert_eq!(why, Waiting::Breaker);
                now = at;
            }
            Err(Held::WhenOneEnds) => panic!("one probe at a time, and it has ended"),
        }
    }
    assert!((15..60).contains(&probes), "{probes} probes in fifteen minutes");
}

#[test]
fn a_few_rows_that_the_provider_chokes_on_are_no_outage() {
    let (mut admission, mut now) = heard();
    for attempt in 1..=5 {
        for at in 0..3 {
            let poison = sent(&mut admission, now);
            let other = sent(&mut admission, now);
            now += Duration::from_millis(1);
            admission.answered(&other, None, &limits(), now);
            let broken = failure(Class::ServerError);
            let blame = admission.failed(&poison, row(at), &broken, attempt == 5, &limits(), now);
            assert_eq!(blame, Blame::Row);
        }
    }
}

#[test]
fn a_row_is_not_given_up_while_nobody_is_answered() {
    let (mut admission, now) = heard();
    assert_eq!(fail(&mut admission, 0, true, now), Blame::Doubt);
    // The provider answers something harmless: then it was the row.
    let ticket = sent(&mut admission, now);
    let later = now + Duration::from_secs(1);
    admission.vouched(later);
    let broken = failure(Class::ServerError);
    assert_eq!(admission.failed(&ticket, row(0), &broken, true, &limits(), later), Blame::Row);
}

#[test]
fn a_provider_that_fails_most_of_the_time_is_left_alone() {
    let (mut admission, mut now) = heard();
    let mut opened = None;
    for at in 0..200 {
        now += Duration::from_millis(1);
        let ticket = sent(&mut admission, now);
        if at % 9 == 8 {
            admission.answered(&ticket, None, &limits(), now);
            continue;
        }
        let broken = failure(Class::ServerError);
        if admission.failed(&ticket, row(at), &broken, false, &limits(), now) == Blame::Provider {
            opened = Some(at);
            break;
        }
    }
    assert_eq!(opened, Some(38), "the answer before counts as well");
}

#[test]
fn an_answer_closes_the_breaker() {
    let (mut admission, now) = heard();
    for at in 0..10 {
        fail(&mut admission, at, false, now);
    }
    assert!(matches!(admission.health(now), Health::Down(_)));
    let later = now + LAST_PROBE;
    assert_eq!(admission.health(later), Health::Probing);
    let probe = burst(&mut admission, later);
    assert_eq!(probe.len(), 1);
    admission.answered(&probe[0], None, &limits(), later);
    assert_eq!(admission.health(later), Health::Up);
    assert_eq!(fail(&mut admission, 0, false, later), Blame::Row);
}

#[test]
fn a_provider_that_answers_nobody_ends_the_run_and_not_the_row() {
    let (mut admission, now) = admission("");
    for attempt in 1..=5 {
        let blame = fail(&mut admission, 0, attempt == 5, now);
        assert_eq!(blame, if attempt < 5 { Blame::Row } else { Blame::Doubt });
    }
    let ticket = sent(&mut admission, now);
    let blame = admission.doubted(&ticket, &failure(Class::Connection), &limits(), now);
    assert!(matches!(blame, Blame::Run(_)));
}
