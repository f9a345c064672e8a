//! The table of Delta features in `examples/tables`, held against what a run does with a table that has them.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use enrich::config::SimulatorSpec;
use serde_json::{Value, json};

use crate::support::{World, append_delta, rows};
use crate::tables::{copy_of, tables, world_over};
use crate::targets::make_target;

/// Features that a reader must know too.
const OF_READERS: [&str; 8] = [
    "catalogManaged",
    "columnMapping",
    "deletionVectors",
    "timestampNtz",
    "typeWidening",
    "v2Checkpoint",
    "vacuumProtocolCheck",
    "variantType",
];

struct Line {
    feature: String,
    source: String,
    target: String,
}

fn lines() -> Vec<Line> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/tables/README.md");
    let page = fs::read_to_string(page).unwrap();
    let (_, table) = page.split_once("| feature | source | target | |\n| --- | --- | --- | --- |\n").unwrap();
    let table = table.lines().take_while(|line| line.starts_with('|'));
    let of_line = |line: &str| -> Vec<Line> {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let features = cells[1].split(", ").map(|name| name.trim_matches('`').to_owned());
        let line = |feature| Line { feature, source: cells[2].to_owned(), target: cells[3].to_owned() };
        features.map(line).collect()
    };
    table.flat_map(of_line).collect()
}

/// Makes the first commit of a table list a feature, and a column use it where a list means nothing.
fn give(table: &Path, feature: &str) {
    let log = table.join("_delta_log/00000000000000000000.json");
    let text = fs::read_to_string(&log).unwrap();
    let mut actions: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for action in &mut actions {
        if action.get("protocol").is_some() {
            let mut protocol = json!({
                "minReaderVersion": 1, "minWriterVersion": 7, "writerFeatures": ["appendOnly", feature],
            });
            if OF_READERS.contains(&feature) {
                protocol["minReaderVersion"] = 3.into();
                protocol["readerFeatures"] = json!([feature]);
            }
            action["protocol"] = protocol;
        }
        let note = match feature {
            "generatedColumns" => Some(("delta.generationExpression", json!("id + 1"))),
            "identityColumns" => Some(("delta.identity.start", json!(1))),
            _ => None,
        };
        if let (Some(metadata), Some((key, value))) = (action.get_mut("metaData"), note) {
            let mut schema: Value = serde_json::from_str(metadata["schemaString"].as_str().unwrap()).unwrap();
            schema["fields"][0]["metadata"][key] = value;
            metadata["schemaString"] = schema.to_string().into();
        }
    }
    let text: Vec<String> = actions.iter().map(ToString::to_string).collect();
    fs::write(&log, text.join("\n") + "\n").unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn every_feature_is_read_written_or_refused_as_the_page_says() {
    let lines = lines();
    let names: BTreeSet<&str> = lines.iter().map(|line| line.feature.as_str()).collect();
    assert!(names.len() == lines.len() && names.len() > 15, "{names:?}");
    for Line { feature, source, target } in &lines {
        let world = World::new(SimulatorSpec::default()).await;
        append_delta(&world.path("source"), &rows(0..4)).await;
        world.write_job("");
        if feature != "columnMapping" {
            // Tables in which columns are mapped are in `tables.rs`.
            give(&world.path("source"), feature);
        }
        assert_ends(&world, feature, source, "read").await;

        let world = if feature == "columnMapping" {
            let world = world_over(&tables().join("simple_table"), "").await;
            copy_of(&tables().join("table_with_column_mapping"), &world.path("target"));
            world
        } else {
            let world = World::with_rows(4, 1).await;
            make_target(&world, |field| field).await;
            give(&world.path("target"), feature);
            world
        };
        assert_ends(&world, feature, target, "written").await;
    }
}

/// The run does what the page says: everything, or nothing and the feature's name.
async fn assert_ends(world: &World, feature: &str, said: &str, works: &str) {
    let ended = world.run(&[]).await;
    match said {
        said if said == works => {
            assert_eq!(ended.status, Some(0), "{feature}: {}", ended.stderr);
            world.assert_target(0..4).await;
        }
        "refused" => {
            ended.assert_status(2).assert_says(feature);
            assert_eq!(world.simulator.counts().requests, 0);
        }
        other => panic!("{feature}: {other}"),
    }
}
