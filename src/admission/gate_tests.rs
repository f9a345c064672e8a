//! Tests of what admission lets through, moment by moment.

use std::path::Path;
use std::time::Duration;

use super::gate::{Admission, LAST_PROBE};
use super::ticket::{Blame, Health, NotAdmitted, Ticket};
use super::{Cost, ProviderLimits, SharedQuotas};
use crate::clock::{self, Instant, Jitter};
use crate::config::Job;
use crate::event::Waiting;
use crate::fault::{Class, Failure, Scarce};
use crate::ident::{BatchId, Cell, StepId};
use crate::wire::Limits;

fn admission(more: &str) -> (Admission, Instant) {
    admission_of(&format!("max_concurrency = 4\n{more}"))
}

/// The state of a provider with these settings that has not answered yet.
fn admission_of(settings: &str) -> (Admission, Instant) {
    admission_with(settings, false)
}

fn admission_with(settings: &str, has_fallback: bool) -> (Admission, Instant) {
    let text = format!(
        "app_id = \"a\"\n[source]\npath = \"s\"\n[target]\npath = \"t\"\n[provider.p]\n\
         base_url = \"simulator\"\nmodel = \"m\"\n{settings}\n\
         [[step]]\noutput = \"o\"\nprompt = \"p\"\n"
    );
    let job = Job::parse(Path::new("/job.toml"), &text, |_| None).unwrap();
    let now = clock::now();
    let (provider, learned) = (&job.providers[0], ProviderLimits::default());
    let quotas = SharedQuotas::new(provider, &learned, now);
    (Admission::new(provider, &learned, quotas, has_fallback, now, Jitter::seeded(1)), now)
}

fn failure(class: Class) -> Failure {
    Failure::new(class, "no")
}

/// Admits as many requests as may go at once, and returns their tickets.
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

/// The state of a provider that has answered once.
fn answering() -> (Admission, Instant) {
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
fn one_request_goes_alone_until_an_answer_comes() {
    let (mut admission, now) = admission("requests_per_minute = 600_000");
    let tickets = burst(&mut admission, now);
    assert_eq!(tickets.len(), 1);
    assert_eq!(admission.admit(Cost::default(), now).unwrap_err(), NotAdmitted::WhenOneEnds);
    assert_eq!(admission.may_send(now), Err(NotAdmitted::WhenOneEnds));
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
    let (mut admission, now) = answering();
    let before = burst(&mut admission, now);
    assert_eq!(before.len(), 4);
    let busy = failure(Class::RateLimited).with_delay(Some(Duration::from_secs(7)));
    for ticket in &before[..3] {
        assert_eq!(admission.throttled(ticket, Some(row(0)), &busy, false, &limits(), now), Blame::Provider);
    }
    // An answer to a request that was sent before the pause does not cut it short.
    admission.answered(&before[3], None, &limits(), now);
    let held = NotAdmitted::Until(now + Duration::from_secs(7), Waiting::Pause);
    assert_eq!(admission.admit(Cost::default(), now).unwrap_err(), held);
    assert_eq!(admission.may_send(now), Err(held));
    let later = now + Duration::from_secs(9);
    let ticket = sent(&mut admission, later);
    let hours = failure(Class::RateLimited).with_delay(Some(Duration::from_secs(7_200)));
    assert!(matches!(
        admission.throttled(&ticket, Some(row(0)), &hours, false, &limits(), later),
        Blame::Run(_)
    ));
}

#[test]
fn failures_of_many_rows_open_the_breaker_and_then_cost_rows_nothing() {
    let (mut admission, mut now) = answering();
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
            Err(NotAdmitted::Until(at, why)) => {
                assert_eq!(why, Waiting::Breaker);
                now = at;
            }
            Err(NotAdmitted::WhenOneEnds) => panic!("one probe at a time, and it has ended"),
        }
    }
    assert!((15..60).contains(&probes), "{probes} probes in fifteen minutes");
}

#[test]
fn a_few_rows_that_the_provider_chokes_on_are_no_outage() {
    let (mut admission, mut now) = answering();
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
    let (mut admission, now) = answering();
    assert_eq!(fail(&mut admission, 0, true, now), Blame::Doubt);
    // The provider answers a health probe, so that the row is to blame.
    let ticket = sent(&mut admission, now);
    let later = now + Duration::from_secs(1);
    admission.mark_healthy(later);
    let broken = failure(Class::ServerError);
    assert_eq!(admission.failed(&ticket, row(0), &broken, true, &limits(), later), Blame::Row);
}

/// Sends attempts of which one in nine is answered, and returns the first failure that is not blamed on its row.
fn mostly_failing(admission: &mut Admission, mut now: Instant) -> (u32, Blame) {
    for at in 0..200 {
        now += Duration::from_millis(1);
        let ticket = sent(admission, now);
        if at % 9 == 8 {
            admission.answered(&ticket, None, &limits(), now);
            continue;
        }
        let broken = failure(Class::ServerError);
        match admission.failed(&ticket, row(at), &broken, false, &limits(), now) {
            Blame::Row => {}
            other => return (at, other),
        }
    }
    (200, Blame::Row)
}

#[test]
fn a_provider_that_fails_most_of_the_time_is_left_alone_where_rows_can_go_elsewhere() {
    let (mut admission, now) = admission_with("requests_per_minute = 600_000", true);
    let ticket = sent(&mut admission, now);
    admission.answered(&ticket, None, &limits(), now);
    let (at, blame) = mostly_failing(&mut admission, now);
    assert_eq!((at, blame), (38, Blame::Provider), "the answer before counts as well");
    assert!(matches!(admission.health(now), Health::Down(_)));
}

#[test]
fn a_provider_that_fails_most_of_the_time_and_is_the_only_one_gets_less_at_once() {
    let (mut admission, now) = admission_of("max_concurrency = 64\nrequests_per_minute = 600_000");
    let ticket = sent(&mut admission, now);
    admission.answered(&ticket, None, &limits(), now);
    assert_eq!(admission.gauge().concurrency, 64);
    assert_eq!(mostly_failing(&mut admission, now), (38, Blame::Brownout));
    assert_eq!((admission.health(now), admission.gauge().concurrency), (Health::Up, 32));
}

#[test]
fn half_of_the_attempts_may_fail_without_an_outage_and_an_outage_is_seen_all_the_same() {
    let (mut admission, mut now) = answering();
    let mut chance = Jitter::seeded(7);
    let mut attempt = |admission: &mut Admission, at: u32, share: f64, now: Instant| {
        let ticket = sent(admission, now);
        if chance.full(Duration::from_secs(1)).as_secs_f64() < share {
            let broken = failure(Class::ServerError);
            return Some(admission.failed(&ticket, row(at), &broken, false, &limits(), now));
        }
        admission.answered(&ticket, None, &limits(), now);
        None
    };
    for at in 0..2_000 {
        now += Duration::from_millis(1);
        let blame = attempt(&mut admission, at, 0.5, now);
        assert!(matches!(blame, None | Some(Blame::Row | Blame::Brownout)), "{at}: {blame:?}");
    }
    let opened = (2_000..2_100).find(|at| {
        now += Duration::from_millis(1);
        attempt(&mut admission, *at, 1.1, now) == Some(Blame::Provider)
    });
    assert!(opened.is_some_and(|at| at < 2_040), "{opened:?}");
}

#[test]
fn rows_that_are_still_worked_on_keep_the_breaker_closed() {
    let (mut admission, now) = admission_of("max_concurrency = 64\nrequests_per_minute = 600_000");
    let ticket = sent(&mut admission, now);
    let later = now + Duration::from_secs(2);
    admission.answered(&ticket, None, &limits(), later);
    // A fifth of the requests that are sent together fails at once; the others take their time.
    let tickets = burst(&mut admission, later);
    assert_eq!(tickets.len(), 64);
    let refused = later + Duration::from_millis(20);
    for (at, ticket) in (0..).zip(tickets.iter().step_by(5)) {
        let broken = failure(Class::ServerError);
        let blame = admission.failed(ticket, row(at), &broken, false, &limits(), refused);
        assert_eq!(blame, Blame::Row, "{at}");
    }
}

#[test]
fn a_refusal_of_one_request_while_others_are_answered_is_its_own() {
    let (mut admission, mut now) = answering();
    let busy = failure(Class::RateLimited);
    let refused = sent(&mut admission, now);
    assert_eq!(
        admission.throttled(&refused, Some(row(0)), &busy, false, &limits(), now),
        Blame::Provider,
        "the first one may be a limit"
    );
    let before = admission.response_counts();
    assert!(!admission.is_own(before), "nobody was answered since");
    now += Duration::from_secs(1);
    for _ in 0..3 {
        let ticket = sent(&mut admission, now);
        now += Duration::from_millis(10);
        admission.answered(&ticket, None, &limits(), now);
    }
    assert!(admission.is_own(before));
    let again = sent(&mut admission, now);
    assert_eq!(admission.throttled(&again, Some(row(0)), &busy, true, &limits(), now), Blame::Request);
    assert_eq!(admission.pause_left(now), None, "nobody else waits for it");
}

#[test]
fn one_busy_answer_is_no_reason_to_leave_a_server_alone_and_many_are() {
    let (mut admission, mut now) = answering();
    let busy = Failure::new(Class::RateLimited, "busy")
        .with_delay(Some(Duration::from_secs(5)))
        .with_scarce(Some(Scarce::Capacity));
    for at in 0..10 {
        now += Duration::from_millis(1);
        let ticket = sent(&mut admission, now);
        let blame = admission.throttled(&ticket, Some(row(at)), &busy, false, &limits(), now);
        assert_eq!(blame, if at < 9 { Blame::Request } else { Blame::Provider }, "{at}");
    }
    assert_eq!(admission.pause_left(now), Some(Duration::from_secs(5)));
}

#[test]
fn an_answer_closes_the_breaker() {
    let (mut admission, now) = answering();
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
    let blame = admission.health_probe_failed(&ticket, &failure(Class::Connection), &limits(), now);
    assert!(matches!(blame, Blame::Run(_)), "rather a wrong address than an outage");
}

#[test]
fn a_server_that_is_starting_is_given_as_long_as_one_that_fails_in_the_middle() {
    let (mut admission, started) = admission("");
    let (mut probes, mut now) = (0, started);
    loop {
        match admission.admit(Cost::default(), now) {
            Ok(ticket) => {
                probes += 1;
                match admission.health_probe_failed(&ticket, &failure(Class::ServerError), &limits(), now) {
                    Blame::Provider => {}
                    Blame::Run(_) => break,
                    other => panic!("nobody was answered: {other:?}"),
                }
            }
            Err(NotAdmitted::Until(at, _)) => now = at,
            Err(NotAdmitted::WhenOneEnds) => panic!("it has ended"),
        }
    }
    assert!(now - started > Duration::from_secs(900) && (10..60).contains(&probes), "{probes} probes");
}
