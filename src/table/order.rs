//! Orders the files of a table by what their first rows hold, as the footers of the files state it.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use deltalake::DeltaTableError;
use deltalake::kernel::{Add, LogicalFileView};
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, TryStreamExt, stream};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use parquet::arrow::async_reader::MetadataFetch;
use parquet::errors::ParquetError;
use parquet::file::metadata::{ParquetMetaDataReader, RowGroupMetaData};
use parquet::file::statistics::Statistics;

use super::log::{entry_of, live_rows_in};
use super::store_access::error_of;
use super::{Table, TableError};

/// Number of footers that are read at once.
const FOOTERS_AT_ONCE: usize = 16;
/// Number of bytes at the end of a file that are read first; most footers are shorter.
const FOOTER_BYTES: usize = 32 << 10;

/// The files of a table in an order.
#[derive(Clone, Debug, Default)]
pub struct OrderedFiles {
    /// Paths as [`Table::scan`] takes them.
    pub paths: Vec<String>,
    /// Number of rows that are not deleted; `None` if the log does not state it for each file.
    pub rows: Option<u64>,
}

/// The smallest value of a column.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum SmallestValue {
    Integer(i64),
    Bytes(Vec<u8>),
    /// Comes after all others.
    Unknown,
}

/// The end of a data file.
struct FileEnd {
    store: Arc<dyn ObjectStore>,
    path: Path,
    /// Size of the file in bytes.
    size: u64,
}

impl MetadataFetch for FileEnd {
    fn fetch(&mut self, range: Range<u64>) -> BoxFuture<'_, Result<Bytes, ParquetError>> {
        let fetched = self.store.get_range(&self.path, range);
        fetched.map(|fetched| fetched.map_err(|error| ParquetError::External(Box::new(error)))).boxed()
    }
}

impl Table {
    /// Returns the files of this version, ordered by the smallest values of columns inside structs, the first column
    /// first. Each column is given by its struct's name and its own. Files without such values come last, and equal
    /// ones in the order of (modification time, path). Keeps the entries of the files for later queries.
    ///
    /// # Errors
    /// When the log or a footer cannot be read.
    pub async fn ordered_files(&mut self, columns: &[[&str; 2]]) -> Result<OrderedFiles, TableError> {
        let error = error_of("read the files of", self.at());
        let store = self.store.object_store(None);
        let (mut footers, mut adds): (Vec<FileEnd>, Vec<Add>) = (Vec::new(), Vec::new());
        let mut rows = Some(0_u64);
        let take = |file: LogicalFileView| {
            rows = rows.zip(live_rows_in(&file)).map(|(sum, rows)| sum + rows);
            let mut add = entry_of(&file);
            if add.deletion_vector.is_none() {
                // They are most of an entry, and queries of one file do without.
                add.stats = None;
            }
            let size = u64::try_from(add.size).unwrap_or_default();
            footers.push(FileEnd { store: Arc::clone(&store), path: file.object_store_path(), size });
            adds.push(add);
        };
        self.each_file("list the files of", None, take).await?;
        let columns: Arc<[[String; 2]]> =
            columns.iter().map(|column| column.map(ToOwned::to_owned)).collect();
        let first_rows: Vec<_> = stream::iter(footers)
            .map(move |footer| first_row(footer, Arc::clone(&columns)))
            .buffered(FOOTERS_AT_ONCE)
            .try_collect()
            .await
            .map_err(|source| error(DeltaTableError::generic(source)))?;
        let mut files: Vec<_> = first_rows.into_iter().zip(adds).collect();
        files.sort_by(|(first, add), (other_first, other)| {
            let key = (first, add.modification_time, &add.path);
            key.cmp(&(other_first, other.modification_time, &other.path))
        });
        let paths = files.iter().map(|(_, add)| add.path.clone()).collect();
        self.entries = files.into_iter().map(|(_, add)| (add.path.clone(), add)).collect::<HashMap<_, _>>();
        Ok(OrderedFiles { paths, rows })
    }
}

/// Returns the smallest values in a file, those of its row group that comes first by them.
async fn first_row(footer: FileEnd, columns: Arc<[[String; 2]]>) -> Result<Vec<SmallestValue>, ParquetError> {
    let unknown = vec![SmallestValue::Unknown; columns.len()];
    // Shallow clones name files of another table.
    if columns.is_empty() || footer.path.as_ref().contains(":/") {
        return Ok(unknown);
    }
    let size = footer.size;
    let reader = ParquetMetaDataReader::new().with_prefetch_hint(Some(FOOTER_BYTES));
    let metadata = reader.load_and_finish(footer, size).await?;
    let groups = metadata.row_groups().iter();
    let first = groups.map(|group| columns.iter().map(|column| smallest(group, column)).collect());
    Ok(first.min().unwrap_or(unknown))
}

/// Returns the smallest value of a column in a row group, as its statistics state it.
fn smallest(group: &RowGroupMetaData, column: &[String; 2]) -> SmallestValue {
    let named = group.columns().iter().find(|found| {
        let parts = found.column_path().parts();
        parts.len() == column.len() && parts.iter().zip(column).all(|(part, name)| part == name)
    });
    let value = match named.and_then(|named| named.statistics()) {
        Some(Statistics::Int32(values)) => values.min_opt().map(|min| SmallestValue::Integer((*min).into())),
        Some(Statistics::Int64(values)) => values.min_opt().map(|min| SmallestValue::Integer(*min)),
        Some(Statistics::ByteArray(values)) => {
            values.min_opt().map(|min| SmallestValue::Bytes(min.data().to_vec()))
        }
        _ => None,
    };
    value.unwrap_or(SmallestValue::Unknown)
}
