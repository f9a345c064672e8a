//! What the gate lets through, moment by moment.

use std::path::Path;
use std::time::Duration;

use super::gate::{Admission, Admit, Blame, Health, LAST_PROBE, Ticket};
use super::{Cost, Learned};
use crate::clock::{self, Instant, Jitter};
use crate::config::Job;
use crate::event::Waiting;
use crate::fault::{Class, Failure};
use crate::ident::{BatchId, Cell, StepId};
use crate::wire::Limits;

fn admission(more: &str) -> (Admission, Instant) {
    let text = format!(
        "app_id = \"a\"\n[source]\npath = \"s\"\n[target]\npath = \"t\"\n[provider.p]\n\
         base_url = \"simulator\"\nmodel = \"m\"\nmax_concurrency = 4\n{more}\n\
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
    std::iter::from_fn(|| match admission.admit(Cost::default(), now) {
        Admit::Now(ticket) => Some(ticket),
        _ => None,
    })
    .collect()
}

fn sent(admission: &mut Admission, now: Instant) -> Ticket {
    match admission.admit(Cost::default(), now) {
        Admit::Now(ticket) => ticket,
        other => panic!("not admitted: {other:?}"),
    }
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
    assert!(matches!(admission.admit(Cost::default(), now), Admit::WhenOneEnds));
    admission.answered(&tickets[0], None, &limits(), now);
    assert_eq!(burst(&mut admission, now).len(), 4);
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
    match admission.admit(Cost::default(), now) {
        Admit::At(until, Waiting::Pause) => assert_eq!(until, now + Duration::from_secs(7)),
        other => panic!("{other:?}"),
    }
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
            Admit::Now(ticket) => {
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
            Admit::At(at, why) => {
                assert_eq!(why, Waiting::Breaker);
                now = at;
            }
            Admit::WhenOneEnds => panic!("one probe at a time, and it has ended"),
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
