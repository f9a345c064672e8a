//! Makes the sample file `examples/data/tickets/tickets.parquet`: eighty support tickets, the same every time.
//!
//! `cargo run --example make_tickets -- <file>`

#![expect(clippy::cast_possible_wrap, reason = "eighty rows")]

use std::fs::File;
use std::sync::Arc;

use anyhow::Context;
use arrow::array::{ArrayRef, Int64Array, StringArray};
use arrow::record_batch::RecordBatch;
use parquet::arrow::ArrowWriter;

const SUBJECTS: [&str; 5] =
    ["Charged twice", "App crashes on start", "How do I export?", "Thank you", "Cannot log in"];
const BODIES: [&str; 5] = [
    "my card shows two payments for the same month. Please refund one of them",
    "since the update this morning it closes before the first screen, on three phones here",
    "I need last year's figures as a spreadsheet for my accountant, and I find no button",
    "your colleague on the phone solved it in five minutes, that was a pleasure",
    "the link in your mail says that it has expired, although it is ten minutes old",
];
const TIERS: [&str; 3] = ["free", "team", "enterprise"];
const COUNT: usize = 80;

fn main() -> anyhow::Result<()> {
    let path = std::env::args().nth(1).context("name the file")?;
    let bodies = (0..COUNT).map(|id| {
        // Every sixth ticket drags a log along.
        let log = if id % 6 == 5 {
            format!("\n{}", "at frame 0x00f3 in render()\n".repeat(40))
        } else {
            String::new()
        };
        format!("Hello, {} (customer {}).{log}", BODIES[id * 3 % BODIES.len()], 4_000 + id * 37)
    });
    let columns: [(&str, ArrayRef); 4] = [
        ("ticket_id", Arc::new(Int64Array::from_iter_values((0..COUNT).map(|id| 500 + id as i64)))),
        ("tier", Arc::new(StringArray::from_iter_values((0..COUNT).map(|id| TIERS[id * 7 % TIERS.len()])))),
        (
            "subject",
            Arc::new(StringArray::from_iter_values((0..COUNT).map(|id| SUBJECTS[id * 3 % SUBJECTS.len()]))),
        ),
        ("body", Arc::new(StringArray::from_iter_values(bodies))),
    ];
    let rows = RecordBatch::try_from_iter(columns)?;
    let mut writer = ArrowWriter::try_new(File::create(path)?, rows.schema(), None)?;
    writer.write(&rows)?;
    writer.close()?;
    Ok(())
}
