//! Which provider takes which row: by a condition, by the length of the prompt; and examples before the question.

use enrich::config::SimulatorSpec;
use enrich::simulator::Simulator;

use crate::support::{World, append_delta, rows, rows_of};

/// A job with two providers, `small` and `large`, and one step.
async fn world(count: i64, small: &str, step: &str) -> (World, Simulator) {
    let world = World::new(SimulatorSpec::default()).await;
    append_delta(&world.path("source"), &rows(0..count)).await;
    let large = Simulator::start(SimulatorSpec::default(), 0).await.unwrap();
    let job = world.usual_job(small).replace("provider.sim", "provider.small");
    let (head, _) = job.split_once("[[step]]").unwrap();
    let large_one = format!("[provider.large]\nbase_url = \"{}\"\nmodel = \"simulated\"", large.url());
    world.write_text(&format!("{head}{large_one}\n[[step]]\noutput = \"answer\"\n{step}"));
    (world, large)
}

async fn providers(world: &World) -> Vec<(i64, String, String)> {
    let sql = "SELECT id, _enrich['answer_step']['provider'], answer FROM target";
    let rows = rows_of(&world.path("target"), sql).await;
    let mut rows: Vec<_> =
        rows.into_iter().map(|row| (row[0].parse().unwrap(), row[1].clone(), row[2].clone())).collect();
    rows.sort();
    rows
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_go_where_the_first_condition_that_they_meet_sends_them() {
    let step = r#"route = [{ when = "id < 10", provider = "small" }, { when = "id < 12", provider = ["large", "small"] }]
provider = "large"
prompt = "{{ text }}""#;
    let (world, large) = world(40, "", step).await;
    world.run(&[]).await.assert_status(0).assert_says("0 errors");
    for (id, provider, _) in providers(&world).await {
        assert_eq!(provider, if id < 10 { "small" } else { "large" }, "row {id}");
    }
    assert_eq!((world.simulator.counts().requests, large.counts().requests), (10, 30));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prompt_that_is_too_long_goes_on_or_fails_or_is_cut_before_it_is_paid_for() {
    let prompt = "prompt = \"{{ text * (20 if id == 3 else 1) }}\"";
    // To the next one that can take it.
    let (next, large) =
        world(6, "context_window = 100", &format!("provider = [\"small\", \"large\"]\n{prompt}")).await;
    next.run(&[]).await.assert_status(0).assert_says("0 errors");
    assert_eq!((next.simulator.counts().requests, large.counts().requests), (5, 1));
    // Nobody can.
    let (fails, large) = world(6, "context_window = 100", &format!("provider = \"small\"\n{prompt}")).await;
    fails.run(&[]).await.assert_status(0).assert_says("1 error (too_long 1)");
    assert!(providers(&fails).await[3].2.contains("tokens too many for the context_window of any provider"));
    assert_eq!((fails.simulator.counts().requests, large.counts().requests), (5, 0));
    // Cut at its end.
    let cut = format!(
        "provider = \"small\"\non_too_long = \"truncate\"\nclasses = [\"a\", \"b\"]\nmax_repairs = 0\n{prompt}"
    );
    let (cut, _) = world(6, "context_window = 100", &cut).await;
    let spec =
        SimulatorSpec { context_tokens: Some(100), answers: vec!["a".into()], ..SimulatorSpec::default() };
    let strict = Simulator::start(spec, 0).await.unwrap();
    let text = std::fs::read_to_string(cut.job()).unwrap();
    cut.write_text(&text.replace(cut.simulator.url().as_str(), strict.url().as_str()));
    cut.run(&[]).await.assert_status(0).assert_says("0 errors");
    assert!(providers(&cut).await.iter().all(|(.., answer)| answer == "a" || answer == "b"));
}

#[tokio::test(flavor = "multi_thread")]
async fn examples_stand_before_the_question_and_are_checked_like_answers() {
    let step = "provider = \"small\"\nclasses = [\"good\", \"bad\"]\nexamples = \"shots.jsonl\"\nprompt = \"Judge: {{ text }}\"";
    let (world, _) = world(4, "", step).await;
    let shots = "{\"input\": {\"text\": \"It broke\"}, \"output\": \"bad\"}\n\n{\"input\": {\"text\": \"Lovely\"}, \"output\": \"good\"}\n";
    std::fs::write(world.path("shots.jsonl"), shots).unwrap();
    let spec = SimulatorSpec { answers: vec!["good".into(), "bad".into()], ..SimulatorSpec::default() };
    let judge = Simulator::start(spec, 0).await.unwrap();
    let text = std::fs::read_to_string(world.job()).unwrap();
    world.write_text(&text.replace(world.simulator.url().as_str(), judge.url().as_str()));
    world.run(&[]).await.assert_status(0).assert_says("0 errors");
    // The simulator answers the question, not the examples, and each row its own.
    assert_eq!(judge.counts().answered_prompts, 4);
    let sql = "SELECT min(_enrich['answer_step']['prompt_tokens']) FROM target";
    let tokens: u64 = rows_of(&world.path("target"), sql).await[0][0].parse().unwrap();
    assert!(tokens > 60, "the examples are part of the prompt: {tokens}");
    for (shots, told) in [
        (
            "{\"input\": {\"text\": \"x\"}, \"output\": \"fine\"}",
            "line 1 has the output \"fine\", which is not one of the classes",
        ),
        (
            "{\"input\": {\"text\": \"x\"}}",
            "line 1 is no object with input and output: missing field `output`",
        ),
        (
            "\n{\"input\": {\"body\": \"x\"}, \"output\": \"bad\"}",
            "the example in line 2 does not fit the template",
        ),
        ("\n", "which has no example in it"),
    ] {
        std::fs::write(world.path("shots.jsonl"), shots).unwrap();
        world.run(&[]).await.assert_status(2).assert_says(told);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn routes_that_cannot_be_gone_are_refused() {
    for (step, told) in [
        (
            "route = [{ when = \"id <\", provider = \"small\" }]\nprovider = \"large\"\nprompt = \"{{ text }}\"",
            "the condition \"id <\" is wrong",
        ),
        (
            "route = [{ when = \"id < 1\", provider = \"smal\" }]\nprovider = \"large\"\nprompt = \"{{ text }}\"",
            "`step[0].route[0].provider` is \"smal\", and there is no [provider.smal]; did you mean \"small\"?",
        ),
        (
            "on_too_long = \"truncate\"\nprovider = \"large\"\nprompt = \"{{ text }}\"",
            "no provider of the step has a context_window",
        ),
    ] {
        let (world, _) = world(2, "", step).await;
        world.run(&[]).await.assert_status(2).assert_says(told);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_with_the_same_question_share_an_answer_of_a_provider_that_is_theirs() {
    let step = "route = [{ when = \"id % 2 = 0\", provider = \"small\" }]\nprovider = \"large\"\nnull_inputs = \"ask\"\nprompt = \"Say something.\"";
    let (world, large) = world(20, "", step).await;
    world.run(&[]).await.assert_status(0).assert_says("0 errors");
    for (id, provider, _) in providers(&world).await {
        assert_eq!(provider, if id % 2 == 0 { "small" } else { "large" }, "row {id}");
    }
    assert_eq!((world.simulator.counts().requests, large.counts().requests), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_whose_only_provider_is_ruled_out_end_the_run() {
    let step = "provider = [\"large\", \"small\"]\nprompt = \"{{ text }}\"\n[[step]]\noutput = \"more\"\nprovider = \"large\"\nprompt = \"More: {{ text }}\"";
    let (world, _) = world(30, "", step).await;
    let spec = SimulatorSpec { api_key: Some("another".into()), ..SimulatorSpec::default() };
    let locked = Simulator::start(spec, 0).await.unwrap();
    let text = std::fs::read_to_string(world.job()).unwrap();
    let (head, tail) = text.split_once("[provider.large]\nbase_url = \"").unwrap();
    let (_, tail) = tail.split_once('"').unwrap();
    world.write_text(&format!("{head}[provider.large]\nbase_url = \"{}\"{tail}", locked.url()));
    // It would wait for ever where nobody noticed: the run has a time of its own.
    let stopped = world.run(&["--max-duration", "60s"]).await;
    stopped
        .assert_status(4)
        .assert_says("no more rows are sent to large")
        .assert_says("provider large stopped the run: auth");
}
