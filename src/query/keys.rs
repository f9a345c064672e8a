//! The keys of a query's rows: none is null, no two are equal, and those that are known are left out.

use arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::common::DataFusionError;
use datafusion::dataframe::DataFrame;
use datafusion::prelude::SessionContext;

use super::compute::ROW_NUMBER;
use crate::config::QuerySpec;

/// Name under which the whole result is registered.
pub(super) const RESULT: &str = "__enrich_result";
/// Prefix of the names under which what is known already is registered.
pub(super) const KNOWN: &str = "__enrich_known";
/// Number of keys that a message names.
const EXAMPLES: usize = 3;

/// Returns what is wrong with the keys of the result, as a predicate, with a few of them; `None` if nothing is.
pub(super) async fn key_fault(
    context: &SessionContext,
    query: &QuerySpec,
) -> Result<Option<String>, DataFusionError> {
    let (key, named) = (columns(query), query.key.join(", "));
    let is_null = query.key.iter().map(|name| format!("{} IS NULL", quoted(name)));
    let is_null = is_null.collect::<Vec<_>>().join(" OR ");
    let sql = format!("SELECT {key} FROM {RESULT} WHERE {is_null} LIMIT {EXAMPLES}");
    let nulls = rows_as_text(context.sql(&sql).await?).await?;
    if !nulls.is_empty() {
        return Ok(Some(format!(
            "gives rows whose key ({named}) is null, such as {}; leave them out, or choose another source.key",
            nulls.join("; ")
        )));
    }
    let sql = format!("SELECT {key} FROM {RESULT} GROUP BY {key} HAVING count(*) > 1 LIMIT {EXAMPLES}");
    let twice = rows_as_text(context.sql(&sql).await?).await?;
    Ok((!twice.is_empty()).then(|| {
        format!(
            "gives several rows with the same key ({named}), such as {}; join so that there is one, or add columns to \
             source.key",
            twice.join("; ")
        )
    }))
}

/// Returns the query for the numbers, in ascending order, of the rows of the result whose key is in none of so many known
/// tables. It groups instead of joining: a group of any size goes to the disk, one side of a join does not.
pub(super) fn unknown_rows(query: &QuerySpec, known: usize) -> String {
    let key = columns(query);
    let known = (0..known).map(|at| {
        format!(" UNION ALL SELECT {key}, CAST(NULL AS BIGINT) AS number, 1 AS is_known FROM {KNOWN}_{at}")
    });
    format!(
        "SELECT max(number) AS number FROM (SELECT {key}, {ROW_NUMBER} AS number, 0 AS is_known FROM {RESULT}{}) \
         GROUP BY {key} HAVING max(is_known) = 0 ORDER BY number",
        known.collect::<String>()
    )
}

/// Returns the columns of the key, separated by commas.
fn columns(query: &QuerySpec) -> String {
    query.key.iter().map(|name| quoted(name)).collect::<Vec<_>>().join(", ")
}

/// Returns a name as SQL writes it.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Returns each row as text, its values separated by commas.
async fn rows_as_text(frame: DataFrame) -> Result<Vec<String>, DataFusionError> {
    let options = FormatOptions::new().with_null("null");
    let mut texts = Vec::new();
    for batch in frame.collect().await? {
        let columns = batch.columns().iter().map(|column| ArrayFormatter::try_new(column, &options));
        let columns = columns.collect::<Result<Vec<_>, _>>()?;
        for row in 0..batch.num_rows() {
            texts.push(
                columns.iter().map(|column| column.value(row).to_string()).collect::<Vec<_>>().join(", "),
            );
        }
    }
    Ok(texts)
}
