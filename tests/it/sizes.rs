//! What a row contains, and how large answers are, ends no job.

use std::sync::Arc;

use arrow::array::{Int64Array, StringArray};
use arrow::record_batch::RecordBatch;
use enrich::config::{FaultSpec, SimulatorSpec};

use crate::stops::{fault, faulty};
use crate::support::{World, append_delta, rows, schema};
use crate::tables::rows_of;

async fn append(world: &World, texts: &[String]) {
    let count = i64::try_from(texts.len()).unwrap();
    let ids = Arc::new(Int64Array::from_iter_values(0..count));
    let texts = Arc::new(StringArray::from_iter_values(texts));
    append_delta(&world.path("source"), &RecordBatch::try_new(schema(), vec![ids, texts]).unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_of_a_million_spaces_or_letters_is_a_row_like_others() {
    let world = World::new(SimulatorSpec::default()).await;
    let million = 1 << 20;
    let odd = [" ".repeat(million), "\n".repeat(million), "z".repeat(million), "short".to_owned()];
    append(&world, &odd.map(|text| format!("Row: {text}."))).await;
    let job = world.usual_job("context_window = 4_000");
    let cut = job.replace("{{ text }}", "{{ text | truncate_tokens(2_000) }}");
    let job_path = world.job();
    let path = job_path.to_str().unwrap();
    for text in [&cut, &job] {
        world.write_text(text);
        let planned = world.output(world.command(&["plan", path])).await;
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
    let world = World::new(long_answers(100_000)).await;
    append_delta(&world.path("source"), &rows(0..200)).await;
    // The second step reads what the first gave, and its condition too.
    let job = world
        .usual_job("")
        .replace("[batch]\nmax_rows = 10", "[window]\nmax_bytes = \"1MB\"\n[batch]\nmax_rows = 50");
    let second = "[[step]]\noutput = \"second\"\nwhen = \"length(answer) > 10 AND id % 2 = 0\"\nprompt = \"{{ answer | truncate(20) }}{{ id }}\"\n";
    world.write_text(&format!("{job}\n{second}"));
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
