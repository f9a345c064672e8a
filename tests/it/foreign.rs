//! Files and tables as other programs write them: Arrow's own types, moments of 96 bits, columns that no target holds,
//! names in capital letters, files outside of their table.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryViewArray, Decimal32Array, DictionaryArray, Float64Array, Int64Array, LargeListArray,
    ListArray, NullArray, StringArray, StringViewArray, StructArray, Time64MicrosecondArray,
};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field, Fields, Int8Type};
use arrow::record_batch::RecordBatch;
use enrich::config::SimulatorSpec;
use enrich::table::Table;
use parquet::basic::Compression;
use parquet::data_type::{ByteArray, ByteArrayType, Int64Type, Int96, Int96Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use serde_json::json;

use crate::support::{Setup, World, rows, rows_of, schema, write_parquet};

/// A source that is a folder without files yet.
fn folder() -> Setup<'static> {
    Setup { is_parquet: true, ..Setup::default() }
}

fn texts(ids: &[i64]) -> Vec<(&'static str, ArrayRef)> {
    let text = ids.iter().map(|id| Some(format!("Row {id}"))).collect::<StringArray>();
    vec![("id", Arc::new(Int64Array::from(ids.to_vec()))), ("text", Arc::new(text))]
}

fn batch(columns: Vec<(&'static str, ArrayRef)>) -> RecordBatch {
    RecordBatch::try_from_iter(columns).unwrap()
}

async fn values(world: &World, sql: &str) -> Vec<Vec<String>> {
    rows_of(&world.path("target"), sql).await
}

/// A file that another program's writer left in a Delta table: its entry in the log alone makes it part of the table.
fn add_to_log(table: &Path, version: u64, path: &str, file: &Path) {
    let add = json!({"add": {"path": path, "partitionValues": {}, "size": fs::metadata(file).unwrap().len(),
                             "modificationTime": 1_700_000_000_000_u64, "dataChange": true}});
    fs::write(table.join(format!("_delta_log/{version:020}.json")), add.to_string()).unwrap();
}

/// Two rows of columns that Arrow's writer does not write.
fn write_old(path: &Path) {
    let message = "message m { required int64 id; optional binary text (STRING); optional int96 until; \
                   optional binary kind (ENUM); optional binary raw; }";
    let message = Arc::new(parse_message_type(message).unwrap());
    let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
    let file = fs::File::create(path).unwrap();
    let mut writer = SerializedFileWriter::new(file, message, Arc::new(properties)).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let mut column = 0;
    while let Some(mut writer) = group.next_column().unwrap() {
        let mut strings = |values: [&str; 2]| {
            let values = values.map(ByteArray::from);
            writer.typed::<ByteArrayType>().write_batch(&values, Some(&[1, 1]), None).unwrap();
        };
        match column {
            0 => drop(writer.typed::<Int64Type>().write_batch(&[1, 2], None, None).unwrap()),
            1 => strings(["Row 1", "Row 2"]),
            2 => {
                // Nanoseconds of the day, and Julian days: the last second of the year 9999, and the first of the year 1.
                let moment = |day: u32, nanos: u64| {
                    let mut moment = Int96::new();
                    moment.set_data((nanos & 0xffff_ffff) as u32, (nanos >> 32) as u32, day);
                    moment
                };
                let moments = [moment(5_373_484, 86_399_000_000_000), moment(1_721_426, 0)];
                writer.typed::<Int96Type>().write_batch(&moments, Some(&[1, 1]), None).unwrap();
            }
            3 => strings(["RED", "BLUE"]),
            _ => strings(["raw 1", "raw 2"]),
        }
        writer.close().unwrap();
        column += 1;
    }
    group.close().unwrap();
    writer.close().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn arrows_own_types_are_read_as_what_they_hold() {
    let world = World::of(folder()).await;
    let price = Decimal32Array::from(vec![150, 9_999]).with_precision_and_scale(9, 2).unwrap();
    let mut columns = texts(&[1, 2]);
    columns[1].1 =
        Arc::new(StringViewArray::from(vec!["Row 1", "a text that is longer than a view holds in itself"]));
    columns.push(("price", Arc::new(price)));
    columns.push(("raw", Arc::new(BinaryViewArray::from(vec![b"a".as_slice(), b"b"]))));
    write_parquet(&world.path("source/a.parquet"), &batch(columns), 10);
    world.run(&[]).await.assert_status(0);
    let sql = "SELECT CAST(sum(price) AS VARCHAR), count(text), count(raw) FROM target";
    assert_eq!(values(&world, sql).await, [["101.49", "2", "2"]]);

    // A large list of structs that grew a field.
    let world = World::of(folder()).await;
    let tags = |fields: Vec<&str>| -> ArrayRef {
        let inner: Fields = fields.iter().map(|name| Field::new(*name, DataType::Utf8, true)).collect();
        let text = |name: &&str| -> ArrayRef { Arc::new(StringArray::from(vec![format!("{name} of it")])) };
        let tags = StructArray::new(inner.clone(), fields.iter().map(text).collect(), None);
        let item = Arc::new(Field::new("item", DataType::Struct(inner), true));
        Arc::new(LargeListArray::new(item, OffsetBuffer::from_lengths([1]), Arc::new(tags), None))
    };
    for (name, id, fields) in [("a", 1, vec!["name"]), ("b", 2, vec!["kind", "name"])] {
        let mut columns = texts(&[id]);
        columns.push(("tags", tags(fields)));
        write_parquet(&world.path(&format!("source/{name}.parquet")), &batch(columns), 10);
    }
    world.run(&[]).await.assert_status(0);
    let sql = "SELECT id, tags[1]['name'], COALESCE(tags[1]['kind'], 'none') FROM target";
    let found = values(&world, sql).await;
    assert_eq!(found, [["1", "name of it", "none"], ["2", "name of it", "kind of it"]]);

    // Dictionaries whose keys of 8 bits are others in each row group; the prompt reads one of them.
    let world = World::of(folder()).await;
    let ids: Vec<i64> = (0..300).collect();
    let mut writer = None;
    for group in ids.chunks(100) {
        let text: DictionaryArray<Int8Type> = group
            .iter()
            .map(|id| format!("Row {id}"))
            .collect::<Vec<_>>()
            .iter()
            .map(String::as_str)
            .collect();
        let rows = batch(vec![("id", Arc::new(Int64Array::from(group.to_vec()))), ("text", Arc::new(text))]);
        let writer = writer.get_or_insert_with(|| {
            let file = fs::File::create(world.path("source/a.parquet")).unwrap();
            parquet::arrow::ArrowWriter::try_new(file, rows.schema(), None).unwrap()
        });
        writer.write(&rows).unwrap();
        writer.flush().unwrap();
    }
    writer.unwrap().close().unwrap();
    world.run(&[]).await.assert_status(0).assert_says("300 rows written");
    assert_eq!(
        values(&world, "SELECT count(DISTINCT text), max(text) FROM target").await,
        [["300", "Row 99"]]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn moments_of_96_bits_enums_and_byte_strings_are_read_as_the_format_says() {
    let sql = "SELECT id, CAST(until AS VARCHAR), kind FROM target";
    let wanted = [["1", "9999-12-31T23:59:59", "RED"], ["2", "0001-01-01T00:00:00", "BLUE"]];
    let world = World::of(folder()).await;
    write_old(&world.path("source/a.parquet"));
    world.run(&[]).await.assert_status(0);
    assert_eq!(values(&world, sql).await, wanted);

    // The same in a Delta table.
    let world = World::new(SimulatorSpec::default()).await;
    let ntz = DataType::Timestamp(arrow::datatypes::TimeUnit::Microsecond, None);
    let mut fields = schema().fields().to_vec();
    fields.push(Arc::new(Field::new("until", ntz, true)));
    fields.push(Arc::new(Field::new("kind", DataType::Utf8, true)));
    Table::create(&world.path("source"), &arrow::datatypes::Schema::new(fields), &[], &[]).await.unwrap();
    write_old(&world.path("source/a.parquet"));
    add_to_log(&world.path("source"), 1, "a.parquet", &world.path("source/a.parquet"));
    world.write_job("");
    world.run(&[]).await.assert_status(0);
    assert_eq!(values(&world, sql).await, wanted);

    // Strings without an annotation, when the job says what they are.
    let world = World::of(folder()).await;
    write_old(&world.path("source/a.parquet"));
    let text = fs::read_to_string(world.job()).unwrap().replace("{{ text }}", "{{ raw }}");
    world.write_text(&text);
    world.run(&[]).await.assert_status(2).assert_says("source.binary_as_text = true");
    world.write_text(&text.replace("path = \"source\"", "path = \"source\"\nbinary_as_text = true"));
    world.run(&[]).await.assert_status(0);
    assert_eq!(values(&world, "SELECT raw FROM target").await, [["raw 1"], ["raw 2"]]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_column_that_no_target_holds_is_in_nobodys_way_who_does_not_ask_for_it() {
    let opens: ArrayRef = Arc::new(Time64MicrosecondArray::from(vec![28_800_000_000, 0]));
    let write = |world: &World| {
        let mut columns = texts(&[1, 2]);
        columns.push(("opens", Arc::clone(&opens)));
        write_parquet(&world.path("source/a.parquet"), &batch(columns), 10);
    };
    let world = World::of(folder()).await;
    write(&world);
    let refused = world.run(&[]).await;
    refused
        .assert_status(2)
        .assert_says("the column \"opens\", which has the type Time64(µs)")
        .assert_says("source/a.parquet");
    refused
        .assert_says("source.columns = [\"id\", \"text\"]")
        .assert_says("source.on_unsupported = \"skip\"");
    assert!(!world.path("target").exists() && world.simulator.counts().requests == 0);
    world.run(&["--set", "source.columns=[\"id\", \"text\"]"]).await.assert_status(0);
    let skipping = World::of(Setup { source: "on_unsupported = \"skip\"", ..folder() }).await;
    write(&skipping);
    skipping.run(&[]).await.assert_status(0).assert_says("not read: the column \"opens\"");
    let reading = World::of(Setup { source: "on_unsupported = \"text\"", ..folder() }).await;
    write(&reading);
    reading.run(&[]).await.assert_status(0);
    assert_eq!(
        values(&reading, "SELECT id, opens FROM target").await,
        [["1", "08:00:00"], ["2", "00:00:00"]]
    );

    // Files that differ.
    let whole: ArrayRef = Arc::new(Int64Array::from(vec![1 << 60]));
    let broken: ArrayRef = Arc::new(Float64Array::from(vec![0.5]));
    for (more, status) in [("", 2), ("columns = [\"id\", \"text\"]", 0), ("on_unsupported = \"text\"", 0)] {
        let world = World::of(Setup { source: more, ..folder() }).await;
        for (id, name, numbers) in [(1, "a", &whole), (2, "b", &broken)] {
            let mut columns = texts(&[id]);
            columns.push(("n", Arc::clone(numbers)));
            write_parquet(&world.path(&format!("source/{name}.parquet")), &batch(columns), 10);
        }
        let ended = world.run(&[]).await;
        ended.assert_status(status);
        match more {
            "" => drop(
                ended
                    .assert_says("the column \"n\", which has the type Int64 in other files and Float64 in")
                    .assert_says("b.parquet"),
            ),
            text if text.contains("text\"\n") || text.ends_with("\"text\"") => {
                let found = values(&world, "SELECT id, n FROM target").await;
                assert_eq!(found, [["1", "1152921504606846976"], ["2", "0.5"]]);
            }
            _ => {}
        }
    }

    // Two names that a table does not tell apart.
    let world = World::of(folder()).await;
    let mut columns = texts(&[1]);
    columns.push(("TEXT", Arc::new(StringArray::from(vec!["other"]))));
    write_parquet(&world.path("source/a.parquet"), &batch(columns), 10);
    world.run(&[]).await.assert_status(2).assert_says("(\"text\", \"TEXT\")").assert_says("a.parquet");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_without_a_value_takes_the_type_that_another_file_gives_it_else_text() {
    for (with_values, wanted) in [(false, "none"), (true, "x")] {
        let world = World::of(folder()).await;
        let empty = |of: DataType, values: ArrayRef, rows: usize| -> ArrayRef {
            let item = Arc::new(Field::new("item", of, true));
            Arc::new(ListArray::new(item, OffsetBuffer::from_lengths([rows]), values, None))
        };
        let mut columns = texts(&[1]);
        columns.push(("tags", empty(DataType::Null, Arc::new(NullArray::new(0)), 0)));
        write_parquet(&world.path("source/a.parquet"), &batch(columns), 10);
        if with_values {
            let mut columns = texts(&[2]);
            columns.push(("tags", empty(DataType::Utf8, Arc::new(StringArray::from(vec!["x"])), 1)));
            write_parquet(&world.path("source/b.parquet"), &batch(columns), 10);
        }
        world.run(&[]).await.assert_status(0);
        let found = values(&world, "SELECT COALESCE(max(tags[1]), 'none') FROM target").await;
        assert_eq!(found, [[wanted]]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delta_table_finds_its_columns_whatever_letters_a_file_names_them_in() {
    let person = |name: &str| -> (DataType, ArrayRef) {
        let fields: Fields = vec![Field::new(name, DataType::Utf8, true)].into();
        let values: ArrayRef = Arc::new(StringArray::from(vec!["Ada"]));
        (DataType::Struct(fields.clone()), Arc::new(StructArray::new(fields, vec![values], None)))
    };
    let world = World::new(SimulatorSpec::default()).await;
    let mut fields = schema().fields().to_vec();
    fields.push(Arc::new(Field::new("person", person("name").0, true)));
    Table::create(&world.path("source"), &arrow::datatypes::Schema::new(fields), &[], &[]).await.unwrap();
    let mut columns = texts(&[7]);
    (columns[0].0, columns[1].0) = ("ID", "Text");
    columns.push(("PERSON", person("Name").1));
    let file = world.path("source/a.parquet");
    write_parquet(&file, &batch(columns), 10);
    add_to_log(&world.path("source"), 1, "a.parquet", &file);
    world.write_job("");
    world.run(&[]).await.assert_status(0).assert_says("1 answer");
    let sql = "SELECT id, text, person['name'] FROM target";
    assert_eq!(values(&world, sql).await, [["7", "Row 7", "Ada"]]);

    let mut columns = texts(&[8]);
    columns[0].0 = "Id";
    columns.push(("ID", Arc::new(Int64Array::from(vec![9]))));
    let file = world.path("source/b.parquet");
    write_parquet(&file, &batch(columns), 10);
    add_to_log(&world.path("source"), 2, "b.parquet", &file);
    world
        .run(&[])
        .await
        .assert_status(1)
        .assert_says("b.parquet: its columns \"Id\" and \"ID\" are one to the table");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_a_delta_log_names_by_an_address_of_its_own_is_read_there() {
    let world = World::with_rows(2, 1).await;
    let elsewhere = world.path("else where");
    fs::create_dir(&elsewhere).unwrap();
    let file = elsewhere.join("x.parquet");
    write_parquet(&file, &rows(2..5), 10);
    let url = url::Url::from_file_path(&file).unwrap();
    assert!(url.as_str().contains("else%20where"));
    add_to_log(&world.path("source"), 2, url.as_str(), &file);
    world.run(&[]).await.assert_status(0);
    world.assert_target(0..5).await;
    fs::remove_file(&file).unwrap();
    add_to_log(&world.path("source"), 3, "file:///nowhere/y.parquet", &world.job());
    world.run(&[]).await.assert_status(1).assert_says("/nowhere/y.parquet");
}
