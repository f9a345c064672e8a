//! Files as newcomers have them: CSV and JSON with the oddities of other programs, and files that fastavro, pyarrow,
//! polars and pandas wrote. Each gives a right table, or a message that says what to do.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::files::{read, read_path, table};
use crate::support::world_over;

/// What `tests/files/make.py` has made.
fn made(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/files").join(name)
}

/// The rows of a file as its target exports them, without the answers; or what the run says.
async fn exported(path: &Path) -> Result<Vec<Value>, String> {
    let world = world_over(path, "").await;
    let ended = world.run(&[]).await;
    if ended.status != Some(0) {
        return Err(ended.stderr);
    }
    let export = world.on_job("export", &["--to", "-", "--format", "jsonl"]).await;
    let row = |line: &str| {
        let mut row: Map<String, Value> = serde_json::from_str(line).unwrap();
        row.remove("answer");
        Value::Object(row)
    };
    Ok(export.stdout.lines().map(row).collect())
}

async fn refusal(name: &str, bytes: &[u8]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    fs::write(&path, bytes).unwrap();
    let refused = read_path(&path, "", "1").await.unwrap_err();
    assert_ne!(refused.status, Some(0), "{name}");
    refused.stderr
}

#[tokio::test(flavor = "multi_thread")]
async fn oddities_of_csv_give_a_right_table() {
    for (bytes, columns, expected) in [
        ("sep=;\r\na;b\r\n1;2,5\r\n", "a, b", &["1", "2,5"][..]),
        ("sep=\t\na\tb\n1\t2\n", "a, b", &["1", "2"]),
        ("sep=,a\n1,2\n", "\"sep=\", a", &["1", "2"]),
        ("id,text\n1,a\n\n\n", "id, text", &["1", "a"]),
        ("a,b\r1,2\r", "a, b", &["1", "2"]),
        (",a,,\n1,2,3,4\n", "column_1, a, column_3, column_4", &["1", "2", "3", "4"]),
        ("n,i\nNaN,inf\n", "arrow_typeof(n), arrow_typeof(i)", &["Utf8View", "Utf8View"]),
        ("a,b\n\"x \"\"y\"\"\",a\"b\n", "a, b", &["x \"y\"", "a\"b"]),
        ("a,b\n1,x\0y\n", "b", &["x\0y"]),
    ] {
        let found = read(bytes.as_bytes(), "", columns).await.unwrap_or_else(|ended| panic!("{ended:?}"));
        assert_eq!(found, table(&[expected]), "{bytes:?}");
    }
    assert_eq!(read(b"id,text\n", "", "1").await.unwrap_or_default().len(), 0, "only a header");
}

#[tokio::test(flavor = "multi_thread")]
async fn any_character_may_separate_cells() {
    for (written, delimiter) in [("\\u0001", "\u{1}"), ("\\u0002", "\u{2}"), ("-", "-"), ("e", "e")] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.csv");
        let line = |cells: [&str; 3]| cells.join(delimiter);
        let lines = [line(["id", "two", "thr"]), line(["1", "x", "y"]), line(["2", "z", "w"])];
        fs::write(&path, lines.join("\n")).unwrap();
        let world = world_over(&path, &format!("delimiter = \"{written}\"")).await;
        world.run(&[]).await.assert_status(0).assert_says("2 rows written");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_text_is_refused_by_name() {
    let encoded = |bytes: fn(char) -> Vec<u8>| "id,text\n1,a\n".chars().flat_map(bytes).collect::<Vec<u8>>();
    for (bytes, message) in [
        (Vec::new(), "a.csv: it is empty"),
        (b"\xef\xbb\xbf".to_vec(), "a.csv: it is empty"),
        (vec![0; 100], "a.csv: it begins with zeros"),
        (encoded(|c| (c as u16).to_le_bytes().to_vec()), "a.csv: it is UTF-16"),
        (encoded(|c| (c as u16).to_be_bytes().to_vec()), "a.csv: it is UTF-16"),
        (encoded(|c| u32::from(c).to_le_bytes().to_vec()), "a.csv: it is UTF-32"),
        (encoded(|c| u32::from(c).to_be_bytes().to_vec()), "a.csv: it is UTF-32"),
        (b"id,t\xe9xt\n1,a\n".to_vec(), "a.csv: line 1: it is not UTF-8"),
        (
            b"total, EUR;name\n1;x\n".to_vec(),
            "line 2: the row has 1 cell, and there are 2 columns, with ',' between them; delimiter and quote in [source]",
        ),
        (b"a,b\n1,2,\n".to_vec(), "line 2: the row has 3 cells, and there are 2 columns"),
    ] {
        let said = refusal("a.csv", &bytes).await;
        assert!(said.contains(message), "{message:?} is missing in {said}");
    }
    let said = refusal("a.csv", b"").await;
    assert!(!said.contains("cut off"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn json_loses_no_digit_and_no_row() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.jsonl");
    for (text, expected) in [
        (
            "{\"a\": 12345678901234567890123, \"b\": \"x 12345678901234567890123 \\\" 1\"}\n{\"a\": 1}\n",
            json!([{ "a": "12345678901234567890123", "b": "x 12345678901234567890123 \" 1" }, { "a": "1", "b": null }]),
        ),
        ("{\"a\": [-12345678901234567890123, 7]}\n", json!([{ "a": ["-12345678901234567890123", "7"] }])),
        ("{\"a\": 1e300}\n", json!([{ "a": 1e300 }])),
        ("{\"a\": 18446744073709551615}\n", json!([{ "a": "18446744073709551615" }])),
        ("{\"x\": {\"a\": 1, \"A\": 2}}\n", json!([{ "x": "{\"a\":1,\"A\":2}" }])),
        ("{\"a\": 1, \"a\": 2}\n", json!([{ "a": 2 }])),
        (
            "{\"a\": {\"b\": [1, {\"c\": 1}]}}\n{\"a\": null}\n{}\n",
            json!([{ "a": { "b": ["1", "{\"c\":1}"] } }, { "a": null }, { "a": null }]),
        ),
        ("\u{feff}{\"a\": true}\r\n{\"a\": \"x\"}\r\n", json!([{ "a": "true" }, { "a": "x" }])),
    ] {
        fs::write(&path, text).unwrap();
        assert_eq!(Value::Array(exported(&path).await.unwrap()), expected, "{text}");
    }
    let deep = format!("{{\"a\": {}{}}}", "[".repeat(200), "]".repeat(200));
    for (name, text, message) in [
        ("a.jsonl", &b"{}\n{}\n"[..], "a.jsonl: its objects have no fields"),
        ("a.jsonl", b"{\"a\": 1}\n{\"a\": \"\xe9\"}\n", "a.jsonl: line 2: it is not UTF-8"),
        ("a.jsonl", deep.as_bytes(), "line 1: it is no JSON: it is nested more than 127 deep"),
        ("a.jsonl", b"{\"a\": 1,}\n", "line 1: it is no JSON: trailing comma, at character 9"),
        ("a.jsonl", b"{\"a\": 1}\n{\"a\": 2", "line 2: it is no JSON: EOF while parsing an object"),
        ("a.json", b"[{\"a\": 1},\n{\"a\":", "a.json: line 2: the file ends within the row"),
        ("a.jsonl", b"{\"a\": 1, \"A\": 2}\n", "which a target cannot tell from others of its name"),
    ] {
        let said = refusal(name, text).await;
        assert!(said.contains(message), "{message:?} is missing in {said}");
        assert!(!said.contains("[]"), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_pythons_libraries_are_read() {
    let ids = json!([{ "id": 1 }, { "id": 2 }]);
    for codec in ["deflate", "snappy", "zstandard"] {
        let found = exported(&made(&format!("fastavro_{codec}.avro"))).await.unwrap();
        assert_eq!(Value::Array(found), ids, "{codec}");
    }
    let found = exported(&made("fastavro.avro")).await.unwrap();
    for (row, union) in
        [json!("true"), json!("1.5"), json!("x"), json!("[1, 2]"), Value::Null].iter().enumerate()
    {
        let expected = json!({
            "d": "2026-05-01", "ms": "2026-05-01T08:00:00Z", "us": null, "local": "2026-05-01T08:00:00",
            "dec": 12.34, "uu": "00000000-0000-0000-0000-000000000005", "e": "B", "m": { "k": 1 },
            "r": { "x": "1" }, "u": union,
        });
        assert_eq!(found[row], expected);
    }
    let dictionary = json!([{ "id": 1, "dict": "x" }, { "id": 2, "dict": "y" }, { "id": 3, "dict": null }]);
    for name in ["pyarrow_lz4.arrow", "pyarrow_zstd.arrows"] {
        assert_eq!(Value::Array(exported(&made(name)).await.unwrap()), dictionary, "{name}");
    }
    let replaced = exported(&made("pyarrow_replaced.arrows")).await.unwrap();
    assert_eq!(replaced, dictionary.as_array().unwrap()[..2], "a dictionary that is replaced");
    let found = exported(&made("pyarrow.arrow")).await.unwrap();
    assert_eq!(found.len(), 3);
    assert_eq!(
        found[1],
        json!({
            "id": 2, "dict": "y", "runs": "a", "view": "b", "large": null, "ns": "2026-05-01T00:00:00",
            "zone": "2026-05-01T00:00:00Z", "day": "2026-05-01", "dec": 1.25, "u64": 9_223_372_036_854_775_808_u64,
            "list": [], "views": [2], "inner": { "q": "q" }, "union": "x", "span": "1 mons 2 days",
        })
    );
    assert_eq!((&found[0]["union"], &found[2]["union"]), (&json!("1"), &Value::Null));
    for name in ["polars.arrow", "polars_zstd.arrow", "polars.arrows", "polars.avro"] {
        let row = |id: i64, text: Option<&str>, category: &str| {
            let (time, list, inner) = ("2026-05-01T00:00:00", [id], json!({ "x": id }));
            let mut row = json!({ "id": id, "text": text, "category": category, "time": time, "list": list, "struct": inner });
            if name == "polars.avro" {
                row.as_object_mut().unwrap().remove("category");
            }
            row
        };
        let expected = [row(1, Some("a"), "x"), row(2, None, "y")];
        assert_eq!(exported(&made(name)).await.unwrap(), expected, "{name}");
    }
    let pandas = json!([
        { "column_1": 0, "id": 1, "text": "a", "price": 1.5 }, { "column_1": 1, "id": 2, "text": null, "price": 2.0 },
    ]);
    assert_eq!(Value::Array(exported(&made("pandas.csv")).await.unwrap()), pandas);
    let excel = json!([{ "id": 1, "text": "a", "price": "1,5" }, { "id": 2, "text": null, "price": "2,0" }]);
    assert_eq!(Value::Array(exported(&made("pandas_excel.csv")).await.unwrap()), excel);
}

#[tokio::test(flavor = "multi_thread")]
async fn binary_files_that_are_not_read_say_why() {
    for (name, message) in [
        ("fastavro_bzip2.avro", "it is compressed with bzip2, which is not read; write it with deflate"),
        ("fastavro_recursive.avro", "its schema cannot be read"),
        ("pyarrow_1.feather", "it is a Feather file of version 1; write it again as version 2"),
    ] {
        let said = exported(&made(name)).await.unwrap_err();
        assert!(said.contains(&format!("{name}: {message}")), "{said}");
    }
    let whole = fs::read(made("pyarrow.arrow")).unwrap();
    for cut in [6, whole.len() / 2, whole.len() - 5] {
        let said = refusal("a.arrow", &whole[..cut]).await;
        assert!(said.contains("a.arrow: it is no whole Arrow IPC file"), "{said}");
    }
    // Whatever byte is wrong: a message with the file's name, or rows, and never a crash.
    for at in (8..whole.len()).step_by(whole.len() / 12) {
        let mut damaged = whole.clone();
        damaged[at] ^= 0xff;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.arrow");
        fs::write(&path, damaged).unwrap();
        if let Err(said) = exported(&path).await {
            assert!(said.contains("a.arrow") && !said.contains("panicked"), "byte {at}: {said}");
        }
    }
}
