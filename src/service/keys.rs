//! The keys of posted rows: 64 bits that stand for a row in its epoch, however rows are cut into batches.

use std::collections::HashMap;

use arrow::array::{Array, AsArray};
use arrow::datatypes::DataType;
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;
use arrow::row::{RowConverter, SortField};
use arrow::util::display::{ArrayFormatter, FormatOptions};

use crate::ident::Fingerprint;

/// The column of posted rows that holds their keys, if the poster names them.
pub(super) const KEY_COLUMN: &str = "__key";

/// Returns the keys of rows: of what `named` holds, if it is given, else of the values of the rows. A key that comes
/// again in the batch is told apart by how often it came before. Also returns a hash of the rows and their keys.
pub(super) fn keys(
    rows: &RecordBatch,
    named: Option<&dyn Array>,
) -> Result<(Vec<u64>, Fingerprint), ArrowError> {
    let own = contents_of_rows(rows)?;
    let named = named.map(contents_of_named).transpose()?;
    let whole = Fingerprint::of(own.iter().chain(named.iter().flatten()).map(Vec::as_slice));
    let contents = named.unwrap_or(own);
    let mut seen: HashMap<[u8; 16], u64> = HashMap::with_capacity(contents.len());
    let keys = contents.iter().map(|content| {
        let hash = Fingerprint::of([content.as_slice()]).to_bytes();
        let before = seen.entry(hash).or_default();
        let key = Fingerprint::of([hash.as_slice(), before.to_le_bytes().as_slice()]).to_bytes();
        *before += 1;
        u64::from_le_bytes(key[..8].try_into().expect("eight bytes"))
    });
    Ok((keys.collect(), whole))
}

fn contents_of_named(named: &dyn Array) -> Result<Vec<Vec<u8>>, ArrowError> {
    let wrong = |what: &str| ArrowError::SchemaError(format!("the column {KEY_COLUMN} {what}"));
    if named.null_count() > 0 {
        return Err(wrong("has nulls"));
    }
    let named = match named.data_type() {
        DataType::Binary => named.as_binary::<i32>().clone(),
        DataType::LargeBinary | DataType::FixedSizeBinary(_) | DataType::BinaryView => {
            arrow::compute::cast(named, &DataType::Binary)?.as_binary::<i32>().clone()
        }
        other => return Err(wrong(&format!("is {other}; it must be binary"))),
    };
    Ok(named.iter().map(|key| key.unwrap_or_default().to_vec()).collect())
}

fn contents_of_rows(rows: &RecordBatch) -> Result<Vec<Vec<u8>>, ArrowError> {
    if rows.num_columns() == 0 {
        return Ok(vec![Vec::new(); rows.num_rows()]);
    }
    let fields = rows.columns().iter().map(|column| SortField::new(column.data_type().clone())).collect();
    if let Ok(encoded) =
        RowConverter::new(fields).and_then(|converter| converter.convert_columns(rows.columns()))
    {
        return Ok(encoded.iter().map(|row| row.as_ref().to_vec()).collect());
    }
    // A type without an encoding, such as a map.
    let options = FormatOptions::default();
    let columns = rows.columns().iter().map(|column| ArrayFormatter::try_new(column, &options));
    let columns: Vec<ArrayFormatter<'_>> = columns.collect::<Result<_, _>>()?;
    let content = |row| {
        let mut content = Vec::new();
        for column in &columns {
            let text = column.value(row).try_to_string()?;
            content.extend_from_slice(&(text.len() as u64).to_le_bytes());
            content.extend_from_slice(text.as_bytes());
        }
        Ok(content)
    };
    (0..rows.num_rows()).map(content).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::sync::Arc;

    use arrow::array::{BinaryArray, Int64Array, StringArray};

    use super::*;

    fn rows(texts: &[&str]) -> RecordBatch {
        let texts = StringArray::from_iter_values(texts);
        RecordBatch::try_from_iter([("text", Arc::new(texts) as _)]).unwrap()
    }

    #[test]
    fn keys_follow_the_rows_wherever_they_are_and_tell_equal_rows_apart() {
        let (whole, _) = keys(&rows(&["a", "b", "c"]), None).unwrap();
        assert_eq!(keys(&rows(&["c", "a"]), None).unwrap().0, [whole[2], whole[0]]);
        let (twice, _) = keys(&rows(&["a", "a", "a"]), None).unwrap();
        assert_eq!(twice[0], whole[0]);
        assert_eq!(twice.iter().collect::<HashSet<_>>().len(), 3);
        let named = BinaryArray::from_iter_values([b"x", b"y"]);
        let (own, content) = keys(&rows(&["a", "a"]), Some(&named)).unwrap();
        let (same, other_content) = keys(&rows(&["b", "c"]), Some(&named)).unwrap();
        assert_eq!(own, same);
        assert_ne!(content, other_content);
        assert!(keys(&rows(&["a"]), Some(&Int64Array::from_value(1, 1))).is_err());
        assert!(keys(&rows(&["a"]), Some(&BinaryArray::from_iter([None::<&[u8]>]))).is_err());
    }
}
