//! The job file: from TOML to a validated [`Job`].
//!
//! The file is parsed as written ([`raw`]), then checked and resolved against its folder ([`job`]). Nothing here
//! opens a table or calls a provider; only keys are read from the environment. Every error names the file, and the
//! line or the key. The page of all keys and the schema for editors in `config/` are made from the doc comments
//! ([`reference`]).

mod anomalies;
mod batch_api;
mod budget;
mod check;
mod check_batches;
mod check_bounds;
mod check_files;
mod check_routes;
mod check_source;
mod error;
mod job;
mod key;
mod limit;
mod load;
mod overrides;
mod places;
mod raw;
mod raw_bounds;
mod raw_source;
mod raw_table;
pub mod reference;
mod served;
mod shape;
mod shared_limits;
mod simulated;
mod simulated_batches;
mod source_files;
mod source_spec;
mod step;
mod steps;
mod units;

pub use anomalies::Anomalies;
pub use batch_api::{BatchApiSettings, BatchShape, Repairs};
pub(crate) use budget::BATCH_TIER;
pub use budget::{Allowance, Budget, PriceTable, Prices};
pub use error::ConfigError;
pub(crate) use error::nearest;
pub use job::{
    BatchLimits, CacheSpec, Copying, Hedge, Job, MOST_PROVIDERS, OnMissingColumns, OnNewColumns, Provider,
    RetryPolicy, StatePlaces, TargetSpec, Tls, TokenCharge, TokenLimits, WindowLimits,
};
pub use key::ApiKey;
pub use limit::{BudgetLimit, BudgetScope, Shortage};
pub use load::Keys;
pub use served::Share;
pub use shape::{CLASS, Shape};
pub(crate) use simulated::MOST_DIMENSIONS;
pub use simulated::{
    DelayForm, FaultSpec, HeaderFamily, LimitSpec, LimitWindow, PhaseSpec, SchemaFormName, SimulatedCharge,
    SimulatorSpec, TierSpec, WrongForm,
};
pub use simulated_batches::{AnswerOrder, BatchFailure, BatchesSpec, StuckIn};
pub use source_files::{ColumnType, FilesSpec, OnBadRow, SourceFormat, TextEncoding};
pub use source_spec::{
    OnUnsupported, QUERY_RESULTS, QuerySpec, QueryTable, SourceSpec, SourceStart, TableRows,
};
pub use step::{
    Example, Form, NullInputs, OnError, OnTooLong, Params, Route, SchemaForm, StepKind, StepSpec, Typed,
    VectorEncoding, Vectors,
};
pub use units::{ByteSize, Span, duration, moment};
