//! What a row contains, and how large answers are, ends no job.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use enrich::config::{FaultSpec, SimulatorSpec};
use parquet::basic::{Repetition, Type as PhysicalType};
use parquet::data_type::Int64Type;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::Type;

use crate::support::{Setup, World, append_delta, fault, faulty, rows, rows_about, rows_of, with_faults};

#[tokio::test(flavor = "multi_thread")]
async fn a_row_of_a_million_spaces_or_letters_is_a_row_like_others() {
    let world = World::new(SimulatorSpec::default()).await;
    let million = 1 << 20;
    let odd = [" ".repeat(million), "\n".repeat(million), "z".repeat(million), "short".to_owned()];
    let odd = rows_about(odd.map(|text| format!("Row: {text}.")));
    append_delta(&world.path("source"), &odd).await;
    let job = world.usual_job("context_window = 4_000");
    let cut = job.replace("{{ text }}", "{{ text | truncate_tokens(2_000) }}");
    for text in [&cut, &job] {
        world.write_text(text);
        let planned = world.output(world.job_command("plan", &[])).await;
        assert!(planned.status.success(), "{}", String::from_utf8_lossy(&planned.stderr));
    }
    world.write_text(&cut);
    world.run(&["--max-rows", "2"]).await.assert_status(0).assert_says("2 answers");
    // What no window has room for is the row's own error.
    world.write_text(&job);
    world.run(&[]).await.assert_status(0).assert_says("1 answer, 1 error");
    let target = world.target().await;
    assert!(target[2].answer.as_deref().unwrap().starts_with("ERROR: too_long: "));
}

/// Every prompt is answered by so many letters.
fn long_answers(letters: usize) -> SimulatorSpec {
    faulty(FaultSpec { text: Some("word ".repeat(letters / 5)), ..fault() })
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_for_which_the_window_has_no_room_are_in_the_target_all_the_same() {
    // The second step reads what the first gave, and its condition too.
    let second = "[[step]]\noutput = \"second\"\nwhen = \"length(answer) > 10 AND id % 2 = 0\"\nprompt = \"{{ answer | truncate(20) }}{{ id }}\"\n";
    let world = World::of(Setup {
        simulator: long_answers(100_000),
        rows: 200,
        sections: &format!("[window]\nmax_bytes = \"1MB\"\n{second}"),
        batch_rows: 50,
        ..Setup::default()
    })
    .await;
    let killed = world.run_with(&[], &[("ENRICH_FAULT", "journal-append.after=kill@160")]).await;
    assert_eq!(killed.status, None, "{}", killed.stderr);
    world.run(&[]).await.assert_status(0).assert_says("from the journal");
    assert!(world.simulator.counts().paid_again() <= 4, "what was in flight");
    let target = world.target().await;
    assert_eq!(target.iter().map(|row| row.id).collect::<Vec<_>>(), (0..200).collect::<Vec<_>>());
    assert!(target.iter().all(|row| row.answer.as_deref().is_some_and(|answer| answer.len() >= 99_990)));
    let seconds = rows_of(
        &world.path("target"),
        "SELECT COUNT(*) FROM target WHERE length(second) >= 99990 AND id % 2 = 0",
    )
    .await;
    assert_eq!(seconds, [["100"]]);
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_that_are_nested_too_deep_for_a_table_are_refused_or_left_out() {
    for depth in [40, 1_000] {
        let world = World::of(Setup { is_parquet: true, ..Setup::default() }).await;
        // The Arrow schema of such a file would be too deep for its own writer.
        let path = world.path("source/a.parquet");
        deep_file(&path, depth);
        world.write_text(&world.usual_job("").replace("{{ text }}", "{{ id }}"));
        let refused = world.run(&[]).await;
        refused.assert_status(2).assert_says(&format!(
            "the column \"deep\", which is nested {} deep, which is deeper than a Delta table holds, in",
            depth + 1
        ));
        assert!(!world.path("target").exists() && world.simulator.counts().requests == 0);
        world
            .run(&["--set", "source.on_unsupported=skip"])
            .await
            .assert_status(0)
            .assert_says("3 rows written");
    }
}

/// A file with a column of structs in each other, and one of numbers.
fn deep_file(path: &Path, depth: usize) {
    let mut nested = Type::primitive_type_builder("n", PhysicalType::INT64);
    nested = nested.with_repetition(Repetition::OPTIONAL);
    let mut nested = Arc::new(nested.build().unwrap());
    for level in 0..depth {
        let name = if level + 1 == depth { "deep" } else { "f" };
        let group = Type::group_type_builder(name).with_repetition(Repetition::OPTIONAL);
        nested = Arc::new(group.with_fields(vec![nested]).build().unwrap());
    }
    let id = Type::primitive_type_builder("id", PhysicalType::INT64).with_repetition(Repetition::REQUIRED);
    let fields = vec![Arc::new(id.build().unwrap()), nested];
    let schema = Arc::new(Type::group_type_builder("schema").with_fields(fields).build().unwrap());
    let file = fs::File::create(path).unwrap();
    let mut writer = SerializedFileWriter::new(file, schema, Arc::default()).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let mut ids = group.next_column().unwrap().unwrap();
    ids.typed::<Int64Type>().write_batch(&[1, 2, 3], None, None).unwrap();
    ids.close().unwrap();
    let mut values = group.next_column().unwrap().unwrap();
    values.typed::<Int64Type>().write_batch(&[], Some(&[0, 0, 0]), None).unwrap();
    values.close().unwrap();
    group.close().unwrap();
    writer.close().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_no_column_has_and_more_providers_than_there_can_be_are_mistakes_in_the_job() {
    let world = World::with_rows(3, 1).await;
    for name in ["an answer", "a,b", "a=b", "a\\tb", "a\\u0007b"] {
        let text = world.usual_job("").replace("output = \"answer\"", &format!("output = \"{name}\""));
        world.write_text(&text);
        world
            .run(&[])
            .await
            .assert_status(2)
            .assert_says("the name of a column of a Delta table has none of");
    }
    let provider = |at: usize| {
        format!("\n[provider.p{at}]\nbase_url = \"{}\"\nmodel = \"simulated\"\n", world.simulator.url())
    };
    let job = world.usual_job("").replace("[[step]]", "[[step]]\nprovider = [\"p62\", \"p1\"]");
    let with = |count: usize| job.clone() + &(0..count).map(provider).collect::<String>();
    world.write_text(&with(64));
    world.run(&[]).await.assert_status(2).assert_says("is the 65th provider; a job has 64 at most");
    assert!(!world.path("target").exists() && world.simulator.counts().requests == 0);
    world.write_text(&with(63));
    world.run(&[]).await.assert_status(0);
    world.assert_target(0..3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_leaves_no_table_where_there_was_none() {
    let world = World::with_rows(20, 1).await;
    let job = world.usual_job("").replace("[batch]", "[checkpoint]\npath = \"state\"\n[batch]");
    // One batch: nothing is in flight when it is committed.
    let job = job.replace("max_rows = 10", "max_rows = 20");
    world.write_text(&job);
    // It dies before its first commit, and somebody removes the table.
    world.run_with(&[], &[("ENRICH_FAULT", "delta-commit.before=kill")]).await;
    fs::remove_dir_all(world.path("target")).unwrap();
    world.run(&[]).await.assert_status(2).assert_says("says that it held 0 batches");
    world.write_text(&job.replace("app_id = \"test\"", "app_id = \"other\""));
    world.run(&[]).await.assert_status(2).assert_says("belongs to the app_id \"test\", not \"other\"");
    append_delta(&world.path("more"), &rows(0..5)).await;
    world.write_text(&job.replace("path = \"source\"", "path = \"more\""));
    world.run(&[]).await.assert_status(2).assert_says("was made for another source");
    world.write_text(&job.replace("{{ text }}", "{{ txet }}"));
    world.run(&[]).await.assert_status(2);
    assert!(!world.path("target").exists());
    world.write_text(&job);
    world.run(&["--restart", "--yes", "--keep-paid"]).await.assert_status(0);
    world.assert_target(0..20).await;
    assert_eq!(world.simulator.counts().paid_again(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn large_answers_take_the_places_of_errors() {
    let refused = FaultSpec { status: Some(400), contains: Some("Row 1".into()), times: Some(1), ..fault() };
    let long = FaultSpec { text: Some("word ".repeat(120_000)), ..fault() };
    let world = World::of(Setup {
        simulator: with_faults(vec![refused, long]),
        rows: 40,
        sections: "[window]\nmax_bytes = \"2MB\"",
        batch_rows: 60,
        ..Setup::default()
    })
    .await;
    world.run(&[]).await.assert_status(0).assert_says("11 errors");
    let retried = world.output(world.job_command("retry", &[])).await;
    assert!(retried.status.success(), "{}", String::from_utf8_lossy(&retried.stderr));
    let target = world.target().await;
    assert_eq!(target.iter().map(|row| row.id).collect::<Vec<_>>(), (0..40).collect::<Vec<_>>());
    for row in &target {
        let answer = row.answer.as_deref().unwrap();
        assert!(answer.len() > 599_000, "{}: {answer}", row.id);
    }
}
