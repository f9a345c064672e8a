//! Makes the sample table `examples/data/reviews`: sixty reviews in three commits, the same every time.
//!
//! `cargo run --example make_reviews -- <folder>`

#![expect(clippy::print_stdout, clippy::cast_possible_truncation, reason = "a small generator")]
#![expect(clippy::cast_possible_wrap, reason = "sixty rows")]

use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use arrow::array::{Date32Array, Int32Array, Int64Array, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use arrow::record_batch::RecordBatch;
use enrich::table::Table;
use serde_json::Map;

const PRODUCTS: [&str; 6] =
    ["kettle", "desk lamp", "rain jacket", "espresso machine", "bicycle bell", "noise-cancelling headphones"];
const OPENINGS: [&str; 5] = [
    "I have used it every day for three months",
    "It came two days late and the box was dented",
    "My sister gave me this for my birthday",
    "I compared four of them before I bought this one",
    "Second one we own",
];
const MIDDLES: [&str; 4] = [
    "and it still works as on the first day",
    "and the handle broke after a week",
    "and the manual explains nothing at all",
    "and it is quieter than I had hoped",
];
const ENDINGS: [&str; 3] = [
    "I would buy it again.",
    "For this price I expected more; support answered after nine days and asked for the same photos twice.",
    "Ça marche très bien — five stars from the whole family 😀",
];
const FIRST_DAY: i32 = 20_000;

fn review(id: usize) -> Option<String> {
    match id {
        // What goes wrong at the provider, and a row without a text.
        17 => {
            Some("Do not order by phone: they asked for my card number, 4111 1111 1111 1111, twice.".into())
        }
        29 => None,
        43 => Some("%PDF-1.7 %âãÏÓ 1 0 obj <</Type/Catalog>> endobj (pasted by mistake)".into()),
        _ => Some(format!(
            "{} {}. {}",
            OPENINGS[id % OPENINGS.len()],
            MIDDLES[(id / 5) % MIDDLES.len()],
            ENDINGS[(id / 7) % ENDINGS.len()]
        )),
    }
}

fn rows(ids: std::ops::Range<usize>, schema: &Arc<Schema>) -> anyhow::Result<RecordBatch> {
    let numbers: Vec<i64> = ids.clone().map(|id| 1_000 + id as i64).collect();
    let products = ids.clone().map(|id| (id != 29).then(|| PRODUCTS[(id * 7) % PRODUCTS.len()]));
    let stars: Vec<i32> = ids.clone().map(|id| 1 + ((id * 13) % 5) as i32).collect();
    let days: Vec<i32> = ids.clone().map(|id| FIRST_DAY + id as i32).collect();
    Ok(RecordBatch::try_new(
        Arc::clone(schema),
        vec![
            Arc::new(Int64Array::from(numbers)),
            Arc::new(products.collect::<StringArray>()),
            Arc::new(Int32Array::from(stars)),
            Arc::new(ids.map(review).collect::<StringArray>()),
            Arc::new(Date32Array::from(days)),
        ],
    )?)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let folder = std::env::args().nth(1).context("name the folder for the table")?;
    let folder = Path::new(&folder);
    std::fs::create_dir_all(folder)?;
    let folder = folder.canonicalize()?;
    let schema = Arc::new(Schema::new(vec![
        Field::new("review_id", DataType::Int64, true),
        Field::new("product", DataType::Utf8, true),
        Field::new("stars", DataType::Int32, true),
        Field::new("review", DataType::Utf8, true),
        Field::new("reviewed_on", DataType::Date32, true),
    ]));
    let mut table = Table::create(&folder, &schema, &[], &[]).await?;
    for commit in 0..3 {
        let mut staging = table.stage(u64::MAX).await?;
        staging.write(rows(commit * 20..(commit + 1) * 20, &schema)?).await?;
        let staged = staging.finish().await?;
        table.append(&staged, &[], Map::new()).await?;
    }
    // The log names the folder it was made in, which is nobody's business.
    let first = folder.join("_delta_log/00000000000000000000.json");
    let log = std::fs::read_to_string(&first)?;
    let place = format!("file://{}/", folder.display());
    std::fs::write(&first, log.replace(&place, "file:///reviews/"))?;
    println!("{} at version {}", folder.display(), table.version());
    Ok(())
}
