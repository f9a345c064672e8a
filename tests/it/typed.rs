//! Typed answers: their columns, the forms in which a schema is sent, what is asked again and what is refused.

use enrich::config::{FaultSpec, Job, SchemaFormName, SimulatorSpec, WrongForm};
use enrich::simulator::Simulator;
use enrich::simulator::instance_of;
use enrich::table::Table;
use serde_json::{Value, json};

use crate::support::{
    Setup, World, append_delta, fault, faulty, prompt_of, rows, rows_of, with_faults, wrong,
};

/// How a null is read.
const NULL: &str = "NULL";
const FIELDS: &str = r#"fields = { mood = ["good", "bad"], urgency = "int", share = "float", due = "date?", tags = "[string]", who = { name = "string", old = "bool" } }"#;

fn schema_of(world: &World) -> Value {
    let job = Job::load(&world.job()).unwrap();
    job.steps[0].params.shape.as_ref().unwrap().schema().clone()
}

/// What the simulator answers about a row.
fn said(world: &World, id: i64) -> Value {
    instance_of(&schema_of(world), 0, &prompt_of(id))
}

/// Rows of the target: id, and the answer as JSON, made of its columns by another reader.
async fn answers(world: &World) -> Vec<(i64, Option<Value>, String)> {
    let sql = "SELECT id, answer['mood'], answer['urgency'], answer['share'], answer['due'], array_to_string(answer['tags'], '|'), \
               answer['who']['name'], answer['who']['old'], answer IS NULL, answer_error FROM target ORDER BY id";
    let rows = rows_of(&world.path("target"), sql).await;
    let read = |row: Vec<String>| {
        let parse = |text: &str| serde_json::from_str::<Value>(text).unwrap_or(Value::Null);
        let tags: Vec<&str> = row[5].split('|').filter(|tag| !tag.is_empty()).collect();
        let due = if row[4] == NULL { Value::Null } else { json!(row[4]) };
        let answer = json!({
            "mood": row[1], "urgency": parse(&row[2]), "share": parse(&row[3]).as_f64(), "due": due, "tags": tags,
            "who": {"name": row[6], "old": row[7] == "true"},
        });
        (row[0].parse().unwrap(), (row[8] == "false").then_some(answer), row[9].clone())
    };
    rows.into_iter().map(read).collect()
}

fn assert_said(world: &World, id: i64, answer: Option<&Value>) {
    let mut expected = said(world, id);
    expected["share"] = json!(expected["share"].as_f64());
    assert_eq!(answer, Some(&expected), "row {id}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_becomes_a_struct_of_the_right_types_whatever_was_said_first() {
    let about = |id: i64, wrong_form, times| FaultSpec {
        contains: Some(format!("Row {id} ")),
        ..wrong(wrong_form, 1.0, times)
    };
    let faults = vec![
        about(1, WrongForm::Fenced, None),
        about(2, WrongForm::Prose, Some(1)),
        about(3, WrongForm::ExtraField, Some(2)),
        about(4, WrongForm::WrongEnum, Some(1)),
        about(5, WrongForm::CutJson, Some(1)),
        about(6, WrongForm::MissingField, Some(1)),
        about(7, WrongForm::WrongEnum, None),
    ];
    let world =
        World::of(Setup { simulator: with_faults(faults), rows: 12, step: FIELDS, ..Setup::default() }).await;
    // Room for what was cut off.
    world.write_text(
        &std::fs::read_to_string(world.job())
            .unwrap()
            .replace("[[step]]", "[[step]]\nmax_tokens_retry = 2048"),
    );
    world
        .run(&[])
        .await
        .assert_status(0)
        .assert_says("12 rows written")
        .assert_says("1 error (invalid_output 1)");
    for (id, answer, error) in answers(&world).await {
        if id == 7 {
            assert_eq!(answer, None);
            let told =
                "ERROR: invalid_output: the answer is not in the requested form, after 2 repairs: /mood: ";
            assert!(error.starts_with(told), "{error}");
        } else {
            assert_eq!(error, NULL, "row {id}");
            assert_said(&world, id, answer.as_ref());
        }
    }
    // Once more for 2, 4, 5 and 6, twice for 3 and 7.
    assert_eq!(world.simulator.counts().requests, 12 + 4 + 2 + 2);
    let table = Table::open(world.path("target")).await.unwrap().schema().unwrap();
    let types = table.field_with_name("answer").unwrap().data_type().to_string();
    for part in ["\"urgency\": Int64", "\"share\": Float64", "\"due\": Date32", "\"old\": Boolean"] {
        assert!(types.contains(part), "{types}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fields_have_columns_of_their_own_if_asked_and_the_text_is_kept_beside_them() {
    let wrong = FaultSpec { contains: Some("Row 2 ".into()), ..wrong(WrongForm::Prose, 1.0, None) };
    let step =
        "flat = true\nkeep_raw = true\nmax_repairs = 0\nfields = { urgency = \"int\", tags = \"[string]\" }";
    let world = World::of(Setup { simulator: faulty(wrong), rows: 5, step, ..Setup::default() }).await;
    world.run(&[]).await.assert_status(0).assert_says("1 error");
    let sql = "SELECT id, answer_urgency, array_to_string(answer_tags, '|'), answer_error, answer_raw FROM target ORDER BY id";
    for row in rows_of(&world.path("target"), sql).await {
        let id: i64 = row[0].parse().unwrap();
        if id == 2 {
            assert_eq!((row[1].as_str(), row[2].as_str()), (NULL, NULL));
            assert!(row[3].starts_with("ERROR: invalid_output") && row[4].starts_with("Sure"), "{row:?}");
            continue;
        }
        let said = said(&world, id);
        assert_eq!(row[1], said["urgency"].to_string());
        assert_eq!(serde_json::from_str::<Value>(&row[4]).unwrap(), said);
        assert_eq!(row[3], NULL);
    }
    // The failed rows are found by their error and mended in all their columns.
    let listed = world.on_job("errors", &[]).await;
    assert!(listed.assert_status(0).stdout.contains("invalid_output"), "{}", listed.stdout);
    let text = std::fs::read_to_string(world.job()).unwrap();
    let other = Simulator::start(SimulatorSpec::default(), 0).await.unwrap();
    world.write_text(&text.replace(world.simulator.url().as_str(), other.url().as_str()));
    world.on_job("retry", &[]).await.assert_status(0);
    let sql =
        "SELECT answer_urgency, answer_error, answer_raw, _enrich['error_count'] FROM target WHERE id = 2";
    let row = rows_of(&world.path("target"), sql).await.remove(0);
    let said = said(&world, 2);
    assert_eq!(
        [row[0].as_str(), row[1].as_str(), row[3].as_str()],
        [&said["urgency"].to_string(), NULL, "0"]
    );
    assert_eq!(serde_json::from_str::<Value>(&row[2]).unwrap(), said);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_form_of_a_schema_is_sent_as_the_endpoint_takes_it() {
    let taking = |form| SimulatorSpec { schema_forms: Some(vec![form]), ..SimulatorSpec::default() };
    for (form, written) in [
        (SchemaFormName::JsonSchema, "json_schema"),
        (SchemaFormName::Tool, "tool"),
        (SchemaFormName::JsonObject, "json_object"),
        (SchemaFormName::LlamaCpp, "llama_cpp"),
        (SchemaFormName::Vllm, "vllm"),
    ] {
        let world = World::of(Setup {
            simulator: taking(form),
            rows: 3,
            step: FIELDS,
            provider: &format!("schema_form = \"{written}\""),
            ..Setup::default()
        })
        .await;
        world.run(&[]).await.assert_status(0).assert_says("0 errors");
        assert_eq!(world.simulator.counts().requests, 3, "{written}");
        answers(&world).await.iter().for_each(|(id, answer, _)| assert_said(&world, *id, answer.as_ref()));
    }
    let none = SimulatorSpec { schema_forms: Some(Vec::new()), ..SimulatorSpec::default() };
    let world = World::of(Setup {
        simulator: none,
        rows: 3,
        step: FIELDS,
        provider: "schema_form = \"words\"",
        ..Setup::default()
    })
    .await;
    world.run(&[]).await.assert_status(0).assert_says("0 errors");
    answers(&world).await.iter().for_each(|(id, answer, _)| assert_said(&world, *id, answer.as_ref()));
}

#[tokio::test(flavor = "multi_thread")]
async fn auto_finds_the_form_that_is_taken_and_remembers_it() {
    for (forms, refusals) in
        [(vec![SchemaFormName::Tool], 1), (vec![SchemaFormName::JsonObject], 2), (Vec::new(), 3)]
    {
        let spec = SimulatorSpec { schema_forms: Some(forms), ..SimulatorSpec::default() };
        let world = World::of(Setup { simulator: spec, rows: 20, step: FIELDS, ..Setup::default() }).await;
        world.run(&[]).await.assert_status(0).assert_says("0 errors");
        let counts = world.simulator.counts();
        assert_eq!((counts.answered, counts.requests), (20, 20 + refusals), "one request found out for all");
        append_delta(&world.path("source"), &rows(20..30)).await;
        world.run(&[]).await.assert_status(0).assert_says("0 errors");
        assert_eq!(world.simulator.counts().requests, 30 + refusals, "and the next run knew");
        answers(&world).await.iter().for_each(|(id, answer, _)| assert_said(&world, *id, answer.as_ref()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_ignores_schemas_is_told_in_words_or_stops_the_run() {
    let ignores = || SimulatorSpec { ignores_schema: true, ..SimulatorSpec::default() };
    let stopped = World::of(Setup {
        simulator: ignores(),
        rows: 200,
        step: FIELDS,
        provider: "schema_form = \"json_schema\"",
        ..Setup::default()
    })
    .await;
    let outcome = stopped.run(&[]).await;
    outcome.assert_status(4).assert_says("invalid_output").assert_says("all came to nothing: invalid_output");
    assert_eq!(rows_of(&stopped.path("target"), "SELECT id FROM target").await.len(), 0);
    // It does not read words either, so nothing helps; but each form was tried.
    let auto = World::of(Setup { simulator: ignores(), rows: 200, step: FIELDS, ..Setup::default() }).await;
    auto.run(&[]).await.assert_status(4).assert_says("it is no JSON");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_is_refused_for_itself_does_not_change_the_form() {
    let refused = FaultSpec { status: Some(400), contains: Some("Row 0 ".into()), ..fault() };
    let world =
        World::of(Setup { simulator: faulty(refused), rows: 12, step: FIELDS, ..Setup::default() }).await;
    world.run(&[]).await.assert_status(0).assert_says("1 error (bad_request 1)");
    let learned = std::fs::read_to_string(world.path("target/_checkpoints/test/learned.json")).unwrap();
    assert!(learned.contains("\"schema_form\": \"json_schema\""), "{learned}");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_ten_thousand_typed_rows_with_wrong_first_answers_none_is_shifted() {
    const ROWS: i64 = 10_000;
    let faults = [WrongForm::Prose, WrongForm::ExtraField, WrongForm::WrongEnum, WrongForm::CutJson];
    // Of what is left after those before it.
    let shares = [0.08, 0.09, 0.09, 0.1];
    let faults = faults.into_iter().zip(shares).map(|(form, share)| wrong(form, share, Some(1))).collect();
    let world =
        World::of(Setup { simulator: with_faults(faults), rows: ROWS, step: FIELDS, ..Setup::default() })
            .await;
    let text = std::fs::read_to_string(world.job()).unwrap();
    let text = text
        .replace("max_rows = 10", "max_rows = 1000")
        .replace("[[step]]", "[[step]]\nmax_tokens_retry = 2048")
        .replace("max_concurrency = 4", "max_concurrency = 32");
    world.write_text(&text);
    world.run(&[]).await.assert_status(0).assert_says("10,000 rows written").assert_says("0 errors");
    let schema = schema_of(&world);
    let answers = answers(&world).await;
    assert_eq!(answers.len(), usize::try_from(ROWS).unwrap());
    for (id, answer, _) in answers {
        let mut expected = instance_of(&schema, 0, &prompt_of(id));
        expected["share"] = json!(expected["share"].as_f64());
        assert_eq!(answer, Some(expected), "row {id}");
    }
    let counts = world.simulator.counts();
    let again =
        u64::try_from((0..ROWS).filter(|id| counts.answers_to(&prompt_of(*id)) == 2).count()).unwrap();
    assert!((2_700..3_700).contains(&again), "{again}");
    assert_eq!(counts.requests, u64::try_from(ROWS).unwrap() + again);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schema_in_a_file_is_read_and_what_no_table_holds_is_refused_by_name() {
    let schema = json!({"type": "object", "required": ["n"], "properties": {"n": {"type": "integer", "minimum": 1, "maximum": 3}}});
    let held =
        World::of(Setup { rows: 4, step: "schema = \"answer.schema.json\"", ..Setup::default() }).await;
    std::fs::write(held.path("answer.schema.json"), schema.to_string()).unwrap();
    held.run(&[]).await.assert_status(0).assert_says("0 errors");
    let rows = rows_of(&held.path("target"), "SELECT answer['n'] FROM target").await;
    assert!(rows.iter().all(|row| ["1", "2", "3"].contains(&row[0].as_str())), "{rows:?}");

    for (step, told) in [
        ("schema = \"none.json\"", "none.json, which cannot be read"),
        (
            "schema = { type = \"array\", items = { type = \"string\" } }",
            "`step[0].schema` is not of an object",
        ),
        (
            "schema = { type = \"object\", properties = { a = { type = [\"string\", \"integer\"] } } }",
            "\"a\" is of several types (string, integer)",
        ),
        (
            "schema = { \"$ref\" = \"https://example.com/s.json\" }",
            "refers to \"https://example.com/s.json\"",
        ),
        (
            "fields = { a = \"number\" }",
            "`step[0].fields` has the type \"number\" for \"a\", which is not known",
        ),
        ("fields = { a = \"int\" }\nclasses = [\"x\"]", "`step[0].fields` and classes are both set"),
        ("flat = true", "`step[0].flat` is set, and the answer is not typed"),
        ("fields = { a = \"int\" }\nmax_repairs = 11", "11; 10 is the most"),
    ] {
        let world = World::of(Setup { rows: 2, step, ..Setup::default() }).await;
        world.run(&[]).await.assert_status(2).assert_says(told);
        assert_eq!(world.simulator.counts().requests, 0);
    }
    // A column of the source is in the way of the column for errors.
    let clash = World::of(Setup { rows: 2, ..Setup::default() }).await;
    let text = clash.usual_job("").replace(
        "output = \"answer\"",
        "output = \"te\"\nflat = true\nfields = { xt = \"int\", id = \"int\" }",
    );
    clash.write_text(
        &text.replace("output = \"te\"", "output = \"answer\"").replace("xt = \"int\"", "error = \"string\""),
    );
    clash.run(&[]).await.assert_status(2).assert_says("\"answer_error\"");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_moment_that_no_column_holds_is_an_error_of_its_row_alone() {
    let far = FaultSpec {
        contains: Some("Row 2 ".into()),
        text: Some(r#"{"at": "9999-12-31T23:59:59-05:00"}"#.into()),
        ..wrong(WrongForm::Prose, 1.0, None)
    };
    let spec = with_faults(vec![FaultSpec { wrong: None, ..far }]);
    let world = World::of(Setup {
        simulator: spec,
        rows: 5,
        step: "fields = { at = \"timestamp\" }",
        ..Setup::default()
    })
    .await;
    world.run(&[]).await.assert_status(0).assert_says("1 error (invalid_output 1)");
    let rows =
        rows_of(&world.path("target"), "SELECT count(answer['at']), count(answer_error) FROM target").await;
    assert_eq!(rows, [["4", "1"]]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_cut_off_is_asked_for_once_more_with_room_or_is_an_error_of_its_own() {
    let cut = |times| SimulatorSpec {
        faults: vec![FaultSpec { contains: Some("Row 3 ".into()), ..wrong(WrongForm::CutJson, 1.0, times) }],
        ..SimulatorSpec::default()
    };
    let set = |world: &World, more: &str| {
        let text = std::fs::read_to_string(world.job()).unwrap();
        world.write_text(&text.replace("[[step]]", &format!("[[step]]\nmax_tokens = 100\n{more}")));
    };
    // Without: one request, and a class that says what to do.
    let none = World::of(Setup { simulator: cut(None), rows: 12, step: FIELDS, ..Setup::default() }).await;
    set(&none, "");
    none.run(&[]).await.assert_status(0).assert_says("1 error (length 1)");
    assert_eq!(none.simulator.counts().requests, 12, "the same again would be cut again");
    let error = answers(&none).await.into_iter().find(|(id, ..)| *id == 3).unwrap().2;
    assert!(error.starts_with("ERROR: length: the token limit cut the answer off: it is no JSON"), "{error}");
    // With: once more, and the row has what it took.
    let once = World::of(Setup { simulator: cut(Some(1)), rows: 12, step: FIELDS, ..Setup::default() }).await;
    set(&once, "max_tokens_retry = 2048");
    once.run(&[]).await.assert_status(0).assert_says("0 errors");
    assert_eq!(once.simulator.counts().requests, 13);
    let billed = once.simulator.counts().billed_tokens;
    let sql = "SELECT CAST(SUM(_enrich['answer_step']['prompt_tokens'] + _enrich['answer_step']['completion_tokens']) AS BIGINT) AS t \
               FROM target";
    assert_eq!(rows_of(&once.path("target"), sql).await[0], [billed.to_string()], "both are in the row");
    // Not for ever.
    let twice = World::of(Setup { simulator: cut(None), rows: 12, step: FIELDS, ..Setup::default() }).await;
    set(&twice, "max_tokens_retry = 2048");
    twice.run(&[]).await.assert_status(0).assert_says("1 error (length 1)");
    assert_eq!(twice.simulator.counts().requests, 13);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_check_finds_out_whether_schemas_are_taken() {
    let spec =
        || SimulatorSpec { schema_forms: Some(vec![SchemaFormName::Tool]), ..SimulatorSpec::default() };
    let auto = World::of(Setup { simulator: spec(), rows: 4, step: FIELDS, ..Setup::default() }).await;
    let checked = auto.on_job("check", &["--live"]).await;
    let found = "ok      provider sim, schemas: it takes them as tool";
    assert!(checked.assert_status(0).stdout.contains(found), "{}", checked.stdout);
    let fixed = World::of(Setup {
        simulator: spec(),
        rows: 4,
        step: FIELDS,
        provider: "schema_form = \"json_schema\"",
        ..Setup::default()
    })
    .await;
    let checked = fixed.on_job("check", &["--live"]).await;
    assert!(
        checked.assert_status(4).stdout.contains("wrong   provider sim, schemas: "),
        "{}",
        checked.stdout
    );
}
