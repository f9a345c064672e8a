//! What a table's protocol requires of its readers and writers.
//!
//! Source: the Delta protocol, "Table Features", "CHECK Constraints", "Column Invariants" and "Generated Columns".

use arrow::datatypes::Field;
use serde_json::Value;

use super::store_access::error_of;
use super::{Table, TableError};

/// Features that appending and rewriting preserve, by their names in the Delta protocol.
const WRITTEN: [&str; 9] = [
    "appendOnly",
    "changeDataFeed",
    "checkConstraints",
    "checkpointProtection",
    "deletionVectors",
    "generatedColumns",
    "invariants",
    "timestampNtz",
    "v2Checkpoint",
];
const CONSTRAINT: &str = "delta.constraints.";
const INVARIANT: &str = "delta.invariants";
const GENERATED: &str = "delta.generationExpression";
const IDENTITY: &str = "delta.identity.start";
const MAPPING_MODE: &str = "delta.columnMapping.mode";

impl Table {
    /// Returns the names of the features that a reader of the table must support.
    ///
    /// # Errors
    /// Never for a table that is open.
    pub fn reader_features(&self) -> Result<Vec<String>, TableError> {
        self.features("readerFeatures")
    }

    fn features(&self, kind: &str) -> Result<Vec<String>, TableError> {
        let features = self.protocol_json()?[kind].as_array().cloned().unwrap_or_default();
        Ok(features.iter().filter_map(|feature| feature.as_str().map(ToOwned::to_owned)).collect())
    }

    fn protocol_json(&self) -> Result<Value, TableError> {
        let protocol = serde_json::to_value(self.protocol()?);
        protocol.map_err(|error| error_of("read the protocol of", self.at())(error.into()))
    }

    /// Returns the first feature that the table uses and that writing to it would not preserve; `None` if the table
    /// can be written. Of a table with an older protocol, only the features that it uses count.
    ///
    /// # Errors
    /// Never for a table that is open.
    pub fn unwritable_feature(&self) -> Result<Option<String>, TableError> {
        let schema = self.schema()?;
        let notes = |key: &str| schema.fields().iter().any(|field| field.metadata().contains_key(key));
        let version = self.protocol_json()?["minWriterVersion"].as_i64().unwrap_or_default();
        let is_mapped = self.properties()?.get(MAPPING_MODE).is_some_and(|mode| mode != "none");
        let listed = self.features("writerFeatures")?;
        // A table may list column mapping and not use it.
        let unknown = listed.into_iter().find(|feature| {
            !WRITTEN.contains(&feature.as_str()) && (feature != "columnMapping" || is_mapped)
        });
        Ok(match unknown {
            Some(feature) => Some(feature),
            None if is_mapped => Some("columnMapping".to_owned()),
            None if notes(GENERATED) => Some("generatedColumns".to_owned()),
            // deltalake does not write to tables of this version.
            None if notes(IDENTITY) || version == 6 => Some("identityColumns".to_owned()),
            None => None,
        })
    }

    /// Returns what every row of the table must meet, besides columns that are never null: for each condition the
    /// name of the constraint or column, and an SQL expression.
    ///
    /// # Errors
    /// Never for a table that is open.
    pub fn constraints(&self) -> Result<Vec<(String, String)>, TableError> {
        let properties = self.properties()?;
        let named = properties.into_iter().filter_map(|(key, expression)| {
            key.strip_prefix(CONSTRAINT).map(|name| (name.to_owned(), expression))
        });
        let schema = self.schema()?;
        let invariants =
            schema.fields().iter().filter_map(|field| Some((field.name().clone(), invariant(field)?)));
        Ok(named.chain(invariants).collect())
    }
}

fn invariant(field: &Field) -> Option<String> {
    let written: Value = serde_json::from_str(field.metadata().get(INVARIANT)?).ok()?;
    Some(written["expression"]["expression"].as_str()?.to_owned())
}
