//! Which rows go through a Batch API and which by single requests: urgent rows, repairs, runs with `--online`, and what
//! does not go with a Batch API.

use std::collections::BTreeMap;

use enrich::config::{BatchesSpec, FaultSpec, SimulatorSpec, WrongForm};
use enrich::simulator::Gate;
use serde_json::{Value, json};

use crate::support::{PRICES, Setup, World, append_delta, dear, fault, prompt_of, rows, rows_of};

const BATCH: &str = "[provider.sim.batch]\npoll = \"100ms\"\nrecreate_after = \"1s\"";
/// A second provider, which is sent single requests, and the list with both.
const ONLINE: &str =
    "[provider.online]\nbase_url = \"SIMULATOR\"\nmodel = \"simulated\"\nmin_backoff = \"10ms\"\n";
const LIST: &str = "provider = [\"sim\", \"online\"]";

fn spec(batches: BatchesSpec) -> SimulatorSpec {
    SimulatorSpec { batches: Some(batches), ..SimulatorSpec::default() }
}

async fn world(rows: i64, section: &str, step: &str, sections: &str) -> World {
    let simulator = spec(BatchesSpec::default());
    World::of(Setup { simulator, rows, provider: section, step, sections, ..Setup::default() }).await
}

/// Keeps every batch from its end that has the first row in it.
fn hold_batch(world: &World) {
    world.simulator.set_gate(Gate::ShutFor("Row 0 ".to_owned()));
}

/// The ids of the rows to which a provider gave the output of a step.
async fn answered_by(world: &World, step: &str, provider: &str) -> Vec<i64> {
    let sql = format!("SELECT id FROM target WHERE _enrich['{step}_step']['provider'] = '{provider}'");
    let found = rows_of(&world.path("target"), &sql).await;
    let mut ids: Vec<i64> = found.iter().map(|row| row[0].parse().unwrap()).collect();
    ids.sort_unstable();
    ids
}

/// Answers, requests that were sent by themselves, lines of batches, and answers that were paid for again.
fn paid(world: &World) -> (u64, u64, u64, u64) {
    let counts = world.simulator.counts();
    (counts.answered, counts.requests, counts.batches.lines, counts.paid_again())
}

#[tokio::test(flavor = "multi_thread")]
async fn urgent_rows_are_answered_at_once_and_the_others_by_batch() {
    let step = format!("{LIST}\nurgent_when = \"id % 10 >= 8\"");
    let world = world(40, BATCH, &step, ONLINE).await;
    hold_batch(&world);
    let first = world.run(&[]).await;
    first.assert_status(0).assert_says("submitted   32 rows to sim");
    first.assert_says("done for now: 32 rows are at sim in 1 batch, 0 written");
    let urgent: Vec<i64> = (0..40).filter(|id| id % 10 >= 8).collect();
    let counts = world.simulator.counts();
    assert_eq!((counts.requests, counts.batches.created), (8, 1));
    for id in &urgent {
        assert_eq!(counts.answers_to(&prompt_of(*id)), 1, "row {id} is answered");
    }
    // Each batch of the job waits for its other rows, and for the batches before it.
    assert!(world.target().await.is_empty());

    world.simulator.set_gate(Gate::Open);
    world.run(&["--wait"]).await.assert_status(0).assert_says("40 rows written");
    world.assert_target(0..40).await;
    assert!(world.target().await.iter().all(|row| row.batch == row.id / 10));
    assert_eq!(answered_by(&world, "answer", "online").await, urgent);
    assert_eq!(paid(&world), (40, 8, 32, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn urgent_rows_do_not_wait_for_room_at_the_batch_api() {
    let section = format!("{BATCH}\nfirst_requests = 0\nmax_outstanding = 5");
    let step = format!("{LIST}\nurgent_when = \"id >= 38\"");
    let world = world(40, &section, &step, ONLINE).await;
    hold_batch(&world);
    world.run(&[]).await.assert_status(0).assert_says("done for now: 5 rows are at sim");
    let counts = world.simulator.counts();
    assert_eq!((counts.requests, counts.batches.created), (2, 1));
    assert_eq!((counts.answers_to(&prompt_of(38)), counts.answers_to(&prompt_of(39))), (1, 1));
    world.simulator.set_gate(Gate::Open);
    world.run(&["--wait"]).await.assert_status(0);
    world.assert_target(0..40).await;
    assert_eq!(paid(&world), (40, 2, 38, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_output_of_an_earlier_step_can_make_a_row_urgent() {
    let judge = "[[step]]\noutput = \"verdict\"\nprovider = [\"sim\", \"online\"]\n\
                 urgent_when = \"id < 3 AND answer IS NOT NULL\"\nprompt = \"Judge {{ answer }}\"\n";
    let sections = format!("{ONLINE}{judge}");
    let world = world(25, BATCH, "provider = \"online\"", &sections).await;
    world.run(&["--wait"]).await.assert_status(0).assert_says("25 rows written");
    world.assert_target(0..25).await;
    assert_eq!(answered_by(&world, "verdict", "online").await, [0, 1, 2]);
    assert_eq!(answered_by(&world, "verdict", "sim").await, (3..25).collect::<Vec<_>>());
    assert_eq!(paid(&world), (50, 28, 22, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn urgent_rows_whose_provider_refuses_all_stop_the_run_and_stay_pending() {
    // The key is for the batches alone.
    let simulator = SimulatorSpec { api_key: Some("right".into()), ..spec(BatchesSpec::default()) };
    let section = format!("api_key_file = \"key\"\n{BATCH}");
    let step = format!("{LIST}\nurgent_when = \"id = 7\"");
    let setup =
        Setup { simulator, rows: 25, provider: &section, step: &step, sections: ONLINE, ..Setup::default() };
    let world = World::of(setup).await;
    std::fs::write(world.path("key"), "right").unwrap();
    world.run(&["--wait"]).await.assert_status(4).assert_says("provider online stopped the run: auth");
    assert!(world.target().await.is_empty());
    let text = std::fs::read_to_string(world.job()).unwrap();
    world.write_text(&text.replace("[provider.online]", "[provider.online]\napi_key_file = \"key\""));
    world.run(&["--wait"]).await.assert_status(0);
    world.assert_target(0..25).await;
    assert_eq!(answered_by(&world, "answer", "online").await, [7]);
    assert_eq!(world.simulator.counts().paid_again(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repair_goes_to_the_provider_that_is_sent_single_requests() {
    let wrong = FaultSpec { wrong: Some(WrongForm::Prose), times: Some(1), ..fault() };
    let simulator = SimulatorSpec { faults: vec![wrong], ..spec(BatchesSpec::default()) };
    let section = format!("{BATCH}\nrepairs = \"online\"");
    let step = format!("{LIST}\nfields = {{ mood = [\"good\", \"bad\"] }}");
    let setup =
        Setup { simulator, rows: 15, provider: &section, step: &step, sections: ONLINE, ..Setup::default() };
    let world = World::of(setup).await;
    let run = world.run(&["--wait", "--summary", "json"]).await;
    run.assert_status(0);
    let summary: Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!((&summary["end"], &summary["errors"]), (&json!("complete"), &json!({})), "{summary}");
    let counts = world.simulator.counts();
    assert_eq!((counts.answered, counts.requests), (30, 15));
    assert_eq!((counts.batches.lines, counts.batches.created), (15, 1));
    assert_eq!(answered_by(&world, "answer", "online").await, (0..15).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_online_sends_what_is_new_and_leaves_what_is_submitted() {
    let half = "tier_prices.batch = { price_per_million_input = 1.0, price_per_million_output = 4.0 }";
    let batches =
        BatchesSpec { price_per_million_input: 1.0, price_per_million_output: 4.0, ..BatchesSpec::default() };
    let simulator = SimulatorSpec { batches: Some(batches), ..dear() };
    let section = format!("{PRICES}\n{half}\n{BATCH}");
    let world = World::of(Setup { simulator, rows: 10, provider: &section, ..Setup::default() }).await;
    hold_batch(&world);
    world.run(&[]).await.assert_status(0).assert_says("done for now: 10 rows are at sim in 1 batch");
    append_delta(&world.path("source"), &rows(10..30)).await;
    let online = world.run(&["--online"]).await;
    online.assert_status(0).assert_says("done for now: 10 rows are at sim in 1 batch, 0 written");
    let counts = world.simulator.counts();
    assert_eq!((counts.requests, counts.batches.created), (20, 1));
    assert!((10..30).all(|id| counts.answers_to(&prompt_of(id)) == 1));

    world.simulator.set_gate(Gate::Open);
    world.run(&["--online", "--wait"]).await.assert_status(0).assert_says("30 rows written");
    world.assert_target(0..30).await;
    assert_eq!(paid(&world), (30, 20, 10, 0));
    let sql = "SELECT SUM(_enrich['answer_step']['cost_micro_usd']) FROM target";
    let told: u64 = rows_of(&world.path("target"), sql).await[0][0].parse().unwrap();
    let billed = world.simulator.counts().billed_picodollars / 1_000_000;
    assert!(billed > 0 && told.abs_diff(billed) <= 30, "{told} of {billed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_a_batch_has_not_answered_are_answered_by_a_run_online() {
    let failing = FaultSpec { status: Some(500), times: Some(1), ..fault() };
    let simulator = SimulatorSpec { faults: vec![failing], ..spec(BatchesSpec::default()) };
    let section = format!("{BATCH}\nmax_submissions = 1");
    let world = World::of(Setup { simulator, rows: 15, provider: &section, ..Setup::default() }).await;
    hold_batch(&world);
    world.run(&[]).await.assert_status(0).assert_says("done for now: 15 rows are at sim in 1 batch");
    world.simulator.set_gate(Gate::Open);
    let run = world.run(&["--online", "--wait"]).await;
    run.assert_status(0).assert_says("15 rows written").assert_says("0 errors");
    world.assert_target(0..15).await;
    assert_eq!(paid(&world), (15, 15, 15, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_reckons_urgent_rows_where_they_go() {
    let step = format!("{LIST}\nurgent_when = \"id % 10 >= 8\"");
    let world = world(40, BATCH, &step, ONLINE).await;
    let shown = world.on_job("plan", &["--format", "json"]).await;
    let forecast: Value = serde_json::from_str(&shown.assert_status(0).stdout).unwrap();
    let parts = forecast["parts"].as_array().unwrap();
    let rows: BTreeMap<&str, Option<f64>> = parts
        .iter()
        .map(|part| (part["provider"].as_str().unwrap(), part["rows"]["expected"].as_f64()))
        .collect();
    assert_eq!(rows, BTreeMap::from([("sim", Some(32.0)), ("online", Some(8.0))]), "{forecast}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_go_with_a_batch_api_is_refused_by_name() {
    let second = format!(
        "{ONLINE}[provider.late]\nbase_url = \"SIMULATOR\"\nmodel = \"simulated\"\n[provider.late.batch]\n"
    );
    let priced = format!(
        "{PRICES}\ntier_prices.batch = {{ price_per_million_input = 1.0, price_per_million_output = 4.0 }}"
    );
    let repairs = format!("{BATCH}\nrepairs = \"online\"");
    let class = "classes = [\"good\", \"bad\"]";
    for (section, step, told) in [
        (
            BATCH,
            format!("{LIST}\nbalance = true"),
            "`step[0].balance` is set, and provider \"sim\" is asked through its Batch API: rows would be split between now and tomorrow",
        ),
        (
            &priced,
            LIST.to_owned(),
            "`provider.sim.tier_prices.batch` is the price of a Batch API, and requests are sent by themselves",
        ),
        (
            BATCH,
            format!("{LIST}\nrow_deadline = \"30m\""),
            "`step[0].row_deadline` is shorter than 24h, which provider \"sim\" has for a batch",
        ),
        (
            &repairs,
            format!("provider = [\"sim\", \"late\"]\n{class}"),
            "`provider.sim.batch.repairs` is \"online\", and step[0] has a list of providers with \"sim\" in which each has",
        ),
        (
            BATCH,
            "provider = [\"online\", \"sim\"]\nurgent_when = \"id < 3\"".to_owned(),
            "`step[0].urgent_when` is set, and the step's first provider, \"online\", has no section `batch`",
        ),
        (
            BATCH,
            "provider = [\"sim\", \"late\"]\nurgent_when = \"id < 3\"".to_owned(),
            "`step[0].urgent_when` is set, and no provider behind \"sim\" in the step's list is without a section `batch`",
        ),
        (BATCH, format!("{LIST}\nurgent_when = \" \""), "`step[0].urgent_when` is empty"),
        (BATCH, format!("{LIST}\nurgent_when = \"id <\""), "the condition \"id <\" is wrong"),
        (BATCH, format!("{LIST}\nurgent_when = \"number < 3\""), "No field named number"),
        (
            BATCH,
            format!("{LIST}\nurgent_when = \"answer = 'good'\""),
            "\"answer\" is the output of the step itself; a condition sees those of earlier steps",
        ),
    ] {
        let world = world(5, section, &step, &second).await;
        for command in ["check", "run"] {
            let said = world.on_job(command, &[]).await;
            said.assert_status(2);
            assert!(format!("{}{}", said.stdout, said.stderr).contains(told), "{told:?}: {said:?}");
        }
        let counts = world.simulator.counts();
        assert_eq!((counts.requests, counts.batches.uploads), (0, 0), "{told}");
    }
    // A text has no repairs, and a longer deadline leaves a batch its time.
    for (section, step) in
        [(&*repairs, "provider = \"sim\""), (BATCH, "provider = \"sim\"\nrow_deadline = \"48h\"")]
    {
        let world = world(5, section, step, "").await;
        world.run(&["--wait"]).await.assert_status(0);
        world.assert_target(0..5).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_whose_batch_api_lacks_something_are_refused_by_name() {
    for (host, step, told) in [
        (
            "https://api.anthropic.com/v1",
            "",
            "`provider.sim.batch` does not go with api.anthropic.com: its batches have an interface of their own, in which a \
             batch could not be found again if the answer to its creation were lost",
        ),
        (
            "https://some.openai.azure.com/openai/v1",
            "kind = \"embedding\"",
            "`step[0].kind` is \"embedding\", and provider \"sim\" is asked through Azure's Batch API, which takes no requests \
             for embeddings",
        ),
        (
            "https://some.cognitiveservices.azure.com/openai/v1",
            "kind = \"embedding\"",
            "`step[0].kind` is \"embedding\"",
        ),
    ] {
        let section = "[provider.sim.batch]\nmax_submissions = 2";
        let world = world(5, section, step, "").await;
        let text = std::fs::read_to_string(world.job()).unwrap();
        world.write_text(&text.replace(world.simulator.url().as_str(), host));
        for command in ["check", "run"] {
            world.on_job(command, &[]).await.assert_status(2).assert_says(told);
        }
    }
}
