//! Ends of runs that are not the end of the source: signals, limits, providers that make it useless.

use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use enrich::config::{FaultSpec, SimulatorSpec, Span};
use enrich::simulator::Gate;

use crate::support::{PATIENT, Setup, World, append_delta, prompt_of, rows, with_faults};
use crate::support::{send, stop, until, until_stopped, wait};

// For `independent` and `limits`.
pub use crate::support::{fault, faulty, slow};
pub async fn world_of(simulator: SimulatorSpec, rows: i64) -> World {
    World::of(Setup { simulator, rows, ..Setup::default() }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_signal_lets_what_is_in_flight_end_and_says_how_to_go_on() {
    for signal in ["INT", "TERM", "HUP"] {
        let world = World::of(Setup { rows: 60, provider: PATIENT, ..Setup::default() }).await;
        world.simulator.set_gate(Gate::ShutFrom(23));
        let mut child = world.start(&[]);
        // Four of them are in flight: two batches and two rows are answered.
        world.until_requests(26).await;
        stop(&mut child, signal).await;
        world.simulator.set_gate(Gate::Open);
        let ended = wait(child).await;
        ended.assert_status(130).assert_says("everything that was answered is kept; what was cut off in flight is sent again; to go on: enrich run ");
        let counts = world.simulator.counts();
        assert!(counts.requests < 40, "nothing new is asked: {}", counts.requests);
        assert!(world.target().await.len() >= 20, "full batches are committed");
        world.run(&[]).await.assert_status(0);
        world.assert_target(0..60).await;
        assert_eq!(world.simulator.counts().paid_again(), 0, "SIG{signal} cost an answer");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_stops_at_once_and_loses_nothing_that_was_answered() {
    let world = World::of(Setup { rows: 30, ..Setup::default() }).await;
    world.simulator.set_gate(Gate::ShutFrom(2));
    let mut child = world.start(&[]);
    // The first request goes alone.
    world.until_requests(3).await;
    stop(&mut child, "INT").await;
    send(&child, "INT");
    wait(child).await.assert_status(130);
    assert_eq!(world.simulator.counts().answered, 1, "nobody waited for those in flight");
    world.simulator.set_gate(Gate::Open);
    world.run(&[]).await.assert_status(0);
    assert_eq!(world.simulator.counts().answers_to(&prompt_of(0)), 1);
    world.assert_target(0..30).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_while_a_run_begins_ends_it_without_a_panic() {
    for milliseconds in (20..100).step_by(4) {
        let world = World::of(Setup { simulator: slow(1_000), rows: 12, ..Setup::default() }).await;
        let child = world.start(&[]);
        tokio::time::sleep(Duration::from_millis(milliseconds)).await;
        send(&child, "TERM");
        let ended = wait(child).await;
        assert!(!ended.stderr.contains("panicked"), "after {milliseconds} ms:\n{}", ended.stderr);
        // One that comes before it is listened for ends the process itself.
        assert!(matches!(ended.status, Some(0 | 130) | None), "{:?}: {}", ended.status, ended.stderr);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_stood_still_pays_for_nothing_again_that_lies_in_its_sockets() {
    let world = World::with_rows(40, 1).await;
    world.write_job("request_timeout = \"4s\"");
    world.simulator.set_gate(Gate::ShutFrom(6));
    let child = world.start(&[]);
    // Four of them are in flight.
    world.until_requests(9).await;
    send(&child, "STOP");
    until_stopped(&child).await;
    world.simulator.set_gate(Gate::Open);
    until(&world.simulator, |counts| counts.answered >= 9).await;
    // Longer than any request may take.
    tokio::time::sleep(Duration::from_millis(6_500)).await;
    send(&child, "CONT");
    wait(child).await.assert_status(0).assert_says(" 0 retries");
    world.assert_target(0..40).await;
    assert_eq!(world.simulator.counts().paid_again(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_interim_responses_outlasts_no_timeout_and_keeps_no_signal_unheard() {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let flood = listener.local_addr().unwrap();
    let sent = Arc::new(AtomicU64::new(0));
    let sending = Arc::clone(&sent);
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let sending = Arc::clone(&sending);
            std::thread::spawn(move || {
                let hints = "HTTP/1.1 103 Early Hints\r\nlink: <x>\r\n\r\n".repeat(200);
                while std::io::Write::write_all(&mut stream, hints.as_bytes()).is_ok() {
                    sending.fetch_add(200, Ordering::Relaxed);
                }
            });
        }
    });
    let world = World::with_rows(40, 1).await;
    let job = world.usual_job("request_timeout = \"300ms\"\noutage_deadline = \"2s\"");
    let url = world.simulator.url().as_str().trim_end_matches('/').to_owned();
    world.write_text(&job.replace(&url, &format!("http://{flood}/v1")));
    world.run(&[]).await.assert_status(4).assert_says("timeout: no whole answer within 300ms");
    world.write_text(
        &world.usual_job("request_timeout = \"1h\"").replace(&url, &format!("http://{flood}/v1")),
    );
    let before = sent.load(Ordering::Relaxed);
    let child = world.start(&["--grace", "100ms"]);
    // Far more than lies in sockets.
    while sent.load(Ordering::Relaxed) < before + 1_000_000 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    send(&child, "TERM");
    wait(child).await.assert_status(130).assert_says("interrupted: ");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standard_error_that_nobody_reads_holds_back_no_row() {
    let world = World::with_rows(3_000, 1).await;
    let mut command = world.job_command("run", &[]);
    // Far more than a pipe holds.
    command.env("RUST_LOG", "trace").stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let ended = tokio::task::spawn_blocking(move || (child.wait().unwrap(), child)).await.unwrap();
    assert!(ended.0.success(), "{}", ended.0);
    assert_eq!(world.target().await.len(), 3_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_time_that_never_comes_is_refused() {
    let world = World::with_rows(4, 1).await;
    for (option, time) in [("--max-duration", "18446744073709551615s"), ("--grace", "101years")] {
        let refused = world.run(&[option, time]).await;
        refused.assert_status(2).assert_says("it is longer than a hundred years");
    }
    world.write_job("outage_deadline = \"18446744073709551615s\"");
    world.run(&[]).await.assert_status(2).assert_says("it is longer than a hundred years");
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_in_flight_have_the_grace_and_no_more() {
    // Who waited for the answer would have it within the time that a request may take.
    let world = World::of(Setup { simulator: slow(90_000), rows: 10, ..Setup::default() }).await;
    let child = world.start(&["--grace", "200ms"]);
    world.until_requests(1).await;
    send(&child, "TERM");
    wait(child).await.assert_status(130);
    assert_eq!(world.simulator.counts().answered, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn max_rows_and_max_duration_end_a_run_well() {
    let world = World::of(Setup { simulator: slow(30), rows: 60, ..Setup::default() }).await;
    world
        .run(&["--max-rows", "15"])
        .await
        .assert_status(0)
        .assert_says("stopped after --max-rows: 15 rows written");
    assert_eq!(world.simulator.counts().requests, 15);
    let ended = world.run(&["--max-duration", "150ms"]).await;
    ended.assert_status(0).assert_says("stopped after --max-duration");
    assert!(world.simulator.counts().requests < 60);
    world.run(&[]).await.assert_status(0);
    world.assert_target(0..60).await;
    assert_eq!(world.simulator.counts().requests, 60);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_stdout_and_stderr_do_not_kill_a_run() {
    let world = World::with_rows(20, 1).await;
    let mut child = world.start(&[]);
    drop(child.stdout.take());
    drop(child.stderr.take());
    wait(child).await.assert_status(0);
    world.assert_target(0..20).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_provider_stops_the_run_and_the_rows_stay_pending() {
    let refusal = |status: u16, code: &str, message: &str| FaultSpec {
        status: Some(status),
        code: Some(code.into()),
        message: Some(message.into()),
        ..fault()
    };
    let cases = [
        (
            refusal(401, "invalid_api_key", "Wrong key."),
            "auth: HTTP 401 invalid_api_key: Wrong key.",
            "check the key",
        ),
        (refusal(403, "forbidden", "No."), "auth: HTTP 403", "check the key"),
        (refusal(402, "payment", "Pay."), "billing: HTTP 402", "raise the quota"),
        (
            refusal(404, "model_not_found", "No such model."),
            "unknown_model: HTTP 404",
            "check the model's name",
        ),
        (
            refusal(429, "insufficient_quota", "Spent."),
            "quota: HTTP 429 insufficient_quota: Spent.",
            "raise the quota",
        ),
        (refusal(307, "moved", "There."), "redirect: HTTP 307", "check base_url"),
        (
            refusal(404, "unknown_route", "no POST /chat/completions"),
            "not_found: the first rows of step \"answer\" were all refused: not_found: HTTP 404 unknown_route",
            "check base_url, whose path ends in /v1",
        ),
        (
            refusal(400, "bad", "No."),
            "same_refusal: the first rows of step \"answer\" were all refused: bad_request: HTTP 400 bad: No.",
            "change the prompt, the model, or what the step asks for",
        ),
        (
            FaultSpec { retry_after: Some("7200".into()), ..refusal(429, "slow", "Later.") },
            "rate_limited: it asks to come back in 2h",
            "come back",
        ),
    ];
    for (fault, says, advice) in cases {
        let world = World::of(Setup { simulator: faulty(fault.clone()), rows: 40, ..Setup::default() }).await;
        let stopped = world.run(&[]).await;
        stopped.assert_status(4).assert_says(says).assert_says(advice);
        assert_eq!(world.target().await.len(), 0, "{says}: no row becomes an error");
        // The cause is mended: every row is asked.
        world.write_text(&world.usual_job("").replace(world.simulator.url().as_str(), "simulator"));
        world.run(&[]).await.assert_status(0).assert_says("done: 40 rows written, 40 answers, 0 errors");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreachable_endpoint_stops_the_run_and_names_it() {
    let world = World::with_rows(5, 1).await;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let text = world.usual_job("").replace(world.simulator.url().as_str(), &format!("http://{address}/v1"));
    world.write_text(&text);
    let stopped = world.run(&[]).await;
    stopped.assert_status(4).assert_says("unavailable: it has answered nothing in this run: cannot connect");
    stopped.assert_says("check base_url");
    assert_eq!(world.target().await.len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_in_place_of_answers_stops_the_run_at_once_and_is_shown() {
    let page = "<html><body>Please sign in to the proxy</body></html>";
    for count in [3, 60] {
        let world = World::of(Setup {
            simulator: faulty(FaultSpec { body: Some(page.into()), ..fault() }),
            rows: count,
            ..Setup::default()
        })
        .await;
        let outcome = world.run(&[]).await;
        outcome
            .assert_status(4)
            .assert_says(
                "it has answered nothing in this run: the answer is no JSON; it begins: <html><body>Please",
            )
            .assert_says("0 errors");
        assert!(world.simulator.counts().requests < 40, "{} requests", world.simulator.counts().requests);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_of_single_rows_fail_those_rows_alone() {
    let only = |id: i64, fault: FaultSpec| FaultSpec { contains: Some(format!("Row {id} ")), ..fault };
    let spec = SimulatorSpec {
        faults: vec![
            only(1, FaultSpec { status: Some(400), message: Some("bad\nrow".into()), ..fault() }),
            only(2, FaultSpec { status: Some(413), ..fault() }),
            only(3, FaultSpec { finish_reason: Some("content_filter".into()), ..fault() }),
            only(4, FaultSpec { finish_reason: Some("length".into()), ..fault() }),
            only(
                5,
                FaultSpec { body: Some(r#"{"error":{"code":502,"message":"upstream"}}"#.into()), ..fault() },
            ),
            only(6, FaultSpec { body: Some("<html>oops</html>".into()), ..fault() }),
            only(7, FaultSpec { hang_up: true, ..fault() }),
            only(8, FaultSpec { status: Some(500), times: Some(2), ..fault() }),
            only(
                9,
                FaultSpec { status: Some(503), retry_after: Some("0.05".into()), times: Some(4), ..fault() },
            ),
            only(10, FaultSpec { hang_up: true, times: Some(4), ..fault() }),
        ],
        ..SimulatorSpec::default()
    };
    let world = World::of(Setup { simulator: spec, rows: 30, ..Setup::default() }).await;
    world.run(&[]).await.assert_status(0).assert_says("7 errors");
    let target = world.target().await;
    assert_eq!(target.len(), 30);
    let error = |id: usize| target[id].answer.clone().unwrap();
    assert_eq!(error(1), "ERROR: bad_request: HTTP 400 simulated_fault: bad row");
    assert!(error(2).starts_with("ERROR: too_large: "), "{}", error(2));
    assert!(error(3).starts_with("ERROR: content_filter: "), "{}", error(3));
    assert!(error(4).starts_with("ERROR: length: "), "{}", error(4));
    assert_eq!(error(5), "ERROR: server_error: 502 inside an HTTP 200: upstream (after 5 attempts)");
    assert!(
        error(6).starts_with("ERROR: invalid_response: the answer is no JSON; it begins: <html>oops</html>"),
        "{}",
        error(6)
    );
    assert!(error(7).starts_with("ERROR: connection: "), "{}", error(7));
    for row in target.iter().filter(|row| !(1..=7).contains(&row.id)) {
        assert!(row.answer.as_deref().unwrap().starts_with("In short: "), "row {}", row.id);
    }
    let counts: Vec<i64> = target.iter().map(|row| row.error_count).collect();
    assert_eq!(counts.iter().sum::<i64>(), 7);
    // What is refused is refused for good; it waits for a retry that somebody asks for.
    let requests = world.simulator.counts().requests;
    world.run(&[]).await.assert_status(0);
    assert_eq!(world.simulator.counts().requests, requests);
}

#[tokio::test(flavor = "multi_thread")]
async fn throttling_costs_time_and_never_an_attempt() {
    let fault = FaultSpec {
        status: Some(429),
        code: Some("rate_limit_exceeded".into()),
        retry_after: Some("0.02".into()),
        times: Some(7),
        ..fault()
    };
    let world = World::of(Setup { simulator: faulty(fault), rows: 6, ..Setup::default() }).await;
    world.run(&[]).await.assert_status(0).assert_says("6 answers, 0 errors");
    world.assert_target(0..6).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn timeouts_and_deadlines_are_errors_of_their_own_class() {
    let fault =
        FaultSpec { contains: Some("Row 3 ".into()), delay: Some(Span(Duration::from_secs(60))), ..fault() };
    let world = World::of(Setup { simulator: faulty(fault), rows: 8, ..Setup::default() }).await;
    world.write_job("request_timeout = \"4s\"\nmax_attempts = 2");
    world.run(&[]).await.assert_status(0).assert_says("timeout 1");
    let answer = world.target().await[3].answer.clone().unwrap();
    assert_eq!(answer, "ERROR: timeout: no whole answer within 4s (after 2 attempts)");

    let again = world.usual_job("request_timeout = \"4s\"").replace("\"target\"", "\"target2\"");
    world.write_text(&(again + "row_deadline = \"6s\"\n"));
    world.run(&[]).await.assert_status(0).assert_says("deadline 1");
}

#[tokio::test(flavor = "multi_thread")]
async fn fewer_rows_than_make_a_pattern_are_failed_rows_also_in_a_small_window() {
    let refusal = || faulty(FaultSpec { status: Some(400), ..fault() });
    let world = World::of(Setup { simulator: refusal(), rows: 7, ..Setup::default() }).await;
    world.run(&[]).await.assert_status(3).assert_says("7 rows written, 0 answers, 7 errors (bad_request 7)");
    let world = World::of(Setup { simulator: refusal(), rows: 60, ..Setup::default() }).await;
    world.write_text(&world.usual_job("").replace("max_rows = 10", "max_rows = 2"));
    // A window of eight rows lets them through; the pattern is seen all the same.
    world.run(&[]).await.assert_status(4).assert_says("same_refusal");
    assert!(world.target().await.len() < 20);
    let world = World::of(Setup { simulator: refusal(), rows: 60, ..Setup::default() }).await;
    world.run(&["--max-rows", "5"]).await.assert_status(3).assert_says("5 rows written, 0 answers, 5 errors");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_few_rows_that_the_provider_chokes_on_are_failed_rows() {
    let poison = |id: i64| FaultSpec { contains: Some(format!("Row {id} ")), status: Some(500), ..fault() };
    let spec = with_faults(vec![poison(27), poison(28), poison(29)]);
    let world = World::of(Setup { simulator: spec, rows: 30, ..Setup::default() }).await;
    world
        .run(&[])
        .await
        .assert_status(0)
        .assert_says("30 rows written, 27 answers, 3 errors (server_error 3)");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_that_meets_a_single_row_is_no_failed_row() {
    let world = World::of(Setup {
        simulator: faulty(FaultSpec { status: Some(500), ..fault() }),
        rows: 1,
        ..Setup::default()
    })
    .await;
    world.write_job("outage_deadline = \"3s\"");
    world
        .run(&[])
        .await
        .assert_status(4)
        .assert_says("does not answer yet: server_error: HTTP 500 simulated_fault")
        .assert_says("the run waits up to 3s for it")
        .assert_says("unavailable: no success within");
    assert_eq!(world.target().await.len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_still_loading_is_waited_for() {
    let loading = FaultSpec {
        status: Some(503),
        message: Some("Loading model".into()),
        times: Some(6),
        at_once: true,
        ..fault()
    };
    let world = World::of(Setup { simulator: faulty(loading), rows: 1, ..Setup::default() }).await;
    world.run(&[]).await.assert_status(0).assert_says("Loading model").assert_says("answers again after");
    world.assert_target(0..1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_of_everybody_in_the_middle_stops_the_run_and_rows_stay_pending() {
    let spent = FaultSpec {
        contains: Some("Row 1".into()),
        status: Some(400),
        message: Some("this account is closed".into()),
        ..fault()
    };
    // Rows 100 to 199 and all harmless questions from then on.
    let harmless = FaultSpec { contains: Some("the word OK".into()), ..spent.clone() };
    let rows_from_100 = FaultSpec { contains: Some("Row 1".into()), ..spent };
    let spec = with_faults(vec![rows_from_100, harmless]);
    let world = World::new(spec).await;
    append_delta(&world.path("source"), &rows(20..99)).await;
    append_delta(&world.path("source"), &rows(100..200)).await;
    world.write_job("");
    let stopped = world.run(&[]).await;
    stopped.assert_status(4).assert_says("also a harmless question: bad_request: HTTP 400");
    let target = world.target().await;
    let is_error = |answer: &str| answer.starts_with("ERROR");
    let errors = target.iter().filter(|row| row.answer.as_deref().is_some_and(is_error)).count();
    assert!(errors < 20, "{errors} of a hundred rows: the others are pending");
    assert!(target.len() < 79 + 20, "{}", target.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn many_rows_that_are_refused_one_after_the_other_are_their_own_while_the_provider_answers() {
    let refused = FaultSpec { contains: Some("Row 1".into()), status: Some(400), ..fault() };
    let world = World::new(faulty(refused)).await;
    append_delta(&world.path("source"), &rows(20..99)).await;
    append_delta(&world.path("source"), &rows(100..200)).await;
    world.write_job("");
    world
        .run(&[])
        .await
        .assert_status(0)
        .assert_says("179 rows written, 79 answers, 100 errors (bad_request 100)");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_nobody_was_answered_in_ends_with_a_status_of_its_own_and_says_why() {
    let refused = FaultSpec { status: Some(400), message: Some("no such parameter".into()), ..fault() };
    let world = World::of(Setup { simulator: faulty(refused), rows: 12, ..Setup::default() }).await;
    let ended = world.run(&["--max-rows", "10"]).await;
    ended.assert_status(3).assert_says("10 errors (bad_request 10)");
    ended.assert_says("no row was answered, all that were sent ended as errors: 10 errors");
    ended.assert_says("mend the cause; then: enrich retry");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_usable_answer_is_kept_however_odd_its_body_is() {
    let odd = |id: i64, body: &str| FaultSpec {
        contains: Some(format!("Row {id} ")),
        body: Some(body.to_owned()),
        ..fault()
    };
    let told =
        |content: &str, more: &str| format!(r#"{{"choices":[{{"message":{{"content":{content}}}}}]{more}}}"#);
    let bodies = [
        told("\"good\"", r#","usage":{"prompt_tokens":1151,"completion_tokens":-35}"#),
        told("\"good\"", r#","usage":{"prompt_tokens":12.5},"error":"""#),
        told(r#"[{"type":"thinking","thinking":[]},{"type":"text","text":"good"}]"#, ""),
        told("\"good\"", r#","usage":{"prompt_tokens":1,"completion_tokens":1000000000000000}"#),
        format!("\u{feff}{}\n\ndata: [DONE]\n\n", told("\"good\"", r#","error":{}"#)),
        "data: {\"choices\":[{\"delta\":{\"content\":\"go\"}}]}\n\ndata: {\"choices\":[{\"delta\":{\"content\":\"od\"},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n".into(),
    ];
    let html = odd(6, "<html><body>Please sign in to the corporate proxy</body></html>");
    let bare = odd(7, r#"{"error_code":110,"error_msg":"Access token invalid"}"#);
    let faults = (0..).zip(&bodies).map(|(id, body)| odd(id, body)).chain([html, bare]).collect();
    let world = World::of(Setup { simulator: with_faults(faults), rows: 8, ..Setup::default() }).await;
    let ended = world.run(&[]).await;
    ended.assert_status(0).assert_says("8 rows written, 6 answers, 2 errors (invalid_response 2)");
    ended.assert_says("sends a usage that cannot be read");
    let mut target = world.target().await;
    target.sort_by_key(|row| row.id);
    let responses: Vec<&str> = target.iter().map(|row| row.answer.as_deref().unwrap()).collect();
    assert_eq!(responses[..6], ["good"; 6]);
    assert!(responses[6].contains("it begins: <html><body>Please sign in"), "{}", responses[6]);
    assert!(responses[7].contains("Access token invalid"), "{}", responses[7]);
    let counts = world.simulator.counts();
    // With nobody left whose answer could tell, a harmless question does.
    assert!((10..=12).contains(&counts.requests), "{}: the same again is bought twice", counts.requests);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_be_paid_is_kept_also_when_it_cannot_be_read_and_wedges_no_job() {
    let odd = |id: i64, body: &str, times| FaultSpec {
        contains: Some(format!("Row {id} ")),
        body: Some(body.to_owned()),
        times,
        ..fault()
    };
    let huge = format!(
        r#"{{"choices":[{{"message":{{"content":"good"}}}}],"usage":{{"prompt_tokens":{0},"completion_tokens":{0},"total_tokens":{0},"cost":9e300,"prompt_tokens_details":{{"cached_tokens":{0}}},"completion_tokens_details":{{"reasoning_tokens":{0}}}}}}}"#,
        u64::MAX
    );
    let faults = vec![
        odd(2, "no JSON at all", Some(1)),
        odd(3, &huge, None),
        odd(4, r#"{"nothing":"here"}"#, Some(1)),
    ];
    let world = World::of(Setup { simulator: with_faults(faults), rows: 8, ..Setup::default() }).await;
    let killed = world.run_with(&[], &[("ENRICH_FAULT", "delta-commit.before=kill")]).await;
    assert!(killed.status.is_none(), "it was killed before the commit");
    let journals = journals_below(&world.path("target"));
    for body in ["no JSON at all", r#"{"nothing":"here"}"#] {
        let is_there = |bytes: &Vec<u8>| bytes.windows(body.len()).any(|window| window == body.as_bytes());
        assert!(journals.iter().any(is_there), "{body:?} is in no journal");
    }
    let before = world.simulator.counts().requests;
    world.run(&[]).await.assert_status(0).assert_says("8 rows written, 8 answers, 0 errors");
    assert_eq!(world.simulator.counts().requests, before, "what was answered is there");
}

/// The content of all journals.
fn journals_below(folder: &std::path::Path) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.extension().and_then(std::ffi::OsStr::to_str) {
            _ if path.is_dir() => found.extend(journals_below(&path)),
            Some("journal") => found.push(std::fs::read(&path).unwrap()),
            _ => {}
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_later_step_that_is_refused_for_everybody_stops_the_run_too() {
    let refusal = FaultSpec { contains: Some("Second:".into()), status: Some(400), ..fault() };
    let world = World::of(Setup { simulator: faulty(refusal), rows: 60, ..Setup::default() }).await;
    let step = "[[step]]\noutput = \"more\"\nprompt = \"Second: {{ text }}\"\n";
    world.write_text(&(world.usual_job("") + step));
    world.run(&[]).await.assert_status(4).assert_says("same_refusal");
    assert_eq!(world.target().await.len(), 0);

    let world = World::with_rows(30, 1).await;
    world.write_text(&(world.usual_job("") + step));
    world.run(&["--max-rows", "10"]).await.assert_status(0).assert_says("10 rows written, 20 answers");
    world.run(&[]).await.assert_status(0).assert_says("20 rows written, 40 answers");
    world.assert_target(0..30).await;
    assert_eq!(world.simulator.counts().requests, 60);
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_without_text_stop_a_run_that_gets_nothing_else() {
    let world = World::of(Setup {
        simulator: faulty(FaultSpec { finish_reason: Some("length".into()), ..fault() }),
        rows: 60,
        ..Setup::default()
    })
    .await;
    let stopped = world.run(&[]).await;
    stopped.assert_status(4).assert_says(
        "same_refusal: the first rows of step \"answer\" all came to nothing: length: the token limit",
    );
    let requests = world.simulator.counts().requests;
    assert!(requests < 40, "{requests} answers were paid for");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_template_that_fails_for_everybody_stops_the_run() {
    let world = World::with_rows(60, 1).await;
    world.write_text(&world.usual_job("").replace("{{ text }}", "{{ text + 1 }}"));
    let stopped = world.run(&[]).await;
    stopped.assert_status(2).assert_says("error: the templates fail for each of the first rows: ");
    stopped.assert_says("hint: mend the template");
    assert_eq!((world.simulator.counts().requests, world.target().await.len()), (0, 0));
    world.write_job("");
    world.run(&[]).await.assert_status(0);
    world.assert_target(0..60).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_row_holds_back_its_own_batch_and_nothing_else_until_the_window_is_full() {
    let world = World::of(Setup { rows: 60, provider: PATIENT, ..Setup::default() }).await;
    world.simulator.set_gate(Gate::ShutFor("Row 3 ".into()));
    let child = world.start(&[]);
    // The window is four batches of ten rows.
    until(&world.simulator, |counts| counts.answered >= 39).await;
    world.until_requests(40).await;
    let counts = world.simulator.counts();
    assert_eq!((counts.requests, counts.answers_to(&prompt_of(3))), (40, 0));
    assert!(counts.most_in_flight <= 4, "{} at once", counts.most_in_flight);
    assert!(!world.path("target/_delta_log/00000000000000000001.json").exists(), "batches commit in order");
    world.simulator.set_gate(Gate::Open);
    wait(child).await.assert_status(0);
    world.assert_target(0..60).await;
    assert!(world.simulator.counts().most_in_flight <= 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_simulator_is_loud_about_what_it_does_not_know() {
    let script = vec![FaultSpec { delay: Some(Span(Duration::from_millis(1))), ..fault() }; 3];
    let world = World::of(Setup {
        simulator: SimulatorSpec { script, ..SimulatorSpec::default() },
        rows: 4,
        ..Setup::default()
    })
    .await;
    world.write_job("outage_deadline = \"1s\"");
    world.run(&[]).await.assert_status(4).assert_says("script_exhausted");
    assert!(world.simulator.counts().script_exhausted > 0);
    let world = World::with_rows(4, 1).await;
    world.write_text(&world.usual_job("").replace("/v1\"", "/v2\""));
    world.run(&[]).await.assert_status(3).assert_says("not_found 4");
    assert_eq!(world.simulator.counts().unknown_routes[0], "POST /v2/chat/completions");
}
