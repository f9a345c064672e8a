//! A format for tests alone: one row per line, in a column `line`. It shows what a format has to provide.

use std::io::Read;
use std::sync::Arc;

use ::arrow::array::StringArray;
use ::arrow::datatypes::{DataType, Field, Fields, Schema};
use ::arrow::record_batch::RecordBatch;
use parquet::file::reader::ChunkReader;

use super::super::SourceError;
use super::super::file::Root;
use super::super::row_mask::RowMask;
use super::super::shape::{FileShape, Footer};
use crate::checkpoint::FileRange;

fn columns() -> Fields {
    vec![Field::new("line", DataType::Utf8, false)].into()
}

fn lines(root: &Root, path: &str) -> Result<Vec<String>, std::io::Error> {
    let mut text = String::new();
    root.open(path)?.get_read(0).map_err(std::io::Error::other)?.read_to_string(&mut text)?;
    Ok(text.lines().map(str::to_owned).collect())
}

pub(super) fn look(root: &Root, path: &str) -> Footer {
    match lines(root, path) {
        Ok(lines) => Footer::Whole { rows: lines.len() as u64, columns: columns(), skipped: 0 },
        Err(error) => Footer::Damaged(error.to_string()),
    }
}

pub(super) fn shape(root: &Root, file: &str) -> Result<FileShape, SourceError> {
    let lines = lines(root, file).map_err(|error| SourceError::file(&root.place(file), error))?;
    let bytes = lines.iter().map(|line| line.len() as u64).sum();
    Ok(FileShape::new(vec![(lines.len() as u64, bytes)]))
}

pub(super) fn open(
    root: &Root,
    part: &FileRange,
    kept: &RowMask,
) -> Result<(impl Iterator<Item = Result<RecordBatch, String>> + Send + use<>, u64), SourceError> {
    let lines = lines(root, &part.file).map_err(|error| SourceError::file(&root.place(&part.file), error))?;
    let rows = kept.rows(part.start..lines.len() as u64);
    let selected = rows.filter_map(|row| lines.get(usize::try_from(row).ok()?));
    let column = Arc::new(StringArray::from_iter_values(selected));
    let rows = RecordBatch::try_new(Arc::new(Schema::new(columns())), vec![column]);
    Ok((std::iter::once(rows.map_err(|error| error.to_string())), 0))
}

#[cfg(test)]
mod tests {
    use ::arrow::array::AsArray;

    use crate::checkpoint::Position;
    use crate::config::{Job, Keys};
    use crate::source::Source;

    /// Opens a source of lines, below a folder, with a condition.
    async fn source(folder: &std::path::Path) -> Source {
        let text = "app_id = \"a\"\n[source]\npath = \"source\"\nwhere = \"line <> 'two'\"\n[target]\npath = \"t\"\n\
                    [provider.p]\nbase_url = \"simulator\"\nmodel = \"m\"\n[[step]]\noutput = \"o\"\nprompt = \"{{ line }}\"\n";
        let job = Job::of_text(&folder.join("job.toml"), text, &[], Keys::Unneeded).unwrap();
        Source::open(&job.source, &job.places.state).await.unwrap()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn rows_of_another_format_are_listed_filtered_and_read() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("source")).unwrap();
        std::fs::write(folder.path().join("source/a.lines"), "one\ntwo\nthree\n").unwrap();
        let mut source = source(folder.path()).await;
        assert_eq!(source.schema().field(0).name(), "line");
        assert_eq!(source.rows_after(&Position::Start).await, None, "a condition chooses");
        let next = source.next_file(&Position::Start).await.unwrap();
        let mut part = next.file.unwrap().part;
        part.end = source.shape(&part).await.unwrap().rows();
        let kept = source.kept(&part, Some("line <> 'two'")).await.unwrap();
        let mut reader = source.reader();
        let chunks = tokio::task::spawn_blocking(move || reader.read(&part, &kept)).await.unwrap().unwrap();
        let lines = chunks[0].rows.column(0).as_string::<i32>();
        assert_eq!(
            (chunks[0].physical.as_slice(), lines.value(0), lines.value(1)),
            (&[0, 2][..], "one", "three")
        );
    }
}
