//! Answers of a given form: held against it, asked for again, never shifted, never paid for twice.

use enrich::simulator::Simulator;
use std::collections::BTreeSet;

use enrich::config::{FaultSpec, SchemaFormName, SimulatorSpec};
use enrich::simulator::choose;

use crate::support::{Setup, World, fault, faulty, prompt_of, rows_of};

const CLASSES: [&str; 3] = ["bug", "feature", "question"];

/// A fault that answers with a text.
fn says(text: &str, share: f64, times: Option<u32>) -> FaultSpec {
    FaultSpec { text: Some(text.into()), share, times, ..fault() }
}

fn spec(faults: Vec<FaultSpec>) -> SimulatorSpec {
    let answers = CLASSES.iter().map(ToString::to_string).collect();
    SimulatorSpec { answers, faults, ..SimulatorSpec::default() }
}

/// A world with so many rows, whose answers are classes.
async fn world(rows: i64, simulator: SimulatorSpec, more: &str) -> World {
    let step = format!("classes = {CLASSES:?}\n{more}");
    World::of(Setup { simulator, rows, step: &step, ..Setup::default() }).await
}

/// What is asked about a row.
fn asked(id: i64) -> String {
    format!("{}\n\nAnswer with one of the following and nothing else:\n{}", prompt_of(id), CLASSES.join("\n"))
}

fn class_of(id: i64) -> String {
    choose(&CLASSES.map(str::to_owned), 0, &asked(id))
}

async fn answers(world: &World) -> Vec<(i64, String)> {
    let rows = rows_of(&world.path("target"), "SELECT id, answer FROM target ORDER BY id").await;
    rows.into_iter().map(|row| (row[0].parse().unwrap(), row[1].clone())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_column_of_classes_holds_one_of_them_or_an_error() {
    let wrong = FaultSpec { contains: Some("Row 7 ".into()), ..says("It is a bug, I think", 1.0, None) };
    let once = FaultSpec { contains: Some("Row 3 ".into()), ..says("Bug!", 1.0, Some(2)) };
    let fenced = FaultSpec { contains: Some("Row 5 ".into()), ..says("```\nfeature\n```\n", 1.0, None) };
    let world = world(12, spec(vec![wrong, once, fenced]), "").await;
    let provider = "price_per_million_input = 1\nprice_per_million_output = 2";
    let text = std::fs::read_to_string(world.job()).unwrap();
    world.write_text(&text.replace("min_backoff", &format!("{provider}\nmin_backoff")));
    world
        .run(&[])
        .await
        .assert_status(0)
        .assert_says("12 rows written")
        .assert_says("1 error (invalid_output 1)");
    for (id, answer) in answers(&world).await {
        match id {
            5 => assert_eq!(answer, "feature"),
            7 => assert_eq!(
                answer,
                "ERROR: invalid_output: the answer is not one of the classes, after 2 repairs: \
                 \"It is a bug, I think\""
            ),
            _ => assert_eq!(answer, class_of(id), "row {id}"),
        }
    }
    // What was paid for answers that were no good is in the row's account.
    let sql = "SELECT id, _enrich['answer_step']['attempts'], _enrich['answer_step']['prompt_tokens'], \
               _enrich['answer_step']['cost_micro_usd'] FROM target WHERE id IN (2, 3, 7) ORDER BY id";
    let paid = rows_of(&world.path("target"), sql).await;
    let number = |row: usize, column: usize| paid[row][column].parse::<u64>().unwrap();
    assert_eq!([number(0, 1), number(1, 1), number(2, 1)], [1, 3, 3]);
    assert!(number(1, 2) > 3 * number(0, 2) && number(2, 3) > 2 * number(0, 3), "{paid:?}");
    assert_eq!(world.simulator.counts().requests, 12 + 2 + 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_repairs_a_wrong_answer_is_an_error_at_once_and_a_retry_asks_again() {
    let world = world(6, spec(vec![says("maybe", 1.0, Some(1))]), "max_repairs = 0").await;
    world.run(&[]).await.assert_status(3).assert_says("6 errors").assert_says("no row was answered");
    let told = "ERROR: invalid_output: the answer is not one of the classes: \"maybe\"";
    assert!(answers(&world).await.iter().all(|(_, answer)| answer == told));
    world.on_job("retry", &[]).await.assert_status(0);
    assert!(answers(&world).await.iter().all(|(id, answer)| *answer == class_of(*id)));
    assert_eq!(world.simulator.counts().requests, 12);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_knows_no_classes_stops_the_run_with_the_rows_pending() {
    let world = world(200, spec(vec![says("Sure! Here is my answer", 1.0, None)]), "").await;
    let stopped = world.run(&[]).await;
    stopped
        .assert_status(4)
        .assert_says("invalid_output")
        .assert_says("the first rows of step \"answer\" all came to nothing");
    assert!(world.simulator.counts().requests < 3 * 40, "{}", world.simulator.counts().requests);
    assert_eq!(answers(&world).await.len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_a_repair_follows_are_not_paid_for_again_after_a_kill() {
    let faults = || vec![says("no class", 0.5, Some(2))];
    let whole = world(30, spec(faults()), "").await;
    whole.run(&[]).await.assert_status(0);
    let asked = whole.simulator.counts().requests;
    assert!(asked > 40, "{asked}");
    for at in [5, 9, 14, 22] {
        let world = world(30, spec(faults()), "").await;
        let fault = format!("journal-append.after=kill@{at}");
        let killed = world.run_with(&[], &[("ENRICH_FAULT", &fault)]).await;
        assert_ne!(killed.status, Some(0));
        world.settle().await;
        world.run(&[]).await.assert_status(0);
        assert!(answers(&world).await.iter().all(|(id, answer)| *answer == class_of(*id)));
        // No more than without a kill, save for what was in flight: four answers, which are drawn anew, and of which
        // each may have been right and is wrong twice now.
        let again = world.simulator.counts().requests;
        assert!(again <= asked + 4 * 2, "{again} requests, and {asked} without a kill");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_ten_thousand_rows_with_wrong_first_answers_all_are_repaired_and_none_is_shifted() {
    const ROWS: i64 = 10_000;
    let world = world(ROWS, spec(vec![says("I would say that it is a bug.", 0.3, Some(1))]), "").await;
    let text = std::fs::read_to_string(world.job()).unwrap();
    let text = text
        .replace("max_rows = 10", "max_rows = 1000")
        .replace("max_concurrency = 4", "max_concurrency = 32");
    world.write_text(&text);
    world.run(&[]).await.assert_status(0).assert_says("10,000 rows written").assert_says("0 errors");
    let answers = answers(&world).await;
    assert_eq!(answers.len(), usize::try_from(ROWS).unwrap());
    assert!(answers.iter().all(|(id, answer)| *answer == class_of(*id)));
    let counts = world.simulator.counts();
    let repaired: BTreeSet<i64> = (0..ROWS).filter(|id| counts.answers_to(&asked(*id)) == 2).collect();
    assert!((2_700..3_300).contains(&repaired.len()), "{}", repaired.len());
    assert_eq!(counts.requests, u64::try_from(ROWS).unwrap() + repaired.len() as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repair_goes_to_the_other_provider_when_the_first_is_gone() {
    let wrong = faulty(says("no class", 1.0, Some(1)));
    let second = Simulator::start(spec(Vec::new()), 0).await.unwrap();
    let first = World::of(Setup {
        simulator: SimulatorSpec { quota: Some(3), ..wrong },
        rows: 10,
        step: &format!("classes = {CLASSES:?}\nprovider = [\"sim\", \"other\"]"),
        sections: &format!("[provider.other]\nbase_url = \"{}\"\nmodel = \"simulated\"", second.url()),
        ..Setup::default()
    })
    .await;
    first.run(&[]).await.assert_status(0).assert_says("0 errors");
    assert!(answers(&first).await.iter().all(|(id, answer)| *answer == class_of(*id)));
    // What the first one answered was wrong, and each of these rows was asked once more, elsewhere.
    assert_eq!((first.simulator.counts().answered, second.counts().requests), (3, 10));
}

#[tokio::test(flavor = "multi_thread")]
async fn classes_that_cannot_be_chosen_from_are_refused() {
    for (classes, more, told) in [
        ("[]", "", "`step[0].classes` is empty"),
        (r#"["bug", "bug"]"#, "", "`step[0].classes` has \"bug\" twice"),
        (r#"["bug", " idea"]"#, "", "`step[0].classes` has the entry \" idea\""),
        (r#"["bug", "a\nb"]"#, "", "`step[0].classes` has the entry"),
        (r#"["bug", "idea"]"#, "max_repairs = 11", "`step[0].max_repairs` is 11; 10 is the most"),
    ] {
        let step = format!("classes = {classes}\n{more}");
        let world = World::of(Setup { rows: 2, step: &step, ..Setup::default() }).await;
        world.run(&[]).await.assert_status(2).assert_says(told);
    }
    let world = World::of(Setup { rows: 2, step: "max_repairs = 1", ..Setup::default() }).await;
    world.run(&[]).await.assert_status(2).assert_says("it goes with classes");
}

#[tokio::test(flavor = "multi_thread")]
async fn classes_are_asked_for_in_the_form_of_a_schema_that_the_endpoint_takes() {
    // A model that talks unless a grammar holds it to a schema.
    let talks = |forms: &[SchemaFormName]| SimulatorSpec {
        answers: vec!["I would rather talk about it.".into()],
        schema_forms: Some(forms.to_vec()),
        ..SimulatorSpec::default()
    };
    for form in [SchemaFormName::JsonSchema, SchemaFormName::Tool] {
        let world = world(16, talks(&[form]), "").await;
        world.run(&[]).await.assert_status(0).assert_says("16 answers, 0 errors");
        assert!(answers(&world).await.iter().all(|(id, answer)| *answer == class_of(*id)), "{form:?}");
        let billed = world.simulator.counts().answered;
        assert_eq!(billed, 16, "{form:?}: what is refused is not billed");
    }
    // So few tokens hold a class and no object around it: it is asked for in words.
    let words = talks(&[SchemaFormName::JsonSchema]);
    let short = world(16, words, "max_tokens = 12\nmax_repairs = 0").await;
    short.run(&[]).await.assert_status(3).assert_says("16 errors (invalid_output 16)");
}
